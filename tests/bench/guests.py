"""One kernel's guests, made of the lab's own parts: booted, frozen, forked."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from orchestrator.adapters.agent import Order, script
from orchestrator.adapters.cache import Cache
from orchestrator.adapters.machine import open_memory, start_fork
from orchestrator.doors.planning import make_plan
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import LabError
from orchestrator.plan.model import Lab
from orchestrator.plan.paths import RunDir
from orchestrator.policy.building import Built
from orchestrator.policy.events import Event
from orchestrator.policy.guest import FrozenGuest, Guest, GuestPlan
from orchestrator.policy.preparing import Ready, guest_plan, open_workshop, prepare
from tests.bench import host

COMMAND_SECONDS = 30.0
FORKS_AT_A_TIME = 4
# What a fork must find as the first one did: the kernel, a program, the modules, and no word of
# an earlier fork.
LOOK = (
    "uname -r; md5sum /usr/local/bin/sysio /lab/modules/*.ko; cat /run/bench 2>/dev/null; "
    "echo {word} >/run/bench"
)
# Until then memory grows for what is made once.
SETTLED = 50


def _unheard(event: Event) -> None:
    """The bench tells what it does itself."""


class Guests:
    """Guests of one kernel; closed with the context."""

    def __init__(self, lab: Lab, cache: Cache, kernel: str, folder: Path) -> None:
        """The kernel is fetched, and the modules built, when they are first needed."""
        self.kernel = kernel
        self._lab = lab
        self._cache = cache
        self._folder = folder
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Guests:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @cached_property
    def ready(self) -> Ready:
        """The kernel, and what its guests boot from. Raises ``LabError``."""
        plan = make_plan(self._lab, self._cache, kernels=[self.kernel]).kernels[0]
        return prepare(self._lab, plan, self._cache, _unheard)

    @cached_property
    def plan(self) -> GuestPlan:
        return guest_plan(self._lab, self.kernel, self.ready, RunDir(self._folder))

    @cached_property
    def _built(self) -> Built | None:
        workshop = open_workshop(self._lab, self.ready, self.plan, self._cache, _unheard)
        return workshop.build_without_guest()

    @cached_property
    def frozen(self) -> FrozenGuest:
        """A guest with the modules in it, frozen; where only a guest builds them, without."""
        memory = self._stack.enter_context(open_memory())
        guest = Guest(self.plan, self._built.modules if self._built else {})
        try:
            guest.boot(memory)
            return guest.freeze()
        finally:
            guest.close()

    # --- what is measured ----------------------------------------------------------------

    def cold(self, prefix: str = "cold") -> Mapping[str, float]:
        """Boot, until ``uname -r`` has been answered over SSH."""
        plan = self.plan
        guest = Guest(replace(plan, run_dir=RunDir(self._folder / "cold")), {})
        started = time.perf_counter()
        try:
            guest.boot()
            wall = time.perf_counter() - started
            return {prefix: wall, f"{prefix}.cpu": self._spent()}
        finally:
            guest.close()

    def fork(self, prefix: str = "fork") -> Mapping[str, float]:
        """Fork, until ``uname -r``, run there as a program, has been answered."""
        frozen = self.frozen
        guest = Guest(self.plan, {})
        started = time.perf_counter()
        try:
            guest.resume(frozen, self._folder / "fork")
            self._ask(guest, "uname -r")
            wall = time.perf_counter() - started
            return {prefix: wall, f"{prefix}.cpu": self._spent()}
        finally:
            guest.close()

    def bare(self) -> Mapping[str, float]:
        """QEMU with a fork's command line, until it says that the guest goes on; nothing is
        asked of that.
        """
        frozen = self.frozen.machine
        deadline = Deadline.after(COMMAND_SECONDS * self.plan.scale, "the bare limit")
        started = time.perf_counter()
        with start_fork(frozen, self._folder / "bare") as machine:
            machine.thaw(deadline)
            return {"bare": time.perf_counter() - started}

    def memory(self) -> Mapping[str, float]:
        """What each further fork costs that stands idle after its first command, in MB."""
        frozen = self.frozen
        before = host.available_mb()
        total = []
        with contextlib.ExitStack() as stack:
            for number in range(FORKS_AT_A_TIME):
                guest = Guest(self.plan, {})
                stack.callback(guest.close)
                guest.resume(frozen, self._folder / f"idle-{number}")
                self._ask(guest, "uname -r")
                held = [host.memory_of(pid) for pid in host.qemus_of(os.getpid())]
                assert len(held) == number + 1, f"{len(held)} QEMUs run, not {number + 1}"
                total.append(sum(each["pss"] for each in held))
            lost = before - host.available_mb()
        further = (total[-1] - total[0]) / (FORKS_AT_A_TIME - 1)
        return {
            "memory.pss": further,
            "memory.private": sum(each["private"] for each in held) / len(held),
            "memory.lost": lost / FORKS_AT_A_TIME,
        }

    def endure(self, count: int) -> Mapping[str, float]:
        """So many forks, one after another: how many were not as the first, and what grew."""
        frozen = self.frozen
        stale, corrupt, failed, wanted = 0, 0, 0, b""
        grown = self._held()
        started = time.perf_counter()
        for number in range(count):
            if number == SETTLED:
                grown = self._held()
            guest = Guest(self.plan, {})
            word = f"fork-{number}"
            try:
                guest.resume(frozen, self._folder / "fork")
                said = self._say(guest, LOOK.format(word=word))
            except LabError:
                failed += 1
                continue
            finally:
                guest.close()
            wanted = wanted or said
            stale += b"fork-" in said
            corrupt += said != wanted and b"fork-" not in said
        seconds = (time.perf_counter() - started) / count
        found = {name: value - grown[name] for name, value in self._held().items()}
        return {
            "forks.each": seconds,
            "forks.stale": stale,
            "forks.corrupt": corrupt,
            "forks.failed": failed,
            **found,
        }

    def _held(self) -> dict[str, float]:
        return {
            "forks.memory": host.own_memory_mb(),
            "forks.files": host.open_files(),
            "forks.disk": host.disk_mb(self._folder),
        }

    def _ask(self, guest: Guest, command: str) -> None:
        said = self._say(guest, command)
        assert said.decode().strip() == self.plan.release, f"{command} says {said!r}"

    def _say(self, guest: Guest, command: str) -> bytes:
        deadline = Deadline.after(COMMAND_SECONDS * self.plan.scale, command)
        return guest.run(Order(script(command)), deadline).stdout

    def _spent(self) -> float:
        """Processor time of the one QEMU that runs now."""
        (pid,) = host.qemus_of(os.getpid())
        return host.processor_seconds(pid)
