"""Reports: every outcome in every form, and nothing a guest prints can break one."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import get_args
from xml.etree import ElementTree

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.foundation.errors import (
    EXIT_BROKEN,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_PASSED,
)
from orchestrator.plan.apichanges import API_CHANGES, ApiChange
from orchestrator.plan.boundary import Shape
from orchestrator.plan.buildfailure import BuildFailure
from orchestrator.plan.frames import CodeAddress, Frame, SourceLocation, parse_frames
from orchestrator.plan.klog import Allowed, Finding
from orchestrator.plan.leftovers import Leftover, describe_leftovers
from orchestrator.plan.model import FindingClass
from orchestrator.plan.outcome import (
    AllowUse,
    Artifact,
    CellResult,
    CommandResult,
    FolderBuild,
    Hang,
    KernelIdentity,
    KernelResult,
    Mismatch,
    Outcome,
    RunResult,
    StepResult,
    SubResult,
    judge_result,
)
from orchestrator.plan.stacks import Stack, explain_stacks
from orchestrator.plan.visible import clip, visible, visible_lines
from orchestrator.policy.reports import (
    JUDGED_FILE,
    append_judged,
    render_junit,
    render_report,
    render_results,
    render_summary,
    write_reports,
)
from orchestrator.policy.reports.results import load_schema

HOSTILE = "\x1b[2J\x1b]0;owned\x07\r\x00\x9b31m\u202e\ufffe\u2028]]></failure>&<é\U0001f427"


def cell(outcome: Outcome, scenario: str = "greeting/read", kernel: str = "k1") -> CellResult:
    return CellResult(kernel, scenario, outcome, "" if outcome is Outcome.PASSED else "a reason")


def failed_cell(kernel: str = "k1", text: str = "HelloWorld") -> CellResult:
    mismatch = Mismatch("stdout", f"stdout is {text}", ("--- expected", f"-{text}", "+other"))
    command = CommandResult(f"cat {text}", 0, None, text.encode(), b"\xff\x00", 0.25)
    steps = (
        StepResult(1, "load procfs1", Outcome.PASSED, 0.5),
        StepResult(2, f"run {text}", Outcome.FAILED, 0.25, (mismatch,), command=command),
        StepResult(3, "unload procfs1", Outcome.SKIPPED, reason="not reached"),
    )
    trace = (text, "RIP: 0010:g+0x1/0x2 [m]", "Call Trace:", " f+0x1/0x2 [m]", " h+0x1/0x2 [n]")
    header = SourceLocation(f"inline_{text}", "include/linux/x.h", 3)
    own = SourceLocation(f"g_{text}", f"{text}.c", 42, f"{text}();", own=True)
    fault = CodeAddress("g", 1, 2, "m", exact=True)
    frames = (
        Frame(fault, 1, code=(header, own)),
        Frame(CodeAddress("f", 1, 2, "m"), 3, code=(replace(own, line=None, text=""),)),
        Frame(CodeAddress("h", 1, 2, "n"), 4, note=f"the module has no {text}"),
        Frame(fault, 4, reliable=False, code=(header, own)),
        Frame(CodeAddress("i", 1, 2), 4),
    )
    findings = (
        Finding("oops", text, 10, 14, trace, ("m", "n"), frames=frames),
        Finding("warning", text, 20, 20, (text,), expected=True),
    )
    return CellResult(
        kernel,
        "greeting/fail",
        Outcome.FAILED,
        steps[1].explain(mismatch),
        steps,
        findings,
        12288,
        12800,
        1.5,
        Path("cells/k1/greeting/fail"),
        (Leftover(f"/proc/{text}", "/proc"),),
    )


def kernel(*cells: CellResult, name: str = "k1", error: str = "") -> KernelResult:
    identity = KernelIdentity(name, "6.1.0-56-cloud-amd64", "6.1.192", "debian", ("linux-image",))
    return KernelResult(name, identity, error, "", "", 4.2, 30.1, 1, cells=cells)


def run(*kernels: KernelResult, interrupted: bool = False) -> RunResult:
    return RunResult(
        "procfs",
        "20260101T120000Z-ab12",
        "0.1",
        "2026-01-01T12:00:00Z",
        123.4567,
        "tcg",
        "/dev/kvm is absent",
        "7.2.0",
        interrupted,
        kernels,
    )


EVERYTHING = run(
    kernel(
        cell(Outcome.PASSED),
        failed_cell(),
        cell(Outcome.ERROR, "greeting/error"),
        cell(Outcome.SKIPPED, "greeting/skip"),
    ),
    kernel(*(replace(cell(Outcome.ERROR), kernel="k2"),), name="k2", error="it did not boot"),
    KernelResult("k3", None, "no such package", "--update looks again", "logs/k3.log"),
)


def matrix(**rows: str) -> RunResult:
    """A run on 5.4, 5.8, 5.10 and 6.1: each scenario's outcomes there, a letter each."""
    letters = {outcome.name[0]: outcome for outcome in Outcome}
    versions = ("5.4.302", "5.8.18", "5.10.223", "6.1.192")
    kernels = []
    for number, version in enumerate(versions):
        name = version.rpartition(".")[0]
        cells = (
            replace(cell(letters[row[number]], scenario, name), reason=f"{row[number]} on {name}")
            for scenario, row in rows.items()
        )
        identity = KernelIdentity(name, f"{version}-amd64", version, "debian")
        kernels.append(KernelResult(name, identity, cells=tuple(cells)))
    return run(*kernels)


CHANGES = matrix(a="PEFF", b="PEFF", same="FFFF", back="FPFF", c="PEFF")
MANY_CHANGES = matrix(
    **{
        f"{row}{HOSTILE * 9}{n}": row
        for n in range(9)
        for row in map("".join, product("PFE", repeat=4))
    }
)


