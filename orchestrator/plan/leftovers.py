"""What a module left behind: names that were not there before it was loaded.

A guest lists names with ``sysio --names`` (``images/guest/tool/names.c``), and the lists of
both ends of a scenario are compared here. A name is a path, or a line of one of the kernel's
lists with the list's path before it: ``/proc/ioports: 0378-037a : parport0``.

What cannot be seen: a slab cache that shares the slabs of another, because the link that
tells its name stays when the cache is destroyed (Linux 6.1, mm/slub.c, sysfs_slab_alias());
files whose names begin with a dot, but for those at the top of /proc and /dev; what has no
name, such as timers, work and threads.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from orchestrator.plan.visible import clip, decode, visible

LISTS = ("/proc/devices", "/proc/filesystems", "/proc/iomem", "/proc/ioports")
"""What it reads, in its order, after all folders."""
SYSCTL = "/proc/sys"
"""The folder that it lists last."""
MAX_NAMED = 3
MAX_NAME = 120
# Of a number of 64 bits; int() refuses 5000 digits.
_MAX_DIGITS = 20
_MODULES = "/sys/module"
_SLABS = "/sys/kernel/slab/"
# Terminals, the memory of virtual ones, and shared memory come and go with processes.
_PROCESSES = ("/dev/pts/", "/dev/shm/", "/dev/vcs", "/sys/class/vc/")


@dataclass(frozen=True)
class Leftover:
    """A name that stayed, and the folder or list that it is in."""

    name: str
    place: str

    @property
    def is_module(self) -> bool:
        """Whether it is a module that is still loaded."""
        return self.place == _MODULES


@dataclass(frozen=True)
class Names:
    """What a guest listed: the taint flags, and the names."""

    taint: int
    names: frozenset[str]
    unread: tuple[str, ...] = ()
    """Lists that broke off: whoever read them was killed."""

    @property
    def modules(self) -> frozenset[str]:
        """The modules that are loaded, and those that the kernel has built in."""
        return frozenset(
            name.removeprefix(f"{_MODULES}/")
            for name in self.names
            if name.startswith(f"{_MODULES}/")
        )


def parse_names(data: bytes) -> Names | None:
    """What ``sysio --names`` printed; None if it did not even come to the names.

    The taint flags in a line, then names, each with a zero byte behind it and a last one behind
    them all, then the kernel's lists, each with a zero byte behind it.
    """
    taint, newline, rest = data.partition(b"\n")
    if not (newline and taint.isdigit() and len(taint) <= _MAX_DIGITS):
        return None
    listed, end, rest = rest.partition(b"\0\0")
    *texts, _ = rest.split(b"\0")  # the last is empty, or was cut off
    texts = texts[: len(LISTS)]
    unread = LISTS[len(texts) :] if end else (SYSCTL,)
    names = {
        f"{path}: {line}"
        for path, text in zip(LISTS, texts, strict=False)
        for line in _lines(path, decode(text))
    }
    records = listed.split(b"\0")
    paths = {decode(record) for record in (records if end else records[:-1])}
    names |= {path for path in paths if path.startswith("/") and not path.startswith(_PROCESSES)}
    return Names(int(taint), frozenset(names), unread)


def _lines(path: str, text: str) -> Iterator[str]:
    """The entries of one of the kernel's lists, each on its own."""
    kind = ""
    for line in text.splitlines():
        words = " ".join(line.split())
        if path == "/proc/devices" and words.endswith(" devices:"):
            kind = "block " if words.startswith("Block") else "char "
        elif words:
            yield kind + words


def came_along(before: Names, after: Names, ours: Iterable[str]) -> tuple[str, ...]:
    """Modules of the kernel itself that were loaded meanwhile and stay."""
    return tuple(sorted(after.modules - before.modules - frozenset(ours)))


def find_leftovers(before: Names, after: Names, ours: Iterable[str]) -> tuple[Leftover, ...]:
    """The names that are in ``after`` alone; ``ours`` are the modules of the lab.

    What is in a folder that stayed is not named too. While a module of ours is loaded, what
    there is may be its own: the module alone is named then. A module of the kernel's own that
    somebody made the kernel load is nobody's leftover.
    """
    mine, new = frozenset(ours), after.names - before.names
    others = {f"{_MODULES}/{name}" for name in came_along(before, after, mine)}
    loaded = {f"{_MODULES}/{name}" for name in mine & (after.modules - before.modules)}
    found = loaded or new - others
    found |= {path for path in after.unread if path not in before.unread}
    return tuple(
        Leftover(name, _place(name))
        for name in sorted(found)
        if not any(parent in found for parent in _parents(name))
    )


def _place(name: str) -> str:
    path, colon, _ = name.partition(": ")
    if name in (*LISTS, SYSCTL) or (colon and path in LISTS):
        return path
    return name.rpartition("/")[0]


def _parents(name: str) -> Iterator[str]:
    while name := name.rpartition("/")[0]:
        yield name


def without_allowed(leftovers: Sequence[Leftover], leaves: Sequence[str]) -> tuple[Leftover, ...]:
    """Those that none of the patterns in ``leaves`` allows."""
    return tuple(each for each in leftovers if not _allowed(each.name, leaves))


def _allowed(name: str, leaves: Sequence[str]) -> bool:
    """Whether a pattern fits the name, or a folder that it is in."""
    parts = name.split("/")
    for pattern in leaves:
        wanted = pattern.rstrip("/").split("/")
        if len(wanted) <= len(parts) and all(map(fnmatch.fnmatchcase, parts, wanted)):
            return True
    return False


def describe_leftovers(leftovers: Sequence[Leftover]) -> str:
    """The reason of a cell that left these behind, in a line."""
    shown = [describe_leftover(each) for each in leftovers[:MAX_NAMED]]
    more = len(leftovers) - len(shown)
    return f"left behind: {', '.join(shown)}" + (f" and {more} more" if more else "")


def describe_leftover(leftover: Leftover) -> str:
    """One of them, in words that are safe to show."""
    name = clip(visible(leftover.name), MAX_NAME)
    if leftover.is_module:
        return f"{name} (still loaded)"
    if leftover.name == leftover.place:
        return f"something in {name} that kills whoever reads it"
    return name
