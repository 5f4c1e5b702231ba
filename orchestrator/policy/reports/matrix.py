"""The matrix of a run as a page draws it: kernels in the order of versions, and what lies between.

Kernels of unknown version stand last, in the run's order. Where an outcome changes is
``plan/boundary.py``'s word; here it is only put to columns.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from orchestrator.plan.boundary import Boundary, find_boundaries
from orchestrator.plan.outcome import CellResult, KernelResult, RunResult
from orchestrator.plan.version import KernelVersion


class Mark(enum.Enum):
    """What a boundary says of a cell."""

    CHANGED = "b"
    """The outcome is another one than on older kernels."""
    UNCERTAIN = "u"
    """The change may be here, or on either side: nothing was learned on this kernel."""
    DISAGREE = "v"
    """Kernels of this version disagree."""


@dataclass(frozen=True)
class Matrix:
    """Scenarios in the run's order, kernels by version, and what is known where they meet."""

    kernels: tuple[KernelResult, ...]
    scenarios: tuple[str, ...]
    cells: Mapping[tuple[str, str], CellResult]
    """By kernel and scenario; one that was not reached is not there."""
    marks: Mapping[tuple[str, str], Mark]


def make_matrix(result: RunResult) -> Matrix:
    """The matrix of a run."""
    kernels = sort_kernels(result.kernels)
    return Matrix(
        kernels,
        tuple(dict.fromkeys(cell.scenario for cell in result.cells)),
        {(kernel.name, cell.scenario): cell for kernel in kernels for cell in kernel.cells},
        {
            (kernel, boundary.scenario): mark
            for boundary in find_boundaries(result)
            for kernel, mark in _marks(boundary, kernels)
        },
    )


def sort_kernels(kernels: Sequence[KernelResult]) -> tuple[KernelResult, ...]:
    """In the order of versions; those of unknown version last, as they were."""
    known = [(version_of(kernel), kernel) for kernel in kernels]
    placed = [(version, kernel) for version, kernel in known if version is not None]
    lost = [kernel for version, kernel in known if version is None]
    return (*(kernel for _, kernel in sorted(placed, key=lambda pair: pair[0])), *lost)


def version_of(kernel: KernelResult) -> KernelVersion | None:
    """Its version, None where nobody could tell it."""
    try:
        return KernelVersion.parse(kernel.identity.version) if kernel.identity else None
    except ValueError:
        return None


def _marks(boundary: Boundary, kernels: Sequence[KernelResult]) -> Iterator[tuple[str, Mark]]:
    """The marks of one scenario, by kernel."""
    versions = [(kernel.name, version_of(kernel)) for kernel in kernels]
    tested = {trial.kernel for stretch in boundary.stretches for trial in stretch.trials}
    for older, newer in pairwise(boundary.stretches):
        for name, version in versions:
            if version is None:
                continue
            if name not in tested and older.last <= version <= newer.first:
                yield name, Mark.UNCERTAIN
        first = next(
            name for name, version in versions if version == newer.first and name in tested
        )
        yield first, Mark.CHANGED
    for stretch in boundary.stretches:
        if stretch.outcome is None:
            for trial in stretch.trials:
                yield trial.kernel, Mark.DISAGREE
