"""Cache entries in one file, to carry to a machine without a network."""

from __future__ import annotations

import functools
import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from orchestrator.adapters.cache import Cache, disk_error, sha256_of
from orchestrator.foundation.errors import UsageError

MANIFEST = "kmod-lab.json"
FORMAT = 1
MAX_MANIFEST_BYTES = 16 << 20
_NAME = re.compile(r"(?!\.)[A-Za-z0-9._+~-]{1,200}")
KINDS = ("kernels", "images")


def write_bundle(cache: Cache, entries: Sequence[tuple[str, str]], target: Path) -> None:
    """Write these cache entries (kind, key) to ``target``, whole or not at all.

    Raises ``UsageError`` if one is not cached.
    """
    files: dict[str, str] = {}
    for kind, key in entries:
        folder = cache.find(kind, key)
        if folder is None:
            raise UsageError(f"{kind}/{key} is not in the cache", hint="`lab lock` fetches it")
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                files[str(path.relative_to(cache.root))] = sha256_of(path)
    aside = target.with_name(f".{target.name}.new")
    try:
        with tarfile.open(aside, "w") as tar:
            manifest = json.dumps({"format": FORMAT, "files": files}, indent=1).encode()
            info = tarfile.TarInfo(MANIFEST)
            info.size = len(manifest)
            tar.addfile(info, io.BytesIO(manifest))
            for name in files:
                tar.add(cache.root / name, name, recursive=False, filter=_plain)
        aside.rename(target)
    except OSError as error:
        raise disk_error(error, target) from error
    finally:
        aside.unlink(missing_ok=True)


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without the names and times of the machine that it was made on."""
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    info.mtime = 0
    return info


def read_bundle(cache: Cache, source: Path) -> tuple[tuple[str, str], ...]:
    """Put the entries of a bundle into the cache; those that it has are left as they are.

    Every file is checked against the bundle's own list, which finds damage, not malice: a
    bundle is as trustworthy as whoever made it. Returns what is now there. Raises
    ``UsageError`` for a file that is no bundle or is damaged; no half entry appears.
    """
    try:
        with tarfile.open(source, "r:") as tar:
            files = _read_manifest(tar, source)
            entries = _entries(files, source)
            for kind, key in entries:
                cache.ensure(kind, key, functools.partial(_extract, tar, files, f"{kind}/{key}"))
    except (tarfile.TarError, EOFError) as error:
        raise UsageError(f"{source}: not a bundle of `lab export`: {error}") from None
    except OSError as error:
        raise disk_error(error, source) from error
    return entries


def _read_manifest(tar: tarfile.TarFile, source: Path) -> dict[str, str]:
    first = tar.next()
    data = tar.extractfile(first) if first and first.name == MANIFEST else None
    if first is None or data is None or first.size > MAX_MANIFEST_BYTES:
        raise UsageError(f"{source}: not a bundle of `lab export`: it has no {MANIFEST}")
    try:
        manifest = json.loads(data.read())
        files = {str(name): str(digest) for name, digest in manifest["files"].items()}
        if manifest["format"] != FORMAT:
            raise UsageError(f"{source}: a bundle of another version of the lab")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{source}: its {MANIFEST} is damaged") from None
    return files


def _entries(files: Iterable[str], source: Path) -> tuple[tuple[str, str], ...]:
    """Kind and key of each entry; every name is one that the lab itself would give."""
    found = []
    for name in files:
        kind, *rest = name.split("/")
        if kind not in KINDS or len(rest) < 2 or not all(map(_NAME.fullmatch, rest)):
            raise UsageError(f"{source}: it holds {name!r}, which no bundle does")
        found.append((kind, rest[0]))
    return tuple(dict.fromkeys(found))


def _extract(tar: tarfile.TarFile, files: dict[str, str], entry: str, folder: Path) -> None:
    """One entry's files, each checked."""
    for name, digest in files.items():
        if not name.startswith(f"{entry}/"):
            continue
        target = folder / name.removeprefix(f"{entry}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            member = tar.getmember(name)
        except KeyError:
            raise UsageError(f"the bundle is damaged: {name} is missing") from None
        data = tar.extractfile(member) if member.isfile() else None
        if data is None:
            raise UsageError(f"the bundle is damaged: {name} is no file")
        with target.open("wb") as file:
            shutil.copyfileobj(data, file)
        os.chmod(target, 0o755 if member.mode & 0o100 else 0o644)
        if sha256_of(target) != digest:
            raise UsageError(f"the bundle is damaged: {name} is not what its list says")
