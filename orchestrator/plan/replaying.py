"""What of a past run is played again to get to where it failed, and what has changed since."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.foundation.errors import UsageError
from orchestrator.plan.outcome import CellResult, KernelResult, Outcome, RunResult
from orchestrator.plan.visible import visible

MAX_NAMED = 5


@dataclass(frozen=True)
class Past:
    """A cell of a past run."""

    kernel: KernelResult
    cell: CellResult
    scenario_sha256: str
    """See ``SourcePlace``; empty where the run does not say."""

    @property
    def stop_before(self) -> int | None:
        """The number of the step that failed first, or that the guest's end left undone; None
        where every step was played and none failed.
        """
        steps = self.cell.steps
        failed = (step.number for step in steps if step.outcome is Outcome.FAILED)
        undone = (step.number for step in steps if step.outcome is Outcome.SKIPPED)
        first = next(failed, None)
        if first is None and self.cell.outcome in (Outcome.FAILED, Outcome.ERROR):
            return next(undone, None)
        return first


@dataclass(frozen=True)
class Parts:
    """What a cell is made of, by what can be compared."""

    release: str
    kernel_sha256: str
    scenario_sha256: str
    modules: Mapping[str, str]
    """SHA-256 of those that the scenario loads, by name, as far as they are at hand."""


def find_past(result: RunResult, word: str) -> Past:
    """The cell that ``KERNEL/FILE/NAME`` means, or ``KERNEL/NAME`` where that is one cell's alone.

    Raises ``UsageError`` where there is none, or it was not played.
    """
    kernel_name, _, name = word.partition("/")
    kernel = next((each for each in result.kernels if each.name == kernel_name), None)
    cells = kernel.cells if kernel else ()
    found = [cell for cell in cells if cell.scenario == name]
    found = found or [cell for cell in cells if cell.scenario.rpartition("/")[2] == name]
    if kernel is None or len(found) != 1:
        how = "more than one cell" if found else "no cell"
        raise UsageError(f"{visible(word)}: {how} of that run is called so", hint=_hint(result))
    cell = found[0]
    if not cell.steps:
        why = visible(cell.reason) or "the run was ended before"
        raise UsageError(f"{visible(word)} was not played in that run: {why}", hint=_hint(result))
    hashes = (place.sha256 for place in result.scenarios if place.name == cell.scenario)
    return Past(kernel, cell, next(hashes, ""))


def _hint(result: RunResult) -> str:
    bad = [
        visible(f"{cell.kernel}/{cell.scenario}")
        for cell in result.cells
        if cell.outcome in (Outcome.FAILED, Outcome.ERROR) and cell.steps
    ]
    if not bad:
        return "nothing that was played in that run failed; a cell is KERNEL/FILE/NAME"
    more = f" and {len(bad) - MAX_NAMED} more" if len(bad) > MAX_NAMED else ""
    return f"what failed: {', '.join(bad[:MAX_NAMED])}{more}"


def find_changes(before: Parts, now: Parts) -> tuple[str, ...]:
    """What is not as it was, or cannot be compared, in words that are safe to show."""
    found = []
    if before.release != now.release:
        found.append(f"the kernel is {now.release}, and was {visible(before.release)}")
    elif before.kernel_sha256 and before.kernel_sha256 != now.kernel_sha256:
        found.append(f"the kernel's file is another one, of the same release {now.release}")
    for name, sha256 in now.modules.items():
        if name not in before.modules:
            found.append(f"whether the module {name} has changed is not known: it was not kept")
        elif before.modules[name] != sha256:
            found.append(f"the module {name} has changed")
    if not before.scenario_sha256:
        found.append("whether the scenario has changed is not known: an older lab played it")
    elif before.scenario_sha256 != now.scenario_sha256:
        found.append("the scenario has changed")
    return tuple(found)
