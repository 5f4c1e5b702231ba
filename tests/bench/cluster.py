"""How a cluster's own part grows: real scheduler, real client, cells that only take time.

    python -m tests.bench.cluster --kernels 1000 --scenarios 100 --workers 50

The scheduler and the workers are Dask's, in this process; what is played is a stand-in that waits
for the seconds that this lab's cells were recorded to take, times ``--scale``. Told are the
processor seconds that all of it took for itself, by share and by cell, how much longer than
possible the run was, and on how many workers each kernel was made ready.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.adapters.cache import Cache, default_cache_dir
from orchestrator.adapters.daskcluster import LAB, MEMORY
from orchestrator.adapters.sources import entry_types
from orchestrator.plan.chunks import split_evenly
from orchestrator.plan.kernel import ResolvedKernel
from orchestrator.plan.labfile import load_lab
from orchestrator.plan.outcome import CellResult, KernelResult, Outcome
from orchestrator.plan.paths import RunDir
from orchestrator.plan.plan import Plan, resolve_plan
from orchestrator.plan.recipes import load_shipped_recipe
from orchestrator.policy.cluster import SHARE_SECONDS, ClusterVenue, Tasks, Wishes
from orchestrator.policy.durations import Durations
from orchestrator.policy.events import CellDone, Event
from orchestrator.policy.share import Answer, Prepared, Share
from orchestrator.policy.venues import VenueOrder

# Of this repository's lab, 6.1, warm, without KVM (docs/performance.md): a scenario, and a boot
# with the modules built on the host: what a worker pays that has the kernel but no frozen guest.
CELL_SECONDS = 0.617
READY_SECONDS = 6.0
# `run.wall` there, by its 78 scenarios: of a worker with two processors, all that a cell costs.
WORKER_CELL_SECONDS = 37.0 / 78
READIED = 1.8
"""On how many workers a kernel was made ready in a simulation, on average."""
SIZES = ((4, 312), (17, 1300), (100, 10000), (300, 30000), (1000, 100000))
WORKERS = (1, 3, 10, 50, 200)


@dataclass
class World:
    """What the stand-ins, which all run in this process, share."""

    scale: float
    seconds: dict[str, float]
    ready: set[tuple[str, str]]
    lock: threading.Lock
    busy: Counter[str]


WORLD = World(1.0, {}, set(), threading.Lock(), Counter())


def _get_ready(worker: str, kernel: str) -> float:
    """What it takes to have a kernel ready on a worker: nothing the second time."""
    with WORLD.lock:
        if (worker, kernel) in WORLD.ready:
            return 0.0
        WORLD.ready.add((worker, kernel))
    return READY_SECONDS


def prepare(share: Share, *archives: bytes) -> Prepared:
    """Takes the time of getting a kernel ready."""
    from distributed import get_worker

    del archives
    address = str(get_worker().address)
    time.sleep(_get_ready(address, share.kernel) * WORLD.scale)
    return Prepared(share.known, address)


def play(share: Share, prepared: Prepared, *archives: bytes) -> Answer:
    """Takes the time that the share's cells were recorded to take."""
    from distributed import get_worker

    del prepared, archives
    address = str(get_worker().address)
    seconds = sum(WORLD.seconds[name] for name in share.scenarios)
    seconds += _get_ready(address, share.kernel)
    time.sleep(seconds * WORLD.scale)
    with WORLD.lock:
        WORLD.busy[address] += round(seconds * 1000)
    cells = tuple(CellResult(share.kernel, n, Outcome.PASSED) for n in share.scenarios)
    return Answer(address, "here", KernelResult(share.kernel, None, cells=cells), _EMPTY)


_EMPTY = b"\0" * 10240
"""An archive with nothing in it."""


@dataclass(frozen=True)
class Figures:
    """What came of one size."""

    kernels: int
    cells: int
    workers: int
    shares: int
    scale: float
    wall_seconds: float
    ideal_seconds: float
    """All cells, and each kernel made ready once, spread evenly, in seconds of the simulation."""
    cpu_seconds: float
    cpu_per_cell_ms: float
    cpu_per_share_ms: float
    readied_per_kernel: float
    """On how many workers a kernel was made ready, on average."""
    judged: int


def make_plan(folder: Path, kernels: int, scenarios: int) -> Plan:
    """A lab of so many kernels and scenarios."""
    names = [f"k{number}" for number in range(kernels)]
    entries = "".join(f'  {name}: {{image: bookworm, version: "6.1"}}\n' for name in names)
    (folder / "lab.yaml").write_text(f"lab: many\nkernels:\n{entries}scenarios: [a.yaml]\n")
    steps = "".join(f"  s{n}: {{steps: [{{run: id}}]}}\n" for n in range(scenarios))
    (folder / "a.yaml").write_text(f"scenarios:\n{steps}")
    lab = load_lab(folder / "lab.yaml", entry_types())
    known = ResolvedKernel(release="6.1.0-9", version="6.1.9", origin="there", parts=())
    return resolve_plan(
        lab,
        kernels=names,
        scenarios=lab.scenarios,
        recipes={"bookworm": load_shipped_recipe("bookworm")},
        known=dict.fromkeys(names, known),
        jobs=1,
    )


