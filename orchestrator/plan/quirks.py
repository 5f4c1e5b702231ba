"""What must be said to a compiler so that a tree older, or younger, than it builds.

No tree is patched: a kernel of the lab is what its source says. Each entry names the
commits after which it is not needed; stable series took most of them in the middle.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.plan.version import KernelVersion, VersionRange


@dataclass(frozen=True)
class Quirk:
    """Words for compilers, for a range of trees and of gcc's major versions."""

    name: str
    kernels: VersionRange
    gcc: tuple[int, int]
    """The first and the last gcc that need it."""
    cc: tuple[str, ...] = ()
    """For everything that ends in the kernel, boot code and vDSO too."""
    host_cc: tuple[str, ...] = ()
    """For the programs that run during the build."""
    why: str = ""


NEWEST = 99


def _quirk(
    name: str,
    kernels: str,
    gcc: tuple[int, int],
    *,
    cc: tuple[str, ...] = (),
    host_cc: tuple[str, ...] = (),
    why: str,
) -> Quirk:
    return Quirk(name, VersionRange.parse(kernels), gcc, cc, host_cc, why)


QUIRKS: tuple[Quirk, ...] = (
    _quirk(
        "common symbols of the tools",
        "<5.7",
        (10, NEWEST),
        host_cc=("-fcommon",),
        why="dtc and genksyms define yylloc twice, and gcc 10 links no common symbols; "
        "e33a814e772c (5.6), 4.19 and later series took it",
    ),
    _quirk(
        "C23",
        "<6.15",
        (15, NEWEST),
        cc=("-std=gnu11",),
        host_cc=("-std=gnu11",),
        why="gcc 15 compiles C23, in which bool, true and false are keywords, where a Makefile "
        "of the boot code or a tool names no standard; b3bee1e7c3f2 and ee2ab467bddf (6.14)",
    ),
    _quirk(
        "control-flow protection",
        "<5.11",
        (8, NEWEST),
        cc=("-fcf-protection=none",),
        why="Ubuntu's compilers put endbr64 everywhere unless told not to, which old objtool "
        "does not know and boot code has no room for; 20bf2b378729 (5.11)",
    ),
    _quirk(
        "paths in messages",
        "<4.17",
        (8, NEWEST),
        cc=("-fmacro-prefix-map=/mnt/source/=",),
        why="a WARNING names its file by the place where it was built; a73619a845d5 (4.17)",
    ),
)


@dataclass(frozen=True)
class Unbuildable:
    """Trees that no words help with: the compiler is too old or too new for them."""

    kernels: VersionRange
    gcc: tuple[int, int]
    why: str
    image: str
    """A release whose compiler builds them."""


UNBUILDABLE: tuple[Unbuildable, ...] = (
    Unbuildable(
        VersionRange.parse(">=6.15"),
        (0, 7),
        "Linux 6.15 and later need gcc 8.1 or newer on x86 (a3e8fe814ad1)",
        "bookworm",
    ),
    Unbuildable(
        VersionRange.parse(">=5.15"),
        (0, 5),
        "Linux 5.15 and later need gcc 5.1 or newer (df05c0e9496c)",
        "bookworm",
    ),
    Unbuildable(
        VersionRange.parse("<4.4"), (0, NEWEST), "trees before 4.4 are not known to the lab", ""
    ),
)


def find_quirks(version: KernelVersion, gcc: int) -> tuple[Quirk, ...]:
    """The quirks that a tree needs with this gcc, in the table's order."""
    return tuple(
        quirk
        for quirk in QUIRKS
        if quirk.gcc[0] <= gcc <= quirk.gcc[1] and quirk.kernels.contains(version)
    )


def find_unbuildable(version: KernelVersion, gcc: int) -> Unbuildable | None:
    """Why a tree cannot be built with this gcc, if that is known."""
    return next(
        (
            entry
            for entry in UNBUILDABLE
            if entry.gcc[0] <= gcc <= entry.gcc[1] and entry.kernels.contains(version)
        ),
        None,
    )


def render_compilers(quirks: Iterable[Quirk]) -> tuple[str, ...]:
    """The words for ``make`` that put the quirks in place.

    As part of the compiler's name, because ``KCFLAGS`` does not reach boot code and the
    Makefiles before 4.19 lose their own ``HOSTCFLAGS`` when others are given.
    """
    cc = [word for quirk in quirks for word in quirk.cc]
    host_cc = [word for quirk in quirks for word in quirk.host_cc]
    return (
        *((f"CC={' '.join(('gcc', *cc))}",) if cc else ()),
        *((f"HOSTCC={' '.join(('gcc', *host_cc))}",) if host_cc else ()),
    )


# Kernels that are older than a release, and that its compiler was used with.
_SUITED = (
    ("<4.19", "bionic"),
    ("<5.9", "focal"),
    ("<5.18", "bullseye"),
    ("<6.8", "bookworm"),
)


def suited_image(version: KernelVersion) -> str:
    """The lab's own image whose compiler is of a kernel's time."""
    for kernels, image in _SUITED:
        if VersionRange.parse(kernels).contains(version):
            return image
    return "trixie"
