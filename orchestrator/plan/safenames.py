"""Names for files on the host, made of paths that a guest chose.

Nothing but letters, digits and a few signs that no shell, terminal or file system takes amiss; no
name that is hidden, an option, or a device of Windows; no two that differ in case alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

MAX_PART = 80
MAX_NAME = 200
MAX_PARTS = 16

_ODD = re.compile(r"[^A-Za-z0-9._+=@,-]+")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE | re.ASCII)


def safe_names(paths: Iterable[str]) -> dict[str, str]:
    """A relative path for each of different paths, with slashes between its parts.

    No two are the same, and none is a folder that another is in, on file systems that mind case
    and on those that do not.
    """
    names: dict[str, str] = {}
    files: set[str] = set()
    folders: set[str] = set()
    for path in paths:
        name = _safe_path(path)
        tries = 0
        while _is_taken(name.casefold(), files, folders):
            name = _marked(name, f"{path}\0{tries}")
            tries += 1
        names[path] = name
        files.add(name.casefold())
        folders |= set(_folders_of(name.casefold()))
    return names


def _is_taken(name: str, files: set[str], folders: set[str]) -> bool:
    return name in files or name in folders or any(above in files for above in _folders_of(name))


def _folders_of(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _safe_path(path: str) -> str:
    parts = [_safe_part(part) for part in path.split("/") if part]
    name = "/".join(parts) or "_"
    too_long = len(name) > MAX_NAME or len(parts) > MAX_PARTS
    return _marked(name, path) if too_long else name


def _safe_part(part: str) -> str:
    """One part of a path; a part that is too long is cut, with a hash for what is cut off."""
    safe = _ODD.sub("_", part)
    if safe[0] in ".-":
        safe = f"_{safe[1:]}"
    if safe[-1] == ".":
        safe = f"{safe[:-1]}_"
    if _RESERVED.match(safe):
        safe = f"_{safe}"
    return safe if len(safe) <= MAX_PART else f"{safe[: MAX_PART - 9]}-{_digest(part)}"


def _marked(name: str, of: str) -> str:
    """Without folders, and with a hash that tells it from others."""
    return f"{name.rpartition('/')[2][: MAX_PART - 9]}-{_digest(of)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