def not_built(text: str, change: ApiChange | None = None, kernel: str = "k1") -> CellResult:
    failure = BuildFailure("old", text, "old.c", 12, 9, f"        {text};", 8, change)
    reason = failure.explain()
    return CellResult(kernel, "greeting/old", Outcome.FAILED, reason, build=failure)


def allowed_cell(text: str, *, expired: bool = False) -> CellResult:
    allowed = Allowed(0, f"known: {text}", "2026-12-31", expired)
    found = Finding("warning", text, 20, 20, (text,), allowed=allowed)
    return replace(cell(Outcome.PASSED, "greeting/allowed"), findings=(found,))


def hung_cell(text: str = "HelloWorld") -> CellResult:
    """A step that did not end: it waits in a module for a worker that waits there too."""
    lines = (f"[<0>] {text}", "[<0>] wait+0x1/0x2", "[<0>] f+0x1/0x2 [m]")
    waits, own = parse_frames(lines)
    line = SourceLocation("f", f"{text}.c", 35, f"{text}();", own=True)
    frames = (waits, replace(own, code=(line,)))
    stacks = (
        Stack("cat", 12, "S", of_step=True, lines=lines, frames=frames),
        Stack(text, 7, "D", lines=lines, frames=(waits, replace(own, note=f"no {text}"))),
        Stack("swapper/1", 0, "R", cpu=1),
    )
    why = explain_stacks(stacks, {"m"})
    mismatch = Mismatch("time", f"it did not end within 3 s: {why}")
    step = StepResult(1, "run cat", Outcome.FAILED, 3.0, (mismatch,))
    reason = step.explain(mismatch)
    return CellResult(
        "k1", "greeting/hang", Outcome.FAILED, reason, (step,), hang=Hang(1, why, stacks)
    )


HUNG = run(kernel(hung_cell()))
CHANGE = API_CHANGES[-1]
NOT_BUILT = run(kernel(not_built("from(timer)", CHANGE)))
HOSTILE_RUN = replace(
    run(
        replace(
            kernel(
                failed_cell(text=HOSTILE),
                not_built(HOSTILE),
                hung_cell(HOSTILE),
                allowed_cell(HOSTILE),
                name=HOSTILE,
                error=HOSTILE,
            ),
            hint=HOSTILE,
            evidence=HOSTILE,
            last_lines=(HOSTILE, HOSTILE),
        )
    ),
    allow=(AllowUse(0, HOSTILE, HOSTILE, "2026-01-01", True, 1, False),),
)


# --- what the run comes to -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "status", "message"),
    [
        (run(), EXIT_BROKEN, "no scenario ran"),
        (run(kernel()), EXIT_BROKEN, "no scenario ran"),
        (run(kernel(cell(Outcome.SKIPPED))), EXIT_BROKEN, "no scenario ran"),
        (run(kernel(cell(Outcome.PASSED))), EXIT_PASSED, "1 scenario passed"),
        (
            run(kernel(cell(Outcome.PASSED), cell(Outcome.PASSED), cell(Outcome.SKIPPED))),
            EXIT_PASSED,
            "2 scenarios passed",
        ),
        (
            run(kernel(cell(Outcome.PASSED), cell(Outcome.FAILED))),
            EXIT_FAILED,
            "1 of 2 scenarios failed",
        ),
        (
            run(kernel(cell(Outcome.FAILED), cell(Outcome.ERROR))),
            EXIT_BROKEN,
            "the lab broke: 1 scenario not judged",
        ),
        (
            run(kernel(cell(Outcome.PASSED)), kernel(name="k2", error="no boot")),
            EXIT_BROKEN,
            "the lab broke: 1 kernel not usable",
        ),
        (run(kernel(cell(Outcome.ERROR)), interrupted=True), EXIT_INTERRUPTED, "interrupted"),
        (run(interrupted=True), EXIT_INTERRUPTED, "interrupted"),
    ],
)
def test_the_verdict(result: RunResult, status: int, message: str) -> None:
    verdict = judge_result(result)
    assert (verdict.exit_status, verdict.message) == (status, message)


# --- text ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, é and \u4e2d", "plain text, é and \u4e2d"),
        ("\x1b[31m\x07", "\\x1b[31m\\x07"),
        ("a\tb\rc\nd\0", "a\\tb\\rc\\nd\\0"),
        ("\x7f\x9b\xa0", "\\x7f\\x9b\\xa0"),
        ("\u202e\u200b\u2028\ufeff", "\\u202e\\u200b\\u2028\\ufeff"),
        ("\ud800\uffff\U000e0001", "\\ud800\\uffff\\U000e0001"),
        ("\\x1b", "\\x1b"),
    ],
)
def test_nothing_unprintable_is_shown(text: str, shown: str) -> None:
    assert visible(text) == shown


@settings(deadline=None)  # the machine may be busy
@given(st.text())
def test_visible_is_always_printable(text: str) -> None:
    assert visible(text).isprintable()
    assert all(line.isprintable() for line in visible_lines(text))


def test_lines_are_split_at_newlines_only() -> None:
    assert visible_lines("a\r\nb\x0bc\u2028d\n") == ("a", "b\\x0bc\\u2028d")
    assert visible_lines("") == ()
    assert visible_lines("\n\n") == ("", "")


@pytest.mark.parametrize(("width", "shown"), [(5, "abcde"), (4, "abc…"), (1, "…"), (0, "…")])
def test_a_line_is_cut_with_a_sign(width: int, shown: str) -> None:
    assert clip("abcde", width) == shown


# --- results.json ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "result", [EVERYTHING, CHANGES, MANY_CHANGES, NOT_BUILT, HUNG, HOSTILE_RUN, run()]
)
def test_results_fit_their_schema(result: RunResult) -> None:
    schema = load_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    text = render_results(result)
    assert text.isascii()
    jsonschema.validate(json.loads(text), schema, jsonschema.Draft202012Validator)


