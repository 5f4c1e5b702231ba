"""Several files fetched at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.adapters import fetching
from orchestrator.adapters.fetching import MAX_LINES, Tally, fetch_all, size_below
from orchestrator.foundation.errors import RunInterruptedError, SourceError

pytestmark = pytest.mark.timeout(30)

SECONDS = 20.0


def test_they_come_in_the_order_in_which_they_were_wanted() -> None:
    """Though the first is there last."""
    last_is_there = threading.Event()

    def fetch(name: str, _: Callable[[], None]) -> Path:
        if name == "a":
            assert last_is_there.wait(SECONDS)
        if name == "c":
            last_is_there.set()
        return Path(name)

    assert fetch_all(("a", "b", "c"), fetch) == (Path("a"), Path("b"), Path("c"))
    assert fetch_all((), fetch) == ()


def test_there_are_no_more_lines_than_that_for_all_together() -> None:
    lock = threading.Lock()
    full = threading.Event()
    at_work = most = 0

    def fetch(name: int, _: Callable[[], None]) -> Path:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
            if at_work == MAX_LINES:
                full.set()
        assert full.wait(SECONDS)  # else they would go one by one, and never be too many
        with lock:
            at_work -= 1
        return Path(str(name))

    kernels = [
        threading.Thread(target=fetch_all, args=(range(MAX_LINES + 1), fetch)) for _ in range(3)
    ]
    for kernel in kernels:
        kernel.start()
    for kernel in kernels:
        kernel.join(SECONDS)
    assert most == MAX_LINES


@pytest.mark.parametrize("others", [SourceError("b"), RuntimeError("b")])
def test_the_first_that_cannot_be_had_is_told(others: Exception) -> None:
    both_failed = threading.Barrier(2, timeout=SECONDS)

    def fetch(name: str, _: Callable[[], None]) -> Path:
        both_failed.wait()
        raise SourceError("a") if name == "a" else others

    with pytest.raises(SourceError, match="a"):
        fetch_all(("a", "b"), fetch)


def test_the_end_of_the_run_is_told_before_anything_else() -> None:
    both_failed = threading.Barrier(2, timeout=SECONDS)

    def fetch(name: str, _: Callable[[], None]) -> Path:
        both_failed.wait()
        raise SourceError("a") if name == "a" else RunInterruptedError

    with pytest.raises(RunInterruptedError):
        fetch_all(("a", "b"), fetch)


def test_one_that_cannot_be_had_ends_the_others_and_those_that_wait() -> None:
    begun = []
    one_is_at_work = threading.Event()

    def fetch(name: int, check: Callable[[], None]) -> Path:
        begun.append(name)
        if name == 0:
            assert one_is_at_work.wait(SECONDS)
            raise SourceError("0")
        one_is_at_work.set()
        while True:
            check()

    with pytest.raises(SourceError, match="0"):
        fetch_all(range(3 * MAX_LINES), fetch)
    assert len(begun) <= MAX_LINES + 1


def test_a_tally_tells_what_lies_in_the_folder_and_not_too_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int | None]] = []
    tally = Tally(tmp_path, 10, lambda done, total: told.append((done, total)))
    tally.look()
    (tmp_path / "below").mkdir()
    (tmp_path / "below/a.deb").write_bytes(b"1234")
    tally.look()
    assert told == [(0, 10)]
    monkeypatch.setattr(fetching, "TELL_SECONDS", 0.0)
    tally.look()
    (tmp_path / "b.deb").write_bytes(b"x" * 20)  # never more than there is
    tally.look()
    assert told == [(0, 10), (4, 10), (10, 10)]
    assert size_below(tmp_path / "nothing") == 0
