"""What cells took is remembered, and only ever changes the order."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.adapters.cache import Cache
from orchestrator.plan.outcome import CellResult, Outcome
from orchestrator.plan.plan import Cell
from orchestrator.policy.durations import KIND, Durations
from tests.unit.labs import demo_lab


@pytest.fixture
def cells(tmp_path: Path) -> list[Cell]:
    return [Cell(scenario) for scenario in demo_lab(tmp_path).scenarios]


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def names(cells: list[Cell]) -> list[str]:
    return [cell.scenario.name.split("/")[1] for cell in cells]


def played(cell: Cell, seconds: float, outcome: Outcome = Outcome.PASSED) -> CellResult:
    return CellResult("6.1", cell.scenario.name, outcome, seconds=seconds)


def test_the_order_is_the_plans_until_something_is_known(cells: list[Cell], cache: Cache) -> None:
    assert Durations(cache, "demo").longest_first("6.1", cells) == cells


def test_the_longest_is_first_in_the_next_run(cells: list[Cell], cache: Cache) -> None:
    results = [played(cell, seconds) for cell, seconds in zip(cells, (1, 2, 3), strict=True)]
    Durations(cache, "demo").remember(results)
    again = Durations(cache, "demo")
    assert again.longest_first("6.1", cells) == cells[::-1]
    assert again.longest_first("5.4", cells) == cells
    assert Durations(cache, "other").longest_first("6.1", cells) == cells


def test_what_was_never_judged_comes_before_all(cells: list[Cell], cache: Cache) -> None:
    first, second, third = cells
    results = [played(first, 1), played(second, 9), played(third, 5, Outcome.ERROR)]
    Durations(cache, "demo").remember(results)
    order = Durations(cache, "demo").longest_first("6.1", cells)
    assert names(order) == ["uname", "loading-twice", "loading"]


@pytest.mark.parametrize("damage", ["", "[]", "{", '{"6.1": 3}', '{"6.1": {"x": "y"}}', "[" * 9999])
def test_damage_costs_the_order_alone(damage: str, cells: list[Cell], cache: Cache) -> None:
    Durations(cache, "demo").remember([played(cells[2], 9)])
    (file,) = (cache.root / KIND).glob("*/seconds.json")
    file.write_text(damage)
    durations = Durations(cache, "demo")
    assert durations.longest_first("6.1", cells) == cells
    durations.remember([played(cells[2], 1), played(cells[0], 0.5), played(cells[1], 0.7)])
    assert names(Durations(cache, "demo").longest_first("6.1", cells))[0] == "uname"


def test_a_cache_that_cannot_be_written_is_no_matter(cells: list[Cell], tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    Durations(Cache(blocked), "demo").remember([played(cells[0], 1)])
    assert blocked.read_text() == "no folder"
