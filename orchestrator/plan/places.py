"""Where the parts of a lab are written, from the lab's folder."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.plan.model import Lab
from orchestrator.plan.outcome import SourcePlace
from orchestrator.plan.plan import Plan


def scenario_places(plan: Plan) -> tuple[SourcePlace, ...]:
    """The file and line of each scenario that some kernel of the plan has."""
    planned = {cell.scenario.name for kernel in plan.kernels for cell in kernel.cells}
    return tuple(
        SourcePlace(scenario.name, _from(plan.lab, scenario.path), scenario.line)
        for scenario in plan.lab.scenarios
        if scenario.name in planned
    )


def folder_places(plan: Plan) -> tuple[SourcePlace, ...]:
    """The folder of each entry of the lab's ``modules``."""
    return tuple(
        SourcePlace(name, _from(plan.lab, folder)) for name, folder in plan.lab.module_dirs.items()
    )


def _from(lab: Lab, path: Path) -> str:
    return Path(os.path.relpath(path, lab.path.parent)).as_posix()
