"""A run's result for its readers: people, scripts, and the CI that shows JUnit files.

Every file is written aside and renamed, so that a reader never sees half of one.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from orchestrator.plan.outcome import CellResult, RunResult
from orchestrator.policy.reports.details import render_report
from orchestrator.policy.reports.html import render_html
from orchestrator.policy.reports.junit import render_junit
from orchestrator.policy.reports.logs import read_logs
from orchestrator.policy.reports.reading import JUDGED_FILE, RESULTS_FILE
from orchestrator.policy.reports.results import render_judged, render_results
from orchestrator.policy.reports.summary import render_cell, render_summary

JUNIT_FILE = "junit.xml"
REPORT_FILE = "report.txt"
HTML_FILE = "report.html"

__all__ = [
    "HTML_FILE",
    "JUDGED_FILE",
    "JUNIT_FILE",
    "REPORT_FILE",
    "RESULTS_FILE",
    "append_judged",
    "render_cell",
    "render_html",
    "render_junit",
    "render_report",
    "render_results",
    "render_summary",
    "write_html",
    "write_reports",
    "write_whole",
]


def write_reports(result: RunResult, run_dir: Path) -> tuple[Path, ...]:
    """Write the reports that cost little into the run's folder; the paths, ``report.txt`` first.

    That is done anew after each judged cell. ``write_html`` is for the end.
    """
    texts = {
        REPORT_FILE: render_report(result),
        RESULTS_FILE: render_results(result),
        JUNIT_FILE: render_junit(result),
    }
    for name, text in texts.items():
        write_whole(run_dir / name, text)
    return tuple(run_dir / name for name in texts)


def append_judged(cell: CellResult, run_dir: Path) -> None:
    """Put a judged cell on disk at once, at the cost of a line, however many there are already.

    A run that is killed leaves what it has judged here, when the reports are some cells behind.
    """
    with open(run_dir / JUDGED_FILE, "a", encoding="utf-8", newline="\n") as file:
        file.write(render_judged(cell))


def write_html(result: RunResult, run_dir: Path) -> Path:
    """Write ``report.html`` into the run's folder, with the logs that are there; its path."""
    path = run_dir / HTML_FILE
    write_whole(path, render_html(result, read_logs(result, run_dir)))
    return path


def write_whole(path: Path, text: str) -> None:
    """Replace a file at once; where that fails the old one stays and nothing is left over.

    What is there and is no plain file, as ``/dev/stdout`` and ``/dev/null`` are, is written to.
    """
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8", newline="\n")
        return
    descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.chmod(aside, 0o644)
        os.replace(aside, path)
    except BaseException:
        os.unlink(aside)
        raise
