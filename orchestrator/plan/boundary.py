"""Where a scenario's behaviour changes, in the order of the kernels' versions.

Only what passed or failed is evidence. A cell that was skipped says nothing, and neither does
one that the lab could not judge; but where such a one lies at a change, it is named, because
the change may be on either side of it.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from orchestrator.plan.outcome import KernelResult, Outcome, RunResult
from orchestrator.plan.version import KernelVersion

_EVIDENCE = (Outcome.PASSED, Outcome.FAILED)


class Shape(enum.Enum):
    """How a scenario's outcomes lie on the line of versions."""

    BOUNDARY = "boundary"
    """One change: all older kernels one way, all newer ones the other."""
    NOT_MONOTONIC = "not-monotonic"
    """More than one change, as where a distribution took a patch back into an old series."""
    SAME_VERSION = "same-version"
    """Kernels of one version disagree: it is not the version, or not alone."""


@dataclass(frozen=True)
class Trial:
    """What became of one scenario on one kernel; no version where nobody could tell it."""

    kernel: str
    version: KernelVersion | None
    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True)
class Stretch:
    """Tested versions next to each other on which the outcome was the same.

    A version on which kernels disagree is a stretch of its own, without an outcome.
    """

    outcome: Outcome | None
    first: KernelVersion
    last: KernelVersion
    trials: tuple[Trial, ...]
    """By version, then by the kernel's name: that order among one version means nothing."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it failed there, each reason once, in order."""
        failed = (trial.reason for trial in self.trials if trial.outcome is Outcome.FAILED)
        return tuple(dict.fromkeys(failed))


@dataclass(frozen=True)
class Boundary:
    """A scenario that does not behave alike on all kernels, and where that changes."""

    scenario: str
    stretches: tuple[Stretch, ...]
    """In order of versions; with ``unplaced``, every kernel that passed or failed is in one."""
    untested: tuple[Trial, ...] = ()
    """Errors between two stretches: the change may be on either side of each."""
    unplaced: tuple[Trial, ...] = ()
    """What passed, failed or broke on a kernel of unknown version; it may lie anywhere."""

    @property
    def shape(self) -> Shape:
        """Whether this is one change, several, or none of versions."""
        if any(stretch.outcome is None for stretch in self.stretches):
            return Shape.SAME_VERSION
        return Shape.BOUNDARY if len(self.stretches) == 2 else Shape.NOT_MONOTONIC


# --- finding them --------------------------------------------------------------------------


def find_boundaries(result: RunResult) -> tuple[Boundary, ...]:
    """The boundary of every scenario of a run that has one, in the run's order."""
    trials: dict[str, list[Trial]] = {cell.scenario: [] for cell in result.cells}
    for kernel in result.kernels:
        version = _version_of(kernel)
        cells = {cell.scenario: cell for cell in kernel.cells}
        for scenario, told in trials.items():
            if cell := cells.get(scenario):
                told.append(Trial(kernel.name, version, cell.outcome, cell.reason))
            elif kernel.error:
                told.append(Trial(kernel.name, version, Outcome.ERROR, kernel.error))
    found = (find_boundary(scenario, told) for scenario, told in trials.items())
    return tuple(boundary for boundary in found if boundary is not None)


def _version_of(kernel: KernelResult) -> KernelVersion | None:
    if kernel.identity is None:
        return None
    try:
        return KernelVersion.parse(kernel.identity.version)
    except ValueError:
        return None


def _told_order(trial: Trial) -> tuple[str, ...]:
    # The version's text too: 5.4 and 5.4.0 are the same version.
    return (trial.kernel, str(trial.version), trial.outcome.value, trial.reason)


def find_boundary(scenario: str, trials: Iterable[Trial]) -> Boundary | None:
    """Where this scenario's outcome changes; None where nothing shows that it does.

    The order of ``trials`` does not matter.
    """
    told = sorted(trials, key=_told_order)
    stretches = _find_stretches(trial for trial in told if trial.outcome in _EVIDENCE)
    if len(stretches) < 2 and all(stretch.outcome for stretch in stretches):
        return None
    errors = [
        (trial.version, trial)
        for trial in told
        if trial.outcome is Outcome.ERROR and trial.version is not None
    ]
    untested = [
        trial for version, trial in sorted(errors, key=_place) if _at_a_change(stretches, version)
    ]
    unplaced = [
        trial for trial in told if trial.version is None and trial.outcome is not Outcome.SKIPPED
    ]
    return Boundary(scenario, stretches, tuple(untested), tuple(unplaced))


def _place(placed: tuple[KernelVersion, Trial]) -> KernelVersion:
    return placed[0]


