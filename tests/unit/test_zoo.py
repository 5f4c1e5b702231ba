"""The zoo's table, its marks, and what compares them with the results of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.adapters.sources import entry_types
from orchestrator.plan.labfile import load_lab
from orchestrator.plan.version import KernelVersion
from tests.faulty import zoo
from tests.faulty.table import TABLE, Fault, Seen
from tests.faulty.zoo import Verdict, compare, flavour_of, kinds_of, marked_line, render

LAB = load_lab(Path(zoo.__file__).parent / "lab.yaml", entry_types())
SCENARIOS = {scenario.name: scenario.scenario for scenario in LAB.scenarios}
HEALTHY = {"lookalike", "tidy", "gives_symbol"}


def modules() -> set[str]:
    return {path.stem for path in zoo.MODULES.glob("*.c")}


# --- the table -------------------------------------------------------------------------------


def test_the_table_speaks_of_every_scenario_and_of_no_other() -> None:
    assert set(TABLE) == set(SCENARIOS)


def test_every_module_is_built_and_played() -> None:
    kbuild = (zoo.MODULES / "Kbuild").read_text()
    built = {line.removeprefix("obj-m += ")[:-2] for line in kbuild.splitlines() if "obj-m" in line}
    played = {name for each in SCENARIOS.values() for name in each.modules}
    played |= {
        step.load for each in SCENARIOS.values() for step in each.steps if hasattr(step, "load")
    }
    assert built == modules() == played
    assert len(built - HEALTHY) >= 50


@pytest.mark.parametrize("module", sorted(modules() - HEALTHY))
def test_the_line_to_blame_is_marked_once(module: str) -> None:
    file, number = marked_line(module)
    assert zoo.MARK in (zoo.MODULES / file).read_text().splitlines()[number - 1]


@pytest.mark.parametrize("module", sorted(HEALTHY))
def test_what_is_healthy_has_no_mark(module: str) -> None:
    with pytest.raises(ValueError, match="0 lines have"):
        marked_line(module)


def test_no_scenario_knows_what_is_wrong() -> None:
    assert [name for name, each in SCENARIOS.items() if each.expect_kernel or each.leaves] == []


@pytest.mark.parametrize("kernel", ["5.4", "5.10", "6.1", "6.12"])
def test_almost_all_of_it_shows_on_each_kernel(kernel: str) -> None:
    version = KernelVersion.parse(kernel)
    shown = [
        name
        for name, fault in TABLE.items()
        if name.startswith("faulty/") and any(each.fits(version, "default") for each in fault.seen)
    ]
    assert len(shown) >= 50


def test_a_kind_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="no such kind: oopsie"):
        Seen(("oopsie",))


# --- the results of a run --------------------------------------------------------------------

CULPRIT = {"file": "crash.c", "line": 3, "function": "crash", "source": "", "own": True}


def finding(kind: str, culprit: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "expected": False, "culprit": culprit, **more}


def step(title: str, what: str) -> dict[str, Any]:
    return {"title": title, "mismatches": [{"what": what, "message": "", "diff": []}]}


def cell(outcome: str = "failed", **more: Any) -> dict[str, Any]:
    plain = {"reason": "", "seconds": 1.5, "findings": [], "steps": [], "left_behind": []}
    return {"scenario": "faulty/crash", "outcome": outcome, **plain, **more}


def results(*cells: dict[str, Any], release: str = "6.1.0-56-cloud-amd64") -> dict[str, Any]:
    identity = {"version": release.partition("-lab")[0], "release": release}
    return {"kernels": [{"name": "6.1", "identity": identity, "cells": list(cells)}]}


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    (tmp_path / "crash.c").write_text("int crash(void)\n{\n\tgo(); /* fault */\n}\n")
    return tmp_path


def judged(sources: Path, one: dict[str, Any], *seen: Seen) -> Verdict:
    (verdict,) = compare(results(one), {"faulty/crash": Fault(seen)}, sources)
    return verdict


OOPS = Seen(("oops",), says="NULL", line=True)
SAID = "unexpected oops: NULL"


def test_what_is_found_and_named_right_is_good(sources: Path) -> None:
    verdict = judged(sources, cell(reason=SAID, findings=[finding("oops", CULPRIT)]), OOPS)
    assert (verdict.found, verdict.kind_right, verdict.line_right) == (True, True, True)
    assert verdict.good
    assert (verdict.seconds, verdict.wanted) == (1.5, "oops")


@pytest.mark.parametrize(
    ("one", "right"),
    [
        (cell("passed"), (False, False, False)),
        (cell("error", reason="no boot"), (False, False, False)),
        (cell("skipped"), (False, False, False)),
        # An error is no find, whatever the log holds.
        (cell("error", reason=SAID, findings=[finding("oops", CULPRIT)]), (False, False, True)),
        # Not the first that it is called by.
        (
            cell(reason=SAID, findings=[finding("warning"), finding("oops", CULPRIT)]),
            (True, False, True),
        ),
        (cell(reason="oops: divide", findings=[finding("oops", CULPRIT)]), (True, False, True)),
        (cell(reason=SAID, findings=[finding("oops")]), (True, True, False)),
        (
            cell(reason=SAID, findings=[finding("oops", {**CULPRIT, "line": 4})]),
            (True, True, False),
        ),
        (
            cell(reason=SAID, findings=[finding("oops", {**CULPRIT, "file": "other.c"})]),
            (True, True, False),
        ),
        (cell(reason="step 1", steps=[step("run cat", "exit")]), (True, False, False)),
        # Failed, and nobody knows why.
        (cell(reason="?"), (False, False, False)),
    ],
)
def test_what_is_missed_or_misnamed_is_not_good(
    sources: Path, one: dict[str, Any], right: tuple[bool, bool, bool]
) -> None:
    verdict = judged(sources, one, OOPS)
    assert (verdict.found, verdict.kind_right, verdict.line_right) == right
    assert not verdict.good


def test_a_warning_that_must_come_twice(sources: Path) -> None:
    twice = Seen(("warning",), times=2)
    assert not judged(sources, cell(findings=[finding("warning")]), twice).good
    assert judged(sources, cell(findings=[finding("warning"), finding("warning")]), twice).good


def test_a_lost_log_is_an_error_and_found(sources: Path) -> None:
    lost = cell("error", reason="the kernel lost part of its log", findings=[finding("lost-log")])
    assert judged(sources, lost, Seen(("lost-log",), says="lost part")).good


@pytest.mark.parametrize(
    ("one", "good"),
    [
        (cell("passed"), True),
        (cell("skipped", reason="it needs KASAN"), True),
        (cell(reason="unexpected oops", findings=[finding("oops")]), False),
        (cell("error", reason="no boot"), False),
        (cell(steps=[step("run cat", "stdout")]), False),
    ],
)
def test_where_nothing_shows_nothing_may_be_said(
    sources: Path, one: dict[str, Any], good: bool
) -> None:
    assert judged(sources, one, Seen(("oops",), kernels="<5.10")).good is good
    assert judged(sources, one, Seen(("kasan",), flavours=("debug",))).good is good


@pytest.mark.parametrize(
    ("outcome", "good"), [("passed", True), ("skipped", False), ("failed", False), ("error", False)]
)
def test_what_is_healthy_must_pass(sources: Path, outcome: str, good: bool) -> None:
    assert judged(sources, cell(outcome)).good is good


def test_what_a_checking_kernel_makes_of_other_faults_is_not_judged(sources: Path) -> None:
    ran = results(cell("failed"), release="6.1.192-lab-debug")
    table = {"faulty/crash": Fault((Seen(("oops",)),))}
    assert list(compare(ran, table, sources)) == []
    table = {"faulty/crash": Fault(())}
    assert [each.good for each in compare(ran, table, sources)] == [False]


def test_the_first_that_fits_the_kernel_counts(sources: Path) -> None:
    one = cell(findings=[finding("gpf")])
    assert judged(sources, one, Seen(("bug",), kernels=">=6.2"), Seen(("gpf",))).good
    assert not judged(sources, one, Seen(("bug",), kernels=">=6.1"), Seen(("gpf",))).good


def test_another_module_may_have_the_line(sources: Path) -> None:
    one = cell(scenario="faulty/again", findings=[finding("oops", CULPRIT)])
    table = {"faulty/again": Fault((Seen(("oops",), line=True),), module="crash")}
    (verdict,) = compare(results(one), table, sources)
    assert verdict.good


def test_a_scenario_that_is_not_in_the_table_is_no_pass(sources: Path) -> None:
    with pytest.raises(KeyError, match="faulty/crash"):
        list(compare(results(cell("passed")), {}, sources))


def test_a_kernel_that_was_never_known_misses_everything(sources: Path) -> None:
    lost = {"kernels": [{"name": "6.1", "identity": None, "cells": [cell("error")]}]}
    (verdict,) = compare(lost, {"faulty/crash": Fault((OOPS,))}, sources)
    assert not verdict.found


@pytest.mark.parametrize(
    ("one", "kinds"),
    [
        (cell(), []),
        (cell(findings=[finding("oops"), finding("panic")]), ["oops", "panic"]),
        (cell(findings=[{**finding("oops"), "expected": True}]), []),
        (cell(steps=[step("load crash", "errno")]), ["load"]),
        (cell(steps=[step("unload crash", "errno")]), ["unload"]),
        (cell(steps=[step("unload crash", "time")]), ["hang"]),
        (cell(steps=[step("read /proc/load", "content")]), ["mismatch"]),
        (cell(left_behind=[{"name": "/proc/crash", "place": "/proc"}]), ["left"]),
        (cell(reason="the guest powered off or rebooted by itself"), ["died"]),
        (
            cell(findings=[finding("oops")], steps=[step("unload crash", "time")]),
            ["oops", "hang"],
        ),
    ],
)
def test_what_a_cell_failed_by(one: dict[str, Any], kinds: list[str]) -> None:
    assert list(kinds_of(one)) == kinds


@pytest.mark.parametrize(
    ("release", "flavour"),
    [
        ("6.1.0-56-cloud-amd64", "default"),
        ("5.4.0-216-generic", "default"),
        ("6.1.192-lab", "default"),
        ("6.1.192-lab-debug", "debug"),
        ("6.1.192-lab-kcsan", "kcsan"),
    ],
)
def test_a_kernel_tells_its_flavour(release: str, flavour: str) -> None:
    assert flavour_of(release) == flavour


# --- telling ---------------------------------------------------------------------------------


def test_the_table_is_shown_with_what_is_wrong(sources: Path) -> None:
    good = judged(sources, cell(reason=SAID, findings=[finding("oops", CULPRIT)]), OOPS)
    missed = judged(sources, cell("passed"), OOPS)
    alarm = judged(sources, cell(reason="\x1b[31mred", findings=[finding("bug")]))
    text = render((good, missed, alarm))
    lines = text.splitlines()
    assert lines[1].split()[:6] == ["faulty/crash", "6.1", "yes", "yes", "yes", "1.5"]
    assert lines[2].split()[:5] == ["faulty/crash", "6.1", "NO", "NO", "NO"]
    assert "\nWRONG  faulty/crash on 6.1: not found: wanted oops, the lab said passed\n" in text
    assert "on 6.1: it does not pass: wanted nothing, the lab said bug: " in text
    assert "\x1b" not in text
    assert lines[-1] == "1 of 3 as they should be"


def write_run(folder: Path, *cells: dict[str, Any]) -> str:
    (folder / "results.json").write_text(json.dumps(results(*cells)))
    return str(folder)


def test_a_run_is_compared_and_the_table_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    healthy = cell("passed", scenario="healthy/tidy")
    assert zoo.main([write_run(tmp_path, healthy)]) == 0
    assert "1 of 1 as they should be" in capsys.readouterr().out
    (entry,) = json.loads((tmp_path / "zoo.json").read_text())
    assert (entry["scenario"], entry["good"], entry["line_right"]) == ("healthy/tidy", True, None)
    missed = cell("passed", scenario="faulty/null_deref")
    assert zoo.main([write_run(tmp_path, healthy, missed)]) == 1


def test_nothing_to_compare_is_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert zoo.main([str(tmp_path / "absent")]) == 2
    assert zoo.main([write_run(tmp_path)]) == 2
    assert "has the lab run?" in capsys.readouterr().err
