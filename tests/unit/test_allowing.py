"""The allow-list: what an entry allows, when it has expired, and when it is of no use."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.adapters.sources import entry_types
from orchestrator.plan.allowing import (
    Allowance,
    allowances,
    judge_allowances,
    mark_allowed,
)
from orchestrator.plan.judge import judge_findings
from orchestrator.plan.klog import Finding, find_findings, parse_log
from orchestrator.plan.labfile import load_lab
from orchestrator.plan.model import AllowEntry, Lab
from orchestrator.plan.outcome import CellResult, Outcome
from orchestrator.plan.version import KernelVersion

from .labs import LAB, write_lab

DATA = Path(__file__).parents[1] / "data/klog"
TODAY = datetime.date(2026, 6, 30)
V54, V61 = KernelVersion.parse("5.4.0"), KernelVersion.parse("6.1.192")


def entry(**keys: object) -> AllowEntry:
    known = {"pattern": "f", "reason": "known", "until": "2026-12-31"}
    return AllowEntry.model_validate({**known, **keys})


def today(*entries: AllowEntry, day: datetime.date = TODAY) -> tuple[Allowance, ...]:
    return allowances(entries, day)


def recorded(name: str) -> Finding:
    return find_findings(parse_log((DATA / name).read_bytes()))[0]


def finding(kind: str = "warning", *lines: str) -> Finding:
    told = lines or ("WARNING: CPU: 0 PID: 1 at a.c:1 f+0x1/0x2",)
    return Finding(kind, told[0], 1, len(told), told)  # type: ignore[arg-type]


# --- what is allowed -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log", "pattern"),
    [
        ("atomic-6.1.log", r"^BUG: scheduling while atomic: insmod/\d+/0x0*2$"),
        ("atomic-6.1.log", r"splat_init\+0x"),  # in its trace
        ("soft-6.1.log", r"at \S*splat\.c:\d+ splat_init"),
        ("kfence-7.3.log", "KFENCE: use-after-free read in splat_uaf"),
    ],
)
def test_a_line_of_a_real_complaint_is_found(log: str, pattern: str) -> None:
    (marked,) = mark_allowed([recorded(log)], today(entry(pattern=pattern)))
    assert marked.allowed is not None
    assert (marked.allowed.entry, marked.allowed.reason) == (0, "known")
    assert marked.harmless
    assert judge_findings((), (marked,)) == ((marked,), ())


def test_another_complaint_is_not_allowed() -> None:
    marked = mark_allowed([recorded("null-6.1.log")], today(entry(pattern="other_module")))
    assert [each.allowed for each in marked] == [None]
    assert not marked[0].harmless
    assert len(judge_findings((), marked)[1]) == 1


def test_only_its_class_is_allowed() -> None:
    listed = today(entry(kind="warning"))
    warning, oops = mark_allowed([finding("warning"), finding("oops", "f: oops")], listed)
    assert (warning.harmless, oops.harmless) == (True, False)
    _, (mismatch,) = judge_findings((), (warning, oops))
    assert mismatch.message == "unexpected oops: f: oops"


@pytest.mark.parametrize("kind", ["panic", "lost-log"])
def test_some_are_never_allowed(kind: str) -> None:
    assert mark_allowed([finding(kind)], today(entry()))[0].allowed is None


def test_the_first_that_fits_counts() -> None:
    listed = today(entry(pattern="no"), entry(reason="first"), entry(reason="second"))
    (marked,) = mark_allowed([finding()], listed)
    assert marked.allowed is not None
    assert (marked.allowed.entry, marked.allowed.reason) == (1, "first")


def test_what_is_expected_is_not_allowed_too() -> None:
    marked = mark_allowed([finding()], today(entry()))
    (told,), mismatches = judge_findings(("warning",), marked)
    assert (told.expected, told.allowed, mismatches) == (True, None, ())


def test_what_is_allowed_is_not_what_was_expected() -> None:
    marked = mark_allowed([finding()], today(entry()))
    _, (mismatch,) = judge_findings(("oops",), marked)
    assert mismatch.message.startswith("expected oops in the kernel's log")


def test_a_pattern_that_would_hang_python_does_not() -> None:
    long = finding("warning", *["a" * 400 + "!"] * 200)
    assert not mark_allowed([long], today(entry(pattern="(a+)+$")))[0].harmless


# --- expiry ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("day", "expired"),
    [
        (datetime.date(2026, 12, 31), False),
        (datetime.date(2027, 1, 1), True),
    ],
)
def test_an_entry_is_good_on_its_last_day(day: datetime.date, expired: bool) -> None:
    (allowance,) = today(entry(until="2026-12-31"), day=day)
    assert allowance.expired is expired


def test_an_expired_entry_allows_nothing_and_is_named() -> None:
    marked = mark_allowed([finding()], today(entry(pattern="no"), entry(until="2026-06-29")))
    assert marked[0].allowed is not None
    assert not marked[0].harmless
    _, (mismatch,) = judge_findings((), marked)
    assert mismatch.message.endswith(
        "; allow[1] of lab.yaml would allow it, but expired on 2026-06-29"
    )


def test_an_entry_that_is_good_comes_before_an_expired_one() -> None:
    marked = mark_allowed([finding()], today(entry(until="2026-01-01"), entry()))
    assert marked[0].harmless


# --- scope -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "scenario", "version", "inside"),
    [
        ({}, "all/loading", V61, True),
        ({"kernels": "<6"}, "all/loading", V61, False),
        ({"kernels": "<6"}, "all/loading", V54, True),
        ({"kernels": "<6"}, "all/loading", None, True),
        ({"scenarios": ("all/load*",)}, "all/loading", V61, True),
        ({"scenarios": ("load*",)}, "all/loading", V61, False),
        ({"scenarios": ("x", "*uname")}, "all/uname", V61, True),
        ({"scenarios": ("*uname",), "kernels": "<6"}, "all/uname", V61, False),
    ],
)
def test_the_scope(
    keys: dict[str, object], scenario: str, version: KernelVersion | None, inside: bool
) -> None:
    assert today(entry(**keys))[0].is_for(scenario, version) is inside


# --- what an entry was good for ------------------------------------------------------------------


def lab_with(folder: Path, entries: str) -> Lab:
    return load_lab(write_lab(folder, lab=f"{LAB}allow:\n{entries}"), entry_types())


def cells(outcome: Outcome = Outcome.PASSED, *findings: Finding) -> list[CellResult]:
    """Of the kernels 5.4 and 6.1, all scenarios that are for them; loading-twice is not for 5.4,
    and uname not for 6.1.
    """
    names = {"5.4": ("loading", "uname"), "6.1": ("loading", "loading-twice")}
    return [
        CellResult(kernel, f"all/{name}", outcome, findings=findings)
        for kernel, some in names.items()
        for name in some
    ]


VERSIONS = {"5.4": V54, "6.1": V61}
USELESS = (
    "  - {pattern: never said, reason: once, until: 2026-12-31, kernels: '<6.2', "
    "scenarios: [all/loading]}\n"
)


def played(lab: Lab, some: list[CellResult], day: datetime.date = TODAY) -> list[str]:
    return [use.note() for use in judge_allowances(lab, VERSIONS, some, day)]


@pytest.mark.parametrize("missing", ["6.1-rt", None])
def test_an_entry_is_unused_where_its_scope_was_wholly_played(
    tmp_path: Path, missing: str | None
) -> None:
    """The lab has two kernels of 6.1: without the second, something may be hidden."""
    lab = lab_with(tmp_path, USELESS)
    more = [] if missing else [CellResult("6.1-rt", "all/loading", Outcome.PASSED)]
    notes = played(lab, cells() + more)
    expected = "allow[0] of lab.yaml (never said) is unused: all that it is for passed without it"
    assert notes == ["" if missing else expected]


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.ERROR, Outcome.SKIPPED])
def test_what_did_not_pass_may_have_hidden_it(tmp_path: Path, outcome: Outcome) -> None:
    lab = lab_with(tmp_path, USELESS)
    rt = CellResult("6.1-rt", "all/loading", outcome)
    assert played(lab, [*cells(), rt]) == [""]


def test_an_entry_that_was_used_is_counted(tmp_path: Path) -> None:
    lab = lab_with(tmp_path, USELESS)
    (marked,) = mark_allowed([finding()], today(entry()))
    (use,) = judge_allowances(lab, VERSIONS, cells(Outcome.PASSED, marked), TODAY)
    assert (use.count, use.unused, use.note()) == (4, False, "")


def test_an_expired_entry_is_told_in_any_run(tmp_path: Path) -> None:
    lab = lab_with(tmp_path, USELESS)
    said = "allow[0] of lab.yaml (never said) expired on 2026-12-31: it allows nothing any more"
    assert played(lab, [], datetime.date(2027, 1, 1)) == [said]


def test_an_expired_entrys_complaints_are_no_use_of_it(tmp_path: Path) -> None:
    lab = lab_with(tmp_path, USELESS)
    (marked,) = mark_allowed([finding()], today(entry(until="2026-01-01")))
    day = datetime.date(2027, 1, 1)
    (use,) = judge_allowances(lab, VERSIONS, cells(Outcome.FAILED, marked), day)
    assert (use.expired, use.count) == (True, 4)


def test_a_lab_without_a_list_has_no_uses(tmp_path: Path) -> None:
    lab = load_lab(write_lab(tmp_path), entry_types())
    assert judge_allowances(lab, VERSIONS, cells(), TODAY) == ()


def test_lines_that_are_not_looked_at_allow_nothing() -> None:
    far = finding("warning", *["x"] * 200, "f")
    assert mark_allowed([replace(far, headline="x")], today(entry()))[0].allowed is None