def test_results_hold_what_happened() -> None:
    results = json.loads(render_results(EVERYTHING))
    assert results["schema"] == 1
    assert results["exit_status"] == EXIT_BROKEN
    assert results["counts"] == {"passed": 1, "failed": 1, "error": 2, "skipped": 1}
    failed = results["kernels"][0]["cells"][1]
    assert failed["evidence"] == "cells/k1/greeting/fail"
    assert failed["taint_after"] == 12800
    assert failed["findings"][0]["modules"] == ["m", "n"]
    assert failed["left_behind"] == [{"name": "/proc/HelloWorld", "place": "/proc"}]
    assert results["kernels"][0]["cells"][0]["left_behind"] == []
    command = failed["steps"][1]["command"]
    assert command["stdout"] == {"bytes": 10, "text": "HelloWorld"}
    assert command["stderr"] == {"bytes": 2, "text": "\\xff\x00", "base64": "/wA="}
    assert results["kernels"][2]["identity"] is None


def test_results_hold_the_code_of_each_frame() -> None:
    results = json.loads(render_results(EVERYTHING))
    oops, warning = results["kernels"][0]["cells"][1]["findings"]
    own = {
        "function": "g_HelloWorld",
        "file": "HelloWorld.c",
        "line": 42,
        "source": "HelloWorld();",
        "own": True,
    }
    assert oops["culprit"] == own
    assert oops["frames"][0] == {
        "symbol": "g",
        "offset": 1,
        "size": 2,
        "module": "m",
        "exact": True,
        "reliable": True,
        "line": 1,
        "aside": False,
        "code": [
            {
                "function": "inline_HelloWorld",
                "file": "include/linux/x.h",
                "line": 3,
                "source": "",
                "own": False,
                "inlined": True,
            },
            {**own, "inlined": False},
        ],
        "note": "",
    }
    assert oops["frames"][2]["note"] == "the module has no HelloWorld"
    assert oops["frames"][3]["reliable"] is False
    assert oops["frames"][4]["module"] is None
    assert (warning["culprit"], warning["frames"]) == (None, [])


def test_results_hold_what_changed() -> None:
    boundaries = json.loads(render_results(CHANGES))["boundaries"]
    assert [(each["scenario"], each["shape"]) for each in boundaries] == [
        ("a", "boundary"),
        ("b", "boundary"),
        ("back", "not-monotonic"),
        ("c", "boundary"),
    ]
    assert boundaries[0]["summary"] == "passed up to 5.4.302, failed from 5.10.223"
    assert [
        (each["outcome"], each["first"], each["last"]) for each in boundaries[0]["stretches"]
    ] == [
        ("passed", "5.4.302", "5.4.302"),
        ("failed", "5.10.223", "6.1.192"),
    ]
    assert boundaries[0]["untested"] == [
        {"kernel": "5.8", "version": "5.8.18", "outcome": "error", "reason": "E on 5.8"}
    ]
    assert json.loads(render_results(EVERYTHING))["boundaries"] == []


def test_the_schema_knows_every_class_of_finding_and_every_outcome() -> None:
    definitions = load_schema()["$defs"]
    assert definitions["finding"]["properties"]["kind"]["enum"] == list(get_args(FindingClass))
    assert definitions["outcome"]["enum"] == [outcome.value for outcome in Outcome]
    shapes = definitions["boundary"]["properties"]["shape"]["enum"]
    assert shapes == [shape.value for shape in Shape]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema",), 2),
        (("more",), 1),
        (("exit_status",), 2),
        (("kernels", 0, "cells", 1, "outcome"), "ok"),
        (("kernels", 0, "cells", 1, "findings", 0, "kind"), "splat"),
        (("kernels", 0, "cells", 1, "seconds"), -1),
        (("kernels", 0, "cells", 1, "findings", 0, "culprit", "line"), 0),
        (("kernels", 0, "cells", 1, "findings", 0, "frames", 0, "module"), 1),
        (("kernels", 0, "cells", 1, "findings", 0, "frames", 0, "code", 0, "inlined"), "no"),
        (("kernels", 0, "cells", 1, "left_behind"), ["/proc/m"]),
    ],
)
def test_the_schema_refuses_what_is_wrong(path: tuple[str | int, ...], value: object) -> None:
    results = json.loads(render_results(EVERYTHING))
    place = results
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(results, load_schema())


# --- what was left behind --------------------------------------------------------------------


def littering(count: int) -> RunResult:
    """A run that only failed for the names that its module left behind."""
    left = tuple(Leftover(f"/proc/{HOSTILE}{number}", "/proc") for number in range(count))
    reason = describe_leftovers(left)
    return run(kernel(replace(cell(Outcome.FAILED), reason=reason, left_behind=left)))


def test_every_report_names_what_was_left_behind() -> None:
    name = visible(f"/proc/{HOSTILE}0")
    assert f"\nleft behind: {name}\n" in render_report(littering(1))
    summary = " ".join(render_summary(littering(1)).split())
    assert "left behind: /proc/\\x1b[2J" in summary
    failure = ElementTree.fromstring(render_junit(littering(1))).find(".//failure")
    assert failure is not None
    assert (failure.get("message"), failure.get("type")) == (f"left behind: {name}", "left-behind")


def test_many_names_are_counted_in_the_report_and_all_in_the_results() -> None:
    assert "\n… and 50 more names left behind\n" in render_report(littering(100))
    results = json.loads(render_results(littering(100)))
    assert len(results["kernels"][0]["cells"][0]["left_behind"]) == 100


# --- a step that did not end -----------------------------------------------------------------

WHY = (
    "it did not end within 3 s: cat (pid 12) sleeps in f at HelloWorld.c:35 (wait); "
    "HelloWorld (pid 7) is blocked in f [m] (wait)"
)


