"""The history: kept by many at once, and what it tells."""

from __future__ import annotations

import json
import sqlite3
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.adapters import history as store
from orchestrator.adapters.git import find_revision
from orchestrator.adapters.history import add_run, load_runs
from orchestrator.doors.cli import main
from orchestrator.doors.history import record
from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import HostError
from orchestrator.plan.history import PastRun, look_back, only, past_run
from orchestrator.plan.outcome import Outcome, Revision, RunResult
from orchestrator.policy.reports import write_reports
from orchestrator.policy.reports.past import history_values, render_history
from tests.unit.test_reports import EVERYTHING, HOSTILE, HOSTILE_RUN, matrix

pytestmark = pytest.mark.timeout(60)


def outcomes(number: int, *, dirty: bool = False, at: str = "aaa", **rows: str) -> PastRun:
    """A run on 5.4, 5.8, 5.10 and 6.1: each scenario's outcomes there, skipped if not said."""
    padded = {name: row.ljust(4, "S") for name, row in rows.items()}
    result = replace(
        matrix(**padded), run_id=f"run-{number}", started=f"2026-01-01T00:00:{number:02}Z"
    )
    return past_run(replace(result, revision=Revision(at, dirty)))


# --- what is new ---------------------------------------------------------------------------------


def test_what_fails_since_the_last_green_run_is_new() -> None:
    history = look_back(
        [
            outcomes(3, at="ccc", a="PPFF", b="PPPP"),
            outcomes(1, a="PPPP", b="PPPP"),
            outcomes(2, at="bbb", a="PPPF", b="PPFP"),
        ]
    )
    assert history.last_green is not None
    assert history.last_green.run_id == "run-1"
    assert {
        (each.kernel, each.since.run_id, each.since.revision.name) for each in history.broken
    } == {
        ("6.1", "run-2", "bbb"),
        ("5.10", "run-3", "ccc"),
    }
    assert [(each.scenario, each.kernel, each.since.run_id) for each in history.mended] == [
        ("b", "5.10", "run-3")
    ]


def test_what_failed_before_a_green_part_is_not_new() -> None:
    history = look_back([outcomes(1, a="PPPP", b="F"), outcomes(2, a="PPPP"), outcomes(3, b="F")])
    assert history.last_green is not None
    assert history.last_green.run_id == "run-2"
    assert not history.broken


def test_without_a_green_run_all_failures_are_told() -> None:
    history = look_back([outcomes(1, a="FPPP"), outcomes(2, a="FPPP")])
    assert history.last_green is None
    assert [(each.kernel, each.since.run_id) for each in history.broken] == [("5.4", "run-1")]
    assert not history.mended


def test_what_was_skipped_says_nothing() -> None:
    history = look_back([outcomes(1, a="PPPP"), outcomes(2, a="FPPP"), outcomes(3, a="SPPP")])
    assert [each.since.run_id for each in history.broken] == ["run-2"]


def test_nothing_is_told_of_no_runs() -> None:
    assert render_history(look_back([])) == "no run is recorded\n"
    assert history_values(look_back([]))["last"] is None


# --- what flakes, what is slow -------------------------------------------------------------------


def test_what_changes_at_one_revision_flakes() -> None:
    runs = [outcomes(n, a="P", b="P") for n in range(3)] + [outcomes(5, a="F", b="P")]
    (flake,) = look_back(runs).flakes
    assert (flake.scenario, flake.kernel, flake.good, flake.bad) == ("a", "5.4", 3, 1)
    assert flake.release == "5.4.302-amd64"


@pytest.mark.parametrize(
    "other",
    [
        outcomes(2, at="bbb", a="F"),
        outcomes(2, dirty=True, a="F"),
        outcomes(2, at="", a="F"),
        replace(outcomes(2, a="F"), kernels={"5.4": "5.4.303-amd64"}),
    ],
)
def test_what_may_be_a_change_is_no_flake(other: PastRun) -> None:
    assert not look_back([outcomes(1, a="P"), other]).flakes


def test_the_slowest_come_first_on_their_slowest_kernel() -> None:
    one = outcomes(1, a="PPPF", b="PPPP")
    cells = {
        key: replace(cell, seconds=len(key[0]) + (10.0 if key[1] == "b" else 0.0))
        for key, cell in one.cells.items()
    }
    slow = look_back([replace(one, cells=cells)]).slow
    assert [(each.scenario, each.kernel, each.seconds) for each in slow] == [
        ("b", "5.10", 14.0),
        ("a", "5.10", 4.0),
    ]


def test_only_some_are_looked_at() -> None:
    runs = [outcomes(1, a="PPPP", bb="PPPP"), outcomes(2, a="FFFF", bb="FFFF")]
    assert {each.scenario for each in look_back(only(runs, "b*")).broken} == {"bb"}
    told = look_back(only(runs, "a", "6.1")).broken
    assert [(each.scenario, each.kernel) for each in told] == [("a", "6.1")]


def test_the_text_is_safe_and_says_since_when() -> None:
    bad = replace(
        outcomes(2, at="b" * 40, a="F"), verdict=HOSTILE, cells={
            (HOSTILE, HOSTILE): replace(outcomes(2, a="F").cells["5.4", "a"], reason=HOSTILE)
        },
    )  # fmt: skip
    text = render_history(look_back([outcomes(1, a="P"), bad]))
    assert all(char.isprintable() or char == "\n" for char in text)
    assert f"since run-2 at {'b' * 12}\n" in text
    assert "newly failing since then:\n" in text


# --- the file ------------------------------------------------------------------------------------


