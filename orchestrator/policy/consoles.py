"""What guests say, or said, on their consoles: where that is kept, and reading it as it comes."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from orchestrator.foundation.errors import UsageError
from orchestrator.plan.paths import SESSION_PREFIX, RunDir
from orchestrator.plan.visible import decode, visible, visible_lines
from orchestrator.plan.yamlsource import shown_path
from orchestrator.policy.session import is_session

CONSOLE = "console.log"
POLL_SECONDS = 0.2
_CHUNK = 1 << 16
# A line that is longer is shown in pieces.
_MAX_LINE = 1 << 16


def find_session() -> RunDir:
    """The session of this user that began last and has not ended. Raises ``UsageError``."""
    folders = Path(tempfile.gettempdir()).glob(f"{SESSION_PREFIX}*")
    found = [(path.lstat().st_mtime_ns, path) for path in folders if is_session(path)]
    if not found:
        raise UsageError("no guest of yours is up", hint="`lab shell KERNEL` has one up")
    return RunDir(max(found)[1])


def find_console(run_dir: RunDir, kernel: str, scenario: str = "") -> Path:
    """The log of a kernel's console: of the guest that said something last, or of a scenario's own.

    Without a kernel's name it is that of the only one. Raises ``UsageError`` where there is none.
    """
    names = sorted(path.name for path in _folders(run_dir.root) if _consoles(path))
    if not kernel and len(names) == 1:
        kernel = names[0]
    if kernel not in names:
        what = f"no console of {visible(kernel)}" if kernel else "whose console?"
        hint = f"kernels of it: {visible(', '.join(names)) or 'none'}"
        raise UsageError(f"{shown_path(run_dir.root)}: {what}", hint=hint)
    folder = run_dir.kernel(kernel)
    if scenario:
        path = run_dir.fork(kernel, scenario) / CONSOLE
        if not path.is_file():
            hint = f"`lab console RUN {visible(kernel)}` shows that of its kernel"
            raise UsageError(f"{visible(scenario)} had no guest to itself", hint=hint)
        return path
    return max(_consoles(folder), key=lambda path: path.stat().st_mtime_ns)


def _folders(root: Path) -> list[Path]:
    try:
        return [path for path in root.iterdir() if path.is_dir()]
    except OSError as error:
        shown = visible(str(shown_path(root)))
        raise UsageError(f"{shown} cannot be read: {error.strerror}") from error


def _consoles(folder: Path) -> list[Path]:
    """Of guests that booted, of forks, of a session; then what was said before a run."""
    found = [*folder.glob(f"*/{CONSOLE}"), *folder.glob(f"scenarios/*/guest/{CONSOLE}")]
    return found or list(folder.glob("frozen.log"))


def read_console(path: Path, stop: threading.Event | None = None) -> Iterator[str]:
    """The lines of a console's log, safe to show; with ``stop`` also those that come later, until
    that is set or the file is gone.
    """
    left = b""
    with path.open("rb") as file:
        while True:
            data = file.read(_CHUNK)
            whole, newline, left = (left + data).rpartition(b"\n")
            yield from visible_lines(decode(whole + newline))
            if len(left) > _MAX_LINE:
                yield visible(decode(left))
                left = b""
            if not data and (stop is None or not path.exists() or stop.wait(POLL_SECONDS)):
                break
    if left:
        yield visible(decode(left))
