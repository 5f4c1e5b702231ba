"""One kernel's share of a run: get it ready, build, then play its cells in order."""

from __future__ import annotations

import contextlib
import datetime
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from orchestrator.adapters.accelerator import Verdict, ensure_verdict
from orchestrator.adapters.cache import Cache, disk_error
from orchestrator.adapters.freezer import Freezer, room_for_frozen
from orchestrator.adapters.images import Image, ensure_image, image_key
from orchestrator.adapters.initramfs import ensure_initramfs
from orchestrator.adapters.kbuild import BuiltModule, ModuleBuildError
from orchestrator.adapters.kernels import (
    Kernel,
    ensure_kernel,
    ensure_resolution,
    kernel_key,
)
from orchestrator.adapters.machine import BootFiles, open_memory
from orchestrator.adapters.programs import Program, load_program
from orchestrator.adapters.sources import SourceContext
from orchestrator.adapters.symbols import Symbols
from orchestrator.adapters.vmlinux import BootKernel, ensure_boot_kernel, without_vmlinux
from orchestrator.foundation import process
from orchestrator.foundation.errors import BuildError, LabError, RunInterruptedError, SourceError
from orchestrator.plan.allowing import Allowance, allowances
from orchestrator.plan.kconfig import missing_options
from orchestrator.plan.klog import Finding, Record, find_findings, parse_log
from orchestrator.plan.lock import Pinned, lock_path
from orchestrator.plan.model import Lab
from orchestrator.plan.outcome import CellResult, KernelIdentity, KernelResult, Outcome
from orchestrator.plan.paths import RunDir, guest_dir, tool_dir
from orchestrator.plan.plan import Cell, KernelPlan, with_known
from orchestrator.plan.qemu import GuestSpec
from orchestrator.plan.version import KernelVersion
from orchestrator.policy.building import BuildOrder, Built, Workshop
from orchestrator.policy.capacity import Slots
from orchestrator.policy.durations import Durations
from orchestrator.policy.events import CellDone, Doing, KernelDone, Listener, Note
from orchestrator.policy.forks import ForkOrder, Forks
from orchestrator.policy.frozen import bare_key, frozen_key, keep_frozen, take_frozen
from orchestrator.policy.guest import BootCounter, FrozenGuest, Guest, GuestPlan, Place
from orchestrator.policy.play import Play
from orchestrator.policy.suspicion import Entry, Suspicion, blame, blame_error, entries_like

# How many guests may fail, for one kernel of one run, before it is given up.
MAX_FAILED_BOOTS = 2
RESULTS_ELSEWHERE = "--results /some/folder puts the results elsewhere"
# The reason of a cell that a signal kept from being judged.
INTERRUPTED = "interrupted"


def utc_today() -> datetime.date:
    """The day that it is in UTC: the same for whoever plays a lab at the same moment."""
    return datetime.datetime.now(datetime.UTC).date()


@dataclass(frozen=True)
class Ready:
    """A kernel that can be booted."""

    kernel: Kernel
    image: Image
    files: BootFiles
    verdict: Verdict
    boot: BootKernel


def source_context(
    lab: Lab, plan: KernelPlan, cache: Cache, listener: Listener, log_dir: Path | None = None
) -> SourceContext:
    """What this kernel's source may use."""
    return SourceContext(
        cache,
        plan.recipe,
        lab.path.parent,
        say=lambda what: listener(Doing(plan.name, what)),
        log_dir=log_dir,
    )


def resolve(lab: Lab, plan: KernelPlan, cache: Cache, listener: Listener) -> KernelPlan:
    """The plan with its kernel known: as planned, or looked up now. Raises ``SourceError``."""
    if plan.known is not None:
        return plan
    if plan.left_out:
        hint = "`lab lock` locks it, if it is to be had now"
        raise SourceError(f"{plan.name}: {plan.left_out}", hint=hint)
    listener(Doing(plan.name, "looking the kernel up"))
    context = source_context(lab, plan, cache, listener)
    return with_known(plan, ensure_resolution(context, plan.entry))


