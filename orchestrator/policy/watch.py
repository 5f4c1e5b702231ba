"""``lab watch``: what is affected by a change of the lab's files is played again, on and on."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.adapters.snapshots import changed_paths, take_snapshot
from orchestrator.foundation import process
from orchestrator.foundation.errors import LabError, RunInterruptedError
from orchestrator.plan.affected import (
    CellName,
    affected_cells,
    find_change,
    playable,
    restricted,
)
from orchestrator.plan.outcome import CellResult, Outcome, RunResult
from orchestrator.plan.paths import RunDir
from orchestrator.plan.plan import Plan
from orchestrator.policy.worker import INTERRUPTED

# Between two looks at the files. An editor that saves writes for some milliseconds, and a tool
# that changes many files for longer: two looks must see the same before anything is begun.
LOOK_SECONDS = 0.2
# A look at very many files takes a while: no more than a tenth of the time goes into looking.
LOOK_PAUSE = 10
KEPT_ROUNDS = 5


@dataclass(frozen=True)
class Changed:
    """These files are other ones now."""

    paths: tuple[Path, ...]


@dataclass(frozen=True)
class Mistake:
    """What there is now cannot be played; the last that could is kept in mind."""

    error: LabError


@dataclass(frozen=True)
class Round:
    """Cells were played."""

    result: RunResult
    board: Mapping[CellName, CellResult]
    """The last result of every cell of the plan that has one, in the plan's order."""
    run_dir: RunDir
    left: int
    """How many of those that were to be played were not: files changed again meanwhile."""


WatchEvent = Changed | Mistake | Round


Player = Callable[[Plan, threading.Event], tuple[RunResult, RunDir]]
"""Plays a plan into a folder; returns early where the event is set. Raises ``LabError``."""


class Watch:
    """Plays, waits for a change, plays what is affected, until it is told to stop."""

    def __init__(
        self, load: Callable[[], Plan], play: Player, tell: Callable[[WatchEvent], None]
    ) -> None:
        """``load`` reads the lab anew. ``tell`` must not block."""
        self._load = load
        self._play = play
        self._tell = tell
        self._plan = load()
        self._seen = take_snapshot(self._plan.lab)
        self._missed: frozenset[Path] = frozenset()
        """What changed and could not be read, for a mistake in it."""
        self._pending = set(playable(self._plan))
        self._board: dict[CellName, CellResult] = {}
        self._given: dict[str, set[str]] = {}
        """The modules that each folder gave."""
        self._rounds: list[RunDir] = []

    def run(self, stop: threading.Event) -> None:
        """Go on until ``stop`` is set."""
        while not stop.is_set():
            if self._pending and not self._missed:
                self._play_round(stop)
            paths = self._wait_for_change(stop)
            if paths:
                self._tell(Changed(tuple(sorted(paths))))
                self._take(paths)

    # --- rounds ---------------------------------------------------------------------------

    def _play_round(self, stop: threading.Event) -> None:
        """Play what is pending; what could not be for a change in between stays so."""
        plan = restricted(self._plan, self._pending)
        try:
            with self._ending_early(stop) as early:
                result, run_dir = self._play(plan, early)
        except RunInterruptedError:
            return
        except LabError as error:
            self._tell(Mistake(error))  # until something changes it would be the same again
            return
        self._keep(run_dir)
        self._given |= _modules_given(result, run_dir)
        self._count(result)
        self._tell(Round(result, self._in_order(), run_dir, len(self._pending)))

    def _count(self, result: RunResult) -> None:
        for cell in result.cells:
            name = (cell.kernel, cell.scenario)
            if not (cell.outcome is Outcome.SKIPPED and cell.reason == INTERRUPTED):
                self._board[name] = cell
                self._pending.discard(name)

    def _in_order(self) -> dict[CellName, CellResult]:
        names = (
            (kernel.name, cell.scenario.name)
            for kernel in self._plan.kernels
            for cell in kernel.cells
        )
        return {name: self._board[name] for name in names if name in self._board}

    @contextlib.contextmanager
    def _ending_early(self, stop: threading.Event) -> Iterator[threading.Event]:
        """An event that is set by ``stop``, and when a file has changed: nobody waits for what
        it says of files that are no more.
        """
        early, over = threading.Event(), threading.Event()

        def look() -> None:
            while not over.wait(LOOK_SECONDS):
                if stop.is_set() or changed_paths(self._seen, take_snapshot(self._plan.lab)):
                    early.set()
                    return

        watcher = threading.Thread(target=look, name="watch", daemon=True)
        watcher.start()
        try:
            yield early
        finally:
            over.set()
            watcher.join()
            if not stop.is_set():
                process.allow_again()

    def _keep(self, run_dir: RunDir) -> None:
        """Keep the evidence of the last rounds alone."""
        self._rounds.append(run_dir)
        while len(self._rounds) > KEPT_ROUNDS:
            shutil.rmtree(self._rounds.pop(0).root, ignore_errors=True)

    # --- changes --------------------------------------------------------------------------

    def _wait_for_change(self, stop: threading.Event) -> frozenset[Path]:
        """The files that changed since what was played was read, once it is quiet; none if it is
        to stop.
        """
        last, pause = take_snapshot(self._plan.lab), LOOK_SECONDS
        while not stop.wait(pause):
            started = time.monotonic()
            now = take_snapshot(self._plan.lab)
            pause = max(LOOK_SECONDS, LOOK_PAUSE * (time.monotonic() - started))
            paths = changed_paths(self._seen, now)
            if paths and now == last:
                self._seen = now
                return paths
            last = now
        return frozenset()

    def _take(self, paths: frozenset[Path]) -> None:
        """Have what is affected by changed files played next, as it is now."""
        paths |= self._missed
        change = find_change(self._plan.lab, paths)
        if change.reload:
            try:
                plan = self._load()
            except LabError as error:
                self._missed = paths
                self._tell(Mistake(error))
                return
            # What changes while it is read is seen as changed once more.
            now = take_snapshot(plan.lab)
            self._seen = {path: self._seen.get(path, stamp) for path, stamp in now.items()}
            self._plan, self._missed = plan, frozenset()
        names = playable(self._plan)
        self._board = {name: cell for name, cell in self._board.items() if name in names}
        self._pending &= names
        self._pending |= affected_cells(self._plan, change, self._given)
        self._pending |= names - set(self._board)


def _modules_given(result: RunResult, run_dir: RunDir) -> dict[str, set[str]]:
    """The modules of each folder that was built, by what lies in the run's folder."""
    given: dict[str, set[str]] = {}
    for kernel in result.kernels:
        for build in kernel.builds:
            found = (run_dir.modules(kernel.name) / build.name).glob("*.ko")
            names = {path.stem.replace("-", "_") for path in found}
            if names and not build.error:
                given.setdefault(build.name, set()).update(names)
    return given
