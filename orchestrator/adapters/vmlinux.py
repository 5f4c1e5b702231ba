"""The kernel as guests boot it: uncompressed where the kernel allows it.

A bzImage unpacks itself in the guest, which takes longer than the rest of its start where guests
are emulated. So it is unpacked here, once, and QEMU enters the ELF file that it held through its
PVH entry (QEMU 4.0 and later; ``load_elfboot()`` in hw/i386/x86.c of 7.2). Whether a kernel has one
that works without Xen is read from its notes and its configuration, never from its version.
Where it has none, guests boot the bzImage.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import mmap
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from orchestrator.adapters.cache import Cache, hash_of
from orchestrator.adapters.kernels import Kernel
from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import SourceError
from orchestrator.plan.kconfig import missing_options

if TYPE_CHECKING:  # a dry run needs no logs' patterns
    from orchestrator.plan.outcome import BootFormat

FORMAT = 1
# A kernel with all of the kernel's own checks has some 150 MiB; a bzImage some 20.
MAX_IMAGE_BYTES = 256 << 20
MAX_VMLINUX_BYTES = 1 << 30
MAX_WINDOW_BYTES = 128 << 20  # what the decompressors of xz, lzma and zstd may keep
CHUNK_BYTES = 1 << 20
# lz4's "legacy" frame, which is what Linux uses: doc/lz4_Frame_format.md of lz4.
LZ4_MAGIC = b"\x02\x21\x4c\x18"
LZ4_BLOCK_BYTES = 8 << 20
ELF_MAGIC = b"\x7fELF"
PVH_ROM = "pvh.bin"
BZIMAGE_HINT = "give the lab its bzImage, arch/x86/boot/bzImage in the folder it was built in"


class NoVmlinuxError(Exception):
    """There is no vmlinux to boot; the message says why, as the end of a sentence."""


@dataclass(frozen=True)
class BootKernel:
    """The kernel file that guests are given."""

    path: Path
    format: BootFormat
    reason: str = ""
    """Why it is no vmlinux, where it is none."""


def without_vmlinux(boot: BootKernel, kernel: Kernel, reason: str) -> BootKernel:
    """What to boot after ``boot`` did not start, if there is another file to boot."""
    if boot.path == kernel.vmlinuz_path:
        return boot
    return BootKernel(kernel.vmlinuz_path, "bzImage", reason)


def ensure_boot_kernel(cache: Cache, kernel: Kernel) -> BootKernel:
    """The file that guests of a kernel boot, unpacked into the cache where it is not there yet.

    Raises ``SourceError`` where the kernel is a vmlinux that cannot be booted, and ``HostError``.
    """
    is_elf = is_vmlinux(kernel.vmlinuz_path)
    try:
        _check_host(qemu_data_dirs())
        if is_elf:
            check_vmlinux(kernel.vmlinuz_path, kernel.config_path)
            return BootKernel(kernel.vmlinuz_path, "vmlinux")
        check_config(kernel.config_path)
        return BootKernel(_ensure_vmlinux(cache, kernel), "vmlinux")
    except NoVmlinuxError as error:
        if is_elf:
            raise SourceError(
                f"{kernel.release} is a vmlinux, and QEMU cannot boot it: {error}",
                hint=BZIMAGE_HINT,
            ) from error
        return BootKernel(kernel.vmlinuz_path, "bzImage", str(error))


def _ensure_vmlinux(cache: Cache, kernel: Kernel) -> Path:
    def make(folder: Path) -> None:
        path = folder / "vmlinux"
        unpack(kernel.vmlinuz_path, path)
        with path.open("rb") as file:
            find_pvh_entry(file)
        path.chmod(0o644)  # QEMU opens it by itself, as nobody where the lab is root

    key = f"{kernel.release}-{hash_of(FORMAT, kernel.vmlinuz_sha256)}"
    return cache.ensure("vmlinux", key, make) / "vmlinux"


def is_vmlinux(path: Path) -> bool:
    """Whether a kernel file is an ELF file. Raises ``OSError``."""
    with path.open("rb") as file:
        return file.read(len(ELF_MAGIC)) == ELF_MAGIC


def read_release(path: Path) -> str:
    """The release that a vmlinux says it is, in its banner. Raises ``NoVmlinuxError``."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        match = _BANNER.search(data)
        if match is None:
            raise NoVmlinuxError("it does not say which Linux it is")
        return match[1].decode(errors="replace")


