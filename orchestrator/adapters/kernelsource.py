"""A kernel's source, as a folder or a tarball: what it is, without running anything of it.

Whoever wrote it, it is a stranger's: archives are read within bounds, links are not
followed, and git is not asked, because a repository's own configuration can name programs.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import io
import json
import lzma
import os
import re
import stat
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

from orchestrator.adapters.cache import Cache, hash_of, sha256_of, write_json
from orchestrator.foundation import process
from orchestrator.foundation.errors import SourceError
from orchestrator.plan.version import KernelVersion

FORMAT = 1
# Linux 7 has 95,000 files and 1.7 GB of them; its longest name has some 120 letters.
MAX_FILES = 300_000
MAX_BYTES = 6 << 30
MAX_ONE_READ = 64 << 20
MAX_SMALL_FILE = 1 << 20
SKIPPED = frozenset({".git", ".hg", ".svn"})
# What a build in place leaves; the kernel's own Makefile refuses O= on sight of these.
BUILT = (".config", "include/config", "arch/x86/include/generated")
_NEEDED = ("Makefile", "Kbuild", "Kconfig", "arch/x86/Makefile", "scripts/Makefile.build")
MRPROPER = "`make mrproper` there cleans it, and removes its .config; or name a clean copy"


@dataclass(frozen=True)
class SourceTree:
    """A kernel's source, as it lies on disk, and what it says of itself."""

    path: Path
    """A folder, or a tarball."""
    digest: str
    """Of its contents: two sources with the same one build the same kernel."""
    version: str
    """``5.5.19``, ``7.1.0-rc2``: what the Makefile's first lines come to."""
    local: str
    """What ``localversion`` files add to the release."""
    top: str
    """The folder that a tarball's members lie in, ``.`` for a folder."""

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder, and not a tarball."""
        return self.top == "."

    def release(self, suffix: str = "") -> str:
        """What ``uname -r`` of the kernel built from it says, with ``LOCALVERSION=suffix``."""
        return f"{self.version}{self.local}{suffix}"


def inspect_source(cache: Cache, path: Path) -> SourceTree:
    """What the source at ``path`` is. Raises ``SourceError`` if it cannot be built.

    Blocks while all of it is read: some ten seconds for a folder, half a minute for a
    tarball; what has not changed since (by name, size and times) is remembered.
    """
    path = path.absolute()
    if path.is_dir():
        return _inspect_folder(cache, path)
    if path.is_file():
        return _inspect_tarball(cache, path)
    raise SourceError(
        f"{path} is no kernel source: there is no such folder or tarball",
        hint="a folder is taken relative to lab.yaml",
    )


# --- folders -----------------------------------------------------------------------------


def _inspect_folder(cache: Cache, root: Path) -> SourceTree:
    for name in _NEEDED:
        if not (root / name).is_file():
            raise SourceError(f"{root} is no kernel source: it has no {name}")
    for name in BUILT:
        if os.path.lexists(root / name):
            raise SourceError(
                f"{root} has been built in: it has {name}, so the lab cannot build beside it",
                hint=MRPROPER,
            )
    files = list(_walk(root))
    marks = hashlib.sha256()
    for name, about in files:
        what = (name, about.st_mode, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
        marks.update(json.dumps(what).encode())
    memo = cache.root / "sources" / f"folder-{hash_of(FORMAT, str(root))}.json"
    known = _read_memo(memo, marks.hexdigest())
    if known is None:
        small = {name: _small(root / name) for name in _telling(files)}
        known = _describe(root, small, _digest(root, files), ".")
        _write_memo(memo, marks.hexdigest(), known)
    return known


def _walk(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Every file and link of a source by its name in it, in a fixed order."""
    total = count = 0
    todo = [""]
    while todo:
        folder = todo.pop()
        with os.scandir(root / folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            about = entry.stat(follow_symlinks=False)
            name = f"{folder}{entry.name}"
            if stat.S_ISDIR(about.st_mode):
                if entry.name not in SKIPPED:
                    todo.append(f"{name}/")
            elif stat.S_ISREG(about.st_mode) or stat.S_ISLNK(about.st_mode):
                count, total = count + 1, total + about.st_size
                if count > MAX_FILES or total > MAX_BYTES:
                    raise _too_large(root)
                yield name, about
    process.check_stopping()


def _too_large(path: Path) -> SourceError:
    return SourceError(
        f"{path} is no kernel source: it holds more than {MAX_FILES} files or {MAX_BYTES >> 30} GiB"
    )


def _digest(root: Path, files: list[tuple[str, os.stat_result]]) -> str:
    whole = hashlib.sha256()
    for name, about in files:
        if stat.S_ISLNK(about.st_mode):
            kind, content = "link", hashlib.sha256(os.readlink(root / name).encode()).hexdigest()
        else:
            kind = "program" if about.st_mode & 0o100 else "file"
            try:
                content = sha256_of(root / name)
            except OSError as error:
                raise SourceError(f"{root / name} cannot be read: {error.strerror}") from error
        whole.update(json.dumps((name, kind, content)).encode())
        process.check_stopping()
    return whole.hexdigest()


def _telling(files: list[tuple[str, os.stat_result]]) -> list[str]:
    """The files at the top that the release is made of, as scripts/setlocalversion sees them."""
    return [name for name, _ in files if name == "Makefile" or _is_localversion(name)]


def _is_localversion(name: str) -> bool:
    return name.startswith("localversion") and "/" not in name and not name.endswith("~")


def _small(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(MAX_SMALL_FILE).decode(errors="replace")


# --- tarballs ----------------------------------------------------------------------------


class _Forward(io.RawIOBase):
    """A decompressor's output as tarfile wants it: read once, forwards, within bounds.

    A kilobyte can decompress into a terabyte, and a header can ask for all of it at once.
    """

    def __init__(self, source: IO[bytes], path: Path) -> None:
        self._source = source
        self._path = path
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_ONE_READ:
            raise tarfile.ReadError("a header asks for more than any honest one")
        self._position += size
        if self._position > MAX_BYTES:
            raise _too_large(self._path)
        data = self._source.read(size)
        self._position += len(data) - size
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence != os.SEEK_SET or offset < self._position:
            raise tarfile.ReadError("an archive is read forwards")
        while self._position < offset:
            process.check_stopping()
            if not self.read(min(1 << 20, offset - self._position)):
                break
        return self._position


def open_decompressed(path: Path) -> IO[bytes]:
    """A file's content, decompressed if it is xz's, bzip2's or gzip's; the caller closes it."""
    with path.open("rb") as file:
        magic = file.read(6)
    if magic == b"\xfd7zXZ\0":
        return lzma.open(path)
    if magic.startswith(b"BZh"):
        return bz2.open(path)
    if magic.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.open(path))
    return path.open("rb")


def _inspect_tarball(cache: Cache, path: Path) -> SourceTree:
    about = path.stat()
    marks = hash_of(about.st_size, about.st_mtime_ns, about.st_ctime_ns)
    memo = cache.root / "sources" / f"tarball-{hash_of(FORMAT, str(path))}.json"
    known = _read_memo(memo, marks)
    if known is None:
        try:
            top, small = _read_tarball(path)
        except (tarfile.TarError, lzma.LZMAError, EOFError, OSError, ValueError) as error:
            raise SourceError(
                f"{path} is no whole archive of a kernel's source: {error}",
                hint="a .tar, .tar.xz, .tar.bz2 or .tar.gz is; was it cut short?",
            ) from error
        known = _describe(path, small, sha256_of(path), top)
        _write_memo(memo, marks, known)
    return known


def _read_tarball(path: Path) -> tuple[str, dict[str, str]]:
    """The one folder at the top of an archive, and the small files in it that tell.

    Raises ``SourceError`` where a member would end outside of it.
    """
    tops: set[str] = set()
    names: set[str] = set()
    small: dict[str, str] = {}
    with (
        open_decompressed(path) as source,
        contextlib.closing(_Forward(source, path)) as forward,
        tarfile.open(fileobj=forward, mode="r:") as tar,
    ):
        for count, member in enumerate(tar):
            parts = PurePosixPath(member.name).parts
            if count > MAX_FILES:
                raise _too_large(path)
            if member.name.startswith("/") or ".." in parts:
                raise SourceError(f"{path} has a member outside of itself: {member.name!r:.200}")
            if not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
                raise SourceError(f"{path} holds more than files: {member.name!r:.200}")
            if parts:
                tops.add(parts[0])
            inner = "/".join(parts[1:])
            names.add(inner)
            if member.isfile() and (inner == "Makefile" or _is_localversion(inner)):
                content = tar.extractfile(member)
                assert content is not None
                small[inner] = content.read(MAX_SMALL_FILE).decode(errors="replace")
            # tarfile keeps all members otherwise, and a kernel has a hundred thousand.
            tar.members = []  # type: ignore[attr-defined]
            process.check_stopping()
        while forward.read(1 << 20):  # what follows is checked too: a cut can be there
            process.check_stopping()
    _check_shape(path, tops, names)
    return next(iter(tops)), small


def _check_shape(path: Path, tops: set[str], names: set[str]) -> None:
    if len(tops) != 1:
        raise SourceError(
            f"{path} is no kernel source: it has {len(tops)} folders at its top, not one"
        )
    for name in _NEEDED:
        if name not in names:
            raise SourceError(f"{path} is no kernel source: it has no {name}")
    for name in BUILT:
        if name in names:
            raise SourceError(f"{path} was packed after a build in it: it has {name}")


# --- what it says ------------------------------------------------------------------------

_MAKE_VARIABLE = re.compile(r"^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION)[ \t]*=[ \t]*(.*)$", re.M)
# What the kernel's own Makefile lets pass; utsname has 64 bytes with the last a zero.
_RELEASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,49}")


