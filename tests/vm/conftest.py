"""Real guests: ``lab`` as a user calls it, in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LABS = Path(__file__).parent / "labs"
SCHEMA = REPOSITORY / "orchestrator/policy/reports/results.schema.json"
# The longest that any single run here may take, with cold caches, on two busy cores.
RUN_SECONDS = 2400


NIGHTLY = "LAB_NIGHTLY"
"""Set to 1, it has the tests played that take long."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    by_night = os.environ.get(NIGHTLY) == "1"
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        item.add_marker(pytest.mark.vm)
        if item.get_closest_marker("nightly") and not by_night:
            item.add_marker(pytest.mark.skip(reason=f"nightly: {NIGHTLY}=1 plays it"))


@pytest.fixture(scope="session", autouse=True)
def nothing_frozen() -> Iterator[None]:
    """Guests boot in the tests: what an earlier run froze is for those that ask for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_FROZEN_GIB", "0")
        yield


def lab_argv(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "orchestrator", *map(str, arguments)]


@dataclass(frozen=True)
class Ran:
    """What a call of ``lab`` gave."""

    status: int
    output: str
    results_dir: Path

    @property
    def run_dir(self) -> Path:
        return self.results_dir / "latest"

    @property
    def results(self) -> dict[str, Any]:
        raw = json.loads((self.run_dir / "results.json").read_text())
        jsonschema.validate(raw, json.loads(SCHEMA.read_text()))
        assert isinstance(raw, dict)
        return raw

    @property
    def boots(self) -> int:
        """How often the first kernel's guests booted, without boots that failed and were tried
        again: now and then a guest without KVM stands still.
        """
        return int(self.results["kernels"][0]["boots"]) - self.output.count("trying once more")

    def cells(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Every cell by kernel and scenario."""
        return {
            (kernel["name"], cell["scenario"]): cell
            for kernel in self.results["kernels"]
            for cell in kernel["cells"]
        }


def run_lab(
    results_dir: Path,
    *arguments: str | Path,
    env: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
) -> Ran:
    """Call ``lab run`` and wait for its end."""
    argv = [*prefix, *lab_argv("run", "--results", results_dir, *arguments)]
    return Ran(*run_to_end(argv, env), results_dir)


def run_to_end(argv: Sequence[str], env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a command in the repository; its status, and all that it printed."""
    done = subprocess.run(
        argv,
        cwd=REPOSITORY,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=RUN_SECONDS,
        check=False,
    )
    output = done.stdout.decode(errors="replace")
    print(output)  # pytest shows it where a test fails
    return done.returncode, output


def processes_below(pid: int) -> set[int]:
    """Every process that descends from ``pid``, by /proc."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found: set[int] = set()
    todo = [pid]
    while todo:
        for child in children.get(todo.pop(), []):
            found.add(child)
            todo.append(child)
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Started:
    """A ``lab run`` that goes on, to be disturbed."""

    def __init__(self, results_dir: Path, *arguments: str | Path, cache: Path | None = None):
        env = dict(os.environ, **({"LAB_CACHE": str(cache)} if cache else {}))
        self.results_dir = results_dir
        self._output_path = results_dir.parent / f"{results_dir.name}.out"
        with self._output_path.open("wb") as output:
            self.process = subprocess.Popen(
                lab_argv("run", "--results", results_dir, *arguments),
                cwd=REPOSITORY,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        return self._output_path.read_text(errors="replace")

    def wait_for(self, text: str, seconds: float = RUN_SECONDS) -> None:
        """Wait until its output contains ``text``."""
        end = time.monotonic() + seconds
        while text not in self.output:
            if self.process.poll() is not None and "cannot fetch" in self.output:
                pytest.skip("this fills an empty cache, and the mirror is out of reach")
            assert self.process.poll() is None, self.output
            assert time.monotonic() < end, f"no {text!r} in:\n{self.output}"
            time.sleep(0.1)

    def send(self, number: signal.Signals) -> tuple[int, set[int]]:
        """Send a signal and wait for the end; the status, and which descendants still run."""
        descendants = processes_below(self.process.pid)
        self.process.send_signal(number)
        status = self.process.wait(timeout=60)
        end = time.monotonic() + 10
        left = descendants
        while left and time.monotonic() < end:
            left = {pid for pid in left if is_running(pid)}
            time.sleep(0.1)
        return status, left


@pytest.fixture
def start_lab(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Starts runs, and ends those that a failing test leaves."""
    started: list[Started] = []

    def start(*arguments: str | Path, cache: Path | None = None) -> Started:
        run = Started(tmp_path / f"results-{len(started)}", *arguments, cache=cache)
        started.append(run)
        return run

    yield start
    for run in started:
        if run.process.poll() is None:
            run.process.send_signal(signal.SIGTERM)
            run.process.wait(timeout=60)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts file systems of so many MiB; root only."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    mounted: list[Path] = []

    def mount(mib: int) -> Path:
        folder = tmp_path / f"disk-{len(mounted)}"
        folder.mkdir()
        argv = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)]
        subprocess.run(argv, check=True)
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def without_network() -> list[str]:
    """A prefix that runs a command where there is nothing but the loopback; root only."""
    if os.geteuid() != 0:
        pytest.skip("a network namespace without a user namespace needs root")
    if shutil.which("ip") is None:
        pytest.skip("ip(8) is not installed, to bring the loopback up")
    return ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
