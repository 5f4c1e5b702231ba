"""The initramfs: archives that the kernel's unpacker, cpio and busybox agree about."""

from __future__ import annotations

import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.adapters.cache import Cache
from orchestrator.adapters.images import Image
from orchestrator.adapters.initramfs import (
    SCRIPTS,
    Entry,
    ensure_initramfs,
    find_tracks,
    render_cpio,
    render_secrets,
)
from orchestrator.adapters.kernels import Kernel
from orchestrator.plan.kernel import ResolvedKernel
from orchestrator.plan.paths import guest_dir


@dataclass(frozen=True)
class Member:
    """A file as an archive describes it."""

    mode: int
    owner: tuple[int, int]
    links: int
    inode: int
    data: bytes


def read_cpio(archive: bytes) -> dict[str, Member]:
    """Our own reading of the format, over concatenated archives as the kernel takes them."""
    found: dict[str, Member] = {}
    at = 0
    while at < len(archive):
        if archive[at] == 0:
            at += 1
            continue
        assert archive[at : at + 6] == b"070701", f"no header at {at}"
        assert at % 4 == 0
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        inode, mode, user, group, links, mtime, size = fields[:7]
        assert mtime == 0
        name_size = fields[11]
        assert archive[at + 110 + name_size - 1] == 0
        name = archive[at + 110 : at + 110 + name_size - 1].decode()
        start = (at + 110 + name_size + 3) & ~3
        if name != "TRAILER!!!":
            found[name] = Member(mode, (user, group), links, inode, archive[start : start + size])
        at = (start + size + 3) & ~3
    return found


ENTRIES = (
    Entry("bin", 0o755),
    Entry("bin/tool", 0o755, b"#!/bin/sh\n"),
    Entry("empty", 0o600, b""),
    *(Entry(f"size{size}", 0o644, b"x" * size) for size in (1, 2, 3, 4, 5, 4096, 100_001)),
    *(Entry("n" * size, 0o644, b"name") for size in (1, 2, 3, 5, 200)),
)


def test_an_archive_reads_back_as_it_was_written() -> None:
    found = read_cpio(render_cpio(ENTRIES))
    assert list(found) == [entry.name for entry in ENTRIES]
    for entry in ENTRIES:
        member = found[entry.name]
        assert member.data == (entry.data or b"")
        assert stat.S_IMODE(member.mode) == entry.mode
        assert stat.S_ISDIR(member.mode) == (entry.data is None)
        assert member.owner == (0, 0)
    assert len({member.inode for member in found.values()}) == len(ENTRIES)


def test_an_archive_is_padded_so_that_another_can_follow() -> None:
    for size in range(5):
        archive = render_cpio((Entry("a", 0o644, b"x" * size),))
        assert len(archive) % 512 == 0
        found = read_cpio(archive + render_cpio((Entry("b", 0o644, b"B"),)))
        assert found["a"].data == b"x" * size
        assert found["b"].data == b"B"