def fetch(
    lab: Lab, plan: KernelPlan, cache: Cache, listener: Listener, log_dir: Path | None = None
) -> tuple[Kernel, Image]:
    """Kernel and userland, fetched, or built, where they are not cached.

    With a lock, they are what it says. The log of a kernel's build is left in ``log_dir``,
    or in the cache. Raises ``SourceError`` or ``HostError``.
    """
    plan = resolve(lab, plan, cache, listener)
    assert plan.known is not None, "resolve gives one"
    context = source_context(lab, plan, cache, listener, log_dir)
    listener(Doing(plan.name, f"getting the userland of {plan.recipe.release}"))
    userland = plan.pinned.image if plan.pinned else plan.userland
    packages = userland.packages if userland else None
    image = ensure_image(cache, plan.recipe, tool_dir(), packages)
    listener(Doing(plan.name, f"getting kernel {plan.known.release}"))
    kernel = ensure_kernel(context, plan.entry, plan.known)
    if plan.pinned:
        _compare(plan.pinned, kernel)
    return kernel, image


def _compare(pinned: Pinned, kernel: Kernel) -> None:
    """Raise ``SourceError`` where the kernel at hand is not the locked one."""
    pairs = (
        ("kernel file", pinned.kernel.vmlinuz, kernel.vmlinuz_sha256),
        ("configuration", pinned.kernel.config, kernel.config_sha256),
    )
    for what, locked, found in pairs:
        if locked != found:
            raise SourceError(
                f"the {what} of {kernel.release} is not the locked one: "
                f"SHA-256 {found}, locked {locked}",
                hint="`lab lock` says what is meant now",
            )


def prepare(
    lab: Lab, plan: KernelPlan, cache: Cache, listener: Listener, log_dir: Path | None = None
) -> Ready:
    """Everything that a guest of this kernel boots from, as ``fetch`` got it.

    Raises ``SourceError`` or ``HostError``.
    """
    kernel, image = fetch(lab, plan, cache, listener, log_dir)
    initramfs = ensure_initramfs(cache, kernel, image, guest_dir())
    boot = ensure_boot_kernel(cache, kernel)
    files = BootFiles(boot.path, initramfs, image.squashfs_path, kernel.layer_path)
    listener(Doing(plan.name, "looking for a usable accelerator"))
    # The answer is for every kernel. A bzImage asks more of an accelerator: its code starts in
    # real mode, and a vmlinux in protected mode, which both go through.
    verdict = ensure_verdict(cache, replace(files, kernel_path=kernel.vmlinuz_path))
    return Ready(kernel, image, files, verdict, boot)


def guest_spec(lab: Lab, verdict: Verdict) -> GuestSpec:
    """The virtual machine that the lab asks for."""
    guest = lab.file.guest
    return GuestSpec(
        *(verdict.accelerator, guest.memory_mib, guest.cpus, guest.arguments, guest.without)
    )


def load_programs(lab: Lab, version: KernelVersion) -> tuple[Program, ...]:
    """The test programs of all scenarios that are for a kernel. Raises ``ConfigError``."""
    steps = (
        step
        for scenario in lab.scenarios
        if scenario.kernels.contains(version)
        for step in scenario.programs
    )
    wanted = dict.fromkeys((step.exec, step.make) for step in steps)
    return tuple(load_program(name, lab.program_paths[name], is_made) for name, is_made in wanted)


