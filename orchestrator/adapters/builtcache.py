"""Modules that were built, kept by the content of all that they were built of.

Both builders give the same bytes, so that it does not matter which of them filled an entry.
What is kept came out of a stranger's build: files by plain name, with a hash of each.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from orchestrator.adapters.cache import Cache, hash_of, sha256_of, write_json
from orchestrator.adapters.images import Image
from orchestrator.adapters.kbuild import (
    LOG,
    BuiltModule,
    Sources,
    is_kept,
    make_command,
    read_module,
)
from orchestrator.adapters.kernels import Kernel
from orchestrator.foundation.errors import BuildError

FORMAT = 1
KIND = "modules"
_ABOUT = "built.json"


def build_keys(image: Image, kernel: Kernel, folders: Sequence[Sources]) -> tuple[str, ...]:
    """What the build of each folder depends on, in a name.

    A folder can read those that are built before it (``KBUILD_EXTRA_SYMBOLS``), so they count.
    """
    keys = []
    # The compiler is one of the image's packages, each with its hash.
    parts: list[object] = [FORMAT, kernel.key, image.key, image.packages]
    for sources in folders:
        command = make_command(kernel.release, sources)
        parts += [sources.name, sources.sha256, command]
        keys.append(f"{kernel.release}-{hash_of(*parts)}")
    return tuple(keys)


def take_built(cache: Cache, key: str, output_dir: Path) -> tuple[BuiltModule, ...] | None:
    """The modules of an earlier build, copied with its log to ``output_dir``.

    None where there is none, or it is damaged.
    """
    folder = cache.use(KIND, key)
    if folder is None:
        return None
    try:
        files = json.loads((folder / _ABOUT).read_text())["files"]
        for name, digest in files.items():
            if not (name == LOG or is_kept(name)) or sha256_of(folder / name) != digest:
                return None
        output_dir.mkdir(parents=True, exist_ok=True)
        for name in files:
            shutil.copyfile(folder / name, output_dir / name)
        modules = [name for name in sorted(files) if name.endswith(".ko")]
        return tuple(read_module(output_dir / name) for name in modules) or None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, BuildError):
        return None  # damaged, or being replaced: it is built anew


def keep_built(cache: Cache, key: str, output_dir: Path) -> None:
    """Keep what a build left in ``output_dir``; in place of a damaged entry, if there is one."""

    def make(folder: Path) -> None:
        files = {}
        for path in sorted(output_dir.iterdir()):
            if path.name == LOG or is_kept(path.name):
                shutil.copyfile(path, folder / path.name)
                files[path.name] = sha256_of(folder / path.name)
        write_json(folder / _ABOUT, {"format": FORMAT, "files": files})

    cache.replace(KIND, key, make)
