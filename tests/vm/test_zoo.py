"""The zoo: what is wrong with a module is found, and called what it is, in real guests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faulty import zoo
from tests.faulty.table import TABLE
from tests.faulty.zoo import Verdict, compare

from .conftest import REPOSITORY, Ran, run_lab

LAB = REPOSITORY / "tests/faulty/lab.yaml"
KERNELS = {"5.4", "5.10", "6.1", "6.12"}
# One of each sort: a complaint with its line, a panic, a wrong step, what stays, a load and an
# unload that are refused, and two that are healthy.
PART = (
    "faulty/null_deref",
    "faulty/panic_exit",
    "faulty/short_read",
    "faulty/proc_left",
    "faulty/needs_symbol",
    "faulty/module_held",
    "healthy/lookalike",
    "healthy/tidy",
)


def play(results_dir: Path, *arguments: str) -> tuple[Ran, list[Verdict]]:
    """The zoo as ``make zoo`` plays it; what is wrong with the verdicts is printed."""
    ran = run_lab(results_dir, "--lab", LAB, *arguments)
    verdicts = list(compare(ran.results))
    print(zoo.render(verdicts))
    return ran, verdicts


def test_a_part_of_the_zoo(tmp_path: Path) -> None:
    chosen = [word for name in PART for word in ("--scenario", name)]
    ran, verdicts = play(tmp_path / "results", "--kernel", "6.1", *chosen)
    assert {each.scenario for each in verdicts} == set(PART)
    assert [each for each in verdicts if not each.good] == []
    # The dead hold their module: its unload would wait for them.
    unload = ran.cells()["6.1", "faulty/null_deref"]["steps"][-1]
    assert (unload["title"], unload["outcome"]) == ("unload null_deref", "skipped")


@pytest.mark.nightly  # a guest for almost every scenario
def test_all_of_the_zoo(tmp_path: Path) -> None:
    _, verdicts = play(tmp_path / "results")
    assert {each.kernel for each in verdicts} == KERNELS
    assert {each.scenario for each in verdicts} == set(TABLE)
    assert [each for each in verdicts if not each.good] == []
