"""Attacks: which of them take a guest, which take long, and what they cost the lab."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.vm.conftest import NIGHTLY

BY_NIGHT = os.environ.get(NIGHTLY) == "1"
GIB = 1 << 30
MIB = 1 << 20


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """By night all of them are played, and more of each; what is marked, by night alone."""
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        if BY_NIGHT:
            item.add_marker(pytest.mark.nightly)
        elif item.get_closest_marker("nightly"):
            item.add_marker(pytest.mark.skip(reason=f"nightly: {NIGHTLY}=1 plays it"))


class Peak:
    """The most memory that this process has had at a time since it was made."""

    def __init__(self) -> None:
        # Documentation/filesystems/proc.rst: 5 forgets the peak.
        Path("/proc/self/clear_refs").write_text("5")
        self._before = memory_of("self", "VmRSS")

    @property
    def grown(self) -> int:
        """By how many bytes it was more than at the beginning."""
        return memory_of("self", "VmHWM") - self._before


def memory_of(pid: int | str, field: str) -> int:
    """A line of ``/proc/PID/status``, in bytes: ``VmRSS``, or ``VmHWM`` for the most there was."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) << 10
    raise LookupError(f"process {pid} has no {field}")


@pytest.fixture
def peak() -> Peak:
    """How much more memory this process had during a test."""
    return Peak()