def test_every_report_says_where_a_step_hangs() -> None:
    assert (
        f"step 1, run cat: {WHY}\n"
        "  1. failed      3.00 s  run cat\n"
        f"     time: {WHY}\n"
        "when step 1 was given up: cat (pid 12), of the step, state S\n"
        "  first in a module: f at HelloWorld.c:35\n"
        "  | [<0>] HelloWorld\n"
        "  | [<0>] wait+0x1/0x2\n"
        "  | [<0>] f+0x1/0x2 [m]\n"
        "      f at HelloWorld.c:35: HelloWorld();\n"
        "when step 1 was given up: HelloWorld (pid 7), state D\n"
        "  | [<0>] HelloWorld\n"
        "  | [<0>] wait+0x1/0x2\n"
        "  | [<0>] f+0x1/0x2 [m]\n"
        "      no line: no HelloWorld\n"
        "when step 1 was given up: swapper/1 (pid 0), state R, on processor 1\n"
    ) in render_report(HUNG)
    summary = render_summary(HUNG)
    assert WHY in " ".join(summary.split())
    assert "\n    HelloWorld.c:35: HelloWorld();\n" in summary
    failure = ElementTree.fromstring(render_junit(HUNG)).find(".//failure")
    assert failure is not None
    assert (failure.get("message"), failure.get("type")) == (f"step 1, run cat: {WHY}", "time")
    assert "f at HelloWorld.c:35: HelloWorld();" in str(failure.text)


def test_results_hold_the_stacks_of_a_hang() -> None:
    hang = json.loads(render_results(HUNG))["kernels"][0]["cells"][0]["hang"]
    assert (hang["step"], hang["explanation"]) == (1, WHY.split(": ", 1)[1])
    cat, worker, idle = hang["stacks"]
    assert (cat["task"], cat["pid"], cat["state"], cat["cpu"]) == ("cat", 12, "S", None)
    assert (cat["of_step"], worker["of_step"]) == (True, False)
    assert cat["culprit"]["line"] == 35
    assert [frame["symbol"] for frame in cat["frames"]] == ["wait", "f"]
    assert (worker["culprit"], idle["cpu"], idle["lines"]) == (None, 1, [])
    assert json.loads(render_results(EVERYTHING))["kernels"][0]["cells"][1]["hang"] is None


# --- JUnit -------------------------------------------------------------------------------------


def test_junit_has_a_suite_for_each_kernel_and_a_case_for_each_scenario() -> None:
    root = ElementTree.fromstring(render_junit(EVERYTHING))
    assert root.tag == "testsuites"
    assert [suite.get("name") for suite in root] == ["k1", "k2", "k3"]
    counts = ("tests", "failures", "errors", "skipped")
    assert [[suite.get(name) for name in counts] for suite in root] == [
        ["4", "1", "1", "1"],
        ["1", "0", "1", "0"],
        ["1", "0", "1", "0"],
    ]
    assert [root.get(name) for name in counts] == ["6", "1", "3", "1"]
    cases = root.findall("testsuite/testcase")
    assert cases[0].get("classname") == "procfs.k1"
    assert [case.get("name") for case in cases[-2:]] == ["greeting/read", "(kernel)"]
    release = root.find("testsuite/properties/property[@name='release']")
    assert release is not None
    assert release.get("value") == "6.1.0-56-cloud-amd64"


def test_junit_tells_why() -> None:
    root = ElementTree.fromstring(render_junit(EVERYTHING))
    failure = root.find(".//failure")
    assert failure is not None
    assert failure.get("message") == "step 2, run HelloWorld: stdout is HelloWorld"
    assert failure.get("type") == "kernel.oops"
    assert failure.text is not None
    assert "-HelloWorld" in failure.text
    assert "| Call Trace:" in failure.text
    assert "evidence: cells/k1/greeting/fail" in failure.text
    skipped = root.find(".//skipped")
    assert skipped is not None
    assert skipped.get("message") == "a reason"
    error = root.find(".//error")
    assert error is not None
    assert error.get("type") == "error"


def test_junit_shows_the_code_of_each_frame() -> None:
    text = ElementTree.fromstring(render_junit(EVERYTHING)).findtext(".//failure")
    assert text is not None
    assert "g_HelloWorld at HelloWorld.c:42: HelloWorld();" in text


def test_junit_names_what_was_compared_where_the_kernel_is_content() -> None:
    quiet = replace(failed_cell(), findings=())
    failure = ElementTree.fromstring(render_junit(run(kernel(quiet)))).find(".//failure")
    assert failure is not None
    assert failure.get("type") == "stdout"


def test_junit_says_with_a_failure_where_it_begins() -> None:
    root = ElementTree.fromstring(render_junit(CHANGES))
    said = {
        (case.get("classname"), case.get("name")): found.get("value")
        for case in root.iter("testcase")
        if (found := case.find("properties/property[@name='boundary']")) is not None
    }
    where = "passed up to 5.4.302, failed from 5.10.223"
    back = "not monotonic: failed up to 5.4.302, passed on 5.8.18, failed from 5.10.223 "
    assert said == {
        **{(f"procfs.{name}", each): where for name in ("5.10", "6.1") for each in "abc"},
        **{
            (f"procfs.{name}", "back"): back + "for another reason"
            for name in ("5.4", "5.10", "6.1")
        },
    }


@settings(deadline=None)  # the machine may be busy
@given(st.text(), st.binary())
def test_junit_is_well_formed_whatever_a_guest_says(text: str, data: bytes) -> None:
    hostile = failed_cell(text=text.encode("utf-8", "replace").decode() + data.decode("latin-1"))
    result = run(kernel(replace(hostile, scenario=text, reason=text), name=text, error=text))
    root = ElementTree.fromstring(render_junit(result))
    assert root.get("tests") == "1"


