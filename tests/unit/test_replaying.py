"""``lab replay``: which cell is meant, up to which step it is played, and what has changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.adapters.sources import entry_types
from orchestrator.doors.replaying import render_replay
from orchestrator.foundation.errors import UsageError
from orchestrator.plan.labfile import load_lab
from orchestrator.plan.model import NamedScenario
from orchestrator.plan.outcome import (
    CellResult,
    KernelResult,
    Mismatch,
    Outcome,
    RunResult,
    SourcePlace,
    StepResult,
)
from orchestrator.plan.places import hash_scenario
from orchestrator.plan.replaying import Parts, Past, find_changes, find_past
from tests.unit.labs import SCENARIOS, demo_lab, write_lab

P, F, S = Outcome.PASSED, Outcome.FAILED, Outcome.SKIPPED


def cell(name: str, outcome: Outcome, *steps: Outcome, reason: str = "") -> CellResult:
    told = tuple(
        StepResult(
            number,
            f"run {number}",
            each,
            mismatches=(Mismatch("status", "not \x1b so"),) if each is F else (),
        )
        for number, each in enumerate(steps, 1)
    )
    return CellResult("6.1", name, outcome, reason, told)


def result(*cells: CellResult) -> RunResult:
    kernels = (KernelResult("6.1", None, cells=cells),)
    places = (SourcePlace("a/one", "a.yaml", 1, "5ca1ab1e"),)
    return RunResult(
        "demo", "id", "0", "", 1.0, "tcg", "", "7.2", kernels=kernels, scenarios=places
    )


def past(of: CellResult) -> Past:
    return Past(KernelResult("6.1", None, cells=(of,)), of, "")


@pytest.mark.parametrize(
    ("outcome", "steps", "expected"),
    [
        (F, (P, F, S), 2),
        (F, (F, S, S), 1),
        (F, (P, P, F), 3),
        (F, (P, P), None),  # the kernel complained, or something was left behind
        (P, (P, P), None),
        (P, (P, S, P), None),  # a test program that skipped itself
        (F, (S, P, F), 3),
        (F, (P, S, S), 2),  # the guest ended in it
        (Outcome.ERROR, (P, S, S), 2),
    ],
)
def test_it_is_played_up_to_the_step_that_failed_first(
    outcome: Outcome, steps: tuple[Outcome, ...], expected: int | None
) -> None:
    assert past(cell("a/one", outcome, *steps)).stop_before == expected


@pytest.mark.parametrize("word", ["6.1/a/one", "6.1/one"])
def test_a_cell_is_found_by_its_name(word: str) -> None:
    found = find_past(result(cell("a/one", F, F), cell("b/two", P, P)), word)
    assert (found.cell.scenario, found.scenario_sha256) == ("a/one", "5ca1ab1e")


def test_what_an_older_lab_wrote_has_no_hash() -> None:
    assert find_past(result(cell("b/two", F, F)), "6.1/b/two").scenario_sha256 == ""


@pytest.mark.parametrize(
    ("word", "what"),
    [
        ("5.4/a/one", "no cell"),
        ("6.1/a/none", "no cell"),
        ("6.1", "no cell"),
        ("6.1/one", "more than one cell"),
        ("6.1/c/new", "was not played in that run: it does not \\\\x1b build"),
    ],
)
def test_another_name_is_refused_and_what_failed_is_named(word: str, what: str) -> None:
    run = result(
        cell("a/one", F, F), cell("b/one", P, P), cell("c/new", F, reason="it does not \x1b build")
    )
    with pytest.raises(UsageError, match=what) as caught:
        find_past(run, word)
    assert caught.value.hint == "what failed: 6.1/a/one"


SAME = Parts("6.1.0-1", "k", "s", {"hello": "m"})


@pytest.mark.parametrize(
    ("before", "said"),
    [
        (SAME, []),
        (replace(SAME, release="6.1.0-\x1b0"), ["the kernel is 6.1.0-1, and was 6.1.0-\\x1b0"]),
        (
            replace(SAME, kernel_sha256="other"),
            ["the kernel's file is another one, of the same release 6.1.0-1"],
        ),
        (replace(SAME, kernel_sha256=""), []),
        (replace(SAME, modules={"hello": "other"}), ["the module hello has changed"]),
        (
            replace(SAME, modules={}),
            ["whether the module hello has changed is not known: it was not kept"],
        ),
        (replace(SAME, modules={"hello": "m", "unused": "x"}), []),
        (replace(SAME, scenario_sha256="other"), ["the scenario has changed"]),
        (
            replace(SAME, scenario_sha256=""),
            ["whether the scenario has changed is not known: an older lab played it"],
        ),
    ],
)
def test_what_has_changed_is_said(before: Parts, said: list[str]) -> None:
    assert list(find_changes(before, SAME)) == said


def scenario(folder: Path, text: str, name: str = "all/uname") -> NamedScenario:
    write_lab(folder)
    (folder / "scenarios/all.yaml").write_text(text)
    lab = load_lab(folder / "lab.yaml", entry_types())
    return next(each for each in lab.scenarios if each.name == name)


def test_a_scenario_is_what_it_does(tmp_path: Path) -> None:
    first = hash_scenario(scenario(tmp_path / "1", SCENARIOS))
    worded = SCENARIOS.replace("uname:", "uname:\n    about: Other words.")
    assert hash_scenario(scenario(tmp_path / "2", worded)) == first
    other = SCENARIOS.replace("uname -r", "uname -a")
    assert hash_scenario(scenario(tmp_path / "3", other)) != first


def test_what_comes_next_is_printed_with_what_failed_then(tmp_path: Path) -> None:
    named = next(each for each in demo_lab(tmp_path).scenarios if each.name == "all/loading")
    assert [step.title for step in named.all_steps] == ["load hello", "log"]
    then = past(cell("all/loading", F, P, F, reason="\x1b[2J"))
    played = (StepResult(1, "load hello", P),)
    lines = list(render_replay(then, named, ("the scenario has changed",), played, ("oops: \x1b",)))
    assert lines == [
        "then: failed: \\x1b[2J",
        "changed since: the scenario has changed",
        "played again:",
        "   1 load hello: passed",
        "  the kernel complained: oops: \\x1b",
        "not played, yours to try:",
        "   2 log  <- failed then: not \\x1b so",
    ]


def test_a_step_that_fails_this_time_is_told(tmp_path: Path) -> None:
    named = next(each for each in demo_lab(tmp_path).scenarios if each.name == "all/loading")
    played = (StepResult(1, "load hello", F, mismatches=(Mismatch("errno", "EEXIST"),)),)
    lines = list(render_replay(past(cell("all/loading", P, P, P)), named, (), played, ()))
    assert "   1 load hello: failed, unlike then: EEXIST" in lines
    assert lines[-1] == "   2 log"
