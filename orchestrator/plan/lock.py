"""``lab.lock``: which kernels and images exactly a lab is played on, by hash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from orchestrator.foundation.errors import ConfigError
from orchestrator.plan.kernel import ResolvedKernel
from orchestrator.plan.labfile import validate_document
from orchestrator.plan.model import KernelEntry, Lab, Name, PackageLine, Sha256, Value
from orchestrator.plan.yamlsource import load_yaml, render_yaml

LOCK_FILE = "lab.lock"
_HEADER = """\
# Written by `lab lock`; `lab run` uses exactly this. Keep it under version control.
"""


def _in_order(lines: tuple[str, ...]) -> tuple[str, ...]:
    """A list that was merged by hand means the same in any order."""
    return tuple(sorted(set(lines)))


class LockedImage(Value):
    """A guest's userland: every package that is installed in it."""

    packages: Annotated[tuple[PackageLine, ...], AfterValidator(_in_order)] = Field(
        description="`name=version sha256:…`, by name"
    )


class LockedKernel(Value):
    """A kernel: what was asked for, and what that is."""

    asked: Mapping[Name, Any] = Field(description="its entry in `lab.yaml`")
    kernel: ResolvedKernel
    vmlinuz: Sha256 = Field(description="the SHA-256 of the kernel file")
    config: Sha256 = Field(description="the SHA-256 of its configuration")
    compiler: str = Field(default="", description="what built it")


class Lock(Value):
    """The file."""

    format: Literal[1] = 1
    images: Mapping[Name, LockedImage]
    kernels: Mapping[Name, LockedKernel]


@dataclass(frozen=True)
class Pinned:
    """What the lock holds of one kernel of a run."""

    kernel: LockedKernel
    image: LockedImage


def lock_path(lab: Lab) -> Path:
    """Where the lab's lock is, or would be."""
    return lab.path.with_name(LOCK_FILE)


def load_lock(lab: Lab) -> Lock | None:
    """The lab's lock; None if it has none. Raises ``ConfigError`` for a file that is wrong."""
    path = lock_path(lab)
    return validate_document(Lock, load_yaml(path)) if path.exists() else None


def render_lock(lock: Lock) -> str:
    """The file's text."""
    values = lock.model_dump(mode="json", exclude_defaults=True)
    return _HEADER + render_yaml({"format": lock.format, **values})


def asked(entry: KernelEntry) -> dict[str, Any]:
    """What an entry asks for, as the lock repeats it and as the reader gives it back.

    ``optional`` is not part of it: whether a kernel may be skipped does not change which it is.
    """
    dump = entry.model_dump(mode="json", exclude_defaults=True, exclude={"optional"})
    return {key: _frozen(value) for key, value in dump.items()}


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def find_pinned(lab: Lab, lock: Lock, name: str) -> Pinned:
    """What the lock holds of a kernel. Raises ``ConfigError`` where it does not fit the lab."""
    entry = lab.file.kernels[name]
    locked = lock.kernels.get(name)
    if locked is None:
        raise _unfit(lab, f"kernel {name!r} of {lab.path.name} is not in {LOCK_FILE}")
    if dict(locked.asked) != asked(entry):
        was, now = _shown(locked.asked), _shown(asked(entry))
        raise _unfit(lab, f"kernel {name!r} was locked as {was}, {lab.path.name} now says {now}")
    if entry.image not in lock.images:
        raise _unfit(lab, f"image {entry.image!r} is not in {LOCK_FILE}")
    return Pinned(locked, lock.images[entry.image])


def _unfit(lab: Lab, message: str) -> ConfigError:
    return ConfigError(
        f"{message}: nothing is put in its place",
        hint=f"`lab lock` brings {lock_path(lab).name} up to date, and keeps what fits",
    )


def _shown(entry: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{key}: {value}" for key, value in entry.items()) + "}"


def changed_packages(locked: tuple[str, ...], found: tuple[str, ...]) -> tuple[str, ...]:
    """What differs between two lists of packages, in words."""
    was, now = (dict(line.split("=", 1) for line in lines) for lines in (locked, found))
    return tuple(
        f"{name}: {_change(was.get(name), now.get(name))}"
        for name in sorted(was.keys() | now.keys())
        if was.get(name) != now.get(name)
    )


def _change(was: str | None, now: str | None) -> str:
    versions = ["none" if text is None else text.split(" ", 1)[0] for text in (was, now)]
    if versions[0] == versions[1]:
        return f"another {versions[0]} than the locked one, by its hash"
    return f"locked {versions[0]}, found {versions[1]}"
