"""One kernel's share of a run: get it ready, build, then play its cells in order."""

from __future__ import annotations

import contextlib
import datetime
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from orchestrator.adapters.accelerator import Verdict
from orchestrator.adapters.cache import Cache, disk_error
from orchestrator.adapters.images import image_key
from orchestrator.adapters.kbuild import BuiltModule, ModuleBuildError
from orchestrator.adapters.kernels import (
    Kernel,
    kernel_key,
)
from orchestrator.adapters.machine import open_memory
from orchestrator.adapters.programs import Program
from orchestrator.adapters.symbols import Symbols
from orchestrator.adapters.vmlinux import BootKernel
from orchestrator.foundation import process
from orchestrator.foundation.errors import BuildError, LabError, RunInterruptedError, SourceError
from orchestrator.plan.allowing import Allowance, allowances
from orchestrator.plan.kconfig import missing_options
from orchestrator.plan.klog import Finding, Record, find_findings, parse_log
from orchestrator.plan.model import Lab
from orchestrator.plan.outcome import CellResult, KernelIdentity, KernelResult, Outcome
from orchestrator.plan.paths import RunDir, tool_dir
from orchestrator.plan.plan import Cell, KernelPlan
from orchestrator.plan.version import KernelVersion
from orchestrator.policy.building import Built, Workshop
from orchestrator.policy.capacity import Slots
from orchestrator.policy.durations import Durations
from orchestrator.policy.events import CellDone, Doing, KernelDone, Listener, Note
from orchestrator.policy.forks import ForkOrder, Forks
from orchestrator.policy.guest import BootCounter, FrozenGuest, Guest, Place
from orchestrator.policy.play import Play
from orchestrator.policy.preparing import (
    Ready,
    guest_plan,
    load_programs,
    open_workshop,
    prepare,
    resolve,
)
from orchestrator.policy.supply import Supply
from orchestrator.policy.suspicion import Entry, Suspicion, blame, blame_error, entries_like

RESULTS_ELSEWHERE = "--results /some/folder puts the results elsewhere"
# The reason of a cell that a signal kept from being judged.
INTERRUPTED = "interrupted"
# A cell that is forgotten would look as if it had not been asked for, and the run green.
NOT_JUDGED = "it was not judged, and nobody said why: a defect of the lab"


def utc_today() -> datetime.date:
    """The day that it is in UTC: the same for whoever plays a lab at the same moment."""
    return datetime.datetime.now(datetime.UTC).date()


