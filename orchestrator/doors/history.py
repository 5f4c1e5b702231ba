"""``lab history``: what past runs tell together, and the note of each run that ends."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from orchestrator.adapters.history import add_run, load_runs
from orchestrator.foundation.errors import EXIT_PASSED, LabError, UsageError
from orchestrator.plan.history import look_back, only, past_run
from orchestrator.plan.outcome import RunResult
from orchestrator.plan.visible import visible
from orchestrator.policy.reports.past import history_values, render_history
from orchestrator.policy.reports.reading import RESULTS_FILE, load_results

HISTORY_FILE = "history.sqlite"


def record(result: RunResult, results_dir: Path) -> None:
    """Add a run that has ended. Where that fails a note says so: the verdict is the run's."""
    try:
        add_run(results_dir / HISTORY_FILE, past_run(result))
    except LabError as error:
        print(f"lab: note: this run is not recorded: {error.render()}", file=sys.stderr)


def show(path: Path, *, scenario: str, kernel: str, as_json: bool) -> int:
    """Print what the runs in the file tell; the exit status.

    Raises ``HostError`` where the file cannot be used, ``UsageError`` where no cell is meant.
    """
    runs = only(load_runs(path), scenario, kernel)
    if runs and (scenario or kernel) and not any(run.cells for run in runs):
        raise UsageError("no run that is recorded has played that")
    history = look_back(runs)
    if as_json:
        print(json.dumps(history_values(history), indent=2))
    else:
        print(render_history(history), end="")
    return EXIT_PASSED


def take_in(path: Path, run_dirs: Sequence[Path]) -> int:
    """Record older runs from their results; the exit status. Those that cannot be read are named.

    A folder of runs stands for all runs in it. Raises ``HostError`` where the file cannot be used.
    """
    added = known = 0
    for run_dir in _runs_in(run_dirs):
        try:
            result = load_results(run_dir)
        except UsageError as error:
            print(f"lab: left out: {visible(error.message)}", file=sys.stderr)
            continue
        if add_run(path, past_run(result)):
            added += 1
        else:
            known += 1
    print(f"{added} runs added, {known} were there already")
    return EXIT_PASSED


def _runs_in(paths: Sequence[Path]) -> list[Path]:
    found: dict[Path, None] = {}
    for path in paths:
        inside = (
            []
            if (path / RESULTS_FILE).exists() or not path.is_dir()
            else [each.parent for each in sorted(path.glob(f"*/{RESULTS_FILE}"))]
        )
        # `latest` is another name of one of them.
        found |= dict.fromkeys(each.resolve() for each in inside or [path])
    return list(found)
