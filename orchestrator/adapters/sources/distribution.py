"""Kernels that a distribution ships: the newest of a series, or one package exactly."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from orchestrator.adapters.apt import AptRoot, Package, as_part, ensure_apt_root
from orchestrator.adapters.sources import Offer, SourceContext
from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import SourceError
from orchestrator.plan.kernel import ResolvedKernel
from orchestrator.plan.model import KernelEntry, Name, Series
from orchestrator.plan.recipe import Recipe
from orchestrator.plan.version import KernelVersion


class DistributionEntry(KernelEntry):
    """A kernel of the distribution that the image is of."""

    key: ClassVar[str] = "version"
    version: Series = Field(
        description="the newest kernel of this series that the image's release offers",
    )
    flavour: Name | None = Field(
        default=None,
        description="as in the package's name (`amd64`, `generic`); the recipe's if absent",
    )
    package: Name | None = Field(
        default=None, description="exactly this image package, where the newest will not do"
    )
    extra: bool = Field(
        default=False, description="with the drivers of Ubuntu's `linux-modules-extra`, too"
    )

    def version_hint(self) -> KernelVersion:
        """The first of its series: ``7`` is 7.0, ``6.1`` is 6.1."""
        return KernelVersion.parse(self.version if "." in self.version else f"{self.version}.0")

    def words(self, release: str) -> str:
        """What it asks for."""
        if self.package:
            return f"{self.package} of {release}"
        chosen = (self.flavour, "extra" if self.extra else None)
        words = ", ".join(word for word in chosen if word)
        flavour = f" ({words})" if words else ""
        return f"the newest {self.version}{flavour} of {release}"


class DistributionSource:
    """Packages from a release's archive, by apt, signatures verified."""

    entry: ClassVar[type[KernelEntry]] = DistributionEntry

    def floats(self, entry: KernelEntry) -> bool:
        """The release's index is asked."""
        return True

    def local_inputs(self, context: SourceContext, entry: KernelEntry) -> str:
        """None."""
        return ""

    def resolve(self, context: SourceContext, entry: KernelEntry) -> ResolvedKernel:
        """The newest that fits and has its headers."""
        assert isinstance(entry, DistributionEntry)
        return resolve_kernel(ensure_apt_root(context.cache, context.recipe), context.recipe, entry)

    def fill(
        self,
        context: SourceContext,
        entry: KernelEntry,
        kernel: ResolvedKernel,
        tree: Path,
    ) -> None:
        """Fetch the packages and unpack them, without running anything of theirs."""
        apt = ensure_apt_root(context.cache, context.recipe)
        debs = tree.with_name("packages")
        debs.mkdir()
        for path in apt.download(kernel.parts, debs, context.tell):
            deadline = Deadline.after(600, f"unpacking {path.name}")
            argv = (process.find_tool("dpkg-deb"), "-x", str(path), str(tree))
            done = process.run(argv, deadline=deadline)
            if done.status != 0:
                raise SourceError(f"unpacking {path.name} failed: {done.last_lines()}")
            path.unlink()
        debs.rmdir()

    def offers(self, context: SourceContext, entry: KernelEntry) -> tuple[Offer, ...]:
        """Every kernel of the entry's flavour in the release that has its headers."""
        assert isinstance(entry, DistributionEntry)
        apt = ensure_apt_root(context.cache, context.recipe)
        releases = _offered_releases(apt, entry.flavour or context.recipe.flavour)
        found = _image_packages(apt, releases)
        return tuple(
            Offer(
                entry.model_copy(
                    update={
                        "version": ".".join(map(str, KernelVersion.parse(release).numbers[:2])),
                        "package": f"linux-image-{release}",
                    }
                ),
                release,
                _upstream_version(release, found[release].version),
            )
            for release in sorted(releases, key=KernelVersion.parse)
            if release in found
        )

    def lost(
        self,
        context: SourceContext,
        entry: KernelEntry,
        kernel: ResolvedKernel,
    ) -> tuple[str, ...]:
        """The packages that the index does not have any more, in this version."""
        apt = ensure_apt_root(context.cache, context.recipe)
        return tuple(
            part.label
            for part in kernel.parts
            if (found := apt.show((part.label,)).get(part.name)) is None
            or found.sha256 != part.sha256
        )

    def update(self, context: SourceContext, entry: KernelEntry) -> None:
        """Fetch newer indexes."""
        ensure_apt_root(context.cache, context.recipe, update=True)


SOURCE = DistributionSource()

# linux-image-5.4.0-216-generic, linux-image-unsigned-…, linux-image-7.3.4+deb13-cloud-amd64
_IMAGE_NAME = re.compile(r"^linux-image-(?P<release>\d[^_]*)$")
# What belongs to a kernel and its build tree; not linux-base, not a compiler's metapackage.
_PART = re.compile(
    r"^linux-(image|binary|modules|headers|kbuild|base-\d|hwe-(?:[\d.]+-)?headers)[-0-9.]?"
)


