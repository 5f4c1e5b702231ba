"""What is played again after which file of a lab has changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from orchestrator.adapters.sources import entry_types
from orchestrator.plan.affected import affected_cells, find_change, playable, restricted
from orchestrator.plan.labfile import load_lab
from orchestrator.plan.plan import Plan, resolve_plan, select_scenarios
from orchestrator.plan.recipes import load_recipe

LAB = """\
lab: demo
modules: {core: core, user: user, other: other}
kernels:
  "5.4": {image: focal, version: "5.4"}
  "6.1": {image: bookworm, version: "6.1"}
scenarios: [scenarios/*.yaml]
"""
FIRST = """\
scenarios:
  core: {modules: [core], steps: [{log: {has: [core]}}]}
  user: {modules: [user], steps: [{log: {has: [user]}}]}
  other: {kernels: ">=5.6", modules: [some-other], steps: [{log: {has: [x]}}]}
"""
SECOND = """\
scenarios:
  none: {steps: [{run: uname -r}]}
  program: {steps: [{exec: tests/one.sh}]}
"""
GIVEN = {"core": {"core"}, "user": {"user"}, "other": {"some_other"}}


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    for name in ("core", "user", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "Kbuild").write_text("obj-m := x.o\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/one.sh").write_text("#!/bin/sh\n")
    (tmp_path / "tests/one.sh").chmod(0o755)
    (tmp_path / "scenarios").mkdir()
    (tmp_path / "scenarios/a.yaml").write_text(FIRST)
    (tmp_path / "scenarios/b.yaml").write_text(SECOND)
    (tmp_path / "lab.yaml").write_text(LAB)
    lab = load_lab(tmp_path / "lab.yaml", entry_types())
    return resolve_plan(
        lab,
        kernels=list(lab.file.kernels),
        scenarios=select_scenarios(lab, []),
        recipes={name: load_recipe(lab, name) for name in ("focal", "bookworm")},
        known={},
        jobs=1,
    )


def scenarios(
    plan: Plan, *names: str, given: Mapping[str, set[str]] = GIVEN
) -> dict[str, set[str]]:
    """What is affected by a change of these files, by kernel."""
    root = plan.lab.path.parent
    change = find_change(plan.lab, {root / name for name in names})
    found: dict[str, set[str]] = {}
    for kernel, scenario in affected_cells(plan, change, given):
        found.setdefault(kernel, set()).add(scenario)
    return found


def both(*names: str) -> dict[str, set[str]]:
    return {"5.4": set(names), "6.1": set(names)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # A folder may use what those before it export.
        ("core/core.c", {"5.4": {"a/core", "a/user"}, "6.1": {"a/core", "a/user", "a/other"}}),
        ("user/user.c", {"5.4": {"a/user"}, "6.1": {"a/user", "a/other"}}),
        ("other/deep/x.h", {"6.1": {"a/other"}}),
        ("scenarios/b.yaml", both("b/none", "b/program")),
        ("tests/one.sh", both("b/program")),
        ("README", {}),
    ],
)
def test_a_changed_file_affects_what_uses_it(
    plan: Plan, name: str, expected: dict[str, set[str]]
) -> None:
    assert scenarios(plan, name) == expected


@pytest.mark.parametrize("name", ["lab.yaml", "lab.lock"])
def test_the_labs_own_files_affect_everything(plan: Plan, name: str) -> None:
    found = {(kernel, each) for kernel, all_ in scenarios(plan, name).items() for each in all_}
    assert found == playable(plan)
    assert ("5.4", "a/other") not in found, "it is not for that kernel"


def test_what_several_files_affect_is_joined(plan: Plan) -> None:
    found = scenarios(plan, "other/x.c", "tests/one.sh")
    assert found == {"5.4": {"b/program"}, "6.1": {"a/other", "b/program"}}


def test_a_module_that_no_folder_is_known_to_give_may_come_from_any(plan: Plan) -> None:
    given = {"core": {"core"}, "user": {"user"}}  # the third did not build yet
    assert "a/other" in scenarios(plan, "user/x.c", given=given)["6.1"]
    assert "a/core" not in scenarios(plan, "user/x.c", given=given)["6.1"]


def test_a_new_scenario_file_is_a_reason_to_read_the_lab_anew(plan: Plan) -> None:
    root = plan.lab.path.parent
    assert find_change(plan.lab, {root / "scenarios/new.yaml"}).reload
    assert not find_change(plan.lab, {root / "scenarios/notes.txt"}).reload
    assert not find_change(plan.lab, {root / "core/core.c"}).reload


def test_a_plan_with_some_cells_has_no_others(plan: Plan) -> None:
    wanted = {("6.1", "a/user"), ("6.1", "b/none")}
    less = restricted(plan, wanted)
    assert [kernel.name for kernel in less.kernels] == ["6.1"]
    assert playable(less) == wanted
    assert less.lab is plan.lab
