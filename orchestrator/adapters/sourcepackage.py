"""The source of a distribution's own kernels, out of its ``linux-source-…`` packages."""

from __future__ import annotations

import json
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from orchestrator.adapters.cache import Cache, hash_of, watch_room, write_json
from orchestrator.adapters.distribution import AptRoot, Package, ensure_apt_root
from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import SourceError
from orchestrator.plan.model import did_you_mean
from orchestrator.plan.recipe import Recipe

FORMAT = 1
PREFIX = "linux-source-"
_TARBALL = re.compile(r"linux-source-[\w.]+\.tar(\.xz|\.bz2|\.gz)")


def fetch_source_package(cache: Cache, recipe: Recipe, name: str) -> Path:
    """The tarball in a release's package ``name``, from the cache where it has been fetched.

    The package's newest version is taken when it is first asked for, and again after
    ``lab run --update``; its signature is verified. Blocks for the download (150 MB).
    Raises ``SourceError``, which names the packages that there are.
    """
    package = _load(cache, recipe, name)
    if package is None:
        package = _find(ensure_apt_root(cache, recipe), recipe, name)
        write_json(_path(cache, recipe, name), asdict(package))
    wanted = package

    def make(folder: Path) -> None:
        (deb,) = ensure_apt_root(cache, recipe).download((wanted,), folder)
        _take_tarball(deb, folder)

    key = f"{name}-{hash_of(FORMAT, wanted.sha256)}"
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


def _path(cache: Cache, recipe: Recipe, name: str) -> Path:
    key = hash_of(recipe.release, recipe.also, recipe.components)
    return cache.root / "resolved" / f"{recipe.release}-{name}-{key}.json"


def _load(cache: Cache, recipe: Recipe, name: str) -> Package | None:
    try:
        raw = json.loads(_path(cache, recipe, name).read_text())
        return Package(**{**raw, "depends": tuple(raw["depends"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None  # never asked, or damaged: ask again
