"""What a lab's files look like from outside, to see that one of them has changed.

By size, time and inode alone: an editor writes a new file aside and renames it, and so it has
another inode even where the clock is coarse.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from orchestrator.adapters.archive import SKIPPED_FOLDERS
from orchestrator.adapters.kbuild import SKIPPED_ENDINGS
from orchestrator.plan.lock import lock_path
from orchestrator.plan.model import Lab

Stamp = tuple[int, int, int]
Snapshot = Mapping[Path, Stamp]
# What editors leave beside a file while it is open or being written: vim's swap file and its
# probe "4913", the locks of emacs, backups.
_ASIDE_STARTS = (".", "#")
_ASIDE_ENDS = ("~", "#", ".tmp")
_PROBE = "4913"


def take_snapshot(lab: Lab) -> Snapshot:
    """Every file that a lab depends on, and what it looks like now; absent ones are left out.

    Never raises for a file that goes meanwhile.
    """
    found = {}
    for path in _watched(lab):
        try:
            about = os.stat(path)
        except OSError:
            continue
        found[path] = (about.st_ino, about.st_size, about.st_mtime_ns)
    return found


def changed_paths(before: Snapshot, after: Snapshot) -> frozenset[Path]:
    """The files that are other ones, new, or gone."""
    return frozenset(path for path in {*before, *after} if before.get(path) != after.get(path))


def _watched(lab: Lab) -> Iterator[Path]:
    root = lab.path.parent
    yield lab.path
    yield lock_path(lab)
    for pattern in lab.file.scenarios:
        yield from (
            Path(os.path.realpath(root / name)) for name in glob.glob(pattern, root_dir=root)
        )
    for folder in lab.module_dirs.values():
        yield from _below(folder, SKIPPED_ENDINGS)
    for path in lab.program_paths.values():
        yield from _below(path) if path.is_dir() else (path,)
    if lab.images_dir:
        yield from _below(lab.images_dir)


def _below(root: Path, endings: tuple[str, ...] = ()) -> Iterator[Path]:
    """The files below a folder that count, without what tools leave."""
    for folder, inner, names in os.walk(root.resolve()):
        inner[:] = [name for name in inner if name not in SKIPPED_FOLDERS]
        for name in names:
            if not (name.endswith(endings) or _is_aside(name)):
                yield Path(folder, name)


def _is_aside(name: str) -> bool:
    return name == _PROBE or name.startswith(_ASIDE_STARTS) or name.endswith(_ASIDE_ENDS)
