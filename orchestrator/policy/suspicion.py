"""Whether the cache is to blame: looked at once something went wrong, and not before.

To hash all that a guest boots from takes 0.2 s from memory and seconds from a disk, which a run
that passes need not pay. A bit that flipped in a userland or a kernel shows as a failure, so no
failure is believed before what it was made of is compared with what it was when it was made.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from orchestrator.adapters.cache import REPAIR, Cache
from orchestrator.adapters.upkeep import find_damaged
from orchestrator.foundation.errors import HostError, LabError
from orchestrator.plan.outcome import CellResult, Outcome

Entry = tuple[str, str]
"""An entry of the cache: its kind and its key."""


class Suspicion:
    """What is known of the entries that one kernel's guests are made of."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._lock = threading.Lock()
        self._known: dict[Entry, str] = {}

    def look(self, entries: Iterable[Entry]) -> str:
        """What is wrong with these entries; nothing if they are whole, or nobody can tell."""
        with self._lock:
            for entry in entries:
                if entry not in self._known:
                    self._known[entry] = self._look_at(entry)
            return "; ".join(told for told in self._known.values() if told)

    def _look_at(self, entry: Entry) -> str:
        try:
            note = find_damaged(self._cache, *entry)
        except (LabError, OSError):
            return ""  # the run is being ended, or this cache cannot be locked: nobody can tell
        return f"{'/'.join(entry)} in the cache is damaged ({note})" if note else ""


def blame(result: CellResult, damage: str) -> CellResult:
    """A cell that went wrong on what is damaged: an error, whatever it came to."""
    reason = f"{damage}; it came to this: {result.reason}"
    return replace(result, outcome=Outcome.ERROR, reason=reason)


def blame_error(error: LabError, damage: str) -> LabError:
    """A kernel's error that is owed to what is damaged, with what mends it."""
    told = HostError(f"{damage}; it came to this: {error.message}", hint=REPAIR)
    told.evidence, told.last_lines = error.evidence, error.last_lines
    return told


def entries_like(cache: Cache, kind: str, beginning: str) -> tuple[Entry, ...]:
    """The entries of a kind whose keys begin so."""
    found = (path.name for path in Path(cache.root / kind).glob(f"{beginning}*"))
    return tuple((kind, name) for name in sorted(found))
