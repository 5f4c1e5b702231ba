"""How many guests fit: processors, memory, and what a container leaves of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.plan.model import GuestSettings
from orchestrator.policy import capacity
from orchestrator.policy.capacity import available_mib, default_guests, default_jobs

MIB = 1 << 20


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with 8 GiB to spare and no cgroup."""
    (tmp_path / "meminfo").write_text(
        "MemTotal:       16384000 kB\nMemFree:  100 kB\nMemAvailable:    8388608 kB\nDirty: 0 kB\n"
    )
    monkeypatch.setattr(capacity, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(capacity, "CGROUP", tmp_path)
    return tmp_path


def limit(host: Path, maximum: str, current: str, stat: str = "anon 1\n") -> None:
    (host / "memory.max").write_text(maximum + "\n")
    (host / "memory.current").write_text(current + "\n")
    (host / "memory.stat").write_text(stat)


def test_without_a_limit_the_hosts_memory_counts(host: Path) -> None:
    assert available_mib() == 8192
    limit(host, "max", "12345")
    assert available_mib() == 8192


def test_a_containers_limit_counts_where_it_is_lower(host: Path) -> None:
    limit(host, str(2048 * MIB), str(1024 * MIB))
    assert available_mib() == 1024
    limit(host, str(99999 * MIB), "0")
    assert available_mib() == 8192


def test_cached_files_are_no_used_memory(host: Path) -> None:
    """After an image was built they fill the container, and the kernel gives them up."""
    limit(host, str(2048 * MIB), str(2000 * MIB), f"anon 5\ninactive_file {1500 * MIB}\n")
    assert available_mib() == 1548


@pytest.mark.parametrize("maximum", ["", "rubbish", "-"])
def test_a_limit_that_cannot_be_read_is_none(host: Path, maximum: str) -> None:
    limit(host, maximum, "0")
    assert available_mib() == 8192


@pytest.mark.parametrize(
    ("available", "memory", "jobs"),
    [
        (100_000, 512, None),
        (1, 512, 1),
        (0, 512, 1),
        (512 + 2 * 768 - 1, 512, 1),
        (512 + 768, 16384, 1),
    ],
)
def test_jobs(
    available: int, memory: int, jobs: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "available_mib", lambda: available)
    processors = len(os.sched_getaffinity(0))
    assert default_jobs(GuestSettings(memory_mib=memory)) == (jobs or processors)


def test_this_machine_has_memory() -> None:
    assert available_mib() > 0


@pytest.mark.parametrize(
    ("available", "jobs", "guests"),
    [
        (100_000, 2, 20),
        (100_000, 16, 160),
        # 512 for the host, twice 512 and 256 for the guests at work, 128 for each other one
        (512 + 2 * 768 + 5 * 128, 2, 2 + 5),
        (2000, 2, 2),
        (100, 1, 1),
    ],
)
def test_as_many_guests_are_watched_as_there_is_memory_for(
    host: Path, available: int, jobs: int, guests: int
) -> None:
    limit(host, str(available * MIB), "0")
    (host / "meminfo").write_text("MemAvailable: 999999999 kB\n")
    assert default_guests(jobs, GuestSettings(memory_mib=512)) == guests