def recorded(count: int) -> list[float]:
    """Seconds of so many cells: what this lab's were last recorded to take, over and over; all the
    same where there is no record.
    """
    durations = Durations(Cache(default_cache_dir()), "procfs")
    lab = load_lab(Path(__file__).resolve().parents[2] / "lab.yaml", entry_types())
    found = [durations.seconds_of("6.1", each.name) for each in lab.scenarios]
    known = [seconds for seconds in found if seconds is not None] or [CELL_SECONDS]
    return [known[number % len(known)] for number in range(count)]


class _Known(Durations):
    """What the simulation's cells take, as if they had been played before."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._of = seconds

    def seconds_of(self, kernel: str, scenario: str) -> float | None:
        del kernel
        return self._of.get(scenario)


def simulate(kernels: int, scenarios: int, workers: int, scale: float, share: float) -> Figures:
    """Play so much on a cluster of this process."""
    from distributed import LocalCluster

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = make_plan(folder, kernels, scenarios)
        seconds = {
            each.name: taken
            for each, taken in zip(plan.lab.scenarios, recorded(scenarios), strict=True)
        }
        WORLD.scale, WORLD.seconds = scale, seconds
        WORLD.ready.clear()
        WORLD.busy.clear()
        judged: list[Event] = []
        order = VenueOrder(
            plan,
            Cache(folder / "cache"),
            RunDir(folder / "run"),
            lambda event: judged.append(event) if isinstance(event, CellDone) else None,
            datetime.datetime.now(datetime.UTC).date(),
            _Known(seconds),
        )
        wishes = Wishes(share_seconds=share, tasks=Tasks(prepare, play))
        with LocalCluster(
            n_workers=workers,
            threads_per_worker=2,
            processes=False,
            dashboard_address=None,
            memory_limit=0,
            resources={LAB: 1, MEMORY: 1 << 20},
            silence_logs=50,
        ) as cluster:
            started, cpu = time.monotonic(), time.process_time()
            with ClusterVenue(cluster.scheduler_address, None, wishes).open(order) as playing:
                for future in playing.futures:
                    future.result()
            wall, cpu = time.monotonic() - started, time.process_time() - cpu
    total = kernels * (sum(seconds.values()) + READY_SECONDS) * scale
    chunks = kernels * len(split_evenly(list(seconds), lambda n: seconds[n] + 0.2, share))
    readied = statistics.mean(Counter(kernel for _, kernel in WORLD.ready).values())
    cells = kernels * scenarios
    return Figures(
        kernels,
        cells,
        workers,
        chunks,
        scale,
        round(wall, 2),
        round(total / workers, 2),
        round(cpu, 2),
        round(cpu / cells * 1000, 3),
        round(cpu / chunks * 1000, 2),
        round(readied, 2),
        len(judged),
    )


def estimate(kernels: int, cells: int, workers: int) -> float:
    """Seconds of a run, kernels in the caches: a worker has two processors and no KVM.

    At the end one share is waited for, and nothing is done before a kernel is ready and a share
    of it is played.
    """
    if workers == 1:
        return cells * WORKER_CELL_SECONDS + kernels * READY_SECONDS
    work = cells * WORKER_CELL_SECONDS + kernels * READIED * READY_SECONDS
    return max(work / workers + SHARE_SECONDS / 2, READY_SECONDS + SHARE_SECONDS)


def render_sizes() -> str:
    """A table for docs/cluster.md."""
    lines = ["| kernels | cells | " + " | ".join(f"{count} workers" for count in WORKERS) + " |"]
    lines.append("|---|---|" + "---|" * len(WORKERS))
    for kernels, cells in SIZES:
        of = (estimate(kernels, cells, count) for count in WORKERS)
        lines.append(f"| {kernels} | {cells} | " + " | ".join(map(_in_words, of)) + " |")
    return "\n".join(lines).replace(" 1 workers", " 1 worker") + "\n"


def _in_words(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate, and print a line of JSON; 1 where cells were lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernels", type=int, default=100)
    parser.add_argument("--scenarios", type=int, default=100)
    parser.add_argument("--workers", type=int, default=20)
    parser.add_argument("--scale", type=float, default=0.01)
    parser.add_argument("--share-seconds", type=float, default=SHARE_SECONDS)
    parser.add_argument(
        "--sizes", action="store_true", help="print the page's table, and simulate nothing"
    )
    chosen = parser.parse_args(argv)
    if chosen.sizes:
        print(render_sizes(), end="")
        return 0
    os.environ.setdefault("DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED", "false")
    figures = simulate(
        chosen.kernels, chosen.scenarios, chosen.workers, chosen.scale, chosen.share_seconds
    )
    print(json.dumps(asdict(figures)))
    return 0 if figures.judged == figures.cells else 1


if __name__ == "__main__":
    from tests.bench.cluster import main as named  # what is sent to workers has to have a name

    sys.exit(named())
