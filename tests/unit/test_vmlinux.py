"""Kernels taken out of bzImages, and what of them can be booted."""

from __future__ import annotations

import bz2
import contextlib
import functools
import gzip
import io
import lzma
import random
from collections.abc import Callable
from pathlib import Path

import lz4.block
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.adapters import vmlinux
from orchestrator.adapters.cache import Cache, sha256_of
from orchestrator.adapters.kernels import Kernel
from orchestrator.adapters.vmlinux import (
    NoVmlinuxError,
    ensure_boot_kernel,
    find_pvh_entry,
    read_release,
    unpack,
)
from orchestrator.foundation.errors import SourceError
from orchestrator.plan.kernel import ResolvedKernel
from tests.kernelimage import (
    ENTRY,
    LOADED_AT,
    PHYS32_ENTRY,
    XEN,
    make_bzimage,
    make_entry,
    make_note,
    make_vmlinux,
)

# More than one of lz4's blocks, of 8 MiB each, and more than one piece of any stream.
BIG = make_vmlinux(code=random.Random(1).randbytes(3 << 20) + bytes(9 << 20))


def with_size(packed: bytes, data: bytes) -> bytes:
    """As Kbuild appends it (size_append of scripts/Makefile.lib)."""
    return packed + len(data).to_bytes(4, "little")


def pack_lzma(data: bytes) -> bytes:
    return with_size(lzma.compress(data, lzma.FORMAT_ALONE, preset=0), data)


def pack_xz(data: bytes) -> bytes:
    filters = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "dict_size": 32 << 20}]
    packed = lzma.compress(data, lzma.FORMAT_XZ, check=lzma.CHECK_CRC32, filters=filters)
    return with_size(packed, data)


def pack_lz4(data: bytes) -> bytes:
    """The legacy frame: blocks of 8 MiB, each behind its length."""
    packed = b"\x02\x21\x4c\x18"
    for place in range(0, len(data), 8 << 20):
        block = lz4.block.compress(data[place : place + (8 << 20)], store_size=False)
        packed += len(block).to_bytes(4, "little") + block
    return with_size(packed, data)


def pack_zstd(data: bytes) -> bytes:
    """Like zstd(1) that reads a pipe: the frame does not say how much it holds."""
    packer = zstandard.ZstdCompressor(level=1).compressobj()
    return with_size(packer.compress(data) + packer.flush(), data)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 1),
    "bzip2": lambda data: with_size(bz2.compress(data, 1), data),
    "xz": pack_xz,
    "lzma": pack_lzma,
    "lz4": pack_lz4,
    "zstd": pack_zstd,
}


@functools.cache
def pack_big(name: str) -> bytes:
    return PACKERS[name](BIG)


def unpacked(tmp_path: Path, image: bytes) -> bytes:
    (tmp_path / "vmlinuz").write_bytes(image)
    unpack(tmp_path / "vmlinuz", tmp_path / "vmlinux")
    return (tmp_path / "vmlinux").read_bytes()


@pytest.mark.parametrize("name", PACKERS)
def test_what_was_packed_comes_out(tmp_path: Path, name: str) -> None:
    assert unpacked(tmp_path, make_bzimage(pack_big(name))) == BIG


