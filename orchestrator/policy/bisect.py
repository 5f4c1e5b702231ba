"""Between which two kernels a scenario's outcome changes, in few tests.

What to test next, and what the tests come to, are functions of the tests that were made; only
``bisect`` does anything, by way of the tester that it is given. Both ends come first. Then the
middle one of the kernels that nothing is known of between the two sides, again and again. One
that cannot be tested is passed over, and its neighbour becomes the middle one.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orchestrator.foundation.errors import (
    EXIT_BROKEN,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_PASSED,
    MachineError,
    RunInterruptedError,
    ShellError,
    SourceError,
)
from orchestrator.plan.boundary import Boundary, Shape, Trial, describe, find_boundary
from orchestrator.plan.outcome import Outcome, Verdict
from orchestrator.plan.version import KernelVersion

# --- values --------------------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class Candidate:
    """A kernel that could be tested; in order of versions, then of labels."""

    version: KernelVersion
    label: str
    """Says, among kernels of one version, which it is."""

    def __str__(self) -> str:
        return f"{self.version} ({self.label})" if self.label else str(self.version)


@dataclass(frozen=True)
class Answer:
    """What a test of one candidate gave. ``ERROR`` and ``SKIPPED`` say nothing of the scenario."""

    outcome: Outcome
    reason: str = ""
    evidence: Path | None = None

    @property
    def telling(self) -> bool:
        """Whether the candidate could be tested."""
        return self.outcome in (Outcome.PASSED, Outcome.FAILED)


@dataclass(frozen=True)
class Tried:
    """A candidate and what its test gave."""

    candidate: Candidate
    answer: Answer


@dataclass(frozen=True)
class Next:
    """What is tested now. After it come ``left`` tests at most, if all of them tell something."""

    candidate: Candidate
    left: int


class Ending(enum.Enum):
    """Why a bisection ended."""

    FOUND = "found"
    """No kernel between the two sides is left to test."""
    ALIKE = "alike"
    """Both ends behave alike: there is nothing to search for."""
    NOTHING = "nothing"
    """Fewer than two kernels could be tested."""
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Bisection:
    """What a bisection came to."""

    scenario: str
    candidates: tuple[Candidate, ...]
    """All that were offered, the oldest first."""
    known: tuple[Tried, ...]
    """What was known before."""
    tried: tuple[Tried, ...]
    """Every test, in the order in which they were made."""
    ending: Ending
    older: Tried | None = None
    """The last one before the change; with ``newer``, absent where no change was seen."""
    newer: Tried | None = None
    """The first one after the change."""
    untestable: tuple[Tried, ...] = ()
    """What lies between them and could not be tested: the change may be at any of these."""
    untried: tuple[Candidate, ...] = ()
    """What lies between them and was not reached: empty unless interrupted."""
    evidence: Boundary | None = None
    """All that passed or failed, by version; absent where all did alike."""

    @property
    def good(self) -> Tried | None:
        """The one that passed of the two at the change."""
        return self._side(Outcome.PASSED)

    @property
    def bad(self) -> Tried | None:
        """The one that failed of the two at the change."""
        return self._side(Outcome.FAILED)

    def _side(self, outcome: Outcome) -> Tried | None:
        sides = (self.older, self.newer)
        return next((side for side in sides if side and side.answer.outcome is outcome), None)

    @property
    def contradiction(self) -> str:
        """How the tests contradict that there is one change of versions; empty if they do not.

        The search itself looks at one change only, so that this shows where two candidates have
        one version, or where what was known before disagrees.
        """
        if self.evidence is None or self.evidence.shape is Shape.BOUNDARY:
            return ""
        return describe(self.evidence)

    @property
    def other_failure(self) -> Tried | None:
        """The failure farthest from the change, where its reason is not that at the change.

        Then more than one thing changed, and what was found may not be what was looked for.
        """
        failed = [each for each in self.telling if each.answer.outcome is Outcome.FAILED]
        if self.bad is None:
            return None
        farthest = failed[-1] if self.bad == self.newer else failed[0]
        return farthest if farthest.answer.reason != self.bad.answer.reason else None

    @property
    def telling(self) -> tuple[Tried, ...]:
        """All that passed or failed, known before or tried, the oldest first."""
        line = _Line.of(self.candidates, self.known + self.tried)
        return tuple(map(line.tried, line.telling))


class Tester(Protocol):
    """Tests a scenario on one candidate.

    Raises ``RunInterruptedError`` where the user ended it: that is no answer. What else keeps a
    kernel from being tested is ``Outcome.ERROR``, or a ``SourceError``, ``MachineError`` or
    ``ShellError``; any other error ends the bisection.
    """

    def __call__(self, candidate: Candidate, /) -> Answer:
        """The outcome, and why."""


class Watcher(Protocol):
    """Is told what is tested now, and then what it gave; never blocks, never raises."""

    def __call__(self, event: Next | Tried, /) -> None:
        """Take one event."""


def _nobody(event: Next | Tried) -> None:
    """Watches nothing."""


# --- the search ----------------------------------------------------------------------------


def bisect(
    scenario: str,
    candidates: Iterable[Candidate],
    test: Tester,
    *,
    known: Iterable[Tried] = (),
    watch: Watcher = _nobody,
) -> Bisection:
    """Test candidates until it is known where the scenario's outcome changes.

    ``known`` are answers from before, of a matrix run for example: they are not asked for again,
    so errors among them are better left out.
    Of ``n`` candidates, at most ``2 + (n - 2).bit_length()`` are tested, and those that cannot be.
    """
    offered, before = tuple(candidates), tuple(known)
    tried: list[Tried] = []
    try:
        while (upcoming := choose_next(offered, (*before, *tried))) is not None:
            watch(upcoming)
            tried.append(Tried(upcoming.candidate, _ask(test, upcoming.candidate)))
            watch(tried[-1])
    except RunInterruptedError:
        pass  # what was found until then is worth telling
    return conclude(scenario, offered, tried, known=before)


def _ask(test: Tester, candidate: Candidate) -> Answer:
    try:
        return test(candidate)
    except (SourceError, MachineError, ShellError) as error:
        return Answer(Outcome.ERROR, error.message, error.evidence)


def choose_next(candidates: Iterable[Candidate], tried: Iterable[Tried]) -> Next | None:
    """What to test after these tests; None where nothing more is to be learnt.

    Where they show more than one change, the newest is searched for.
    """
    line = _Line.of(candidates, tried)
    old, new = line.unknown_ends()
    if old is not None:
        return Next(old, line.left_after_end(new if new != old else None))
    if new is not None:
        return Next(new, line.left_after_end(None))
    pool = line.unknown_between(line.newest_change())
    if not pool:
        return None
    return Next(pool[len(pool) // 2], (len(pool) // 2).bit_length())


def conclude(
    scenario: str,
    candidates: Iterable[Candidate],
    tried: Sequence[Tried],
    *,
    known: Sequence[Tried] = (),
) -> Bisection:
    """What these tests come to; ``Ending.INTERRUPTED`` where there was more to test."""
    line = _Line.of(candidates, (*known, *tried))
    change = line.newest_change()
    if choose_next(line.candidates, (*known, *tried)) is not None:
        ending = Ending.INTERRUPTED
    elif change is not None:
        ending = Ending.FOUND
    else:
        ending = Ending.ALIKE if len(line.telling) > 1 else Ending.NOTHING
    trials = (
        Trial(each.label, each.version, line.answers[each].outcome, line.answers[each].reason)
        for each in line.telling
    )
    return Bisection(
        scenario=scenario,
        candidates=line.candidates,
        known=tuple(known),
        tried=tuple(tried),
        ending=ending,
        older=line.tried(change[0]) if change else None,
        newer=line.tried(change[1]) if change else None,
        untestable=tuple(map(line.tried, line.untestable_between(change))),
        untried=line.unknown_between(change),
        evidence=find_boundary(scenario, trials),
    )


@dataclass(frozen=True)
class _Line:
    """The candidates, the oldest first, with what is known of each."""

    candidates: tuple[Candidate, ...]
    answers: Mapping[Candidate, Answer]

    @classmethod
    def of(cls, candidates: Iterable[Candidate], tried: Iterable[Tried]) -> _Line:
        answers = {each.candidate: each.answer for each in tried}
        return cls(tuple(sorted(set(candidates))), answers)

    @property
    def telling(self) -> tuple[Candidate, ...]:
        """Those that passed or failed."""
        return tuple(c for c in self.candidates if c in self.answers and self.answers[c].telling)

    def tried(self, candidate: Candidate) -> Tried:
        return Tried(candidate, self.answers[candidate])

    def unknown_ends(self) -> tuple[Candidate | None, Candidate | None]:
        """What to test to know the old and the new end; None for one that is known, or cannot be.

        What cannot be tested is no end: the next one takes its place.
        """
        return self._first_unknown(self.candidates), self._first_unknown(self.candidates[::-1])

    def _first_unknown(self, end: Sequence[Candidate]) -> Candidate | None:
        first = next((c for c in end if c not in self.answers or self.answers[c].telling), None)
        return None if first in self.answers else first

    def left_after_end(self, other: Candidate | None) -> int:
        """How many tests come at most after that of an end: the ``other`` one, and the search."""
        unknown = sum(candidate not in self.answers for candidate in self.candidates) - 1
        return unknown.bit_length() if other is None else 1 + (unknown - 1).bit_length()

    def newest_change(self) -> tuple[Candidate, Candidate] | None:
        """The newest two that are next to each other, of those that tell, and not alike."""
        pairs = [
            (older, newer)
            for older, newer in itertools.pairwise(self.telling)
            if self.answers[older].outcome is not self.answers[newer].outcome
        ]
        return pairs[-1] if pairs else None

    def unknown_between(self, change: tuple[Candidate, Candidate] | None) -> tuple[Candidate, ...]:
        return tuple(c for c in self._between(change) if c not in self.answers)

    def untestable_between(
        self, change: tuple[Candidate, Candidate] | None
    ) -> tuple[Candidate, ...]:
        return tuple(c for c in self._between(change) if c in self.answers)

    def _between(self, change: tuple[Candidate, Candidate] | None) -> tuple[Candidate, ...]:
        if change is None:
            return ()
        return tuple(c for c in self.candidates if change[0] < c < change[1])


# --- what it comes to ----------------------------------------------------------------------


def judge_bisection(result: Bisection) -> Verdict:
    """The exit status, and the sentence that says why.

    0 where the change was found, 1 where there is none, as a search that finds nothing.
    """
    if result.ending is Ending.NOTHING:
        return Verdict(EXIT_BROKEN, "fewer than two kernels could be tested")
    if result.ending is Ending.ALIKE:
        ends = result.telling
        outcome = ends[0].answer.outcome.value
        where = f"{ends[0].candidate} and {ends[-1].candidate}"
        return Verdict(EXIT_FAILED, f"no change: {outcome} at both ends, {where}")
    change = "no change seen yet"
    if result.older is not None and result.newer is not None:
        change = (
            f"{result.older.answer.outcome.value} up to {result.older.candidate}, "
            f"{result.newer.answer.outcome.value} from {result.newer.candidate}"
        )
    if result.ending is Ending.INTERRUPTED:
        return Verdict(EXIT_INTERRUPTED, f"interrupted; {change}")
    return Verdict(EXIT_PASSED, change)
