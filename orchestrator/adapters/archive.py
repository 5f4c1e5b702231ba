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
_BLOCK = 512
_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)
_SPARSE = tarfile.GNUTYPE_SPARSE
_LONG_NAME = tarfile.GNUTYPE_LONGNAME
_PAX = tarfile.XHDTYPE
# What an honest header says of the next member: a path, and some times and owners.
_MAX_ABOUT = 64 << 10
# Links, devices, folders and pipes: whatever size they claim, nothing stands behind them.
_BARE = tuple(bytes([byte]) for byte in b"123456")
# What says something of the member behind it, or of all: a long link's target, comments.
_ABOUT_NEXT = (tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)


class ArchiveError(Exception):
    """What should be an archive is none, or is damaged; carries what is wrong with it."""


@dataclass(frozen=True)
class PlainFile:
    """A file of an archive. Its name is as it stands there, and leads nowhere by itself."""

    name: str
    content: bytes = field(repr=False)


def read_plain_files(archive: bytes) -> Iterator[PlainFile]:
    """The plain files of a tar archive, in its order; names as in GNU's, POSIX's and older ones.

    Not of a compressed one, and no sparse files: neither may become more than was sent. One pass,
    in time that the archive's length bounds. ``tarfile`` of Python's library is not used: of a
    stranger's archive it can take hours for 16 MiB (digits in a pax header, without letting other
    threads go on), or end in ``RecursionError`` (headers that stand for the next; 3.11 to 3.13).
    Raises ``ArchiveError`` where it stops being an archive, after the files before that.
    """
    name, is_plain = None, True
    for header, kind, content in _members(archive):
        if kind == _LONG_NAME:
            name = content.partition(b"\0")[0]
        elif kind == _PAX:
            found = _read_pax(content)
            name, is_plain = found.get(b"path", name), not any(map(_changes_size, found))
        elif kind not in _ABOUT_NEXT:
            stored = name if name is not None else _name_in(header)
            is_folder = kind == tarfile.AREGTYPE and stored.endswith(b"/")
            if kind in _PLAIN and is_plain and not is_folder:
                yield PlainFile(stored.decode("utf-8", "surrogateescape"), content)
            name, is_plain = None, True


def _members(archive: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """All that is in it: the header, its kind, and what stands behind it."""
    if not archive:
        raise ArchiveError("it is empty")
    offset = 0
    while offset < len(archive):
        header = archive[offset : offset + _BLOCK]
        if header == bytes(_BLOCK):
            return
        _check_header(header, offset)
        kind = header[156:157]
        size = 0 if kind in _BARE else _size_in(header, offset)
        if kind in (_LONG_NAME, _PAX) and size > _MAX_ABOUT:
            raise ArchiveError(f"there are {size} bytes about the file at {offset}")
        offset += _BLOCK
        if kind == _SPARSE:
            offset = _behind_map(archive, header, offset)
        end = offset + -(-size // _BLOCK) * _BLOCK
        if end > len(archive):
            raise ArchiveError(f"it ends within a file, of which it has {len(archive) - offset}")
        yield header, kind, archive[offset : offset + size]
        offset = end


def _check_header(header: bytes, offset: int) -> None:
    """Raise ``ArchiveError`` for what is none: its bytes add up to what it says."""
    if len(header) < _BLOCK:
        raise ArchiveError(f"it ends within a header, at {offset}")
    rest = header[:148] + 8 * b" " + header[156:]
    signed = sum(rest) - 256 * sum(byte > 127 for byte in rest)  # of older tars
    if _octal(header[148:156], offset) not in (sum(rest), signed):
        raise ArchiveError(f"there is no header at {offset}")


def _octal(field: bytes, offset: int) -> int:
    digits = field.partition(b"\0")[0].strip(b" ")
    if digits.strip(b"01234567"):
        raise ArchiveError(f"the header at {offset} has {digits[:20]!r} for a number")
    return int(digits or b"0", 8)


def _size_in(header: bytes, offset: int) -> int:
    field = header[124:136]
    if field[0] == 0x80:  # GNU's, for what is larger
        return int.from_bytes(field[1:], "big")
    return _octal(field, offset)


def _name_in(header: bytes) -> bytes:
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0]
    # In GNU's own headers something else stands there.
    return prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name


def _behind_map(archive: bytes, header: bytes, offset: int) -> int:
    """Where the content of a sparse file begins: more of the map of its holes may come before."""
    more = header[482]
    while more:
        block = archive[offset : offset + _BLOCK]
        if len(block) < _BLOCK:
            raise ArchiveError(f"it ends within the map of a sparse file, at {offset}")
        more, offset = block[504], offset + _BLOCK
    return offset


def _read_pax(content: bytes) -> dict[bytes, bytes]:
    """The records of a header in POSIX's form, ``LENGTH KEY=VALUE``; what is none ends them."""
    found = {}
    at = 0
    while at < len(content):
        digits, blank, _ = content[at : at + 21].partition(b" ")
        if not (blank and digits.isdigit() and len(digits) + 1 < int(digits)):
            break
        key, _, value = content[at + len(digits) + 1 : at + int(digits)].partition(b"=")
        found[key] = value.removesuffix(b"\n")
        at += int(digits)
    return found


def _changes_size(key: bytes) -> bool:
    """Whether such a record says that the file is another than the one that is stored."""
    return key == b"size" or key.startswith(b"GNU.sparse.")


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
