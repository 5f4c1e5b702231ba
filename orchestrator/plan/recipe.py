"""Recipes: what a guest's userland is made of, one short file per release in ``images/``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from orchestrator.plan.model import Name, Value

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
    ended: bool = Field(
        False,
        description="the release gets no more updates, so that its signed indexes may be past "
        "the date until which they call themselves fresh; signatures are verified all the same",
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
