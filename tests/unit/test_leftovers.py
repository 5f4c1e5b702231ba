"""What a scenario left behind, from two lists of names."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.plan.leftovers import (
    LISTS,
    MAX_NAMED,
    SYSCTL,
    Leftover,
    Names,
    came_along,
    describe_leftovers,
    find_leftovers,
    parse_names,
    without_allowed,
)

DEVICES = b"Character devices:\n  1 mem\n 10 misc\n\nBlock devices:\n254 virtblk\n"
FILESYSTEMS = b"nodev\tsysfs\n\tsquashfs\n"
IOMEM = b"00000000-00000fff : Reserved\n  000a0000-000bffff : PCI Bus 0000:00\n"
IOPORTS = b"0000-0cf7 : PCI Bus 0000:00\n"
TEXTS = (DEVICES, FILESYSTEMS, IOMEM, IOPORTS)


def printed(*paths: str, taint: int = 0, texts: tuple[bytes, ...] = TEXTS) -> bytes:
    """As ``sysio --names`` prints it."""
    records = b"".join(path.encode() + b"\0" for path in (*paths, ""))
    return b"%d\n" % taint + records + b"".join(text + b"\0" for text in texts)


def listed(*paths: str, unread: tuple[str, ...] = ()) -> Names:
    return Names(0, frozenset(paths), unread)


def left(
    before: Names, after: Names, leaves: tuple[str, ...] = (), ours: tuple[str, ...] = ("m",)
) -> list[str]:
    found = find_leftovers(before, after, ours)
    return [each.name for each in without_allowed(found, leaves)]


# --- what a guest prints --------------------------------------------------------------------


def test_paths_and_lines_of_lists_are_names() -> None:
    names = parse_names(printed("/proc/iter", "/dev/null", taint=12288))
    assert names is not None
    assert (names.taint, names.unread) == (12288, ())
    assert names.names == {
        *("/proc/iter", "/dev/null"),
        *("/proc/devices: char 1 mem", "/proc/devices: char 10 misc"),
        *("/proc/devices: block 254 virtblk",),
        *("/proc/filesystems: nodev sysfs", "/proc/filesystems: squashfs"),
        "/proc/iomem: 00000000-00000fff : Reserved",
        "/proc/iomem: 000a0000-000bffff : PCI Bus 0000:00",
        "/proc/ioports: 0000-0cf7 : PCI Bus 0000:00",
    }


@pytest.mark.parametrize("count", range(len(LISTS)))
def test_a_list_whose_reader_was_killed_is_unread(count: int) -> None:
    names = parse_names(printed("/proc/iter", texts=TEXTS[:count]))
    assert names is not None
    assert names.unread == LISTS[count:]
    assert "/proc/iter" in names.names


@pytest.mark.parametrize("tail", [b"", b"/proc/sys/kernel\0", b"/proc/sys/ker"])
def test_names_that_broke_off_are_unread_and_no_name_is_made_of_half_of_one(tail: bytes) -> None:
    whole = printed("/proc/iter", texts=())
    names = parse_names(whole.removesuffix(b"\0") + tail)
    assert names is not None
    assert names.unread == (SYSCTL,)
    assert "/proc/sys/ker" not in names.names


@pytest.mark.parametrize(
    "data", [b"", b"0", b"\0", b"no number\n/proc/iter\0\0", b"9" * 5000 + b"\n/proc/iter\0\0"]
)
def test_what_came_to_no_names_is_none(data: bytes) -> None:
    assert parse_names(data) is None


def test_terminals_and_shared_memory_are_no_names() -> None:
    names = parse_names(printed("/dev/pts/0", "/dev/shm/x", "/dev/vcs2", "/dev/ptmx"))
    assert names is not None
    assert [name for name in names.names if name.startswith("/dev")] == ["/dev/ptmx"]


def test_a_newline_in_a_name_makes_no_other_name() -> None:
    names = parse_names(printed("/proc/a\n/proc/b"))
    assert names is not None
    assert "/proc/b" not in names.names


@given(st.binary(max_size=300))
def test_no_bytes_of_a_guest_break_it(data: bytes) -> None:
    names = parse_names(b"0\n" + data)
    assert names is None or all(name.startswith("/") for name in names.names)


def test_the_guests_program_prints_what_is_parsed_here(sysio: Path) -> None:
    """The program itself, with this machine's own names."""
    done = subprocess.run((sysio, "--names"), stdout=subprocess.PIPE, check=True)
    names = parse_names(done.stdout)
    assert names is not None
    assert names.unread == ()
    assert {"/proc/devices", "/proc/net/dev", "/proc/sys/kernel", "/dev/null"} <= names.names
    assert {"/proc/sys/kernel/ostype", "/sys/class/mem/null"} <= names.names
    assert any(name.startswith("/proc/devices: char 1 mem") for name in names.names)
    assert not any(re.match(r"/proc/\d", name) for name in names.names)
    assert not any(name.endswith(("/.", "/..")) for name in names.names)


