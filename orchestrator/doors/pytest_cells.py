"""A lab's cells as items of pytest, and how pytest shows what became of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.foundation.errors import LabError
from orchestrator.plan.outcome import CellResult, Outcome, RunResult, judge_result
from orchestrator.plan.plan import Cell, KernelPlan
from orchestrator.plan.version import KernelVersion
from orchestrator.plan.visible import clip, decode, visible, visible_lines
from orchestrator.plan.yamlsource import shown_path
from orchestrator.policy.background import CellKey, RunOrder
from orchestrator.policy.reports import REPORT_FILE
from orchestrator.policy.reports.details import render_cell
from orchestrator.policy.reports.text import cut

if TYPE_CHECKING:
    from _pytest._code.code import TerminalRepr
    from _pytest._io import TerminalWriter
    from _pytest.terminal import TerminalReporter

    from orchestrator.doors.pytest_session import LabSession

# Of each file of evidence that a failure shows; the file has all.
MAX_SECTION_LINES = 40
MAX_SECTION_BYTES = 1 << 20
SESSION = "kmod-lab-session"
"""The name by which pytest knows the part of the plugin that is there only where a lab is."""
SECTIONS = {"kernel log": "kernel.log", "transcript": "transcript.txt"}


class CellError(Exception):
    """A cell that did not pass, or that could not be judged; shown as ``render_cell`` does."""

    def __init__(self, cell: CellResult, run_dir: Path, path: Path, line: int) -> None:
        """``path`` and ``line`` are where the scenario, or the test, is."""
        super().__init__(visible(cell.reason))
        self.cell = cell
        self.run_dir = run_dir
        self.path = path
        self.line = line


def raise_for(cell: CellResult, run_dir: Path, path: Path, line: int) -> None:
    """Have pytest skip what was skipped; raise ``CellError`` for what did not pass."""
    if cell.outcome is Outcome.SKIPPED:
        skip(cell.reason)
    if cell.outcome is not Outcome.PASSED:
        raise CellError(cell, run_dir, path, line)


def skip(reason: str) -> None:
    """Have pytest skip the present item, and say so of the item's own place."""
    raise pytest.skip.Exception(visible(reason), _use_item_location=True)


# --- items ---------------------------------------------------------------------------------


class LabCollector(pytest.File):
    """A ``lab.yaml``: its cells are items."""

    def __init__(self, *, lab_path: Path, lab: LabSession, **rest: Any) -> None:
        super().__init__(**rest)
        self._lab_path = lab_path
        self._lab = lab

    def collect(self) -> Iterator[CellItem]:
        """Every cell, kernel by kernel. A mistake in the lab's files is a collection error."""
        try:
            plan = self._lab.plan(self._lab_path)
        except LabError as error:
            raise self.CollectError(error.render()) from error
        groups = plan.lab.file.groups
        for kernel in plan.kernels:
            words = {kernel.entry.image, *(name for name in groups if kernel.name in groups[name])}
            for cell in kernel.cells:
                name = f"{cell.scenario.name}[{kernel.name}]"
                item: CellItem = CellItem.from_parent(
                    self,
                    name=name,
                    # As text: pytest 9.2 does not see a parameter in a name, and `--lf`, which
                    # does see it in what was kept, would know no item again.
                    nodeid=f"{self.nodeid}::{name}",
                    key=CellKey(plan.lab.path, kernel.name, cell.scenario.name),
                    kernel=kernel,
                    cell=cell,
                    lab=self._lab,
                )
                item.extra_keyword_matches.update(words)
                yield item


