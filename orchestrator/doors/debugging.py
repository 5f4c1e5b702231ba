"""``lab gdb``: a guest with modules loaded, and gdb at it."""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Sequence

from orchestrator.adapters.cache import Cache
from orchestrator.doors.doctor import require_host
from orchestrator.doors.shell import choose, say, tell_failures
from orchestrator.foundation import process
from orchestrator.foundation.errors import EXIT_INTERRUPTED, EXIT_PASSED, HostError, UsageError
from orchestrator.plan.model import Lab, NamedScenario
from orchestrator.plan.plan import select_scenarios
from orchestrator.policy.debugging import Debugging, load_all, load_for, open_debugging
from orchestrator.policy.runner import orderly_stop, stopping_when
from orchestrator.policy.session import Session, open_session, programs_for, session_dir
from orchestrator.policy.worker import resolve

POLL_SECONDS = 0.5


def debug(arguments: argparse.Namespace, cache: Cache) -> int:
    """Have gdb debug a guest of the kernel that is named; its exit status.

    Where gdb is not to be started, or is not there, the guest waits for one until Ctrl-C. Raises
    ``UsageError`` for a kernel or scenario that is not in the lab.
    """
    lab, plan = choose(arguments.lab, arguments.kernel, cache, arguments.module)
    scenario = _find_scenario(lab, arguments.scenario) if arguments.scenario else None
    gdb = None if arguments.print else _find_gdb()
    require_host()
    plan = resolve(lab, plan, cache, say)
    programs = programs_for(lab, plan, scenario) if scenario else ()
    with (
        orderly_stop() as stop,
        stopping_when(stop),
        session_dir() as run_dir,
        open_session(lab, plan, cache, run_dir, say, programs) as session,
    ):
        tell_failures(session)
        notes = load_for(session, scenario) if scenario else load_all(session)
        debugging = open_debugging(session, lab)
        _tell(session, debugging, (*notes, *debugging.notes), alone=gdb is not None)
        if gdb is None:
            return _hold(session, stop)
        script = str(debugging.script)
        status = process.run_on_terminal((gdb, "-q", "-x", script, *arguments.words))
        return status if status >= 0 else 128 - status


def _find_scenario(lab: Lab, word: str) -> NamedScenario:
    found = select_scenarios(lab, [word])
    exact = [scenario for scenario in found if scenario.name == word] or found
    if len(exact) != 1:
        names = ", ".join(scenario.name for scenario in exact[:5])
        raise UsageError(f"--scenario {word}: that is more than one: {names}")
    return exact[0]


def _find_gdb() -> str | None:
    try:
        return process.find_tool("gdb")
    except HostError:
        print("this machine has no gdb: apt-get install gdb", file=sys.stderr)
        return None


def _tell(session: Session, debugging: Debugging, notes: Sequence[str], *, alone: bool) -> None:
    lines = [*notes, f"modules that gdb knows: {' '.join(debugging.modules) or 'none'}"]
    lines.append(f"a shell in the guest: {session.guest.ssh_command()}")
    if not alone:
        lines += [
            f"gdb -x {debugging.script}",
            f"  which ends in: {debugging.target}",
            "Ctrl-C here ends the guest",
        ]
    print("\n".join(lines), file=sys.stderr, flush=True)


def _hold(session: Session, stop: threading.Event) -> int:
    """Keep the guest until it ends, as gdb's `kill` has it do, or until Ctrl-C."""
    while session.guest.machine.alive:
        if stop.wait(POLL_SECONDS):
            return EXIT_INTERRUPTED
    return EXIT_PASSED
