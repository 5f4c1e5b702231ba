"""A step that does not end: what the guest is asked before it is thrown away, and what it means."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace

from orchestrator.adapters.kbuild import BuiltModule
from orchestrator.adapters.symbols import Symbols
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import CommandTimeoutError, LabError, RunInterruptedError
from orchestrator.plan.outcome import Hang, Mismatch
from orchestrator.plan.stacks import (
    choose_stacks,
    describe_silence,
    explain_stacks,
    parse_sysrq,
    parse_tasks,
)
from orchestrator.policy.decoding import decode_stacks
from orchestrator.policy.guest import Guest, Place

HANG_SECONDS = 10.0
"""How long a hung guest is asked, all in all; more where guests are emulated."""
# How much of that is for SSH. The rest is for SysRq, which does without any process.
_SSH_PART = 0.4


@dataclass(frozen=True)
class HungStep:
    """A step that was given up, and what its guest said then."""

    number: int
    mismatch: Mismatch
    """That it did not do what it must within its time, not yet why."""
    tasks: bytes
    """What ``lab-stacks`` printed, or as much of it as came."""
    since: Place
    """Where in the log the answers to SysRq begin."""
    holders: tuple[str, ...] = ()
    """Who holds the module that it was to unload."""

    def explained(self, why: str = "") -> Mismatch:
        """Its mismatch with the reason, where one is known, and with who holds its module."""
        because = f": {why}" if why else ""
        held = f"; held by {self.holders[0]}" if self.holders else ""
        return replace(
            self.mismatch,
            message=f"{self.mismatch.message}{because}{held}",
            diff=(*self.mismatch.diff, *(f"held by: {each}" for each in self.holders)),
        )


def ask_hung_guest(guest: Guest, number: int, name: str, mismatch: Mismatch) -> HungStep:
    """What a guest says of a step whose first process ``/run/lab/NAME`` tells.

    SSH comes first: only ``/proc`` tells of whoever sleeps, and at once whose process it is.
    Raises ``RunInterruptedError`` alone.
    """
    deadline = Deadline.after(HANG_SECONDS * guest.plan.scale, "asking a hung guest")
    soon = Deadline.after(deadline.seconds * _SSH_PART, "its tasks")
    tasks = b""
    try:
        tasks = guest.machine.shell.run(f"/lab/bin/lab-stacks {shlex.quote(name)}", soon).stdout
    except RunInterruptedError:
        raise
    except CommandTimeoutError as timeout:
        tasks = timeout.stdout
    except LabError:
        pass  # SSH is dead, which is what SysRq is for
    since = guest.place()
    guest.machine.collect_hang(deadline, every_task=not parse_tasks(tasks).are_told)
    return HungStep(number, mismatch, tasks, since)


def explain_hang(
    hung: HungStep,
    guest: Guest,
    until: Place | None,
    modules: Mapping[str, BuiltModule],
    symbols: Symbols,
) -> Hang:
    """What the guest said, decoded. Never raises."""
    tasks = parse_tasks(hung.tasks)
    logged = parse_sysrq(guest.records(hung.since, until))
    stacks = decode_stacks(choose_stacks(tasks, logged, modules), modules, symbols)
    why = explain_stacks(stacks, modules) or describe_silence(tasks, logged)
    return Hang(hung.number, why, stacks)
