"""The kernel logs of what did not pass, from the run's folder, for the page."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from orchestrator.plan.outcome import Outcome, RunResult
from orchestrator.plan.visible import decode

MAX_LOGS = 300
"""How many are read; further ones are linked to."""
MAX_LOG_BYTES = 1 << 18
LOG_FILE = "kernel.log"


def read_logs(result: RunResult, run_dir: Path) -> dict[tuple[str, str], tuple[str, ...]]:
    """The lines of these logs, by kernel and scenario; those that cannot be read are left out.

    Results may come from elsewhere, so that what they name is only read within the folder.
    """
    told = (Outcome.FAILED, Outcome.ERROR)
    cells = [cell for cell in result.cells if cell.outcome in told and cell.evidence is not None]
    root = run_dir.resolve()
    found = {}
    for cell in cells[:MAX_LOGS]:
        with contextlib.suppress(OSError, ValueError):
            path = (run_dir / (cell.evidence or "") / LOG_FILE).resolve()
            if path.is_relative_to(root):
                lines = decode(_read_some(path)).split("\n")
                found[cell.kernel, cell.scenario] = tuple(line for line in lines if line)
    return found


def _read_some(path: Path) -> bytes:
    """The file's first bytes; nothing of what is no ordinary file."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return b""
        return file.read(MAX_LOG_BYTES)
