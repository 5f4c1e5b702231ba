"""Kernels built here, from a release of kernel.org, a distribution's source, or one's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from orchestrator.adapters.cache import hash_of
from orchestrator.adapters.kernelbuild import BuildPlan, build_kernel, load_wish, resolve_build
from orchestrator.adapters.kernelorg import KernelOrg, ensure_developer_keys
from orchestrator.adapters.kernelsource import SourceTree, inspect_source
from orchestrator.adapters.sourcepackage import fetch_source_package, resolve_source_package
from orchestrator.adapters.sources import Offer, SourceContext
from orchestrator.foundation.errors import LabError, SourceError
from orchestrator.plan.kernel import Part, ResolvedKernel
from orchestrator.plan.model import KernelEntry, LabPath, RefusedError
from orchestrator.plan.paths import shipped_images_dir, tool_dir
from orchestrator.plan.quirks import QUIRKS
from orchestrator.plan.recipes import load_shipped_recipe
from orchestrator.plan.version import KernelVersion

_RELEASE = re.compile(r"\d+\.\d+(\.\d+)?(-rc\d+)?")
_PACKAGE = re.compile(r"linux-source-[\w.]+")
# The release of Debian whose package of the kernel's source brings the developers' keys.
KEYS_RELEASE = "trixie"


def _a_source(text: str) -> str:
    if _RELEASE.fullmatch(text) or _PACKAGE.fullmatch(text) or "/" in text:
        return text
    raise RefusedError(
        f"{text!r} is no source of a kernel",
        hint="a release ('5.5.19'), a package of the image's release ('linux-source-6.1'), "
        "or the path of a folder or tarball, with a '/' in it ('./linux')",
    )


class BuiltEntry(KernelEntry):
    """A kernel that is built from source, with the compiler of the image's release."""

    key: ClassVar[str] = "source"
    source: Annotated[LabPath, AfterValidator(_a_source)] = Field(
        description="a release of kernel.org (`5.5.19`), a source package of the image's release "
        "(`linux-source-6.1`), or the path of a tarball or folder (`./linux`)",
    )
    flavour: Literal["default", "debug", "kcsan"] = Field(
        default="default",
        description="which of the configurations in `images/config/` it is built with",
    )
    config: tuple[LabPath, ...] = Field(
        default=(),
        description="files with further options, relative to lab.yaml; the last word is theirs",
    )

    def version_hint(self) -> KernelVersion | None:
        """The number of a release, or of a source package."""
        text = self.source.removeprefix("linux-source-")
        return KernelVersion.parse(text) if _RELEASE.fullmatch(text) else None

    def words(self, release: str) -> str:
        """What it asks for."""
        flavour = "" if self.flavour == "default" else f", {self.flavour}"
        return f"{self.source} built in {release}{flavour}"


