"""``lab console``: what a guest says on its console, or said in a past run."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from orchestrator.doors.reporting import find_run
from orchestrator.foundation.errors import EXIT_INTERRUPTED, EXIT_PASSED
from orchestrator.plan.paths import RunDir
from orchestrator.plan.yamlsource import shown_path
from orchestrator.policy.consoles import find_console, find_session, read_console
from orchestrator.policy.runner import orderly_stop

SHELL = "shell"
"""Stands for the guest of a `lab shell` in place of a run."""


def show_console(run: str, place: str, results_dir: Path, *, follow: bool) -> int:
    """Print a console's log; with ``follow`` on and on, until Ctrl-C or the session's end.

    Raises ``UsageError`` where there is no such run or console.
    """
    run_dir = find_session() if run == SHELL else RunDir(find_run(run, results_dir))
    kernel, _, scenario = place.partition("/")
    path = find_console(run_dir, kernel, scenario)
    print(f"console: {shown_path(path)}", file=sys.stderr)
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(orderly_stop()) if follow else None
        for line in read_console(path, stop):
            print(line, flush=follow)
        return EXIT_INTERRUPTED if stop and stop.is_set() else EXIT_PASSED