@pytest.mark.parametrize("name", PACKERS)
def test_a_file_that_ends_in_the_middle_is_told(tmp_path: Path, name: str) -> None:
    image = make_bzimage(pack_big(name))
    with pytest.raises(NoVmlinuxError, match="its bzImage is truncated"):
        unpacked(tmp_path, image[: len(image) // 2])


@pytest.mark.parametrize("name", PACKERS)
def test_a_payload_that_ends_in_the_middle_is_told(tmp_path: Path, name: str) -> None:
    packed = pack_big(name)
    short = packed[: len(packed) // 2] + len(BIG).to_bytes(4, "little")
    with pytest.raises(NoVmlinuxError, match=rf"{name} data are damaged|says \d+ bytes and holds"):
        unpacked(tmp_path, make_bzimage(short))


@pytest.mark.parametrize("name", PACKERS)
@pytest.mark.parametrize("more", [-1, 1])
def test_a_size_that_is_not_so_is_told(tmp_path: Path, name: str, more: int) -> None:
    packed = pack_big(name)[:-4] + (len(BIG) + more).to_bytes(4, "little")
    with pytest.raises(NoVmlinuxError, match=r"data are damaged|that it says|and holds"):
        unpacked(tmp_path, make_bzimage(packed))


@pytest.mark.parametrize("name", PACKERS)
@settings(max_examples=30, deadline=None)
@given(place=st.integers(0, 10_000), value=st.binary(min_size=1, max_size=40))
def test_damage_is_told_or_changes_nothing_but_bytes(
    tmp_path_factory: pytest.TempPathFactory, name: str, place: int, value: bytes
) -> None:
    """lz4 has no checksum: what comes out may be wrong, but never more or less than was said."""
    data = make_vmlinux(code=random.Random(2).randbytes(10_000))
    packed = bytearray(PACKERS[name](data))
    end = len(packed) - 4
    packed[place % end : place % end + len(value)] = value
    packed[end:] = len(data).to_bytes(4, "little")
    image = make_bzimage(bytes(packed[: end + 4]))
    with contextlib.suppress(NoVmlinuxError):
        assert len(unpacked(tmp_path_factory.mktemp("damaged"), image)) == len(data)


@pytest.mark.parametrize("name", PACKERS)
def test_no_more_is_unpacked_than_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(vmlinux, "MAX_VMLINUX_BYTES", 4 << 20)
    with pytest.raises(NoVmlinuxError, match="holds more than"):
        unpacked(tmp_path, make_bzimage(pack_big(name)))
    assert (tmp_path / "vmlinux").stat().st_size <= 4 << 20


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (b"", "no bzImage"),
        (b"MZ" + bytes(600), "no bzImage"),
        (make_bzimage(pack_lz4(BIG))[:0x240], "no bzImage"),
        (make_bzimage(pack_lz4(BIG), protocol=0x207), "does not say where the kernel is"),
        (make_bzimage(pack_lz4(BIG), offset=1 << 31), "truncated"),
        (make_bzimage(pack_lz4(BIG), length=0xFFFFFFFF), "truncated"),
        (make_bzimage(pack_lz4(BIG), length=0), "truncated"),
        (make_bzimage(with_size(b"\x89LZO\0\r\n\x1a\n" + bytes(40), b"")), r"\(89 4c 5a 4f\)"),
        (make_bzimage(with_size(make_vmlinux(), b"")), "not compressed"),
        (make_bzimage(with_size(b"\x02\x21\x4c\x18" + b"\xff" * 9, b"")), "lz4 data are damaged"),
        (make_bzimage(with_size(b"\x02\x21\x4c\x18" + b"\1\0", b"")), "lz4 data are damaged"),
    ],
    ids=[
        *("empty", "other", "header", "old", "offset", "length", "nothing", "lzo", "plain"),
        *("lz4-length", "lz4-end"),
    ],
)
def test_an_image_that_lies_is_told(tmp_path: Path, image: bytes, said: str) -> None:
    with pytest.raises(NoVmlinuxError, match=said):
        unpacked(tmp_path, image)


def entry_of(data: bytes) -> int:
    return find_pvh_entry(io.BytesIO(data))


def test_the_entry_is_what_the_note_says() -> None:
    assert entry_of(make_vmlinux()) == ENTRY


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (make_vmlinux(notes=b""), "no PVH entry"),
        (make_vmlinux(notes=make_note(XEN, 2, bytes(8))), "no PVH entry"),
        (make_vmlinux(notes=make_entry()[:-4]), "not Linux's"),
        (make_vmlinux(notes=make_note(b"Sun\0", PHYS32_ENTRY, bytes(8))), "not Linux's"),
        (make_vmlinux(notes=make_note(XEN, PHYS32_ENTRY, bytes(4))), "not Linux's"),
        (make_vmlinux(notes=make_entry(LOADED_AT - 1)), "not in the kernel"),
        (make_vmlinux(notes=make_entry(1 << 40)), "not in the kernel"),
        (make_vmlinux()[:-1], "truncated"),
        (make_vmlinux()[:100], "no whole program headers"),
        (make_vmlinux()[:20], "no ELF file"),
        (b"MZ" + bytes(200), "no ELF file"),
        (make_vmlinux(machine=183), "not for x86-64"),
        (make_vmlinux(elf_class=1), "not for x86-64"),
    ],
)
def test_what_cannot_be_entered_is_told(data: bytes, said: str) -> None:
    with pytest.raises(NoVmlinuxError, match=said):
        entry_of(data)


@given(place=st.integers(0, 400), value=st.binary(min_size=1, max_size=16))
def test_no_damage_leads_the_reader_astray(place: int, value: bytes) -> None:
    data = bytearray(make_vmlinux())
    data[place : place + len(value)] = value
    with contextlib.suppress(NoVmlinuxError):
        assert 0 <= entry_of(bytes(data)) < 1 << 64


def test_a_vmlinux_says_its_release(tmp_path: Path) -> None:
    (tmp_path / "vmlinux").write_bytes(make_vmlinux(release="6.9.0-rc3-mine"))
    assert read_release(tmp_path / "vmlinux") == "6.9.0-rc3-mine"


