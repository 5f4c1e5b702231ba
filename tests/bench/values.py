"""The results of a bench as values: what was measured, and what follows from the numbers alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

SCHEMA_VERSION = 1
# Of all processors together: more than that, and others were measured with the lab.
BUSY_SHARE = 0.1


@dataclass(frozen=True)
class Figure:
    """One thing that a measurement gives a number for, each time it is taken."""

    name: str
    title: str
    unit: str = "s"


@dataclass(frozen=True)
class Sample:
    """One number, and in which round of its group it was taken."""

    round: int
    value: float


@dataclass(frozen=True)
class Series:
    """All that was measured of one figure."""

    figure: Figure
    samples: tuple[Sample, ...] = ()
    failures: tuple[str, ...] = ()
    """Why it is lacking in some rounds, one line for each."""
    absent: str = ""
    """Why it was not measured at all, where that is no failure."""

    @property
    def values(self) -> tuple[float, ...]:
        """The numbers, in the order in which they were taken."""
        return tuple(sample.value for sample in self.samples)

    @property
    def median(self) -> float | None:
        """The middle one; None where there is none."""
        return statistics.median(self.values) if self.samples else None

    @property
    def spread(self) -> tuple[float, float] | None:
        """The smallest and the largest; None where there is none."""
        return (min(self.values), max(self.values)) if self.samples else None


@dataclass(frozen=True)
class Target:
    """What a figure should be at most: so much, or such a part of another one."""

    figure: str
    at_most: float
    of: str = ""
    """The name of the other figure; empty for a number in the figure's own unit."""


@dataclass(frozen=True)
class Judged:
    """A target beside what was measured."""

    target: Target
    value: float | None
    """In the figure's unit, or the ratio to the other; None where something was not measured."""

    @property
    def met(self) -> bool | None:
        """None where that is not known."""
        return None if self.value is None else self.value <= self.target.at_most


@dataclass(frozen=True)
class Host:
    """The machine that was measured on."""

    processor: str
    cores: int
    memory_mib: int
    kernel: str
    system: str
    qemu: str
    python: str
    accelerator: str
    reason: str
    """Why that accelerator."""


@dataclass(frozen=True)
class Report:
    """One run of the bench."""

    started: str
    """UTC, ISO 8601."""
    seconds: float
    commit: str
    host: Host
    arguments: tuple[str, ...]
    series: tuple[Series, ...] = ()
    targets: tuple[Target, ...] = ()
    beside: Mapping[str, str] = field(default_factory=dict)
    """With which other figure each one is compared."""
    others: tuple[float, ...] = ()
    """What share of all processors others had, while each group of measurements was taken."""
    notes: tuple[str, ...] = ()

    def find(self, name: str) -> Series | None:
        """The series of a figure."""
        return next((each for each in self.series if each.figure.name == name), None)

    def median(self, name: str) -> float | None:
        """The median of a figure; None where it was not measured."""
        series = self.find(name)
        return None if series is None else series.median

    def ratio(self, name: str, other: str) -> float | None:
        """A figure's median by another's; None where one is lacking, or the other is nothing."""
        one, two = self.median(name), self.median(other)
        return None if one is None or not two else one / two

    def judge(self) -> tuple[Judged, ...]:
        """Each target beside what was measured."""
        return tuple(
            Judged(each, self.ratio(each.figure, each.of) if each.of else self.median(each.figure))
            for each in self.targets
        )

    @property
    def failed(self) -> tuple[Series, ...]:
        """What could not be measured, or not each time."""
        return tuple(each for each in self.series if each.failures)

    @property
    def busy(self) -> float:
        """What share of the machine others had, in the median."""
        return statistics.median(self.others) if self.others else 0.0

    @property
    def is_loaded(self) -> bool:
        """Whether others had so much of the machine that the numbers are of no use."""
        return self.busy > BUSY_SHARE


def to_json(report: Report) -> dict[str, Any]:
    """A report as JSON has it, with medians, spreads and ratios for whoever reads no Python."""
    raw = asdict(report)
    raw["schema"] = SCHEMA_VERSION
    raw["loaded"] = report.is_loaded
    for series, entry in zip(report.series, raw["series"], strict=True):
        name = series.figure.name
        other = report.beside.get(name, "")
        entry["median"], entry["spread"] = series.median, series.spread
        entry["beside"], entry["ratio"] = other, report.ratio(name, other) if other else None
    for judged, entry in zip(report.judge(), raw["targets"], strict=True):
        entry["value"], entry["met"] = judged.value, judged.met
    return raw


def from_json(raw: Mapping[str, Any]) -> Report:
    """What ``to_json`` wrote. Raises ``ValueError`` for anything else."""
    if raw.get("schema") != SCHEMA_VERSION:
        raise ValueError(f"schema {raw.get('schema')!r}, expected {SCHEMA_VERSION}")
    try:
        return Report(
            started=raw["started"],
            seconds=raw["seconds"],
            commit=raw["commit"],
            host=Host(**raw["host"]),
            arguments=tuple(raw["arguments"]),
            series=tuple(_series(each) for each in raw["series"]),
            targets=tuple(
                Target(each["figure"], each["at_most"], each["of"]) for each in raw["targets"]
            ),
            beside=dict(raw["beside"]),
            others=tuple(raw["others"]),
            notes=tuple(raw["notes"]),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not what a bench wrote: {error!r}") from error


def _series(raw: Mapping[str, Any]) -> Series:
    return Series(
        Figure(**raw["figure"]),
        tuple(Sample(each["round"], each["value"]) for each in raw["samples"]),
        tuple(raw["failures"]),
        raw["absent"],
    )


def rounds_of(repeats: int, rounds: int) -> Sequence[int]:
    """In which of so many rounds something is taken that is repeated less often: spread evenly."""
    return [
        number
        for number in range(rounds)
        if (number + 1) * repeats // rounds > number * repeats // rounds
    ]


def slope(few: tuple[float, float], many: tuple[float, float]) -> float:
    """What one more costs, between two points (count, cost)."""
    return (many[1] - few[1]) / (many[0] - few[0])