def parse_make_version(makefile: str) -> str:
    """The kernel's version out of its top Makefile's first lines; ``ValueError`` if none."""
    found: dict[str, str] = {}
    for name, value in _MAKE_VARIABLE.findall(makefile):
        found.setdefault(name, value.strip())
    if not {"VERSION", "PATCHLEVEL"} <= found.keys():
        raise ValueError("its Makefile names no VERSION and PATCHLEVEL")
    numbers = (found["VERSION"], found["PATCHLEVEL"], found.get("SUBLEVEL", ""))
    version = ".".join(number for number in numbers if number) + found.get("EXTRAVERSION", "")
    KernelVersion.parse(version)
    return version


def join_localversions(files: Mapping[str, str]) -> str:
    """What ``localversion`` files add, in the order and manner of scripts/setlocalversion."""
    return "".join("".join(files[name].split()) for name in sorted(files) if _is_localversion(name))


def _describe(path: Path, small: Mapping[str, str], digest: str, top: str) -> SourceTree:
    try:
        version = parse_make_version(small["Makefile"])
    except (KeyError, ValueError) as error:
        raise SourceError(f"{path} is no kernel source: {error}") from error
    local = join_localversions(small)
    if not _RELEASE.fullmatch(version + local):
        raise SourceError(f"{path}: {version + local!r:.100} cannot be a kernel's release")
    return SourceTree(path=path, digest=digest, version=version, local=local, top=top)


def _read_memo(path: Path, marks: str) -> SourceTree | None:
    try:
        raw = json.loads(path.read_text())
        if raw.pop("marks") != marks:
            return None
        return SourceTree(**{**raw, "path": Path(raw["path"])})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # never looked at, or damaged: look again


def _write_memo(path: Path, marks: str, source: SourceTree) -> None:
    write_json(path, {**asdict(source), "path": str(source.path), "marks": marks})
