"""Guests of one kernel by the shortest way there is: out of the freezer, furnished, or booted.

A guest that was frozen with the same modules needs nothing. One that was frozen without any gets
them (``furnishing``). Otherwise a guest boots, at the second try if need be.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator.adapters.cache import Cache
from orchestrator.adapters.freezer import Freezer, room_for_frozen
from orchestrator.adapters.kbuild import BuiltModule
from orchestrator.adapters.machine import open_memory
from orchestrator.adapters.vmlinux import without_vmlinux
from orchestrator.foundation import process
from orchestrator.foundation.errors import LabError, RunInterruptedError
from orchestrator.plan.klog import Record
from orchestrator.policy.events import Doing, Listener, Note
from orchestrator.policy.frozen import bare_key, frozen_key, keep_frozen, take_frozen
from orchestrator.policy.furnishing import Furnished, furnish, keep_bare
from orchestrator.policy.guest import BootCounter, FrozenGuest, Guest, GuestPlan
from orchestrator.policy.preparing import Ready

# How many guests may fail, for one kernel of one run, before it is given up.
MAX_FAILED_BOOTS = 2


class Supply:
    """Has guests of one kernel up. Used from one thread, but for ``keep``."""

    def __init__(
        self,
        plan: GuestPlan,
        ready: Ready,
        cache: Cache,
        listener: Listener,
        boots: BootCounter,
        *,
        tell: Callable[[str], None],
        hear: Callable[[Sequence[Record]], None] = lambda _: None,
    ) -> None:
        """``tell`` takes why a shorter way did not do, ``hear`` what guests said as they booted."""
        self._plan = plan
        self._ready = ready
        self._listener = listener
        self._tell = tell
        self._hear = hear
        self._freezer = Freezer(cache, room_for_frozen())
        self._failures = 0
        """How many guests were of no use, for no fault of a scenario."""
        self.boots = boots
        self.boot_file = ready.boot
        """The kernel file that boots, as far as is known by now."""
        self.boot_seconds: float | None = None
        """What the first boot took."""
        self.console = Path()
        """What the guest said that booted, or was furnished, last."""

    @property
    def plan(self) -> GuestPlan:
        """With the kernel file that boots."""
        return replace(self._plan, files=replace(self._plan.files, kernel_path=self.boot_file.path))

    # --- the freezer -----------------------------------------------------------------------

    def key(self, modules: Mapping[str, BuiltModule]) -> str:
        """What a guest with these in place is called in the freezer."""
        return frozen_key(self._bare, modules, self._plan.programs)

    @property
    def _bare(self) -> str:
        return bare_key(self.plan, self._ready.kernel, self._ready.image.key)

    def take(self, modules: Mapping[str, BuiltModule], memory: int) -> FrozenGuest | None:
        """A guest that an earlier run froze with these in place, its memory in ``memory``."""
        return take_frozen(self._freezer, self.key(modules), self.plan, memory)

    def said_before(self, modules: Mapping[str, BuiltModule]) -> Path | None:
        """Where the freezer has what that one said, until it was frozen."""
        return self._freezer.console_of(self.key(modules))

    def drop(self, modules: Mapping[str, BuiltModule]) -> None:
        """Forget it: it does not go on."""
        self._freezer.drop(self.key(modules))

    def keep(self, modules: Mapping[str, BuiltModule], frozen: FrozenGuest) -> None:
        """Keep the guest of ``console`` for later, if there is room; it may be in use already."""
        keep_frozen(self._freezer, self.key(modules), frozen, self.console)

    # --- without a boot --------------------------------------------------------------------

    def furnished(self, modules: Mapping[str, BuiltModule], memory: int) -> Furnished | None:
        """A guest with these modules, made of one without: to change a module takes no boot.

        None where nothing is kept, where nothing is to be put into it, or, told, where it does not
        go on. There is one to be had from the second time on that this kernel gets modules.
        """
        bare = self._bare
        if self.key(modules) == bare or not self._freezer.has_alike(bare):
            return None
        try:
            if not self._freezer.has(bare):
                self._keep_bare(bare)
            self._doing("putting modules into a guest frozen before")
            made = furnish(self._freezer, self.plan, bare, modules, memory, self.boots)
        except RunInterruptedError:
            raise
        except LabError as error:
            process.check_stopping()
            self._freezer.drop(bare)
            said = f"the guest that was frozen without modules does not go on: {error.message}"
            self._tell(f"{said}: another was booted")
            return None
        if made is not None:
            self.console = made.console
        return made

    def _keep_bare(self, key: str) -> None:
        """Boot a guest without modules and programs, and keep it. Raises what a boot raises."""
        with open_memory() as memory:
            guest = self._boot_with({}, memory, with_programs=False)
            keep_bare(self._freezer, key, guest, self.console)

    # --- boots -----------------------------------------------------------------------------

    def booted(self, modules: Mapping[str, BuiltModule], memory: int | None = None) -> Guest:
        """A guest that has booted, with these in place; with ``memory`` it can be frozen.

        Raises what a boot raises, once too many guests have failed.
        """
        return self._boot_with(modules, memory)

    def _boot_with(
        self,
        modules: Mapping[str, BuiltModule],
        memory: int | None,
        *,
        with_programs: bool = True,
    ) -> Guest:
        while True:
            plan = self.plan if with_programs else replace(self.plan, programs=())
            guest = Guest(plan, modules, self.boots)
            self._doing("booting")
            started = time.monotonic()
            try:
                guest.boot(memory)
            except LabError as error:
                guest.close()
                self.try_again(error)
                if not guest.has_spoken:
                    self._give_up_vmlinux(error)
                continue
            self.boot_seconds = self.boot_seconds or time.monotonic() - started
            self.console = plan.run_dir.boot(plan.kernel, self.boots.count) / "console.log"
            self._hear(guest.machine.log.records())
            return guest

    def try_again(self, error: LabError) -> None:
        """Count a guest that failed; raises ``error`` if there were enough of them."""
        self._failures += 1
        if isinstance(error, RunInterruptedError) or self._failures >= MAX_FAILED_BOOTS:
            raise error
        process.check_stopping()
        self._listener(Note(self._plan.kernel, f"trying once more: {error.message}"))

    def _give_up_vmlinux(self, error: LabError) -> None:
        """Boot the bzImage from now on: nothing was heard of the unpacked kernel."""
        reason = f"its vmlinux did not start: {error.message}"
        self.boot_file = without_vmlinux(self.boot_file, self._ready.kernel, reason)

    def _doing(self, what: str) -> None:
        self._listener(Doing(self._plan.kernel, what))