# --- what people read --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "result", [EVERYTHING, CHANGES, MANY_CHANGES, NOT_BUILT, HUNG, HOSTILE_RUN, run()]
)
def test_no_control_character_reaches_the_terminal(result: RunResult) -> None:
    for text in (render_summary(result), render_report(result)):
        assert text.endswith("\n")
        assert all(line.isprintable() for line in text.split("\n"))


LONG = run(
    kernel(
        *(replace(failed_cell("k" * 200, "x" * 3000), scenario="s" * 300) for _ in range(30)),
        name="k" * 200,
        error="e" * 500,
    )
)


@pytest.mark.parametrize(
    "result", [EVERYTHING, CHANGES, MANY_CHANGES, NOT_BUILT, HUNG, HOSTILE_RUN, LONG, run()]
)
def test_the_summary_fits_a_terminal(result: RunResult) -> None:
    lines = render_summary(result).split("\n")
    assert max(map(len, lines)) <= 80
    assert len(lines) < 250


def test_the_summary() -> None:
    assert render_summary(EVERYTHING) == (
        "kernel         uname -r                   pass fail error skip  boot build total\n"
        "k1             6.1.0-56-cloud-amd64          1    1     1    1   4.2  30.1  35.8\n"
        "k2             6.1.0-56-cloud-amd64          0    0     1    0   4.2  30.1  34.3\n"
        "k3             -                             0    0     0    0     -     -   0.0\n"
        "\n"
        "ERROR  k2: it did not boot\n"
        "\n"
        "ERROR  k3: no such package\n"
        "  hint: --update looks again\n"
        "  see:  logs/k3.log\n"
        "\n"
        "FAILED  greeting/fail on k1\n"
        "  step 2, run HelloWorld: stdout is HelloWorld\n"
        "    --- expected\n"
        "    -HelloWorld\n"
        "    +other\n"
        "  evidence: cells/k1/greeting/fail\n"
        "\n"
        "ERROR  greeting/error on k1\n"
        "  a reason\n"
        "\n"
        "ERROR  greeting/read on k2\n"
        "  a reason\n"
        "\n"
        "accelerator: tcg (/dev/kvm is absent)\n"
        "the lab broke: 2 scenarios not judged, 2 kernels not usable\n"
    )


def test_the_summary_says_what_changed() -> None:
    text = render_summary(CHANGES)
    assert (
        "\n"
        "\n"
        "CHANGED  3 scenarios: passed up to 5.4.302, failed from 5.10.223: a, b, c\n"
        "  5.8.18 could not be tested: E on 5.8\n"
        "\n"
        "CHANGED  back: not monotonic: failed up to 5.4.302, passed on 5.8.18, failed\n"
        "  from 5.10.223 for another reason\n"
        "\n"
        "FAILED  same on 5.4\n"
    ) in text
    assert "CHANGED" not in render_summary(EVERYTHING)


def test_many_changes_are_not_all_told() -> None:
    text = render_summary(MANY_CHANGES)
    assert text.count("CHANGED") == 5
    assert "more changes; report.txt has them all\n" in text


def test_scenarios_of_one_change_are_not_all_named() -> None:
    text = render_summary(matrix(**{f"s{number}": "PPFF" for number in range(12)}))
    assert ": s0, s1, s2, s3, s4, s5 … and 6 more\n" in text.replace("\n  ", " ")


def test_the_report_says_what_changed_and_why() -> None:
    assert (
        "What changed, and where\n"
        "=======================\n"
        "3 scenarios: passed up to 5.4.302, failed from 5.10.223\n"
        "  5.8.18 could not be tested: E on 5.8\n"
        "  a\n"
        "    5.10.223: F on 5.10\n"
        "    6.1.192: F on 6.1\n"
        "  b\n"
    ) in render_report(CHANGES)
    assert (
        "back: not monotonic: failed up to 5.4.302, passed on 5.8.18, failed from 5.10.223 "
        "for another reason\n"
        "  5.4.302: F on 5.4\n"
        "  5.10.223: F on 5.10\n"
        "  6.1.192: F on 6.1\n"
        "\n"
    ) in render_report(CHANGES)
    assert "What changed" not in render_report(EVERYTHING)


def test_the_report_names_kernels_where_their_version_does_not_tell_them_apart() -> None:
    cells = {"one": "this", "other": "this", "third": "that"}
    kernels = [kernel(cell(Outcome.PASSED, "s"), name="fine")]
    kernels += [
        kernel(replace(cell(Outcome.FAILED, "s", name), reason=why), name=name)
        for name, why in cells.items()
    ]
    assert (
        "s: not by version alone: 6.1.192 passed on fine but failed on one and other and third\n"
        "  6.1.192 on one and other: this\n"
        "  6.1.192 on third: that\n"
    ) in render_report(run(*kernels))


def test_the_summary_shows_the_kernels_words_where_they_are_the_reason() -> None:
    oops = replace(failed_cell(), steps=(), reason="unexpected oops: HelloWorld")
    text = render_summary(run(kernel(oops)))
    assert (
        "  unexpected oops: HelloWorld\n"
        "    HelloWorld.c:42: HelloWorld();\n"
        "    | HelloWorld\n"
        "    | RIP: 0010:g+0x1/0x2 [m]\n"
    ) in text


