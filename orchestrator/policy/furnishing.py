"""Frozen guests with modules, made of kept ones without: to change a module takes no boot."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.adapters.freezer import Freezer
from orchestrator.adapters.kbuild import BuiltModule
from orchestrator.policy.frozen import keep_frozen, take_frozen
from orchestrator.policy.guest import BootCounter, FrozenGuest, Guest, GuestPlan


@dataclass(frozen=True)
class Furnished:
    """A guest that stands still, with modules in place."""

    frozen: FrozenGuest
    console: Path
    """All that it said until then."""
    said_before: bytes
    """What it said as it booted, before this run."""


def furnish(
    freezer: Freezer,
    plan: GuestPlan,
    bare: str,
    modules: Mapping[str, BuiltModule],
    memory: int,
    boots: BootCounter,
) -> Furnished | None:
    """A guest made of the one called ``bare`` in the freezer; None where there is no such guest.

    The plan's programs get into it too. Raises ``LabError`` where it does not go on.
    """
    frozen = take_frozen(freezer, bare, plan, memory, sealed=False)
    if frozen is None:
        return None
    folder = plan.run_dir.furnished(plan.kernel)
    guest = Guest(plan, {}, boots)
    try:
        guest.resume(frozen, folder, alone=True)
        guest.furnish(modules)
        furnished = guest.freeze()
    finally:
        guest.close()
    said, console, before = freezer.console_of(bare), folder / "said.log", b""
    with contextlib.suppress(OSError):
        before = said.read_bytes() if said else b""
        console.write_bytes(before + (folder / "console.log").read_bytes())
    return Furnished(furnished, console, before)


def keep_bare(freezer: Freezer, key: str, guest: Guest, console: Path) -> None:
    """Freeze a guest that has booted without modules, and keep it. Raises ``MachineError``.

    The guest is gone afterwards. ``console`` is its log.
    """
    try:
        frozen = guest.freeze()
    finally:
        guest.close()
    keep_frozen(freezer, key, frozen, console)
