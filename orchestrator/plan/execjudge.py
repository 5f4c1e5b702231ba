"""What a test program did against what it must do: its exit status, its TAP, and the log's KTAP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.plan.judge import judge_run
from orchestrator.plan.klog import Record
from orchestrator.plan.model import ExecStep, LogExpect
from orchestrator.plan.outcome import CommandResult, Mismatch, Outcome, SubResult
from orchestrator.plan.tap import (
    TapReport,
    has_version_line,
    parse_logged_tap,
    parse_tap,
)
from orchestrator.plan.visible import clip, decode, visible, visible_lines

# How a kselftest says that it could not test here (Linux tools/testing/selftests/kselftest.h,
# KSFT_SKIP).
SKIP_STATUS = 4
SKIPPED_ITSELF = "it skipped itself"
MAX_TOLD = 50
MAX_LOG_LINES = 20
MAX_LINE = 200


@dataclass(frozen=True)
class Judged:
    """What became of a step that has tests of its own."""

    outcome: Outcome
    mismatches: tuple[Mismatch, ...] = ()
    tests: tuple[SubResult, ...] = ()
    reason: str = ""
    """Why it was skipped, where it was."""


def judge_exec(step: ExecStep, result: CommandResult) -> Judged:
    """What a test program of a lab did.

    Its exit status must be what is expected, 0 if nothing is said, and its tests must not fail.
    Where they do, a status that is not 0 is no further news. Status 4 skips the step unless
    something else is wrong, or that status is what is expected.
    """
    report = _report_of(step, result)
    found = judge_run(step.expect, result)
    told = _judge_report(report, result.truncated) if report else ()
    plain = step.expect.status is None and step.expect.signal is None
    has_skipped = plain and result.status == SKIP_STATUS
    if has_skipped or (plain and result.signal is None and report and report.failed):
        found = tuple(each for each in found if each.what != "status")
    mismatches = (*told, *found)
    tests = report.tests if report else ()
    if mismatches:
        return Judged(Outcome.FAILED, mismatches, tests)
    if has_skipped or (report and report.all_skipped):
        return Judged(Outcome.SKIPPED, (), tests, _why_skipped(report, result))
    return Judged(Outcome.PASSED, (), tests)


def judge_unbuilt(name: str, log: bytes) -> Judged:
    """A program that did not build: the end of what its build said."""
    lines = visible_lines(decode(log))[-MAX_LOG_LINES:]
    diff = tuple(clip(line, MAX_LINE) for line in lines) or ("it said nothing",)
    return Judged(Outcome.FAILED, (Mismatch("build", f"{visible(name)} does not build", diff),))


def judge_ktap(expect: LogExpect, records: Sequence[Record]) -> Judged:
    """What the kernel's log says of tests, where that is asked for."""
    if not expect.ktap:
        return Judged(Outcome.PASSED)
    report = parse_logged_tap([record.text for record in records])
    mismatches = _judge_report(report, is_truncated=False)
    return Judged(_outcome_of(mismatches), mismatches, report.tests)


def _outcome_of(mismatches: tuple[Mismatch, ...]) -> Outcome:
    return Outcome.FAILED if mismatches else Outcome.PASSED


def _report_of(step: ExecStep, result: CommandResult) -> TapReport | None:
    if step.output == "text":
        return None
    text = decode(result.stdout)
    if step.output == "auto" and not has_version_line(text):
        return None
    return parse_tap(text)


def _judge_report(report: TapReport, is_truncated: bool) -> tuple[Mismatch, ...]:
    if is_truncated:
        return (Mismatch("tap", "it printed more than the lab keeps: its tests cannot be judged"),)
    found = []
    if failed := report.failed:
        many = f"{len(failed)} of {len(report.tests)} tests failed" if len(report.tests) > 1 else ""
        message = f"{many}: {_in_words(failed[0])}" if many else f"failed: {_in_words(failed[0])}"
        found.append(Mismatch("test", message, tuple(_listed(failed))))
    found += [Mismatch("tap", fault) for fault in report.faults]
    return tuple(found)


def _in_words(test: SubResult) -> str:
    """A failed test in a line: its name and what it says."""
    return clip(f"{test.name}: {test.said}" if test.said else test.name, MAX_LINE)


def _listed(failed: Sequence[SubResult]) -> list[str]:
    lines = []
    for test in failed[:MAX_TOLD]:
        lines.append(clip(f"not ok: {test.line}", MAX_LINE))
        lines += [clip(f"  {line}", MAX_LINE) for line in test.details if line != test.message]
    if len(failed) > MAX_TOLD:
        lines.append(f"… and {len(failed) - MAX_TOLD} more")
    return lines


def _why_skipped(report: TapReport | None, result: CommandResult) -> str:
    """What a program says of why it tested nothing."""
    said = ""
    if report is not None:
        messages = [test.message for test in report.tests if test.directive == "SKIP"]
        said = report.skipped or next(filter(None, messages), "")
    if report is None:
        lines = visible_lines(decode((result.stderr or result.stdout)[-MAX_LINE * 4 :]))
        said = clip(next(iter(lines[-1:]), "").strip(), MAX_LINE)
    return f"{SKIPPED_ITSELF}: {said}" if said else SKIPPED_ITSELF
