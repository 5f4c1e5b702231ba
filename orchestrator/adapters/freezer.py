"""Frozen guests, kept between runs: their memory, their devices' state, and what goes with them.

An entry of the cache, ``frozen/KEY``. Memory is kept as a file with holes where it is zero. What
comes out of here is what went in, by its hash, or nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from orchestrator.adapters.cache import Cache, remove_tree, write_json
from orchestrator.foundation.errors import HostError

KIND = "frozen"
BLOCK = 64 << 10
DEFAULT_GIB = 4.0
LIMIT_VARIABLE = "LAB_FROZEN_GIB"
_ZERO = bytes(BLOCK)


def room_for_frozen() -> int:
    """How many bytes frozen guests may take, all in all; 0 for none to be kept.

    Raises ``HostError`` for a value of ``LAB_FROZEN_GIB`` that is no number.
    """
    text = os.environ.get(LIMIT_VARIABLE, "")
    try:
        wanted = float(text) if text else DEFAULT_GIB
        return max(0, int(wanted * (1 << 30)))
    except (ValueError, OverflowError):
        raise HostError(
            f"{LIMIT_VARIABLE}={text!r} is no number",
            hint="GiB of the cache for guests that stand still between runs; 0 keeps none",
        ) from None


class Freezer:
    """The part of the cache for frozen guests, with a limit: what was used longest ago goes."""

    def __init__(self, cache: Cache, room: int) -> None:
        self._cache = cache
        self._room = room

    def take(self, key: str, memory: int) -> tuple[dict[str, Any], bytes] | None:
        """What is known of a guest, and its devices' state; its memory is put into ``memory``.

        The file ``memory`` is empty before, and has to be given up where this is None. An entry
        that is not what was kept is removed.
        """
        folder = self._cache.find(KIND, key)
        if folder is None or not self._room:
            return None
        with contextlib.suppress(OSError):  # a cache that can only be read
            os.utime(folder)
        try:
            about = json.loads((folder / "guest.json").read_text())
            state = (folder / "state").read_bytes()
            with (folder / "memory").open("rb") as file:
                os.ftruncate(memory, os.fstat(file.fileno()).st_size)
                found = _copy(file.fileno(), memory)
            if _hashes(found, state, about["guest"]) == about["sha256"]:
                return about["guest"], state
        except (OSError, ValueError, KeyError, TypeError):
            pass  # another run made room, or it is damaged
        self.drop(key)
        return None

    def keep(
        self, key: str, guest: dict[str, Any], memory: int, state: bytes, console: Path
    ) -> None:
        """Keep a guest; quietly not where there is no room. ``console`` is a log to go with it."""
        if not self._room:
            return

        def make(folder: Path) -> None:
            folder.chmod(0o700)  # keys are in it
            with (folder / "memory").open("wb") as file:
                os.ftruncate(file.fileno(), os.fstat(memory).st_size)
                found = _copy(memory, file.fileno())
            (folder / "state").write_bytes(state)
            (folder / "console.log").write_bytes(console.read_bytes())
            hashes = _hashes(found, state, guest)
            write_json(folder / "guest.json", {"guest": guest, "sha256": hashes})

        with contextlib.suppress(HostError):  # a full disk: the run goes on without
            self._cache.replace(KIND, key, make)
            self._make_room()

    def has(self, key: str) -> bool:
        """Whether there is such a guest."""
        return bool(self._room) and self._cache.find(KIND, key) is not None

    def has_alike(self, bare: str) -> bool:
        """Whether there is a guest that differs from one in its modules alone."""
        return bool(self._room) and any(folder.name.startswith(bare) for folder in self._folders())

    def console_of(self, key: str) -> Path | None:
        """The log that went with a guest."""
        folder = self._cache.find(KIND, key)
        return folder / "console.log" if folder else None

    def drop(self, key: str) -> None:
        """Remove a guest, if it is there."""
        with contextlib.suppress(OSError):
            remove_tree(self._cache.root / KIND / key)

    def _make_room(self) -> None:
        with self._cache.lock(KIND):
            taken = 0
            for folder in sorted(self._folders(), key=_used, reverse=True):
                taken += _size(folder)
                if taken > self._room:
                    self.drop(folder.name)

    def _folders(self) -> Iterator[Path]:
        with contextlib.suppress(OSError):
            for folder in (self._cache.root / KIND).iterdir():
                if not folder.name.startswith("."):
                    yield folder


def is_whole(folder: Path) -> bool:
    """Whether a frozen guest is what was kept, by its own hashes. Raises ``OSError``."""
    try:
        about = json.loads((folder / "guest.json").read_text())
        guest, kept = about["guest"], about["sha256"]
    except (ValueError, KeyError, TypeError):
        return False
    with (folder / "memory").open("rb") as file:
        found = _hash_blocks(_blocks(file.fileno()))
    hashes = _hashes(found, (folder / "state").read_bytes(), guest)
    # What a lab kept that did not hash what is known of the guest.
    return kept in (hashes, hashes[:2])


def _hashes(memory: str, state: bytes, guest: object) -> list[str]:
    """Of memory, devices' state, and what is known of the guest: a name that is gone from its
    list would be told as left behind by a scenario.
    """
    known = json.dumps(guest, sort_keys=True).encode()
    return [memory, hashlib.sha256(state).hexdigest(), hashlib.sha256(known).hexdigest()]


def _used(folder: Path) -> int:
    with contextlib.suppress(OSError):
        return folder.stat().st_mtime_ns
    return 0


def _size(folder: Path) -> int:
    """What it takes on the disk."""
    with contextlib.suppress(OSError):
        return sum(path.stat().st_blocks for path in folder.iterdir()) * 512
    return 0


def _copy(source: int, target: int) -> str:
    """Copy what is not zero to the same places; its hash."""

    def copied() -> Iterator[tuple[int, bytes]]:
        for place, block in _blocks(source):
            os.pwrite(target, block, place)
            yield place, block

    return _hash_blocks(copied())


def _hash_blocks(blocks: Iterable[tuple[int, bytes]]) -> str:
    """A hash of what is where, which does not depend on holes."""
    digest = hashlib.sha256()
    for place, block in blocks:
        digest.update(place.to_bytes(8, "big") + block)
    return digest.hexdigest()


def _blocks(fd: int) -> Iterator[tuple[int, bytes]]:
    """The blocks of a file that are not zero, in order, with their places."""
    place = 0
    while True:
        try:
            place = os.lseek(fd, place, os.SEEK_DATA) // BLOCK * BLOCK
        except OSError:
            return  # a hole up to the end, or the end
        block = os.pread(fd, BLOCK, place)
        if block != _ZERO[: len(block)]:
            yield place, block
        place += BLOCK