# --- what guests are given -------------------------------------------------------------------


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A QEMU that looks for its firmware in this folder and in another; pvh.bin is there."""
    folder = tmp_path / "share"
    folder.mkdir()
    (folder / "pvh.bin").write_bytes(b"")
    tools = tmp_path / "tools"
    tools.mkdir()
    qemu = tools / "qemu-system-x86_64"
    qemu.write_text(f'#!/bin/sh\n[ "$*" = "-L help" ] && echo /nowhere && echo {folder}\n')
    qemu.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    return folder


def kernel_of(tmp_path: Path, image: bytes, config: str = "CONFIG_PVH=y\n") -> Kernel:
    folder = tmp_path / "kernel"
    folder.mkdir()
    (folder / "vmlinuz").write_bytes(image)
    (folder / "config").write_text(config)
    return Kernel(
        key="6.1.0-1",
        resolved=ResolvedKernel(release="6.1.0", version="6.1.0", origin="here", parts=()),
        vmlinuz_path=folder / "vmlinuz",
        config_path=folder / "config",
        layer_path=folder / "layer",
        boot_modules=(),
        vmlinuz_sha256=sha256_of(folder / "vmlinuz"),
        config_sha256="",
        compiler="",
    )


@pytest.mark.usefixtures("host")
def test_guests_are_given_the_unpacked_kernel(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    kernel = kernel_of(tmp_path, make_bzimage(pack_lz4(make_vmlinux())))
    boot = ensure_boot_kernel(cache, kernel)
    assert (boot.format, boot.reason) == ("vmlinux", "")
    assert boot.path.read_bytes() == make_vmlinux()
    assert boot.path.stat().st_mode & 0o777 == 0o644
    assert boot.path.is_relative_to(cache.root / "vmlinux")
    before = boot.path.stat()
    assert ensure_boot_kernel(cache, kernel) == boot
    assert boot.path.stat() == before


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize(
    ("image", "config", "reason"),
    [
        (make_bzimage(pack_lz4(make_vmlinux())), "CONFIG_XEN_PVH=y\n", "built without CONFIG_PVH"),
        (
            make_bzimage(pack_lz4(make_vmlinux())),
            "CONFIG_PVH=y\nCONFIG_KASAN=y\n",
            "with CONFIG_KA",
        ),
        (make_bzimage(pack_lz4(make_vmlinux(notes=b""))), "CONFIG_PVH=y\n", "no PVH entry"),
        (make_bzimage(pack_lz4(make_vmlinux()))[:-60], "CONFIG_PVH=y\n", "truncated"),
        (make_bzimage(with_size(b"\x89LZO" + bytes(40), b"")), "CONFIG_PVH=y\n", "not known"),
    ],
    ids=["xen-only", "kasan", "no-note", "truncated", "lzo"],
)
def test_the_bzimage_is_booted_where_there_is_no_vmlinux(
    tmp_path: Path, image: bytes, config: str, reason: str
) -> None:
    kernel = kernel_of(tmp_path, image, config)
    boot = ensure_boot_kernel(Cache(tmp_path / "cache"), kernel)
    assert (boot.path, boot.format) == (kernel.vmlinuz_path, "bzImage")
    assert reason in boot.reason
    assert not list((tmp_path / "cache").glob("vmlinux/*"))


def test_the_bzimage_is_booted_where_qemu_cannot_do_else(tmp_path: Path, host: Path) -> None:
    (host / "pvh.bin").unlink()
    kernel = kernel_of(tmp_path, make_bzimage(pack_lz4(make_vmlinux())))
    boot = ensure_boot_kernel(Cache(tmp_path / "cache"), kernel)
    assert (boot.format, boot.reason) == ("bzImage", "QEMU has no pvh.bin here")


@pytest.mark.usefixtures("host")
def test_a_users_vmlinux_is_booted_as_it_is(tmp_path: Path) -> None:
    kernel = kernel_of(tmp_path, make_vmlinux())
    boot = ensure_boot_kernel(Cache(tmp_path / "cache"), kernel)
    assert (boot.path, boot.format, boot.reason) == (kernel.vmlinuz_path, "vmlinux", "")


def test_a_users_vmlinux_that_cannot_be_booted_is_refused(tmp_path: Path, host: Path) -> None:
    (host / "pvh.bin").unlink()
    with pytest.raises(SourceError, match=r"QEMU has no pvh\.bin here") as caught:
        ensure_boot_kernel(Cache(tmp_path / "cache"), kernel_of(tmp_path, make_vmlinux()))
    assert "bzImage" in caught.value.hint
