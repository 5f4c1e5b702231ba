"""``lab shell``: a prepared guest, entered; gone when the shell is left."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from orchestrator.adapters.cache import Cache
from orchestrator.adapters.sources import entry_types
from orchestrator.doors.doctor import require_host
from orchestrator.doors.planning import DEFAULT_LAB, make_plan, read_lab
from orchestrator.doors.terminal import attach, run_words
from orchestrator.foundation.errors import LabError, UsageError
from orchestrator.plan.model import Lab
from orchestrator.plan.nolab import kernel_word, recipes_lab, with_modules
from orchestrator.plan.plan import KernelPlan
from orchestrator.plan.visible import visible
from orchestrator.policy.events import Doing, Event, Note
from orchestrator.policy.runner import orderly_stop, stopping_when
from orchestrator.policy.session import Session, open_session, session_dir


def enter(
    path: Path, kernel: str, cache: Cache, *, modules: Sequence[Path], words: Sequence[str]
) -> int:
    """Have a guest of this kernel up, its modules built, and give the user a shell in it.

    With ``words``, they are run there instead. Blocks until that has ended; its exit status.
    Raises ``UsageError`` without words where there is no terminal.
    """
    lab, plan = choose(path, kernel, cache, modules)
    require_terminal(words, "lab shell", "lab shell KERNEL -- uname -r")
    require_host()
    with (
        orderly_stop() as stop,
        stopping_when(stop),
        session_dir() as run_dir,
        open_session(lab, plan, cache, run_dir, quiet if words else say) as session,
    ):
        tell_failures(session)
        if words:
            session.send_sources()
            return hand_over(session, words)
        with _in_background(session.send_sources):
            return hand_over(session, words, sources="/lab/src")


def require_terminal(words: Sequence[str], command: str, example: str) -> None:
    """Raise ``UsageError`` where there are neither words to run nor a terminal."""
    if not words and not sys.stdin.isatty():
        raise UsageError(
            f"{command} needs a terminal", hint=f"a command can do without: `{example}`"
        )


@contextlib.contextmanager
def _in_background(send: Callable[[], None]) -> Iterator[None]:
    """Have something sent while the user begins to type; where it fails, the guest has, and that
    is told anyhow.
    """

    def work() -> None:
        with contextlib.suppress(LabError):
            send()

    with ThreadPoolExecutor(1, "sources") as pool:
        pool.submit(work)
        yield


def hand_over(session: Session, words: Sequence[str], sources: str = "") -> int:
    """Run a command in the guest, or give the user a shell; the exit status.

    Raises ``MachineError`` where the guest ended meanwhile.
    """
    if words:
        status = run_words(session.guest.machine.shell, words)
    else:
        tell_place(session, sources)
        status = attach(session.guest.machine.shell)
    session.guest.machine.check_alive()
    return status


def choose(
    path: Path, kernel: str, cache: Cache, modules: Sequence[Path]
) -> tuple[Lab, KernelPlan]:
    """The lab at ``path`` with these folders of modules too, and the one kernel that is meant.

    Folders of modules need no lab: where ``path`` is the default and there is no such file, the
    kernels are the recipes' own. Raises ``ConfigError``, and ``UsageError`` for no kernel or more
    than one.
    """
    if modules and path == DEFAULT_LAB and not path.exists():
        lab = recipes_lab(Path.cwd(), entry_types(), kernel)
        kernel = kernel_word(kernel)
    else:
        lab = read_lab(path)
    lab = with_modules(lab, modules)
    plan = make_plan(lab, cache, kernels=[kernel])
    if len(plan.kernels) != 1:
        names = ", ".join(each.name for each in plan.kernels)
        raise UsageError(f"that is more than one kernel: {names}", hint="name one of them")
    return lab, plan.kernels[0]


def say(event: Event) -> None:
    """Tell what is being done, on standard error."""
    if isinstance(event, Doing):
        print(f"{event.kernel}: {event.what}", file=sys.stderr)
    else:
        quiet(event)


def quiet(event: Event) -> None:
    """Tell only what went otherwise than one would think."""
    if isinstance(event, Note):
        print(f"{event.kernel}: {visible(event.text)}", file=sys.stderr)


def tell_failures(session: Session) -> None:
    """Tell of folders that did not build."""
    for failure in session.built.errors.values():
        quiet(Note(session.plan.name, failure.message))


def tell_place(session: Session, sources: str) -> None:
    """Tell what is where in the guest."""
    names = " ".join(f"/lab/modules/{name}.ko" for name in session.built.modules) or "none"
    lines = [f"modules: {names}", *([f"sources: {sources}"] if sources else [])]
    print("\n".join((*lines, "leave with exit or ^D")), file=sys.stderr, flush=True)
