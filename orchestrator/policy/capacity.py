"""How many guests this machine can run at a time."""

from __future__ import annotations

import os

from orchestrator.plan.model import GuestSettings

QEMU_OVERHEAD_MIB = 256
RESERVED_MIB = 512


def default_jobs(guest: GuestSettings, kernels: int) -> int:
    """One guest per processor that is ours, as far as the memory goes, at least one."""
    processors = len(os.sched_getaffinity(0))
    room = (available_mib() - RESERVED_MIB) // (guest.memory_mib + QEMU_OVERHEAD_MIB)
    return max(1, min(processors, room, kernels))


def available_mib() -> int:
    """Memory that can be used now: the host's, or what a cgroup (v2) leaves of it."""
    with open("/proc/meminfo") as file:
        fields = dict(line.split(":", 1) for line in file)
    available = int(fields["MemAvailable"].split()[0]) // 1024
    return min(available, *_cgroup_mib(available))


def _cgroup_mib(fallback: int) -> tuple[int, ...]:
    try:
        with open("/sys/fs/cgroup/memory.max") as file:
            limit = file.read().strip()
        with open("/sys/fs/cgroup/memory.current") as file:
            used = int(file.read())
        return ((int(limit) - used) >> 20,) if limit != "max" else (fallback,)
    except (OSError, ValueError):
        return (fallback,)
