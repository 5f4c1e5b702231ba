"""Archives that come back from guests and from builds, made to harm who reads them.

What an archive of honest files becomes is in tests/contract/test_collecting.py, with names that
lead elsewhere, links, devices, and archives that are cut or spoilt.
"""

from __future__ import annotations

import contextlib
import os
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.adapters.archive import ArchiveError, read_plain_files
from orchestrator.plan.model import CollectEntry
from orchestrator.policy import collecting
from orchestrator.policy.collecting import as_entries, keep_collected
from tests.hostile.conftest import MIB, Peak

pytestmark = pytest.mark.timeout(120)

WANTED = as_entries(["/a", CollectEntry(path="/b", required=True)])
# What is read of a guest's archive at most.
MOST = collecting.MAX_BYTES + collecting.MAX_FILES * 4096
# Generous for a busy machine: what took longer took hours, or for ever.
SECONDS = 30


def header(
    name: bytes = b"1/a",
    size: int | bytes = 0,
    kind: bytes = tarfile.REGTYPE,
    link: bytes = b"/etc/passwd",
    magic: bytes = b"ustar  \0",
) -> bytes:
    """One of tar's, with a sum that is right: a stranger can add up, too."""
    field = b"%011o\0" % size if isinstance(size, int) else size
    out = bytearray(512)
    for at, text in (
        (0, name[:100]),
        (100, b"0004755\00000000\00000000\0"),
        (124, field),
        (136, b"00000000000\0" + b" " * 8),
        (156, kind),
        (157, link[:100]),
        (257, magic),
        (329, b"0000010\00000001\0"),
    ):
        out[at : at + len(text)] = text
    out[148:156] = b"%06o\0 " % sum(out)
    return bytes(out)


def member(name: bytes, content: bytes = b"x", kind: bytes = tarfile.REGTYPE) -> bytes:
    return header(name, len(content), kind) + content + bytes(-len(content) % 512)


