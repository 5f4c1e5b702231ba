"""``lab lock``, ``lab export`` and ``lab import``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from orchestrator.adapters.bundle import read_bundle, write_bundle
from orchestrator.adapters.cache import Cache, write_text
from orchestrator.adapters.images import find_image
from orchestrator.adapters.kernels import kernel_key
from orchestrator.doors.doctor import require_host
from orchestrator.doors.planning import forget, make_plan
from orchestrator.doors.progress import LineProgress
from orchestrator.foundation.errors import EXIT_FAILED, EXIT_PASSED, UsageError
from orchestrator.plan.lock import LOCK_FILE, load_lock, lock_path, render_lock
from orchestrator.plan.model import Lab
from orchestrator.plan.paths import guest_dir
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
        lock = make_lock(plan, cache, LineProgress(plan, sys.stderr), old)
    path = lock_path(lab)
    write_text(path, render_lock(lock))
    for name, locked in lock.kernels.items():
        before = old.kernels.get(name) if old else None
        note = "" if before is None or before == locked else f", was {before.kernel.release}"
        print(f"{name:<12} {locked.kernel.release}{note}")
    print(f"wrote {shown_path(path)}: {len(lock.kernels)} kernels, {len(lock.images)} images")
    return EXIT_PASSED


def check(plan: Plan, cache: Cache) -> int:
    """Say what upstream has newer or has lost; 1 if something locked is lost or unknown."""
    if any(kernel.pinned is None for kernel in plan.kernels):
        raise UsageError(f"there is no {LOCK_FILE} to check", hint="`lab lock` writes it")
    remarks = check_lock(plan, cache, LineProgress(plan, sys.stderr))
    for remark in remarks:
        print(f"{remark.kernel:<12} {remark.kind:<8} {remark.text}")
    return EXIT_FAILED if any(r.kind in ("lost", "unknown") for r in remarks) else EXIT_PASSED


def export(plan: Plan, cache: Cache, target: Path) -> int:
    """Write the locked kernels and their images to a file."""
    entries = []
    for kernel in plan.kernels:
        if kernel.pinned is None:
            raise UsageError(
                f"there is no {LOCK_FILE}: what to export is not said", hint="`lab lock` writes it"
            )
        packages = kernel.pinned.image.packages
        image = find_image(cache, kernel.recipe, guest_dir() / "sysio.c", packages)
        if image is None:
            raise UsageError(
                f"the locked userland of {kernel.recipe.release} is not in the cache",
                hint="`lab lock` fetches what is locked, if it is still to be had",
            )
        entries += [("kernels", kernel_key(kernel.pinned.kernel.kernel)), ("images", image.key)]
    write_bundle(cache, tuple(dict.fromkeys(entries)), target)
    size = target.stat().st_size >> 20
    print(f"wrote {shown_path(target)}: {len(plan.kernels)} kernels, {size} MiB")
    return EXIT_PASSED


def bring(cache: Cache, source: Path) -> int:
    """Take what ``export`` wrote into the cache."""
    entries = read_bundle(cache, source)
    for kind, key in entries:
        print(f"{kind}/{key}")
    print(f"imported {len(entries)} entries into {cache.root}")
    return EXIT_PASSED
