"""A run in Markdown, short: for a comment on a merge request, and for GitHub's job summary."""

from __future__ import annotations

import re
from collections.abc import Iterator

from orchestrator.plan.boundary import describe, find_boundaries, group_boundaries
from orchestrator.plan.outcome import CellResult, KernelResult, Outcome, RunResult, judge_result
from orchestrator.plan.visible import clip, visible
from orchestrator.policy.reports.matrix import sort_kernels

MAX_COMMENT = 60_000
"""GitHub takes 65536 characters in a comment, GitLab a million."""
MAX_TEXT = 500
MAX_CHANGES = 10
_OUTCOMES = (Outcome.PASSED, Outcome.FAILED, Outcome.ERROR, Outcome.SKIPPED)


def render_markdown(result: RunResult, limit: int = MAX_COMMENT) -> str:
    """The text, of at most ``limit`` bytes.

    Its first line is a comment by which to find it again, and replace it.
    """
    blocks = ["\n".join(_head(result)), "\n".join(_table(result))]
    blocks += filter(None, ("\n".join(_changes(result)),))
    text = _bounded("\n\n".join(blocks) + "\n", limit)
    told = [cell for cell in result.cells if cell.outcome in (Outcome.FAILED, Outcome.ERROR)]
    return text + _failures(told, limit - len(text.encode())) if told else text


def _bounded(text: str, limit: int) -> str:
    """Without its last lines, where there are too many."""
    lines = text.splitlines(keepends=True)
    while lines and len("".join(lines).encode()) > limit:
        lines = lines[: len(lines) * 3 // 4]
    return "".join(lines)


def marker(lab: str) -> str:
    """The comment by which the text is found again: a hyphen of the name ends no comment."""
    return f"<!-- kmod-lab: {re.sub(r'[^A-Za-z0-9_.]+', '-', lab).strip('-')} -->"


def _code(text: str) -> str:
    """Hostile text as code: every character that Markdown or HTML knows is a number.

    A comment's mentions (``@somebody``) and references (``#1``) do nothing in code.
    """
    shown = clip(visible(text), MAX_TEXT)
    return f"<code>{re.sub(r'[^A-Za-z0-9 ./,=+-]', _number, shown)}</code>" if shown else ""


def _number(match: re.Match[str]) -> str:
    return f"&#{ord(match[0])};"


def _head(result: RunResult) -> Iterator[str]:
    verdict = judge_result(result)
    sign = {0: "✅", 1: "❌"}.get(verdict.exit_status, "⚠️")
    yield marker(result.lab)
    yield f"### {sign} {_code(result.lab)} {verdict.message}"
    if result.interrupted:
        yield ""
        yield "This run was ended before its time: what was not judged by then is not here."


def _table(result: RunResult) -> Iterator[str]:
    yield "| kernel | `uname -r` | passed | failed | error | skipped | time |"
    yield "|---|---|--:|--:|--:|--:|--:|"
    yield from (_row(kernel) for kernel in sort_kernels(result.kernels))


def _row(kernel: KernelResult) -> str:
    counts = [sum(cell.outcome is outcome for cell in kernel.cells) for outcome in _OUTCOMES]
    release = _code(kernel.identity.release) if kernel.identity else "not found"
    seconds = sum(cell.seconds for cell in kernel.cells)
    seconds += (kernel.boot_seconds or 0.0) + (kernel.build_seconds or 0.0)
    error = f" {_code(kernel.error)}" if kernel.error else ""
    told = " | ".join(str(count) if count else " " for count in counts)
    return f"| {_code(kernel.name)} | {release}{error} | {told} | {seconds:.0f} s |"


def _changes(result: RunResult) -> Iterator[str]:
    groups = group_boundaries(find_boundaries(result))
    for group in groups[:MAX_CHANGES]:
        who = _code(group[0].scenario) if len(group) == 1 else f"{len(group)} scenarios"
        yield f"- {who}: {_code(describe(group[0]))}"
    if len(groups) > MAX_CHANGES:
        yield f"- … and {len(groups) - MAX_CHANGES} more changes"


def _failures(cells: list[CellResult], room: int) -> str:
    """The failures, folded, as many as there is room for."""
    count = f"{len(cells)} failure{'s' if len(cells) > 1 else ''}"
    begin, end = f"\n<details><summary>{count}</summary>\n\n", "\n</details>\n"
    left = room - len((begin + end).encode()) - 100
    if left < 0:
        return ""
    lines: list[str] = []
    for cell in cells:
        where = f"{cell.scenario} on {cell.kernel}"
        line = f"- **{cell.outcome.value}** {_code(where)} {_code(cell.reason)}\n"
        if (left := left - len(line.encode())) < 0:
            lines.append(f"- … and {len(cells) - len(lines)} more\n")
            break
        lines.append(line)
    return begin + "".join(lines) + end
