"""A run's result for its readers: people, scripts, and the CI that shows JUnit files.

Every file is written aside and renamed, so that a reader never sees half of one.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from orchestrator.plan.outcome import CellResult, RunResult
from orchestrator.policy.reports.details import render_report
from orchestrator.policy.reports.junit import render_junit
from orchestrator.policy.reports.results import render_judged, render_results
from orchestrator.policy.reports.summary import render_summary

RESULTS_FILE = "results.json"
JUNIT_FILE = "junit.xml"
REPORT_FILE = "report.txt"
JUDGED_FILE = "judged.jsonl"

__all__ = [
    "JUDGED_FILE",
    "JUNIT_FILE",
    "REPORT_FILE",
    "RESULTS_FILE",
    "append_judged",
    "render_junit",
    "render_report",
    "render_results",
    "render_summary",
    "write_reports",
]


def write_reports(result: RunResult, run_dir: Path) -> tuple[Path, ...]:
    """Write all reports into the run's folder; the paths, ``report.txt`` first."""
    texts = {
        REPORT_FILE: render_report(result),
        RESULTS_FILE: render_results(result),
        JUNIT_FILE: render_junit(result),
    }
    for name, text in texts.items():
        _write_whole(run_dir / name, text)
    return tuple(run_dir / name for name in texts)


def append_judged(cell: CellResult, run_dir: Path) -> None:
    """Put a judged cell on disk at once, at the cost of a line, however many there are already.

    A run that is killed leaves what it has judged here, when the reports are some cells behind.
    """
    with open(run_dir / JUDGED_FILE, "a", encoding="utf-8", newline="\n") as file:
        file.write(render_judged(cell))


def _write_whole(path: Path, text: str) -> None:
    """Replace a file at once; where that fails the old one stays and nothing is left over."""
    descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.chmod(aside, 0o644)
        os.replace(aside, path)
    except BaseException:
        os.unlink(aside)
        raise
