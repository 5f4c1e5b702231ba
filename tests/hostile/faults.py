"""What the tests of faults have in common: a small lab, a cache of its own, and who is left."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.adapters.cache import Cache, default_cache_dir
from orchestrator.adapters.upkeep import find_damaged, kinds

REPOSITORY = Path(__file__).resolve().parents[2]
KERNEL = "6.1"
RUN_SECONDS = 900
SEED = "LAB_HOSTILE_SEED"
"""A number: what was drawn is drawn again."""

# What comes from the network, or takes minutes to make, is looked at where it is. The rest each
# cache has of its own.
LENT = ("images", "kernels", "resolved", "keyrings", "apt", "accelerator", "roots", "trees")

LAB = """\
lab: faults
modules: {beep: beep}
kernels:
  "6.1": {image: bookworm, version: "6.1"}
scenarios: [s.yaml]
settle: 0.5
"""
SCENARIOS = """\
scenarios:
  loads: {modules: [beep], steps: [{read: /proc/beep, expect: "0\\n"}]}
  fails: {modules: [beep], steps: [{run: "false"}]}
  says: {steps: [{run: "echo said", expect: "said\\n"}]}
  writes: {modules: [beep], steps: [{write: /proc/beep, data: "2"}, {log: {has: ["beep!"]}}]}
"""
VERDICTS = {
    f"s/{name}": "failed" if name == "fails" else "passed"
    for name in ("loads", "fails", "says", "writes")
}
"""What is right, of each scenario; a run of all of them ends with status 1."""


def seeded(name: str) -> random.Random:
    """Numbers for a test; the seed is printed, and ``LAB_HOSTILE_SEED`` sets it."""
    seed = int(os.environ.get(SEED) or time.time_ns() % 1_000_000)
    print(f"{name}: {SEED}={seed}")
    return random.Random(f"{name} {seed}")


def write_lab(folder: Path) -> Path:
    """The small lab's file, with its scenarios and its module."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(REPOSITORY / "tests/vm/labs/beep", folder / "beep", dirs_exist_ok=True)
    (folder / "lab.yaml").write_text(LAB)
    (folder / "s.yaml").write_text(SCENARIOS)
    return folder / "lab.yaml"


def lend_cache(root: Path) -> Path:
    """A cache with what is lent, in the user's own cache, and nothing else."""
    root.mkdir(parents=True, exist_ok=True)
    for kind in LENT:
        own = default_cache_dir() / kind
        own.mkdir(parents=True, exist_ok=True)
        if not (root / kind).is_symlink():
            (root / kind).symlink_to(own)
    return root


OWN = ("modules", "frozen", "initramfs", "vmlinux", "hashes")
WARM = "LAB_HOSTILE_WARM"
"""A folder that keeps what a cache has of its own, so that the next tests need not make it."""


def play_once(lab: Lab) -> None:
    """Play a lab, so that its cache has all of its own; or put there what another test made."""
    if WARM not in os.environ:
        os.environ[WARM] = tempfile.mkdtemp(prefix="lab-warm-")
        atexit.register(shutil.rmtree, os.environ[WARM])
    kept = Path(os.environ[WARM])
    if not any(kept.iterdir()):
        lab.play()
        copy_own(lab.cache, kept)
    copy_own(kept, lab.cache)


def copy_own(source: Path, target: Path) -> None:
    """Put what a cache has of its own into another."""
    for kind in OWN:
        if (source / kind).is_dir():
            shutil.copytree(source / kind, target / kind, dirs_exist_ok=True)


def damaged(cache: Path) -> list[str]:
    """The entries of a cache that are not what they were, without what is lent."""
    opened = Cache(cache)
    try:
        return [
            f"{kind}/{path.name}: {note}"
            for kind in kinds(opened)
            if not (cache / kind).is_symlink()
            for path in sorted((cache / kind).iterdir())
            if path.is_dir() and not path.name.startswith(".")
            if (note := find_damaged(opened, kind, path.name))
        ]
    finally:
        opened.close()


@dataclass
class Lab:
    """A lab that is run again and again, as a user runs it, in one cache."""

    path: Path
    cache: Path
    results: Path
    env: Mapping[str, str] = field(default_factory=dict)

    def argv(self, *arguments: str | Path) -> list[str]:
        """The command; ``run`` is given where its results go."""
        command, *rest = map(str, arguments)
        words = [sys.executable, "-m", "orchestrator", command, *rest]
        if command in ("run", "report", "history"):
            words += ["--lab", str(self.path), "--results", str(self.results)]
        return words

    def environment(self) -> dict[str, str]:
        return {**os.environ, "LAB_FROZEN_GIB": "4", **self.env, "LAB_CACHE": str(self.cache)}

    def start(
        self, *arguments: str | Path, prefix: Sequence[str] = (), output: Any = subprocess.PIPE
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*prefix, *self.argv(*arguments)],
            cwd=REPOSITORY,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def run(self, *arguments: str | Path, prefix: Sequence[str] = ()) -> tuple[int, str]:
        """The status of a call, and what it printed: never a traceback."""
        with self.start(*arguments, prefix=prefix) as process:
            output, _ = process.communicate(timeout=RUN_SECONDS)
        text = output.decode(errors="replace")
        assert "Traceback" not in text, text
        return process.returncode, text

    def play(self, *arguments: str | Path) -> str:
        """``lab run`` to its end, with the right verdicts; what it printed."""
        status, text = self.run("run", "-j", "1", *arguments)
        assert status == 1, text
        assert self.verdicts() == VERDICTS, text
        return text

    def verdicts(self) -> dict[str, str]:
        """The latest run's, by scenario."""
        results = json.loads((self.results / "latest/results.json").read_text())
        return {
            cell["scenario"]: cell["outcome"]
            for kernel in results["kernels"]
            for cell in kernel["cells"]
        }


PR_SET_CHILD_SUBREAPER = 36


@contextlib.contextmanager
def adopting() -> Iterator[None]:
    """Whoever loses its parent below this process becomes its child: nobody can hide."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        yield
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _processes() -> Iterator[tuple[int, int, str]]:
    """Each process: its number, its parent's, and its state."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent, *_ = path.read_text().rpartition(")")[2].split()
            yield int(path.parent.name), int(parent), state


def left_behind(before: set[int], seconds: float = 10) -> dict[int, str]:
    """The processes below this one that were not there before, once they had time to end; each
    with its command. Those that have ended are collected.
    """
    end = time.monotonic() + seconds
    while True:
        left = descendants() - before
        if not left or time.monotonic() > end:
            return {pid: _command(pid) for pid in left}
        time.sleep(0.05)


def descendants() -> set[int]:
    """The processes below this one. Those that have ended, and are children, are collected."""
    parents: dict[int, list[int]] = {}
    states: dict[int, str] = {}
    for pid, parent, state in _processes():
        parents.setdefault(parent, []).append(pid)
        states[pid] = state
    found: set[int] = set()
    todo = [os.getpid()]
    while todo:
        for pid in parents.get(todo.pop(), []):
            todo.append(pid)
            if states[pid] != "Z":
                found.add(pid)
    for pid in parents.get(os.getpid(), []):
        if states[pid] == "Z":
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
    return found


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()[:200]
    return "gone"


def kill_after(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """End a process with SIGKILL at that moment of its life; whether it still ran."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=seconds)
        return False
    process.send_signal(signal.SIGKILL)
    process.wait()
    return True
