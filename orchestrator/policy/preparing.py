"""What comes before a guest: its kernel and userland, and what builds the lab's modules for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.adapters.accelerator import Verdict, ensure_verdict
from orchestrator.adapters.board import ensure_board
from orchestrator.adapters.cache import Cache
from orchestrator.adapters.images import Image, ensure_image
from orchestrator.adapters.initramfs import ensure_initramfs
from orchestrator.adapters.kernels import Kernel, ensure_kernel, ensure_resolution
from orchestrator.adapters.machine import BootFiles
from orchestrator.adapters.programs import Program, load_program
from orchestrator.adapters.sources import SourceContext
from orchestrator.adapters.vmlinux import BootKernel, ensure_boot_kernel
from orchestrator.foundation.errors import SourceError
from orchestrator.plan.lock import Pinned, lock_path
from orchestrator.plan.model import Lab
from orchestrator.plan.paths import RunDir, guest_dir, tool_dir
from orchestrator.plan.plan import KernelPlan, with_known
from orchestrator.plan.qemu import Board, GuestSpec
from orchestrator.plan.version import KernelVersion
from orchestrator.policy.building import BuildOrder, Workshop
from orchestrator.policy.events import Doing, Fetching, Listener
from orchestrator.policy.guest import GuestPlan


@dataclass(frozen=True)
class Ready:
    """A kernel that can be booted."""

    kernel: Kernel
    image: Image
    files: BootFiles
    verdict: Verdict
    boot: BootKernel
    board: Board


def source_context(
    lab: Lab, plan: KernelPlan, cache: Cache, listener: Listener, log_dir: Path | None = None
) -> SourceContext:
    """What this kernel's source may use."""
    return SourceContext(
        cache,
        plan.recipe,
        lab.path.parent,
        say=lambda what: listener(Doing(plan.name, what)),
        tell=lambda done, total: listener(Fetching(plan.name, done, total)),
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
    board = ensure_board(cache)
    verdict = ensure_verdict(cache, replace(files, kernel_path=kernel.vmlinuz_path), board)
    return Ready(kernel, image, files, verdict, boot, board)


def guest_plan(
    lab: Lab, kernel: str, ready: Ready, run_dir: RunDir, programs: tuple[Program, ...] = ()
) -> GuestPlan:
    """What guests of the kernel that the lab calls ``kernel`` are booted with: the virtual machine
    that the lab asks for, with ``programs`` in it.
    """
    guest = lab.file.guest
    spec = GuestSpec(
        *(ready.verdict.accelerator, guest.memory_mib, guest.cpus, guest.arguments, guest.without),
        board=ready.board,
    )
    return GuestPlan(
        kernel=kernel,
        release=ready.kernel.release,
        spec=spec,
        files=ready.files,
        timeouts=lab.file.timeouts,
        run_dir=run_dir,
        programs=programs,
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
