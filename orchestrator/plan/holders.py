"""Who holds a module that cannot be unloaded, from what ``images/guest/lab-holders`` found."""

from __future__ import annotations

import re
from collections.abc import Iterator, Set

from orchestrator.plan.visible import clip, decode, visible

MAX_HOLDERS = 10
_MAX_TEXT = 120
# The count of a module whose unload has begun: nobody holds it, its own code does not end
# (Linux 6.1, kernel/module/main.c, module_refcount()).
_GOING = "-1"
_FILE = re.compile(r"/proc/(\d+)/(fd|cwd|map_files)(?:/.*)?", re.DOTALL)
_HOW = {"fd": "through", "cwd": "standing in", "map_files": "with a map of"}
# Where files are that can be a module's own, once they are gone. Not /dev: shared memory is
# "/dev/zero (deleted)" there.
_DELETED = re.compile(r"/(proc|sys)/.* \(deleted\)", re.DOTALL)


def find_holders(data: bytes, module: str, made: Set[str]) -> tuple[str, ...]:
    """Each holder that can be seen, in words; if there is none, what the kernel counts.

    ``made`` are the names that have come since before the module was loaded: a process that
    uses one of them, or a file that is gone already, holds the module. Nothing at all is
    known of a module that the guest says nothing of, and nobody holds one that is going: no
    words then.
    """
    *fields, _ = decode(data).split("\0")
    paths = dict(zip(fields[::2], fields[1::2], strict=False))
    found = [*_above(paths, module), *dict.fromkeys(_processes(paths, made))]
    if len(found) > MAX_HOLDERS:
        found[MAX_HOLDERS:] = [f"{len(found) - MAX_HOLDERS} more"]
    count = paths.get(f"/sys/module/{module}/refcnt")
    if not found and count not in (None, _GOING):
        found = [f"nobody that can be seen (its reference count is {_shown(str(count))})"]
    return tuple(found)


def _above(paths: dict[str, str], module: str) -> Iterator[str]:
    folder = f"/sys/module/{module}/holders/"
    for path in paths:
        if path.startswith(folder):
            yield f"the module {_shown(path.removeprefix(folder))}"


def _processes(paths: dict[str, str], made: Set[str]) -> Iterator[str]:
    for path, target in paths.items():
        file = _FILE.fullmatch(path)
        if file is not None and (_DELETED.fullmatch(target) or _is_made(target, made)):
            pid, how = file[1], _HOW[file[2]]
            name = _shown(paths.get(f"/proc/{pid}/comm", "?"))
            yield f"{name} (pid {pid}) {how} {_shown(target)}"


def _is_made(target: str, made: Set[str]) -> bool:
    while target:
        if target in made:
            return True
        target = target.rpartition("/")[0]
    return False


def _shown(text: str) -> str:
    return clip(visible(text), _MAX_TEXT)
