"""GitLab's Code Quality report: failures at lines of the project, in the merge request's diff.

The fields are those that GitLab reads of Code Climate's format (its docs, "Code Quality", 18).
Tests as such are in ``junit.xml``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from typing import Any, get_args

from orchestrator.plan.model import FindingClass
from orchestrator.plan.outcome import Outcome, RunResult
from orchestrator.plan.visible import clip, visible
from orchestrator.policy.reports.places import Failure, Paths, find_failures

MAX_DESCRIPTION = 500
_KERNEL = frozenset(get_args(FindingClass))


def render_code_quality(result: RunResult, paths: Paths) -> str:
    """The file's text, JSON. A failure that is about no file of the project is not in it."""
    failures = [each for each in find_failures(result, paths) if each.place.file]
    counts: Counter[str] = Counter()
    entries = []
    for failure in failures:
        same = _same(result.lab, failure)
        counts[same] += 1  # GitLab shows the first alone of those with one fingerprint
        entries.append(_entry(failure, f"{same} {counts[same]}"))
    return json.dumps(entries, indent=2) + "\n"


def _same(lab: str, failure: Failure) -> str:
    """By what a failure is known again, though it moved, or another process met it."""
    reason = re.sub(r"(?:0x)?[0-9a-f]*[0-9][0-9a-f]*", "0", failure.reason)
    return repr((lab, failure.scenario, failure.kind, reason, failure.place.file))


def _entry(failure: Failure, same: str) -> dict[str, Any]:
    return {
        "description": clip(visible(f"{failure.title}: {failure.reason}"), MAX_DESCRIPTION),
        "check_name": visible(f"kmod-lab/{failure.kind}"),
        "fingerprint": hashlib.sha256(same.encode()).hexdigest(),
        "severity": _severity(failure),
        "location": {
            "path": visible(failure.place.file),
            "lines": {"begin": failure.place.line or 1},
        },
    }


def _severity(failure: Failure) -> str:
    if failure.outcome is Outcome.ERROR:
        return "minor"
    return "critical" if failure.kind in _KERNEL else "major"
