"""Kernels that the user has: an image, its modules, and the tree to build modules against."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from orchestrator.adapters.cache import hash_of, sha256_of
from orchestrator.adapters.kernelbuild import (
    copy_build_tree,
    copy_modules,
    digest_build_tree,
    digest_modules,
)
from orchestrator.adapters.sources import Offer, SourceContext
from orchestrator.adapters.vmlinux import (
    BZIMAGE_HINT,
    NoVmlinuxError,
    check_vmlinux,
    is_vmlinux,
    read_release,
)
from orchestrator.foundation.errors import SourceError
from orchestrator.plan.kernel import Part, ResolvedKernel
from orchestrator.plan.model import KernelEntry, LabPath, Value
from orchestrator.plan.version import KernelVersion

MAX_HEADER_BYTES = 1 << 20
_UTS_RELEASE = re.compile(r'^#define UTS_RELEASE "([^"]+)"', re.MULTILINE)


class KernelFiles(Value):
    """Where the parts of such a kernel are."""

    kernel: LabPath = Field(
        description="its image: a bzImage, as in `arch/x86/boot/`, or a vmlinux built with PVH"
    )
    modules: LabPath = Field(
        description="its modules: what `make modules_install INSTALL_MOD_PATH=…` filled, or the "
        "folder `lib/modules/RELEASE` itself"
    )
    build: LabPath = Field(description="the folder that it was built in, or its headers")


class PathEntry(KernelEntry):
    """A kernel that lies on this machine."""

    key: ClassVar[str] = "path"
    path: KernelFiles = Field(description="where its parts are, relative to lab.yaml")

    def version_hint(self) -> None:
        """Only its files say."""
        return

    def words(self, release: str) -> str:
        """What it asks for."""
        return self.path.kernel


@dataclass(frozen=True)
class _Found:
    """The same, found and looked into."""

    kernel: Path
    modules: Path
    build: Path
    source: Path
    release: str


class PathSource:
    """Files of this machine, copied into the cache."""

    entry: ClassVar[type[KernelEntry]] = PathEntry

    def floats(self, entry: KernelEntry) -> bool:
        """The files are looked at each time."""
        return False

    def local_inputs(self, context: SourceContext, entry: KernelEntry) -> str:
        """None."""
        return ""

    def resolve(self, context: SourceContext, entry: KernelEntry) -> ResolvedKernel:
        """What the files are; reads all of them, some seconds for a large build."""
        assert isinstance(entry, PathEntry)
        found = _find(context, entry)
        version = KernelVersion.parse(found.release)
        numbers = ".".join(map(str, version.numbers))
        digests = {
            "kernel": sha256_of(found.kernel),
            "modules": digest_modules(found.modules),
            "build": digest_build_tree(found.source, found.build),
        }
        return ResolvedKernel(
            release=found.release,
            version=numbers if version.rc is None else f"{numbers}-rc{version.rc}",
            origin=entry.path.kernel,
            parts=tuple(
                Part(name=name, version=found.release, sha256=digest, size=0)
                for name, digest in digests.items()
            ),
            recipe=hash_of("path"),
        )

    def fill(
        self, context: SourceContext, entry: KernelEntry, kernel: ResolvedKernel, tree: Path
    ) -> None:
        """Copy them."""
        assert isinstance(entry, PathEntry)
        if self.resolve(context, entry) != kernel:
            raise SourceError(
                f"{entry.path.kernel}, or what belongs to it, is not what it was when "
                f"{kernel.release} was resolved",
                hint="with a lock, `lab lock --update` takes it as it is",
            )
        found = _find(context, entry)
        boot = tree / "boot"
        boot.mkdir()
        shutil.copyfile(found.kernel, boot / f"vmlinuz-{kernel.release}")
        shutil.copyfile(found.build / ".config", boot / f"config-{kernel.release}")
        copy_modules(found.modules, tree / "usr/lib/modules" / kernel.release)
        headers = tree / "usr/src" / f"linux-headers-{kernel.release}"
        copy_build_tree(found.source, found.build, headers)

    def offers(self, context: SourceContext, entry: KernelEntry) -> tuple[Offer, ...]:
        """Nothing but itself."""
        return ()

    def lost(
        self, context: SourceContext, entry: KernelEntry, kernel: ResolvedKernel
    ) -> tuple[str, ...]:
        """Its files, where they are not the same any more."""
        now = self.resolve(context, entry)
        return tuple(
            was.name for was, part in zip(kernel.parts, now.parts, strict=True) if was != part
        )

    def update(self, context: SourceContext, entry: KernelEntry) -> None:
        """There is nothing to ask."""


def _find(context: SourceContext, entry: PathEntry) -> _Found:
    """The files, each where it should be and all of one kernel, or ``SourceError``."""
    kernel = context.locate(entry.path.kernel)
    build = context.locate(entry.path.build)
    release = _release_of_build(build)
    said = _release_of_image(kernel)
    if said != release:
        raise SourceError(
            f"{entry.path.kernel} is of {said}, and {entry.path.build} of {release}: "
            "they must be of the same build",
        )
    modules = _modules_dir(context.locate(entry.path.modules), release)
    if not (build / ".config").is_file():
        raise SourceError(f"{build} has no .config: it is not what a kernel was built in")
    if is_vmlinux(kernel):
        _check_vmlinux(kernel, build / ".config")
    linked = build / "source"
    source = context.locate(os.readlink(linked)) if linked.is_symlink() else build
    return _Found(kernel, modules, build, source, release)


def _release_of_build(build: Path) -> str:
    try:
        text = (build / "include/generated/utsrelease.h").read_text(errors="replace")
    except OSError as error:
        raise SourceError(
            f"{build} is no kernel's build tree: it has no include/generated/utsrelease.h "
            f"({error.strerror})",
            hint="name the folder that the kernel was built in, after the build",
        ) from error
    match = _UTS_RELEASE.search(text)
    if match is None:
        raise SourceError(f"{build}/include/generated/utsrelease.h names no release")
    try:
        KernelVersion.parse(match[1])
    except ValueError as error:
        raise SourceError(f"{build}: {error}") from error
    return match[1]


def _release_of_image(kernel: Path) -> str:
    """What a bzImage or a vmlinux says of itself.

    A bzImage: Linux Documentation/arch/x86/boot.rst, "HdrS" at 0x202, at 0x20e where the version
    is, less 0x200.
    """
    try:
        with kernel.open("rb") as file:
            head = file.read(MAX_HEADER_BYTES)
    except OSError as error:
        raise SourceError(f"{kernel} cannot be read: {error.strerror}") from error
    if is_vmlinux(kernel):
        try:
            return read_release(kernel)
        except NoVmlinuxError as error:
            raise SourceError(f"{kernel} is no vmlinux: {error}", hint=BZIMAGE_HINT) from error
    if head[0x202:0x206] != b"HdrS":
        raise SourceError(f"{kernel} is no bzImage", hint=BZIMAGE_HINT)
    place = int.from_bytes(head[0x20E:0x210], "little") + 0x200
    text = head[place : place + 256].split(b"\0", 1)[0].decode(errors="replace")
    return text.split(" ", 1)[0]


def _check_vmlinux(kernel: Path, config: Path) -> None:
    """Raise ``SourceError`` where QEMU cannot boot this vmlinux."""
    try:
        check_vmlinux(kernel, config)
    except NoVmlinuxError as error:
        raise SourceError(
            f"{kernel} is a vmlinux that QEMU cannot boot: {error}", hint=BZIMAGE_HINT
        ) from error


def _modules_dir(folder: Path, release: str) -> Path:
    for path in (folder / "lib/modules" / release, folder):
        if (path / "modules.order").is_file():
            return path
    raise SourceError(
        f"{folder} holds no modules of {release}: there is no modules.order",
        hint=f"`make modules_install INSTALL_MOD_PATH={folder}` in its build folder fills it",
    )


SOURCE = PathSource()
