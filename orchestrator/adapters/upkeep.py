"""Looking after the cache: what is in it, whether it is whole, and what of it may go.

An entry that any process uses, or makes, is left alone; ``cache`` says how that is known. What a
killed process left half made is told by its name, and by that nobody has the entry's lock.
"""

from __future__ import annotations

import contextlib
import enum
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.adapters import freezer
from orchestrator.adapters.cache import (
    GONE,
    HASHES,
    LOCKS,
    NEW,
    OLD,
    Cache,
    disk_error,
    remove_tree,
    sha256_of,
)
from orchestrator.adapters.treehash import disk_usage, hash_tree
from orchestrator.plan.pruning import DAY, CacheEntry, Pruning

_NO_KINDS = (LOCKS, HASHES)


class State(enum.Enum):
    """What is known of an entry's contents."""

    WHOLE = "whole"
    PARTLY = "whole as far as it is hashed"
    """An older lab made it; the hashes that it has beside other things are right."""
    NOT_HASHED = "not hashed"
    DAMAGED = "damaged"
    BUSY = "being made"
    GONE = "removed meanwhile"


@dataclass(frozen=True)
class Check:
    """What ``check`` found."""

    state: State
    note: str = ""
    """What is wrong with it, where it is damaged."""


def list_entries(cache: Cache) -> Iterator[CacheEntry]:
    """Every entry, kind after kind. Walks through those that nobody has measured."""
    for kind in kinds(cache):
        for path in _children(cache.root / kind):
            if path.name.startswith(".") or not path.is_dir():
                continue
            recorded = cache.recorded_hash(kind, path.name)
            size = recorded.disk if recorded else disk_usage(path)
            with contextlib.suppress(FileNotFoundError):
                yield CacheEntry(kind, path.name, size, path.stat().st_mtime, recorded is not None)


def list_files(cache: Cache) -> Iterator[tuple[str, int, float]]:
    """The plain files beside entries (what kernels were resolved to, logs): for each its kind,
    its size on the disk in bytes, and when it was written.
    """
    for kind in kinds(cache):
        for path in _children(cache.root / kind):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file():
                    yield kind, disk_usage(path), path.stat().st_mtime


def kinds(cache: Cache) -> tuple[str, ...]:
    """The kinds of which there is anything."""
    folders = (path for path in _children(cache.root) if path.is_dir())
    return tuple(path.name for path in folders if path.name not in _NO_KINDS)


def check(cache: Cache, entry: CacheEntry) -> Check:
    """Compare an entry with what was written down of it. Reads all of it. Raises ``HostError``."""
    folder = cache.root / entry.kind / entry.key
    with cache.try_lock(f"{entry.kind}-{entry.key}") as is_ours:
        if not is_ours:
            return Check(State.BUSY)
        if not folder.is_dir():
            return Check(State.GONE)
        try:
            return _check(cache, entry, folder)
        except FileNotFoundError as error:
            if not folder.is_dir():
                return Check(State.GONE)
            return Check(State.DAMAGED, f"there is no {error.filename}")
        except OSError as error:  # a disk that cannot be read
            return Check(State.DAMAGED, f"{error.filename or folder}: {error.strerror}")


def find_damaged(cache: Cache, kind: str, key: str) -> str:
    """What is wrong with an entry; nothing where it is whole, or has no hashes, or is being made.

    Reads all of it. Raises ``HostError``.
    """
    found = check(cache, CacheEntry(kind, key, 0, 0.0, True))
    return found.note if found.state is State.DAMAGED else ""


def _check(cache: Cache, entry: CacheEntry, folder: Path) -> Check:
    recorded = cache.recorded_hash(entry.kind, entry.key)
    if recorded is None:
        own = _OWN_HASHES.get(entry.kind)
        return own(folder) if own else Check(State.NOT_HASHED)
    found = hash_tree(folder)
    if found.sha256 == recorded.sha256:
        return Check(State.WHOLE)
    if (found.files, found.size) == (recorded.files, recorded.size):
        return Check(State.DAMAGED, "it has other bytes than when it was made")
    return Check(
        State.DAMAGED,
        f"{found.files} files with {found.size} bytes are in it; "
        f"when it was made, {recorded.files} with {recorded.size}",
    )


def _check_frozen(folder: Path) -> Check:
    if freezer.is_whole(folder):
        return Check(State.WHOLE)
    return Check(State.DAMAGED, "memory or state are not what was frozen")


def _check_image(folder: Path) -> Check:
    return _compare(folder, "image.json", {"image.squashfs": "sha256"})


