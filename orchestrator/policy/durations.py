"""How long cells took, remembered between runs: the longest begin first, and none is last alone.

It decides the order and nothing else, so whatever is wrong with the file means plan order.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

from orchestrator.adapters.cache import Cache, hash_of
from orchestrator.foundation.errors import LabError
from orchestrator.plan.outcome import CellResult, Outcome
from orchestrator.plan.plan import Cell

KIND = "durations"
_FILE = "seconds.json"


class Durations:
    """What one lab's cells took when they were last played, in seconds."""

    def __init__(self, cache: Cache, lab: str) -> None:
        """Labs of one name share what is remembered."""
        self._cache = cache
        self._key = hash_of(lab)
        self._seconds = self._load()

    def longest_first(self, kernel: str, cells: Sequence[Cell]) -> list[Cell]:
        """The cells of a kernel; those of which nothing is known come first, in their order."""
        known = self._seconds.get(kernel, {})
        return sorted(cells, key=lambda cell: -known.get(cell.scenario.name, float("inf")))

    def seconds_of(self, kernel: str, scenario: str) -> float | None:
        """What a cell took when it was last played; None where that is not known."""
        return self._seconds.get(kernel, {}).get(scenario)

    def remember(self, cells: Sequence[CellResult]) -> None:
        """Keep what these took. A cache that cannot be written is not told of here."""
        for cell in cells:
            if cell.outcome in (Outcome.PASSED, Outcome.FAILED):
                self._seconds.setdefault(cell.kernel, {})[cell.scenario] = round(cell.seconds, 3)

        def write(folder: Path) -> None:
            (folder / _FILE).write_text(json.dumps(self._seconds), encoding="utf-8")

        with contextlib.suppress(LabError, OSError):
            self._cache.replace(KIND, self._key, write)

    def _load(self) -> dict[str, dict[str, float]]:
        folder = self._cache.find(KIND, self._key)
        if folder is None:
            return {}
        try:
            loaded = json.loads((folder / _FILE).read_text(encoding="utf-8"))
            return {
                str(kernel): {str(name): float(seconds) for name, seconds in cells.items()}
                for kernel, cells in loaded.items()
            }
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return {}
