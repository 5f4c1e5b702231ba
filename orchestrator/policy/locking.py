"""Making and checking a lab's lock: every kernel and image fetched once, and written down."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

from orchestrator.adapters.cache import Cache
from orchestrator.adapters.images import Image
from orchestrator.adapters.kernels import Kernel
from orchestrator.adapters.sources import source_of
from orchestrator.foundation.errors import ConfigError, LabError, SourceError
from orchestrator.plan.kernel import ResolvedKernel
from orchestrator.plan.lock import Lock, LockedImage, LockedKernel, asked, find_pinned
from orchestrator.plan.model import Lab
from orchestrator.plan.plan import KernelPlan, Plan
from orchestrator.policy.events import Listener, Note
from orchestrator.policy.worker import fetch, source_context


def make_lock(plan: Plan, cache: Cache, listener: Listener, old: Lock | None) -> Lock:
    """The lock of these kernels, with what ``old`` holds of others of the lab.

    Blocks until everything is fetched: only what was seen is locked. An optional kernel that
    cannot be had is left out, with a note. Raises ``LabError`` for the first other one.
    """
    with ThreadPoolExecutor(plan.jobs, thread_name_prefix="lock") as pool:
        futures = [
            pool.submit(_fetch_one, plan.lab, kernel, cache, listener) for kernel in plan.kernels
        ]
        fetched = [future.result() for future in futures]
    kernels = dict(_kept(plan.lab, old))
    images = dict(old.images) if old else {}
    for planned, found in zip(plan.kernels, fetched, strict=True):
        kernels.pop(planned.name, None)
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
    entries = lab.file.kernels
    return [
        (name, kernel)
        for name, kernel in (old.kernels.items() if old else ())
        if name in entries and dict(kernel.asked) == asked(entries[name])
    ]


def _fetch_one(
    lab: Lab, plan: KernelPlan, cache: Cache, listener: Listener
) -> tuple[Kernel, Image] | None:
    try:
        return fetch(lab, plan, cache, listener)
    except SourceError as error:
        if not plan.entry.optional:
            raise SourceError(f"{plan.name}: {error.message}", hint=error.hint) from error
        listener(Note(plan.name, f"optional, left out: {error.message}"))
        return None


@dataclass(frozen=True)
class Remark:
    """What the world says of one locked kernel."""

    kernel: str
    kind: Literal["same", "newer", "lost", "unknown"]
    text: str


def check_lock(plan: Plan, cache: Cache, listener: Listener) -> tuple[Remark, ...]:
    """What upstream has newer, or has no longer, of each locked kernel.

    Asks the network anew. Raises nothing for a kernel whose source is out of reach: its
    remark says so.
    """
    remarks = [
        remark for kernel in plan.kernels for remark in _check(plan, kernel, cache, listener)
    ]
    return tuple(remarks)


def _check(plan: Plan, kernel: KernelPlan, cache: Cache, listener: Listener) -> Sequence[Remark]:
    assert kernel.pinned is not None, "only what is locked can be checked"
    locked = kernel.pinned.kernel.kernel
    context = source_context(plan.lab, kernel, cache, listener)
    source = source_of(kernel.entry)
    try:
        source.update(context, kernel.entry)
        newest = source.resolve(context, kernel.entry)
        lost = source.lost(context, kernel.entry, locked)
    except LabError as error:
        return [Remark(kernel.name, "unknown", error.message)]
    remarks = []
    if lost:
        text = f"{', '.join(lost[:3])}{' …' if len(lost) > 3 else ''}: no longer to be had"
        remarks.append(Remark(kernel.name, "lost", text))
    if _differs(newest, locked):
        remarks.append(Remark(kernel.name, "newer", f"{newest.release} ({newest.version})"))
    return remarks or [Remark(kernel.name, "same", locked.release)]


def _differs(newest: ResolvedKernel, locked: ResolvedKernel) -> bool:
    return [part.sha256 for part in newest.parts] != [part.sha256 for part in locked.parts]


def pin_what_fits(plan: Plan, old: Lock) -> Plan:
    """The plan with those kernels pinned that an older lock holds just as the lab asks."""
    kernels = []
    for kernel in plan.kernels:
        try:
            pinned = find_pinned(plan.lab, old, kernel.name)
        except ConfigError:
            kernels.append(kernel)
        else:
            kernels.append(replace(kernel, pinned=pinned, known=pinned.kernel.kernel))
    return replace(plan, kernels=tuple(kernels))
