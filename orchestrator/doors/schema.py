"""``lab schema``: JSON Schemas of what people write, and of what scripts read.

Those of ``lab.yaml`` and of scenario files are made from the models when they are printed; the
files in ``orchestrator/schemas`` are the same, for an editor to be pointed at. A test holds them
to that.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orchestrator.plan.paths import PACKAGE_DIR

SCHEMAS_DIR = PACKAGE_DIR / "schemas"


def render(name: str) -> str:
    """The schema of ``lab``, ``scenario`` or ``results``, as JSON that ends with a newline."""
    return json.dumps(_make(name), indent=2, ensure_ascii=False) + "\n"


def locate(name: str) -> str:
    """The line with the path of the schema's file that came with the lab."""
    return f"{path_of(name)}\n"


def path_of(name: str) -> Path:
    """Where the schema's file is."""
    if name == "results":
        return PACKAGE_DIR / "policy/reports/results.schema.json"
    return SCHEMAS_DIR / f"{name}.schema.json"


def _make(name: str) -> dict[str, Any]:
    if name == "results":
        from orchestrator.policy.reports.results import load_schema

        return load_schema()
    from orchestrator.plan.schemas import make_lab_schema, make_scenario_schema

    if name == "scenario":
        return make_scenario_schema()
    from orchestrator.adapters.sources import entry_types

    return make_lab_schema(entry_types())
