"""Making and checking a lab's lock: every kernel and image fetched once, and written down."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from orchestrator.adapters.cache import Cache
from orchestrator.adapters.images import Image, refresh_image
from orchestrator.adapters.kernels import Kernel
from orchestrator.adapters.sources import KernelSource, SourceContext, source_of
from orchestrator.foundation.errors import ConfigError, HostError, LabError, SourceError
from orchestrator.plan.kernel import ResolvedKernel
from orchestrator.plan.lock import Lock, LockedImage, LockedKernel, Pinned, asked, find_pinned
from orchestrator.plan.model import KernelEntry, Lab
from orchestrator.plan.paths import tool_dir
from orchestrator.plan.plan import KernelPlan, Plan
from orchestrator.plan.recipe import Recipe
from orchestrator.policy.events import Doing, Listener, Note
from orchestrator.policy.preparing import fetch, source_context


def make_lock(
    plan: Plan, cache: Cache, listener: Listener, old: Lock | None, *, update: bool = False
) -> Lock:
    """The lock of these kernels, with what ``old`` holds of others of the lab.

    With ``update``, their userlands are made anew first, of what there is now. Blocks until
    everything is fetched: only what was seen is locked. An optional kernel that cannot be had
    stays as ``old`` has it, or is left out, with a note. Raises ``LabError`` for the first
    other one.
    """
    if update:
        _refresh_images(plan, cache, listener)
    with ThreadPoolExecutor(plan.jobs, thread_name_prefix="lock") as pool:
        futures = [
            pool.submit(_fetch_one, plan.lab, kernel, cache, listener) for kernel in plan.kernels
        ]
        fetched = [future.result() for future in futures]
    kernels = dict(_kept(plan.lab, old))
    images = dict(old.images) if old else {}
    for planned, found in zip(plan.kernels, fetched, strict=True):
        if found is None:
            continue
        kernel, image = found
        kernels[planned.name] = LockedKernel(
            asked=asked(planned.entry),
            kernel=kernel.resolved,
            vmlinuz=kernel.vmlinuz_sha256,
            config=kernel.config_sha256,
            compiler=kernel.compiler,
        )
        images[planned.entry.image] = LockedImage(packages=image.packages)
    used = {plan.lab.file.kernels[name].image for name in kernels}
    return Lock(
        images={name: images[name] for name in sorted(used)},
        kernels={name: kernels[name] for name in plan.lab.file.kernels if name in kernels},
    )


def _kept(lab: Lab, old: Lock | None) -> list[tuple[str, LockedKernel]]:
    """What an older lock holds of kernels that the lab still has, unchanged."""
    pinned = ((name, _pinned(lab, old, name)) for name in lab.file.kernels)
    return [(name, found.kernel) for name, found in pinned if found]


def _pinned(lab: Lab, old: Lock | None, name: str) -> Pinned | None:
    """What an older lock holds of a kernel, if it is just as the lab asks."""
    try:
        return find_pinned(lab, old, name) if old else None
    except ConfigError:
        return None


def _refresh_images(plan: Plan, cache: Cache, listener: Listener) -> None:
    first = {kernel.entry.image: kernel for kernel in reversed(plan.kernels)}
    for image, kernel in first.items():
        listener(Doing(kernel.name, f"making the userland of {kernel.recipe.release} anew"))
        try:
            refresh_image(cache, kernel.recipe, tool_dir())
        except SourceError as error:
            users = (other for other in plan.kernels if other.entry.image == image)
            if not all(user.entry.optional for user in users):
                raise
            listener(Note(kernel.name, f"optional, its userland stays: {error.message}"))


def _fetch_one(
    lab: Lab, plan: KernelPlan, cache: Cache, listener: Listener
) -> tuple[Kernel, Image] | None:
    try:
        return fetch(lab, plan, cache, listener)
    except SourceError as error:
        if not plan.entry.optional:
            raise SourceError(f"{plan.name}: {error.message}", hint=error.hint) from error
        listener(Note(plan.name, f"optional, not locked now: {error.message}"))
        return None


@dataclass(frozen=True)
class Remark:
    """What the world says of one locked kernel."""

    kernel: str
    kind: Literal["same", "newer", "lost", "unknown", "absent"]
    text: str


def check_lock(plan: Plan, cache: Cache, listener: Listener) -> tuple[Remark, ...]:
    """What upstream has newer, or has no longer, of each locked kernel.

    Asks the network anew. Raises nothing for a kernel whose source is out of reach: its
    remark says so.
    """
    asked_anew: _AskedAnew = {}
    remarks: list[Remark] = []
    for kernel in plan.kernels:
        if kernel.pinned is None:
            remarks.append(Remark(kernel.name, "absent", kernel.left_out or "it is not locked"))
            continue
        context = source_context(plan.lab, kernel, cache, listener)
        remarks += _check(kernel, kernel.pinned.kernel.kernel, context, asked_anew)
    return tuple(remarks)


_AskedAnew: TypeAlias = dict[tuple[type, Recipe], LabError | None]
"""Which sources were asked for newer indexes, and what they said if they could not be."""


def _check(
    kernel: KernelPlan, locked: ResolvedKernel, context: SourceContext, asked_anew: _AskedAnew
) -> list[Remark]:
    source = source_of(kernel.entry)
    try:
        _update_once(source, kernel.entry, context, asked_anew)
        lost = source.lost(context, kernel.entry, locked)
    except (SourceError, HostError) as error:
        return [Remark(kernel.name, "unknown", error.message)]
    remarks = []
    if lost:
        text = f"{', '.join(lost[:3])}{' …' if len(lost) > 3 else ''}: not in the index any more"
        remarks.append(Remark(kernel.name, "lost", text))
    try:
        newest = source.resolve(context, kernel.entry)
    except (SourceError, HostError) as error:
        return remarks or [Remark(kernel.name, "unknown", error.message)]
    if _differs(newest, locked):
        remarks.append(Remark(kernel.name, "newer", f"{newest.release} ({newest.version})"))
    return remarks or [Remark(kernel.name, "same", locked.release)]


def _update_once(
    source: KernelSource, entry: KernelEntry, context: SourceContext, asked_anew: _AskedAnew
) -> None:
    key = (type(source), context.recipe)
    if key not in asked_anew:
        asked_anew[key] = None
        try:
            source.update(context, entry)
        except (SourceError, HostError) as error:
            asked_anew[key] = error
    if failed := asked_anew[key]:
        raise failed


def _differs(newest: ResolvedKernel, locked: ResolvedKernel) -> bool:
    return [part.sha256 for part in newest.parts] != [part.sha256 for part in locked.parts]


def pin_what_fits(plan: Plan, old: Lock) -> Plan:
    """The plan with those kernels pinned that an older lock holds just as the lab asks.

    A kernel that is new to the lock takes the userland that is locked for its neighbours.
    """
    entries = plan.lab.file.kernels
    in_use = {entries[name].image for name, _ in _kept(plan.lab, old)}
    kernels = []
    for kernel in plan.kernels:
        image = kernel.entry.image
        if pinned := _pinned(plan.lab, old, kernel.name):
            kernels.append(replace(kernel, pinned=pinned, known=pinned.kernel.kernel))
        else:
            userland = old.images[image] if image in in_use else None
            kernels.append(replace(kernel, userland=userland))
    return replace(plan, kernels=tuple(kernels))