_BANNER = re.compile(rb"Linux version ([!-~]{1,64}) \(")


def check_vmlinux(path: Path, config_path: Path) -> None:
    """Raise ``NoVmlinuxError`` unless QEMU can boot this ELF file."""
    check_config(config_path)
    with path.open("rb") as file:
        find_pvh_entry(file)


# Compilers put calls into every function of such a kernel. The PVH entry's C code
# (arch/x86/platform/pvh/enlighten.c) runs before what they need is there: 6.1 with KASAN, or with
# KCSAN, ends in a triple fault. KMSAN and KCOV put such calls in just as well.
_INSTRUMENTED = ("KASAN", "KCSAN", "KMSAN", "KCOV")


def check_config(config_path: Path) -> None:
    """Raise ``NoVmlinuxError`` where a kernel's PVH entry, if there is one, does not work in QEMU.

    CONFIG_XEN_PVH alone is not enough: Ubuntu's 4.15 has it, the note, and no CONFIG_PVH, and
    halts where there is no Xen. The first with CONFIG_PVH among Ubuntu's kernels is 5.0.
    """
    config = config_path.read_text(errors="replace")
    if missing_options(config, ("PVH",)):
        raise NoVmlinuxError("it is built without CONFIG_PVH")
    lacking = missing_options(config, _INSTRUMENTED)
    for name in _INSTRUMENTED:
        if name not in lacking:
            raise NoVmlinuxError(f"with CONFIG_{name} its PVH entry does not work")


# --- the host ------------------------------------------------------------------------------


def qemu_data_dirs() -> tuple[Path, ...]:
    """Where QEMU looks for its firmware."""
    argv = (process.find_tool("qemu-system-x86_64"), "-L", "help")
    done = process.run(argv, deadline=Deadline.after(20, "asking QEMU for its folders"))
    return tuple(Path(line) for line in done.stdout.decode(errors="replace").splitlines() if line)


def _check_host(folders: tuple[Path, ...]) -> None:
    """Raise ``NoVmlinuxError`` where QEMU lacks what starts a vmlinux.

    QEMU itself says so and goes on, with a guest that finds nothing to boot.
    """
    if not any(os.access(folder / PVH_ROM, os.R_OK) for folder in folders):
        raise NoVmlinuxError(f"QEMU has no {PVH_ROM} here")


# --- the bzImage ---------------------------------------------------------------------------


def unpack(image_path: Path, target: Path) -> None:
    """Write what a bzImage holds to ``target``. Raises ``NoVmlinuxError``."""
    with image_path.open("rb") as file:
        image = file.read(MAX_IMAGE_BYTES + 1)
    if len(image) > MAX_IMAGE_BYTES:
        raise NoVmlinuxError(f"the bzImage has more than {MAX_IMAGE_BYTES >> 20} MiB")
    payload = find_payload(image)
    # Size is the last thing in every payload: gzip ends with it, Kbuild appends it to others.
    said = int.from_bytes(payload[-4:], "little")
    written = 0
    with target.open("wb") as file:
        for chunk in decompress(payload):
            written += len(chunk)
            if written > min(said, MAX_VMLINUX_BYTES):
                raise NoVmlinuxError(f"its bzImage holds more than the {said} bytes that it says")
            file.write(chunk)
    if written != said:
        raise NoVmlinuxError(f"its bzImage says {said} bytes and holds {written}")


