"""What of the cache goes first, when some of it has to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

DAY = 24 * 3600
GIB = 1 << 30


@dataclass(frozen=True)
class CacheEntry:
    """One folder of the cache."""

    kind: str
    key: str
    size: int
    """What it takes on the disk, in bytes."""
    used: float
    """When it was last used, in seconds since 1970."""
    is_hashed: bool = False
    """Whether what it was made of is known."""

    @property
    def name(self) -> str:
        """How users see it: ``images/bookworm-…``."""
        return f"{self.kind}/{self.key}"


@dataclass(frozen=True)
class PruneOrder:
    """How much of the cache may stay; what is None sets no bound."""

    older_than: float | None = None
    """What was not used for more than so many seconds goes."""
    keep: int | None = None
    """So many bytes may stay."""


class Pruning:
    """Which entries go, asked one after another: what cannot go makes the next one go."""

    def __init__(self, entries: Iterable[CacheEntry], order: PruneOrder, now: float) -> None:
        self.oldest_first = tuple(sorted(entries, key=lambda entry: (entry.used, entry.name)))
        self.left = sum(entry.size for entry in self.oldest_first)
        """What stays, in bytes, as far as is known by now."""
        self._order = order
        self._now = now

    def wants(self, entry: CacheEntry) -> bool:
        """Whether this one has to go."""
        keep, older_than = self._order.keep, self._order.older_than
        too_much = keep is not None and self.left > keep
        return too_much or (older_than is not None and self._now - entry.used > older_than)

    def gone(self, entry: CacheEntry) -> None:
        """Count one as removed."""
        self.left -= entry.size
