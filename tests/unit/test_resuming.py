"""What of a run that was cut short still stands, and when nothing does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator import __version__
from orchestrator.adapters.sources import entry_types
from orchestrator.foundation.errors import UsageError
from orchestrator.plan.kernel import ResolvedKernel
from orchestrator.plan.labfile import load_lab
from orchestrator.plan.outcome import CellResult, KernelResult, Outcome, RunInput, RunResult
from orchestrator.plan.paths import RunDir
from orchestrator.plan.places import scenario_places
from orchestrator.plan.plan import Plan, resolve_plan
from orchestrator.plan.recipes import load_shipped_recipe
from orchestrator.policy.reports import JUDGED_FILE, append_judged, write_reports
from orchestrator.policy.reports.reading import load_results
from orchestrator.policy.resuming import (
    clear_folder,
    find_inputs,
    holding,
    join_kernels,
    left_of,
    planned_as,
    take_over,
    with_kernels,
)

LAB = """\
lab: demo
modules: {mod: src}
kernels:
  "6.1": {image: bookworm, version: "6.1"}
  "5.10": {image: bullseye, version: "5.10"}
scenarios: [a.yaml]
"""
SCENARIOS = "scenarios:\n" + "".join(
    f'  {name}: {{steps: [{{run: "true"}}]}}\n' for name in ("one", "two", "three")
)
KNOWN = {
    "6.1": ResolvedKernel(release="6.1.0-9", version="6.1.9", origin="there", parts=()),
    "5.10": ResolvedKernel(release="5.10.0-9", version="5.10.9", origin="there", parts=()),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/Makefile").write_text("obj-m := mod.o\n")
    (tmp_path / "src/mod.c").write_text("/* */\n")
    (tmp_path / "lab.yaml").write_text(LAB)
    (tmp_path / "a.yaml").write_text(SCENARIOS)
    return tmp_path


def make_plan(folder: Path, known: dict[str, ResolvedKernel] = KNOWN) -> Plan:
    lab = load_lab(folder / "lab.yaml", entry_types())
    recipes = {name: load_shipped_recipe(name) for name in ("bookworm", "bullseye")}
    return resolve_plan(
        lab,
        kernels=tuple(lab.file.kernels),
        scenarios=lab.scenarios,
        recipes=recipes,
        known=known,
        jobs=1,
    )


def cell(kernel: str, name: str, outcome: Outcome = Outcome.PASSED) -> CellResult:
    scenario = f"a/{name}"
    return CellResult(kernel, scenario, outcome, evidence=Path(f"{kernel}/scenarios/a.{name}"))


def cut_short(plan: Plan, *cells: CellResult) -> RunResult:
    """What is on disk of a run of this plan that was killed."""
    return RunResult(
        lab="demo",
        run_id="20260101-000000-abcd",
        lab_version=__version__,
        started="2026-01-01T00:00:00Z",
        seconds=7.0,
        accelerator="tcg",
        accelerator_reason="no KVM",
        qemu_version="7.2",
        interrupted=True,
        kernels=tuple(
            KernelResult(each.name, None, cells=tuple(c for c in cells if c.kernel == each.name))
            for each in plan.kernels
        ),
        scenarios=scenario_places(plan),
        inputs=find_inputs(plan),
    )


def taken(result: RunResult) -> list[tuple[str, str]]:
    return [(cell.kernel, cell.scenario) for cell in result.cells]


def test_what_was_judged_is_taken_over_and_nothing_else(folder: Path) -> None:
    plan = make_plan(folder)
    result = cut_short(
        plan,
        cell("6.1", "one"),
        cell("6.1", "two", Outcome.FAILED),
        cell("6.1", "three", Outcome.ERROR),
        cell("5.10", "one", Outcome.SKIPPED),
    )
    earlier = take_over(result, plan)
    assert taken(earlier) == [("6.1", "a/one"), ("6.1", "a/two")]
    left = [(k.name, c.scenario.name) for k in left_of(plan, earlier).kernels for c in k.cells]
    assert left == [("6.1", "a/three"), *(("5.10", f"a/{n}") for n in ("one", "two", "three"))]


def change_lab(folder: Path) -> None:
    (folder / "lab.yaml").write_text(LAB + "settle: 3\n")


def change_scenario(folder: Path) -> None:
    (folder / "a.yaml").write_text(SCENARIOS.replace("true", "false"))


def change_module(folder: Path) -> None:
    (folder / "src/mod.c").write_text("/* other */\n")


def add_source(folder: Path) -> None:
    (folder / "src/more.h").write_text("\n")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (change_lab, "lab.yaml is not what it was"),
        (change_scenario, "a.yaml is not what it was"),
        (change_module, "modules mod is not what it was"),
        (add_source, "modules mod is not what it was"),
    ],
)
def test_another_lab_is_refused(folder: Path, change: Callable[[Path], None], said: str) -> None:
    plan = make_plan(folder)
    result = cut_short(plan, cell("6.1", "one"))
    change(folder)
    with pytest.raises(UsageError, match=said) as caught:
        take_over(result, make_plan(folder))
    assert "starts anew" in caught.value.hint


def test_another_kernel_is_refused(folder: Path) -> None:
    result = cut_short(make_plan(folder), cell("6.1", "one"))
    newer = KNOWN["6.1"].model_copy(update={"release": "6.1.0-10"})
    with pytest.raises(UsageError, match=r"kernel 6\.1 is not what it was"):
        take_over(result, make_plan(folder, {**KNOWN, "6.1": newer}))


def test_cells_of_a_kernel_of_which_nothing_is_written_are_played_again(folder: Path) -> None:
    unknown = make_plan(folder, {"5.10": KNOWN["5.10"]})
    result = cut_short(unknown, cell("6.1", "one"), cell("5.10", "one"))
    assert taken(take_over(result, make_plan(folder))) == [("5.10", "a/one")]
    known = replace(result, inputs=with_kernels(result.inputs, make_plan(folder).kernels))
    assert len(taken(take_over(known, make_plan(folder)))) == 2


def test_results_of_other_labs_are_refused(folder: Path) -> None:
    plan = make_plan(folder)
    result = cut_short(plan, cell("6.1", "one"))
    with pytest.raises(UsageError, match="did not write down"):
        take_over(replace(result, inputs=()), plan)
    with pytest.raises(UsageError, match=r"lab 0\.0\.0"):
        take_over(replace(result, lab_version="0.0.0"), plan)
    with pytest.raises(UsageError, match="is not what it was"):
        take_over(replace(result, inputs=(*result.inputs, RunInput("gone.yaml", "12"))), plan)


def test_a_run_that_was_judged_has_nothing_left(folder: Path) -> None:
    plan = make_plan(folder)
    cells = [cell(each.name, n) for each in plan.kernels for n in ("one", "two", "three")]
    with pytest.raises(UsageError, match="nothing left to play"):
        take_over(cut_short(plan, *cells), plan)
    assert len(taken(take_over(cut_short(plan, *cells[1:]), plan))) == 5


def test_the_scenarios_are_those_that_the_run_was_to_play(folder: Path) -> None:
    plan = make_plan(folder)
    result = cut_short(plan)
    some = replace(result, scenarios=result.scenarios[1:2])
    assert [c.scenario.name for k in planned_as(plan, some).kernels for c in k.cells] == [
        "a/two",
        "a/two",
    ]


def test_the_folder_holds_what_was_judged_and_the_rest_is_aside(folder: Path) -> None:
    plan = make_plan(folder)
    root = folder / "run"
    result = cut_short(plan)
    for name in ("6.1/scenarios/a.one", "6.1/scenarios/a.two", "6.1/boot-1", "6.1/modules"):
        (root / name).mkdir(parents=True)
        (root / name / "log").write_text(name)
    write_reports(result, root)
    append_judged(cell("6.1", "one"), root)
    append_judged(cell("6.1", "two", Outcome.ERROR), root)
    with (root / JUDGED_FILE).open("a") as file:
        file.write('{"kernel": "6.1", "scen')  # killed in the middle of a line
    earlier = take_over(load_results(root), plan)
    for number in (1, 2):
        clear_folder(RunDir(root), earlier)
        assert taken(load_results(root)) == [("6.1", "a/one")]
        (line,) = (root / JUDGED_FILE).read_text().splitlines()
        assert json.loads(line)["scenario"] == "a/one"
        found = {str(path.relative_to(root / "6.1")) for path in (root / "6.1").glob("**/log")}
        assert {"scenarios/a.one/log", "modules/log", f"earlier-{number}/boot-1/log"} <= found
        assert "boot-1/log" not in found
        assert "scenarios/a.two/log" not in found
        assert "earlier-1/scenarios/a.two/log" in found
        (root / "6.1/boot-1").mkdir()
        (root / "6.1/boot-1/log").write_text("the next")


HOLDER = """
import sys
from pathlib import Path
from orchestrator.policy.resuming import holding
with holding(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_run_that_goes_on_is_not_resumed_until_its_process_is_gone(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            with pytest.raises(UsageError, match="still goes on"), holding(tmp_path):
                pass
        finally:
            holder.kill()
    with holding(tmp_path):
        pass


def test_both_parts_of_a_kernel_count() -> None:
    before = KernelResult("k", None, boots=1, forks=3, boot_seconds=4.0)
    now = KernelResult("k", None, boots=2, forks=1, error="it broke")
    joined = join_kernels(before, now)
    assert (joined.boots, joined.forks, joined.boot_seconds) == (3, 4, 4.0)
    assert joined.error == "it broke"
