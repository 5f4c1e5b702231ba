"""How many guests this machine can run at a time."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from orchestrator.foundation import process
from orchestrator.plan.model import GuestSettings

QEMU_OVERHEAD_MIB = 256
RESERVED_MIB = 512
# A guest that is only watched does next to nothing, and shares most of its memory: 42 MB are its
# own after a short scenario (6.1, 512 MiB, no KVM). A cell takes 0.3 s and is watched for 2 s, so
# with fewer a processor waits for guests to have been watched.
GUESTS_PER_SLOT = 10
WATCHED_MIB = 128
POLL_SECONDS = 0.2
MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def default_jobs(guest: GuestSettings) -> int:
    """One guest per processor that is ours, as far as the memory goes, at least one."""
    processors = len(os.sched_getaffinity(0))
    room = (available_mib() - RESERVED_MIB) // (guest.memory_mib + QEMU_OVERHEAD_MIB)
    return max(1, min(processors, room))


def default_guests(jobs: int, guest: GuestSettings) -> int:
    """How many guests there may be with so many at work, as far as the memory goes."""
    at_work = jobs * (guest.memory_mib + QEMU_OVERHEAD_MIB)
    watched = (available_mib() - RESERVED_MIB - at_work) // WATCHED_MIB
    return jobs + max(0, min(watched, jobs * (GUESTS_PER_SLOT - 1)))


class Slots:
    """How much may be done at a time, over all kernels of a run."""

    def __init__(self, count: int, guests: int | None = None) -> None:
        """``count`` guests at work, and ``guests`` in all, with those that are only watched."""
        self.count = count
        self._work = threading.Semaphore(count)
        self._guests = threading.Semaphore(guests or count * GUESTS_PER_SLOT)

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Work, when it is this thread's turn. Raises ``RunInterruptedError`` instead."""
        _acquire(self._work)
        try:
            yield
        finally:
            self._work.release()

    def enter(self) -> None:
        """Have one more guest, when there is room. Raises ``RunInterruptedError`` instead."""
        _acquire(self._guests)

    def leave(self) -> None:
        """Have one guest less."""
        self._guests.release()


def _acquire(semaphore: threading.Semaphore) -> None:
    while not semaphore.acquire(timeout=POLL_SECONDS):
        process.check_stopping()
    try:
        process.check_stopping()
    except BaseException:
        semaphore.release()
        raise


def available_mib() -> int:
    """Memory that can be used now: the host's, or what a cgroup (v2) leaves of it."""
    fields = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
    available = int(fields["MemAvailable"].split()[0]) // 1024
    return min(available, _cgroup_mib(available))


def _cgroup_mib(fallback: int) -> int:
    try:
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        stat = (CGROUP / "memory.stat").read_text()
        lines = (line.split() for line in stat.splitlines())
        cached = next((int(value) for name, value in lines if name == "inactive_file"), 0)
        return (limit - used + cached) >> 20  # file pages are given up for guests
    except (OSError, ValueError):
        return fallback  # no limit ("max"), or another kind of cgroup
