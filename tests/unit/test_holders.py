"""Who holds a module, from what a guest said of its processes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.plan.holders import MAX_HOLDERS, find_holders

MADE = frozenset({"/proc/buffer1k", "/dev/m"})


def said(*pairs: tuple[str, str]) -> bytes:
    """As ``lab-holders`` prints it."""
    return "".join(f"{path}\0{text}\0" for path, text in pairs).encode()


SLEEP = ("/proc/123/comm", "sleep")
COUNT = ("/sys/module/m/refcnt", "2")


@pytest.mark.parametrize(
    ("path", "target", "holder"),
    [
        ("/proc/123/fd/3", "/proc/buffer1k", "sleep (pid 123) through /proc/buffer1k"),
        ("/proc/123/fd/3", "/dev/m/0", "sleep (pid 123) through /dev/m/0"),
        ("/proc/123/cwd", "/dev/m", "sleep (pid 123) standing in /dev/m"),
        ("/proc/123/map_files/1-2", "/dev/m", "sleep (pid 123) with a map of /dev/m"),
        ("/proc/123/fd/3", "/proc/x (deleted)", "sleep (pid 123) through /proc/x (deleted)"),
        ("/proc/9/fd/3", "/dev/m", "? (pid 9) through /dev/m"),
    ],
)
def test_whoever_uses_what_the_module_made_holds_it(path: str, target: str, holder: str) -> None:
    assert find_holders(said(COUNT, SLEEP, (path, target)), "m", MADE) == (holder,)


@pytest.mark.parametrize(
    "target",
    ["/dev/null", "/", "pipe:[1]", "/dev/zero (deleted)", "/tmp/x (deleted)", "/proc/buffer1k2"],
)
def test_other_files_hold_nothing(target: str) -> None:
    found = find_holders(said(COUNT, SLEEP, ("/proc/123/fd/3", target)), "m", MADE)
    assert found == ("nobody that can be seen (its reference count is 2)",)


def test_a_module_above_it_holds_it() -> None:
    data = said(COUNT, ("/sys/module/m/holders/upper", ""))
    assert find_holders(data, "m", MADE) == ("the module upper",)


def test_one_file_opened_twice_is_told_once() -> None:
    files = (("/proc/123/fd/3", "/dev/m"), ("/proc/123/fd/4", "/dev/m"))
    assert len(find_holders(said(COUNT, SLEEP, *files), "m", MADE)) == 1


@pytest.mark.parametrize("data", [b"", said(SLEEP), said(("/sys/module/m/refcnt", "-1"))])
def test_nothing_is_said_of_a_module_that_is_gone_or_going(data: bytes) -> None:
    assert find_holders(data, "m", MADE) == ()


def test_many_holders_are_counted() -> None:
    files = [(f"/proc/{pid}/fd/3", "/dev/m") for pid in range(100, 150)]
    found = find_holders(said(COUNT, *files), "m", MADE)
    assert len(found) == MAX_HOLDERS + 1
    assert found[-1] == "40 more"


@given(st.binary(max_size=200))
def test_whatever_a_guest_says_is_safe_to_show(data: bytes) -> None:
    hostile = b"/proc/7/comm\0" + data.replace(b"\0", b"") + b"\0/proc/7/fd/1\0/dev/m\0" + data
    found = find_holders(hostile, "m", MADE)
    assert found
    assert all(line.isprintable() and len(line) < 300 for line in found)
