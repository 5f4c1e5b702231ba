"""What is in a folder, as one hash: to see later whether it still holds what it was made of."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.foundation import process

_LOOK = stat.S_IRUSR | stat.S_IXUSR


@dataclass(frozen=True)
class TreeHash:
    """A folder's contents: one SHA-256 over all of it, in hexadecimal digits, and its size."""

    sha256: str
    files: int
    """How many files, links and folders are in it."""
    size: int
    """The files' lengths, in bytes."""
    disk: int
    """What it takes on the disk, in bytes."""


def hash_tree(root: Path) -> TreeHash:
    """The hash of names, kinds, links' targets and files' bytes, in an order of its own.

    Owners, permissions and times are not in it: copying a cache may change them. A file that its
    owner may not read counts by its length alone, such a folder by its name. Raises ``OSError``,
    and ``RunInterruptedError`` where the run is ended meanwhile.
    """
    digest = hashlib.sha256()
    files = size = disk = 0
    for name, path, info in _walk(root, ""):
        process.check_stopping()
        files += 1
        disk += info.st_blocks * 512
        what = _describe(path, info)
        if stat.S_ISREG(info.st_mode):
            size += info.st_size
        for part in (os.fsencode(name), what):
            digest.update(len(part).to_bytes(8, "big") + part)
    return TreeHash(digest.hexdigest(), files, size, disk)


def disk_usage(root: Path) -> int:
    """What a file, or a folder with all in it, takes on the disk, in bytes; a file with two names
    counts once. What vanishes meanwhile counts nothing.
    """
    try:
        info = root.lstat()
    except OSError:
        return 0
    if not stat.S_ISDIR(info.st_mode):
        return info.st_blocks * 512
    sizes = {info.st_ino: info.st_blocks}
    try:
        for _, _, each in _walk(root, ""):
            sizes[each.st_ino] = each.st_blocks
    except OSError:
        pass  # it is being removed: what was seen until then
    return sum(sizes.values()) * 512


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, str, os.stat_result]]:
    """All that is in a folder, with its name from there; links are not followed."""
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: os.fsencode(entry.name))
    for entry in found:
        name = prefix + entry.name
        info = entry.stat(follow_symlinks=False)
        yield name, entry.path, info
        # Root could look into any folder, its owner not: the same for both.
        if stat.S_ISDIR(info.st_mode) and info.st_mode & _LOOK == _LOOK:
            yield from _walk(Path(entry.path), f"{name}/")


def _describe(path: str, info: os.stat_result) -> bytes:
    kind = stat.S_IFMT(info.st_mode).to_bytes(4, "big")
    if stat.S_ISLNK(info.st_mode):
        return kind + os.fsencode(os.readlink(path))
    if not stat.S_ISREG(info.st_mode):
        return kind
    size = info.st_size.to_bytes(8, "big")
    if not info.st_mode & stat.S_IRUSR:  # root could read it, its owner not: the same for both
        return kind + size
    with open(path, "rb", buffering=0) as file:
        return kind + size + hashlib.file_digest(file, "sha256").digest()
