"""Evidence that comes from another machine: a folder as an archive, and back.

Guests had their hand in what is in it, and the machine that sends it may be anybody's. Names are
made safe before anything is written, and nothing that is there is followed or replaced by a link.
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from orchestrator.adapters.archive import ArchiveError, PlainFile, read_plain_files
from orchestrator.adapters.cache import disk_error
from orchestrator.foundation.errors import HostError
from orchestrator.plan.visible import visible

MAX_EVIDENCE_BYTES = 1 << 30
"""Of one share of a kernel's cells. A cell that passed has some 13 kB."""
MAX_FILES = 1 << 18
MAX_DEPTH = 32


class EvidenceError(HostError):
    """What was sent is no evidence: it is damaged, or leads elsewhere."""


def pack_evidence(folder: Path, is_wanted: Callable[[PurePosixPath], bool]) -> bytes:
    """The plain files below a folder as a tar archive, those that are wanted by their path from
    there. What a guest's QEMU left that is no plain file (sockets, links) is not in it.

    Raises ``HostError`` for more than ``MAX_EVIDENCE_BYTES``, and where the disk fails.
    """
    out = io.BytesIO()
    total = 0
    try:
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for path in _plain_files(folder):
                name = PurePosixPath(path.relative_to(folder))
                if not is_wanted(name):
                    continue
                data = path.read_bytes()
                total += len(data)
                if total > MAX_EVIDENCE_BYTES:
                    raise HostError(f"there is more than {MAX_EVIDENCE_BYTES >> 20} MiB of it")
                info = tarfile.TarInfo(str(name))
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    except OSError as error:
        raise disk_error(error, folder) from error
    return out.getvalue()


def _plain_files(folder: Path) -> Iterator[Path]:
    for top, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(top, name)
            if stat.S_ISREG(path.lstat().st_mode):
                yield path


def unpack_evidence(
    archive: bytes, target: Path, rename: Callable[[PurePosixPath], PurePosixPath]
) -> None:
    """Write what ``pack_evidence`` packed below ``target``, each file where ``rename`` puts it.

    Raises ``EvidenceError`` for an archive that is damaged, or has a name that leads elsewhere;
    what came before it in the archive has been written then. Raises ``HostError`` where the disk
    fails.
    """
    try:
        for number, file in enumerate(read_plain_files(archive)):
            if number >= MAX_FILES:
                raise EvidenceError(f"the evidence has more than {MAX_FILES} files")
            _write(file, target, rename(_checked(file.name)))
    except ArchiveError as error:
        raise EvidenceError(f"the evidence that was sent is damaged: {error}") from error
    except OSError as error:
        raise disk_error(error, target, "--results /some/folder puts the results elsewhere") from (
            error
        )


def _checked(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    leads_out = path.is_absolute() or ".." in path.parts
    if leads_out or not path.parts or len(path.parts) > MAX_DEPTH or not name.isprintable():
        raise EvidenceError(f"the evidence holds {visible(name)!r}, which no evidence does")
    return path


def _write(file: PlainFile, target: Path, name: PurePosixPath) -> None:
    path = target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name[:200]}.new")
    aside.unlink(missing_ok=True)
    aside.write_bytes(file.content)
    aside.replace(path)
