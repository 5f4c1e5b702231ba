"""The history for its readers: a text for people, values for scripts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from orchestrator.plan.history import Change, Flake, History, PastRun, Slow
from orchestrator.plan.outcome import Outcome, Revision
from orchestrator.plan.visible import visible
from orchestrator.policy.reports.text import WIDTH, cut, wrapped

SCHEMA_VERSION = 1
"""Goes up when a reader of the values would have to change; new keys alone do not."""
MAX_TOLD = 20
MAX_SLOW = 10


def render_history(history: History) -> str:
    """The text: plain, safe for a terminal."""
    if history.last is None:
        return "no run is recorded\n"
    count = "1 run" if history.runs == 1 else f"{history.runs} runs"
    lines = [cut(f"{count}; the last, {_name(history.last)}: {history.last.verdict}")]
    green = history.last_green
    lines.append(f"the last green one before it: {_name(green) if green else 'none'}")
    since = "since then" if green else "in the runs that are recorded"
    lines += _section(f"newly failing {since}", history.broken, _change)
    lines += _section(f"newly mended {since}", history.mended, _change)
    lines += _section("changed without a change of lab or kernel", history.flakes, _flake)
    lines += _section("slowest", history.slow[:MAX_SLOW], _slow)
    return "".join(f"{line}\n" for line in lines)


def _section(title: str, values: Sequence[Any], told: Any) -> Iterator[str]:
    if not values:
        return
    yield ""
    yield f"{title}:"
    for value in values[:MAX_TOLD]:
        yield from told(value)
    if len(values) > MAX_TOLD:
        yield f"  … and {len(values) - MAX_TOLD} more; --json has them all"


def _name(run: PastRun) -> str:
    return visible(f"{run.run_id}{_at(run.revision)}")


def _at(revision: Revision) -> str:
    if not revision.name:
        return ""
    return f" at {revision.name[:12]}{' and changes' if revision.dirty else ''}"


def _change(change: Change) -> Iterator[str]:
    what = "" if change.outcome in (Outcome.FAILED, Outcome.PASSED) else " (not judged)"
    yield cut(f"  {change.scenario} on {change.kernel}{what}, since {_name(change.since)}")
    if change.reason:
        yield from wrapped(f"    {change.reason}", "      ")


def _flake(flake: Flake) -> Iterator[str]:
    yield cut(
        f"  {flake.scenario} on {flake.kernel}: passed {flake.good}, failed {flake.bad} "
        f"at {flake.revision[:12]}"
    )
    if flake.reason:
        yield from wrapped(f"    {flake.reason}", "      ")


def _slow(slow: Slow) -> Iterator[str]:
    times = f"median of {slow.times}" if slow.times > 1 else "once"
    yield cut(f"  {slow.seconds:7.2f} s  {slow.scenario} on {slow.kernel} ({times})")[:WIDTH]


# --- for scripts ---------------------------------------------------------------------------


def history_values(history: History) -> dict[str, Any]:
    """The whole as values for JSON."""
    return {
        "schema": SCHEMA_VERSION,
        "runs": history.runs,
        "last": _run(history.last),
        "last_green": _run(history.last_green),
        "newly_failing": [_change_values(each) for each in history.broken],
        "newly_mended": [_change_values(each) for each in history.mended],
        "flaky": [_flake_values(each) for each in history.flakes],
        "slowest": [
            {
                "scenario": each.scenario,
                "kernel": each.kernel,
                "seconds": round(each.seconds, 3),
                "runs": each.times,
            }
            for each in history.slow
        ],
    }


def _run(run: PastRun | None) -> dict[str, Any] | None:
    if run is None:
        return None
    return {
        "run_id": run.run_id,
        "lab": run.lab,
        "started": run.started,
        "revision": run.revision.name,
        "dirty": run.revision.dirty,
        "exit_status": run.exit_status,
        "verdict": run.verdict,
    }


def _change_values(change: Change) -> dict[str, Any]:
    return {
        "scenario": change.scenario,
        "kernel": change.kernel,
        "outcome": change.outcome.value,
        "reason": change.reason,
        "since": _run(change.since),
    }


def _flake_values(flake: Flake) -> dict[str, Any]:
    return {
        "scenario": flake.scenario,
        "kernel": flake.kernel,
        "release": flake.release,
        "revision": flake.revision,
        "passed": flake.good,
        "failed": flake.bad,
        "reason": flake.reason,
    }
