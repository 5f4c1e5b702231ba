"""A whole run: its cells are played somewhere; this thread alone owns the results."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import replace
from pathlib import Path

from orchestrator import __version__
from orchestrator.adapters.cache import Cache, disk_error
from orchestrator.adapters.git import find_revision
from orchestrator.foundation import process
from orchestrator.plan.allowing import judge_allowances
from orchestrator.plan.outcome import KernelResult, Revision, RunInput, RunResult
from orchestrator.plan.paths import RunDir
from orchestrator.plan.places import folder_places, scenario_places
from orchestrator.plan.plan import Plan
from orchestrator.plan.version import KernelVersion
from orchestrator.policy.durations import Durations
from orchestrator.policy.events import CellDone, Event, KernelDone, Listener
from orchestrator.policy.reports import append_judged, write_html, write_reports
from orchestrator.policy.resuming import find_inputs, join_kernels, with_kernels
from orchestrator.policy.venues import LocalVenue, Playing, Venue, VenueOrder
from orchestrator.policy.worker import INTERRUPTED, RESULTS_ELSEWHERE, utc_today

POLL_SECONDS = 0.2
# All reports are written anew each time, which costs more the more there is in them: the next is
# not begun before so many times as long has passed. `judged.jsonl` has each cell at once.
REPORT_PAUSE = 20


class _Stop:
    """Turns the first SIGINT, SIGTERM or SIGHUP into an orderly end, the second into a fast one."""

    def __init__(self) -> None:
        self.requested = threading.Event()

    def __call__(self, number: int, _frame: object) -> None:
        if self.requested.is_set():
            process.stop_all()
            os._exit(128 + number)
        self.requested.set()


@contextlib.contextmanager
def orderly_stop() -> Iterator[threading.Event]:
    """An event that a signal sets, for as long as the context is open."""
    stop = _Stop()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in signals}
    try:
        yield stop.requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stopping_when(stop: threading.Event) -> Iterator[None]:
    """End every wait of every thread once ``stop`` is set, for as long as the context is open."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(POLL_SECONDS):
            if stop.is_set():
                process.stop_all()
                return

    watcher = threading.Thread(target=watch, name="stop", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def create_run_dir(base: Path, run_id: str) -> RunDir:
    """The run's folder, with ``latest`` beside it pointing there. Raises ``HostError``.

    It may be there already: several processes can have a run in common.
    """
    root = base / run_id
    try:
        is_new = not base.exists()
        root.mkdir(parents=True, exist_ok=True)
        if is_new:  # git leaves alone what a file in it says is not for it
            (base / ".gitignore").write_text("*\n")
        aside = base / f".latest-{run_id}-{os.getpid()}"
        aside.symlink_to(run_id)
        aside.rename(base / "latest")
    except OSError as error:
        raise disk_error(error, base, RESULTS_ELSEWHERE) from error
    return RunDir(root)


class Run:
    """One invocation of ``lab run``, from a plan to a result on disk."""

    def __init__(
        self,
        plan: Plan,
        cache: Cache,
        run_dir: RunDir,
        listener: Listener,
        *,
        keep: threading.Event | None = None,
        in_order: bool = False,
        earlier: RunResult | None = None,
        venue: Venue | None = None,
    ) -> None:
        """``keep`` holds each kernel's last guest until it is set. Cells are begun longest first,
        or, where somebody waits for one after another, ``in_order`` of the plan. ``earlier`` is
        what this run has already come to, as ``resuming.take_over`` gives it. ``venue`` is where
        the cells are played, this machine if absent.
        """
        self._in_order = in_order
        self._plan = plan
        self._cache = cache
        self._run_dir = run_dir
        self._listener = listener
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._keep = keep
        self._venue = venue or LocalVenue()
        self._durations = Durations(cache, plan.lab.file.lab)
        self._today = utc_today()
        self._started = time.monotonic()
        self._started_text = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._revision = Revision()
        self._inputs: tuple[RunInput, ...] = ()
        self._sandbox = ""
        self._kernels: dict[str, KernelResult] = {}
        self._earlier = {kernel.name: kernel for kernel in earlier.kernels} if earlier else {}
        self._cells = {name: list(kernel.cells) for name, kernel in self._earlier.items()}
        if earlier:
            self._started_text = earlier.started
            self._started -= earlier.seconds
        self._unreported = True  # a run that is killed at once can be reported on, too
        self._next_report = 0.0

    def play(self, stop: threading.Event) -> RunResult:
        """Play the plan; blocks until it is done, or until ``stop`` is set and all is ended.

        What is judged is on disk at once. Raises ``HostError`` if reports cannot be written.
        """
        self._revision = find_revision(self._plan.lab.path.parent)
        self._inputs = find_inputs(self._plan)
        with self._venue.open(self._order()) as playing:
            self._watch(playing, stop)
        # A signal that came when all was judged, as it ends --keep, interrupted nothing.
        results = self._kernels.values()
        unfinished = any(cell.reason == INTERRUPTED for kernel in results for cell in kernel.cells)
        result = self._result(playing, interrupted=stop.is_set() and unfinished)
        self._report(result, whole=True)
        self._durations.remember(result.cells)
        return result

    def _report(self, result: RunResult, *, whole: bool = False) -> None:
        """Write the reports, the page only with the ``whole`` of them: it costs more."""
        started = time.monotonic()
        with self._writing():
            write_reports(result, self._run_dir.root)
            if whole:
                write_html(result, self._run_dir.root)
        ended = time.monotonic()
        self._next_report = ended + REPORT_PAUSE * (ended - started)
        self._unreported = False

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise disk_error(error, self._run_dir.root, RESULTS_ELSEWHERE) from error

    def _order(self) -> VenueOrder:
        return VenueOrder(
            self._plan,
            self._cache,
            self._run_dir,
            self._post,
            self._today,
            None if self._in_order else self._durations,
            self._keep,
            {name: tuple(cells) for name, cells in self._cells.items()},
        )

    def _post(self, event: Event) -> None:
        """The workers' side of the queue."""
        self._events.put(event)

    def _watch(self, playing: Playing, stop: threading.Event) -> None:
        pending = set(playing.futures)
        while pending:
            done, pending = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            self._take_events()
            if self._unreported and time.monotonic() >= self._next_report:
                self._report(self._result(playing, interrupted=True))
            for future in done:
                future.result()  # a defect of ours in a worker must not pass unseen
            if stop.is_set() and not process.stopping():
                process.stop_all()
        self._take_events()

    def _take_events(self) -> None:
        """Hand on what the workers told."""
        with contextlib.suppress(queue.Empty):
            while True:
                event = self._events.get_nowait()
                if isinstance(event, CellDone):
                    self._unreported = True
                    with self._writing():
                        append_judged(event.cell, self._run_dir.root)
                    self._cells.setdefault(event.cell.kernel, []).append(event.cell)
                elif isinstance(event, KernelDone):
                    before = self._earlier.get(event.kernel.name)
                    self._kernels[event.kernel.name] = (
                        join_kernels(before, event.kernel) if before else event.kernel
                    )
                self._listener(event)

    def _result(self, playing: Playing, *, interrupted: bool) -> RunResult:
        facts = playing.facts()
        kernels = tuple(
            self._kernels.get(plan.name)
            or replace(
                self._earlier.get(plan.name, KernelResult(plan.name, None)),
                cells=tuple(self._cells.get(plan.name, ())),
            )
            for plan in self._plan.kernels
        )
        versions = {
            kernel.name: KernelVersion.parse(kernel.identity.version)
            for kernel in kernels
            if kernel.identity
        }
        cells = [cell for kernel in kernels for cell in kernel.cells]
        return RunResult(
            allow=judge_allowances(self._plan.lab, versions, cells, self._today),
            lab=self._plan.lab.file.lab,
            run_id=self._run_dir.root.name,
            lab_version=__version__,
            started=self._started_text,
            seconds=time.monotonic() - self._started,
            accelerator=facts.accelerator,
            accelerator_reason=facts.accelerator_reason,
            qemu_version=facts.qemu_version,
            interrupted=interrupted,
            kernels=kernels,
            scenarios=scenario_places(self._plan),
            folders=folder_places(self._plan),
            revision=self._revision,
            sandbox=facts.sandbox,
            inputs=with_kernels(self._inputs, playing.plans()),
        )
