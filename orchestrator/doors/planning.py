"""From a lab and a command line's words to a plan, with what is locked and what is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.adapters.cache import Cache
from orchestrator.adapters.kernels import forget_resolutions, load_resolution
from orchestrator.adapters.sources import SourceContext, entry_types
from orchestrator.foundation.errors import UsageError
from orchestrator.plan.kernel import ResolvedKernel
from orchestrator.plan.labfile import load_lab
from orchestrator.plan.lock import LOCK_FILE, Lock, load_lock
from orchestrator.plan.model import Lab
from orchestrator.plan.plan import Plan, resolve_plan, select_kernels, select_scenarios
from orchestrator.plan.recipes import load_recipe
from orchestrator.policy.capacity import default_jobs

DEFAULT_LAB = Path("lab.yaml")


def read_lab(path: Path) -> Lab:
    """The lab at ``path``. Raises ``ConfigError``, ``UsageError`` where there is none."""
    if path == DEFAULT_LAB and not path.exists():
        raise UsageError(
            "there is no lab.yaml in this folder",
            hint="go to the lab's folder, or name the file: --lab FILE",
        )
    return load_lab(path, entry_types())


def make_plan(
    lab: Lab,
    cache: Cache,
    *,
    kernels: Sequence[str],
    scenarios: Sequence[str] = (),
    jobs: int | None = None,
    locked: bool = True,
) -> Plan:
    """The plan of what these words select, from files alone: no network is asked.

    ``locked`` is whether the lab's lock counts, if it has one. Raises ``UsageError`` for a
    word that selects nothing, ``ConfigError`` for a kernel that does not fit the lock.
    """
    lock = load_lock(lab) if locked else None
    contexts = make_contexts(lab, cache)
    known = known_kernels(lab, contexts, lock)
    names = select_kernels(lab, kernels, known)
    return resolve_plan(
        lab,
        kernels=names,
        scenarios=select_scenarios(lab, scenarios),
        recipes={lab.file.kernels[name].image: contexts[name].recipe for name in names},
        known=known,
        jobs=jobs or default_jobs(lab.file.guest),
        lock=lock,
    )


def make_contexts(lab: Lab, cache: Cache) -> dict[str, SourceContext]:
    """What each kernel's source may use, by the kernel's name."""
    entries = lab.file.kernels
    images = dict.fromkeys(entry.image for entry in entries.values())
    recipes = {image: load_recipe(lab, image) for image in images}
    return {
        name: SourceContext(cache, recipes[entry.image], lab.path.parent)
        for name, entry in entries.items()
    }


def known_kernels(
    lab: Lab, contexts: dict[str, SourceContext], lock: Lock | None
) -> dict[str, ResolvedKernel]:
    """What each kernel is: as locked, or as last looked up."""
    known = {}
    for name, entry in lab.file.kernels.items():
        locked = lock.kernels.get(name) if lock else None
        found = locked.kernel if locked else load_resolution(contexts[name], entry)
        if found:
            known[name] = found
    return known


def require_unlocked(lab: Lab) -> None:
    """Raise ``UsageError`` where a lock says which kernels are meant."""
    if load_lock(lab):
        raise UsageError(
            f"--update: this lab's kernels are those of {LOCK_FILE}",
            hint="`lab lock --update` locks newer ones",
        )


def forget(lab: Lab, cache: Cache, kernels: Sequence[str]) -> None:
    """Forget what these kernels were resolved to, so that the newest is looked up."""
    contexts = make_contexts(lab, cache)
    names = select_kernels(lab, kernels, known_kernels(lab, contexts, None))
    forget_resolutions((contexts[name], lab.file.kernels[name]) for name in names)
