"""Boundaries: what counts as evidence, where a change lies, and what is said of it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.plan.boundary import (
    Boundary,
    Shape,
    Trial,
    describe,
    describe_gaps,
    find_boundaries,
    find_boundary,
    group_boundaries,
)
from orchestrator.plan.outcome import (
    CellResult,
    KernelIdentity,
    KernelResult,
    Outcome,
    RunResult,
)
from orchestrator.plan.version import KernelVersion

# No deadline: the machine may be busy with guests.
UNHURRIED = settings(deadline=None)

OUTCOMES = {
    "P": Outcome.PASSED,
    "F": Outcome.FAILED,
    "E": Outcome.ERROR,
    "S": Outcome.SKIPPED,
}


def trial(text: str) -> Trial:
    """``F 5.10.3 5.10-rt it broke``: outcome, version (``?`` for none), kernel, reason."""
    outcome, version, *rest = text.split(" ", 3)
    return Trial(
        rest[0] if rest else version,
        None if version == "?" else KernelVersion.parse(version),
        OUTCOMES[outcome],
        rest[1] if len(rest) > 1 else "",
    )


def boundary(*trials: str) -> Boundary | None:
    return find_boundary("s", map(trial, trials))


def found(*trials: str) -> Boundary:
    result = boundary(*trials)
    assert result is not None
    return result


@pytest.mark.parametrize(
    "trials",
    [
        (),
        ("F 5.4",),
        ("P 5.4", "P 5.10"),
        ("F 5.4 a reason", "F 5.10 b another"),
        # nothing but evidence is evidence
        ("F 5.4", "E 5.10", "S 6.1"),
        ("P 5.4", "E 5.10", "P 6.1"),
        ("E 5.4", "S 5.10"),
        # no place, no boundary
        ("P 5.4", "F ? lost"),
        ("P ? a", "F ? b"),
        # one version by two names, alike
        ("P 5.4 a", "P 5.4.0 b"),
    ],
)
def test_what_says_nothing(trials: Sequence[str]) -> None:
    assert boundary(*trials) is None


@pytest.mark.parametrize(
    ("trials", "shape", "text"),
    [
        (
            ("P 5.4.302", "P 5.5.19", "F 5.10.223", "F 6.1.192"),
            Shape.BOUNDARY,
            "passed up to 5.5.19, failed from 5.10.223",
        ),
        # as numbers, not as text
        (("F 5.4", "P 5.10", "P 5.9"), Shape.BOUNDARY, "failed up to 5.4, passed from 5.9"),
        (("P 6.13-rc2", "F 6.13"), Shape.BOUNDARY, "passed up to 6.13-rc2, failed from 6.13"),
        # what is no evidence does not move it
        (
            ("P 5.4", "S 5.8", "E 5.9", "F 5.10"),
            Shape.BOUNDARY,
            "passed up to 5.4, failed from 5.10",
        ),
        (
            ("P 4.19", "F 5.4", "F 5.10", "P 6.1"),
            Shape.NOT_MONOTONIC,
            "not monotonic: passed up to 4.19, failed from 5.4 to 5.10, passed from 6.1",
        ),
        (
            ("F 4.19 a one", "P 5.4", "F 6.1 b one"),
            Shape.NOT_MONOTONIC,
            "not monotonic: failed up to 4.19, passed on 5.4, failed from 6.1",
        ),
        (
            ("F 4.19 a one", "P 5.4", "F 6.1 b two", "F 6.2 c three"),
            Shape.NOT_MONOTONIC,
            "not monotonic: failed up to 4.19, passed on 5.4, failed from 6.1 for another reason",
        ),
        # one reason in common is no other reason
        (
            ("F 4.19 a one", "F 4.20 b two", "P 5.4", "F 6.1 c two"),
            Shape.NOT_MONOTONIC,
            "not monotonic: failed up to 4.20, passed on 5.4, failed from 6.1",
        ),
        (
            ("P 6.1 deb", "F 6.1 rt"),
            Shape.SAME_VERSION,
            "not by version alone: 6.1 passed on deb but failed on rt",
        ),
        (
            ("P 5.4", "F 6.1 rt", "P 6.1.0 a", "P 6.1 b", "F 6.12"),
            Shape.SAME_VERSION,
            "not by version alone: passed up to 5.4, 6.1.0 passed on a and b but failed on rt, "
            "failed from 6.12",
        ),
    ],
)
def test_where_it_changes(trials: Sequence[str], shape: Shape, text: str) -> None:
    result = found(*trials)
    assert result.shape is shape
    assert describe(result) == text


@pytest.mark.parametrize(
    ("trials", "gaps"),
    [
        (("P 5.5", "E 5.8 x no boot", "F 5.10"), ["5.8 could not be tested: no boot"]),
        (("P 5.5", "E 5.8", "F 5.10"), ["5.8 could not be tested"]),
        # an error elsewhere does not make the boundary less exact
        (("E 5.3", "P 5.4", "E 5.4.9", "P 5.5", "F 5.10", "E 5.11", "F 6.1", "E 6.2"), []),
        # every change of several
        (
            ("P 5.4", "E 5.5", "F 5.6", "E 5.7", "P 5.8", "S 5.8.1", "E 5.9"),
            ["5.5 could not be tested", "5.7 could not be tested"],
        ),
        # at the edge: another kernel of that version might have disagreed
        (("P 5.4 a", "E 5.4 rt no", "F 5.10"), ["5.4 on rt could not be tested: no"]),
        (("P 6.1 a", "F 6.1 b", "E 6.1 rt no"), ["6.1 on rt could not be tested: no"]),
        # of unknown version
        (
            ("P 5.4", "F 5.5", "E ? new no such package", "P ? odd", "S ? out"),
            [
                "new, of unknown version, could not be tested: no such package",
                "odd, of unknown version, passed",
            ],
        ),
    ],
)
def test_what_makes_it_inexact(trials: Sequence[str], gaps: Sequence[str]) -> None:
    assert list(describe_gaps([found(*trials)])) == gaps


def test_what_says_the_same_is_one_group() -> None:
    one = find_boundary("one", map(trial, ("P 5.4", "E 5.8 x no boot", "F 5.10 y that")))
    # neither other kernels nor other reasons make another change
    two = find_boundary("two", map(trial, ("P 4.9", "P 5.4", "E 5.8 x hung", "F 5.10 y this")))
    other = find_boundary("other", map(trial, ("P 5.4", "F 5.8")))
    sure = find_boundary("sure", map(trial, ("P 5.4", "F 5.10")))
    groups = group_boundaries([each for each in (other, one, sure, two) if each])
    assert [[each.scenario for each in group] for group in groups] == [
        ["one", "two"],
        ["other"],
        ["sure"],
    ]
    assert describe_gaps(groups[0]) == ("5.8 could not be tested: no boot (and 1 more)",)


# --- of a run --------------------------------------------------------------------------------


def kernel(name: str, version: str | None, cells: str = "", error: str = "") -> KernelResult:
    """``cells`` has a letter for each of the scenarios a, b, c…; a blank for none."""
    identity = None if version is None else KernelIdentity(name, version, version, "debian")
    results = tuple(
        CellResult(name, scenario, OUTCOMES[letter])
        for scenario, letter in zip("abcd", cells, strict=False)
        if letter != " "
    )
    return KernelResult(name, identity, error, cells=results)


def run(*kernels: KernelResult) -> RunResult:
    return RunResult("l", "r", "0", "t", 1.0, "tcg", "", "7", kernels=kernels)


def test_a_run() -> None:
    result = run(
        kernel("new", "6.1.192", "PFFP"),
        kernel("gone", None, error="no such package"),
        kernel("odd", "a version that nobody reads", "FFFF"),
        kernel("old", "5.4.0", "PPSF"),
    )
    found = find_boundaries(result)
    assert [(each.scenario, describe(each)) for each in found] == [
        ("b", "passed up to 5.4.0, failed from 6.1.192"),
        ("d", "failed up to 5.4.0, passed from 6.1.192"),
    ]
    assert describe_gaps(found[:1]) == (
        "gone, of unknown version, could not be tested: no such package",
        "odd, of unknown version, failed",
    )


def test_a_run_without_kernels_or_with_one_says_nothing() -> None:
    assert find_boundaries(run()) == ()
    assert find_boundaries(run(kernel("one", "6.1", "PF"))) == ()


# --- whatever comes --------------------------------------------------------------------------

VERSIONS = [
    None,
    *map(KernelVersion.parse, ("5.4", "5.4.0", "5.5-rc1", "5.10.9", "5.9.1-3", "6.1")),
]
TRIALS = st.lists(
    st.builds(
        Trial,
        st.sampled_from("abcdefgh"),
        st.sampled_from(VERSIONS),
        st.sampled_from(Outcome),
        st.sampled_from(("", "this", "that")),
    ),
    max_size=12,
)


@UNHURRIED
@given(TRIALS, st.randoms())
def test_the_order_of_kernels_does_not_matter(trials: list[Trial], random: Random) -> None:
    shuffled = list(trials)
    random.shuffle(shuffled)
    one, other = find_boundary("s", trials), find_boundary("s", shuffled)
    assert one == other
    if one is not None and other is not None:
        assert describe(one) == describe(other)


@UNHURRIED
@given(TRIALS)
def test_every_tested_kernel_is_accounted_for(trials: list[Trial]) -> None:
    result = find_boundary("s", trials)
    tested = [each for each in trials if each.outcome in (Outcome.PASSED, Outcome.FAILED)]
    placed = [each for each in tested if each.version is not None]
    if result is None:
        assert len({each.outcome for each in placed}) < 2
        return
    told = [each for stretch in result.stretches for each in stretch.trials]
    told += [each for each in result.unplaced if each.outcome is not Outcome.ERROR]
    assert sorted(map(repr, told)) == sorted(map(repr, tested))


@UNHURRIED
@given(TRIALS)
def test_stretches_are_in_order_alike_and_as_long_as_can_be(trials: list[Trial]) -> None:
    result = find_boundary("s", trials)
    if result is None:
        return
    for stretch in result.stretches:
        outcomes = {each.outcome for each in stretch.trials}
        assert outcomes == (
            {stretch.outcome} if stretch.outcome else {Outcome.PASSED, Outcome.FAILED}
        )
        assert stretch.outcome is not None or stretch.first == stretch.last
        versions = [each.version for each in stretch.trials if each.version is not None]
        assert (min(versions), max(versions)) == (stretch.first, stretch.last)
    for older, newer in itertools.pairwise(result.stretches):
        assert older.last < newer.first
        assert older.outcome is not newer.outcome or older.outcome is None
    assert all(each.outcome is Outcome.ERROR for each in result.untested)


@UNHURRIED
@given(st.integers(1, 7), st.lists(st.booleans(), min_size=8, max_size=8))
def test_one_change_is_found_whatever_could_not_be_tested(change: int, dark: list[bool]) -> None:
    trials = [
        Trial(
            f"k{number}",
            KernelVersion.parse(f"5.{number}"),
            Outcome.ERROR
            if dark[number]
            else (Outcome.PASSED if number < change else Outcome.FAILED),
        )
        for number in range(8)
    ]
    seen = [number for number in range(8) if not dark[number]]
    good = [number for number in seen if number < change]
    bad = [number for number in seen if number >= change]
    result = find_boundary("s", trials)
    if not good or not bad:
        assert result is None
        return
    assert result is not None
    assert describe(result) == f"passed up to 5.{good[-1]}, failed from 5.{bad[0]}"
    between = range(good[-1] + 1, bad[0])
    assert [each.kernel for each in result.untested] == [f"k{number}" for number in between]
