"""`lab` as a user runs it: a process, its exit status, what it wrote and what it took."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.plan.model import Lab

ROOT = Path(__file__).resolve().parents[2]
LAB = (sys.executable, "-m", "orchestrator")
# What `lab` needs beside Python itself to start.
PYTHON = (sys.executable, "-c", "pass")
STEPS = """\
    steps:
      - load: procfs2
      - run: cat /proc/buffer1k
        expect: "HelloWorld!\\n"
      - unload: procfs2
"""


@dataclass(frozen=True)
class Took:
    """What a process took until it had ended."""

    wall: float
    processor: float
    """Of the process and all its children, in seconds."""


def run_process(argv: Sequence[str], *, seconds: float, env: Mapping[str, str] = {}) -> Took:
    """Run a command to its end. Raises ``ValueError`` with what it said if its status is not 0,
    or if it does not end in so many seconds.

    It may end in an orderly way then, and at a Ctrl-C.
    """
    full = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    # A user's Python keeps what it compiled; without that every start compiles the lab anew.
    full.pop("PYTHONDONTWRITEBYTECODE", None)
    with contextlib.ExitStack() as stack:
        started = time.perf_counter()
        child = subprocess.Popen(
            argv, cwd=ROOT, env=full, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert child.stdout is not None, "it is a pipe"
        output = stack.enter_context(child.stdout)
        timer = threading.Timer(seconds, child.terminate)
        timer.start()
        stack.callback(timer.cancel)
        try:
            said = output.read()
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            child.send_signal(signal.SIGINT)
            child.wait()
            raise
        wall = time.perf_counter() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        end = said.decode(errors="backslashreplace")[-1500:]
        raise ValueError(f"{' '.join(argv[1:])} ended with {child.returncode}: {end}")
    return Took(wall, _processor_seconds(usage))


def _processor_seconds(usage: resource.struct_rusage) -> float:
    return usage.ru_utime + usage.ru_stime


@contextlib.contextmanager
def lab_run(
    folder: Path, words: Sequence[str], *, seconds: float, env: Mapping[str, str] = {}
) -> Iterator[tuple[Took, dict[str, Any]]]:
    """``lab run`` with its results below ``folder``: what it took and ``results.json``.

    Its evidence is gone afterwards, unless it failed. Raises as ``run_process``.
    """
    results = folder / "lab-results"
    shutil.rmtree(results, ignore_errors=True)
    took = run_process((*LAB, "run", *words, "--results", str(results)), seconds=seconds, env=env)
    yield took, json.loads((results / "latest" / "results.json").read_text())
    shutil.rmtree(results)


def write_lab(folder: Path, lab: Lab, kernel: str, *, build: str, scenarios: int) -> Path:
    """A lab of one kernel with this repository's modules and so many scenarios of three steps."""
    entry = lab.file.kernels[kernel].model_dump(mode="json", exclude_unset=True)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "kmod", folder / "kmod")
    # JSON is YAML, too.
    (folder / "lab.yaml").write_text(
        f"lab: bench\nmodules: {{procfs: kmod}}\nkernels: {json.dumps({kernel: entry})}\n"
        f"build: {build}\nscenarios: [scenarios.yaml]\n"
    )
    (folder / "scenarios.yaml").write_text(
        "scenarios:\n" + "".join(f"  number-{index}:\n{STEPS}" for index in range(scenarios))
    )
    return folder / "lab.yaml"


def write_cache(folder: Path, cache_dir: Path) -> Path:
    """A cache like another one, in which no module was ever built.

    All else is the other's own: it is linked.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (cache_dir / "locks").mkdir(exist_ok=True)
    for path in cache_dir.iterdir():
        if path.name != "modules":
            (folder / path.name).symlink_to(path)
    return folder
