"""``lab run --resume``: find the run, and make ready what is left of it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from orchestrator.adapters.cache import Cache
from orchestrator.doors.planning import make_plan
from orchestrator.doors.reporting import find_run
from orchestrator.foundation.errors import UsageError
from orchestrator.plan.model import Lab
from orchestrator.plan.outcome import RunResult
from orchestrator.plan.paths import RunDir
from orchestrator.plan.plan import Plan
from orchestrator.plan.visible import visible
from orchestrator.plan.yamlsource import shown_path
from orchestrator.policy.reports.reading import load_results
from orchestrator.policy.resuming import START_ANEW, clear_folder, holding, planned_as, take_over


@contextlib.contextmanager
def open_run(
    name: str, lab: Lab, cache: Cache, results_dir: Path, *, jobs: int | None
) -> Iterator[tuple[Plan, RunResult, RunDir]]:
    """The plan of a run, what of it was judged, and its folder, for this process alone.

    Raises ``UsageError`` where there is no such run, it still goes on, has nothing left to play,
    or is of something else than the lab is now.
    """
    run_dir = find_run(name, results_dir).resolve()
    if not run_dir.is_dir():
        raise UsageError(
            f"there is no run {visible(str(shown_path(run_dir)))}",
            hint="--resume takes a run's folder, or `latest`",
        )
    with holding(run_dir):
        result = load_results(run_dir)
        plan = _plan_of(result, lab, cache, jobs)
        earlier = take_over(result, plan)
        clear_folder(RunDir(run_dir), earlier)
        print(
            f"lab: {visible(result.run_id)} goes on: {len(earlier.cells)} scenarios were judged",
            file=sys.stderr,
            flush=True,
        )
        yield plan, earlier, RunDir(run_dir)


def _plan_of(result: RunResult, lab: Lab, cache: Cache, jobs: int | None) -> Plan:
    names = [kernel.name for kernel in result.kernels]
    gone = [name for name in names if name not in lab.file.kernels]
    if gone or not names or result.lab != lab.file.lab:
        what = f"kernels of it are gone: {', '.join(gone)}" if gone else f"lab {result.lab}"
        raise UsageError(
            f"{visible(result.run_id)} is a run of another lab: {visible(what)}", hint=START_ANEW
        )
    return planned_as(make_plan(lab, cache, kernels=names, jobs=jobs), result)
