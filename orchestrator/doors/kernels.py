"""``lab kernels``: what is asked for, what that is, what of it is here."""

from __future__ import annotations

from orchestrator.adapters.cache import Cache
from orchestrator.adapters.kernels import kernel_key
from orchestrator.adapters.sources import source_of
from orchestrator.doors.planning import make_contexts
from orchestrator.foundation.errors import LabError
from orchestrator.plan.plan import KernelPlan, Plan
from orchestrator.plan.version import KernelVersion
from orchestrator.plan.visible import clip, visible

_WIDTHS = (12, 9, 27, 10, 9)


def show(plan: Plan, cache: Cache, *, offered: bool) -> None:
    """Print a row for each kernel, at most 80 columns wide; then what the sources offer."""
    print(_row("kernel", "image", "uname -r", "version", "cached", "locked"))
    for kernel in plan.kernels:
        print(_kernel(kernel, cache))
    if offered:
        _show_offers(plan, cache)


def _kernel(kernel: KernelPlan, cache: Cache) -> str:
    known = kernel.known
    return _row(
        kernel.name,
        kernel.entry.image,
        known.release if known else f"({kernel.entry.words(kernel.recipe.release)})",
        known.version if known else "-",
        _cached_mib(kernel, cache),
        "yes" if kernel.pinned else "no",
    )


def _row(*words: str) -> str:
    *cells, last = words
    padded = (f"{clip(visible(c), n):{n}}" for c, n in zip(cells, _WIDTHS, strict=True))
    return " ".join((*padded, last))


def _cached_mib(kernel: KernelPlan, cache: Cache) -> str:
    folder = cache.find("kernels", kernel_key(kernel.known)) if kernel.known else None
    if folder is None:
        return "no"
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return f"{size >> 20} MiB"


def _show_offers(plan: Plan, cache: Cache) -> None:
    contexts = make_contexts(plan.lab, cache)
    told = set()
    for kernel in plan.kernels:
        source = source_of(kernel.entry)
        try:
            offers = source.offers(contexts[kernel.name], kernel.entry)
        except LabError as error:
            print(f"\n{kernel.name}: {error.render()}")
            continue
        releases = tuple(offer.release for offer in offers)
        if not releases or (kernel.entry.image, releases) in told:
            continue
        told.add((kernel.entry.image, releases))
        print(f"\n{kernel.entry.image} offers:")
        for offer in sorted(offers, key=lambda offer: KernelVersion.parse(offer.version)):
            print(f"  {offer.version:<12} {offer.release}")
