"""The plan: what a run will do, as a value that can be printed before anything is done."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.foundation.errors import UsageError
from orchestrator.plan.kernel import ResolvedKernel
from orchestrator.plan.lock import LOCK_FILE, Lock, LockedImage, Pinned, find_pinned
from orchestrator.plan.model import KernelEntry, Lab, NamedScenario
from orchestrator.plan.recipe import Recipe
from orchestrator.plan.version import KernelVersion, VersionRange
from orchestrator.plan.visible import visible


@dataclass(frozen=True)
class Cell:
    """One scenario on one kernel; with ``skip``, the reason why it will not be played."""

    scenario: NamedScenario
    skip: str = ""
    any_module: bool = False
    """Whether it may load any module of the lab, though it names none: its steps come later."""


@dataclass(frozen=True)
class KernelPlan:
    """Everything that a run will do with one kernel."""

    name: str
    entry: KernelEntry
    recipe: Recipe
    known: ResolvedKernel | None
    """What the entry was resolved to, where it was; exactly that is then played."""
    cells: tuple[Cell, ...]
    pinned: Pinned | None = None
    """What ``lab.lock`` demands of it, where there is one."""
    userland: LockedImage | None = None
    """What is locked of its image, where the kernel itself is not."""
    left_out: str = ""
    """Why it is not played at all; then it is not even looked up."""

    @property
    def modules_wanted(self) -> bool:
        """Whether any scenario to be played loads a module of the lab."""
        return any(cell.scenario.modules or cell.any_module for cell in self.cells if not cell.skip)


@dataclass(frozen=True)
class Plan:
    """One run."""

    lab: Lab
    kernels: tuple[KernelPlan, ...]
    jobs: int

    @property
    def cell_count(self) -> int:
        """How many cells will be played."""
        return sum(not cell.skip for kernel in self.kernels for cell in kernel.cells)


LATEST = "latest"


def select_kernels(
    lab: Lab, wanted: Sequence[str], known: Mapping[str, ResolvedKernel]
) -> tuple[str, ...]:
    """The kernels that a command line names, in the lab's order.

    Each of ``wanted`` is a kernel's name, a group, an image, what ``uname -r`` says,
    ``latest``, or a range of versions; with none, the group ``quick``, or all kernels where
    there is no such group. A kernel that is not in ``known`` is judged by what its entry
    says of its version. Raises ``UsageError`` for a word that names none.
    """
    entries = lab.file.kernels
    if not wanted:
        names: Sequence[str] = lab.file.groups.get("quick", tuple(entries))
        return tuple(name for name in entries if name in names)
    chosen = {name for word in wanted for name in _matching(lab, word, known)}
    return tuple(name for name in entries if name in chosen)


def _matching(lab: Lab, word: str, known: Mapping[str, ResolvedKernel]) -> set[str]:
    entries = lab.file.kernels
    if word in entries:
        return {word}
    if word in lab.file.groups:
        return set(lab.file.groups[word])
    if found := {name for name, entry in entries.items() if entry.image == word}:
        return found
    if found := {name for name, kernel in known.items() if kernel.release == word}:
        return found
    versions = {
        name: version
        for name, entry in entries.items()
        if (version := _version_of(entry, known.get(name)))
    }
    if word == LATEST and versions:
        return {max(versions, key=lambda name: versions[name])}
    try:
        wanted = VersionRange.parse(word)
    except ValueError as error:
        raise UsageError(f"--kernel {word}: {error}", hint=_kernel_words(lab)) from None
    found = {name for name, version in versions.items() if wanted.contains(version)}
    if not found:
        raise UsageError(f"--kernel {word}: no kernel of this lab is that", hint=_kernel_words(lab))
    return found


def _version_of(entry: KernelEntry, known: ResolvedKernel | None) -> KernelVersion | None:
    return KernelVersion.parse(known.version) if known else entry.version_hint()


def _kernel_words(lab: Lab) -> str:
    words = f"kernels: {', '.join(lab.file.kernels)}"
    return words + (f"; groups: {', '.join(lab.file.groups)}" if lab.file.groups else "")


def select_scenarios(lab: Lab, patterns: Sequence[str]) -> tuple[NamedScenario, ...]:
    """The scenarios whose name one of ``patterns`` matches; all with none.

    A pattern is shell-like (``*``, ``?``) and must fit the whole name; one without such
    characters fits anywhere in it. Raises ``UsageError`` if nothing fits.
    """
    if not patterns:
        return lab.scenarios
    for pattern in patterns:
        if not any(_fits(scenario.name, pattern) for scenario in lab.scenarios):
            raise UsageError(
                f"--scenario {pattern}: no scenario of this lab is called so",
                hint="`lab list` shows them",
            )
    return tuple(s for s in lab.scenarios if any(_fits(s.name, p) for p in patterns))


def _fits(name: str, pattern: str) -> bool:
    if any(char in pattern for char in "*?["):
        return fnmatch.fnmatchcase(name, pattern)
    return pattern in name


def resolve_plan(
    lab: Lab,
    *,
    kernels: Sequence[str],
    scenarios: Sequence[NamedScenario],
    recipes: Mapping[str, Recipe],
    known: Mapping[str, ResolvedKernel],
    jobs: int,
    lock: Lock | None = None,
) -> Plan:
    """The plan of a run over these kernels and scenarios.

    Where a kernel is not resolved yet, its series stands for its version. With a lock, what
    it holds is what will be played; an optional kernel that it could not hold is left out.
    Raises ``ConfigError`` where it does not fit the lab.
    """
    cells = tuple(Cell(scenario) for scenario in scenarios)
    plans = []
    for name in kernels:
        entry = lab.file.kernels[name]
        if lock and entry.optional and name not in lock.kernels:
            reason = f"it is optional, and not in {LOCK_FILE}"
            skipped = tuple(replace(cell, skip=reason) for cell in cells)
            recipe = recipes[entry.image]
            plans.append(KernelPlan(name, entry, recipe, None, skipped, left_out=reason))
            continue
        pinned = find_pinned(lab, lock, name) if lock else None
        plan = KernelPlan(name, entry, recipes[entry.image], None, cells, pinned)
        plans.append(with_known(plan, pinned.kernel.kernel if pinned else known.get(name)))
    return Plan(lab, tuple(plans), jobs)


def with_known(plan: KernelPlan, known: ResolvedKernel | None) -> KernelPlan:
    """The plan once its kernel is resolved: which scenarios are for exactly this version."""
    version = _version_of(plan.entry, known)
    cells = tuple(
        replace(cell, skip=_reason_to_skip(cell.scenario, version)) for cell in plan.cells
    )
    return replace(plan, known=known, cells=cells)


def _reason_to_skip(scenario: NamedScenario, version: KernelVersion | None) -> str:
    if version is None or scenario.kernels.contains(version):
        return ""
    return f"it is for kernels {scenario.kernels}, this is {version}"


def render_plan(plan: Plan) -> str:
    """The plan as a person reads it."""
    lines = [f"lab {plan.lab.file.lab}: {_counted(plan.cell_count, 'cell')}, {plan.jobs} at a time"]
    guest = plan.lab.file.guest
    lines.append(f"  guests: {guest.memory_mib} MiB, {_counted(guest.cpus, 'processor')}")
    for name, folder in plan.lab.module_dirs.items():
        entry = plan.lab.file.modules[name]
        how = f" ({visible(entry.make)})" if entry.make else ""
        lines.append(f"  modules {name}: {folder / entry.folder}{how}")
    for name, path in plan.lab.program_paths.items():
        lines.append(f"  test program {name}: {path}")
    for kernel in plan.kernels:
        lines += ["", *_render_kernel(kernel)]
    return "\n".join(lines) + "\n"


def _render_kernel(kernel: KernelPlan) -> list[str]:
    what = (
        f"{kernel.known.release} (version {kernel.known.version})"
        if kernel.known
        else f"{kernel.entry.words(kernel.recipe.release)}, not looked up yet"
    )
    lines = [f"kernel {kernel.name}: {what}, in {kernel.entry.image}"]
    for cell in kernel.cells:
        note = f"  (skipped: {cell.skip})" if cell.skip else ""
        lines.append(f"  {cell.scenario.name}{note}")
    return lines


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