def _find_stretches(trials: Iterable[Trial]) -> tuple[Stretch, ...]:
    placed = [(trial.version, trial) for trial in trials if trial.version is not None]
    found: list[Stretch] = []
    for version, group in itertools.groupby(sorted(placed, key=_place), key=_place):
        alike = tuple(trial for _, trial in group)
        outcomes = {trial.outcome for trial in alike}
        outcome = outcomes.pop() if len(outcomes) == 1 else None
        if outcome is not None and found and found[-1].outcome is outcome:
            before = found.pop()
            found.append(Stretch(outcome, before.first, version, before.trials + alike))
        else:
            found.append(Stretch(outcome, version, version, alike))
    return tuple(found)


def _at_a_change(stretches: Sequence[Stretch], version: KernelVersion) -> bool:
    """Whether a kernel of this version, had it been tested, could have moved a change.

    An edge itself counts: its other kernels may disagree with the one that was tested.
    """
    between = any(
        older.last <= version <= newer.first for older, newer in itertools.pairwise(stretches)
    )
    return between or any(s.outcome is None and s.first == version for s in stretches)


# --- in words ------------------------------------------------------------------------------


def describe(boundary: Boundary) -> str:
    """The change in one clause: ``passed up to 5.5.19, failed from 5.10.223``."""
    prefix = {
        Shape.BOUNDARY: "",
        Shape.NOT_MONOTONIC: "not monotonic: ",
        Shape.SAME_VERSION: "not by version alone: ",
    }[boundary.shape]
    return prefix + ", ".join(_stretches_in_words(boundary.stretches))


def _stretches_in_words(stretches: Sequence[Stretch]) -> Iterator[str]:
    failed: Stretch | None = None
    for number, stretch in enumerate(stretches):
        text = _stretch_in_words(
            stretch, first=number == 0, last=number == len(stretches) - 1 and number > 0
        )
        if stretch.reasons:
            if failed is not None and not set(failed.reasons) & set(stretch.reasons):
                text += " for another reason"
            failed = stretch
        yield text


def _stretch_in_words(stretch: Stretch, *, first: bool, last: bool) -> str:
    if stretch.outcome is None:
        sides = (f"{outcome.value} on {_names(stretch, outcome)}" for outcome in _EVIDENCE)
        return f"{stretch.first} {' but '.join(sides)}"
    if first:
        where = f"up to {stretch.last}"
    elif last:
        where = f"from {stretch.first}"
    elif stretch.first == stretch.last:
        where = f"on {stretch.first}"
    else:
        where = f"from {stretch.first} to {stretch.last}"
    return f"{stretch.outcome.value} {where}"


def _names(stretch: Stretch, outcome: Outcome) -> str:
    return " and ".join(trial.kernel for trial in stretch.trials if trial.outcome is outcome)


def group_boundaries(boundaries: Iterable[Boundary]) -> tuple[tuple[Boundary, ...], ...]:
    """Boundaries that say the same together, the most frequent first."""
    groups: dict[object, list[Boundary]] = {}
    for boundary in boundaries:
        # The reasons of errors may differ; which kernels they keep in the dark may not.
        dark = tuple(trial.kernel for trial in boundary.untested)
        lost = tuple((trial.kernel, trial.outcome) for trial in boundary.unplaced)
        groups.setdefault((describe(boundary), dark, lost), []).append(boundary)
    return tuple(sorted(map(tuple, groups.values()), key=len, reverse=True))


def describe_gaps(group: Sequence[Boundary]) -> tuple[str, ...]:
    """What keeps the boundary of a group from being exact, a sentence for each kernel."""
    known = {
        trial.version
        for boundary in group
        for stretch in boundary.stretches
        for trial in stretch.trials
    }
    reasons: dict[tuple[str, Outcome], dict[str, None]] = {}
    names: dict[tuple[str, Outcome], str] = {}
    for boundary in group:
        for trial in boundary.untested + boundary.unplaced:
            key = (trial.kernel, trial.outcome)
            reasons.setdefault(key, {})[trial.reason] = None
            names[key] = _gap_name(trial, known)
    return tuple(_gap(names[key], key[1], tuple(told)) for key, told in reasons.items())


def _gap_name(trial: Trial, known: set[KernelVersion | None]) -> str:
    if trial.version is None:
        return f"{trial.kernel}, of unknown version,"
    # Where another kernel of this version was tested, the version does not say which is meant.
    return f"{trial.version} on {trial.kernel}" if trial.version in known else f"{trial.version}"


def _gap(name: str, outcome: Outcome, reasons: Sequence[str]) -> str:
    if outcome is not Outcome.ERROR:
        return f"{name} {outcome.value}"
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    return f"{name} could not be tested" + (f": {reasons[0]}{more}" if reasons[0] else "")