def resolve_kernel(apt: AptRoot, recipe: Recipe, entry: DistributionEntry) -> ResolvedKernel:
    """The newest kernel that fits ``entry`` and has its headers, with all its packages.

    Raises ``SourceError`` with what there is instead if none fits.
    """
    flavour = entry.flavour or recipe.flavour
    releases = _offered_releases(apt, flavour)
    if entry.package is not None:
        wanted = entry.package.removeprefix("linux-image-").removeprefix("unsigned-")
        fitting = [release for release in releases if release == wanted]
    else:
        series = tuple(int(part) for part in entry.version.split("."))
        fitting = [r for r in releases if KernelVersion.parse(r).numbers[: len(series)] == series]
    for release in sorted(fitting, key=KernelVersion.parse, reverse=True):
        resolved = _resolve_release(apt, recipe, release, extra=entry.extra)
        if resolved is not None:
            return resolved
    if entry.extra and fitting:
        raise SourceError(
            f"{recipe.release} has no linux-modules-extra-{fitting[-1]}, which `extra` asks for",
            hint="Debian's kernels have all drivers with `flavour: amd64`, and no `extra`",
        )
    offered = ", ".join(sorted(releases, key=KernelVersion.parse)) or "none"
    raise SourceError(
        f"{recipe.release} offers no {flavour} kernel {entry.package or entry.version} "
        "that has its headers",
        hint=f"it has {offered}"[:600],
    )


def _offered_releases(apt: AptRoot, flavour: str) -> list[str]:
    """The kernels of a flavour, by what ``uname -r`` would say."""
    # No further word before the flavour: neither 6.1.0-57-rt-amd64 nor 6.12.9-rt-amd64 is
    # an "amd64". What a release has after a hyphen of its own begins with a digit or "rc".
    pattern = re.compile(rf"\d[\d.]*([+~][\w.+~]*)?(-(?:\d|rc\d)[\w.+~]*)*-{re.escape(flavour)}")
    found = set()
    for name in apt.names("linux-image-"):
        plain = name.replace("linux-image-unsigned-", "linux-image-").removesuffix("-unsigned")
        match = _IMAGE_NAME.match(plain)
        if match and pattern.fullmatch(match["release"]):
            found.add(match["release"])
    return sorted(found)


def _resolve_release(
    apt: AptRoot, recipe: Recipe, release: str, *, extra: bool = False
) -> ResolvedKernel | None:
    """The packages of one kernel; None where its headers are not to be had any more, or the
    ``extra`` modules that are asked for.
    """
    candidates = _image_names(release)
    more = (f"linux-modules-extra-{release}",) if extra else ()
    offered = apt.show((*candidates, f"linux-headers-{release}", *more))
    image = next((offered[name] for name in candidates if name in offered), None)
    headers = offered.get(f"linux-headers-{release}")
    if image is None or headers is None or any(name not in offered for name in more):
        return None
    todo = [image, headers, *(offered[name] for name in more)]
    parts = {package.name: package for package in todo}
    compiler = ""
    while todo:
        depends = [name for package in todo for name in package.depends]
        compiler = compiler or _compiler_of(depends)
        # The image is chosen: modules that go with either kind name the other one first.
        known = {*parts, *candidates}
        wanted = [name for name in depends if _PART.match(name) and name not in known]
        found = apt.show(wanted)
        if len(found) != len(set(wanted)):
            return None
        parts.update(found)
        todo = list(found.values())
    return ResolvedKernel(
        release=release,
        version=_upstream_version(release, image.version),
        origin=f"{recipe.distribution} {recipe.release}",
        parts=tuple(as_part(parts[name]) for name in sorted(parts)),
        compiler=compiler,
    )


def _image_names(release: str) -> tuple[str, ...]:
    """The packages that may hold a kernel, the best first."""
    # Unsigned first: the bootloader that a signature is for does not exist here, and
    # Ubuntu's signed package holds no more than the signature's copy of the same kernel.
    return (
        f"linux-image-unsigned-{release}",
        f"linux-image-{release}",
        f"linux-image-{release}-unsigned",  # Debian's, where nobody has signed it yet
    )


def _image_packages(apt: AptRoot, releases: Iterable[str]) -> dict[str, Package]:
    """The image packages of those kernels that have their headers too, by release."""
    names = {release: _image_names(release) for release in releases}
    wanted = [name for group in names.values() for name in group]
    wanted += [f"linux-headers-{release}" for release in names]
    # For each name that it does not know apt-cache tries patterns on every package there is.
    known = set(apt.names("linux-"))
    shown = apt.show([name for name in wanted if name in known])
    return {
        release: next(shown[name] for name in group if name in shown)
        for release, group in names.items()
        if f"linux-headers-{release}" in shown and any(name in shown for name in group)
    }


def _compiler_of(depends: Iterable[str]) -> str:
    """``gcc-12`` out of ``linux-compiler-gcc-12-x86`` or ``gcc-14-for-host``."""
    for name in depends:
        if match := re.search(r"\bgcc-\d+", name):
            return match[0]
    return ""


def _upstream_version(release: str, package_version: str) -> str:
    """The kernel's own version: Debian's package says more than its ABI name (6.1.0-56)."""
    from_package = re.match(r"(\d+\.\d+(?:\.\d+)?)", package_version)
    return from_package[1] if from_package else release