def open_workshop(
    lab: Lab, ready: Ready, plan: GuestPlan, cache: Cache, listener: Listener
) -> Workshop:
    """What builds the lab's modules for guests of this plan."""
    order = BuildOrder(
        kernel_name=plan.kernel,
        kernel=ready.kernel,
        image=ready.image,
        module_dirs=lab.module_dirs,
        entries=lab.file.modules,
        # Beside a module's sources they would have it built anew for each word in a scenario.
        without=frozenset({lab.path, lock_path(lab), *(s.path for s in lab.scenarios)}),
        place=lab.file.build,
        accelerator=ready.verdict.accelerator,
        seconds=lab.file.timeouts.build * plan.scale,
        output_dir=plan.run_dir.modules(plan.kernel),
    )
    return Workshop(order, cache, listener)


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
        self._failures = 0
        """How many guests were of no use, for no fault of a scenario."""
        self._boot_findings: tuple[Finding, ...] = ()
        self._forks = 0
        self._fork_note = ""
        self._freezer = Freezer(cache, room_for_frozen())
        self._was_frozen = False
        self._console = Path()
        """What the guest said that is frozen, until then."""
        self._ready: Ready | None = None
        self._boot: BootKernel | None = None
        self._boot_seconds: float | None = None
        self._build_seconds: float | None = None
        self._results = list(judged)
        self._open: tuple[Play, Path] | None = None
        """The cell that was played last, whose window is still open."""
        self.verdict: Verdict | None = None

    def run(self) -> KernelResult:
        """Play every cell of this kernel."""
        error: LabError | None = None
        try:
            process.check_stopping()
            self._skip_and_play()
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
        result = KernelResult(
            name=self._plan.name,
            identity=self._identity,
            error=error.message if error else "",
            hint=error.hint if error else "",
            evidence=self._place(error.evidence) if error else "",
            last_lines=error.last_lines if error else (),
            boot_format=self._boot.format if self._boot else None,
            boot_note=self._boot.reason if self._boot else "",
            boot_seconds=self._boot_seconds,
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
        self._ready, self._boot = ready, ready.boot
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
        plan = GuestPlan(
            kernel=self._plan.name,
            release=ready.kernel.release,
            spec=guest_spec(self._lab, ready.verdict),
            files=ready.files,
            timeouts=self._lab.file.timeouts,
            run_dir=self._run_dir,
            programs=self._load_programs(todo),
        )
        workshop = open_workshop(self._lab, ready, plan, self._cache, self._listener)
        if self._plan.modules_wanted:
            with self._slots.taken():
                self._build(workshop)
            if self._built is not None:
                todo = self._without_refused(todo)
        if todo and self._lab.file.guest.forks:
            todo = self._play_in_forks(plan, workshop, todo)
        if todo:
            with self._slots.taken():
                self._play_in_turn(plan, workshop, todo)

    def _play_in_forks(self, plan: GuestPlan, workshop: Workshop, todo: list[Cell]) -> list[Cell]:
        """Play each cell in a fork of one guest; those that could not be, and a note of why.

        The guest is one that an earlier run froze, if there is such a one.
        """
        key = self._frozen_key(plan)
        if key and (left := self._play_in_forks_of_before(plan, key, todo)) is not None:
            return left
        todo = self._in_question(todo)
        with open_memory() as memory, ThreadPoolExecutor(1, "freezer") as keeper:
            with self._slots.taken():
                frozen = self._furnish(plan, memory) if key else None
                frozen = frozen or self._boot_and_freeze(plan, workshop, memory)
            if frozen is None:
                return todo
            if key:
                kept = keeper.submit(keep_frozen, self._freezer, key, frozen, self._console)
            failure, todo = self._fork(plan, frozen, self._without_refused(todo))
            if key:
                kept.result()
            if failure is not None:
                self._share_guests(failure)
        return todo

    def _play_in_forks_of_before(
        self, plan: GuestPlan, key: str, todo: list[Cell]
    ) -> list[Cell] | None:
        """Play in forks of what an earlier run froze; None where there is no such guest, or it
        does not go on.
        """
        with open_memory() as memory:
            with self._slots.taken():
                frozen = take_frozen(self._freezer, key, self._with_boot_file(plan), memory)
            if frozen is None:
                return None
            self._listener(Doing(self._plan.name, "going on with the guest that was frozen before"))
            self._note_what_was_said(key)
            failure, todo = self._fork(plan, frozen, todo)
        if failure is None:
            self._was_frozen = True
            return todo
        self._freezer.drop(key)
        said = f"the guest that was frozen before does not go on: {failure.message}"
        self._tell_of_forks(f"{said}: another was booted")
        return None

    def _in_question(self, todo: Sequence[Cell]) -> list[Cell]:
        """Those of the cells that have no result yet."""
        judged = {result.scenario for result in self._results}
        return [cell for cell in todo if cell.scenario.name not in judged]

    def _frozen_key(self, plan: GuestPlan) -> str:
        """A guest's name in the freezer; none where it has to boot before its modules are known."""
        if self._plan.modules_wanted and self._built is None:
            return ""
        modules = self._built.modules if self._built else {}
        return frozen_key(self._bare_key(plan), modules, plan.programs)

    def _bare_key(self, plan: GuestPlan) -> str:
        assert self._ready is not None, "the kernel is ready"
        return bare_key(self._with_boot_file(plan), self._ready.kernel, self._ready.image.key)

    def _note_what_was_said(self, key: str) -> None:
        """Leave the log of a guest's boot with the evidence, and tell of complaints in it."""
        console = self._freezer.console_of(key)
        if console is None:
            return
        with contextlib.suppress(OSError):
            said = console.read_bytes()
            self._run_dir.frozen(self._plan.name).write_bytes(said)
            self._note_boot_findings(parse_log(said))

    def _furnish(self, plan: GuestPlan, memory: int) -> FrozenGuest | None:
        """A guest that stands still, made of one without modules that was frozen before: to change
        a module takes no boot. None where there is no such guest, or it does not go on.

        There is one from the second time on that this kernel gets modules.
        """
        plan, bare = self._with_boot_file(plan), self._bare_key(plan)
        if self._frozen_key(plan) == bare or not self._freezer.has_alike(bare):
            return None
        modules = self._built.modules if self._built else {}
        guest = Guest(plan, {}, self._boots)
        try:
            if not self._freezer.has(bare):
                self._keep_bare(plan, bare)
            frozen = take_frozen(self._freezer, bare, plan, memory, sealed=False)
            if frozen is None:
                return None
            self._listener(Doing(self._plan.name, "putting modules into a guest frozen before"))
            folder = self._run_dir.furnished(self._plan.name)
            guest.resume(frozen, folder, alone=True)
            guest.furnish(modules)
            furnished = guest.freeze()
        except LabError as error:
            if isinstance(error, RunInterruptedError):
                raise
            process.check_stopping()
            self._freezer.drop(bare)
            said = f"the guest that was frozen without modules does not go on: {error.message}"
            self._tell_of_forks(f"{said}: another was booted")
            return None
        finally:
            guest.close()
        self._console = folder / "said.log"
        said_before = self._freezer.console_of(bare)
        self._was_frozen = not self._boots.count
        with contextlib.suppress(OSError):
            before = said_before.read_bytes() if said_before else b""
            self._console.write_bytes(before + (folder / "console.log").read_bytes())
            if self._was_frozen:
                self._note_boot_findings(parse_log(before))
        return furnished

    def _keep_bare(self, plan: GuestPlan, key: str) -> None:
        """Boot a guest without modules, and keep it. Raises what a boot raises."""
        with open_memory() as memory:
            guest = self._booted(replace(plan, programs=()), memory, {})
            try:
                frozen = guest.freeze()
            finally:
                guest.close()
            keep_frozen(self._freezer, key, frozen, self._console)

    def _boot_and_freeze(
        self, plan: GuestPlan, workshop: Workshop, memory: int
    ) -> FrozenGuest | None:
        """A guest with the modules in place that stands still; None, and a note, if that fails."""
        guest = self._booted(plan, memory)
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

    def _fork(
        self, plan: GuestPlan, frozen: FrozenGuest, todo: list[Cell]
    ) -> tuple[LabError | None, list[Cell]]:
        """Play cells in forks of a guest: why not all of them, and which are left."""
        order = ForkOrder(
            self._with_boot_file(plan),
            frozen,
            self._built.modules if self._built else {},
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

    def _booted(
        self,
        plan: GuestPlan,
        memory: int | None = None,
        modules: Mapping[str, BuiltModule] | None = None,
    ) -> Guest:
        """A guest that has booted, with what was built if no ``modules`` are named. Raises what a
        boot raises, at the second failure.
        """
        if modules is None:
            modules = self._built.modules if self._built else {}
        while True:
            plan = self._with_boot_file(plan)
            guest = Guest(plan, modules, self._boots)
            self._listener(Doing(self._plan.name, "booting"))
            started = time.monotonic()
            try:
                guest.boot(memory)
            except LabError as error:
                guest.close()
                self._try_again(error)
                if not guest.has_spoken:
                    self._give_up_vmlinux(error)
                continue
            self._boot_seconds = self._boot_seconds or time.monotonic() - started
            self._console = self._run_dir.boot(self._plan.name, self._boots.count) / "console.log"
            self._note_boot_findings(guest.machine.log.records())
            return guest

    def _with_boot_file(self, plan: GuestPlan) -> GuestPlan:
        """The plan with the kernel file that boots, as far as is known by now."""
        assert self._boot is not None, "the kernel is ready"
        return replace(plan, files=replace(plan.files, kernel_path=self._boot.path))

    def _give_up_vmlinux(self, error: LabError) -> None:
        """Boot the bzImage from now on: nothing was heard of the unpacked kernel."""
        assert self._ready is not None, "the kernel is ready"
        reason = f"its vmlinux did not start: {error.message}"
        self._boot = without_vmlinux(self._boot or self._ready.boot, self._ready.kernel, reason)

    def _try_again(self, error: LabError) -> None:
        """Count a guest that failed; raises ``error`` if there were enough of them."""
        self._failures += 1
        if isinstance(error, RunInterruptedError) or self._failures >= MAX_FAILED_BOOTS:
            raise error
        self._listener(Note(self._plan.name, f"trying once more: {error.message}"))

    def _play_in_turn(self, plan: GuestPlan, workshop: Workshop, todo: list[Cell]) -> None:
        """One guest after another, until every cell is judged."""
        while todo:
            guest = self._booted(plan)
            try:
                todo = self._play_in(guest, workshop, todo)
            except LabError as error:
                self._try_again(error)
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