# --- what is left ----------------------------------------------------------------------------


def test_what_was_there_before_is_not_left_behind() -> None:
    assert left(listed("/proc/a", "/proc/b"), listed("/proc/b")) == []


def test_what_is_new_is_left_behind_in_order() -> None:
    after = listed("/proc/b", "/dev/x", "/proc/devices: char 240 x")
    assert find_leftovers(listed("/proc/b"), after, ()) == (
        Leftover("/dev/x", "/dev"),
        Leftover("/proc/devices: char 240 x", "/proc/devices"),
    )


def test_what_is_in_a_folder_that_is_left_is_not_named_too() -> None:
    after = listed("/proc/fs/m", "/proc/fs/m/a", "/proc/fs/mm")
    assert left(listed(), after) == ["/proc/fs/m", "/proc/fs/mm"]


def test_while_a_module_of_ours_is_loaded_its_names_are_its_own() -> None:
    after = listed("/sys/module/m", "/proc/a", "/sys/module/kernels")
    assert left(listed(), after) == ["/sys/module/m"]


def test_a_module_of_ours_that_was_loaded_before_is_nothing_new() -> None:
    assert left(listed("/sys/module/m"), listed("/sys/module/m", "/proc/a")) == ["/proc/a"]


def test_a_module_of_the_kernels_own_is_no_leftover_but_what_it_made_may_be() -> None:
    before, after = listed("/sys/module/a"), listed("/sys/module/a", "/sys/module/b", "/dev/b")
    assert came_along(before, after, ("m",)) == ("b",)
    assert left(before, after) == ["/dev/b"]


def test_a_list_that_can_no_longer_be_read_is_left_behind() -> None:
    assert left(listed(), listed(unread=("/proc/iomem",))) == ["/proc/iomem"]
    assert left(listed(unread=("/proc/iomem",)), listed(unread=("/proc/iomem",))) == []


@pytest.mark.parametrize(
    ("pattern", "allowed"),
    [
        ("/proc/foo", ["/proc/foo", "/proc/foo/bar"]),
        ("/proc/foo/", ["/proc/foo", "/proc/foo/bar"]),
        ("/proc/f*", ["/proc/foo", "/proc/foo/bar", "/proc/foot"]),
        ("/proc/*/bar", ["/proc/foo/bar"]),
        ("/proc/fo?", ["/proc/foo", "/proc/foo/bar"]),
        ("/proc/devices: char * foo", ["/proc/devices: char 240 foo"]),
        ("/proc/[f]oo", ["/proc/foo", "/proc/foo/bar"]),
        ("/*/foo", ["/proc/foo", "/proc/foo/bar"]),
        ("/foo", []),
    ],
)
def test_what_a_pattern_allows(pattern: str, allowed: list[str]) -> None:
    names = ["/proc/foo", "/proc/foo/bar", "/proc/foot", "/proc/devices: char 240 foo"]
    kept = [name for name in names if not left(listed(), listed(name), (pattern,))]
    assert sorted(kept) == sorted(allowed)


def test_the_reason_names_the_first_and_counts_the_others() -> None:
    some = [Leftover(f"/proc/{number}\x1b[2J", "/proc") for number in range(MAX_NAMED + 2)]
    reason = describe_leftovers(some)
    assert reason.startswith("left behind: /proc/0\\x1b[2J, /proc/1")
    assert reason.endswith(" and 2 more")
    assert reason.isprintable()


def test_the_reason_says_what_kind_of_thing_it_is() -> None:
    assert describe_leftovers([Leftover("/sys/module/m", "/sys/module")]) == (
        "left behind: /sys/module/m (still loaded)"
    )
    assert describe_leftovers([Leftover("/proc/iomem", "/proc/iomem")]) == (
        "left behind: something in /proc/iomem that kills whoever reads it"
    )
