"""Deadlines."""

from __future__ import annotations

import math
import time

import pytest

from orchestrator.foundation.deadline import Deadline


def test_a_deadline_runs_down_and_stops_at_nothing() -> None:
    deadline = Deadline.after(0.05, "tea")
    passed_before, left_before = deadline.passed, deadline.left
    time.sleep(0.06)
    assert (passed_before, deadline.passed) == (False, True)
    assert 0 < left_before <= 0.05
    assert deadline.left == 0
    assert deadline.elapsed >= 0.05


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_a_deadline_without_time_has_passed(seconds: float) -> None:
    deadline = Deadline.after(seconds, "never")
    assert deadline.passed
    assert deadline.left == 0
    assert deadline.within(5) == 0


def test_one_wait_of_a_loop_is_no_longer_than_what_is_left() -> None:
    deadline = Deadline.after(100, "long")
    assert deadline.within(0.5) == 0.5
    assert deadline.within(1000) == pytest.approx(100, abs=5)


def test_a_deadline_can_be_without_limit() -> None:
    deadline = Deadline.after(math.inf, "patience")
    assert not deadline.passed
    assert deadline.left == math.inf
    assert deadline.within(3) == 3
    assert str(deadline) == "patience (no limit)"


@pytest.mark.parametrize(
    ("seconds", "shown"), [(30.0, "the boot (30 s)"), (0.5, "the boot (0.5 s)")]
)
def test_a_deadline_says_what_it_is_for(seconds: float, shown: str) -> None:
    assert str(Deadline.after(seconds, "the boot")) == shown


def test_a_deadline_cannot_be_moved() -> None:
    deadline = Deadline.after(1, "fixed")
    with pytest.raises(AttributeError):
        deadline.seconds = 2  # type: ignore[misc]
