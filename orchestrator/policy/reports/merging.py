"""Several runs of one lab as one: shards of a matrix that were played apart."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator.foundation.errors import UsageError
from orchestrator.plan.outcome import AllowUse, CellResult, KernelResult, Outcome, RunResult
from orchestrator.plan.visible import visible

MAX_NAMED = 10


def relocate(result: RunResult, run_dir: Path, base: Path) -> RunResult:
    """The result with its evidence named from ``base`` instead of from the run's folder."""
    prefix = Path(os.path.relpath(run_dir, base))
    return replace(result, kernels=tuple(_relocate(kernel, prefix) for kernel in result.kernels))


def _relocate(kernel: KernelResult, prefix: Path) -> KernelResult:
    return replace(
        kernel,
        evidence=str(prefix / kernel.evidence) if kernel.evidence else "",
        cells=tuple(
            replace(cell, evidence=cell.evidence and prefix / cell.evidence)
            for cell in kernel.cells
        ),
    )


def merge_results(results: Sequence[RunResult]) -> RunResult:
    """One result of them: all kernels, all cells; ``seconds`` are added up.

    Raises ``UsageError`` that names what does not fit together: two labs, two releases of one
    kernel, or a cell that more than one run judged.
    """
    if len(results) < 2:
        raise UsageError("--merge joins two runs or more", hint="name them: --merge RUN RUN")
    first = results[0]
    if len(names := dict.fromkeys(result.lab for result in results)) > 1:
        raise UsageError(f"these are runs of different labs: {visible(', '.join(names))}")
    if len({result.run_id for result in results}) < len(results):
        raise UsageError("the same run is named twice")
    _require_no_conflict(results)
    kernels = dict.fromkeys(kernel.name for result in results for kernel in result.kernels)
    return replace(
        first,
        run_id="+".join(result.run_id for result in results),
        started=min(result.started for result in results),
        seconds=sum(result.seconds for result in results),
        lab_version=_both(results, "lab_version"),
        accelerator=_both(results, "accelerator"),
        accelerator_reason=_both(results, "accelerator_reason"),
        qemu_version=_both(results, "qemu_version"),
        sandbox=_both(results, "sandbox"),
        interrupted=any(result.interrupted for result in results),
        kernels=tuple(_merge_kernel(name, results) for name in kernels),
        allow=_merge_allow(results),
        scenarios=tuple(dict.fromkeys(each for result in results for each in result.scenarios)),
        folders=tuple(dict.fromkeys(each for result in results for each in result.folders)),
        inputs=(),  # nobody played it as one
    )


def _both(results: Sequence[RunResult], name: str) -> str:
    return ", ".join(dict.fromkeys(getattr(result, name) for result in results))


# --- what does not fit ---------------------------------------------------------------------


def _require_no_conflict(results: Sequence[RunResult]) -> None:
    conflicts = [*_other_releases(results), *_judged_twice(results)]
    if conflicts:
        more = len(conflicts) - MAX_NAMED
        lines = conflicts[:MAX_NAMED] + ([f"and {more} more"] if more > 0 else [])
        raise UsageError(
            "these runs do not fit together:\n" + "\n".join(f"  {line}" for line in lines),
            hint="merge runs of which each played a part of its own",
        )


def _other_releases(results: Sequence[RunResult]) -> list[str]:
    seen: dict[str, tuple[str, str]] = {}
    found = []
    for result in results:
        for kernel in result.kernels:
            if kernel.identity is None:
                continue
            release = kernel.identity.release
            before, run = seen.setdefault(kernel.name, (release, result.run_id))
            if before != release:
                found.append(
                    visible(
                        f"kernel {kernel.name} is {before} in {run} "
                        f"and {release} in {result.run_id}"
                    )
                )
    return found


def _judged_twice(results: Sequence[RunResult]) -> list[str]:
    seen: dict[tuple[str, str], tuple[CellResult, str]] = {}
    found = []
    for result in results:
        for cell in result.cells:
            before, run = seen.setdefault((cell.kernel, cell.scenario), (cell, result.run_id))
            if run != result.run_id and not _alike_skips(before, cell):
                found.append(
                    visible(
                        f"{cell.scenario} on {cell.kernel} {before.outcome.value} in {run} "
                        f"and {cell.outcome.value} in {result.run_id}"
                    )
                )
    return found


def _alike_skips(one: CellResult, other: CellResult) -> bool:
    """What is not meant for a kernel is skipped in every run that has the scenario."""
    both = one.outcome is other.outcome is Outcome.SKIPPED
    return both and one.reason == other.reason


# --- what comes of them --------------------------------------------------------------------


def _merge_kernel(name: str, results: Sequence[RunResult]) -> KernelResult:
    parts = [kernel for result in results for kernel in result.kernels if kernel.name == name]
    first = next((part for part in parts if part.identity), parts[0])
    cells = {cell.scenario: cell for part in parts for cell in part.cells}
    broken = next((part for part in parts if part.error), first)
    return replace(
        first,
        error=broken.error,
        hint=broken.hint,
        evidence=broken.evidence,
        last_lines=broken.last_lines,
        boots=sum(part.boots for part in parts),
        forks=sum(part.forks for part in parts),
        boot_seconds=_sum([part.boot_seconds for part in parts]),
        build_seconds=_sum([part.build_seconds for part in parts]),
        cells=tuple(cells.values()),
        retried=tuple(line for part in parts for line in part.retried),
        hosts=tuple(dict.fromkeys(host for part in parts for host in part.hosts)),
    )


def _sum(seconds: Sequence[float | None]) -> float | None:
    known = [each for each in seconds if each is not None]
    return sum(known) if known else None


def _merge_allow(results: Sequence[RunResult]) -> tuple[AllowUse, ...]:
    """An entry is unused where no run had a use for it, and one at least played all of it."""
    uses: dict[tuple[int, str], list[AllowUse]] = {}
    for result in results:
        for use in result.allow:
            uses.setdefault((use.entry, use.pattern), []).append(use)
    return tuple(
        replace(
            same[0],
            expired=any(use.expired for use in same),
            count=(count := sum(use.count for use in same)),
            unused=not count and any(use.unused for use in same),
        )
        for same in uses.values()
    )
