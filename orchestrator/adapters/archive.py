"""Archives of files: what is sent into guests, and what guests send back.

An archive from a guest is a stranger's. What is read of it is names and contents of plain files;
links, devices, folders and sparse files are passed over, and nothing is written here.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.foundation.errors import ConfigError

SKIPPED_FOLDERS = frozenset(
    {".git", ".hg", ".svn", "lab-results", ".kmod-lab", ".venv", "__pycache__"}
)
_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)


class ArchiveError(Exception):
    """What should be an archive is none, or is damaged; carries what is wrong with it."""


@dataclass(frozen=True)
class PlainFile:
    """A file of an archive. Its name is as it stands there, and leads nowhere by itself."""

    name: str
    content: bytes = field(repr=False)
    executable: bool = False
    """Whether its owner may run it."""


def read_plain_files(archive: bytes) -> Iterator[PlainFile]:
    """The plain files of a tar archive, in its order.

    Not of a compressed one, and no sparse files: neither may become more than was sent. Raises
    ``ArchiveError`` where it stops being an archive, after the files before that.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            for member in tar:
                if member.type not in _PLAIN or member.issparse():
                    continue
                source = tar.extractfile(member)
                assert source is not None, "it is a plain file"
                yield PlainFile(member.name, source.read(), bool(member.mode & 0o100))
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise ArchiveError(str(error)) from error


def pack_files(files: Iterable[tuple[str, Path]], *, limit: int, too_much: ConfigError) -> bytes:
    """Files as a tar archive, each under its name, in the order given; owners and times are not
    in it, so that the same files give the same bytes. Raises ``too_much`` for more than ``limit``
    bytes, before they are read.
    """
    out = io.BytesIO()
    total = 0
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, path in files:
            about = path.stat()
            total += about.st_size
            if total > limit:
                raise too_much
            data = path.read_bytes()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mode = 0o755 if about.st_mode & 0o100 else 0o644
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def files_below(root: Path, is_wanted: Callable[[str], bool]) -> list[tuple[str, Path]]:
    """The regular files below a folder whose plain name is wanted, each with its name from there.

    Without what tools leave (``SKIPPED_FOLDERS``). Links are followed only to files inside.
    """
    found = []
    for path in root.rglob("*"):
        parts = path.relative_to(root).parts
        if SKIPPED_FOLDERS & set(parts) or not is_wanted(path.name):
            continue
        if path.is_file() and path.resolve().is_relative_to(root):
            found.append(path)
    return [(str(path.relative_to(root)), path) for path in sorted(found)]
