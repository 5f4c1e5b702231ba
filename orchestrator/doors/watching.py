"""``lab watch``: scenarios are played again whenever something of theirs is saved."""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator.adapters.cache import Cache
from orchestrator.doors.doctor import require_host
from orchestrator.doors.planning import make_plan, read_lab
from orchestrator.doors.progress import open_progress
from orchestrator.foundation.errors import EXIT_INTERRUPTED
from orchestrator.plan.outcome import CellResult, Outcome, RunResult
from orchestrator.plan.paths import RunDir, new_run_id
from orchestrator.plan.plan import Plan
from orchestrator.plan.visible import clip, visible
from orchestrator.plan.yamlsource import shown_path
from orchestrator.policy.reports import REPORT_FILE, render_cell
from orchestrator.policy.runner import Run, create_run_dir, orderly_stop
from orchestrator.policy.watch import Changed, Mistake, Round, Watch, WatchEvent

MAX_PATHS = 3
_COLOURS = {"PASS": "32", "FAIL": "31", "ERROR": "35"}


def watch(arguments: argparse.Namespace, cache: Cache) -> int:
    """Play what is selected, then what is affected by each change, until Ctrl-C.

    Raises ``ConfigError`` or ``UsageError`` where there is nothing to begin with.
    """

    def load() -> Plan:
        return make_plan(
            read_lab(arguments.lab),
            cache,
            kernels=arguments.kernel,
            scenarios=arguments.scenario,
            jobs=arguments.jobs,
        )

    watching = Watch(load, _player(arguments, cache), _tell)
    require_host()
    with orderly_stop() as stop:
        watching.run(stop)
    return EXIT_INTERRUPTED


def _player(
    arguments: argparse.Namespace, cache: Cache
) -> Callable[[Plan, threading.Event], tuple[RunResult, RunDir]]:
    def play(plan: Plan, stop: threading.Event) -> tuple[RunResult, RunDir]:
        results_dir: Path = arguments.results or plan.lab.path.parent / "lab-results"
        run_dir = create_run_dir(results_dir / "watch", new_run_id())
        with open_progress(plan) as progress:
            result = Run(plan, cache, run_dir, progress).play(stop)
        return result, run_dir

    return play


def _tell(event: WatchEvent) -> None:
    if isinstance(event, Changed):
        text = render_changed(event.paths)
    elif isinstance(event, Mistake):
        text = f"{_headline('ERROR')}  {event.error.render()}\nwatching"
    else:
        text = render_round(event, _headline)
    print(text, flush=True)


def _headline(word: str) -> str:
    """The word that says how it stands, with the time; in colour on a terminal."""
    text = f"{time.strftime('%H:%M:%S')}  {word}"
    if not sys.stdout.isatty() or "NO_COLOR" in os.environ:
        return text
    return f"\x1b[1;{_COLOURS[word]}m{text}\x1b[0m"


def render_changed(paths: tuple[Path, ...]) -> str:
    """Which files changed, in a line of bounded length."""
    names = ", ".join(visible(str(shown_path(path))) for path in paths[:MAX_PATHS])
    more = f" and {len(paths) - MAX_PATHS} more" if len(paths) > MAX_PATHS else ""
    return clip(f"changed: {names}{more}", 200)


def render_round(event: Round, headline: Callable[[str], str]) -> str:
    """How all that is watched stands, in a line, and what the first failure was."""
    cells = [cell for cell in event.board.values() if cell.outcome is not Outcome.SKIPPED]
    bad = [cell for cell in cells if cell.outcome is not Outcome.PASSED]
    errors = [cell for cell in bad if cell.outcome is Outcome.ERROR]
    word = "ERROR" if errors else "FAIL" if bad else "PASS"
    played = len(event.result.cells) - event.left
    what = f"{len(bad)} of {len(cells)} failed" if bad else f"{len(cells)} passed"
    left = f", {event.left} given up for a change" if event.left else ""
    line = f"{headline(word)}  {what} ({played} played in {event.result.seconds:.1f} s{left})"
    return line + (_first(bad[0], event) if bad else "")


def _first(cell: CellResult, event: Round) -> str:
    """The first failure; of one of an earlier round the report is elsewhere."""
    lines = ["", render_cell(cell).rstrip("\n")]
    if cell in event.result.cells:
        lines.append(f"  report: {shown_path(event.run_dir.root / REPORT_FILE)}")
    return "\n".join(lines)
