"""Where things are: what is shipped with the lab, and what a run writes where."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from pathlib import Path

PACKAGE_DIR = Path(__file__).resolve().parent.parent
SESSION_PREFIX = "lab-session-"
"""What the folders of guests that somebody is in begin with, where temporary files are."""


def shipped_images_dir() -> Path:
    """The recipes and guest programs that come with the lab: installed, or in a checkout."""
    installed = PACKAGE_DIR / "images"
    return installed if installed.is_dir() else PACKAGE_DIR.parent / "images"


def guest_dir() -> Path:
    """The programs that run inside guests."""
    return shipped_images_dir() / "guest"


def tool_dir() -> Path:
    """The source of the one program among them that is compiled."""
    return guest_dir() / "tool"


def new_run_id() -> str:
    """A name for a run: when it began, in UTC, and something random."""
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime()) + "-" + secrets.token_hex(2)


@dataclass(frozen=True)
class RunDir:
    """The one folder that a run writes to."""

    root: Path

    def kernel(self, kernel: str) -> Path:
        """What belongs to one kernel."""
        return self.root / kernel

    def boot(self, kernel: str, number: int) -> Path:
        """Evidence of one boot: console, QEMU's command line and output."""
        return self.root / kernel / f"boot-{number}"

    def frozen(self, kernel: str) -> Path:
        """What a guest said that an earlier run booted and froze."""
        return self.root / kernel / "frozen.log"

    def furnished(self, kernel: str) -> Path:
        """Evidence of a guest that was frozen before and got other modules; like ``boot``."""
        return self.root / kernel / "furnished"

    def modules(self, kernel: str) -> Path:
        """The modules built for a kernel, and the build's log."""
        return self.root / kernel / "modules"

    def cell(self, kernel: str, scenario: str) -> Path:
        """Evidence of one cell: transcript and its part of the kernel log."""
        return self.root / kernel / "scenarios" / scenario.replace("/", ".")

    def fork(self, kernel: str, scenario: str) -> Path:
        """Evidence of the guest that a cell had to itself; like ``boot``."""
        return self.cell(kernel, scenario) / "guest"
