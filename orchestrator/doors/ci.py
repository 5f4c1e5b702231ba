"""What a run tells the CI that it runs in, and where in the project its lines are."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from orchestrator.plan.outcome import RunResult
from orchestrator.policy.reports.github import render_annotations, without_commands
from orchestrator.policy.reports.markdown import render_markdown
from orchestrator.policy.reports.places import Paths, candidates

MAX_SUMMARY_BYTES = 1 << 20
"""What GitHub takes of a step's summary; a larger one is refused whole."""
# The top of the checkout: GitHub's name for it, GitLab's.
_PROJECT = ("GITHUB_WORKSPACE", "CI_PROJECT_DIR")


def project_paths(result: RunResult, lab_dir: Path) -> Paths:
    """The lab's place in the project, and which of the files that failures name are there."""
    named = (os.environ[name] for name in _PROJECT if os.environ.get(name))
    top = os.path.realpath(next(named, os.curdir))
    way = os.path.relpath(os.path.realpath(lab_dir), top)
    inside = way != os.pardir and not way.startswith(f"{os.pardir}/")
    files = frozenset(path for path in candidates(result) if os.path.isfile(lab_dir / path))
    return Paths(way if inside else "", files)


def in_github() -> bool:
    """Whether this is a step of GitHub Actions."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def without_old_commands(line: str) -> str:
    """A line that begins with a time, with nothing in it that GitHub's runner would obey.

    What it takes today, ``::error::``, has to begin a line. Its older commands, ``##[error]``, are
    obeyed wherever they stand (actions/runner, ActionCommand.cs, ``TryParse()``).
    """
    return line.replace("##[", "# #[") if in_github() else line


def show_summary(text: str) -> None:
    """Print it; where lines can be commands, as none."""
    print(without_commands(text) if in_github() else text, end="")


def tell_github(result: RunResult, lab_dir: Path) -> None:
    """Annotate the failures and append to the step's summary, in GitHub Actions only.

    Where the summary cannot be written, a note says so: the verdict is the run's.
    """
    if not in_github():
        return
    print(render_annotations(result, project_paths(result, lab_dir)), end="")
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return
    try:
        with open(path, "a", encoding="utf-8") as file:
            room = MAX_SUMMARY_BYTES - file.tell()
            file.write(render_markdown(result, room))
    except OSError as error:
        print(f"lab: the step's summary could not be written: {error.strerror}", file=sys.stderr)
