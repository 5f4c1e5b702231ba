"""What went wrong on a damaged cache is no verdict."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.adapters.cache import Cache, reading
from orchestrator.foundation.errors import BootError, HostError
from orchestrator.plan.outcome import CellResult, Outcome
from orchestrator.policy.suspicion import Suspicion, blame, blame_error, entries_like


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def made(cache: Cache, kind: str, key: str) -> Path:
    def make(folder: Path) -> None:
        (folder / "file").write_bytes(bytes(1000))

    return cache.ensure(kind, key, make)


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def test_a_whole_cache_is_not_suspected(cache: Cache) -> None:
    made(cache, "images", "a")
    assert Suspicion(cache).look([("images", "a"), ("kernels", "is not there")]) == ""


@pytest.mark.parametrize("bit", [0, 4321, 7999])
def test_a_bit_that_flipped_is_found(cache: Cache, bit: int) -> None:
    flip(made(cache, "images", "a") / "file", bit)
    told = Suspicion(cache).look([("kernels", "k"), ("images", "a")])
    assert told == ("images/a in the cache is damaged (it has other bytes than when it was made)")


def test_each_entry_is_looked_at_once(cache: Cache) -> None:
    path = made(cache, "images", "a") / "file"
    suspicion = Suspicion(cache)
    assert suspicion.look([("images", "a")]) == ""
    flip(path, 1)
    assert suspicion.look([("images", "a")]) == ""


def test_an_entry_that_is_being_made_is_not_blamed(cache: Cache) -> None:
    flip(made(cache, "images", "a") / "file", 1)
    with Cache(cache.root).lock("images-a"):
        assert Suspicion(cache).look([("images", "a")]) == ""


def test_a_failure_on_it_is_an_error() -> None:
    failed = CellResult("6.1", "s/a", Outcome.FAILED, "step 1, run x: segmentation fault")
    blamed = blame(failed, "images/a in the cache is damaged (why)")
    assert blamed.outcome is Outcome.ERROR
    assert blamed.reason == (
        "images/a in the cache is damaged (why); it came to this: step 1, run x: segmentation fault"
    )


def test_an_error_on_it_says_how_to_mend_it() -> None:
    error = BootError("no root")
    error.evidence, error.last_lines = Path("console.log"), ("the end",)
    told = blame_error(error, "it is damaged")
    assert told.message == "it is damaged; it came to this: no root"
    assert "lab cache verify --repair" in told.hint
    assert (told.evidence, told.last_lines) == (Path("console.log"), ("the end",))


def test_entries_by_the_beginning_of_their_keys(cache: Cache) -> None:
    for key in ("a-2", "a-1", "b"):
        made(cache, "roots", key)
    assert entries_like(cache, "roots", "a") == (("roots", "a-1"), ("roots", "a-2"))


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "No such file or directory"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "why"),
        KeyError("packages"),
        TypeError("list indices"),
        AttributeError("no get"),
    ],
)
def test_an_entry_that_cannot_be_read_is_damaged(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(HostError, match="is damaged: ") as raised, reading(tmp_path):
        raise error
    assert "lab cache verify --repair" in raised.value.hint
