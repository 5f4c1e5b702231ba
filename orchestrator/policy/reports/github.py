"""What GitHub Actions shows: annotations at lines of the project.

A workflow command is a line of the job's output that begins with ``::``, leading blanks aside. So
guests' texts are escaped within ours, and nothing that a guest may have written is printed where it
could be a line of its own, but between ``stop-commands`` and its token.
"""

from __future__ import annotations

import secrets

from orchestrator.plan.outcome import Outcome, RunResult
from orchestrator.plan.visible import clip, visible
from orchestrator.policy.reports.places import Failure, Paths, find_failures

MAX_ANNOTATIONS = 10
"""GitHub shows so many errors of a step, and no more (docs of its "workflow commands", 2025)."""
MAX_MESSAGE = 2000


def render_annotations(result: RunResult, paths: Paths) -> str:
    """A workflow command for each failure, alike ones as one; failures before errors."""
    failures = sorted(find_failures(result, paths), key=lambda each: each.outcome is Outcome.ERROR)
    lines = [_annotation(failure) for failure in failures]
    if len(lines) > MAX_ANNOTATIONS:
        more = len(lines) - MAX_ANNOTATIONS + 1
        lines[MAX_ANNOTATIONS - 1 :] = [f"::error::{more} more; the summary has them"]
    for kernel in result.kernels:
        if kernel.error and not kernel.cells and len(lines) < MAX_ANNOTATIONS:
            lines.append(f"::error::{_data(f'{kernel.name}: {kernel.error}')}")
    return "".join(f"{line}\n" for line in lines)


def _annotation(failure: Failure) -> str:
    place = failure.place
    properties = {
        "file": place.file,
        "line": "" if place.line is None or not place.file else str(place.line),
        "title": clip(failure.title, 200),
    }
    told = ",".join(f"{name}={_property(text)}" for name, text in properties.items() if text)
    return f"::error {told}::{_data(failure.reason)}"


def _data(text: str) -> str:
    # escapeData() of actions/toolkit, packages/core/src/command.ts; ``visible`` leaves no newline.
    return clip(visible(text), MAX_MESSAGE).replace("%", "%25")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def without_commands(text: str) -> str:
    """The text for the job's output, with no line of it taken for a command."""
    token = secrets.token_hex(16)
    return f"::stop-commands::{token}\n{text}::{token}::\n"
