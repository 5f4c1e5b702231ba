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
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from orchestrator.adapters.cache import Cache
from orchestrator.adapters.freezer import Freezer, room_for_frozen
from orchestrator.adapters.kbuild import BuiltModule
from orchestrator.adapters.machine import open_memory
from orchestrator.adapters.programs import Program
from orchestrator.adapters.vmlinux import without_vmlinux
from orchestrator.foundation import process
from orchestrator.foundation.errors import LabError, RunInterruptedError
from orchestrator.plan.model import Lab, NamedScenario
from orchestrator.plan.paths import SESSION_PREFIX, RunDir
from orchestrator.plan.plan import KernelPlan
from orchestrator.plan.version import KernelVersion
from orchestrator.policy.building import Built
from orchestrator.policy.events import Doing, Listener, Note
from orchestrator.policy.frozen import bare_key, frozen_key, keep_frozen, take_frozen
from orchestrator.policy.furnishing import furnish, keep_bare
from orchestrator.policy.guest import BootCounter, FrozenGuest, Guest, GuestPlan
from orchestrator.policy.worker import (
    Ready,
    guest_spec,
    load_programs,
    open_workshop,
    prepare,
    resolve,
)


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
    guest_plan = GuestPlan(
        kernel=plan.name,
        release=ready.kernel.release,
        spec=guest_spec(lab, ready.verdict),
        files=ready.files,
        timeouts=lab.file.timeouts,
        run_dir=run_dir,
        programs=programs,
    )
    workshop = open_workshop(lab, ready, guest_plan, cache, listener)
    built = workshop.build_without_guest()
    modules = built.modules if built else {}
    with contextlib.ExitStack() as stack:
        opener = _Opener(guest_plan, ready, cache, listener, stack)
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
        self._ready = ready
        self._listener = listener
        self._stack = stack
        self._freezer = Freezer(cache, room_for_frozen())
        self._boots = BootCounter()

    def fork(self, modules: Mapping[str, BuiltModule]) -> Guest:
        """A fork of a guest that was frozen with these modules; one that boots where there can be
        none. Raises ``LabError``.
        """
        key = self._key(modules)
        memory = self._stack.enter_context(open_memory())
        frozen = take_frozen(self._freezer, key, self._plan, memory)
        if frozen is not None:
            guest = self._resume(frozen, modules)
            if guest is not None:
                return guest
            self._freezer.drop(key)
        memory = self._stack.enter_context(open_memory())
        frozen = self._furnished(modules, memory)
        if frozen is None:
            memory = self._stack.enter_context(open_memory())
            frozen = self._frozen_now(modules, memory)
        guest = None if frozen is None else self._resume(frozen, modules)
        return guest or self.boot(modules)

    def boot(self, modules: Mapping[str, BuiltModule], memory: int | None = None) -> Guest:
        """A guest that has booted, at the second try if need be. Raises what a boot raises."""
        self._listener(Doing(self._plan.kernel, "booting"))
        try:
            return self._booted(modules, memory)
        except RunInterruptedError:
            raise
        except LabError as error:
            process.check_stopping()
            self._note(f"trying once more: {error.message}")
        return self._booted(modules, memory)

    def _booted(self, modules: Mapping[str, BuiltModule], memory: int | None) -> Guest:
        guest = Guest(self._plan, modules, self._boots)
        self._stack.callback(guest.close)
        try:
            guest.boot(memory)
        except LabError as error:
            guest.close()
            if not guest.has_spoken:
                kernel = self._ready.kernel
                boot = without_vmlinux(self._ready.boot, kernel, error.message)
                files = replace(self._plan.files, kernel_path=boot.path)
                self._plan = replace(self._plan, files=files)
            raise
        return guest

    def _furnished(self, modules: Mapping[str, BuiltModule], memory: int) -> FrozenGuest | None:
        """A guest with these modules, made of one without; None where nothing is kept, nothing is
        to be put into it, or, with a note, it does not go on.
        """
        bare = self._bare
        if self._key(modules) == bare or not self._freezer.has_alike(bare):
            return None
        try:
            if not self._freezer.has(bare):
                self._keep_bare(bare)
            self._listener(Doing(self._plan.kernel, "putting modules into a guest frozen before"))
            made = furnish(self._freezer, self._plan, bare, modules, memory, self._boots)
        except RunInterruptedError:
            raise
        except LabError as error:
            process.check_stopping()
            self._freezer.drop(bare)
            self._note(f"the guest that was frozen without modules failed: {error.message}")
            return None
        if made is None:
            return None
        self._keep(self._key(modules), made.frozen, made.console)
        return made.frozen

    def _keep_bare(self, key: str) -> None:
        whole, self._plan = self._plan, replace(self._plan, programs=())
        try:
            with open_memory() as memory:
                guest = self.boot({}, memory)
                keep_bare(self._freezer, key, guest, self._console)
        finally:
            self._plan = replace(self._plan, programs=whole.programs)

    def _frozen_now(self, modules: Mapping[str, BuiltModule], memory: int) -> FrozenGuest | None:
        """A guest that boots and is frozen; None, and a note, where that fails."""
        guest = self.boot(modules, memory)
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
        self._keep(self._key(modules), frozen, self._console)
        return frozen

    def _resume(self, frozen: FrozenGuest, modules: Mapping[str, BuiltModule]) -> Guest | None:
        """A fork; None, and a note, where there is none, at the second try either."""
        for number, each in enumerate((frozen, frozen.without_connection())):
            guest = Guest(self._plan, modules, self._boots)
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

    @property
    def _bare(self) -> str:
        return bare_key(self._plan, self._ready.kernel, self._ready.image.key)

    def _key(self, modules: Mapping[str, BuiltModule]) -> str:
        return frozen_key(self._bare, modules, self._plan.programs)

    @property
    def _console(self) -> Path:
        """What the guest said that booted last."""
        return self._plan.run_dir.boot(self._plan.kernel, self._boots.count) / "console.log"

    def _keep(self, key: str, frozen: FrozenGuest, console: Path) -> None:
        """Keep it for later, while the guest is in use already."""
        keeper = self._stack.enter_context(ThreadPoolExecutor(1, "freezer"))
        kept = keeper.submit(keep_frozen, self._freezer, key, frozen, console)
        self._stack.callback(kept.result)

    def _note(self, text: str) -> None:
        self._listener(Note(self._plan.kernel, text))
