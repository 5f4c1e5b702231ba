"""Frozen guests in the cache: what comes out is what went in, or nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.adapters.cache import Cache
from orchestrator.adapters.freezer import BLOCK, KIND, Freezer, is_whole, room_for_frozen
from orchestrator.adapters.machine import open_memory, seal_memory
from orchestrator.foundation.errors import HostError

SIZE = 64 << 20
ABOUT = {"word": "abc", "names": ["/proc/x"]}
STATE = b"the devices"
GIB = 1 << 30


@pytest.fixture
def memory() -> Iterator[int]:
    """A guest's memory: a little at the beginning, in the middle, and at the very end."""
    with open_memory() as fd:
        os.ftruncate(fd, SIZE)
        os.pwrite(fd, b"first", 0)
        os.pwrite(fd, b"across two blocks", 7 * BLOCK - 5)
        os.pwrite(fd, bytes(3 * BLOCK), 20 * BLOCK)  # written, and zero
        os.pwrite(fd, b"last", SIZE - 4)
        seal_memory(fd)
        yield fd


@pytest.fixture
def console(tmp_path: Path) -> Path:
    path = tmp_path / "console.log"
    path.write_bytes(b"[    0.000000] Linux version 6.1\n")
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def keep(freezer: Freezer, key: str, memory: int, console: Path) -> None:
    freezer.keep(key, ABOUT, memory, STATE, console)


def bytes_of(fd: int) -> bytes:
    return os.pread(fd, SIZE + 1, 0)


def test_what_was_kept_comes_back(cache: Cache, memory: int, console: Path) -> None:
    keep(Freezer(cache, GIB), "a", memory, console)
    with open_memory() as fd:
        assert Freezer(cache, GIB).take("a", fd) == (ABOUT, STATE)
        assert bytes_of(fd) == bytes_of(memory)
    kept = Freezer(cache, GIB).console_of("a")
    assert kept is not None
    assert kept.read_bytes() == console.read_bytes()


def test_what_is_zero_takes_no_room_and_nobody_else_can_read(
    cache: Cache, memory: int, console: Path
) -> None:
    keep(Freezer(cache, GIB), "a", memory, console)
    folder = cache.root / KIND / "a"
    assert (folder / "memory").stat().st_size == SIZE
    assert (folder / "memory").stat().st_blocks * 512 <= 8 * BLOCK
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_guest_that_was_not_kept_is_none(cache: Cache) -> None:
    with open_memory() as fd:
        assert Freezer(cache, GIB).take("a", fd) is None
    assert Freezer(cache, GIB).console_of("a") is None
    Freezer(cache, GIB).drop("a")


def flip(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize("place", [0, 7 * BLOCK, 30 * BLOCK, SIZE - 1])
def test_one_wrong_bit_of_memory_is_noticed(
    cache: Cache, memory: int, console: Path, place: int
) -> None:
    keep(Freezer(cache, GIB), "a", memory, console)
    flip(cache.root / KIND / "a" / "memory", place)
    with open_memory() as fd:
        assert Freezer(cache, GIB).take("a", fd) is None
    assert cache.find(KIND, "a") is None


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("state", b"the device"),
        ("guest.json", b"{"),
        ("guest.json", b"[]"),
        ("guest.json", json.dumps({"guest": {}, "sha256": ["", ""]}).encode()),
        ("memory", b""),
    ],
)
def test_a_damaged_entry_is_none_and_goes(
    cache: Cache, memory: int, console: Path, name: str, data: bytes
) -> None:
    keep(Freezer(cache, GIB), "a", memory, console)
    (cache.root / KIND / "a" / name).write_bytes(data)
    with open_memory() as fd:
        assert Freezer(cache, GIB).take("a", fd) is None
    assert cache.find(KIND, "a") is None


def test_one_wrong_letter_of_what_is_known_of_a_guest_is_noticed(
    cache: Cache, memory: int, console: Path
) -> None:
    keep(Freezer(cache, GIB), "a", memory, console)
    path = cache.root / KIND / "a" / "guest.json"
    about = json.loads(path.read_text())
    about["guest"] = {**about["guest"], "names": ["/proc/another"]}
    path.write_text(json.dumps(about))
    assert not is_whole(path.parent)
    with open_memory() as fd:
        assert Freezer(cache, GIB).take("a", fd) is None


def test_the_one_that_was_used_longest_ago_makes_room(
    cache: Cache, memory: int, console: Path
) -> None:
    freezer = Freezer(cache, GIB)
    for number, key in enumerate("abc"):
        keep(freezer, key, memory, console)
        os.utime(cache.root / KIND / key, (number, number))
    with open_memory() as fd:
        assert freezer.take("a", fd) is not None
    taken = sum(path.stat().st_blocks for path in (cache.root / KIND / "a").iterdir()) * 512
    keep(Freezer(cache, 3 * taken), "d", memory, console)
    assert {path.name for path in (cache.root / KIND).iterdir()} == {"a", "c", "d"}


def test_with_no_room_nothing_is_kept_or_taken(cache: Cache, memory: int, console: Path) -> None:
    keep(Freezer(cache, 0), "a", memory, console)
    assert cache.find(KIND, "a") is None
    keep(Freezer(cache, GIB), "a", memory, console)
    with open_memory() as fd:
        assert Freezer(cache, 0).take("a", fd) is None
    assert cache.find(KIND, "a") is not None


@pytest.mark.parametrize(
    ("text", "room"), [("", 4 * GIB), ("0", 0), ("0.5", GIB // 2), ("-3", 0), ("1e1", 10 * GIB)]
)
def test_how_much_room_there_is(monkeypatch: pytest.MonkeyPatch, text: str, room: int) -> None:
    monkeypatch.setenv("LAB_FROZEN_GIB", text)
    assert room_for_frozen() == room


@pytest.mark.parametrize("text", ["much", "inf", "nan", "4 GiB"])
def test_a_room_that_is_no_number_is_told(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("LAB_FROZEN_GIB", text)
    with pytest.raises(HostError, match=r"LAB_FROZEN_GIB=.* is no number"):
        room_for_frozen()


def test_guests_are_alike_that_differ_in_their_modules(
    cache: Cache, memory: int, console: Path
) -> None:
    freezer = Freezer(cache, GIB)
    assert not freezer.has_alike("6.1-a")
    keep(freezer, "6.1-a-modules", memory, console)
    assert freezer.has_alike("6.1-a")
    assert not freezer.has_alike("6.1-b")
    assert (freezer.has("6.1-a"), freezer.has("6.1-a-modules")) == (False, True)