def pax(content: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    return member(b"pax", content, kind)


def long_name(name: bytes) -> bytes:
    return member(b"././@LongLink", name + b"\0", tarfile.GNUTYPE_LONGNAME)


def filled(piece: bytes) -> bytes:
    """As much of it as a guest may send."""
    return piece * (MOST // len(piece))


def number(value: int) -> bytes:
    """A size in GNU's other form, which can be negative."""
    return (b"\xff" if value < 0 else b"\x80") + (value % (1 << 88)).to_bytes(11, "big")


BOMBS: dict[str, Callable[[], bytes]] = {
    "digits without end": lambda: pax(b"9" * (MOST - 4096)),
    "blanks without end": lambda: pax(b" " * (MOST - 4096)),
    "records that are none": lambda: pax(filled(b"0 ")),
    "records without end": lambda: pax(filled(b"6 a=b\n")),
    "headers of the next": lambda: filled(pax(b"11 path=1/a\n")) + member(b"1/a"),
    "headers of all": lambda: filled(pax(b"11 path=1/a\n", tarfile.XGLTYPE)) + member(b"1/a"),
    "names of the next": lambda: filled(long_name(b"1/b")) + member(b"1/a"),
    "a size below nothing": lambda: header(size=number(-512)) * 9,
    "a header of less than nothing": lambda: header(size=number(-1024), kind=b"x") + header(),
    "a size beyond numbers": lambda: header(size=number(1 << 87)) + bytes(1024),
    "a size of all there is": lambda: header(size=number(MOST)) + bytes(1024),
    "a size in words": lambda: header(size=b"many\0") + bytes(1024),
    "a size in a record": lambda: pax(b"22 size=99999999999\n") + member(b"1/a"),
    "a size in a record below nothing": lambda: pax(b"23 size=-99999999999\n") + member(b"1/a"),
    "a sparse file of 1 EiB": lambda: (
        pax(
            b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n"
            b"43 GNU.sparse.realsize=1152921504606846976\n"
        )
        + member(b"1/a", b"1\n0\n1\n")
    ),
    "an old sparse file, maps without end": lambda: (
        header(kind=tarfile.GNUTYPE_SPARSE)[:482] + b"\1" * 30 + filled(b"\1" * 512)
    ),
    "members without end": lambda: filled(header(b"1/a")),
    "names without end": lambda: b"".join(
        header(b"1/%d" % count) for count in range(MOST // 512 - 2)
    ),
    "no end": lambda: filled(b"\xff" * 512),
    "nothing but ends": lambda: filled(bytes(512)),
    "another archive": lambda: b"\x1f\x8b\x08" + os.urandom(4096),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_takes_no_time_and_no_memory(tmp_path: Path, name: str) -> None:
    """Twice what was sent is what the answer and its copy take."""
    archive = BOMBS[name]()
    peak, started = Peak(), time.monotonic()
    brought = keep_collected(archive, WANTED, tmp_path / "in/collected")
    assert time.monotonic() - started < SECONDS
    assert peak.grown < 2 * MOST + 64 * MIB
    assert len(brought.artifacts) <= collecting.MAX_FILES
    assert sum(artifact.size for artifact in brought.artifacts) <= MOST
    assert {path.name for path in tmp_path.iterdir()} <= {"in"}
    assert all(note.isprintable() and len(note) <= 300 for note in brought.notes)


KINDS = {
    "symbolic link": tarfile.SYMTYPE,
    "hard link": tarfile.LNKTYPE,
    "character device": tarfile.CHRTYPE,
    "block device": tarfile.BLKTYPE,
    "FIFO": tarfile.FIFOTYPE,
    "folder": tarfile.DIRTYPE,
    "contiguous file": tarfile.CONTTYPE,
    "unknown kind": b"\x1b",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_link_is_no_way_for_the_file_behind_it(tmp_path: Path, kind: str) -> None:
    """First `1/out`, which leads outside, then a file in it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    archive = (
        header(b"1/out", kind=KINDS[kind], link=str(outside).encode())
        + member(b"1/out/evil", b"evil")
        + bytes(1024)
    )
    brought = keep_collected(archive, WANTED, tmp_path / "run/collected")
    assert list(outside.iterdir()) == []
    (artifact,) = brought.artifacts
    assert (tmp_path / "run" / artifact.file).read_bytes() == b"evil"
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))


DOTS = b"../" * 1300
NAMES = (
    b"1/..",
    b"1/../../../../../../../../etc/passwd",
    b"1/" + DOTS + b"evil",
    b"1//etc/passwd",
    b"1/" + b"d/" * 2000 + b"f",
    b"1/" + b"n" * 4096,
    b"1/" + b"n" * 255 + b"/" + b"m" * 255,
    "1/\u202e\u2066gpj.exe".encode(),
    "1/e\u0301/\u00e9".encode(),
    b"1/\x1b]52;c;aGVsbG8=\x07",
    b"1/\x1b]0;owned\x07",
    b"1/a\nb\r\nc",
    b"1/<script>alert(1)</script>",
    b"1/]]>&amp;",
    b"1/\xff\xfe\x80",
    b"1/CON",
    b"1/a ",
    b"1/a.",
    b"1/-rf",
    b"1/~root",
    b"1/$(id)`id`",
    b"1/a\\..\\b",
    b"1/.git/hooks/post-checkout",
)


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: bytes) -> None:
    for archive in (long_name(name) + member(b"x"), pax(_record(b"path", name)) + member(b"x")):
        brought = keep_collected(archive + bytes(1024), WANTED, tmp_path / "run/collected")
        (artifact,) = brought.artifacts
        place = tmp_path / "run" / artifact.file
        assert place.read_bytes() == b"x"
        assert place.resolve().is_relative_to(tmp_path / "run/collected")
        assert {path.name for path in tmp_path.iterdir()} == {"run"}
        assert artifact.file.isprintable()
        assert artifact.path.isprintable()
        assert len(os.fsencode(artifact.file)) < 1024


def _record(key: bytes, value: bytes) -> bytes:
    size = len(key) + len(value) + 3
    size += len(str(size + len(str(size))))
    return b"%d %s=%s\n" % (size, key, value)


def test_names_that_become_the_same_stay_apart(tmp_path: Path) -> None:
    names = (
        b"1/a/b",
        b"1/a//b",
        b"1/a/./b",
        b"1/a\x01/b",
        b"1/a\x02/b",
        b"1/A/B",
        b"1/a",
        b"1/a/b/c",
    )
    archive = b"".join(long_name(b"1/" + name) + member(b"x", name) for name in names)
    brought = keep_collected(archive, WANTED, tmp_path / "collected")
    places = [artifact.file for artifact in brought.artifacts]
    assert len({place.casefold() for place in places}) == len(places) == len(names)


def test_a_member_named_by_a_record_for_another_is_not(tmp_path: Path) -> None:
    """A record is for the member behind it, and for no later one."""
    archive = pax(b"11 path=1/a\n") + header(b"d", kind=tarfile.DIRTYPE) + member(b"evil")
    assert [file.name for file in read_plain_files(archive)] == ["evil"]
    assert keep_collected(archive, WANTED, tmp_path / "collected").artifacts == ()


@pytest.mark.parametrize("at", [0, 1, 511, 512, 513, 1023, 1024, 1500])
def test_an_archive_that_ends_early_is_told(at: int) -> None:
    archive = (member(b"1/a") + member(b"1/b"))[:at]
    names: list[str] = []
    whole = False
    with contextlib.suppress(ArchiveError):
        names.extend(file.name for file in read_plain_files(archive))
        whole = True
    assert whole == (at == 1024)
    assert names == ["1/a"][: at >= 1024]