@pytest.mark.parametrize("tool", ["cpio", "busybox"])
def test_other_readers_agree(tool: str, tmp_path: Path) -> None:
    path = shutil.which(tool)
    if path is None:
        pytest.skip(f"no {tool} here")
    argv = (path, *(("cpio",) if tool == "busybox" else ()), "-i", "-d")
    done = subprocess.run(
        argv, input=render_cpio(ENTRIES), cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for entry in ENTRIES:
        path_there = tmp_path / entry.name
        if entry.data is None:
            assert path_there.is_dir()
        else:
            assert path_there.read_bytes() == entry.data
        assert stat.S_IMODE(path_there.stat().st_mode) == entry.mode


# --- secrets ---------------------------------------------------------------------------------


def test_secrets_are_closed_to_others() -> None:
    found = read_cpio(render_secrets("00ff", "ssh-x AAAA lab", b"\0key\xff", probe=False))
    assert found["lab/nonce"].data == b"00ff\n"
    assert found["lab/authorized_keys"].data == b"ssh-x AAAA lab\n"
    assert found["lab/host_key"].data == b"\0key\xff"
    assert stat.S_IMODE(found["lab/host_key"].mode) == 0o600
    assert stat.S_IMODE(found["lab/authorized_keys"].mode) == 0o600
    assert "lab/probe" not in found


def test_a_probe_is_told_that_it_is_one() -> None:
    assert "lab/probe" in read_cpio(render_secrets("00", "k", b"k", probe=True))


# --- the shared part -------------------------------------------------------------------------


def module(*needs: str) -> bytes:
    """As much of a module as says what it needs."""
    return b"\x7fELF\0license=GPL\0depends=" + ",".join(needs).encode() + b"\0name=it\0"


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    modules = {
        "virtio": module(),
        "virtio_pci": module("virtio"),
        "virtio_net": module("virtio"),
        "squashfs": module(),
    }
    for name, data in modules.items():
        (tmp_path / f"{name}.ko").write_bytes(data)
    return Kernel(
        key="6.1.0-key",
        resolved=ResolvedKernel(release="6.1.0", version="6.1.0", origin="here", parts=()),
        vmlinuz_path=tmp_path / "vmlinuz",
        config_path=tmp_path / "config",
        layer_path=tmp_path / "layer",
        boot_modules=tuple(tmp_path / f"{name}.ko" for name in modules),
        vmlinuz_sha256="",
        config_sha256="",
        compiler="",
    )


@pytest.fixture
def image(tmp_path: Path) -> Image:
    (tmp_path / "busybox").write_text("busybox")
    return Image("testy-key", "testy", tmp_path / "image", tmp_path / "busybox", ())


def test_the_shared_part_has_what_the_guest_boots_with(
    kernel: Kernel, image: Image, tmp_path: Path
) -> None:
    path = ensure_initramfs(Cache(tmp_path / "cache"), kernel, image, guest_dir())
    found = read_cpio(path.read_bytes())
    assert found["boot-modules/disks"].data == b"virtio.ko\nvirtio_pci.ko\n"
    assert found["boot-modules/filesystems"].data == b"squashfs.ko\n"
    assert found["boot-modules/others"].data == b"virtio_net.ko\n"
    assert found["boot-modules/virtio.ko"].data == module()
    assert found["bin/busybox"].data == b"busybox"
    assert stat.S_IMODE(found["bin/busybox"].mode) == 0o755
    for name, source in SCRIPTS.items():
        assert found[name].data == (guest_dir() / source).read_bytes()
        assert stat.S_IMODE(found[name].mode) == 0o755
    folders = {name for name, member in found.items() if stat.S_ISDIR(member.mode)}
    for name in found:
        parent = str(Path(name).parent)
        assert parent == "." or parent in folders, f"nothing makes the folder of {name}"
    # What init mounts and binds must be there.
    assert {"dev", "proc", "sys", "image", "kernel", "overlay", "root"} <= folders


# What the kernels of distributions have as modules, with what each needs.
DEBIANS_6_1 = {
    "virtio_ring": (),
    "virtio": ("virtio_ring",),
    "virtio_pci_modern_dev": (),
    "virtio_pci_legacy_dev": (),
    "virtio_pci": ("virtio_ring", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio"),
    "virtio_blk": ("virtio", "virtio_ring"),
    "failover": (),
    "net_failover": ("failover",),
    "virtio_net": ("virtio_ring", "virtio", "net_failover"),
    "virtio_rng": ("virtio", "virtio_ring"),
    "squashfs": (),
    "overlay": (),
}
UBUNTUS_4_4: dict[str, tuple[str, ...]] = {"virtio_rng": (), "overlay": ()}


@pytest.mark.parametrize(
    ("needs", "disks", "filesystems", "others"),
    [
        (
            DEBIANS_6_1,
            "virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk",
            "squashfs overlay",
            "failover net_failover virtio_net virtio_rng",
        ),
        (UBUNTUS_4_4, "", "overlay", "virtio_rng"),
        ({}, "", "", ""),
        # What both need keeps them from being loaded at a time.
        (
            {"crc": (), "virtio_blk": ("crc",), "squashfs": ("crc",), "overlay": (), "x": ()},
            "crc virtio_blk squashfs overlay",
            "",
            "x",
        ),
        # The names in .modinfo are those that Makefiles give.
        ({"lz4_unpack": (), "squashfs": ("lz4-unpack",)}, "", "lz4_unpack squashfs", ""),
    ],
)
def test_modules_that_need_nothing_of_each_other_are_loaded_at_a_time(
    needs: dict[str, tuple[str, ...]], disks: str, filesystems: str, others: str
) -> None:
    tracks = find_tracks({f"{name}.ko": module(*names) for name, names in needs.items()})
    assert {name: " ".join(files).replace(".ko", "") for name, files in tracks.items()} == {
        "disks": disks,
        "filesystems": filesystems,
        "others": others,
    }


def test_the_shared_part_is_made_anew_when_something_in_it_changes(
    kernel: Kernel, image: Image, tmp_path: Path
) -> None:
    guest = tmp_path / "guest"
    shutil.copytree(guest_dir(), guest)
    cache = Cache(tmp_path / "cache")
    first = ensure_initramfs(cache, kernel, image, guest)
    assert ensure_initramfs(cache, kernel, image, guest) == first
    (guest / "init").write_text("#!/bin/busybox sh\n")
    second = ensure_initramfs(cache, kernel, image, guest)
    assert second != first
    assert read_cpio(second.read_bytes())["init"].data == b"#!/bin/busybox sh\n"


def test_no_secret_is_in_the_shared_part(kernel: Kernel, image: Image, tmp_path: Path) -> None:
    path = ensure_initramfs(Cache(tmp_path / "cache"), kernel, image, guest_dir())
    assert (
        not {"lab/nonce", "lab/host_key", "lab/authorized_keys"}
        & read_cpio(path.read_bytes()).keys()
    )
