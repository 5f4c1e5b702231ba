"""What a run keeps of what steps print."""

from __future__ import annotations

import pytest

from orchestrator.plan.outcome import CommandResult, Outcome, StepResult
from orchestrator.policy.play import _as_kept
from orchestrator.policy.reports.results import MAX_STREAM_BYTES


def step(stdout: int, stderr: int) -> StepResult:
    command = CommandResult("yes", 0, None, b"o" * stdout, b"e" * stderr, 1.0)
    return StepResult(1, "run yes", Outcome.PASSED, command=command)


@pytest.mark.parametrize(
    ("stdout", "stderr"), [(0, 0), (MAX_STREAM_BYTES, MAX_STREAM_BYTES), (MAX_STREAM_BYTES, 0)]
)
def test_what_results_hold_is_kept_as_it_is(stdout: int, stderr: int) -> None:
    assert _as_kept(step(stdout, stderr)) == step(stdout, stderr)


@pytest.mark.parametrize(("stdout", "stderr"), [(4 << 20, 1), (1, 4 << 20), (4 << 20, 4 << 20)])
def test_more_is_cut_and_said_to_be(stdout: int, stderr: int) -> None:
    """25000 cells of 4 MiB would not fit any machine."""
    kept = _as_kept(step(stdout, stderr)).command
    assert kept is not None
    assert len(kept.stdout) == min(stdout, MAX_STREAM_BYTES)
    assert len(kept.stderr) == min(stderr, MAX_STREAM_BYTES)
    assert kept.truncated


def test_a_step_without_a_command_is_as_it_was() -> None:
    assert _as_kept(StepResult(1, "log", Outcome.PASSED)) == StepResult(1, "log", Outcome.PASSED)
