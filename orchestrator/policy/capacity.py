"""How many guests this machine can run at a time."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.plan.model import GuestSettings

QEMU_OVERHEAD_MIB = 256
RESERVED_MIB = 512
MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def default_jobs(guest: GuestSettings, kernels: int) -> int:
    """One guest per processor that is ours, as far as the memory goes, at least one."""
    processors = len(os.sched_getaffinity(0))
    room = (available_mib() - RESERVED_MIB) // (guest.memory_mib + QEMU_OVERHEAD_MIB)
    return max(1, min(processors, room, kernels))


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
