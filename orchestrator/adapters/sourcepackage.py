"""The source of a distribution's own kernels, out of its ``linux-source-…`` packages."""

from __future__ import annotations

import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from orchestrator.adapters.apt import AptRoot, Package, as_part, ensure_apt_root
from orchestrator.adapters.cache import Cache, hash_of, watch_room
from orchestrator.adapters.fetching import Tell, tell_nobody
from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import SourceError
from orchestrator.plan.kernel import Part
from orchestrator.plan.model import did_you_mean
from orchestrator.plan.recipe import Recipe

FORMAT = 1
PREFIX = "linux-source-"
_TARBALL = re.compile(r"linux-source-[\w.]+\.tar(\.xz|\.bz2|\.gz)")


def resolve_source_package(cache: Cache, recipe: Recipe, name: str) -> Part:
    """The newest version of a release's package ``name``, by the index at hand.

    Raises ``SourceError``, which names the packages that there are.
    """
    return as_part(_find(ensure_apt_root(cache, recipe), recipe, name))


def fetch_source_package(
    cache: Cache, recipe: Recipe, wanted: Part, tell: Tell = tell_nobody
) -> Path:
    """The tarball in this package, from the cache where it has been fetched.

    Blocks for the download (150 MB). Raises ``SourceError``.
    """

    def make(folder: Path) -> None:
        (deb,) = ensure_apt_root(cache, recipe).download((wanted,), folder, tell)
        _take_tarball(deb, folder)

    key = f"{wanted.name}-{hash_of(FORMAT, wanted.sha256)}"
    folder = cache.ensure("source-packages", key, make)
    return next(path for path in folder.iterdir() if _TARBALL.fullmatch(path.name))


def _find(apt: AptRoot, recipe: Recipe, name: str) -> Package:
    package = apt.show((name,)).get(name)
    if package is not None:
        return package
    offered = sorted(each for each in apt.names(PREFIX) if each[len(PREFIX)].isdigit())
    raise SourceError(
        f"{recipe.release} has no package {name}",
        hint=did_you_mean(name, offered) or f"it has {', '.join(offered) or 'none such'}",
    )


def _take_tarball(deb: Path, folder: Path) -> None:
    unpacked = folder / "unpacked"
    done = process.run(
        (process.find_tool("dpkg-deb"), "-x", str(deb), str(unpacked)),
        deadline=Deadline.after(600, f"unpacking {deb.name}"),
        watch=watch_room(folder),
    )
    if done.status != 0:
        raise SourceError(f"cannot unpack {deb.name}: {done.last_lines()}")
    found = list(_tarballs(unpacked / "usr/src"))
    if len(found) != 1:
        raise SourceError(f"{deb.name} holds {len(found)} tarballs of a kernel's source, not one")
    found[0].rename(folder / found[0].name)
    shutil.rmtree(unpacked)
    deb.unlink()


def _tarballs(folder: Path) -> Iterator[Path]:
    """Ubuntu's lies one folder deeper, with a link to it."""
    for path in (*folder.glob("*"), *folder.glob("*/*")):
        if _TARBALL.fullmatch(path.name) and stat.S_ISREG(path.lstat().st_mode):
            yield path
