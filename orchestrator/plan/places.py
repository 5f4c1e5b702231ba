"""Where the parts of a lab are written, from the lab's folder."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from orchestrator.plan.model import Lab, NamedScenario
from orchestrator.plan.outcome import SourcePlace
from orchestrator.plan.plan import Plan


def scenario_places(plan: Plan) -> tuple[SourcePlace, ...]:
    """The file and line of each scenario that some kernel of the plan has."""
    planned = {cell.scenario.name for kernel in plan.kernels for cell in kernel.cells}
    return tuple(
        SourcePlace(
            scenario.name, _from(plan.lab, scenario.path), scenario.line, hash_scenario(scenario)
        )
        for scenario in plan.lab.scenarios
        if scenario.name in planned
    )


def hash_scenario(scenario: NamedScenario) -> str:
    """SHA-256 of what a scenario does: the same for other words about it, or another order of keys.

    What is not said is not in it, so that a later lab with more keys finds the same.
    """
    text = scenario.scenario.model_dump_json(exclude={"about"}, exclude_defaults=True)
    return hashlib.sha256(text.encode()).hexdigest()


def folder_places(plan: Plan) -> tuple[SourcePlace, ...]:
    """The folder of each entry of the lab's ``modules``."""
    return tuple(
        SourcePlace(name, _from(plan.lab, folder)) for name, folder in plan.lab.module_dirs.items()
    )


def _from(lab: Lab, path: Path) -> str:
    return Path(os.path.relpath(path, lab.path.parent)).as_posix()
