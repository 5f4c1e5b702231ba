"""``lab watch``: what it sees of files, in which order it plays, and what it says."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.adapters.snapshots import changed_paths, take_snapshot
from orchestrator.adapters.sources import entry_types
from orchestrator.doors.watching import render_changed, render_round
from orchestrator.foundation.errors import ConfigError, LabError, SourceError
from orchestrator.plan.labfile import load_lab
from orchestrator.plan.outcome import (
    CellResult,
    FolderBuild,
    KernelResult,
    Outcome,
    RunResult,
)
from orchestrator.plan.paths import RunDir
from orchestrator.plan.plan import Plan, resolve_plan, select_scenarios
from orchestrator.plan.recipes import load_recipe
from orchestrator.policy.watch import Changed, Mistake, Round, Watch, WatchEvent
from orchestrator.policy.worker import INTERRUPTED
from tests.unit.labs import SCENARIOS, demo_lab, write_lab

SECONDS = 30


# --- what files look like -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["lab.yaml", "lab.lock", "scenarios/all.yaml", "scenarios/b.yaml", "src/deep/h.h"]
)
def test_a_file_that_is_written_is_seen(tmp_path: Path, name: str) -> None:
    lab = demo_lab(tmp_path)
    before = take_snapshot(lab)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    with (tmp_path / name).open("a") as file:
        file.write("# more\n")
    assert changed_paths(before, take_snapshot(lab)) == {(tmp_path / name).resolve()}


def test_a_file_that_is_renamed_into_place_is_seen_whatever_its_time(tmp_path: Path) -> None:
    lab = demo_lab(tmp_path)
    path, aside = tmp_path / "src/Kbuild", tmp_path / "aside"
    before = take_snapshot(lab)
    aside.write_bytes(path.read_bytes())
    about = path.stat()
    os.utime(aside, ns=(about.st_atime_ns, about.st_mtime_ns))
    aside.rename(path)
    assert changed_paths(before, take_snapshot(lab)) == {path.resolve()}


def test_a_file_that_goes_is_seen(tmp_path: Path) -> None:
    lab = demo_lab(tmp_path)
    before = take_snapshot(lab)
    (tmp_path / "src/Kbuild").unlink()
    assert changed_paths(before, take_snapshot(lab)) == {(tmp_path / "src/Kbuild").resolve()}


@pytest.mark.parametrize(
    "name",
    [".x.c.swp", "4913", "x.c~", "#x.c#", ".#x.c", "x.c.tmp", "x.o", "x.ko", ".git/index"],
)
def test_what_tools_leave_is_not_seen(tmp_path: Path, name: str) -> None:
    lab = demo_lab(tmp_path)
    before = take_snapshot(lab)
    (tmp_path / "src" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "src" / name).write_text("x")
    assert changed_paths(before, take_snapshot(lab)) == frozenset()


# --- the loop ---------------------------------------------------------------------------------


def read_plan(folder: Path) -> Plan:
    lab = load_lab(folder / "lab.yaml", entry_types())
    return resolve_plan(
        lab,
        kernels=["6.1"],
        scenarios=select_scenarios(lab, []),
        recipes={"bookworm": load_recipe(lab, "bookworm")},
        known={},
        jobs=1,
    )


def result_of(plan: Plan, outcomes: Callable[[str], tuple[Outcome, str]]) -> RunResult:
    kernels = tuple(
        KernelResult(
            kernel.name,
            None,
            builds=(FolderBuild("hello", "host", 1.0),),
            cells=tuple(
                CellResult(kernel.name, cell.scenario.name, *outcomes(cell.scenario.name))
                for cell in kernel.cells
            ),
        )
        for kernel in plan.kernels
    )
    return RunResult("demo", "id", "0", "", 1.0, "tcg", "", "7.2", kernels=kernels)


class Watched:
    """A watch on a thread of its own, of a lab in a folder; guests are left out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_lab(folder)
        self.played: list[set[str]] = []
        self.outcome = Outcome.PASSED
        self.failure: LabError | None = None
        self.block: threading.Event | None = None
        self._events: queue.SimpleQueue[WatchEvent] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._watch = Watch(lambda: read_plan(folder), self._play, self._events.put)
        self._thread = threading.Thread(target=self._watch.run, args=(self._stop,))
        self._thread.start()

    def _play(self, plan: Plan, stop: threading.Event) -> tuple[RunResult, RunDir]:
        self.played.append({cell.scenario.name for k in plan.kernels for cell in k.cells})
        if self.failure is not None:
            raise self.failure
        if self.block is not None:
            self.block.set()
            self.block = None
            assert stop.wait(SECONDS), "it is not ended though a file has changed"
            return self._result(plan, Outcome.SKIPPED, INTERRUPTED)
        return self._result(plan, self.outcome, "")

    def _result(self, plan: Plan, outcome: Outcome, reason: str) -> tuple[RunResult, RunDir]:
        run_dir = RunDir(self.folder / "lab-results" / f"run-{len(self.played)}")
        modules = run_dir.modules("6.1") / "hello"
        modules.mkdir(parents=True)
        (modules / "hello.ko").write_bytes(b"")
        return result_of(plan, lambda _: (outcome, reason)), run_dir

    def next(self) -> WatchEvent:
        return self._events.get(timeout=SECONDS)

    def next_round(self) -> Round:
        event = self.next()
        assert isinstance(event, Round), event
        return event

    def changed(self) -> set[str]:
        event = self.next()
        assert isinstance(event, Changed), event
        return {path.name for path in event.paths}

    def write(self, name: str, text: str) -> None:
        aside = self.folder / "aside"
        aside.write_text(text)
        aside.rename(self.folder / name)

    def close(self) -> None:
        self._stop.set()
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    found = Watched(tmp_path)
    yield found
    found.close()