class Worker:
    """Plays one kernel's cells; ``run`` returns a result whatever happens, or is interrupted."""

    def __init__(
        self,
        lab: Lab,
        plan: KernelPlan,
        cache: Cache,
        run_dir: RunDir,
        listener: Listener,
        slots: Slots,
        *,
        durations: Durations | None = None,
        keep: threading.Event | None = None,
        today: datetime.date | None = None,
        judged: Sequence[CellResult] = (),
        new_play: Callable[..., Play] = Play,
    ) -> None:
        """``keep`` holds the last guest after the last scenario, until it is set; ``today``, now
        in UTC if absent, says which entries of ``allow`` have expired; ``durations`` lets the
        longest cells begin first; ``judged`` were played before, and are not again. ``new_play``
        makes what plays a cell, from what ``Play`` is made of.
        """
        self._play_of = new_play
        self._keep = keep
        self._slots = slots
        self._durations = durations
        self._lock = threading.Lock()
        self._allow = allowances(lab.file.allow, today or utc_today())
        self._lab = lab
        self._plan = plan
        self._cache = cache
        self._run_dir = run_dir
        self._listener = listener
        self._identity: KernelIdentity | None = None
        self._built: Built | None = None
        self._symbols = Symbols()
        self._suspicion = Suspicion(cache)
        self._build_note = ""
        self._boots = BootCounter()
        self._boot_findings: tuple[Finding, ...] = ()
        self._forks = 0
        self._fork_note = ""
        self._was_frozen = False
        self._ready: Ready | None = None
        self._supply_of: Supply | None = None
        """Once it is known that a guest is needed."""
        self._build_seconds: float | None = None
        self._results = list(judged)
        self._open: tuple[Play, Path] | None = None
        """The cell that was played last, whose window is still open."""
        self.verdict: Verdict | None = None
        self.failure: LabError | None = None
        """Why nothing could be played, or nothing more, where that is so."""

    def run(self) -> KernelResult:
        """Play every cell of this kernel."""
        error: LabError | None = None
        try:
            process.check_stopping()
            self._skip_and_play()
            # A guest that was still watched when all was ended has no verdict.
            process.check_stopping()
        except RunInterruptedError:
            self._give_up(Outcome.SKIPPED, INTERRUPTED)
        except SourceError as failure:
            if not self._plan.entry.optional or process.stopping():
                error = failure
            else:
                self._give_up(Outcome.SKIPPED, f"the kernel cannot be had: {failure.message}")
        except LabError as failure:
            error = failure
        except OSError as failure:
            error = disk_error(failure, self._run_dir.root, RESULTS_ELSEWHERE)
        if error and process.stopping():
            error = None  # what breaks while everything is ended is no news
            self._give_up(Outcome.SKIPPED, INTERRUPTED)
        if error and (damage := self._suspicion.look(self._made_of())):
            error = blame_error(error, damage)
        if error:
            self._give_up(Outcome.ERROR, error.message)
        self._give_up(Outcome.ERROR, NOT_JUDGED)
        self.failure = error
        boot = self._boot_file
        result = KernelResult(
            name=self._plan.name,
            identity=self._identity,
            error=error.message if error else "",
            hint=error.hint if error else "",
            evidence=self._place(error.evidence) if error else "",
            last_lines=error.last_lines if error else (),
            boot_format=boot.format if boot else None,
            boot_note=boot.reason if boot else "",
            boot_seconds=self._supply_of.boot_seconds if self._supply_of else None,
            build_seconds=self._build_seconds,
            builds=tuple(self._built.folders) if self._built else (),
            build_note=self._build_note,
            boots=self._boots.count,
            was_frozen=self._was_frozen,
            boot_findings=self._boot_findings,
            forks=self._forks,
            fork_note=self._fork_note,
            cells=self._in_order(),
        )
        self._listener(KernelDone(result))
        return result

    @property
    def _boot_file(self) -> BootKernel | None:
        """The kernel file that guests boot, as far as is known."""
        if self._supply_of is not None:
            return self._supply_of.boot_file
        return None if self._ready is None else self._ready.boot

    @property
    def _supply(self) -> Supply:
        assert self._supply_of is not None, "cells are to be played"
        return self._supply_of

    @property
    def plan(self) -> KernelPlan:
        """What it plays; the kernel is known in it once that is resolved."""
        return self._plan

    @property
    def version(self) -> KernelVersion:
        """The version of its kernel, once that is resolved."""
        assert self._identity is not None, "it is known before anything is played"
        return KernelVersion.parse(self._identity.version)

    def _skip_and_play(self) -> None:
        if not self._plan.left_out:
            self._plan = resolve(self._lab, self._plan, self._cache, self._listener)
        if (
            self._results and self._plan.known
        ):  # they are of this kernel, whether more of it is played or not
            self._identity = self._identify()
        for cell in self._plan.cells:
            if cell.skip:
                self._done(self._plain(cell, Outcome.SKIPPED, cell.skip))
        todo = self._in_question([cell for cell in self._plan.cells if not cell.skip])
        if not todo:
            return
        self._identity = self._identify()
        log_dir = self._run_dir.kernel(self._plan.name)
        with self._slots.taken():
            ready = prepare(self._lab, self._plan, self._cache, self._listener, log_dir)
        self.verdict = ready.verdict
        self._ready = ready
        self._identity = replace(self._identity, kernel_sha256=ready.kernel.vmlinuz_sha256)
        todo = self._skip_what_lacks_an_option(ready.kernel, todo)
        if not todo:
            return
        self._play(ready, todo)

    def _skip_what_lacks_an_option(self, kernel: Kernel, todo: list[Cell]) -> list[Cell]:
        """The cells whose needs the kernel's configuration meets; the others are done."""
        config = kernel.config_path.read_text(errors="replace")
        left = []
        for cell in todo:
            if missing := missing_options(config, cell.scenario.scenario.needs):
                names = ", ".join(f"CONFIG_{name}" for name in missing)
                reason = f"it needs {names}, which this kernel is built without"
                self._done(self._plain(cell, Outcome.SKIPPED, reason))
            else:
                left.append(cell)
        return left

    def _identify(self) -> KernelIdentity:
        """Which kernel this is, as soon as it is resolved."""
        resolved = self._plan.known
        assert resolved is not None, "it is resolved first"
        return KernelIdentity(
            name=self._plan.name,
            release=resolved.release,
            version=resolved.version,
            source=resolved.origin,
            packages=tuple(part.label for part in resolved.parts),
        )

    # --- guests ----------------------------------------------------------------------------

    def _load_programs(self, todo: Sequence[Cell]) -> tuple[Program, ...]:
        """What the scenarios for this kernel bring, if one of those to be played brings anything:
        so a frozen guest does for any choice of them. Raises ``ConfigError``.
        """
        assert self._identity is not None, "it is known before anything is played"
        if not any(cell.scenario.programs for cell in todo):
            return ()
        return load_programs(self._lab, KernelVersion.parse(self._identity.version))

    def _play(self, ready: Ready, todo: list[Cell]) -> None:
        """Play every cell: in forks of one guest, or, where that cannot be, in turn."""
        programs = self._load_programs(todo)
        plan = guest_plan(self._lab, self._plan.name, ready, self._run_dir, programs)
        self._supply_of = Supply(
            *(plan, ready, self._cache, self._listener, self._boots),
            tell=self._tell_of_forks,
            hear=self._note_boot_findings,
        )
        workshop = open_workshop(self._lab, ready, plan, self._cache, self._listener)
        if self._plan.modules_wanted:
            with self._slots.taken():
                self._build(workshop)
            if self._built is not None:
                todo = self._without_refused(todo)
        if todo and self._lab.file.guest.forks:
            todo = self._play_in_forks(workshop, todo)
        if todo:
            with self._slots.taken():
                self._play_in_turn(workshop, todo)

    def _play_in_forks(self, workshop: Workshop, todo: list[Cell]) -> list[Cell]:
        """Play each cell in a fork of one guest; those that could not be, and a note of why.

        The guest is one that an earlier run froze, if there is such a one.
        """
        # Where a guest has to boot before its modules are known, none can be known by them.
        is_known = self._built is not None or not self._plan.modules_wanted
        if is_known and (left := self._play_in_forks_of_before(todo)) is not None:
            return left
        todo = self._in_question(todo)
        with open_memory() as memory, ThreadPoolExecutor(1, "freezer") as keeper:
            with self._slots.taken():
                frozen = self._furnish(memory) if is_known else None
                frozen = frozen or self._boot_and_freeze(workshop, memory)
            if frozen is None:
                return todo
            if is_known:
                kept = keeper.submit(self._supply.keep, self._modules, frozen)
            failure, todo = self._fork(frozen, self._without_refused(todo))
            if is_known:
                kept.result()
            if failure is not None:
                self._share_guests(failure)
        return todo

    def _play_in_forks_of_before(self, todo: list[Cell]) -> list[Cell] | None:
        """Play in forks of what an earlier run froze; None where there is no such guest, or it
        does not go on.
        """
        with open_memory() as memory:
            with self._slots.taken():
                frozen = self._supply.take(self._modules, memory)
            if frozen is None:
                return None
            self._listener(Doing(self._plan.name, "going on with the guest that was frozen before"))
            self._note_what_was_said()
            failure, todo = self._fork(frozen, todo)
        if failure is None:
            self._was_frozen = True
            return todo
        self._supply.drop(self._modules)
        said = f"the guest that was frozen before does not go on: {failure.message}"
        self._tell_of_forks(f"{said}: another was booted")
        return None

    @property
    def _modules(self) -> Mapping[str, BuiltModule]:
        """Those that were built, by their names."""
        return self._built.modules if self._built else {}

    def _in_question(self, todo: Sequence[Cell]) -> list[Cell]:
        """Those of the cells that have no result yet."""
        judged = {result.scenario for result in self._results}
        return [cell for cell in todo if cell.scenario.name not in judged]

    def _note_what_was_said(self) -> None:
        """Leave what the frozen guest said with the evidence, and tell of complaints in it."""
        console = self._supply.said_before(self._modules)
        if console is None:
            return
        with contextlib.suppress(OSError):
            said = console.read_bytes()
            self._run_dir.frozen(self._plan.name).write_bytes(said)
            self._note_boot_findings(parse_log(said))

    def _furnish(self, memory: int) -> FrozenGuest | None:
        """A guest that stands still, made of one without modules, where there is such a one."""
        made = self._supply.furnished(self._modules, memory)
        if made is None:
            return None
        self._was_frozen = not self._boots.count
        if self._was_frozen:
            self._note_boot_findings(parse_log(made.said_before))
        return made.frozen

    def _boot_and_freeze(self, workshop: Workshop, memory: int) -> FrozenGuest | None:
        """A guest with the modules in place that stands still; None, and a note, if that fails."""
        guest = self._supply.booted(self._modules, memory)
        try:
            if self._plan.modules_wanted and self._built is None:
                self._build(workshop, guest)
            return guest.freeze()
        except LabError as error:
            if isinstance(error, RunInterruptedError):
                raise
            process.check_stopping()
            self._share_guests(error)
            return None
        finally:
            guest.close()

    def _fork(self, frozen: FrozenGuest, todo: list[Cell]) -> tuple[LabError | None, list[Cell]]:
        """Play cells in forks of a guest: why not all of them, and which are left."""
        order = ForkOrder(
            self._supply.plan,
            frozen,
            self._modules,
            self._boots,
            self._new_play,
            self._lab.file.settle,
        )
        hold = None if self._keep is None else partial(self._hold, keep=self._keep)
        forks = Forks(order, self._slots, self._listener, self._done, hold)
        try:
            left = forks.play(self._order_of_play(todo)) if todo else []
        finally:
            self._forks += forks.count
            self._tell_of_forks(forks.note or frozen.note)
        return forks.failure, [cell for cell in todo if cell in left]

    def _order_of_play(self, todo: list[Cell]) -> list[Cell]:
        """Longest first; but the guest that is kept is the one of the lab's last scenario."""
        if self._durations is None or self._keep is not None:
            return todo
        return self._durations.longest_first(self._plan.name, todo)

    def _share_guests(self, error: LabError) -> None:
        self._tell_of_forks(f"scenarios share guests: {error.message}")

    def _tell_of_forks(self, note: str) -> None:
        if note:
            self._fork_note = note
            self._listener(Note(self._plan.name, note))

    def _play_in_turn(self, workshop: Workshop, todo: list[Cell]) -> None:
        """One guest after another, until every cell is judged."""
        while todo:
            guest = self._supply.booted(self._modules)
            try:
                todo = self._play_in(guest, workshop, todo)
            except LabError as error:
                self._supply.try_again(error)
            finally:
                guest.close()

    def _note_boot_findings(self, records: Sequence[Record]) -> None:
        found = find_findings(records)
        self._boot_findings = self._boot_findings or found
        for finding in found:
            text = f"before any module was loaded: {finding.kind}: {finding.headline}"
            self._listener(Note(self._plan.name, text))

    def _play_in(self, guest: Guest, workshop: Workshop, todo: list[Cell]) -> list[Cell]:
        """Play cells until the guest is of no more use; what is left to play."""
        if self._plan.modules_wanted and self._built is None:
            self._build(workshop, guest)
        left = list(todo)
        while left and not process.stopping() and self._play_next(guest, left):
            pass
        if self._keep is not None and not left and guest.machine.alive:
            self._close_window(guest.place())
            self._hold(guest, self._keep)
        guest.close()
        self._close_window(None)  # the last cell's window ends with the guest
        if left:
            process.check_stopping()
        return left

    def _play_next(self, guest: Guest, left: list[Cell]) -> bool:
        """Take a cell off ``left`` and play it; whether this guest is fit for another."""
        cell = left[0]
        if self._is_refused(cell):
            left.pop(0)
            return True
        fresh = cell.scenario.scenario.fresh
        if fresh and self._open is not None:
            return False
        left.pop(0)
        self._listener(Doing(self._plan.name, cell.scenario.name))
        folder = self._run_dir.cell(self._plan.name, cell.scenario.name)
        play = self._new_play(guest, cell)
        begin = play.open()
        self._close_window(begin)
        self._open = (play, folder)
        play.run()
        return not (fresh or play.guest_is_broken)

    def _allowed_in(self, cell: Cell) -> tuple[Allowance, ...]:
        """The entries of ``allow`` that this cell is in the scope of."""
        name, version = cell.scenario.name, self.version
        return tuple(each for each in self._allow if each.is_for(name, version))

    def _new_play(self, guest: Guest, cell: Cell) -> Play:
        number = self._plan.cells.index(cell) + 1
        return self._play_of(
            guest,
            cell.scenario,
            f"c{number}",
            self._run_dir.cell(self._plan.name, cell.scenario.name),
            self._symbols,
            self._lab.file.leaves,
            self._allowed_in(cell),
        )

    def _close_window(self, until: Place | None) -> None:
        """Judge the cell that was played last, from the log up to ``until``."""
        if self._open is None:
            return
        (play, folder), self._open = self._open, None
        play.write_evidence(until)
        self._done(play.judge(self._plan.name, until, folder.relative_to(self._run_dir.root)))

    def _hold(self, guest: Guest, keep: threading.Event) -> None:
        """Leave the guest to the user for as long as they want it."""
        self._listener(Doing(self._plan.name, "kept"))
        self._listener(Note(self._plan.name, f"kept until Ctrl-C: {guest.ssh_command()}"))
        while not keep.wait(0.5) and guest.machine.alive and not process.stopping():
            pass

    def _without_refused(self, todo: list[Cell]) -> list[Cell]:
        """The cells for which there is every module; the others are done."""
        return [cell for cell in todo if not self._is_refused(cell)]

    def _is_refused(self, cell: Cell) -> bool:
        """Whether a cell cannot be played for want of a module; then it is done."""
        refused = self._refuse(cell)
        if refused is not None:
            self._done(refused)
        return refused is not None

    def _refuse(self, cell: Cell) -> CellResult | None:
        """The result of a cell that cannot be played for want of a module."""
        built = self._built or Built()
        missing = [
            name for name in cell.scenario.modules if name.replace("-", "_") not in built.modules
        ]
        if not missing:
            return None
        if built.errors:
            # Which folder would have given the module is known by its name alone.
            first = next(iter(built.errors.values()))
            return self._not_built(cell, built.errors.get(missing[0], first))
        names = ", ".join(sorted(built.modules)) or "none"
        reason = f"no folder of the lab builds the module {missing[0]!r}; built: {names}"
        return self._plain(cell, Outcome.ERROR, reason)

    def _not_built(self, cell: Cell, error: BuildError) -> CellResult:
        result = self._plain(cell, Outcome.FAILED, error.message)
        failure = error.failure if isinstance(error, ModuleBuildError) else None
        return replace(result, build=failure)

    # --- modules ---------------------------------------------------------------------------

    def _build(self, workshop: Workshop, guest: Guest | None = None) -> None:
        """Build every folder of the lab, here if that can be, in ``guest`` else; a failure is
        the verdict of the cells that need it.
        """
        started = time.monotonic()
        built = workshop.build_in(guest) if guest else workshop.build_without_guest()
        self._build_note = workshop.note
        if built is None:
            return
        for failure in built.errors.values():
            self._listener(Note(self._plan.name, failure.message))
        self._build_seconds = time.monotonic() - started
        self._built = built
        if guest:
            guest.push_modules(built.modules)

    # --- results ---------------------------------------------------------------------------

    def _place(self, path: Path | None) -> str:
        """A file of evidence as the reports name it: from the run's folder where it lies there."""
        root = self._run_dir.root
        if path is None:
            return ""
        return str(path.relative_to(root) if path.is_relative_to(root) else path)

    def _plain(self, cell: Cell, outcome: Outcome, reason: str) -> CellResult:
        return CellResult(self._plan.name, cell.scenario.name, outcome, reason)

    def _made_of(self, *, modules: bool = False) -> tuple[Entry, ...]:
        """The entries of the cache that guests are made of, and ``modules``, as far as is known."""
        if self._ready is None:
            known, recipe = self._plan.known, self._plan.recipe
            userland = ("images", image_key(recipe, tool_dir()))
            return (userland, ("kernels", kernel_key(known))) if known else (userland,)
        kernel, image, files = self._ready.kernel, self._ready.image, self._ready.files
        found = [("images", image.key), ("kernels", kernel.key)]
        found.append(("initramfs", files.initramfs_path.parent.name))
        if files.kernel_path != kernel.vmlinuz_path:
            found.append(("vmlinux", files.kernel_path.parent.name))
        if modules:
            found += entries_like(self._cache, "roots", image.key)
            found += entries_like(self._cache, "trees", kernel.key)
        return tuple(found)

    def _done(self, result: CellResult) -> None:
        """Take a cell's result. What goes wrong on a damaged cache is an error."""
        if result.outcome in (Outcome.FAILED, Outcome.ERROR) and not process.stopping():
            entries = self._made_of(modules=result.build is not None)
            if damage := self._suspicion.look(entries):
                result = blame(result, damage)
        with self._lock:
            self._results.append(result)
        self._listener(CellDone(result))

    def _give_up(self, outcome: Outcome, reason: str) -> None:
        """Give every cell that has no result yet this one."""
        for cell in self._in_question(self._plan.cells):
            self._done(self._plain(cell, outcome, reason))

    def _in_order(self) -> tuple[CellResult, ...]:
        """The results, in the order of the plan."""
        order = {cell.scenario.name: number for number, cell in enumerate(self._plan.cells)}
        return tuple(sorted(self._results, key=lambda result: order[result.scenario]))