def test_runs_come_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "history.sqlite"
    assert load_runs(path) == ()
    assert not path.exists()
    runs = [outcomes(1, a="PFES"), outcomes(2, dirty=True, a="PPPP")]
    for run in reversed(runs):
        assert add_run(path, run)
    assert list(load_runs(path)) == runs
    assert not add_run(path, runs[0])
    assert list(load_runs(path, "procfs")) == runs
    assert load_runs(path, "other") == ()


def test_what_had_not_ended_gives_way_to_what_came_of_it(tmp_path: Path) -> None:
    whole = outcomes(1, a="PPPP", b="PPPP")
    begun = replace(outcomes(1, a="PF"), exit_status=130, seconds=1.0)
    assert add_run(tmp_path / "h", begun)
    assert not add_run(tmp_path / "h", begun)
    assert add_run(tmp_path / "h", whole)
    assert not add_run(tmp_path / "h", begun)
    assert load_runs(tmp_path / "h") == (whole,)


def test_hostile_texts_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "h"
    run = past_run(replace(HOSTILE_RUN, lab="\ud800'; drop table run; --"))
    add_run(path, run)
    (read,) = load_runs(path)
    assert read.lab == "\\ud800'; drop table run; --"
    assert read.cells == run.cells


def test_many_runs_at_once_are_all_recorded(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    failures: list[BaseException] = []

    def add(number: int) -> None:
        try:
            add_run(path, outcomes(number, a="PPPP"))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=add, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert [run.run_id for run in load_runs(path)] == sorted(
        (f"run-{number}" for number in range(12)), key=lambda name: int(name[4:])
    )


def test_a_damaged_file_is_a_note_and_no_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "history.sqlite").write_text("no database, but long enough to be looked at" * 50)
    record(EVERYTHING, tmp_path)
    said = capsys.readouterr().err
    assert said.startswith("lab: note: this run is not recorded: the history in ")
    assert "hint: if it is damaged, remove it" in said


def test_a_locked_file_is_a_note_and_no_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "BUSY_SECONDS", 0.05)
    add_run(tmp_path / "history.sqlite", outcomes(1, a="P"))
    other = sqlite3.connect(tmp_path / "history.sqlite", isolation_level=None)
    other.execute("begin exclusive")
    record(EVERYTHING, tmp_path)
    assert "database is locked" in capsys.readouterr().err
    other.execute("rollback")
    other.close()
    record(EVERYTHING, tmp_path)
    assert capsys.readouterr().err == ""


def test_a_file_of_a_newer_lab_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "h"
    with sqlite3.connect(path) as database:
        database.execute("pragma user_version = 9")
    database.close()
    for use in (lambda: add_run(path, outcomes(1, a="P")), lambda: load_runs(path)):
        with pytest.raises(HostError, match="version 9"):
            use()


def test_what_stands_in_the_file_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "h"
    add_run(path, outcomes(1, a="P"))
    with sqlite3.connect(path) as database:
        database.execute("update cell set outcome = 'fine'")
    database.close()
    with pytest.raises(HostError, match="cannot be used"):
        load_runs(path)


# --- the command ---------------------------------------------------------------------------------


def keep(result: RunResult, folder: Path) -> None:
    (folder / result.run_id).mkdir(parents=True)
    write_reports(result, folder / result.run_id)


def test_older_runs_are_taken_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for number, row in enumerate(("PPPP", "PPPF")):
        result = replace(matrix(a=row), run_id=f"run-{number}", started=f"2026-01-0{number + 1}")
        keep(result, tmp_path / "old")
    (tmp_path / "old/broken").mkdir()
    (tmp_path / "old/broken/results.json").write_text("{")
    (tmp_path / "old/latest").symlink_to("run-1")
    assert main(["history", "--import", "old"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "2 runs added, 0 were there already\n"
    assert "left out: old/broken/results.json is damaged" in captured.err
    assert main(["history", "--import", "old/run-1"]) == 0
    assert capsys.readouterr().out == "0 runs added, 1 were there already\n"
    assert main(["history"]) == 0
    assert "newly failing since then:\n  a on 6.1, since run-1\n" in capsys.readouterr().out
    assert main(["history", "--json", "-k", "6.1"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["newly_failing"][0]["since"]["run_id"] == "run-1"
    assert main(["history", "-k", "none"]) == 2
    assert main(["history", "--results", "empty"]) == 0


def git(folder: Path, *words: str) -> None:
    identity = ("-c", "user.name=t", "-c", "user.email=t@t")
    done = process.run(
        ("git", "-C", str(folder), *identity, *words), deadline=Deadline.after(30, "git")
    )
    assert done.status == 0, done.stderr


def test_the_revision_and_what_was_changed_are_seen(tmp_path: Path) -> None:
    assert find_revision(tmp_path) == Revision()
    git(tmp_path, "init", "-q")
    assert find_revision(tmp_path) == Revision()
    lab = tmp_path / "lab"
    lab.mkdir()
    (lab / "lab.yaml").write_text("lab: x\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    clean = find_revision(lab)
    assert len(clean.name) == 40
    assert not clean.dirty
    (lab / "lab-results").mkdir()
    (lab / "lab-results/x").touch()
    (tmp_path / "beside").touch()
    assert find_revision(lab) == clean
    (lab / "new.yaml").touch()
    assert find_revision(lab) == Revision(clean.name, dirty=True)


def test_a_skipped_cell_is_kept_as_such(tmp_path: Path) -> None:
    add_run(tmp_path / "h", outcomes(1, a="SPPP"))
    (run,) = load_runs(tmp_path / "h")
    assert run.cells["5.4", "a"].outcome is Outcome.SKIPPED
