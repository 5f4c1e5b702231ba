"""A lab as parts that can be sent: each is an archive of files, named by its hash.

A folder of modules is a part, and so is a program: who has them already is not sent them again.
What is opened elsewhere is a lab with the same files, so that all hashes that a run's results
hold (``policy/resuming.find_inputs``) come out the same.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from orchestrator.adapters.archive import (
    ArchiveError,
    files_below,
    pack_files,
    read_plain_files,
)
from orchestrator.adapters.cache import Cache, hash_of
from orchestrator.adapters.kbuild import load_sources
from orchestrator.adapters.programs import load_program
from orchestrator.foundation.errors import ConfigError, HostError, LabError, UsageError
from orchestrator.plan.lock import lock_path
from orchestrator.plan.model import Lab
from orchestrator.plan.visible import visible

KIND = "labs"
MAX_LAB_BYTES = 64 << 20
_FORMAT = 1


@dataclass(frozen=True)
class Part:
    """Files of a lab: ``place`` is the folder that they are below, from the lab's own."""

    place: str
    sha256: str
    archive: bytes = field(repr=False)

    @property
    def label(self) -> tuple[str, str]:
        """What names it: the same label is the same files in the same place."""
        return self.place, self.sha256


def pack_lab(lab: Lab) -> tuple[Part, ...]:
    """All that is needed to play a lab, without its kernels. Raises ``ConfigError``.

    Each file is read once.
    """
    return tuple(_parts(lab))


def _parts(lab: Lab) -> Iterator[Part]:
    root = lab.path.parent
    paths = [lab.path, *dict.fromkeys(each.path for each in lab.scenarios)]
    if lock_path(lab).exists():
        paths.insert(1, lock_path(lab))
    if lab.images_dir is not None:
        paths += [path for _, path in files_below(lab.images_dir, lambda _: True)]
    named = [(Path(os.path.relpath(path, root)).as_posix(), path) for path in paths]
    too_much = ConfigError(f"{lab.path.name} and what it names hold more than a lab does")
    yield _part(".", pack_files(named, limit=MAX_LAB_BYTES, too_much=too_much))
    without = frozenset((*paths, lock_path(lab)))
    for name, folder in lab.module_dirs.items():
        entry = lab.file.modules[name]
        yield _part(entry.path, load_sources(name, folder, entry, without).archive)
    for name, path in lab.program_paths.items():
        place = name if path.is_dir() else str(PurePosixPath(name).parent)
        yield _part(place, load_program(name, path, False).archive)


def _part(place: str, archive: bytes) -> Part:
    return Part(place, hashlib.sha256(archive).hexdigest(), archive)


def open_lab(cache: Cache, parts: Sequence[Part]) -> Path:
    """The folder of a lab that was sent, as an entry of the cache.

    Raises ``HostError`` where a part is not what its hash says, or cannot be written.
    """

    def make(folder: Path) -> None:
        for part in parts:
            _unpack(part, folder)

    return cache.ensure(KIND, hash_of(_FORMAT, [part.label for part in parts]), make)


def _unpack(part: Part, folder: Path) -> None:
    if hashlib.sha256(part.archive).hexdigest() != part.sha256:
        raise HostError(f"what was sent of {visible(part.place)} is not what its hash says")
    top = folder / safe_path(part.place)
    try:
        for file in read_plain_files(part.archive):
            path = top / safe_path(file.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.content)
            path.chmod(0o755 if file.executable else 0o644)
    except ArchiveError as error:
        raise HostError(f"what was sent of {visible(part.place)} is damaged: {error}") from error


def safe_path(text: str) -> PurePosixPath:
    """A relative path that leads nowhere but below. Raises ``HostError`` for any other."""
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or "\0" in text:
        raise HostError(f"an archive holds {visible(text)!r}, which leads out of it")
    return path


def refuse_unsendable(lab: Lab, error: LabError) -> UsageError:
    """What to say where a lab does not come out the same elsewhere."""
    return UsageError(
        f"{visible(lab.path.name)} cannot be played on a cluster: {error.message}",
        hint="what it names must be plain files and folders below its own; links are not sent",
    )
