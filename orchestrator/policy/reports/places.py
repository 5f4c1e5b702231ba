"""Which line of the project a failure is about, for those who show it there.

It is the line of a module that the compiler or the kernel named, where that is known, else the
scenario's. The names of files come from a guest, so only those that are there are believed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from orchestrator.plan.outcome import CellResult, Outcome, RunResult


@dataclass(frozen=True)
class Paths:
    """The lab as seen from the project's top folder."""

    prefix: str
    """The lab's folder from there, ``.`` for the same; empty where it is not below it."""
    files: frozenset[str]
    """Those of ``candidates`` that exist."""


@dataclass(frozen=True)
class Place:
    """A line of a file of the project; no file where it is not known."""

    file: str = ""
    line: int | None = None


@dataclass(frozen=True)
class Failure:
    """A scenario that fails alike on some kernels."""

    scenario: str
    outcome: Outcome
    kernels: tuple[str, ...]
    reason: str
    kind: str
    """What it is about: ``oops``, ``build``, ``stdout``, ``error``..."""
    place: Place

    @property
    def title(self) -> str:
        """``procfs1/greets failed on 5.4, 6.1``."""
        what = "could not be judged" if self.outcome is Outcome.ERROR else "failed"
        return f"{self.scenario} {what} on {', '.join(self.kernels)}"


def candidates(result: RunResult) -> frozenset[str]:
    """Every file, from the lab's folder, that failures may be about."""
    found = {place.path for place in result.scenarios}
    for cell in result.cells:
        found |= {path for path, _ in _named(cell, _folders(result))}
    return frozenset(found)


def find_failures(result: RunResult, paths: Paths) -> tuple[Failure, ...]:
    """What failed or could not be judged, alike ones together, in the run's order."""
    scenarios = {place.name: place for place in result.scenarios}
    folders = _folders(result)
    found: dict[tuple[str, Outcome, str, str, Place], list[str]] = {}
    for cell in result.cells:
        if cell.outcome not in (Outcome.FAILED, Outcome.ERROR):
            continue
        named = ((path, line) for path, line in _named(cell, folders) if path in paths.files)
        place = next(named, None)
        if place is None and (written := scenarios.get(cell.scenario)):
            place = (written.path, written.line)
        key = (cell.scenario, cell.outcome, cell.reason, _kind(cell), _in_project(place, paths))
        found.setdefault(key, []).append(cell.kernel)
    return tuple(
        Failure(scenario, outcome, tuple(kernels), reason, kind, place)
        for (scenario, outcome, reason, kind, place), kernels in found.items()
    )


def _folders(result: RunResult) -> Mapping[str, str]:
    return {place.name: place.path for place in result.folders}


def _named(cell: CellResult, folders: Mapping[str, str]) -> Iterator[tuple[str, int | None]]:
    """Files and lines that the compiler or the kernel named, from the lab's folder."""
    if cell.build is not None and cell.build.file:
        yield from _below(cell.build.file, cell.build.line, [folders.get(cell.build.module)])
    culprits = [each.culprit for each in cell.findings if not each.harmless]
    culprits += [stack.culprit for stack in cell.hang.stacks] if cell.hang else []
    for culprit in culprits:
        if culprit is not None:
            yield from _below(culprit.file, culprit.line, list(folders.values()))


def _below(
    file: str, line: int | None, folders: Sequence[str | None]
) -> Iterator[tuple[str, int | None]]:
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts or not file.isprintable():
        return
    for folder in folders:
        if folder is not None:
            yield (PurePosixPath(folder) / path).as_posix(), line


def _in_project(place: tuple[str, int | None] | None, paths: Paths) -> Place:
    if place is None or not paths.prefix:
        return Place()
    path = PurePosixPath(paths.prefix) / place[0]
    return Place() if ".." in path.parts else Place(path.as_posix(), place[1])


def _kind(cell: CellResult) -> str:
    if cell.outcome is Outcome.ERROR:
        return "error"
    if cell.build is not None:
        return "build"
    finding = next((each for each in cell.findings if not each.harmless), None)
    if finding is not None:
        return finding.kind
    mismatch = next((each for step in cell.steps for each in step.mismatches), None)
    return mismatch.what if mismatch is not None else "failure"
