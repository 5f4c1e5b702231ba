"""``lab lock``, ``lab export`` and ``lab import``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from orchestrator.adapters.bundle import read_bundle, write_bundle
from orchestrator.adapters.cache import Cache, write_text
from orchestrator.adapters.images import find_image, image_key
from orchestrator.adapters.kernels import kernel_key
from orchestrator.doors.doctor import require_host
from orchestrator.doors.planning import forget, make_plan
from orchestrator.doors.progress import LineProgress
from orchestrator.foundation.errors import EXIT_FAILED, EXIT_PASSED, UsageError
from orchestrator.plan.lock import LOCK_FILE, load_lock, lock_path, render_lock
from orchestrator.plan.model import Lab
from orchestrator.plan.paths import tool_dir
from orchestrator.plan.plan import Plan
from orchestrator.plan.yamlsource import shown_path
from orchestrator.policy.locking import check_lock, make_lock, pin_what_fits
from orchestrator.policy.runner import orderly_stop, stopping_when


def write(lab: Lab, cache: Cache, kernels: Sequence[str], *, update: bool, jobs: int | None) -> int:
    """Fetch these kernels and write the lock; what it already holds of them is kept.

    With ``update``, the newest there is now is locked instead. Blocks until all is fetched.
    """
    require_host()
    old = load_lock(lab)
    if update:
        forget(lab, cache, kernels)
    plan = make_plan(lab, cache, kernels=kernels, jobs=jobs, locked=False)
    if old and not update:
        plan = pin_what_fits(plan, old)
    with orderly_stop() as stop, stopping_when(stop):
        lock = make_lock(plan, cache, LineProgress(plan, sys.stderr), old, update=update)
    path = lock_path(lab)
    write_text(path, render_lock(lock))
    for name, locked in lock.kernels.items():
        before = old.kernels.get(name) if old else None
        note = "" if before is None or before == locked else f", was {before.kernel.release}"
        print(f"{name:<12} {locked.kernel.release}{note}")
    counted = (_counted(len(lock.kernels), "kernel"), _counted(len(lock.images), "image"))
    print(f"wrote {shown_path(path)}: {', '.join(counted)}")
    return EXIT_PASSED


def check(plan: Plan, cache: Cache) -> int:
    """Say what upstream has newer or has lost; 1 if something locked is lost or unknown."""
    _require_lock(plan, "there is nothing to check")
    remarks = check_lock(plan, cache, LineProgress(plan, sys.stderr))
    for remark in remarks:
        print(f"{remark.kernel:<12} {remark.kind:<8} {remark.text}")
    return EXIT_FAILED if any(r.kind in ("lost", "unknown") for r in remarks) else EXIT_PASSED


def _require_lock(plan: Plan, else_: str) -> None:
    if any(kernel.pinned is None and not kernel.left_out for kernel in plan.kernels):
        raise UsageError(f"there is no {LOCK_FILE}: {else_}", hint="`lab lock` writes it")


def export(plan: Plan, cache: Cache, target: Path) -> int:
    """Write the locked kernels and their images to a file."""
    entries: dict[tuple[str, str], Path] = {}
    count = 0
    _require_lock(plan, "what to export is not said")
    for kernel in plan.kernels:
        if kernel.pinned is None:
            continue
        packages = kernel.pinned.image.packages
        image = find_image(cache, kernel.recipe, tool_dir(), packages)
        key = kernel_key(kernel.pinned.kernel.kernel)
        folder = cache.find("kernels", key)
        if image is None or folder is None:
            what = f"userland of {kernel.recipe.release}" if folder else f"kernel {kernel.name}"
            raise UsageError(
                f"the locked {what} is not in the cache",
                hint="`lab lock` fetches what is locked, if it is still to be had",
            )
        # Under the name that it has for this lock: where it is taken to, another userland of
        # the same recipe may have the plain one.
        image_name = image_key(kernel.recipe, tool_dir(), packages)
        entries |= {("kernels", key): folder, ("images", image_name): image.squashfs_path.parent}
        count += 1
    write_bundle(entries, target)
    size = target.stat().st_size >> 20
    print(f"wrote {shown_path(target)}: {_counted(count, 'kernel')}, {size} MiB")
    return EXIT_PASSED


def bring(cache: Cache, source: Path) -> int:
    """Take what ``export`` wrote into the cache."""
    entries = read_bundle(cache, source)
    for kind, key in entries:
        print(f"{kind}/{key}")
    print(f"imported {len(entries)} entries into {cache.root}")
    return EXIT_PASSED


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