def test_a_module_that_does_not_build_is_told_in_every_report() -> None:
    excerpt = "   12 | from(timer);\n      | ^"
    likely = "likely: timer_container_of() is called from_timer(), before 6.16 (41cb08555c41)"
    reason = f"old does not build: old.c:12:9: error: from(timer); {likely}"
    assert f"{reason}\n{excerpt}\n" in render_report(NOT_BUILT)
    assert f"{reason}\n{excerpt}" in str(
        ElementTree.fromstring(render_junit(NOT_BUILT))[0][1][0].text
    )
    summary = render_summary(NOT_BUILT)
    assert "\n".join(f"  {line}" for line in excerpt.splitlines()) in summary
    assert reason in " ".join(summary.split())
    told = json.loads(render_results(NOT_BUILT))["kernels"][0]["cells"][0]
    assert told["reason"] == reason
    assert told["build"] == {
        "module": "old",
        "file": "old.c",
        "line": 12,
        "column": 9,
        "message": "from(timer)",
        "source": "        from(timer);",
        "caret": 8,
        "change": {
            "advice": "timer_container_of() is called from_timer()",
            "kernels": "before 6.16",
            "commit": "41cb08555c41",
        },
        "advice": "",
    }


def test_a_kernel_that_cannot_be_used_is_told_once() -> None:
    lost = [replace(cell(Outcome.ERROR), reason="it did not boot") for _ in range(9)]
    text = render_summary(run(kernel(*lost, error="it did not boot")))
    assert text.count("it did not boot") == 1
    assert "9 scenarios not judged" in text


def test_many_failures_are_not_all_told() -> None:
    text = render_summary(LONG)
    assert "… and 20 more; report.txt has them all" in text


def test_the_report() -> None:
    text = render_report(EVERYTHING)
    assert "[3] k3, not found: no such package\n    hint: --update looks again\n" in text
    assert "    see:  logs/k3.log\n" in text
    assert "[2] k2, 6.1.0-56-cloud-amd64: it did not boot\n" in text
    assert (
        "                 [1]   [2]   [3]\n"
        "greeting/read     ok   ERR\n"
        "greeting/fail   FAIL\n"
        "greeting/error   ERR\n"
        "greeting/skip      -\n"
    ) in text
    assert "SKIPPED  greeting/skip on k1\n  a reason\n" in text
    assert (
        "FAILED  greeting/fail on k1\n"
        "===========================\n"
        "step 2, run HelloWorld: stdout is HelloWorld\n"
        "  1. passed      0.50 s  load procfs1\n"
        "  2. failed      0.25 s  run HelloWorld\n"
        "     stdout: stdout is HelloWorld\n"
        "       --- expected\n"
        "       -HelloWorld\n"
        "       +other\n"
        "  3. skipped     0.00 s  unload procfs1\n"
        "     not reached\n"
        "the kernel complained: oops: HelloWorld\n"
        "  in its traces: m, n\n"
        "  first in a module: g_HelloWorld at HelloWorld.c:42\n"
        "  | HelloWorld\n"
        "  | RIP: 0010:g+0x1/0x2 [m]\n"
        "      inline_HelloWorld at include/linux/x.h:3 (inlined)\n"
        "      g_HelloWorld at HelloWorld.c:42: HelloWorld();\n"
        "  | Call Trace:\n"
        "  |  f+0x1/0x2 [m]\n"
        "      g_HelloWorld at HelloWorld.c\n"
        "  |  h+0x1/0x2 [n]\n"
        "      no line: the module has no HelloWorld\n"
        "the kernel complained as expected: warning: HelloWorld\n"
        "left behind: /proc/HelloWorld\n"
        "taint before: 12288, after: 12800\n"
        "evidence: cells/k1/greeting/fail\n"
    ) in text


BUILDS = (
    FolderBuild("one", "cache", 0.02),
    FolderBuild("two", "host", 2.25),
    FolderBuild("three", "guest", 61.0, "three does not build: \x1b[31m"),
)


def test_the_report_says_who_built_the_modules() -> None:
    built = replace(kernel(cell(Outcome.PASSED)), builds=BUILDS, build_note="why \x1b[31m not")
    lines = render_report(run(built)).splitlines()
    at = lines.index("[1] k1, 6.1.0-56-cloud-amd64")
    assert lines[at + 1 : at + 3] == [
        "    modules: one cached, two built on the host (2.2 s), "
        "three built in the guest (61.0 s): it failed",
        "    why \\x1b[31m not",
    ]
    assert "modules:" not in render_report(run(kernel(cell(Outcome.PASSED))))


def test_the_reports_say_how_scenarios_got_their_guests() -> None:
    forked = replace(kernel(cell(Outcome.PASSED)), boots=3, forks=79, fork_note="why \x1b[31m not")
    text = render_report(run(forked))
    assert "    booted 3 times, 79 scenarios in forks\n    why \\x1b[31m not\n" in text
    assert "    booted once\n" in render_report(run(kernel(cell(Outcome.PASSED))))
    assert "booted" not in render_report(run(replace(kernel(), boots=0)))
    raw = json.loads(render_results(run(forked)))
    jsonschema.validate(raw, load_schema())
    (found,) = raw["kernels"]
    assert (found["boots"], found["forks"], found["fork_note"]) == (3, 79, "why \x1b[31m not")


def test_the_reports_say_which_kernel_file_was_booted() -> None:
    note = "it has no PVH \x1b[31m entry"
    unpacking = replace(kernel(cell(Outcome.PASSED)), boot_format="bzImage", boot_note=note)
    line = "    guests unpack the kernel themselves: it has no PVH \\x1b[31m entry\n"
    assert line in render_report(run(unpacking))
    plain = replace(kernel(cell(Outcome.PASSED)), boot_format="vmlinux")
    assert "unpack" not in render_report(run(plain))
    raw = json.loads(render_results(run(unpacking, plain, replace(kernel(), boots=0))))
    jsonschema.validate(raw, load_schema())
    found = [(each["boot_format"], each["boot_note"]) for each in raw["kernels"]]
    assert found == [("bzImage", note), ("vmlinux", ""), (None, "")]


