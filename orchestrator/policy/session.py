"""One guest for a person to be in: prepared as a run prepares it, and gone when they leave.

It goes on from a frozen guest with the modules in place. Where there is none, it is made of one
without modules (``furnishing``), which is booted where there is none of that either.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from orchestrator.adapters.cache import Cache
from orchestrator.adapters.kbuild import BuiltModule
from orchestrator.adapters.machine import open_memory
from orchestrator.adapters.programs import Program
from orchestrator.foundation import process
from orchestrator.foundation.errors import LabError, RunInterruptedError
from orchestrator.plan.model import Lab, NamedScenario
from orchestrator.plan.paths import SESSION_PREFIX, RunDir
from orchestrator.plan.plan import KernelPlan
from orchestrator.plan.version import KernelVersion
from orchestrator.policy.building import Built
from orchestrator.policy.events import Listener, Note
from orchestrator.policy.guest import BootCounter, FrozenGuest, Guest, GuestPlan
from orchestrator.policy.preparing import (
    Ready,
    guest_plan,
    load_programs,
    open_workshop,
    prepare,
    resolve,
)
from orchestrator.policy.supply import Supply


@dataclass(frozen=True)
class Session:
    """A guest that is up, with the lab's modules in ``/lab/modules``."""

    plan: KernelPlan
    """With its kernel known."""
    ready: Ready
    built: Built
    guest: Guest
    run_dir: RunDir
    send_sources: Callable[[], None]
    """Has the modules' sources in ``/lab/src``; it takes a third of a second without KVM."""


@contextlib.contextmanager
def session_dir() -> Iterator[RunDir]:
    """A private folder for a session's evidence, removed with the context.

    It is locked meanwhile: what is left of a session that was killed is not.
    """
    with tempfile.TemporaryDirectory(prefix=SESSION_PREFIX) as folder:
        lock = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield RunDir(Path(folder))
        finally:
            os.close(lock)


def is_session(folder: Path) -> bool:
    """Whether a folder is that of a session which goes on, of this user."""
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.fstat(lock).st_uid == os.getuid()
    finally:
        os.close(lock)
    return False


def programs_for(lab: Lab, plan: KernelPlan, scenario: NamedScenario) -> tuple[Program, ...]:
    """The test programs that a scenario's guest has in a run, where it brings any; the plan's
    kernel is known. Raises ``ConfigError``.
    """
    if not scenario.programs or plan.known is None:
        return ()
    return load_programs(lab, KernelVersion.parse(plan.known.version))


@contextlib.contextmanager
def open_session(
    lab: Lab,
    plan: KernelPlan,
    cache: Cache,
    run_dir: RunDir,
    listener: Listener,
    programs: tuple[Program, ...] = (),
) -> Iterator[Session]:
    """A guest of this kernel, for as long as the context is open, with ``programs`` in it.

    Blocks for what has to be fetched, built and booted. Raises ``LabError`` as a run does; a
    module that does not build is in ``built.errors``.
    """
    plan = resolve(lab, plan, cache, listener)
    ready = prepare(lab, plan, cache, listener)
    made_of = guest_plan(lab, plan.name, ready, run_dir, programs)
    workshop = open_workshop(lab, ready, made_of, cache, listener)
    built = workshop.build_without_guest()
    modules = built.modules if built else {}
    with contextlib.ExitStack() as stack:
        opener = _Opener(made_of, ready, cache, listener, stack)
        forks = lab.file.guest.forks
        guest = opener.fork(modules) if forks else opener.boot(modules)
        if built is None:
            built = workshop.build_in(guest)
            guest.push_modules(built.modules)
        send_sources = partial(workshop.send_sources, guest)
        yield Session(plan, ready, built, guest, run_dir, send_sources)


class _Opener:
    """Has one guest up, by the shortest way that there is."""

    def __init__(
        self,
        plan: GuestPlan,
        ready: Ready,
        cache: Cache,
        listener: Listener,
        stack: contextlib.ExitStack,
    ) -> None:
        """What has to stay for as long as the guest is left to ``stack``."""
        self._plan = plan
        self._listener = listener
        self._stack = stack
        self._boots = BootCounter()
        self._supply = Supply(plan, ready, cache, listener, self._boots, tell=self._note)

    def fork(self, modules: Mapping[str, BuiltModule]) -> Guest:
        """A fork of a guest that was frozen with these modules; one that boots where there can be
        none. Raises ``LabError``.
        """
        memory = self._stack.enter_context(open_memory())
        frozen = self._supply.take(modules, memory)
        if frozen is not None:
            guest = self._resume(frozen, modules)
            if guest is not None:
                return guest
            self._supply.drop(modules)
        frozen = self._furnished(modules) or self._frozen_now(modules)
        guest = None if frozen is None else self._resume(frozen, modules)
        return guest or self.boot(modules)

    def boot(self, modules: Mapping[str, BuiltModule]) -> Guest:
        """A guest that has booted. Raises what a boot raises."""
        guest = self._supply.booted(modules)
        self._stack.callback(guest.close)
        return guest

    def _furnished(self, modules: Mapping[str, BuiltModule]) -> FrozenGuest | None:
        memory = self._stack.enter_context(open_memory())
        made = self._supply.furnished(modules, memory)
        if made is None:
            return None
        self._keep(modules, made.frozen)
        return made.frozen

    def _frozen_now(self, modules: Mapping[str, BuiltModule]) -> FrozenGuest | None:
        """A guest that boots and is frozen; None, and a note, where that fails."""
        memory = self._stack.enter_context(open_memory())
        guest = self._supply.booted(modules, memory)
        try:
            frozen = guest.freeze()
        except RunInterruptedError:
            raise
        except LabError as error:
            process.check_stopping()
            self._note(f"the guest was not frozen: {error.message}")
            return None
        finally:
            guest.close()
        self._keep(modules, frozen)
        return frozen

    def _resume(self, frozen: FrozenGuest, modules: Mapping[str, BuiltModule]) -> Guest | None:
        """A fork; None, and a note, where there is none, at the second try either."""
        for number, each in enumerate((frozen, frozen.without_connection())):
            guest = Guest(self._supply.plan, modules, self._boots)
            self._stack.callback(guest.close)
            try:
                guest.resume(each, self._plan.run_dir.kernel(self._plan.kernel) / f"fork-{number}")
            except LabError as error:
                guest.close()
                if isinstance(error, RunInterruptedError):
                    raise
                process.check_stopping()
                self._note(f"a frozen guest does not go on: {error.message}")
            else:
                return guest
        return None

    def _keep(self, modules: Mapping[str, BuiltModule], frozen: FrozenGuest) -> None:
        """Keep it for later, while the guest is in use already."""
        keeper = self._stack.enter_context(ThreadPoolExecutor(1, "freezer"))
        kept = keeper.submit(self._supply.keep, modules, frozen)
        self._stack.callback(kept.result)

    def _note(self, text: str) -> None:
        self._listener(Note(self._plan.kernel, text))
