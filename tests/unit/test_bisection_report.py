"""A bisection in words and values: every ending, in 80 columns, whatever a guest says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.foundation.errors import EXIT_PASSED
from orchestrator.plan.outcome import Outcome
from orchestrator.plan.version import KernelVersion
from orchestrator.policy.bisect import Answer, Bisection, Candidate, Next, Tried, bisect, conclude
from orchestrator.policy.reports.bisection import (
    bisection_values,
    render_bisection,
    render_next,
    render_tried,
)

HOSTILE = "\x1b[2J\x1b]0;owned\x07\r\x00\x9b31m\u202e\ufffe\u2028 é\U0001f427 " * 20
ANSWERS = {
    "P": Answer(Outcome.PASSED),
    "F": Answer(Outcome.FAILED, "step 2, read /proc/x: errno is EINVAL, expected ENOSPC"),
    "f": Answer(Outcome.FAILED, "unexpected oops: BUG", Path("4/scenarios/s")),
    "E": Answer(Outcome.ERROR, "the guest did not come up within 150 s"),
    "h": Answer(Outcome.FAILED, HOSTILE),
    "e": Answer(Outcome.ERROR, HOSTILE),
}


def candidate(place: int, label: str = "mainline") -> Candidate:
    return Candidate(KernelVersion.parse(f"5.{place}"), label)


def tried(place: int, letter: str) -> Tried:
    return Tried(candidate(place), ANSWERS[letter])


def search(letters: str) -> Bisection:
    candidates = [candidate(place) for place in range(len(letters))]
    return bisect("files/read", candidates, lambda each: ANSWERS[letters[each.version.numbers[1]]])


def test_while_it_goes_on() -> None:
    assert render_next(Next(candidate(10), 4)) == "testing 5.10 (4 left at most)"
    assert render_next(Next(candidate(10), 0)) == "testing 5.10 (the last if it can be tested)"
    assert render_tried(tried(3, "P")) == "5.3 passed"
    assert render_tried(tried(3, "f")) == "5.3 failed: unexpected oops: BUG"


def test_what_was_found() -> None:
    assert render_bisection(search("PPPPEFFFFf")) == (
        " test version        kernel                                       outcome\n"
        "    1 5.0            mainline                                     passed\n"
        "    2 5.9            mainline                                     failed\n"
        "      unexpected oops: BUG\n"
        "    3 5.5            mainline                                     failed\n"
        "      step 2, read /proc/x: errno is EINVAL, expected ENOSPC\n"
        "    4 5.3            mainline                                     passed\n"
        "    5 5.4            mainline                                     error\n"
        "      the guest did not come up within 150 s\n"
        "\n"
        "files/read: passed up to 5.3 (mainline), failed from 5.5 (mainline)\n"
        "  5.4 (mainline) lies between them and could not be tested: the guest did not\n"
        "    come up within 150 s\n"
        "  but 5.9 (mainline) fails for another reason: there may be a change that this\n"
        "    search did not look for\n"
        "  tested: 5 of 10 kernels; the rest is taken to behave as its neighbours do\n"
    )


def test_two_neighbours_leave_nothing_to_add() -> None:
    assert render_bisection(search("PF")).endswith(
        "\n"
        "files/read: passed up to 5.0 (mainline), failed from 5.1 (mainline)\n"
        "  no kernel that was offered lies between these two\n"
    )


@pytest.mark.parametrize(
    ("letters", "end"),
    [
        (
            "PPP",
            "files/read: no change: passed at both ends, 5.0 (mainline) and 5.2 (mainline)\n",
        ),
        ("EPE", "files/read: fewer than two kernels could be tested\n"),
        ("", "\nfiles/read: fewer than two kernels could be tested\n"),
    ],
)
def test_what_was_not_found(letters: str, end: str) -> None:
    assert render_bisection(search(letters)).endswith(end)


@pytest.mark.parametrize(
    ("made", "end"),
    [
        ([], "files/read: interrupted; no change seen yet\n"),
        ([(0, "P")], "files/read: interrupted; no change seen yet\n"),
        (
            [(0, "P"), (9, "F"), (5, "F")],
            "files/read: interrupted; passed up to 5.0 (mainline), failed from 5.5 (mainline)\n"
            "  4 between them not tested yet: 5.1 to 5.4\n",
        ),
        (
            [(0, "P"), (9, "F"), (2, "F")],
            "files/read: interrupted; passed up to 5.0 (mainline), failed from 5.2 (mainline)\n"
            "  1 between them not tested yet: 5.1\n",
        ),
    ],
)
def test_what_was_interrupted(made: list[tuple[int, str]], end: str) -> None:
    result = conclude("files/read", map(candidate, range(10)), [tried(*each) for each in made])
    assert render_bisection(result).endswith(f"\n\n{end}")


def test_what_contradicts_it() -> None:
    known = [tried(2, "F")]
    result = conclude("s", map(candidate, range(4)), [tried(0, "P"), tried(3, "P")], known=known)
    text = render_bisection(result)
    assert "    - 5.2            mainline" in text
    assert (
        "  but the tests contradict that this is the only change: not monotonic: passed\n"
        "    up to 5.0, failed on 5.2, passed from 5.3\n"
    ) in text


@settings(deadline=None)  # the machine may be busy
@given(st.text("PFfEhe", max_size=60))
def test_it_fits_a_terminal_and_a_json_file(letters: str) -> None:
    result = search(letters)
    lines = render_bisection(result).split("\n")
    assert max(map(len, lines)) <= 80
    assert all(line.isprintable() for line in lines)
    values = json.loads(json.dumps(bisection_values(result)))
    assert len(values["tried"]) == len(result.tried)


def test_long_and_hostile_names_do_too() -> None:
    version = KernelVersion.parse("5.10.0-" + "9" * 100)
    candidates = [Candidate(version, HOSTILE), Candidate(version, "k" * 300)]
    answers = iter("Ph")
    result = bisect("s" * 300, candidates, lambda _: ANSWERS[next(answers)])
    lines = render_bisection(result).split("\n")
    assert max(map(len, lines)) <= 80
    assert all(line.isprintable() for line in lines)
    for line in (render_next(Next(candidates[0], 1)), *map(render_tried, result.tried)):
        assert line.isprintable()


def test_the_values() -> None:
    values = bisection_values(search("PEf"))
    side = {"label": "mainline", "evidence": None}
    assert values == {
        "schema": 1,
        "scenario": "files/read",
        "ending": "found",
        "exit_status": EXIT_PASSED,
        "verdict": "passed up to 5.0 (mainline), failed from 5.2 (mainline)",
        "older": {**side, "version": "5.0", "outcome": "passed", "reason": ""},
        "newer": {
            "version": "5.2",
            "label": "mainline",
            "outcome": "failed",
            "reason": "unexpected oops: BUG",
            "evidence": "4/scenarios/s",
        },
        "untestable": [
            {**side, "version": "5.1", "outcome": "error", "reason": ANSWERS["E"].reason}
        ],
        "untried": [],
        "contradiction": "",
        "other_failure": None,
        "summary": "passed up to 5.0, failed from 5.2",
        "known": [],
        "tried": values["tried"],
        "candidates": [{"version": f"5.{place}", "label": "mainline"} for place in range(3)],
    }
    assert [each["version"] for each in values["tried"]] == ["5.0", "5.2", "5.1"]
