"""Which scenarios have to be played again after files of a lab have changed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from orchestrator.plan.lock import lock_path
from orchestrator.plan.model import Lab, NamedScenario
from orchestrator.plan.plan import Plan

CellName = tuple[str, str]
"""A kernel's name and a scenario's."""


@dataclass(frozen=True)
class Change:
    """What of a lab has changed."""

    lab: bool = False
    """``lab.yaml``, its lock, or a recipe: nothing that was played says anything any more."""
    scenario_files: frozenset[Path] = frozenset()
    """Those that changed, came or went."""
    folders: frozenset[str] = frozenset()
    """Folders of modules, by the lab's names for them."""
    programs: frozenset[str] = frozenset()
    """Test programs that scenarios bring, by the lab's names for them."""

    @property
    def reload(self) -> bool:
        """Whether the lab has to be read anew."""
        return self.lab or bool(self.scenario_files)


def find_change(lab: Lab, paths: Collection[Path]) -> Change:
    """What these files, which changed, are to a lab.

    Scenario files may lie in a folder of modules; they are no part of it here.
    """
    change = Change()
    for path in paths:
        if path in (lab.path, lock_path(lab)) or _is_recipe(lab, path):
            change = replace(change, lab=True)
        elif _is_scenario_file(lab, path):
            change = replace(change, scenario_files=change.scenario_files | {path})
        else:
            change = replace(
                change,
                folders=change.folders | _above(lab.module_dirs, path),
                programs=change.programs | _above(lab.program_paths, path),
            )
    return change


def _above(places: Mapping[str, Path], path: Path) -> frozenset[str]:
    """The names of the places that a path is, or is below."""
    return frozenset(name for name, place in places.items() if path.is_relative_to(place))


def _is_scenario_file(lab: Lab, path: Path) -> bool:
    """Whether the lab has its scenarios from there, or would have if the file were read."""
    if any(scenario.path == path for scenario in lab.scenarios):
        return True
    root = lab.path.parent
    if not path.is_relative_to(root):
        return False
    inside = path.relative_to(root)
    patterns = (PurePosixPath(pattern) for pattern in lab.file.scenarios)
    return any(
        len(pattern.parts) == len(inside.parts) and inside.match(str(pattern))
        for pattern in patterns
    )


def _is_recipe(lab: Lab, path: Path) -> bool:
    return lab.images_dir is not None and path.is_relative_to(lab.images_dir)


def is_affected(
    lab: Lab, scenario: NamedScenario, change: Change, given: Mapping[str, Collection[str]]
) -> bool:
    """Whether a scenario may end differently after a change.

    ``given`` are the modules that each folder gave when it was built last. A folder may use what
    those before it export, so it counts as changed with any of them. A module that no folder is
    known to give may come from any.
    """
    if change.lab or scenario.path in change.scenario_files:
        return True
    if any(step.exec in change.programs for step in scenario.programs):
        return True
    wanted = {name.replace("-", "_") for name in scenario.modules}
    if not change.folders or not wanted:
        return False
    names = list(lab.module_dirs)
    first = min(names.index(name) for name in change.folders)
    fresh = {module for name in names[first:] for module in given.get(name, ())}
    known = {module for modules in given.values() for module in modules}
    return bool(wanted & fresh) or not wanted <= known


def playable(plan: Plan) -> frozenset[CellName]:
    """Every cell of a plan that is not skipped."""
    return frozenset(
        (kernel.name, cell.scenario.name)
        for kernel in plan.kernels
        for cell in kernel.cells
        if not cell.skip
    )


def affected_cells(
    plan: Plan, change: Change, given: Mapping[str, Collection[str]]
) -> frozenset[CellName]:
    """The cells of a plan that have to be played after a change."""
    names = {
        scenario.name
        for scenario in plan.lab.scenarios
        if is_affected(plan.lab, scenario, change, given)
    }
    return frozenset(name for name in playable(plan) if name[1] in names)


def restricted(plan: Plan, cells: Collection[CellName]) -> Plan:
    """The plan with these cells alone, without kernels that have none of them."""
    kernels = [
        replace(
            kernel,
            cells=tuple(
                cell for cell in kernel.cells if (kernel.name, cell.scenario.name) in cells
            ),
        )
        for kernel in plan.kernels
    ]
    return replace(plan, kernels=tuple(kernel for kernel in kernels if kernel.cells))
