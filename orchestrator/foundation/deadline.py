"""Deadlines as objects: made once, handed down, never restarted by accident."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Deadline:
    """A moment on the monotonic clock by which ``name`` must have happened.

    A clock that is set back or forth does not move it.
    """

    name: str
    seconds: float
    started: float

    @classmethod
    def after(cls, seconds: float, name: str) -> Deadline:
        """A deadline ``seconds`` from now."""
        return cls(name=name, seconds=seconds, started=time.monotonic())

    @property
    def elapsed(self) -> float:
        """Seconds since the deadline was made."""
        return time.monotonic() - self.started

    @property
    def left(self) -> float:
        """Seconds until the deadline, never below zero."""
        return max(0.0, self.seconds - self.elapsed)

    @property
    def passed(self) -> bool:
        """Whether the moment has come."""
        return self.elapsed >= self.seconds

    def within(self, seconds: float) -> float:
        """``seconds``, or what is left if that is less: for one wait of a polling loop."""
        return min(seconds, self.left)

    def __str__(self) -> str:
        shown = "no limit" if math.isinf(self.seconds) else f"{self.seconds:g} s"
        return f"{self.name} ({shown})"
