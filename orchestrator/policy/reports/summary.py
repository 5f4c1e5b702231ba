"""The summary that ends a run on the terminal: a row for each kernel, what changed
between them, then the failures.
"""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.plan.frames import SourceLocation
from orchestrator.plan.outcome import (
    CellResult,
    Hang,
    KernelResult,
    Mismatch,
    Outcome,
    RunResult,
    judge_result,
)
from orchestrator.plan.stacks import MAX_TOLD as MAX_TOLD_STACKS
from orchestrator.plan.visible import clip, visible
from orchestrator.policy.reports.boundaries import render_changes
from orchestrator.policy.reports.text import WIDTH, wrapped

MAX_TOLD = 10
MAX_MISMATCHES = 3
MAX_DIFF_LINES = 8
_NAME_WIDTH = 14
_RELEASE_WIDTH = 26
_COLUMNS = (Outcome.PASSED, Outcome.FAILED, Outcome.ERROR, Outcome.SKIPPED)


def render_summary(result: RunResult) -> str:
    """The text: plain, at most 80 columns wide, safe for a terminal."""
    lines = [*_table(result), *render_changes(result), *_kernel_errors(result)]
    told = [
        cell
        for kernel in result.kernels
        for cell in kernel.cells
        if cell.outcome in (Outcome.FAILED, Outcome.ERROR) and cell.reason != kernel.error
    ]
    for cell in told[:MAX_TOLD]:
        lines += ["", *_told(cell)]
    if len(told) > MAX_TOLD:
        lines += ["", f"… and {len(told) - MAX_TOLD} more; report.txt has them all"]
    lines += _allow(result)
    accelerator = f"{result.accelerator} ({result.accelerator_reason})"
    lines += ["", *wrapped(f"accelerator: {accelerator}", "  ")]
    lines += wrapped(judge_result(result).message, "")
    return "\n".join(lines) + "\n"


def render_cell(cell: CellResult) -> str:
    """What the summary says of one cell that did not pass; like it, safe for a terminal."""
    return "".join(f"{line}\n" for line in _told(cell))


def _table(result: RunResult) -> Iterator[str]:
    yield (
        f"{'kernel':{_NAME_WIDTH}} {'uname -r':{_RELEASE_WIDTH}}"
        " pass fail error skip  boot build total"
    )
    for kernel in result.kernels:
        yield _row(kernel)


def _row(kernel: KernelResult) -> str:
    release = kernel.identity.release if kernel.identity else "-"
    counts = [sum(cell.outcome is outcome for cell in kernel.cells) for outcome in _COLUMNS]
    seconds = (
        kernel.boot_seconds,
        kernel.build_seconds,
        sum((cell.seconds for cell in kernel.cells), 0.0)
        + (kernel.boot_seconds or 0.0)
        + (kernel.build_seconds or 0.0),
    )
    return (
        f"{clip(visible(kernel.name), _NAME_WIDTH):{_NAME_WIDTH}}"
        f" {clip(visible(release), _RELEASE_WIDTH):{_RELEASE_WIDTH}}"
        " {:4} {:4} {:5} {:4} ".format(*counts)
        + " ".join(f"{_seconds(each):>5}" for each in seconds)
    )


def _seconds(seconds: float | None) -> str:
    """At most five characters."""
    if seconds is None:
        return "-"
    return f"{seconds:.1f}" if seconds < 999 else f"{min(seconds, 99999):.0f}"


def _kernel_errors(result: RunResult) -> Iterator[str]:
    for kernel in result.kernels:
        if not kernel.error:
            continue
        yield ""
        yield from wrapped(f"ERROR  {kernel.name}: {kernel.error}", "  ")
        if kernel.hint:
            yield from wrapped(f"  hint: {kernel.hint}", "    ")
        if kernel.evidence:
            yield from wrapped(f"  see:  {kernel.evidence}", "    ")
        yield from (clip(visible(f"    | {line}"), WIDTH) for line in kernel.last_lines)


def _allow(result: RunResult) -> Iterator[str]:
    """How often the allow-list spoke, and what is to be known of it."""
    allowed = sum(use.count for use in result.allow if not use.expired)
    notes = [note for use in result.allow if (note := use.note())]
    if allowed or notes:
        yield ""
    if allowed:
        yield f"{allowed} complaint{'s' if allowed > 1 else ''} allowed; report.txt says why"
    for note in notes[:MAX_TOLD]:
        yield from wrapped(f"note: {note}", "  ")


def _told(cell: CellResult) -> Iterator[str]:
    yield from wrapped(f"{cell.outcome.value.upper()}  {cell.scenario} on {cell.kernel}", "  ")
    told = [
        (step.explain(mismatch), mismatch) for step in cell.steps for mismatch in step.mismatches
    ]
    if not any(sentence == cell.reason for sentence, _ in told):
        yield from wrapped(f"  {cell.reason}", "  ")
        yield from _excerpt(cell)
    for sentence, mismatch in told[:MAX_MISMATCHES]:
        yield from _mismatch(sentence, mismatch)
    if len(told) > MAX_MISMATCHES:
        yield f"  … and {len(told) - MAX_MISMATCHES} more mismatches"
    if cell.hang is not None:
        yield from _hung_at(cell.hang)
    if cell.evidence is not None:
        yield from wrapped(f"  evidence: {cell.evidence}", "    ")


def _excerpt(cell: CellResult) -> Iterator[str]:
    """The compiler's line of source, or the kernel's own words, where they are the reason."""
    if cell.build is not None:
        yield from (clip(f"  {line}", WIDTH) for line in cell.build.excerpt())
    finding = next((each for each in cell.findings if not each.harmless), None)
    if finding is not None:
        yield from _source(finding.culprit)
        yield from (
            clip(visible(f"    | {line}"), WIDTH) for line in finding.lines[:MAX_DIFF_LINES]
        )


def _hung_at(hang: Hang) -> Iterator[str]:
    """The lines of the lab's modules that a hang is explained with."""
    culprits = dict.fromkeys(stack.culprit for stack in hang.stacks)
    for culprit in list(culprits)[:MAX_TOLD_STACKS]:
        yield from _source(culprit)


def _source(culprit: SourceLocation | None) -> Iterator[str]:
    """A line of source with its place, where it is known."""
    if culprit is not None and culprit.text:
        yield clip(visible(f"    {culprit.file}:{culprit.line}: {culprit.text}"), WIDTH)


def _mismatch(sentence: str, mismatch: Mismatch) -> Iterator[str]:
    yield from wrapped(f"  {sentence}", "  ")
    yield from (clip(visible(f"    {line}"), WIDTH) for line in mismatch.diff[:MAX_DIFF_LINES])
    if len(mismatch.diff) > MAX_DIFF_LINES:
        yield f"    … and {len(mismatch.diff) - MAX_DIFF_LINES} more lines"
