"""One exact kernel, as a value: what ``lab.lock`` holds and what a run must be given.

A source (``adapters/sources``) turns an entry of ``lab.yaml`` into a ``ResolvedKernel``;
whatever is fetched or built afterwards is checked against it.
"""

from __future__ import annotations

from pydantic import Field

from orchestrator.plan.model import FileName, Line, Release, Sha256, Value, Version


class Part(Value):
    """A file that a kernel is made of: a binary package, a tarball, a tree."""

    name: FileName = Field(description="the package's or file's name")
    version: Line = Field(description="its version, as its source writes it")
    sha256: Sha256 = Field(description="the SHA-256 of the file, or of all files of a tree")
    size: int = Field(ge=0, description="bytes to fetch")
    place: Line | None = Field(
        default=None, description="where the archive keeps it, below the archive's root"
    )

    @property
    def label(self) -> str:
        """Name and version, as apt writes them."""
        return f"{self.name}={self.version}"


class ResolvedKernel(Value):
    """What an entry of the lab stands for: this kernel and no other."""

    release: Release = Field(description="what `uname -r` must say")
    version: Version = Field(description="the kernel's own version, by which ranges judge it")
    origin: Line = Field(description="where it comes from, for people")
    parts: tuple[Part, ...] = Field(description="what it is made of")
    compiler: str = Field(
        default="", description="what its headers were made for (`gcc-12`), where they say so"
    )
    recipe: str = Field(
        default="", description="a hash of what it is built with, for one that is built here"
    )