def _check_kernel(folder: Path) -> Check:
    hashes = {"vmlinuz": "vmlinuz_sha256", "config": "config_sha256"}
    (folder / "layer.squashfs").lstat()  # it has no hash there, and may be missing
    return _compare(folder, "kernel.json", hashes)


def _check_built(folder: Path) -> Check:
    return _compare(folder, "built.json", None)


def _compare(folder: Path, about: str, keys: dict[str, str] | None) -> Check:
    """Compare files with the hashes that the entry's own list has, under these keys, or in
    ``files``.
    """
    try:
        told = json.loads((folder / about).read_text())
        files = {name: told[key] for name, key in keys.items()} if keys else told["files"]
        wrong = [name for name, digest in files.items() if sha256_of(folder / name) != digest]
    except (ValueError, KeyError, TypeError, AttributeError):
        return Check(State.DAMAGED, f"its {about} is damaged")
    if wrong:
        return Check(State.DAMAGED, f"not what it was: {', '.join(sorted(wrong))}")
    return Check(State.PARTLY)


_OWN_HASHES: dict[str, Callable[[Path], Check]] = {
    "frozen": _check_frozen,
    "images": _check_image,
    "kernels": _check_kernel,
    "modules": _check_built,
}


def prune(
    cache: Cache, pruning: Pruning, *, dry_run: bool = False
) -> Iterator[tuple[CacheEntry, bool]]:
    """Remove what has to go, oldest first; each entry when it is done, and whether it is gone.

    False says that it is in use. With ``dry_run`` nothing is removed, and nobody is asked who
    uses it. Raises ``HostError``.
    """
    for entry in pruning.oldest_first:
        if pruning.wants(entry):
            is_gone = dry_run or cache.remove(entry.kind, entry.key)
            if is_gone:
                pruning.gone(entry)
            yield entry, is_gone


def clean(cache: Cache, *, dry_run: bool = False) -> Iterator[Path]:
    """Remove what killed processes left, and locks and hashes of what is no more; each of the
    folders that are gone. An entry that had made place for another, which never came, comes back.

    Raises ``HostError``.
    """
    for kind in kinds(cache):
        for path in _children(cache.root / kind):
            key = _entry_of(path)
            if key is not None and _clear(cache, kind, key, path, dry_run=dry_run):
                yield path
            elif not dry_run and _is_old_aside(path):
                path.unlink(missing_ok=True)
    if not dry_run:
        _forget_hashes(cache)
        _forget_locks(cache)


def _entry_of(path: Path) -> str | None:
    """The key of the entry that a half made or half removed one is of."""
    ending = path.suffix
    if not path.name.startswith(".") or ending not in (NEW, OLD, GONE) or not path.is_dir():
        return None
    return path.name.removeprefix(".").removesuffix(ending)


def _is_old_aside(path: Path) -> bool:
    """Whether it is a file that was never finished: writing one takes no day."""
    with contextlib.suppress(FileNotFoundError):
        is_aside = path.name.startswith(".") and path.is_file()
        return is_aside and time.time() - path.stat().st_mtime > DAY
    return False


def _clear(cache: Cache, kind: str, key: str, path: Path, *, dry_run: bool) -> bool:
    with cache.try_lock(f"{kind}-{key}") as is_ours:
        if not is_ours or not path.is_dir():
            return False
        if dry_run:
            return True
        try:
            final = path.with_name(key)
            if path.suffix == OLD and not final.exists():
                path.rename(final)
                return False
            remove_tree(path)
        except OSError as error:
            raise disk_error(error, path) from error
        return True


def _forget_hashes(cache: Cache) -> None:
    for folder in _children(cache.root / HASHES):
        for path in _children(folder):
            kind, key = folder.name, path.stem
            with cache.try_lock(f"{kind}-{key}") as is_ours:
                if is_ours and cache.find(kind, key) is None:
                    path.unlink(missing_ok=True)


def _forget_locks(cache: Cache) -> None:
    entries = {
        f"{kind}-{path.name}" for kind in kinds(cache) for path in _children(cache.root / kind)
    }
    for path in _children(cache.root / LOCKS):
        if path.name not in entries:
            with cache.try_lock(path.name, forget=True):
                pass


def _children(folder: Path) -> tuple[Path, ...]:
    """What is in a folder, by name; nothing where it is none."""
    try:
        return tuple(sorted(folder.iterdir()))
    except (FileNotFoundError, NotADirectoryError):
        return ()