def test_the_reports_say_what_came_before_any_module() -> None:
    found = Finding("lockdep", "BUG: \x1b[31m wait", 3, 9, ("[ BUG: wait ]", "context-{2:2}"))
    early = replace(kernel(cell(Outcome.PASSED)), boot_findings=(found,) * 50)
    line = "    before any module was loaded: lockdep: BUG: \\x1b[31m wait\n"
    assert render_report(run(early)).count(line) == 10
    raw = json.loads(render_results(run(early)))
    jsonschema.validate(raw, load_schema())
    (kernel_,) = raw["kernels"]
    (first, *_) = kernel_["boot_findings"]
    assert (first["kind"], first["headline"]) == ("lockdep", "BUG: \x1b[31m wait")
    assert first["lines"] == ["[ BUG: wait ]", "context-{2:2}"]


def test_results_say_who_built_the_modules() -> None:
    built = replace(kernel(cell(Outcome.PASSED)), builds=BUILDS, build_note="why not")
    raw = json.loads(render_results(run(built)))
    jsonschema.validate(raw, load_schema())
    (found,) = raw["kernels"]
    assert [(each["folder"], each["by"], each["seconds"]) for each in found["builds"]] == [
        *(("one", "cache", 0.02), ("two", "host", 2.25), ("three", "guest", 61.0)),
    ]
    assert found["builds"][2]["error"] == "three does not build: \x1b[31m"
    assert found["build_note"] == "why not"


def test_the_report_is_bounded_where_the_kernel_is_not() -> None:
    location = SourceLocation("f", "m.c", 1, own=True)
    frames = [Frame(CodeAddress("f", at, 900, "m"), 0, code=(location,) * 64) for at in range(500)]
    noisy = Finding("warning", "w", 0, 1, ("line",) * 1000, frames=tuple(frames))
    text = render_report(run(kernel(replace(failed_cell(), findings=(noisy,) * 500))))
    assert "… and 490 more complaints of the kernel" in text
    assert len(text.split("\n")) < 2000


# --- files ---------------------------------------------------------------------------------------


def test_reports_are_written(tmp_path: Path) -> None:
    paths = write_reports(EVERYTHING, tmp_path)
    assert [path.name for path in paths] == ["report.txt", "results.json", "junit.xml"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in paths)
    assert paths[0].read_text(encoding="utf-8") == render_report(EVERYTHING)
    assert stat.S_IMODE(paths[1].stat().st_mode) == 0o644


def test_reports_replace_those_of_before(tmp_path: Path) -> None:
    write_reports(EVERYTHING, tmp_path)
    write_reports(run(), tmp_path)
    assert "no scenario ran" in (tmp_path / "report.txt").read_text(encoding="utf-8")
    assert len(list(tmp_path.iterdir())) == 3


def test_hostile_texts_can_be_written(tmp_path: Path) -> None:
    write_reports(HOSTILE_RUN, tmp_path)
    ElementTree.parse(tmp_path / "junit.xml")


def test_a_report_that_cannot_be_put_in_place_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "report.txt").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_reports(EVERYTHING, tmp_path)
    assert os.listdir(tmp_path) == ["report.txt"]


# --- the allow-list, and boots that fail -----------------------------------------------------

USED = AllowUse(0, "at a.c", "known", "2026-12-31", expired=False, count=1, unused=False)
ALLOWED = replace(run(kernel(allowed_cell("WARNING: at a.c:1"))), allow=(USED,))


def test_what_is_allowed_is_in_every_report() -> None:
    report = render_report(ALLOWED)
    assert "allowed in greeting/allowed on k1: warning: WARNING: at a.c:1\n" in report
    assert "  until 2026-12-31: known: WARNING: at a.c:1\n" in report
    assert "\n1 complaint allowed; report.txt says why\n" in render_summary(ALLOWED)
    raw = json.loads(render_results(ALLOWED))
    (found,) = raw["kernels"][0]["cells"][0]["findings"]
    assert found["allowed"]["reason"] == "known: WARNING: at a.c:1"
    assert raw["allow"][0]["count"] == 1
    assert '<property name="allowed" value="warning: WARNING: at a.c:1" />' in render_junit(ALLOWED)


def test_what_is_allowed_no_more_is_a_complaint_as_any() -> None:
    past = replace(allowed_cell("WARNING: x", expired=True), outcome=Outcome.FAILED)
    report = render_report(run(kernel(past)))
    assert "the kernel complained: warning: WARNING: x\n" in report
    assert "allowed in" not in report
    assert 'type="kernel.warning"' in render_junit(run(kernel(past)))


@pytest.mark.parametrize(
    ("use", "note"),
    [
        (USED, ""),
        (
            replace(USED, expired=True),
            "note: allow[0] of lab.yaml (at a.c) expired on 2026-12-31: it allows nothing any more",
        ),
        (
            replace(USED, unused=True),
            "note: allow[0] of lab.yaml (at a.c) is unused: all that it is for passed without it",
        ),
    ],
)
def test_the_state_of_the_list_is_noted(use: AllowUse, note: str) -> None:
    result = replace(ALLOWED, allow=(use,))
    for text in (render_summary(result), render_report(result)):
        assert ("note: " in text) == bool(note)
        assert note in " ".join(text.split())


def test_the_last_of_a_console_is_shown() -> None:
    gone = replace(kernel(error="no root"), last_lines=("one line", "Kernel panic"))
    for text in (render_summary(run(gone)), render_report(run(gone))):
        assert "    | one line\n    | Kernel panic\n" in text
    raw = json.loads(render_results(run(gone)))
    assert raw["kernels"][0]["last_lines"] == ["one line", "Kernel panic"]


