"""Which revision of its git repository a lab is at."""

from __future__ import annotations

from pathlib import Path

from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import HostError
from orchestrator.plan.outcome import Revision

DEADLINE_SECONDS = 15.0


def find_revision(lab_dir: Path) -> Revision:
    """The commit that is checked out, and whether the lab's folder differs from it.

    Without a name where there is no git, no repository, or no commit: nothing depends on it.
    """
    name = (_git(lab_dir, "rev-parse", "--verify", "HEAD") or "").strip()
    if not name:
        return Revision()
    # Results may lie below the lab without being ignored: they change nothing of it.
    kept = (".", ":(exclude)lab-results")
    changed = _git(lab_dir, "--no-optional-locks", "status", "--porcelain", "--", *kept)
    return Revision(name, dirty=changed != "")  # what cannot be told may be changed


def _git(folder: Path, *words: str) -> str | None:
    """What it prints; None where it fails."""
    deadline = Deadline.after(DEADLINE_SECONDS, "git")
    try:
        done = process.run(("git", "-C", str(folder), *words), deadline=deadline)
    except HostError:
        return None
    return done.stdout.decode(errors="replace") if done.status == 0 else None
