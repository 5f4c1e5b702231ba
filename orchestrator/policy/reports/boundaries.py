"""What changed, and where: a run's boundaries in words, for the summary and the report."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from orchestrator.plan.boundary import (
    Boundary,
    Stretch,
    Trial,
    describe,
    describe_gaps,
    find_boundaries,
    group_boundaries,
)
from orchestrator.plan.outcome import Outcome, RunResult
from orchestrator.plan.visible import visible
from orchestrator.policy.reports.text import cut, wrapped

MAX_GROUPS = 5
MAX_NAMES = 6
MAX_GAPS = 3
_TITLE = "What changed, and where"


def render_changes(result: RunResult) -> Iterator[str]:
    """The lines of the summary: a paragraph for each change, a blank line before each."""
    groups = group_boundaries(find_boundaries(result))
    for group in groups[:MAX_GROUPS]:
        yield ""
        yield from wrapped(f"CHANGED  {_headline(group)}{_some_names(group)}", "  ")
        gaps = describe_gaps(group)
        for gap in gaps[:MAX_GAPS]:
            yield from wrapped(f"  {gap}", "    ")
        if len(gaps) > MAX_GAPS:
            yield f"  … and {len(gaps) - MAX_GAPS} more kernels"
    if len(groups) > MAX_GROUPS:
        yield ""
        yield f"… and {len(groups) - MAX_GROUPS} more changes; report.txt has them all"


def render_changes_in_full(result: RunResult) -> Iterator[str]:
    """The lines of the report: every change, every scenario's name, and why each failed."""
    groups = group_boundaries(find_boundaries(result))
    if groups:
        yield _TITLE
        yield "=" * len(_TITLE)
    for group in groups:
        yield visible(_headline(group))
        yield from (cut(f"  {gap}") for gap in describe_gaps(group))
        for boundary in group:
            indent = "  "
            if len(group) > 1:  # alone, its name is in the headline
                yield visible(f"  {boundary.scenario}")
                indent = "    "
            yield from (cut(f"{indent}{line}") for line in _reasons(boundary))


def _headline(group: Sequence[Boundary]) -> str:
    who = group[0].scenario if len(group) == 1 else f"{len(group)} scenarios"
    return f"{who}: {describe(group[0])}"


def _some_names(group: Sequence[Boundary]) -> str:
    if len(group) == 1:
        return ""
    names = ", ".join(boundary.scenario for boundary in group[:MAX_NAMES])
    more = f" … and {len(group) - MAX_NAMES} more" if len(group) > MAX_NAMES else ""
    return f": {names}{more}"


def _reasons(boundary: Boundary) -> Iterator[str]:
    """Why it failed, with the versions for which that is the reason."""
    for stretch in boundary.stretches:
        failed = (trial for trial in stretch.trials if trial.outcome is Outcome.FAILED)
        for reason, trials in itertools.groupby(failed, key=_reason):
            yield f"{_where(tuple(trials), stretch)}: {reason}"


def _where(alike: Sequence[Trial], stretch: Stretch) -> str:
    first, last = alike[0].version, alike[-1].version
    if first != last:
        return f"{first} to {last}"
    if len(alike) == sum(trial.version == first for trial in stretch.trials):
        return f"{first}"
    return f"{first} on {' and '.join(trial.kernel for trial in alike)}"


def _reason(trial: Trial) -> str:
    return trial.reason
