"""Cache entries in one file, to carry to a machine without a network."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from orchestrator.adapters.cache import Cache, disk_error, sha256_of
from orchestrator.foundation.errors import UsageError

MANIFEST = "kmod-lab.json"
FORMAT = 1
MAX_MANIFEST_BYTES = 16 << 20
_NAME = re.compile(r"(?!\.)[A-Za-z0-9._+~-]{1,200}")
KINDS = ("kernels", "images")


def write_bundle(entries: Mapping[tuple[str, str], Path], target: Path) -> None:
    """Write these folders, each to be a cache entry (kind, key), whole or not at all."""
    aside = target.with_name(f".{target.name}.new")
    try:
        paths = {
            f"{kind}/{key}/{path.relative_to(folder)}": path
            for (kind, key), folder in entries.items()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.is_symlink()
        }
        files = {name: sha256_of(path) for name, path in paths.items()}
        with tarfile.open(aside, "w") as tar:
            manifest = json.dumps({"format": FORMAT, "files": files}, indent=1).encode()
            info = tarfile.TarInfo(MANIFEST)
            info.size = len(manifest)
            tar.addfile(info, io.BytesIO(manifest))
            for name, path in paths.items():
                tar.add(path, name, recursive=False, filter=_plain)
        aside.rename(target)
    except OSError as error:
        raise disk_error(error, target) from error
    finally:
        with contextlib.suppress(OSError):
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
            _check_names(tar, files, source)
            for kind, key in entries:
                cache.ensure(kind, key, functools.partial(_extract, tar, files, f"{kind}/{key}"))
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise UsageError(f"{source}: not a bundle of `lab export`, or damaged: {error}") from None
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UsageError(f"{source}: {error.strerror}") from None
    except OSError as error:
        raise disk_error(error, source) from error
    return entries


def _read_manifest(tar: tarfile.TarFile, source: Path) -> dict[str, str]:
    first = tar.next()
    is_manifest = first is not None and first.isfile() and first.name == MANIFEST
    data = tar.extractfile(first) if first and is_manifest else None
    if first is None or data is None or first.size > MAX_MANIFEST_BYTES:
        raise UsageError(f"{source}: not a bundle of `lab export`: it has no {MANIFEST}")
    try:
        manifest = json.loads(data.read())
        if manifest["format"] != FORMAT:
            raise UsageError(f"{source}: a bundle of another version of the lab")
        files = {str(name): str(digest) for name, digest in manifest["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
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


def _check_names(tar: tarfile.TarFile, files: Iterable[str], source: Path) -> None:
    """Raise ``UsageError`` where list and contents differ: a name damaged in the list would
    leave its file out of an entry that else looks whole.
    """
    listed, held = {MANIFEST, *files}, set(tar.getnames())
    for name in sorted(listed ^ held):
        what = "is missing" if name in listed else "is not in its list"
        raise UsageError(f"{source}: the bundle is damaged: {name!r} {what}")


def _extract(tar: tarfile.TarFile, files: dict[str, str], entry: str, folder: Path) -> None:
    """One entry's files, each checked."""
    for name, digest in files.items():
        if not name.startswith(f"{entry}/"):
            continue
        target = folder / name.removeprefix(f"{entry}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        member = tar.getmember(name)
        data = tar.extractfile(member) if member.isfile() else None
        if data is None:
            raise UsageError(f"the bundle is damaged: {name} is no file")
        with target.open("wb") as file:
            shutil.copyfileobj(data, file)
        os.chmod(target, 0o755 if member.mode & 0o100 else 0o644)
        if sha256_of(target) != digest:
            raise UsageError(f"the bundle is damaged: {name} is not what its list says")