def find_payload(image: bytes) -> memoryview:
    """The compressed kernel in a bzImage. Raises ``NoVmlinuxError``.

    Linux Documentation/arch/x86/boot.rst: setup_sects, header, version, payload_offset and
    payload_length, the latter two since protocol 2.08.
    """
    if image[0x202:0x206] != b"HdrS" or len(image) < 0x250:
        raise NoVmlinuxError("the kernel file is no bzImage")
    (version,) = struct.unpack_from("<H", image, 0x206)
    if version < 0x208:
        raise NoVmlinuxError("its bzImage does not say where the kernel is in it")
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = ((image[0x1F1] or 4) + 1) * 512 + offset
    if length < 8 or start + length > len(image):
        raise NoVmlinuxError("its bzImage is truncated")
    return memoryview(image)[start : start + length]


def decompress(payload: memoryview) -> Iterator[bytes]:
    """What a payload holds, piece by piece. Raises ``NoVmlinuxError``."""
    known = (each for each in _COMPRESSIONS if payload[: len(each[0])] == each[0])
    _, name, reader = next(known, (b"", "", None))
    if reader is None:
        if payload[: len(ELF_MAGIC)] == ELF_MAGIC:
            raise NoVmlinuxError("its bzImage holds a kernel that is not compressed")
        raise NoVmlinuxError(f"its compression is not known ({payload[:4].hex(' ')})")
    try:
        yield from reader(payload)
    # bz2 raises OSError for bad data.
    except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error) as error:
        raise NoVmlinuxError(f"its {name} data are damaged: {error}") from error


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...


def _read_stream(decompressor: _Decompressor, payload: memoryview) -> Iterator[bytes]:
    data = bytes(payload)
    while not decompressor.eof:
        chunk = decompressor.decompress(data, CHUNK_BYTES)
        if not chunk and not data:
            raise EOFError("they end too soon")
        data = b""
        yield chunk


def _read_file(read: Callable[[int], bytes]) -> Iterator[bytes]:
    while chunk := read(CHUNK_BYTES):
        yield chunk


def _read_gzip(payload: memoryview) -> Iterator[bytes]:
    return _read_file(gzip.GzipFile(fileobj=io.BytesIO(payload)).read)


def _read_bzip2(payload: memoryview) -> Iterator[bytes]:
    return _read_stream(bz2.BZ2Decompressor(), payload)


def _read_xz(payload: memoryview) -> Iterator[bytes]:
    limit = MAX_WINDOW_BYTES + (16 << 20)  # it counts its own tables too
    return _read_stream(lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=limit), payload)


def _read_zstd(payload: memoryview) -> Iterator[bytes]:
    import zstandard  # here and below: most commands of the lab unpack nothing

    unpacker = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    try:
        yield from _read_file(unpacker.stream_reader(payload[:-4]).read)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error


def _read_lz4(payload: memoryview) -> Iterator[bytes]:
    """Blocks, each behind its length; lz4.frame does not read the legacy frame."""
    import lz4.block

    place, end = len(LZ4_MAGIC), len(payload) - 4
    while place < end:
        length = int.from_bytes(payload[place : place + 4], "little")
        place += 4
        if place + length > end:
            raise EOFError("a block is longer than they are")
        block = payload[place : place + length]
        try:
            yield lz4.block.decompress(block, uncompressed_size=LZ4_BLOCK_BYTES)
        except lz4.block.LZ4BlockError as error:
            raise ValueError(str(error)) from error
        place += length


# By their first bytes, as lib/decompress.c of Linux tells them. lzma has no magic; what is here is
# what xz(1) writes with the settings that scripts/Makefile.lib has.
_COMPRESSIONS: tuple[tuple[bytes, str, Callable[[memoryview], Iterator[bytes]]], ...] = (
    (b"\x1f\x8b", "gzip", _read_gzip),
    (b"BZh", "bzip2", _read_bzip2),
    (b"\xfd7zXZ\0", "xz", _read_xz),
    (b"\x5d\0\0", "lzma", _read_xz),
    (LZ4_MAGIC, "lz4", _read_lz4),
    (b"\x28\xb5\x2f\xfd", "zstd", _read_zstd),
)

