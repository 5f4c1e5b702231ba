"""``lab replay``: a guest as it was before the step that failed in a past run, and a shell."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

from orchestrator.adapters.cache import Cache
from orchestrator.doors.doctor import require_host
from orchestrator.doors.planning import make_plan
from orchestrator.doors.reporting import find_run
from orchestrator.doors.shell import (
    hand_over,
    quiet,
    require_terminal,
    say,
    tell_failures,
)
from orchestrator.foundation.errors import MachineError, UsageError
from orchestrator.plan.model import Lab, NamedScenario
from orchestrator.plan.outcome import Outcome, StepResult
from orchestrator.plan.paths import RunDir
from orchestrator.plan.plan import KernelPlan
from orchestrator.plan.replaying import Past, find_changes, find_past
from orchestrator.plan.visible import visible
from orchestrator.policy.replay import Replay, parts_before, parts_now
from orchestrator.policy.reports.reading import load_results
from orchestrator.policy.runner import orderly_stop, stopping_when
from orchestrator.policy.session import Session, open_session, programs_for, session_dir
from orchestrator.policy.worker import resolve


def replay(arguments: argparse.Namespace, lab: Lab, cache: Cache) -> int:
    """Play a cell of a past run up to the step that failed, then hand the guest over.

    The exit status is the shell's, or that of the command behind ``--``. Raises ``UsageError``
    where the run, the cell or the lab's part of it is not there.
    """
    words: Sequence[str] = arguments.words
    run_dir = find_run(arguments.run, arguments.results or lab.path.parent / "lab-results")
    past = find_past(load_results(run_dir), arguments.cell)
    scenario, plan = _find_in_lab(lab, cache, past)
    steps = len(scenario.all_steps)
    stop = min(arguments.step or past.stop_before or steps + 1, steps + 1)
    require_terminal(words, "lab replay", f"lab replay latest {arguments.cell} -- dmesg")
    require_host()
    listener = quiet if words else say
    plan = resolve(lab, plan, cache, listener)
    programs = programs_for(lab, plan, scenario)
    with (
        orderly_stop() as stopped,
        stopping_when(stopped),
        session_dir() as folder,
        open_session(lab, plan, cache, folder, listener, programs) as session,
    ):
        tell_failures(session)
        return _replay_in(session, scenario, past, RunDir(run_dir), stop, words)


def _replay_in(
    session: Session,
    scenario: NamedScenario,
    past: Past,
    run_dir: RunDir,
    stop: int,
    words: Sequence[str],
) -> int:
    changes = find_changes(parts_before(past, run_dir), parts_now(session, scenario))
    play = Replay(session, scenario)
    played = play.play_before(stop)
    for line in render_replay(past, scenario, changes, played, play.complaints):
        print(line, file=sys.stderr)
    if not session.guest.machine.alive:
        raise MachineError(f"the guest is gone: {play.lost}")
    return hand_over(session, words)


def _find_in_lab(lab: Lab, cache: Cache, past: Past) -> tuple[NamedScenario, KernelPlan]:
    kernel, name = past.cell.kernel, past.cell.scenario
    scenario = next((each for each in lab.scenarios if each.name == name), None)
    if scenario is None or kernel not in lab.file.kernels:
        what = f"no kernel {kernel}" if scenario else f"no scenario {name}"
        raise UsageError(
            f"{visible(what)} is in this lab any more", hint="`lab list` shows what there is"
        )
    plan = make_plan(lab, cache, kernels=[kernel], scenarios=[name])
    return scenario, plan.kernels[0]


def render_replay(
    past: Past,
    scenario: NamedScenario,
    changes: Sequence[str],
    played: Sequence[StepResult],
    complaints: Sequence[str],
) -> Iterator[str]:
    """What failed then, what has changed since, what was played, and what would come next."""
    cell = past.cell
    yield f"then: {cell.outcome.value}: {visible(cell.reason) or 'nothing to tell'}"
    if changes:
        yield from (f"changed since: {change}" for change in changes)
    else:
        yield "kernel, modules and scenario are those of that run"
    if played:
        yield "played again:"
    for step in played:
        yield f"  {step.number:2} {step.title}: {_came_to(step)}"
    for complaint in complaints:
        yield f"  the kernel complained: {visible(complaint)}"
    rest = scenario.all_steps[len(played) :]
    yield "not played, yours to try:" if rest else "every step was played; nothing is unloaded"
    for number, left in enumerate(rest, len(played) + 1):
        yield f"  {number:2} {left.title}{_then(past, number)}"


def _came_to(step: StepResult) -> str:
    if step.outcome is Outcome.FAILED:
        return f"failed, unlike then: {_mismatches(step)}"
    why = f": {visible(step.reason)}" if step.reason else ""
    return f"{step.outcome.value}{why}"


def _then(past: Past, number: int) -> str:
    """What came of a step then, where it failed."""
    step = next((each for each in past.cell.steps if each.number == number), None)
    if step is None or step.outcome is not Outcome.FAILED:
        return ""
    return f"  <- failed then: {_mismatches(step)}"


def _mismatches(step: StepResult) -> str:
    return "; ".join(visible(mismatch.message) for mismatch in step.mismatches)
