"""``lab cache``: what is kept between runs, whether it is whole, and what of it goes."""

from __future__ import annotations

import os
import sys
import time
from collections import defaultdict
from pathlib import Path

from orchestrator.adapters.cache import Cache
from orchestrator.adapters.upkeep import State, check, clean, list_entries, list_files, prune
from orchestrator.foundation import process
from orchestrator.foundation.errors import EXIT_BROKEN, EXIT_PASSED, LabError, UsageError
from orchestrator.plan.pruning import DAY, GIB, CacheEntry, PruneOrder, Pruning
from orchestrator.plan.visible import visible

BOUND_VARIABLE = "LAB_CACHE_GIB"
_NOTES = {
    "accelerator": "what QEMU can do on this machine",
    "apt": "indexes of the releases",
    "durations": "how long scenarios took",
    "frozen": "guests that stand still (LAB_FROZEN_GIB)",
    "images": "userlands of guests",
    "initramfs": "what guests begin with",
    "kernels": "kernels, ready to boot",
    "keyrings": "keys of archives",
    "logs": "of kernels that were built",
    "modules": "modules that were built",
    "releases": "sources of kernel.org",
    "resolved": "which kernels were looked up",
    "roots": "userlands, unpacked to build in",
    "source-packages": "sources of distributions' kernels",
    "sources": "hashes of kernels' sources",
    "trees": "what of kernels a build reads",
    "vmlinux": "kernels, unpacked",
}


def show(cache: Cache) -> int:
    """Print a row for each kind, and what all of it takes; the exit status."""
    rows: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for entry in list_entries(cache):
        rows[entry.kind].append((entry.size, entry.used))
    for kind, size, written in list_files(cache):
        rows[kind].append((size, written))
    print(f"{'kind':<16} {'number':>6} {'size':>10}  {'last used':<16}  what")
    for kind, found in sorted(rows.items(), key=lambda row: -sum(size for size, _ in row[1])):
        print(_row(kind, found))
    total = sum(size for found in rows.values() for size, _ in found)
    print(f"{_size(total)} in {visible(str(cache.root))}")
    left = len(list(clean(cache, dry_run=True)))
    if left:
        print(f"and {left} left half made by runs that were killed: `lab cache prune` removes them")
    return EXIT_PASSED


def _row(kind: str, found: list[tuple[int, float]]) -> str:
    size = _size(sum(size for size, _ in found))
    used = _moment(max(used for _, used in found))
    line = f"{visible(kind):<16} {len(found):>6} {size:>10}  {used:<16}  {_NOTES.get(kind, '')}"
    return line.rstrip()


def verify(cache: Cache, *, repair: bool) -> int:
    """Compare every entry with its hashes, and name what is damaged; ``repair`` removes that.

    The exit status: 0 unless something damaged is still there.
    """
    counts: dict[State, int] = defaultdict(int)
    bad = 0
    for entry in list_entries(cache):
        process.check_stopping()
        found = check(cache, entry)
        counts[found.state] += 1
        if found.state is State.DAMAGED:
            print(f"damaged: {visible(entry.name)}: {visible(found.note)}", flush=True)
            bad += not (repair and _repair(cache, entry))
    words = [f"{counts[state]} {state.value}" for state in State if counts[state]]
    print(", ".join(words) or "nothing is in the cache")
    if counts[State.NOT_HASHED] or counts[State.PARTLY]:
        print("older labs wrote no hashes, and what changes in use has none: apt, durations")
    if bad and not repair:
        print("`lab cache verify --repair` removes what is damaged; the next run makes it anew")
    return EXIT_BROKEN if bad else EXIT_PASSED


def _repair(cache: Cache, entry: CacheEntry) -> bool:
    is_gone = cache.remove(entry.kind, entry.key)
    print("  removed: the next run makes it anew" if is_gone else "  a run uses it: not removed")
    return is_gone


def prune_by_hand(cache: Cache, *, days: float | None, gib: float | None, dry_run: bool) -> int:
    """Remove leftovers, and what the bounds have no room for, and say what; the exit status."""
    keep = cache_bound() if gib is None else int(gib * GIB)
    older_than = None if days is None else days * DAY
    verb = "would remove" if dry_run else "removed"
    for path in clean(cache, dry_run=dry_run):
        print(f"{verb} {_shown(cache, path)}: left half made")
    pruning = Pruning(list_entries(cache), PruneOrder(older_than, keep), time.time())
    for entry, is_gone in prune(cache, pruning, dry_run=dry_run):
        what = f"{visible(entry.name)} ({_size(entry.size)}, last used {_moment(entry.used)})"
        print(f"{verb} {what}" if is_gone else f"kept {what}: a run uses it")
    print(f"{_size(pruning.left)} {'would stay' if dry_run else 'in the cache'}")
    if older_than is None and keep is None:
        print("--older-than DAYS and --keep GIB say what else may go")
    return EXIT_PASSED


def cache_bound() -> int | None:
    """How many bytes the cache may have after a run; None where nobody set a bound.

    Raises ``UsageError`` for a value of ``LAB_CACHE_GIB`` that is no number.
    """
    text = os.environ.get(BOUND_VARIABLE, "")
    if not text:
        return None
    try:
        bound = int(float(text) * GIB)
    except (ValueError, OverflowError):
        bound = -1
    if bound < 0:
        raise UsageError(
            f"{BOUND_VARIABLE}={text!r} is no number",
            hint="how many GiB the cache may have after a run; without it there is no bound",
        )
    return bound


def keep_bound(cache: Cache, bound: int | None) -> None:
    """After a run, remove what is over the bound. What fails is a note: the verdict is the run's.

    What this run used stays, as this process has it in use.
    """
    if bound is None:
        return
    try:
        for _ in clean(cache):
            pass
        pruning = Pruning(list_entries(cache), PruneOrder(keep=bound), time.time())
        gone = [entry for entry, is_gone in prune(cache, pruning) if is_gone]
    except (LabError, OSError) as error:
        print(f"lab: note: the cache was not pruned: {error}", file=sys.stderr)
        return
    if gone:
        freed = _size(sum(entry.size for entry in gone))
        print(f"lab: note: {BOUND_VARIABLE}: removed {len(gone)} entries of the cache, {freed}")
    if pruning.left > bound:
        used = _size(pruning.left)
        print(f"lab: note: {BOUND_VARIABLE}: what runs use is more: {used}", file=sys.stderr)


def _shown(cache: Cache, path: Path) -> str:
    return visible(str(path.relative_to(cache.root)))


def _size(size: int) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB else f"{size / (1 << 20):.1f} MiB"


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
