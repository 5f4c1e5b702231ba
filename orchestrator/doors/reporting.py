"""``lab report``: past runs shown anew, from their ``results.json`` alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from orchestrator.doors.ci import project_paths
from orchestrator.foundation.errors import EXIT_PASSED, HostError, UsageError
from orchestrator.plan.outcome import RunResult
from orchestrator.plan.yamlsource import shown_path
from orchestrator.policy.reports import (
    render_html,
    render_junit,
    render_report,
    render_results,
    write_whole,
)
from orchestrator.policy.reports.github import render_annotations
from orchestrator.policy.reports.gitlab import render_code_quality
from orchestrator.policy.reports.html import Logs
from orchestrator.policy.reports.logs import read_logs
from orchestrator.policy.reports.markdown import render_markdown
from orchestrator.policy.reports.merging import merge_results, relocate
from orchestrator.policy.reports.places import Paths
from orchestrator.policy.reports.reading import RESULTS_FILE, load_results

LATEST = "latest"

_PLAIN: dict[str, Callable[[RunResult], str]] = {
    "text": render_report,
    "junit": render_junit,
    "json": render_results,
    "markdown": render_markdown,
}
_IN_SOURCES: dict[str, Callable[[RunResult, Paths], str]] = {
    "github": render_annotations,
    "gitlab": render_code_quality,
}


def report(
    names: Sequence[str],
    results_dir: Path,
    *,
    form: str,
    output: Path | None,
    merge: bool,
    lab_dir: Path,
) -> int:
    """Render the runs that are named, or the latest, and print or write that; the exit status.

    Raises ``UsageError`` for runs that are not there or not readable, ``HostError`` where the
    file cannot be written.
    """
    if len(names) > 1 and not merge:
        raise UsageError(
            "that is more than one run", hint="join them with --merge, or name one of them"
        )
    run_dirs = [find_run(name, results_dir) for name in names or (LATEST,)]
    if merge:
        result, logs, base = _merge(run_dirs, output)
    else:
        run_dir = run_dirs[0]
        result = load_results(run_dir)
        logs, base = read_logs(result, run_dir), _base(run_dir, output)
    if result.interrupted:
        print("note: this run was ended before its time, or goes on", file=sys.stderr)
    if form in _IN_SOURCES:
        text = _IN_SOURCES[form](result, project_paths(result, lab_dir))
    elif form == "html":
        text = render_html(result, logs, base)
    else:
        text = _PLAIN[form](result)
    if output is None:
        print(text, end="")
        return EXIT_PASSED
    try:
        write_whole(output, text)
    except OSError as error:
        raise HostError(f"{shown_path(output)} cannot be written: {error.strerror}") from error
    return EXIT_PASSED


def find_run(name: str, results_dir: Path) -> Path:
    """A run's folder, by its path, the path of its ``results.json``, or its name alone."""
    path = Path(name)
    if name == LATEST or (not path.exists() and path.parent == Path()):
        path = results_dir / name
    if name == LATEST and not path.exists():
        raise UsageError(
            f"there is no run in {shown_path(results_dir)}", hint="`lab run` makes one"
        )
    return path.parent if path.name == RESULTS_FILE else path


def _merge(run_dirs: Sequence[Path], output: Path | None) -> tuple[RunResult, Logs, str]:
    """The runs as one, its evidence named from where the output is."""
    place = output.parent if output else Path()
    results = [load_results(run_dir) for run_dir in run_dirs]
    logs: dict[tuple[str, str], tuple[str, ...]] = {}
    for result, run_dir in zip(results, run_dirs, strict=True):
        logs |= read_logs(result, run_dir)
    moved = [
        relocate(result, run_dir, place) for result, run_dir in zip(results, run_dirs, strict=True)
    ]
    return merge_results(moved), logs, ""


def _base(run_dir: Path, output: Path | None) -> str:
    """The way from where the output is to the run's folder; what is printed belongs in there."""
    if output is None:
        return ""
    way = os.path.relpath(os.path.realpath(run_dir), os.path.realpath(output.parent))
    return "" if way == "." else f"{way}/"
