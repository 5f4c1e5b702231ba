"""What one session of pytest has of its labs: which they are, what was selected, and the run."""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.adapters.cache import Cache, default_cache_dir
from orchestrator.adapters.sources import entry_types
from orchestrator.doors.doctor import require_host
from orchestrator.doors.planning import make_plan
from orchestrator.doors.pytest_cells import (
    CellItem,
    CellRepr,
    LabCollector,
    explain,
    kernel_marks,
    show_end,
)
from orchestrator.doors.pytest_guest import OPEN_GUEST, GuestChoice, kernels_of
from orchestrator.foundation.errors import LabError, UsageError
from orchestrator.plan.labfile import load_lab
from orchestrator.plan.outcome import RunResult
from orchestrator.plan.paths import RunDir, new_run_id
from orchestrator.plan.plan import Plan
from orchestrator.policy.background import BackgroundRuns, CellKey, RunOrder, Verdicts
from orchestrator.policy.runner import create_run_dir

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

# Before, a folder and a file in it could not both be collected: 8.2 collects the file alone.
MIN_PYTEST = (9,)
SELECTION_FILE = "selection"
WORKER_INPUT = "kmod_lab"


def _as_loaded(path: Path) -> Path:
    """The path by which a lab knows itself once it is loaded."""
    return Path(os.path.realpath(path.parent)) / path.name