ALL = {"all/loading", "all/loading-twice", "all/uname"}


def test_everything_is_played_and_then_what_is_affected(watched: Watched) -> None:
    assert set(watched.next_round().board) == {("6.1", name) for name in ALL}
    watched.write("src/Kbuild", "obj-m := hello.o # changed\n")
    assert watched.changed() == {"Kbuild"}
    watched.outcome = Outcome.FAILED
    round_ = watched.next_round()
    assert watched.played == [ALL, {"all/loading", "all/loading-twice"}]
    assert {cell.outcome for cell in round_.result.cells} == {
        round_.board["6.1", "all/loading"].outcome
    }
    assert round_.board["6.1", "all/uname"].outcome is Outcome.PASSED


def test_a_mistake_is_told_and_what_it_kept_from_being_played_follows(watched: Watched) -> None:
    watched.next_round()
    watched.write("scenarios/all.yaml", SCENARIOS.replace("uname -r", "[1, 2]"))
    assert watched.changed() == {"all.yaml"}
    event = watched.next()
    assert isinstance(event, Mistake)
    assert isinstance(event.error, ConfigError)
    watched.write("src/Kbuild", "obj-m := hello.o # meanwhile\n")
    assert watched.changed() == {"Kbuild"}
    assert isinstance(watched.next(), Mistake), "it is still there"
    watched.write("scenarios/all.yaml", SCENARIOS.replace("uname -r", "uname -a"))
    assert watched.changed() == {"all.yaml"}
    watched.next_round()
    assert watched.played == [ALL, ALL]


def test_a_scenario_that_is_gone_is_gone_from_the_board(watched: Watched) -> None:
    watched.next_round()
    watched.write("scenarios/all.yaml", SCENARIOS.partition("  uname:")[0])
    watched.changed()
    assert set(watched.next_round().board) == {("6.1", name) for name in ALL - {"all/uname"}}


def test_what_a_change_interrupts_is_played_again(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    try:
        watched.next_round()
        begun = watched.block = threading.Event()
        watched.write("src/Kbuild", "obj-m := hello.o # 1\n")
        watched.changed()
        assert begun.wait(SECONDS)
        watched.write("scenarios/more.yaml", SCENARIOS)
        assert watched.next_round().left == 2
        watched.changed()
        watched.next_round()
        more = {name.replace("all/", "more/") for name in ALL}
        assert watched.played[1] == {"all/loading", "all/loading-twice"}
        assert watched.played[2] == watched.played[1] | more
    finally:
        watched.close()


def test_what_breaks_the_lab_is_told_and_tried_again_after_a_change(watched: Watched) -> None:
    watched.next_round()
    watched.failure = SourceError("no network")
    watched.write("src/Kbuild", "obj-m := hello.o # 1\n")
    watched.changed()
    assert isinstance(watched.next(), Mistake)
    watched.failure = None
    watched.write("src/Kbuild", "obj-m := hello.o # 2\n")
    watched.changed()
    assert len(watched.next_round().result.cells) == 2


# --- what is said -------------------------------------------------------------------------------


def test_a_round_is_a_line_and_the_first_failure(tmp_path: Path) -> None:
    write_lab(tmp_path)
    plan = read_plan(tmp_path)

    def outcome(name: str) -> tuple[Outcome, str]:
        if name == "all/uname":
            return Outcome.PASSED, ""
        return Outcome.FAILED, f"{name} \x1b[2J did not"

    result = result_of(plan, outcome)
    board = {(cell.kernel, cell.scenario): cell for cell in result.cells}
    text = render_round(Round(result, board, RunDir(tmp_path / "run"), 0), lambda word: word)
    lines = text.splitlines()
    assert lines[0] == "FAIL  2 of 3 failed (3 played in 1.0 s)"
    assert "all/loading" in lines[1]
    assert "all/loading-twice" not in text, "the first alone"
    assert "\x1b" not in text
    assert lines[-1].endswith("run/report.txt")


def test_many_changed_files_are_counted() -> None:
    paths = tuple(Path(f"/nowhere/{number}.c") for number in range(9))
    assert render_changed(paths) == ("changed: /nowhere/0.c, /nowhere/1.c, /nowhere/2.c and 6 more")
