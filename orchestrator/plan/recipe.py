"""Recipes: what a guest's userland is made of, one short file per release in ``images/``."""

from __future__ import annotations

from collections.abc import Set
from typing import Any, Literal

from pydantic import Field, model_validator

from orchestrator.plan.model import Name, RefusedError, Suite, Timestamp, Url, Value

PackageName = Name


class Keyring(Value):
    """Whose signatures the release's packages carry, and where a host without it gets it."""

    file: Name = Field(description="the keyring's file name in `/usr/share/keyrings`")
    package: PackageName = Field(description="the package that ships it")
    release: Name = Field(
        description="a Debian release that has the package, for a host that has not"
    )


class Recipe(Value):
    """A release of a distribution: its packages, its kernels' names, its keyring."""

    distribution: Literal["debian", "ubuntu"] = Field(description="whose release it is")
    release: Name = Field(description="the release's code name, as mmdebstrap knows it")
    also: tuple[Name, ...] = Field(
        (), description="further suites of the same archive that kernels may come from"
    )
    components: tuple[Name, ...] = Field(
        default=("main",), description="the archive's components that packages may come from"
    )
    archive: Url | None = Field(
        None, description="where its archive is, if the mirrors do not have it any more"
    )
    snapshot: Timestamp | None = Field(
        None, description="its archive as it was then, from Debian's snapshot service"
    )
    security: Suite | None = Field(
        None,
        description="the suite of its security updates, in the archive beside `archive` or "
        "`snapshot` whose name has `-security` after it",
    )
    ended: bool = Field(
        False,
        description="the release gets no more updates: its signed indexes may be past the date "
        "until which they call themselves fresh, and their key may have expired since",
    )
    keyring: Keyring = Field(description="who signs it")
    flavour: Name = Field(description="the kernel flavour taken unless a kernel names another")
    packages: tuple[PackageName, ...] = Field(
        min_length=1, description="what the guest has beside the release's essential packages"
    )
    kernel_packages: tuple[PackageName, ...] = Field(
        (),
        description="what building a kernel takes beside `packages`; installed in a second "
        "image that is made only when a kernel must be built",
    )

    @model_validator(mode="after")
    def _one_archive(self) -> Recipe:
        if self.archive and self.snapshot:
            raise RefusedError("`archive` and `snapshot` both say where it is: only one of them")
        if self.snapshot and self.distribution != "debian":
            raise RefusedError("the snapshot service has Debian alone: `snapshot` is not for this")
        if self.security and not (self.archive or self.snapshot):
            raise RefusedError(
                "`security` goes with `archive` or `snapshot`; without, it is where it always is"
            )
        return self

    @property
    def past(self) -> bool:
        """Whether its indexes are not expected to be fresh: it ended, or it is a moment ago."""
        return self.ended or self.snapshot is not None

    @property
    def whereabouts(self) -> tuple[str, ...]:
        """What it says of its archive's place: nothing where the tools know the mirrors."""
        known = {"archive": self.archive, "snapshot": self.snapshot, "security": self.security}
        return tuple(f"{key}: {value}" for key, value in known.items() if value is not None)

    def key(self, exclude: Set[str] = frozenset()) -> dict[str, Any]:
        """What it says, for naming what is made of it."""
        # A key that came later and is absent changes no name: nothing is made anew for it.
        return self.model_dump(exclude=set(exclude), exclude_none=True)

    def sources(self, snapshot_service: str) -> tuple[str, ...]:
        """Its archive as lines for apt; none where the tools know the mirrors."""
        if self.archive is not None:
            main = self.archive.rstrip("/")
            security = f"{main}-security"
        elif self.snapshot is not None:
            base = f"{snapshot_service.rstrip('/')}/archive"
            main = f"{base}/debian/{self.snapshot}"
            security = f"{base}/debian-security/{self.snapshot}"
        else:
            return ()
        components = " ".join(self.components)
        lines = [f"deb {main} {self.release} {components}"]
        if self.security is not None:
            lines.append(f"deb {security} {self.security} {components}")
        return tuple(lines)