class LabSession:
    """The part of the plugin that is there only where a lab is.

    With pytest-xdist there are several processes, and one run of the lab all the same: it is in
    the one that gives the tests out, and the others wait for its verdicts.
    """

    def __init__(self, config: pytest.Config) -> None:
        if pytest.version_tuple < MIN_PYTEST:
            raise pytest.UsageError(f"--lab needs pytest 9; this is {pytest.__version__}")
        self._config = config
        here = config.invocation_params.dir
        given = [here / path for path in config.getoption("lab")] or config.getini("lab")
        self.paths = tuple(dict.fromkeys(_as_loaded(path) for path in given))
        self._plans: dict[Path, Plan] = {}
        self._collected: set[Path] = set()
        told: dict[str, str] = getattr(config, "workerinput", {}).get(WORKER_INPUT, {})
        self._is_worker = bool(told)
        self._run_id = told.get("run_id") or new_run_id()
        self._folder = (
            Path(told["folder"]) if told else Path(tempfile.mkdtemp(prefix="lab-pytest-"))
        )
        self._verdicts = Verdicts(self._folder)
        self._selection: list[CellKey] = []
        self._begun = False
        self._runs: BackgroundRuns | None = None
        self._failures = 0
        self._add_to_what_is_collected()

    def _add_to_what_is_collected(self) -> None:
        """Without a path on the command line, labs are collected too, wherever they are."""
        self._adds = self._config.args_source is not pytest.Config.ArgsSource.ARGS
        if self._adds:
            self._config.args += map(str, self.paths)

    # --- labs ------------------------------------------------------------------------------

    @property
    def cache(self) -> Cache:
        """The lab's cache, which asks no network where that is not wanted."""
        return Cache(default_cache_dir(), offline=self._config.getoption("lab_offline"))

    def plan(self, path: Path) -> Plan:
        """What of a lab is to be played, before pytest selects. Raises ``LabError``."""
        if path not in self._plans:
            lab = load_lab(path, entry_types())
            try:
                self._plans[path] = make_plan(
                    lab,
                    self.cache,
                    kernels=self._config.getoption("lab_kernel"),
                    jobs=self._config.getoption("lab_jobs"),
                )
            except UsageError as error:
                message = error.message.replace("--kernel", "--lab-kernel", 1)
                raise UsageError(message, hint=error.hint) from error
        return self._plans[path]

    def run_dir(self, path: Path) -> Path:
        """The folder that is written to for one lab."""
        chosen = self._config.getoption("lab_results")
        here = self._config.invocation_params.dir
        base = here / chosen if chosen else path.parent / "lab-results"
        number = self.paths.index(path) + 1  # labs may share a folder of results
        return Path(base, self._run_id if number == 1 else f"{self._run_id}-{number}")

    # --- collection ------------------------------------------------------------------------

    def pytest_report_header(self) -> list[str]:
        """Which labs are played."""
        return [f"lab: {os.path.relpath(path)}" for path in self.paths]

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> LabCollector | None:
        """A lab's file is a file of tests."""
        for path in self.paths:
            if _as_loaded(file_path) == path:
                self._collected.add(path)
                return LabCollector.from_parent(parent, path=file_path, lab_path=path, lab=self)
        return None

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """A test that wants a guest is played on every kernel that was chosen."""
        if "lab_guest" not in metafunc.fixturenames:
            return
        try:
            kernels_of(metafunc.definition)
            plans = [self.plan(path) for path in self.paths]
        except LabError as error:
            raise pytest.Collector.CollectError(error.render()) from error
        except ValueError as error:
            where = f"{metafunc.definition.nodeid}: @pytest.mark.kernels"
            raise pytest.Collector.CollectError(f"{where}: {error}") from error
        choices = [
            pytest.param(
                GuestChoice(plan.lab.path, kernel),
                id=kernel.name if len(plans) == 1 else f"{plan.lab.file.lab}-{kernel.name}",
                marks=tuple(kernel_marks(self._config, kernel)),
            )
            for plan in plans
            for kernel in plan.kernels
        ]
        metafunc.parametrize("lab_guest", choices, indirect=True)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note what was selected; pytest-xdist's controller does not see items."""
        missed = [path for path in self.paths if path not in self._collected]
        if self._adds and missed and not session.testsfailed:
            raise pytest.UsageError(
                f"{os.path.relpath(missed[0])} was not collected: pytest leaves its folder out "
                "(norecursedirs); name the file on the command line"
            )
        self._selection = [item.key for item in session.items if isinstance(item, CellItem)]
        if self._is_worker:
            aside = self._folder / f"{SELECTION_FILE}-{os.getpid()}"
            aside.write_bytes(pickle.dumps(self._selection))
            aside.replace(self._folder / SELECTION_FILE)

    # --- the run ---------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None]:
        """A complaint of the kernel fails the test that it came in."""
        yield
        if (guest := item.stash.get(OPEN_GUEST, None)) is not None:
            guest.check()

    def wait_for(self, item: CellItem) -> None:
        """Have a cell's verdict given to its item, once there is one. Raises ``LabError``."""
        if not self._is_worker:
            self._begin(self._selection)
        item.result = self._verdicts.wait_for(item.key)

    def _begin(self, selection: Sequence[CellKey]) -> None:
        """Start the run of what was selected, once."""
        if self._begun:
            return
        self._begun = True
        try:
            plans = list(self._selected(selection))
            if not any(plan.cell_count for plan in plans):
                return
            require_host()
            orders = [
                RunOrder(plan, self.cache, self.make_run_dir(plan.lab.path)) for plan in plans
            ]
        except LabError as error:
            self._verdicts.tell_end(error.render())
            return
        self._runs = BackgroundRuns(orders, self._verdicts)
        self._runs.start()

    def make_run_dir(self, path: Path) -> RunDir:
        """The folder that is written to for one lab, which is there then. Raises ``HostError``."""
        root = self.run_dir(path)
        return RunDir(root) if root.exists() else create_run_dir(root.parent, root.name)

    def _selected(self, selection: Iterable[CellKey]) -> Iterable[Plan]:
        """The plans of the labs, with those cells alone, in pytest's order as far as can be."""
        wanted: dict[Path, dict[str, list[str]]] = {}
        for key in selection:
            wanted.setdefault(key.lab, {}).setdefault(key.kernel, []).append(key.scenario)
        for path, names in wanted.items():
            plan = self.plan(path)
            kernels = {kernel.name: kernel for kernel in plan.kernels}
            chosen = []
            for name, scenarios in names.items():
                cells = {cell.scenario.name: cell for cell in kernels[name].cells}
                some = tuple(cells[scenario] for scenario in dict.fromkeys(scenarios))
                chosen.append(replace(kernels[name], cells=some))
            yield replace(plan, kernels=tuple(chosen))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """End the run at the last failure that ``-x`` or ``--maxfail`` allows.

        pytest-xdist would wait for the tests that other processes wait for.
        """
        self._failures += report.failed and not hasattr(report, "wasxfail")
        most = self._config.getoption("maxfail") or 0
        if self._runs is not None and 0 < most <= self._failures:
            self._runs.stop()

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """End what still runs: after ``-x`` and Ctrl-C there are scenarios nobody waits for."""
        if self._runs is not None:
            self._runs.finish()

    def pytest_unconfigure(self) -> None:
        """Nothing is left of the way that verdicts took."""
        if not self._is_worker:
            shutil.rmtree(self._folder, ignore_errors=True)

    # --- pytest-xdist ----------------------------------------------------------------------

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a process of pytest-xdist's where verdicts come from."""
        node.workerinput[WORKER_INPUT] = {"folder": str(self._folder), "run_id": self._run_id}

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self) -> None:
        """Begin when the first process knows what was selected: all select the same."""
        if not self._begun:
            self._begin(pickle.loads((self._folder / SELECTION_FILE).read_bytes()))

    @pytest.hookimpl(wrapper=True)
    def pytest_report_from_serializable(self) -> Generator[None, Any, Any]:
        """Between processes a failure is plain text; here it gets its colours back."""
        report = yield
        return CellRepr.restored(report)

    # --- reports ---------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Show what failed in a guest as the lab does, in whatever phase it was."""
        report = yield
        explain(report, item, call)
        return report

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        """Where the evidence is, and what broke outside of any scenario."""
        for order, result in self._results():
            show_end(terminalreporter, order, result)

    def _results(self) -> Sequence[tuple[RunOrder, RunResult]]:
        return self._runs.results if self._runs is not None else ()
