"""What test programs come to: by their exit status and by what they say of their tests."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.plan.execjudge import judge_exec, judge_ktap, judge_unbuilt
from orchestrator.plan.klog import parse_log
from orchestrator.plan.model import ExecStep, LogExpect, RunExpect
from orchestrator.plan.outcome import CommandResult, Outcome

from .taps import KSELFTEST, KTAP_DEEP, KUNIT_LOG

PASS, FAIL, SKIP = Outcome.PASSED, Outcome.FAILED, Outcome.SKIPPED
TAP = "TAP version 13\n1..2\nok 1 a\n{} 2 b{}\n"


def step(**fields: Any) -> ExecStep:
    return ExecStep(exec="tests/x.sh", **fields)


def result(status: int | None, stdout: str = "", **fields: Any) -> CommandResult:
    signal = fields.pop("signal", None)
    stderr = fields.pop("stderr", b"")
    return CommandResult("x", status, signal, stdout.encode(), stderr, 0.5, **fields)


@pytest.mark.parametrize(
    ("status", "stdout", "outcome", "what"),
    [
        (0, "", PASS, []),
        (0, "not ok 1 is no TAP without a version\n", PASS, []),
        (1, "", FAIL, ["status"]),
        (4, "", SKIP, []),
        (0, TAP.format("ok", ""), PASS, []),
        (0, TAP.format("not ok", ""), FAIL, ["test"]),
        (1, TAP.format("not ok", ""), FAIL, ["test"]),
        (1, TAP.format("ok", ""), FAIL, ["status"]),
        (0, TAP.format("not ok", " # TODO"), PASS, []),
        (4, TAP.format("ok", " # SKIP"), SKIP, []),
        (4, TAP.format("not ok", ""), FAIL, ["test"]),
        (0, "TAP version 13\n1..0 # SKIP no root\n", SKIP, []),
        (0, "TAP version 13\n1..1\nok 1 # SKIP no root\n", SKIP, []),
        (0, "TAP version 13\n1..3\nok 1\n", FAIL, ["tap"]),
        (255, "TAP version 13\nok 1\nBail out! no\n", FAIL, ["tap", "status"]),
    ],
)
def test_outcomes(status: int, stdout: str, outcome: Outcome, what: list[str]) -> None:
    judged = judge_exec(step(), result(status, stdout))
    assert judged.outcome is outcome
    assert [mismatch.what for mismatch in judged.mismatches] == what
    assert bool(judged.reason) == (outcome is SKIP)


def test_a_signal_is_told_beside_the_tests_that_failed() -> None:
    judged = judge_exec(step(), result(None, TAP.format("not ok", ""), signal="SIGSEGV"))
    assert [mismatch.what for mismatch in judged.mismatches] == ["test", "status"]


def test_status_4_can_be_what_is_expected() -> None:
    expecting = step(expect=RunExpect(status=4))
    assert judge_exec(expecting, result(4)).outcome is PASS
    assert judge_exec(expecting, result(0)).outcome is FAIL


def test_a_failed_test_fails_whatever_status_is_expected() -> None:
    judged = judge_exec(step(expect=RunExpect(status=1)), result(1, TAP.format("not ok", "")))
    assert judged.outcome is FAIL


def test_tap_that_was_promised_must_come() -> None:
    assert judge_exec(step(output="tap"), result(0, "hello\n")).outcome is FAIL
    assert judge_exec(step(output="tap"), result(0, "1..1\nok 1\n")).outcome is PASS


def test_text_is_not_looked_at() -> None:
    judged = judge_exec(step(output="text"), result(0, TAP.format("not ok", "")))
    assert (judged.outcome, judged.tests) == (PASS, ())


def test_tap_that_was_cut_off_is_not_judged() -> None:
    judged = judge_exec(step(), result(0, TAP.format("ok", ""), truncated=True))
    assert judged.outcome is FAIL
    assert "more than the lab keeps" in judged.mismatches[0].message


@pytest.mark.parametrize(
    ("stdout", "stderr", "reason"),
    [
        ("", b"", "it skipped itself"),
        ("first\nlast\n", b"", "it skipped itself: last"),
        ("out\n", b"\x1b[1mno device\n", "it skipped itself: \\x1b[1mno device"),
        ("TAP version 13\n1..0 # SKIP no root\n", b"x\n", "it skipped itself: no root"),
        ("TAP version 13\n1..1\nok 1 # SKIP no disk\n", b"", "it skipped itself: no disk"),
    ],
)
def test_why_it_was_skipped(stdout: str, stderr: bytes, reason: str) -> None:
    assert judge_exec(step(), result(4, stdout, stderr=stderr)).reason == reason


def test_failures_are_named_with_what_was_said_around_them() -> None:
    judged = judge_exec(step(), result(1, KSELFTEST))
    (mismatch,) = judged.mismatches
    assert mismatch.message == "2 of 5 tests failed: mmap shared: mmap: Invalid argument"
    assert mismatch.diff == (
        "not ok: mmap shared # mmap: Invalid argument",
        "  the next one",
        "not ok: mmap slow # TIMEOUT 45 seconds",
        "  Totals: pass:1 fail:2 xfail:1 xpass:0 skip:1 error:0",
    )


def test_ktaps_failures_too() -> None:
    (mismatch,) = judge_exec(step(), result(1, KTAP_DEEP)).mismatches
    assert mismatch.message == "1 of 4 tests failed: net: ipv4: bind: bind: EADDRINUSE at net.c:12"


def test_what_is_told_of_many_failures_is_bounded() -> None:
    tap = "TAP version 13\n1..900\n" + "".join(f"not ok {n} t{n}\n" for n in range(1, 901))
    (mismatch,) = judge_exec(step(), result(1, tap)).mismatches
    assert mismatch.diff[-1] == "… and 850 more"
    assert len(mismatch.diff) == 51


def test_a_program_that_does_not_build_shows_the_end_of_its_log() -> None:
    log = b"".join(b"line %d \x1b[31m\n" % number for number in range(100))
    judged = judge_unbuilt("tests/x.c", log)
    (mismatch,) = judged.mismatches
    assert judged.outcome is FAIL
    assert mismatch.message == "tests/x.c does not build"
    assert len(mismatch.diff) == 20
    assert mismatch.diff[-1] == "line 99 \\x1b[31m"


# --- the kernel's log ------------------------------------------------------------------------


def test_ktap_in_the_log() -> None:
    records = parse_log("".join(f"[    1.0] {line}\n" for line in KUNIT_LOG).encode())
    judged = judge_ktap(LogExpect(ktap=True), records)
    assert judged.outcome is FAIL
    assert [test.name for test in judged.tests] == ["sums: adds", "sums: subtracts"]


def test_a_log_without_ktap_fails_where_it_is_asked_for_alone() -> None:
    assert judge_ktap(LogExpect(ktap=True), ()).outcome is FAIL
    assert judge_ktap(LogExpect(has=("x",)), ()).outcome is PASS
