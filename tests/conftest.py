"""What every test gets: a lab that may start processes, and a watch over what is left open."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.adapters.cache import remove_tree
from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.plan.paths import tool_dir


@pytest.fixture(autouse=True)
def children_allowed() -> Iterator[None]:
    """A test that ended a run leaves the next one able to start."""
    yield
    process.allow_again()


@pytest.fixture(scope="session")
def sysio() -> Iterator[Path]:
    """The guests' program, made for this machine; everybody may run it."""
    with tempfile.TemporaryDirectory(prefix="lab-test-") as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "sysio"
        sources = map(str, sorted(tool_dir().glob("*.c")))
        warnings = ("-Wall", "-Wextra", "-Werror")
        subprocess.run(("gcc", "-static", "-O2", *warnings, "-o", path, *sources), check=True)
        yield path


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A folder that other users can look into: QEMU runs as one of them."""
    path = Path(tempfile.mkdtemp(prefix="lab-test-"))
    path.chmod(0o755)
    yield path
    remove_tree(path)


@pytest.fixture(scope="session")
def spawner() -> None:
    """The thread that starts children begins with the first, and stays: no test's leak."""
    process.run(("true",), deadline=Deadline.after(30, "a first child"))


@pytest.fixture
def no_leaks(spawner: None) -> Iterator[None]:
    """Fails a test that leaves a descriptor, a thread or a child behind."""
    assert spawner is None
    before = _resources()
    yield
    end = time.monotonic() + 3
    while (left := _resources() - before) and time.monotonic() < end:
        time.sleep(0.05)
    assert not left, f"left behind: {sorted(left)}"


def _resources() -> set[str]:
    found = {f"thread {thread.name} {thread.ident}" for thread in threading.enumerate()}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(f"fd {fd} {os.readlink(f'/proc/self/fd/{fd}')}")
        except OSError:
            continue  # the listing's own
    return found | {f"child {pid}" for pid in children_of(os.getpid())}


def children_of(pid: int) -> set[int]:
    """The processes that are children of any thread of ``pid`` now, zombies too."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found |= {int(word) for word in (task / "children").read_text().split()}
        except OSError:
            continue  # a thread that has just ended
    return found
