"""The machine that a bench runs on: what it is, and how much of it others have."""

from __future__ import annotations

import os
import platform
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path

from orchestrator.adapters.accelerator import Verdict, qemu_version
from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import HostError
from tests.bench.values import Host

TICKS = os.sysconf("SC_CLK_TCK")


def describe_host(verdict: Verdict) -> Host:
    """The machine, as it says itself."""
    memory = next(line for line in _lines("/proc/meminfo") if line.startswith("MemTotal:"))
    release = {
        key: value.strip('"')
        for key, _, value in (line.partition("=") for line in _lines("/etc/os-release"))
    }
    return Host(
        processor=processor_in(Path("/proc/cpuinfo").read_text()),
        cores=len(os.sched_getaffinity(0)),
        memory_mib=int(memory.split()[1]) // 1024,
        kernel=os.uname().release,
        system=release.get("PRETTY_NAME", "an unknown system"),
        qemu=qemu_version(),
        python=platform.python_version(),
        accelerator=verdict.accelerator,
        reason=verdict.reason,
    )


def processor_in(cpuinfo: str) -> str:
    """The first processor's name, by ``/proc/cpuinfo``; not every machine gives one."""
    names = (
        line.partition(":")[2].strip() for line in cpuinfo.splitlines() if "model name" in line
    )
    return next(names, "") or "a processor without a name"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def commit_of(root: Path) -> str:
    """The commit that is checked out, with ``-dirty`` where files differ; words where none is."""
    argv = ("git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    try:
        done = process.run(argv, deadline=Deadline.after(20, "git describe"))
    except HostError:
        return "unknown"
    return done.stdout.decode(errors="replace").strip() or "unknown"


class Usage:
    """How much of the machine others had, since this was made or last asked.

    What a hypervisor gave to other machines counts as theirs.
    """

    def __init__(self) -> None:
        self._times, self._ours = _times(), _our_seconds()

    def others(self) -> float:
        """Their share of all processors, apart from this process and its children that ended."""
        times, ours = _times(), _our_seconds()
        spent = [(late - early) / TICKS for early, late in zip(self._times, times, strict=True)]
        share = others_share(spent, ours - self._ours)
        self._times, self._ours = times, ours
        return share


def _times() -> tuple[int, ...]:
    return tuple(int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:])


def _our_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def others_share(spent: Sequence[float], ours: float) -> float:
    """What is left of the busy time in a ``cpu`` line of ``/proc/stat`` (proc(5)), as a share.

    Guest time, the last two fields, is part of user time there.
    """
    total = sum(spent[:8])
    busy = total - spent[3] - spent[4]
    return min(1.0, max(0.0, busy - ours) / total) if total > 0 else 0.0


def processor_seconds(pid: int) -> float:
    """User and system time of a process until now, to a hundredth of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def qemus_of(parent: int) -> Iterator[int]:
    """The QEMUs that a process has started and that run; those within walls, too."""
    yield from _children_of(parent, "(qemu-system")
    for wall in _children_of(parent, "(bwrap"):
        yield from _children_of(wall, "(qemu-system")


def _children_of(parent: int, command: str) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            name, fields = entry.joinpath("stat").read_text().rsplit(")", 1)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        if int(fields.split()[1]) == parent and command in name:
            yield int(entry.name)


def memory_of(pid: int) -> dict[str, float]:
    """What a process holds, in MB: ``pss``, with its part of what is shared, and ``private``."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = {}
    for line in text.splitlines()[1:]:
        name, _, value = line.partition(":")
        found[name] = int(value.split()[0]) * 1024 / 1e6
    return {"pss": found["Pss"], "private": found["Private_Clean"] + found["Private_Dirty"]}


def available_mb() -> float:
    """Memory that the machine could give to others, in MB."""
    line = next(line for line in _lines("/proc/meminfo") if line.startswith("MemAvailable:"))
    return int(line.split()[1]) * 1024 / 1e6


def own_memory_mb() -> float:
    """What this process itself has in memory, in MB."""
    return memory_of(os.getpid())["private"]


def open_files() -> int:
    """How many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


def disk_mb(folder: Path) -> float:
    """What a folder takes on the disk, in MB."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*")) / 1e6
