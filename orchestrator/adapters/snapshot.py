"""Debian's snapshot service: every file that its archive ever had, by hash."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from orchestrator.adapters.download import MissingError, Patience, download
from orchestrator.adapters.fetching import Tell, tell_nobody
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import SourceError
from orchestrator.plan.kernel import Part

SERVICE = "http://snapshot.debian.org"
ANSWER_SECONDS = 120.0
FILE_SECONDS = 1800.0
MAX_ANSWER_BYTES = 1 << 20
# The last of several ways to a package: it may be told soon that this one is closed too.
PATIENCE = Patience(tries=3, stall=20.0)


def service_url() -> str:
    """Where the service is: ``$LAB_SNAPSHOT``, for a mirror of it, or Debian's own."""
    return (os.environ.get("LAB_SNAPSHOT") or SERVICE).rstrip("/")


def fetch_package(service: str, part: Part, target: Path, tell: Tell = tell_nobody) -> None:
    """Fetch a package that the archive has dropped, exactly the one that ``part`` says.

    Whatever the service answers, only a file with the right SHA-256 is kept. Blocks for the
    download. Raises ``SourceError``.
    """
    name, version = (quote(text, safe="") for text in (part.name, part.version))
    url = f"{service}/mr/binary/{name}/{version}/binfiles?fileinfo=1"
    with tempfile.TemporaryDirectory(prefix=".snapshot-", dir=target.parent) as folder:
        path = Path(folder) / "answer"
        deadline = Deadline.after(ANSWER_SECONDS, f"asking the snapshot service for {part.label}")
        try:
            download(url, path, deadline=deadline, max_bytes=MAX_ANSWER_BYTES, patience=PATIENCE)
        except MissingError as error:
            raise SourceError(f"the snapshot service has no {part.label}") from error
        hashes = parse_binfiles(path.read_bytes(), part.size)
    problem = SourceError(f"the snapshot service has no {part.label} of this size")
    for sha1 in hashes:
        deadline = Deadline.after(FILE_SECONDS, f"fetching {part.label} from the snapshot service")
        try:
            download(
                f"{service}/file/{sha1}",
                target,
                deadline=deadline,
                max_bytes=part.size,
                sha256=part.sha256,
                patience=PATIENCE,
                tell=tell,
            )
        except SourceError as error:
            problem = error
        else:
            return
    raise problem


def parse_binfiles(answer: bytes, size: int) -> tuple[str, ...]:
    """The SHA-1 of each file of that size for amd64 that the service's answer lists."""
    try:
        document = json.loads(answer)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise SourceError("what the snapshot service answers cannot be read")
    info = document.get("fileinfo")
    sizes = info if isinstance(info, dict) else {}
    return tuple(
        dict.fromkeys(
            sha1
            for architecture in ("amd64", "all")
            for sha1 in _hashes(document.get("result"), architecture)
            if size in _sizes(sizes.get(sha1), size)
        )
    )


def _hashes(result: Any, architecture: str) -> Iterator[str]:
    for entry in result if isinstance(result, list) else ():
        if isinstance(entry, dict) and entry.get("architecture") == architecture:
            sha1 = entry.get("hash")
            if isinstance(sha1, str) and re.fullmatch(r"[0-9a-f]{40}", sha1):
                yield sha1


def _sizes(info: Any, default: int) -> list[Any]:
    """The sizes that are said of a file; ``default`` where none is."""
    if not isinstance(info, list):
        return [default]
    return [entry.get("size", default) for entry in info if isinstance(entry, dict)] or [default]
