"""What the page's script shows of a cell when it is opened: plain values for JSON, bounded.

Every text is ``visible`` before it gets in here; the script puts texts into the page as text and
never as markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from orchestrator.plan.frames import Frame
from orchestrator.plan.klog import Finding
from orchestrator.plan.leftovers import describe_leftover
from orchestrator.plan.outcome import (
    CellResult,
    CommandResult,
    Hang,
    Mismatch,
    Outcome,
    StepResult,
)
from orchestrator.plan.visible import clip, decode, visible, visible_lines
from orchestrator.policy.reports.details import (
    MAX_FINDING_LINES,
    MAX_FINDINGS,
    MAX_LEFT_BEHIND,
    code_below,
)

MAX_TEXT = 1000
MAX_DIFF_LINES = 200
MAX_OUTPUT_LINES = 60
MAX_LOG_LINES = 400
"""How much of a log is in the page; the file that it links to has all."""

LETTERS = {
    Outcome.PASSED: "p",
    Outcome.FAILED: "f",
    Outcome.ERROR: "e",
    Outcome.SKIPPED: "s",
}
CellData = dict[str, Any]


def _line(text: str) -> str:
    return clip(visible(text), MAX_TEXT)


def cell_data(cell: CellResult, log: Sequence[str] = ()) -> CellData:
    """All that is shown of a cell. ``log`` are the lines of its kernel log, if they are at hand."""
    told = cell.outcome is not Outcome.PASSED
    data: CellData = {
        **summary_data(cell),
        "steps": [_step(step, output=told) for step in cell.steps],
        "taint": [cell.taint_before, cell.taint_after],
        "build": None if cell.build is None else _build(cell),
        "findings": [_finding(each) for each in cell.findings[:MAX_FINDINGS]],
        "hang": None if cell.hang is None else _hang(cell.hang),
        "left": [_line(describe_leftover(each)) for each in cell.left_behind[:MAX_LEFT_BEHIND]],
        "log": _log(log, cell.findings) if told and log else None,
        "more": _more(cell),
    }
    return {key: value for key, value in data.items() if value not in (None, [], [None, None])}


def summary_data(cell: CellResult) -> CellData:
    """The least that is shown of a cell, where there is no room for all."""
    return {
        "reason": _line(cell.reason),
        "seconds": round(cell.seconds, 3),
        "evidence": None if cell.evidence is None else _line(cell.evidence.as_posix()),
    }


def _more(cell: CellResult) -> list[str]:
    """What is left out here, in words."""
    counts = {
        "complaints of the kernel": len(cell.findings) - MAX_FINDINGS,
        "names left behind": len(cell.left_behind) - MAX_LEFT_BEHIND,
    }
    return [f"{count} more {what}" for what, count in counts.items() if count > 0]


def _step(step: StepResult, *, output: bool) -> list[Any]:
    """A list, without what is empty at its end: there may be a hundred thousand."""
    values = [
        step.number,
        _line(step.title),
        LETTERS[step.outcome],
        round(step.seconds, 3),
        _line(step.reason),
        [_mismatch(each) for each in step.mismatches],
        _command(step.command) if output and step.command and step.mismatches else None,
    ]
    while not values[-1]:
        values.pop()
    return values


def _mismatch(mismatch: Mismatch) -> dict[str, Any]:
    return {
        "what": _line(mismatch.what),
        "message": _line(mismatch.message),
        "diff": _some(mismatch.diff, MAX_DIFF_LINES),
    }


def _some(lines: Sequence[str], limit: int) -> list[str]:
    shown = [_line(line) for line in lines[:limit]]
    if len(lines) > limit:
        shown.append(f"… and {len(lines) - limit} more lines")
    return shown


def _command(command: CommandResult) -> dict[str, Any]:
    status = command.signal or (None if command.status is None else f"status {command.status}")
    return {
        "command": _line(command.command),
        "status": _line(status or "no status"),
        "stdout": _output(command.stdout),
        "stderr": _output(command.stderr),
    }


def _output(data: bytes) -> list[str]:
    return _some(visible_lines(decode(data[: MAX_OUTPUT_LINES * MAX_TEXT])), MAX_OUTPUT_LINES)


def _build(cell: CellResult) -> dict[str, Any] | None:
    failure = cell.build
    if failure is None:
        return None
    change = failure.change
    return {
        "place": _line(f"{failure.module}: {failure.place}"),
        "message": _line(failure.message),
        "excerpt": list(failure.excerpt()),
        "advice": _line(change.explain() if change else failure.advice),
    }


def _finding(finding: Finding) -> dict[str, Any]:
    data: dict[str, Any] = {
        "kind": finding.kind,
        "headline": _line(finding.headline),
        "lines": _decoded(finding.lines, finding.frames),
    }
    if finding.modules:
        data["modules"] = _line(", ".join(finding.modules))
    if finding.expected:
        data["why"] = "expected by the scenario"
    elif finding.allowed is not None:
        day = "expired on" if finding.allowed.expired else "until"
        data["why"] = _line(f"allowed, {day} {finding.allowed.until}: {finding.allowed.reason}")
    if finding.harmless:
        data["harmless"] = True
    if finding.culprit is not None:
        data["culprit"] = [_line(str(finding.culprit)), _line(finding.culprit.text)]
    return data


def _decoded(lines: Sequence[str], frames: Sequence[Frame]) -> list[list[Any]]:
    """Each line with the lines of code that stand below it."""
    code = code_below(frames)
    told: list[list[Any]] = [
        [_line(line), [each.strip() for each in code[number]]] if number in code else [_line(line)]
        for number, line in enumerate(lines[:MAX_FINDING_LINES])
    ]
    if len(lines) > MAX_FINDING_LINES:
        told.append([f"… and {len(lines) - MAX_FINDING_LINES} more lines"])
    return told


def _hang(hang: Hang) -> dict[str, Any]:
    stacks = [
        {
            "name": _line(stack.name),
            "about": _line(
                ", ".join(
                    word
                    for word in (
                        "of the step" if stack.of_step else "",
                        f"state {stack.state}" if stack.state else "",
                        "" if stack.cpu is None else f"on processor {stack.cpu}",
                    )
                    if word
                )
            ),
            "culprit": None
            if stack.culprit is None
            else [_line(str(stack.culprit)), _line(stack.culprit.text)],
            "lines": _decoded(stack.lines, stack.frames),
        }
        for stack in hang.stacks
    ]
    return {"step": hang.step, "why": _line(hang.explanation), "stacks": stacks}


# --- the log -------------------------------------------------------------------------------

_STAMP = re.compile(r"\[ *\d+\.\d{6}\] ")


def _log(lines: Sequence[str], findings: Sequence[Finding]) -> dict[str, Any]:
    """The lines, and which of them are of a finding: its number, from 0."""
    marks = find_marks(lines, findings)
    shown = list(_around(lines, marks))
    return {
        "lines": [
            [_line(lines[number]), *([marks[number]] if number in marks else [])]
            for number in shown
        ],
        "cut": len(lines) - len(shown),
    }


def _around(lines: Sequence[str], marks: Mapping[int, int]) -> Iterator[int]:
    """Which lines are shown where there are too many: from shortly before the first finding."""
    first = max(0, min(marks, default=0) - MAX_LOG_LINES // 4)
    start = 0 if len(lines) <= MAX_LOG_LINES else min(first, len(lines) - MAX_LOG_LINES)
    return iter(islice(range(start, len(lines)), MAX_LOG_LINES))


def find_marks(lines: Sequence[str], findings: Sequence[Finding]) -> dict[int, int]:
    """For each line of a log that is of a finding, which one. The log has stamps, they have not."""
    texts = [_STAMP.sub("", line, count=1) if _STAMP.match(line) else line for line in lines]
    found: dict[int, int] = {}
    begin = 0
    for number, finding in enumerate(findings):
        wanted = [visible(line) for line in finding.lines]
        last = len(texts) - len(wanted)
        place = next(
            (at for at in range(begin, last + 1) if texts[at : at + len(wanted)] == wanted), None
        )
        if not wanted or place is None:
            continue
        found |= dict.fromkeys(range(place, place + len(wanted)), number)
        begin = place + len(wanted)
    return found
