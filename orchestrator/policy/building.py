"""Where a kernel's modules come from: the cache, a box on this machine, or a guest."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from orchestrator.adapters.builtcache import build_keys, keep_built, take_built
from orchestrator.adapters.cache import Cache
from orchestrator.adapters.hostbuild import open_host_builder
from orchestrator.adapters.images import Image
from orchestrator.adapters.kbuild import (
    Builder,
    BuiltModule,
    GuestBuilder,
    Sources,
    check_release,
    load_sources,
    send_sources,
)
from orchestrator.adapters.kernels import Kernel
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import BuildError, HostError
from orchestrator.plan.model import BuildPlace, ModuleEntry
from orchestrator.plan.outcome import BuiltBy, FolderBuild
from orchestrator.plan.qemu import Accelerator
from orchestrator.policy.events import Doing, Listener, Note
from orchestrator.policy.guest import Guest

# What a build says that a box refused something: in a guest it may write where it likes.
_BOX_SAYS = ("Read-only file system", "Permission denied", "Operation not permitted")


@dataclass(frozen=True)
class BuildOrder:
    """What is to be built for one kernel, and where."""

    kernel_name: str
    kernel: Kernel
    image: Image
    module_dirs: Mapping[str, Path]
    place: BuildPlace
    accelerator: Accelerator
    seconds: float
    """For each folder, wherever it is built: the verdict must not depend on it."""
    output_dir: Path
    entries: Mapping[str, ModuleEntry] = field(default_factory=dict)
    """How the folders are built; those that are not here by kbuild alone."""
    without: Collection[Path] = ()
    """Files that are no sources wherever they lie."""

    @property
    def on_host(self) -> bool:
        """Whether to try it on the host: emulated guests need ten times as long."""
        return self.place == "host" or (self.place == "auto" and self.accelerator == "tcg")


@dataclass
class Built:
    """What came of it."""

    modules: dict[str, BuiltModule] = field(default_factory=dict)
    folders: list[FolderBuild] = field(default_factory=list)

    errors: dict[str, BuildError] = field(default_factory=dict)
    """Why others did not build, by the name that the lab has for their folder."""


class _RefusedByBoxError(Exception):
    """A build failed for what may be the box's fault."""


class Workshop:
    """Has the modules of a lab built for one kernel; each folder is read once."""

    def __init__(self, order: BuildOrder, cache: Cache, listener: Listener) -> None:
        self._order = order
        self._cache = cache
        self._listener = listener
        self.note = ""
        """Why it is left to the guest, where the lab would have had it otherwise."""

    @cached_property
    def folders(self) -> tuple[Sources, ...]:
        """The sources. Raises ``ConfigError``."""
        order = self._order
        return tuple(
            load_sources(name, top, order.entries.get(name), order.without)
            for name, top in order.module_dirs.items()
        )

    @cached_property
    def _keys(self) -> tuple[str, ...]:
        return build_keys(self._order.image, self._order.kernel, self.folders)

    def build_without_guest(self) -> Built | None:
        """The modules out of the cache, or built here; None where that is left to a guest.

        Raises ``HostError`` where the lab insists on the host and there are no boxes.
        """
        if (cached := self._take_all()) is not None:
            return cached
        if not self._order.on_host:
            return None
        order = self._order
        work_dir = order.output_dir / ".box"
        self._listener(Doing(order.kernel_name, "getting the build tree ready"))
        try:
            with open_host_builder(
                self._cache, order.image, order.kernel, work_dir, order.seconds
            ) as builder:
                return self._build_all(builder, "host")
        except _RefusedByBoxError as error:
            self._leave_to_guest(f"a box on this machine does not do for it: {error}")
        except HostError as error:
            if order.place == "host":
                raise
            hint = f" ({error.hint})" if error.hint else ""
            self._leave_to_guest(f"{error.message}{hint}")
        return None

    def build_in(self, guest: Guest) -> Built:
        """The modules, built in a running guest. Raises ``MachineError`` or ``ShellError``."""
        order = self._order
        builder = GuestBuilder(guest.machine.shell, order.kernel.release, order.seconds)
        return self._build_all(builder, "guest")

    def send_sources(self, guest: Guest) -> None:
        """Copy the sources to where a build in the guest would have had them."""
        deadline = Deadline.after(self._order.seconds, "copying sources")
        for sources in self.folders:
            send_sources(guest.machine.shell, sources, deadline)

    def _leave_to_guest(self, why: str) -> None:
        self.note = f"modules are built in the guest: {why}"
        self._listener(Note(self._order.kernel_name, self.note))

    def _take_all(self) -> Built | None:
        """Everything out of the cache; None unless all is there."""
        built = Built()
        for sources, key in zip(self.folders, self._keys, strict=True):
            started = time.monotonic()
            modules = take_built(self._cache, key, self._folder_dir(sources))
            if modules is None:
                return None
            self._count(built, sources, modules, "cache", started)
        return built

    def _folder_dir(self, sources: Sources) -> Path:
        return self._order.output_dir / sources.name

    def _build_all(self, builder: Builder, by: BuiltBy) -> Built:
        built = Built()
        taken: list[Sources] = []
        for sources, key in zip(self.folders, self._keys, strict=True):
            started = time.monotonic()
            output_dir = self._folder_dir(sources)
            # Whoever else builds the same now has it ready for us.
            with self._cache.lock(f"building-{key}"):
                modules = take_built(self._cache, key, output_dir)
                if modules is not None:
                    taken.append(sources)
                    self._count(built, sources, modules, "cache", started)
                    continue
                where = "on the host" if by == "host" else "in the guest"
                self._listener(Doing(self._order.kernel_name, f"building {sources.name} {where}"))
                for earlier in taken:
                    builder.place(earlier, self._folder_dir(earlier))
                taken.clear()
                try:
                    modules = builder.build(sources, output_dir)
                    for module in modules:
                        check_release(module, self._order.kernel.release)
                except BuildError as error:
                    self._check_box(error, by)
                    seconds = time.monotonic() - started
                    built.folders.append(FolderBuild(sources.name, by, seconds, error.message))
                    built.errors[sources.name] = error
                    continue
                # What is built beside a folder that failed may lack something of it.
                if not built.errors:
                    keep_built(self._cache, key, output_dir)
            self._count(built, sources, modules, by, started)
        return built

    def _check_box(self, error: BuildError, by: BuiltBy) -> None:
        """Raise where a box may have failed a build that a guest would not."""
        said = next((text for text in _BOX_SAYS if text in error.output), "")
        if by == "host" and self._order.place == "auto" and said:
            raise _RefusedByBoxError(f"its build says {said!r}")

    def _count(
        self,
        built: Built,
        sources: Sources,
        modules: tuple[BuiltModule, ...],
        by: BuiltBy,
        started: float,
    ) -> None:
        for module in modules:
            built.modules[module.name] = replace(module, sources=sources)
        built.folders.append(FolderBuild(sources.name, by, time.monotonic() - started))
