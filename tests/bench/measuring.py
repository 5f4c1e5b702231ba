"""Measurements, taken in rounds: each round takes one after another, so that a machine that gets
slower or quicker does so for all that is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.foundation.errors import LabError
from orchestrator.plan.visible import clip, visible
from tests.bench.values import Figure, Sample, Series, rounds_of

# A measurement that failed so often is not tried again.
MAX_FAILURES = 2
MAX_SAID = 400


class NotMeasurableError(Exception):
    """It cannot be measured on this machine, or was not asked for; no failure of the lab's."""


@dataclass(frozen=True)
class Measurement:
    """Something that can be taken again and again, and gives a number for each of its figures."""

    name: str
    figures: tuple[Figure, ...]
    repeats: int
    take: Callable[[], Mapping[str, float]]
    """Raises ``NotMeasurableError``, or whatever went wrong."""


@dataclass
class _Taking:
    """What came of a measurement so far."""

    measurement: Measurement
    rounds: Sequence[int]
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    absent: str = ""

    def take(self, number: int) -> str:
        """Take it once; what to say of that."""
        try:
            values = self.measurement.take()
            wanted = {figure.name for figure in self.measurement.figures}
            if set(values) != wanted:
                raise AssertionError(f"it gave {sorted(values)} instead of {sorted(wanted)}")
        except NotMeasurableError as error:
            if not self.samples:
                self.absent = _line(str(error))
                return f"not measured: {self.absent}"
            self.failures.append(f"round {number + 1}: {_line(str(error))}")
            return f"FAILED: {self.failures[-1]}"
        except (LabError, OSError, ValueError, AssertionError) as error:
            self.failures.append(f"round {number + 1}: {describe(error)}")
            return f"FAILED: {self.failures[-1]}"
        for name, value in values.items():
            self.samples.setdefault(name, []).append(Sample(number, value))
        return ", ".join(f"{name} {value:.3f}" for name, value in values.items())

    @property
    def over(self) -> bool:
        return bool(self.absent) or len(self.failures) >= MAX_FAILURES

    def series(self) -> list[Series]:
        return [
            Series(
                figure,
                tuple(self.samples.get(figure.name, ())),
                tuple(self.failures),
                self.absent,
            )
            for figure in self.measurement.figures
        ]


def describe(error: Exception) -> str:
    """An error in one line, safe to show."""
    text = error.render() if isinstance(error, LabError) else f"{type(error).__name__}: {error}"
    return _line(text)


def _line(text: str) -> str:
    return clip(visible(" ".join(text.split())), MAX_SAID)


def take_group(group: Sequence[Measurement], say: Callable[[str], None]) -> list[Series]:
    """Take a group of measurements that are compared with each other, in turn.

    What fails is told in its series, and the others go on.
    """
    count = max(each.repeats for each in group)
    takings = [_Taking(each, rounds_of(each.repeats, count)) for each in group]
    for number in range(count):
        # Every other round backwards: whoever comes after another one has it no better for it.
        for taking in takings if number % 2 == 0 else reversed(takings):
            if number in taking.rounds and not taking.over:
                said = taking.take(number)
                say(f"{taking.measurement.name} ({number + 1} of {count}): {said}")
    return [series for taking in takings for series in taking.series()]