def test_a_judged_cell_is_a_line_at_once(tmp_path: Path) -> None:
    cells = [
        cell(Outcome.PASSED),
        replace(cell(Outcome.FAILED, "greeting/write"), reason=HOSTILE + "\n"),
    ]
    for judged in cells:
        append_judged(judged, tmp_path)
    lines = (tmp_path / JUDGED_FILE).read_bytes().decode("ascii").splitlines()
    assert [json.loads(line)["reason"] for line in lines] == ["", HOSTILE + "\n"]
    whole = json.loads(render_results(run(KernelResult("k1", None, cells=tuple(cells)))))
    in_results = whole["kernels"][0]["cells"]
    assert [json.loads(line) for line in lines] == [{"kernel": "k1", **one} for one in in_results]


# --- test programs, and what is brought back -------------------------------------------------


def cell_with_tests(text: str = "bind") -> CellResult:
    tests = (
        SubResult(("net", "connect"), Outcome.PASSED),
        SubResult(("net", visible(text)), Outcome.FAILED, "ERROR", "no", ("errno 98",)),
        SubResult(("later",), Outcome.SKIPPED, "SKIP", "not yet"),
    )
    mismatch = Mismatch("test", "1 of 3 tests failed: net", (f"not ok: {tests[1].line}",))
    step = StepResult(1, "exec tests/net", Outcome.FAILED, 0.5, (mismatch,), tests=tests)
    artifact = Artifact(visible(f"/tmp/{text}"), "collected/tmp/x", 5, "0" * 64)
    return CellResult(
        "k1",
        "net/all",
        Outcome.FAILED,
        step.explain(mismatch),
        (step,),
        artifacts=(artifact,),
        collect_notes=("/tmp/none: there was no file",),
    )


def passed_cell() -> CellResult:
    failed = cell_with_tests()
    step = replace(failed.steps[0], outcome=Outcome.PASSED, mismatches=())
    step = replace(step, tests=(step.tests[0], step.tests[2]))
    return replace(failed, outcome=Outcome.PASSED, reason="", steps=(step,))


def test_tests_of_programs_are_in_the_report() -> None:
    report = render_report(run(kernel(cell_with_tests())))
    assert "       not ok: net: bind # ERROR no\n" in report
    assert "     tests: 1 passed, 1 failed, 1 skipped\n" in report
    assert "     skipped: later # SKIP not yet\n" in report
    assert "\nbrought back: /tmp/bind (5 bytes): collected/tmp/x\n" in report
    assert "\nnot brought back: /tmp/none: there was no file\n" in report


def test_tests_of_programs_that_passed_are_in_the_report_too() -> None:
    report = render_report(run(kernel(passed_cell())))
    assert "net/all on k1, step 1, exec tests/net\n  tests: 1 passed, 1 skipped\n" in report
    assert "net/all on k1\n  brought back: /tmp/bind (5 bytes): collected/tmp/x\n" in report


def test_tests_of_programs_are_cases_of_junit() -> None:
    suite = ElementTree.fromstring(render_junit(run(kernel(cell_with_tests()))))[0]
    numbers = {name: suite.attrib[name] for name in ("tests", "failures", "errors", "skipped")}
    assert numbers == {"tests": "4", "failures": "2", "errors": "0", "skipped": "1"}
    cases = suite.findall("testcase")
    assert [case.attrib["name"] for case in cases] == [
        "net/all",
        *(f"exec tests/net: {name}" for name in ("net: connect", "net: bind", "later")),
    ]
    assert cases[1].attrib["classname"] == "procfs.k1.net/all"
    assert len(cases[1]) == 0
    failure = cases[2].find("failure")
    assert failure is not None
    assert (failure.attrib["message"], failure.text) == ("ERROR no", "errno 98")
    skipped = cases[3].find("skipped")
    assert skipped is not None
    assert skipped.attrib["message"] == "SKIP not yet"


def test_tests_and_artifacts_are_in_the_results() -> None:
    raw = json.loads(render_results(run(kernel(cell_with_tests()))))
    jsonschema.validate(raw, load_schema())
    told = raw["kernels"][0]["cells"][0]
    assert told["steps"][0]["tests"][1] == {
        "name": "net: bind",
        "path": ["net", "bind"],
        "outcome": "failed",
        "directive": "ERROR",
        "message": "no",
        "details": ["errno 98"],
    }
    assert told["artifacts"] == [
        {"path": "/tmp/bind", "file": "collected/tmp/x", "size": 5, "sha256": "0" * 64}
    ]
    assert told["collect_notes"] == ["/tmp/none: there was no file"]


def test_hostile_names_of_tests_and_files_harm_no_report() -> None:
    result = run(kernel(cell_with_tests(HOSTILE)))
    ElementTree.fromstring(render_junit(result))
    for text in (render_report(result), render_summary(result)):
        assert all(line.isprintable() for line in text.split("\n"))


def test_the_report_bounds_what_a_guest_can_make_many_of() -> None:
    many = cell_with_tests()
    tests = tuple(SubResult((str(n),), Outcome.SKIPPED, "SKIP", "") for n in range(5000))
    steps = (replace(many.steps[0], tests=tests),)
    many = replace(many, steps=steps, artifacts=many.artifacts * 1000)
    assert render_report(run(kernel(many))).count("\n") < 300


def test_the_reports_count_what_a_clusters_machines_cost() -> None:
    line = "3 scenarios once more elsewhere: its worker was lost (worker tls://a)"
    lost = replace(kernel(cell(Outcome.PASSED)), retried=(line, line), hosts=("one", "two"))
    text = render_report(run(lost))
    assert "    played on one, two\n    retried for the infrastructure: 2\n" in text
    assert f"      {line}\n" in text
    assert "retried for the infrastructure: 2; report.txt says" in render_summary(run(lost))
    assert judge_result(run(lost)).exit_status == 0
    raw = json.loads(render_results(run(lost)))
    jsonschema.validate(raw, load_schema())
    assert (raw["kernels"][0]["retried"], raw["kernels"][0]["hosts"]) == (
        [line, line],
        ["one", "two"],
    )
    assert "infrastructure" not in render_report(run(kernel(cell(Outcome.PASSED))))
