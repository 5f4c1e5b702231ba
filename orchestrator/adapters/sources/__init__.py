"""Where kernels come from: each module of this package is one source.

A module here defines ``SOURCE``, and that is all: its ``entry`` is the shape of what a
user writes in ``lab.yaml``, and the rest of ``KernelSource`` turns such an entry into an
exact kernel and that into files. To add a source, add a file.
"""

from __future__ import annotations

import functools
import importlib
import os
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from orchestrator.adapters.cache import Cache
from orchestrator.adapters.fetching import Tell, tell_nobody
from orchestrator.foundation.errors import SourceError
from orchestrator.plan.kernel import ResolvedKernel
from orchestrator.plan.model import KernelEntry
from orchestrator.plan.recipe import Recipe

PATHS_VARIABLE = "LAB_PATHS"
"""Names folders, with colons between, that labs may take kernels from beside their own."""


@dataclass(frozen=True)
class SourceContext:
    """What a source may use: the cache, the recipe of the entry's image, the lab's folder."""

    cache: Cache
    recipe: Recipe
    lab_dir: Path
    say: Callable[[str], None] = lambda _: None
    """Told what is being done, where that takes long."""
    tell: Tell = tell_nobody
    """Told how much of what is fetched has come."""
    log_dir: Path | None = None
    """Where the output of a build is left; a folder of the cache where there is no better."""

    def locate(self, text: str) -> Path:
        """The file or folder of this machine that an entry names, free of links.

        Raises ``SourceError`` where it is outside of what a lab may read: a lab may be a
        stranger's, and what a kernel is built from can be read by what builds it.
        """
        path = Path(os.path.realpath(self.lab_dir / Path(text).expanduser()))
        named = os.environ.get(PATHS_VARIABLE, "").split(":")
        allowed = [str(self.lab_dir), *(folder for folder in named if folder)]
        if not any(path.is_relative_to(os.path.realpath(folder)) for folder in allowed):
            raise SourceError(
                f"{text} is outside of the lab's folder",
                hint=f"{PATHS_VARIABLE}={path.parent} lets labs take kernels from there",
            )
        return path

    def log_path(self, name: str) -> Path:
        """Where output goes that is called so."""
        return (self.log_dir or self.cache.root / "logs") / f"{name}.log"


@dataclass(frozen=True)
class Offer:
    """A kernel that a source could give: an entry that names it exactly, and its version."""

    entry: KernelEntry
    release: str
    version: str


class KernelSource(Protocol):
    """One source. Every method may raise ``SourceError`` or ``HostError``."""

    entry: ClassVar[type[KernelEntry]]
    """The shape of its entries; ``entry.key`` tells them from those of other sources."""

    def floats(self, entry: KernelEntry) -> bool:
        """Whether a network is asked what the entry stands for.

        The answer is kept then, until the user asks anew. If not, what the entry names is on
        this machine, and looked at each time.
        """
        ...

    def local_inputs(self, context: SourceContext, entry: KernelEntry) -> str:
        """A hash of what of this machine decides, with what ``entry`` says, which kernel it is.

        An answer that is kept is one for these inputs alone. Nothing where there are none.
        """
        ...

    def resolve(self, context: SourceContext, entry: KernelEntry) -> ResolvedKernel:
        """The kernel that ``entry`` stands for now. May ask the network."""
        ...

    def fill(
        self, context: SourceContext, entry: KernelEntry, kernel: ResolvedKernel, tree: Path
    ) -> None:
        """Put exactly this kernel into the empty folder ``tree``, or raise.

        ``boot/vmlinuz-RELEASE``, ``boot/config-RELEASE``, ``lib/modules/RELEASE`` (or below
        ``usr``), ``usr/src/linux-headers-RELEASE``. Blocks for as long as it takes.
        """
        ...

    def offers(self, context: SourceContext, entry: KernelEntry) -> tuple[Offer, ...]:
        """The kernels that could be had in place of the one that ``entry`` names."""
        ...

    def lost(
        self, context: SourceContext, entry: KernelEntry, kernel: ResolvedKernel
    ) -> tuple[str, ...]:
        """Which parts of a kernel the source no longer names."""
        ...

    def update(self, context: SourceContext, entry: KernelEntry) -> None:
        """Ask the network anew for what there is, where answers are kept."""
        ...


@functools.cache
def all_sources() -> tuple[KernelSource, ...]:
    """Every source, the one that is meant where an entry has no key first."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    found: list[KernelSource] = [
        importlib.import_module(f"{__name__}.{name}").SOURCE for name in names
    ]
    return tuple(sorted(found, key=lambda source: source.entry.key != "version"))


def entry_types() -> tuple[type[KernelEntry], ...]:
    """The shapes of a kernel in ``lab.yaml``."""
    return tuple(source.entry for source in all_sources())


def source_of(entry: KernelEntry) -> KernelSource:
    """The source whose entry this is."""
    return next(source for source in all_sources() if isinstance(entry, source.entry))
