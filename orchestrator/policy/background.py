"""Runs in the background, and their verdicts for whoever waits for one, here or in a process below.

A verdict is handed on as a file, so that it makes no difference who waits: pytest-xdist has the
tests in processes of their own, and one run for all of them.
"""

from __future__ import annotations

import hashlib
import pickle
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from orchestrator.adapters.cache import Cache
from orchestrator.foundation import process
from orchestrator.foundation.errors import LabError
from orchestrator.plan.outcome import CellResult, RunResult
from orchestrator.plan.paths import RunDir
from orchestrator.plan.plan import Plan
from orchestrator.policy.events import CellDone, Event
from orchestrator.policy.runner import Run

POLL_SECONDS = 0.05
END_FILE = "end"


@dataclass(frozen=True)
class CellKey:
    """Which cell of which lab: what a verdict is asked for by."""

    lab: Path
    kernel: str
    scenario: str

    @property
    def file_name(self) -> str:
        """A name of its own, whatever names it is made of."""
        text = "\0".join((str(self.lab), self.kernel, self.scenario))
        return hashlib.sha256(text.encode()).hexdigest()


class Verdicts:
    """A folder that verdicts go through. Only this user may reach into it: they are pickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def tell(self, key: CellKey, result: CellResult) -> None:
        """Hand on a verdict."""
        self._put(key.file_name, pickle.dumps(result))

    def tell_end(self, reason: str) -> None:
        """Say that no more will come, and why."""
        self._put(END_FILE, reason.encode())

    def wait_for(self, key: CellKey) -> CellResult:
        """A cell's verdict, once there is one. Raises ``LabError`` where none will come."""
        while True:
            end = self._get(END_FILE)
            verdict = self._get(key.file_name)  # after the end: what came before it is there
            if verdict is not None:
                result = pickle.loads(verdict)
                assert isinstance(result, CellResult)
                return result
            if end is not None:
                raise LabError(end.decode())
            time.sleep(POLL_SECONDS)

    def _get(self, name: str) -> bytes | None:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def _put(self, name: str, data: bytes) -> None:
        with tempfile.NamedTemporaryFile(dir=self.folder, delete=False) as aside:
            aside.write(data)
        Path(aside.name).replace(self.folder / name)


@dataclass(frozen=True)
class RunOrder:
    """A run to be made."""

    plan: Plan
    cache: Cache
    run_dir: RunDir


class BackgroundRuns:
    """Runs, one after another, on a thread of their own."""

    def __init__(self, orders: Sequence[RunOrder], verdicts: Verdicts) -> None:
        self._orders = orders
        self._verdicts = verdicts
        self._stop = threading.Event()
        self._left = sum(len(kernel.cells) for order in orders for kernel in order.plan.kernels)
        self._thread = threading.Thread(target=self._play, name="runs")
        self.results: list[tuple[RunOrder, RunResult]] = []
        """What came of those that have ended."""

    def start(self) -> None:
        """Begin; verdicts come from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Have everything end soon; what was not judged by then is interrupted."""
        self._stop.set()

    def finish(self) -> None:
        """Have everything end, in an orderly way; blocks until it has.

        What was not judged by then is interrupted.
        """
        if self._left:
            self.stop()
        while self._thread.is_alive():
            self._thread.join(POLL_SECONDS)  # with a bound, so that Ctrl-C comes through
        process.allow_again()

    def _play(self) -> None:
        reason = "the run was ended before this scenario was judged"
        try:
            for order in self._orders:
                if self._stop.is_set():
                    break
                listener = partial(self._take, order)
                run = Run(order.plan, order.cache, order.run_dir, listener, in_order=True)
                self.results.append((order, run.play(self._stop)))
        except LabError as error:
            reason = error.render()
        except BaseException:
            reason = f"a defect of the lab's own:\n{traceback.format_exc()}"
        finally:
            self._verdicts.tell_end(reason)

    def _take(self, order: RunOrder, event: Event) -> None:
        if isinstance(event, CellDone):
            cell = event.cell
            key = CellKey(order.plan.lab.path, cell.kernel, cell.scenario)
            self._verdicts.tell(key, cell)
            self._left -= 1
