"""Bisection: against a search that tests everything, and what it says of what it cannot test."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.foundation.errors import (
    EXIT_BROKEN,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_PASSED,
    BootError,
    HostError,
    RunInterruptedError,
    SourceError,
)
from orchestrator.plan.boundary import Shape
from orchestrator.plan.outcome import Outcome
from orchestrator.plan.version import KernelVersion
from orchestrator.policy.bisect import (
    Answer,
    Bisection,
    Candidate,
    Ending,
    Next,
    Tried,
    bisect,
    choose_next,
    conclude,
    judge_bisection,
)

# No deadline: the machine may be busy with guests.
UNHURRIED = settings(deadline=None)

ANSWERS = {
    "P": Answer(Outcome.PASSED),
    "F": Answer(Outcome.FAILED, "it failed"),
    "f": Answer(Outcome.FAILED, "it failed otherwise"),
    "E": Answer(Outcome.ERROR, "it did not boot"),
    "S": Answer(Outcome.SKIPPED, "not for this kernel"),
}


def offered(count: int) -> list[Candidate]:
    return [Candidate(KernelVersion.parse(f"5.{number}"), "mainline") for number in range(count)]


def truth(letters: str) -> Callable[[Candidate], Answer]:
    """A tester of ``offered``: what becomes of each, a letter each."""
    return lambda candidate: ANSWERS[letters[candidate.version.numbers[1]]]


def places(tried: Sequence[Tried]) -> list[int]:
    return [each.candidate.version.numbers[1] for each in tried]


def search(letters: str, known: Sequence[int] = ()) -> Bisection:
    candidates = offered(len(letters))
    before = [Tried(candidates[place], truth(letters)(candidates[place])) for place in known]
    return bisect("s", candidates, truth(letters), known=before)


def change(result: Bisection) -> tuple[int, int] | None:
    if result.older is None or result.newer is None:
        return None
    old, new = places([result.older, result.newer])
    return old, new


@pytest.mark.parametrize(
    ("letters", "tested", "found", "between"),
    [
        ("PF", [0, 1], (0, 1), []),
        ("PPPPFFFF", [0, 7, 4, 2, 3], (3, 4), []),
        ("FFPP", [0, 3, 2, 1], (1, 2), []),
        # an end that cannot be tested: the next one takes its place
        ("EEPPFE", [0, 1, 2, 5, 4, 3], (3, 4), []),
        ("SPFS", [0, 1, 3, 2], (1, 2), []),
        # in the middle: its neighbours, on both sides
        ("PPEEEFF", [0, 6, 3, 4, 2, 5, 1], (1, 5), [2, 3, 4]),
        ("PEEEF", [0, 4, 2, 3, 1], (0, 4), [1, 2, 3]),
        # away from the change, an error costs a test and no more
        ("PPPPEPPPF", [0, 8, 4, 5, 7], (7, 8), []),
    ],
)
def test_narrows(
    letters: str, tested: list[int], found: tuple[int, int], between: list[int]
) -> None:
    result = search(letters)
    assert result.ending is Ending.FOUND
    assert places(result.tried) == tested
    assert change(result) == found
    assert places(result.untestable) == between
    assert not result.contradiction


@pytest.mark.parametrize(
    ("letters", "tested", "ending"),
    [
        ("PFFP", [0, 3], Ending.ALIKE),
        ("FffF", [0, 3], Ending.ALIKE),
        ("EPPE", [0, 1, 3, 2], Ending.ALIKE),
        ("", [], Ending.NOTHING),
        ("P", [0], Ending.NOTHING),
        ("E", [0], Ending.NOTHING),
        ("EEE", [0, 1, 2], Ending.NOTHING),
        ("ESPE", [0, 1, 2, 3], Ending.NOTHING),
    ],
)
def test_stops_where_there_is_nothing_to_search_for(
    letters: str, tested: list[int], ending: Ending
) -> None:
    result = search(letters)
    assert (places(result.tried), result.ending) == (tested, ending)
    assert change(result) is None
    assert result.good is result.bad is None


def test_what_passed_and_what_failed_at_the_change() -> None:
    for letters, good, bad in (("PPF", 1, 2), ("FPP", 1, 0)):
        result = search(letters)
        assert result.good is not None
        assert result.bad is not None
        assert places([result.good, result.bad]) == [good, bad]


# --- contradictions --------------------------------------------------------------------------


def test_what_was_known_before_can_contradict_one_change() -> None:
    # Both ends pass, but 5.2 is known to fail: the newest change is searched for.
    result = search("PPFFFFPP", known=[2])
    assert places(result.tried) == [0, 7, 5, 6]
    assert change(result) == (5, 6)
    assert result.evidence is not None
    assert result.evidence.shape is Shape.NOT_MONOTONIC
    assert result.contradiction == (
        "not monotonic: passed up to 5.0, failed from 5.2 to 5.5, passed from 5.6"
    )


def test_kernels_of_one_version_can_contradict_a_change_of_versions() -> None:
    version = KernelVersion.parse("6.1.192")
    candidates = [Candidate(version, label) for label in ("rt", "cloud")]
    result = bisect("s", candidates, lambda c: ANSWERS["F" if c.label == "rt" else "P"])
    assert result.ending is Ending.FOUND
    assert result.contradiction == (
        "not by version alone: 6.1.192 passed on cloud but failed on rt"
    )


@pytest.mark.parametrize(
    ("letters", "other"),
    [("PPPFFf", 5), ("PPPffF", 5), ("fFFPP", 0), ("PPPFFF", None), ("PP", None)],
)
def test_a_failure_for_another_reason_is_seen(letters: str, other: int | None) -> None:
    result = search(letters)
    seen = result.other_failure
    assert (None if seen is None else places([seen])[0]) == other


# --- what happens while it searches ----------------------------------------------------------


def test_errors_of_a_kernel_are_answers() -> None:
    def test(candidate: Candidate) -> Answer:
        if candidate.version.numbers[1] == 2:
            raise BootError("it hangs")
        if candidate.version.numbers[1] == 1:
            raise SourceError("no such package")
        return truth("P??F")(candidate)

    result = bisect("s", offered(4), test)
    assert change(result) == (0, 3)
    assert [each.answer for each in result.untestable] == [
        Answer(Outcome.ERROR, "no such package"),
        Answer(Outcome.ERROR, "it hangs"),
    ]


def test_errors_of_the_host_end_it() -> None:
    def test(candidate: Candidate) -> Answer:
        raise HostError(f"no room for {candidate}")

    with pytest.raises(HostError, match=r"no room for 5.0 \(mainline\)"):
        bisect("s", offered(4), test)


@pytest.mark.parametrize(
    ("after", "older", "untried"), [(0, None, 0), (1, None, 0), (2, 0, 7), (3, 0, 3), (4, 2, 1)]
)
def test_an_interruption_keeps_what_was_found(after: int, older: int | None, untried: int) -> None:
    asked: list[Candidate] = []

    def test(candidate: Candidate) -> Answer:
        if len(asked) == after:
            raise RunInterruptedError
        asked.append(candidate)
        return truth("PPPPFFFFF")(candidate)

    result = bisect("s", offered(9), test)
    assert result.ending is Ending.INTERRUPTED
    assert [each.candidate for each in result.tried] == asked
    assert (None if result.older is None else places([result.older])[0]) == older
    assert len(result.untried) == untried
    assert judge_bisection(result).exit_status == EXIT_INTERRUPTED


def test_a_watcher_sees_each_test_begin_and_end() -> None:
    told: list[str] = []

    def watch(event: Next | Tried) -> None:
        if isinstance(event, Next):
            told.append(f"{event.candidate.version}, {event.left} left")
        else:
            told.append(event.answer.outcome.value)

    bisect("s", offered(8), truth("PPPPEFFF"), watch=watch)
    assert told == [
        "5.0, 4 left",
        "passed",
        "5.7, 3 left",
        "failed",
        "5.4, 2 left",
        "error",
        "5.3, 2 left",
        "passed",
        "5.6, 1 left",
        "failed",
        "5.5, 0 left",
        "failed",
    ]


@pytest.mark.parametrize(
    ("letters", "status", "message"),
    [
        ("PPF", EXIT_PASSED, "passed up to 5.1 (mainline), failed from 5.2 (mainline)"),
        ("PEF", EXIT_PASSED, "passed up to 5.0 (mainline), failed from 5.2 (mainline)"),
        ("FEF", EXIT_FAILED, "no change: failed at both ends, 5.0 (mainline) and 5.2 (mainline)"),
        ("PEE", EXIT_BROKEN, "fewer than two kernels could be tested"),
    ],
)
def test_what_it_comes_to(letters: str, status: int, message: str) -> None:
    verdict = judge_bisection(search(letters))
    assert (verdict.exit_status, verdict.message) == (status, message)


# --- against a search that tests everything --------------------------------------------------

ANY = st.text("PFfES", max_size=40)


@st.composite
def one_change(draw: st.DrawFn) -> str:
    """Kernels with one change, and what cannot be tested anywhere between."""
    old, new = draw(st.integers(0, 30)), draw(st.integers(0, 30))
    letters = draw(st.sampled_from(("PF", "FP")))
    dark = draw(st.sets(st.integers(0, old + new)))
    plain = letters[0] * old + letters[1] * new
    return "".join("E" if place in dark else letter for place, letter in enumerate(plain))


def telling(letters: str) -> list[int]:
    return [place for place, letter in enumerate(letters) if letter not in "ES"]


def outcome(letters: str, place: int) -> Outcome:
    return ANSWERS[letters[place]].outcome


def all_changes(letters: str) -> list[tuple[int, int]]:
    seen = telling(letters)
    pairs = itertools.pairwise(seen)
    return [(old, new) for old, new in pairs if outcome(letters, old) is not outcome(letters, new)]


@UNHURRIED
@given(one_change())
def test_one_change_is_found(letters: str) -> None:
    result = search(letters)
    changes = all_changes(letters)
    if len(telling(letters)) < 2:
        assert result.ending is Ending.NOTHING
    elif not changes:
        assert result.ending is Ending.ALIKE
    else:
        assert result.ending is Ending.FOUND
        assert [change(result)] == changes
        assert places(result.untestable) == list(range(changes[0][0] + 1, changes[0][1]))
        assert result.contradiction == ""


@UNHURRIED
@given(ANY, st.data())
def test_what_is_found_is_a_change_whatever_the_kernels_do(
    letters: str, data: st.DataObject
) -> None:
    known = data.draw(st.sets(st.sampled_from(range(len(letters))))) if letters else set()
    result = search(letters, sorted(known))
    assert result.untried == ()
    assert not set(places(result.tried)) & known
    seen = telling(letters)
    if len(seen) < 2:
        assert result.ending is Ending.NOTHING
    elif change(result) is None:
        assert result.ending is Ending.ALIKE
        assert outcome(letters, seen[0]) is outcome(letters, seen[-1])
    else:
        assert result.ending is Ending.FOUND
        assert change(result) in all_changes(letters)
    if not known and len(seen) > 1 and outcome(letters, seen[0]) is outcome(letters, seen[-1]):
        assert result.ending is Ending.ALIKE


@UNHURRIED
@given(ANY)
def test_no_more_tests_than_promised(letters: str) -> None:
    result = search(letters)
    tested = places(result.tried)
    assert len(set(tested)) == len(tested)
    wasted = sum(not each.answer.telling for each in result.tried)
    count = len(letters)
    assert len(tested) <= wasted + (2 + (count - 2).bit_length() if count > 1 else count)


@UNHURRIED
@given(ANY, st.data())
def test_what_is_left_is_at_most_what_was_said(letters: str, data: st.DataObject) -> None:
    known = data.draw(st.sets(st.sampled_from(range(len(letters))))) if letters else set()
    candidates = offered(len(letters))
    tried = [Tried(candidates[place], truth(letters)(candidates[place])) for place in known]
    promises = []
    while (upcoming := choose_next(candidates, tried)) is not None:
        promises.append(upcoming.left)
        tried.append(Tried(upcoming.candidate, truth(letters)(upcoming.candidate)))
    made = tried[len(known) :]
    for number, promise in enumerate(promises):
        wasted = sum(not each.answer.telling for each in made[number:])
        assert len(made) - number - 1 <= promise + wasted


@UNHURRIED
@given(ANY, st.randoms())
def test_the_order_of_candidates_and_of_tests_does_not_matter(letters: str, random: Random) -> None:
    candidates = offered(len(letters))
    result = search(letters)
    shuffled = [*candidates, *candidates[:3]]
    random.shuffle(shuffled)
    assert bisect("s", shuffled, truth(letters)) == result
    tried = list(result.tried)
    random.shuffle(tried)
    again = conclude("s", shuffled, tried)
    assert (again.ending, again.older, again.newer) == (result.ending, result.older, result.newer)
    assert again.evidence == result.evidence
