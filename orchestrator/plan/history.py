"""What past runs tell together: what is new, what flakes, what is slow. Pure.

A cell that was skipped says nothing; one that failed or could not be judged is bad, one that passed
is good.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from orchestrator.foundation.errors import EXIT_PASSED
from orchestrator.plan.outcome import Outcome, Revision, RunResult, judge_result


@dataclass(frozen=True)
class PastCell:
    """What became of a cell in a past run."""

    outcome: Outcome
    seconds: float
    reason: str = ""


@dataclass(frozen=True)
class PastRun:
    """A run as the history keeps it."""

    run_id: str
    lab: str
    started: str
    """UTC, ISO 8601: so texts are in the order of time."""
    revision: Revision
    exit_status: int
    verdict: str
    seconds: float
    kernels: Mapping[str, str]
    """The release of each kernel; empty where it was not found."""
    cells: Mapping[tuple[str, str], PastCell]
    """By kernel and scenario."""

    @property
    def green(self) -> bool:
        """Whether all that was played passed."""
        return self.exit_status == EXIT_PASSED


@dataclass(frozen=True)
class Change:
    """A cell that fails since a run, or passes since one, after the last green run."""

    kernel: str
    scenario: str
    outcome: Outcome
    reason: str
    since: PastRun


@dataclass(frozen=True)
class Flake:
    """A cell that was good and bad on one kernel at one revision without other changes."""

    kernel: str
    release: str
    scenario: str
    revision: str
    good: int
    bad: int
    reason: str
    """Of its last failure."""


@dataclass(frozen=True)
class Slow:
    """What a scenario takes on the kernel where it takes longest: the median of its runs."""

    scenario: str
    kernel: str
    seconds: float
    times: int


@dataclass(frozen=True)
class History:
    """All that is told of past runs."""

    runs: int
    last: PastRun | None
    last_green: PastRun | None
    """The newest green run before the last one."""
    broken: tuple[Change, ...] = ()
    mended: tuple[Change, ...] = ()
    flakes: tuple[Flake, ...] = ()
    slow: tuple[Slow, ...] = ()


def past_run(result: RunResult) -> PastRun:
    """What the history keeps of a run."""
    verdict = judge_result(result)
    return PastRun(
        result.run_id,
        result.lab,
        result.started,
        result.revision,
        verdict.exit_status,
        verdict.message,
        result.seconds,
        {each.name: each.identity.release if each.identity else "" for each in result.kernels},
        {
            (cell.kernel, cell.scenario): PastCell(cell.outcome, cell.seconds, cell.reason)
            for cell in result.cells
        },
    )


def only(runs: Iterable[PastRun], scenario: str = "", kernel: str = "") -> tuple[PastRun, ...]:
    """The runs with these cells alone: part of a scenario's name or a pattern, a kernel's name."""
    return tuple(
        replace(
            run,
            cells={
                key: cell
                for key, cell in run.cells.items()
                if _fits(key[1], scenario) and kernel in ("", key[0])
            },
        )
        for run in runs
    )


def _fits(name: str, pattern: str) -> bool:
    if any(char in pattern for char in "*?["):
        return fnmatch.fnmatchcase(name, pattern)
    return pattern in name


def look_back(runs: Iterable[PastRun]) -> History:
    """What the runs of one lab tell; their order does not matter."""
    ordered = sorted(runs, key=lambda run: (run.started, run.run_id))
    if not ordered:
        return History(0, None, None)
    last = ordered[-1]
    green = next((run for run in reversed(ordered[:-1]) if run.green), None)
    after = ordered[ordered.index(green) + 1 :] if green else ordered
    changes = _find_changes(ordered, {run.run_id for run in after})
    return History(
        len(ordered),
        last,
        green,
        tuple(each for each in changes if each.outcome is not Outcome.PASSED),
        tuple(each for each in changes if each.outcome is Outcome.PASSED),
        _find_flakes(ordered),
        _find_slow(ordered),
    )


def _find_changes(runs: Sequence[PastRun], after: set[str]) -> list[Change]:
    """Cells whose newest streak began in one of the runs ``after``, and was not always so.

    What failed in all runs is new too, where it is first seen in one of these.
    """
    streaks: dict[tuple[str, str], tuple[PastRun, PastCell, bool]] = {}
    for run in runs:
        for key, cell in run.cells.items():
            if cell.outcome is Outcome.SKIPPED:
                continue
            since, before, changed = streaks.get(key, (run, cell, False))
            if _good(before) is not _good(cell):
                since, changed = run, True
            streaks[key] = (since, cell, changed)
    return [
        Change(kernel, scenario, cell.outcome, cell.reason, since)
        for (kernel, scenario), (since, cell, changed) in streaks.items()
        if since.run_id in after and (changed or not _good(cell))
    ]


def _good(cell: PastCell) -> bool:
    return cell.outcome is Outcome.PASSED


def _find_flakes(runs: Sequence[PastRun]) -> tuple[Flake, ...]:
    seen: dict[tuple[str, str, str, str], list[PastCell]] = {}
    for run in runs:
        if not run.revision.name or run.revision.dirty:
            continue  # what differs is not known to be nothing
        for (kernel, scenario), cell in run.cells.items():
            release = run.kernels.get(kernel, "")
            if cell.outcome is not Outcome.SKIPPED and release:
                key = (kernel, release, scenario, run.revision.name)
                seen.setdefault(key, []).append(cell)
    found = []
    for (kernel, release, scenario, revision), cells in seen.items():
        good = sum(map(_good, cells))
        bad = [cell for cell in cells if not _good(cell)]
        if good and bad:
            found.append(Flake(kernel, release, scenario, revision, good, len(bad), bad[-1].reason))
    return tuple(sorted(found, key=lambda flake: -min(flake.good, flake.bad)))


def _find_slow(runs: Sequence[PastRun]) -> tuple[Slow, ...]:
    taken: dict[tuple[str, str], list[float]] = {}
    for run in runs:
        for key, cell in run.cells.items():
            if _good(cell):  # one that failed may have stood at a deadline
                taken.setdefault(key, []).append(cell.seconds)
    worst: dict[str, Slow] = {}
    for (kernel, scenario), seconds in taken.items():
        slow = Slow(scenario, kernel, median(seconds), len(seconds))
        if scenario not in worst or worst[scenario].seconds < slow.seconds:
            worst[scenario] = slow
    return tuple(sorted(worst.values(), key=lambda slow: -slow.seconds))