class CellItem(pytest.Item):
    """One scenario on one kernel."""

    def __init__(
        self, *, key: CellKey, kernel: KernelPlan, cell: Cell, lab: LabSession, **rest: Any
    ) -> None:
        super().__init__(**rest)
        self.key = key
        self.kernel = kernel
        self.cell = cell
        self.result: CellResult | None = None
        self._lab = lab
        for mark in (pytest.mark.lab, *kernel_marks(self.config, kernel)):
            self.add_marker(mark)
        if cell.skip:
            self.add_marker(pytest.mark.skip(reason=visible(cell.skip)))

    def setup(self) -> None:
        """Wait for the verdict: where the lab broke there is none, and no test either."""
        try:
            self._lab.wait_for(self)
        except LabError as error:
            raise pytest.fail.Exception(error.render(), pytrace=False) from error
        assert self.result is not None, "it has been waited for"
        if self.result.evidence is not None:
            self.user_properties.append(("evidence", str(self._run_dir / self.result.evidence)))
        if self.result.outcome is not Outcome.FAILED:
            self._raise_for(self.result)

    def runtest(self) -> None:
        """Fail where the scenario did."""
        assert self.result is not None, "`setup` waits for it"
        self._raise_for(self.result)

    def _raise_for(self, result: CellResult) -> None:
        scenario = self.cell.scenario
        raise_for(result, self._run_dir, scenario.path, scenario.line)

    @property
    def _run_dir(self) -> Path:
        return self._lab.run_dir(self.key.lab)

    def repr_failure(  # type: ignore[override]  # it may be anything with `toterminal`
        self, excinfo: pytest.ExceptionInfo[BaseException]
    ) -> str | TerminalRepr | CellRepr:
        """The steps, the differences, and what the kernel said, as in the lab's report."""
        if isinstance(excinfo.value, CellError):
            return CellRepr.of(excinfo.value)
        return super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Where the scenario is, and its name and kernel."""
        scenario = self.cell.scenario
        return scenario.path, scenario.line - 1, f"{scenario.name} on {self.kernel.name}"


def kernel_marks(config: pytest.Config, kernel: KernelPlan) -> Iterator[pytest.MarkDecorator]:
    """What says of an item which kernel it is for, to ``-m`` and to ``--dist loadgroup``."""
    version = kernel_version(kernel)
    yield pytest.mark.kernel(name=kernel.name, version=str(version or ""))
    if config.pluginmanager.hasplugin("xdist"):
        yield pytest.mark.xdist_group(name=kernel.name)


def kernel_version(kernel: KernelPlan) -> KernelVersion | None:
    """Its version, or what stands for it until it was looked up."""
    if kernel.known is not None:
        return KernelVersion.parse(kernel.known.version)
    return kernel.entry.version_hint()


# --- failures ------------------------------------------------------------------------------

_COLOURS: tuple[tuple[re.Pattern[str], dict[str, bool]], ...] = (
    (re.compile(r"       -"), {"red": True}),
    (re.compile(r"       \+"), {"green": True}),
    (re.compile(r"       @@"), {"cyan": True}),
    (re.compile(r" *\d+\. failed "), {"red": True, "bold": True}),
    (re.compile(r"the kernel complained: |left behind: "), {"red": True, "bold": True}),
)


@dataclass(frozen=True)
class Crash:
    """Where and why, in the place where pytest looks for it for its short summary."""

    path: str
    lineno: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.lineno}: {self.message}"


class CellRepr:
    """A failure as pytest prints it: lines, coloured on a terminal that shows colours."""

    def __init__(self, lines: Sequence[str], crash: Crash) -> None:
        self.lines = tuple(lines)
        self.reprcrash = crash

    @classmethod
    def of(cls, error: CellError) -> CellRepr:
        """What is known of a cell."""
        lines = list(render_cell(error.cell))
        return cls(lines, Crash(str(shown_path(error.path)), error.line, str(error)))

    @classmethod
    def restored(cls, report: Any) -> Any:
        """A report that came from another process, with this in place of plain text."""
        crash = getattr(report, "lab_crash", None)
        if crash is not None and isinstance(report.longrepr, str):
            report.longrepr = cls(report.longrepr.split("\n"), Crash(*crash))
        return report

    def toterminal(self, tw: TerminalWriter) -> None:
        """Print it."""
        for number, line in enumerate(self.lines):
            tw.line(line, **(_markup(line) if number else {"red": True, "bold": True}))

    def __str__(self) -> str:
        return "\n".join(self.lines)


def _markup(line: str) -> dict[str, bool]:
    return next((colours for pattern, colours in _COLOURS if pattern.match(line)), {})


def explain(report: pytest.TestReport, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Put into a report what the lab knows of a cell, whatever phase it is of."""
    if isinstance(item, CellItem) and item.result is not None:
        _share_time(report, item.result.seconds)
    error = call.excinfo.value if call.excinfo else None
    if isinstance(item, CellItem) and isinstance(error, pytest.fail.Exception):
        # Where in the lab it was waited is of no use to anybody: a timeout of pytest's, mostly.
        lines = str(error).split("\n")
        scenario = item.cell.scenario
        crash = Crash(str(shown_path(scenario.path)), scenario.line, lines[0])
        _put(report, CellRepr(lines, crash))
    if isinstance(error, CellError):
        _put(report, CellRepr.of(error))
        report.sections += _sections(error)


def _put(report: pytest.TestReport, shown: CellRepr) -> None:
    """Have a failure shown so, in this process and, of plain values, in another."""
    report.longrepr = shown  # type: ignore[assignment]  # it may be anything with `toterminal`
    place = shown.reprcrash
    vars(report)["lab_crash"] = (place.path, place.lineno, place.message)


def _share_time(report: pytest.TestReport, seconds: float) -> None:
    """A scenario's own time is the call's; what was waited beyond that is the setup's."""
    if report.when == "setup":
        report.duration = max(0.0, report.duration - seconds)
    elif report.when == "call":
        report.duration = seconds


def _sections(error: CellError) -> Iterator[tuple[str, str]]:
    if error.cell.evidence is None:
        return
    folder = error.run_dir / error.cell.evidence
    for title, name in SECTIONS.items():
        if text := _last_lines(folder / name):
            yield title, text
    yield "evidence", str(shown_path(folder))


def _last_lines(path: Path) -> str:
    """The end of a file of evidence, safe to show; nothing where there is none."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - MAX_SECTION_BYTES))
            lines = visible_lines(decode(file.read()))
    except OSError:
        return ""
    left_out = len(lines) - MAX_SECTION_LINES
    head = [f"… {left_out} lines before, in {shown_path(path)}"] if left_out > 0 else []
    return "\n".join((*head, *(cut(line) for line in lines[-MAX_SECTION_LINES:])))


def show_end(terminal: TerminalReporter, order: RunOrder, result: RunResult) -> None:
    """A run's last words: its verdict, kernels that were of no use, and where its report is."""
    terminal.section(f"lab {visible(result.lab)}")
    terminal.line(visible(judge_result(result).message))
    for kernel in result.kernels:
        if kernel.error:
            terminal.line(cut(f"{kernel.name}: {kernel.error}"), red=True)
            if kernel.hint:
                terminal.line(cut(f"  hint: {kernel.hint}"))
        if kernel.fork_note:
            terminal.line(clip(visible(f"{kernel.name}: {kernel.fork_note}"), 200))
    terminal.line(f"report: {shown_path(order.run_dir.root / REPORT_FILE)}")