# --- the vmlinux ---------------------------------------------------------------------------

# System V ABI, Elf64_Ehdr, Elf64_Phdr and Elf64_Nhdr.
_HEADER = struct.Struct("<4sBBB9xHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_NOTE = struct.Struct("<III")
_CLASS_64, _LITTLE_ENDIAN, _X86_64 = 2, 1, 62
_LOAD, _NOTES = 1, 4
MAX_NOTES_BYTES = 1 << 20
# Linux include/xen/interface/elfnote.h
XEN_ELFNOTE_PHYS32_ENTRY = 18


@dataclass(frozen=True)
class _Segment:
    type: int
    offset: int
    address: int
    """Where it is loaded."""
    file_size: int
    memory_size: int
    align: int


def find_pvh_entry(file: IO[bytes]) -> int:
    """The physical address at which QEMU enters a vmlinux. Raises ``NoVmlinuxError``.

    It is the one that QEMU takes: the first note of that type in a segment of notes.
    """
    size = file.seek(0, io.SEEK_END)
    segments = _read_segments(file)
    loaded = [segment for segment in segments if segment.type == _LOAD]
    if any(segment.offset + segment.file_size > size for segment in segments):
        raise NoVmlinuxError("its vmlinux is truncated")
    for segment in segments:
        if segment.type == _NOTES:
            entry = _find_entry(_read_at(file, segment.offset, segment.file_size), segment.align)
            if entry is None:
                continue
            if not any(0 <= entry - each.address < each.file_size for each in loaded):
                raise NoVmlinuxError("its PVH entry is not in the kernel")
            return entry
    raise NoVmlinuxError("it has no PVH entry")


def _read_at(file: IO[bytes], offset: int, length: int) -> bytes:
    file.seek(min(offset, file.seek(0, io.SEEK_END)))  # no offset is beyond what seek() takes
    return file.read(min(length, MAX_NOTES_BYTES))


def _read_segments(file: IO[bytes]) -> list[_Segment]:
    head = _read_at(file, 0, _HEADER.size)
    if len(head) < _HEADER.size or head[:4] != ELF_MAGIC:
        raise NoVmlinuxError("its bzImage holds no ELF file")
    fields = _HEADER.unpack(head)
    (_, elf_class, order, _, _, machine, _, _, place, _, _, _, each, count, _, _, _) = fields
    if (elf_class, order, machine) != (_CLASS_64, _LITTLE_ENDIAN, _X86_64):
        raise NoVmlinuxError("it is not for x86-64")
    table = _read_at(file, place, _SEGMENT.size * count)
    if each != _SEGMENT.size or len(table) < _SEGMENT.size * count:
        raise NoVmlinuxError("its vmlinux has no whole program headers")
    return [
        _Segment(kind, offset, address, file_size, memory_size, align)
        for kind, _, offset, _, address, file_size, memory_size, align in _SEGMENT.iter_unpack(
            table
        )
    ]


def _find_entry(notes: bytes, align: int) -> int | None:
    align = max(align, 4)
    place = 0
    while place + _NOTE.size <= len(notes):
        name_size, size, kind = _NOTE.unpack_from(notes, place)
        name_place = place + _NOTE.size
        # QEMU counts the padding from the name's beginning, and so do files: all are of 4 bytes.
        value_place = name_place + -(-name_size // align) * align
        if kind == XEN_ELFNOTE_PHYS32_ENTRY:
            value = notes[value_place : value_place + 8]
            is_xens = notes[name_place : name_place + name_size] == b"Xen\0"
            # QEMU 7.2 reads 8 bytes; Linux writes so many.
            if not is_xens or size != 8 or len(value) != 8:
                raise NoVmlinuxError("its note of a PVH entry is not Linux's")
            return int.from_bytes(value, "little")
        place = value_place + -(-size // align) * align
    return None
