"""What a run tells those who watch it: values, handed to one listener on one thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from orchestrator.plan.outcome import CellResult, KernelResult


@dataclass(frozen=True)
class Doing:
    """A kernel's worker began something."""

    kernel: str
    what: str


@dataclass(frozen=True)
class Fetching:
    """So many bytes have come of what a kernel's worker fetches, of so many if that is known."""

    kernel: str
    done: int
    total: int | None


@dataclass(frozen=True)
class Note:
    """Something worth a line that decides nothing."""

    kernel: str
    text: str


@dataclass(frozen=True)
class CellDone:
    """A cell was judged."""

    cell: CellResult


@dataclass(frozen=True)
class KernelDone:
    """A kernel's worker has ended."""

    kernel: KernelResult


Event = Doing | Fetching | Note | CellDone | KernelDone


class Listener(Protocol):
    """Takes events; never blocks, never raises."""

    def __call__(self, event: Event) -> None:
        """Take one event."""