class BuiltSource:
    """Source code, and the toolchain of an image in a box."""

    entry: ClassVar[type[KernelEntry]] = BuiltEntry

    def floats(self, entry: KernelEntry) -> bool:
        """A file or folder of this machine is looked at each time."""
        assert isinstance(entry, BuiltEntry)
        return "/" not in entry.source

    def local_inputs(self, context: SourceContext, entry: KernelEntry) -> str:
        """The fragments of its configuration, and what the lab knows of compilers."""
        assert isinstance(entry, BuiltEntry)
        try:
            wish = load_wish(entry.flavour, _extra(context, entry), shipped_images_dir() / "config")
        except LabError:
            return ""  # resolving it says so
        return hash_of(dict(wish.options), [(q.cc, q.host_cc) for q in QUIRKS])

    def resolve(self, context: SourceContext, entry: KernelEntry) -> ResolvedKernel:
        """Which source it is, and how it will be built; fetches the source to know."""
        assert isinstance(entry, BuiltEntry)
        part, source = _get(context, entry, None)
        return _resolved(context, entry, part, source)

    def fill(
        self, context: SourceContext, entry: KernelEntry, kernel: ResolvedKernel, tree: Path
    ) -> None:
        """Build it; minutes."""
        assert isinstance(entry, BuiltEntry)
        part, source = _get(context, entry, kernel.parts[0])
        now = _resolved(context, entry, part, source)
        if now != kernel:
            raise SourceError(
                f"{entry.source} is not what it was when {kernel.release} was resolved: "
                f"{_difference(kernel, now)}",
                hint="`lab run --update`, or with a lock `lab lock --update`, takes it as it is",
            )
        build_kernel(
            context.cache,
            _plan(context, entry, source),
            tree,
            config_dir=shipped_images_dir() / "config",
            tool_dir=tool_dir(),
            log_path=context.log_path(f"build-{kernel.release}"),
            said=context.say,
        )

    def offers(self, context: SourceContext, entry: KernelEntry) -> tuple[Offer, ...]:
        """Only itself: kernel.org's list of releases is not asked."""
        return ()

    def lost(
        self, context: SourceContext, entry: KernelEntry, kernel: ResolvedKernel
    ) -> tuple[str, ...]:
        """Nothing that could be known without fetching it."""
        return ()

    def update(self, context: SourceContext, entry: KernelEntry) -> None:
        """There is no index of its own."""


def _get(context: SourceContext, entry: BuiltEntry, wanted: Part | None) -> tuple[Part, SourceTree]:
    """The source of an entry; with ``wanted``, that one of its versions."""
    if _RELEASE.fullmatch(entry.source):
        context.say(f"fetching Linux {entry.source}")
        keys = ensure_developer_keys(context.cache, load_shipped_recipe(KEYS_RELEASE))
        release = KernelOrg(context.cache, keys, tell=context.tell).fetch(entry.source)
        return _inspect(context, release.path, f"linux-{entry.source}", entry.source)
    if _PACKAGE.fullmatch(entry.source):
        package = wanted or resolve_source_package(context.cache, context.recipe, entry.source)
        context.say(f"fetching {package.label}")
        path = fetch_source_package(context.cache, context.recipe, package, context.tell)
        return package, inspect_source(context.cache, path)
    context.say(f"reading {entry.source}")
    path = context.locate(entry.source)
    return _inspect(context, path, "source", "")


def _inspect(
    context: SourceContext, path: Path, name: str, version: str
) -> tuple[Part, SourceTree]:
    source = inspect_source(context.cache, path)
    size = path.stat().st_size if path.is_file() else 0
    part = Part(name=name, version=version or source.version, sha256=source.digest, size=size)
    return part, source


def _plan(context: SourceContext, entry: BuiltEntry, source: SourceTree) -> BuildPlan:
    return BuildPlan(source, context.recipe, entry.flavour, _extra(context, entry))


def _extra(context: SourceContext, entry: BuiltEntry) -> tuple[Path, ...]:
    return tuple(context.locate(text) for text in entry.config)


def _resolved(
    context: SourceContext, entry: BuiltEntry, part: Part, source: SourceTree
) -> ResolvedKernel:
    release, how = resolve_build(_plan(context, entry, source), shipped_images_dir() / "config")
    try:
        return ResolvedKernel(
            release=release,
            version=source.version,
            origin=f"{entry.source}, built in {context.recipe.release}",
            parts=(part,),
            recipe=how,
        )
    except ValueError:
        raise SourceError(
            f"{entry.source} would be a kernel that calls itself {release!r:.100}",
            hint="a release has letters, digits and '.', '_', '+', '~', '-': look at "
            "CONFIG_LOCALVERSION, and at files named localversion",
        ) from None


def _difference(was: ResolvedKernel, now: ResolvedKernel) -> str:
    if was.parts != now.parts:
        return f"its SHA-256 was {was.parts[0].sha256:.12}…, and is {now.parts[0].sha256:.12}…"
    if was.release != now.release:
        return f"it would be {now.release}"
    return "it would be built otherwise: its configuration, or the image's recipe, has changed"


SOURCE = BuiltSource()
