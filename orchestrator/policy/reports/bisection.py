"""A bisection for its readers: lines while it goes on, a text at its end, values for scripts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from orchestrator.plan.boundary import describe
from orchestrator.plan.visible import clip, visible
from orchestrator.policy.bisect import Bisection, Candidate, Ending, Next, Tried, judge_bisection
from orchestrator.policy.reports.text import wrapped

SCHEMA_VERSION = 1
"""Goes up when a reader of the values would have to change; new keys alone do not."""
MAX_UNTESTABLE = 10
_VERSION_WIDTH = 14
_LABEL_WIDTH = 44


# --- while it goes on ----------------------------------------------------------------------


def render_next(upcoming: Next) -> str:
    """What is tested now, in a line: ``testing 5.10.223 (4 left at most)``."""
    left = f"{upcoming.left} left at most" if upcoming.left else "the last if it can be tested"
    return visible(f"testing {upcoming.candidate.version} ({left})")


def render_tried(tried: Tried) -> str:
    """What a test gave, in a line."""
    why = f": {tried.answer.reason}" if tried.answer.reason else ""
    return visible(f"{tried.candidate.version} {tried.answer.outcome.value}{why}")


# --- at its end ----------------------------------------------------------------------------


def render_bisection(result: Bisection) -> str:
    """The text: plain, at most 80 columns wide, safe for a terminal."""
    lines = [*_tests(result)]
    lines += ["", *wrapped(f"{result.scenario}: {judge_bisection(result).message}", "  ")]
    lines += _between(result)
    lines += [line for doubt in _doubts(result) for line in wrapped(f"  {doubt}", "    ")]
    return "\n".join(lines) + "\n"


def _tests(result: Bisection) -> Iterator[str]:
    """Every test in its order; a reason is told once."""
    yield f" test {'version':{_VERSION_WIDTH}} {'kernel':{_LABEL_WIDTH}} outcome"
    told: set[str] = set()
    numbered = [("-", tried) for tried in result.known]
    numbered += [(str(number), tried) for number, tried in enumerate(result.tried, 1)]
    for number, tried in numbered:
        yield _row(number, tried)
        reason = tried.answer.reason
        if reason and reason not in told:
            yield from wrapped(f"      {reason}", "      ")
            told.add(reason)


def _row(number: str, tried: Tried) -> str:
    version, label = visible(str(tried.candidate.version)), visible(tried.candidate.label)
    return (
        f"{number:>5} {clip(version, _VERSION_WIDTH):{_VERSION_WIDTH}}"
        f" {clip(label, _LABEL_WIDTH):{_LABEL_WIDTH}} {tried.answer.outcome.value}"
    )


def _between(result: Bisection) -> Iterator[str]:
    """What lies between the two sides, and why it does not narrow them."""
    if result.ending is Ending.FOUND and not result.untestable:
        yield from wrapped("  no kernel that was offered lies between these two", "    ")
    for tried in result.untestable[:MAX_UNTESTABLE]:
        why = f": {tried.answer.reason}" if tried.answer.reason else ""
        yield from wrapped(
            f"  {tried.candidate} lies between them and could not be tested{why}", "    "
        )
    if len(result.untestable) > MAX_UNTESTABLE:
        yield f"  … and {len(result.untestable) - MAX_UNTESTABLE} more that could not be tested"
    if result.untried:
        few = _few(result.untried)
        yield from wrapped(f"  {len(result.untried)} between them not tested yet: {few}", "    ")


def _few(candidates: Sequence[Candidate]) -> str:
    if len(candidates) == 1:
        return f"{candidates[0].version}"
    return f"{candidates[0].version} to {candidates[-1].version}"


def _doubts(result: Bisection) -> Iterator[str]:
    """Why the boundary may not be the whole story."""
    if result.contradiction:
        yield f"but the tests contradict that this is the only change: {result.contradiction}"
    if (other := result.other_failure) is not None:
        yield (
            f"but {other.candidate} fails for another reason: "
            "there may be a change that this search did not look for"
        )
    if result.ending is Ending.FOUND:
        told = {tried.candidate for tried in result.known + result.tried}
        rest = sum(candidate not in told for candidate in result.candidates)
        if rest:
            yield (
                f"tested: {len(result.tried)} of {len(result.candidates)} kernels; the rest is "
                "taken to behave as its neighbours do"
            )


# --- for scripts ---------------------------------------------------------------------------


def bisection_values(result: Bisection) -> dict[str, Any]:
    """The whole result as values that JSON knows."""
    verdict = judge_bisection(result)
    return {
        "schema": SCHEMA_VERSION,
        "scenario": result.scenario,
        "ending": result.ending.value,
        "exit_status": verdict.exit_status,
        "verdict": verdict.message,
        "older": None if result.older is None else _tried(result.older),
        "newer": None if result.newer is None else _tried(result.newer),
        "untestable": [_tried(tried) for tried in result.untestable],
        "untried": [_candidate(candidate) for candidate in result.untried],
        "contradiction": result.contradiction,
        "other_failure": None if result.other_failure is None else _tried(result.other_failure),
        "summary": "" if result.evidence is None else describe(result.evidence),
        "known": [_tried(tried) for tried in result.known],
        "tried": [_tried(tried) for tried in result.tried],
        "candidates": [_candidate(candidate) for candidate in result.candidates],
    }


def _tried(tried: Tried) -> dict[str, Any]:
    evidence = tried.answer.evidence
    return {
        **_candidate(tried.candidate),
        "outcome": tried.answer.outcome.value,
        "reason": tried.answer.reason,
        "evidence": None if evidence is None else evidence.as_posix(),
    }


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {"version": str(candidate.version), "label": candidate.label}
