"""What a person sees while a run goes on: a table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TextIO

from orchestrator.plan.outcome import CellResult, Outcome
from orchestrator.plan.plan import Plan
from orchestrator.plan.visible import visible as printable
from orchestrator.policy.events import CellDone, Doing, Event, KernelDone, Note

if TYPE_CHECKING:
    from rich.table import Table

REFRESH_PER_SECOND = 4
# Of so many cells nothing can be told of the others.
FEW_CELLS = 5


class Progress(Protocol):
    """Shows a run; a context, and a listener for its events."""

    def __enter__(self) -> Progress: ...

    def __exit__(self, *_: object) -> None: ...

    def __call__(self, event: Event) -> None:
        """Show one event."""


def open_progress(plan: Plan, stream: TextIO | None = None) -> Progress:
    """A table where ``stream`` (standard error) is a terminal, else lines."""
    out = stream or sys.stderr
    if out.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return TableProgress(plan, out)
    return LineProgress(plan, out)


class LineProgress:
    """A line per event worth one, each with the seconds since the start and the kernel."""

    def __init__(self, plan: Plan, stream: TextIO) -> None:
        self._stream = stream
        self._started = time.monotonic()
        self._width = max((len(kernel.name) for kernel in plan.kernels), default=0)
        self._scenarios = {cell.scenario.name for k in plan.kernels for cell in k.cells}
        self._last_error: dict[str, str] = {}

    def __enter__(self) -> LineProgress:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __call__(self, event: Event) -> None:
        """See ``Progress``."""
        if isinstance(event, Doing) and event.what not in self._scenarios:
            self._line(event.kernel, event.what)
        elif isinstance(event, Note):
            self._line(event.kernel, event.text)
        elif isinstance(event, CellDone) and event.cell.outcome is not Outcome.SKIPPED:
            self._cell(event.cell)
        elif isinstance(event, KernelDone):
            kernel = event.kernel
            passed = sum(cell.outcome is Outcome.PASSED for cell in kernel.cells)
            errors = sum(cell.outcome is Outcome.ERROR for cell in kernel.cells)
            broken = f", {errors} could not be judged" if errors else ""
            self._line(kernel.name, f"done: {passed} of {len(kernel.cells)} passed{broken}")

    def _cell(self, cell: CellResult) -> None:
        """A judged cell; what keeps a whole kernel from being judged is told once."""
        if cell.outcome is Outcome.ERROR:
            if self._last_error.get(cell.kernel) == cell.reason:
                return
            self._last_error[cell.kernel] = cell.reason
        why = f": {cell.reason}" if cell.reason else ""
        self._line(cell.kernel, f"{cell.outcome.value:<6} {cell.scenario}{why}")

    def _line(self, kernel: str, text: str) -> None:
        from orchestrator.doors.ci import without_old_commands

        seconds = time.monotonic() - self._started
        line = f"{seconds:6.1f}s  {kernel:<{self._width}}  {printable(text)}"
        with contextlib.suppress(OSError):  # nobody reads on: no reason to end the run
            print(without_old_commands(line), file=self._stream, flush=True)


@dataclass
class Row:
    """What the table shows of one kernel."""

    total: int
    doing: str = "waiting"
    passed: int = 0
    failed: int = 0
    errors: int = 0
    skipped: int = 0
    done: bool = False

    def count(self, outcome: Outcome) -> None:
        """Take one more judged cell."""
        match outcome:
            case Outcome.PASSED:
                self.passed += 1
            case Outcome.FAILED:
                self.failed += 1
            case Outcome.ERROR:
                self.errors += 1
            case Outcome.SKIPPED:
                self.skipped += 1

    @property
    def played(self) -> int:
        """How many cells were played."""
        return self.passed + self.failed + self.errors

    @property
    def left(self) -> int:
        """How many cells are not judged yet."""
        return self.total - self.played - self.skipped

    @property
    def judged(self) -> str:
        """How far it is: judged of all."""
        return f"{self.total - self.left}/{self.total}"


def seconds_left(rows: Iterable[Row], since_first: float) -> float | None:
    """How long the rest takes if cells come as they did, since the first was judged; None while
    there are too few to tell, or none is left.
    """
    rows = tuple(rows)
    played, left = sum(row.played for row in rows), sum(row.left for row in rows)
    if played < FEW_CELLS or not left:
        return None
    return left * since_first / (played - 1)


class TableProgress:
    """A live table with a row per kernel; what failed is printed above it as it happens."""

    def __init__(self, plan: Plan, stream: TextIO) -> None:
        # Imported here: it costs more than all else that `lab --help` does.
        from rich.console import Console
        from rich.live import Live

        self._rows = {kernel.name: Row(len(kernel.cells)) for kernel in plan.kernels}
        self._console = Console(file=stream, highlight=False, markup=False)
        self._started = time.monotonic()
        self._first: float | None = None
        self._live = Live(
            get_renderable=self._table,
            console=self._console,
            refresh_per_second=REFRESH_PER_SECOND,
            transient=True,
        )

    def __enter__(self) -> TableProgress:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, event: Event) -> None:
        """See ``Progress``."""
        if isinstance(event, Doing):
            self._rows[event.kernel].doing = event.what
        elif isinstance(event, Note):
            self._console.print(f"{event.kernel}: {printable(event.text)}")
        elif isinstance(event, CellDone):
            self._rows[event.cell.kernel].count(event.cell.outcome)
            if event.cell.outcome is not Outcome.SKIPPED:
                self._first = self._first or time.monotonic()
            if event.cell.outcome in (Outcome.FAILED, Outcome.ERROR):
                cell = event.cell
                text = f"{cell.outcome.value} {cell.kernel} {cell.scenario}: {cell.reason}"
                self._console.print(printable(text), style="red")
        else:
            row = self._rows[event.kernel.name]
            row.done, row.doing = True, "done"

    def _clock(self) -> str:
        now = time.monotonic()
        left = seconds_left(self._rows.values(), now - (self._first or now))
        more = "" if left is None else f", some {_in_words(left)} left"
        return f"{int(now - self._started)} s{more}"

    def _table(self) -> Table:
        from rich.table import Table

        table = Table(box=None, pad_edge=False, expand=True)
        table.add_column("kernel", no_wrap=True)
        for name in ("judged", "passed", "failed", "errors"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column(f"now ({self._clock()})", ratio=1, no_wrap=True, overflow="ellipsis")
        for name, row in self._rows.items():
            counts = (str(row.passed), str(row.failed or ""), str(row.errors or ""))
            table.add_row(name, row.judged, *counts, printable(row.doing))
        return table


def _in_words(seconds: float) -> str:
    return f"{round(seconds)} s" if seconds < 100 else f"{round(seconds / 60)} min"
