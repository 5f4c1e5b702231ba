"""The initramfs: static busybox, the kernel's boot modules, our init, and a guest's secrets.

The part that all guests of a kernel share is cached; keys and nonce are a second archive
behind it (the kernel unpacks any number of concatenated ones), made anew for each guest
and never on disk.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.adapters.cache import Cache, hash_of
from orchestrator.adapters.images import Image
from orchestrator.adapters.kernels import Kernel

FORMAT = 2
FOLDERS = (
    *("bin", "boot-modules", "dev", "image", "kernel"),
    *("lab", "lab/bin", "overlay", "proc", "root", "sys"),
)
SCRIPTS = {
    "init": "init",
    "lab/rc": "rc",
    "lab/bin/lab-background": "lab-background",
    "lab/bin/lab-holders": "lab-holders",
    "lab/bin/lab-stacks": "lab-stacks",
}
# What init loads first, and, beside that, what it loads before it mounts anything.
DISKS = ("virtio_pci", "virtio_blk")
FILESYSTEMS = ("squashfs", "overlay")
# A field of .modinfo, which modpost writes (scripts/mod/modpost.c, add_depends()).
_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")


@dataclass(frozen=True)
class Entry:
    """A file or, with no data, a folder of an archive."""

    name: str
    mode: int
    data: bytes | None = None


def render_cpio(entries: Iterable[Entry]) -> bytes:
    """An archive in the ``newc`` format, all of it root's.

    Linux Documentation/driver-api/early-userspace/buffer-format.rst.
    """
    out = bytearray()
    for number, entry in enumerate((*entries, Entry("TRAILER!!!", 0, b"")), 1):
        data = entry.data or b""
        kind = stat.S_IFDIR if entry.data is None else stat.S_IFREG
        name = entry.name.encode() + b"\0"
        mode = 0 if entry.name == "TRAILER!!!" else kind | entry.mode
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + name
        out += b"\0" * (-len(out) % 4)
        out += data
        out += b"\0" * (-len(out) % 4)
    out += b"\0" * (-len(out) % 512)
    return bytes(out)


def ensure_initramfs(cache: Cache, kernel: Kernel, image: Image, guest_dir: Path) -> Path:
    """The part that all guests of a kernel and image share."""
    scripts = {name: (guest_dir / source).read_bytes() for name, source in SCRIPTS.items()}
    key = f"{kernel.release}-" + hash_of(
        FORMAT, kernel.key, image.key, sorted((n, d.decode()) for n, d in scripts.items())
    )

    def make(folder: Path) -> None:
        (folder / "initramfs.cpio").write_bytes(render_cpio(_shared(kernel, image, scripts)))

    return cache.ensure("initramfs", key, make) / "initramfs.cpio"


def _shared(kernel: Kernel, image: Image, scripts: dict[str, bytes]) -> list[Entry]:
    contents = {path.name: path.read_bytes() for path in kernel.boot_modules}
    return [
        *(Entry(name, 0o755) for name in FOLDERS),
        Entry("bin/busybox", 0o755, image.busybox_path.read_bytes()),
        *(
            Entry(f"boot-modules/{track}", 0o644, "".join(f"{name}\n" for name in names).encode())
            for track, names in find_tracks(contents).items()
        ),
        *(Entry(f"boot-modules/{name}", 0o644, data) for name, data in contents.items()),
        *(Entry(name, 0o755, data) for name, data in scripts.items()),
    ]


def find_tracks(modules: Mapping[str, bytes]) -> dict[str, tuple[str, ...]]:
    """Which modules init loads at a time: those for the disks, and beside them those for the file
    systems; the others while it mounts.

    ``modules`` are in the order in which they must be loaded, by their files' names. In one track
    nothing that is loaded at the same time in another is needed.
    """
    needs = {name.removesuffix(".ko"): _needs(data) for name, data in modules.items()}
    disks = set(_with_needs(DISKS, needs))
    beside = set(_with_needs(FILESYSTEMS, needs))
    if beside & disks:  # neither can go before the other, so they go one by one
        disks, beside = disks | beside, set()
    first = {f"{name}.ko" for name in disks}
    second = {f"{name}.ko" for name in beside}
    return {
        "disks": tuple(name for name in modules if name in first),
        "filesystems": tuple(name for name in modules if name in second),
        "others": tuple(name for name in modules if name not in first | second),
    }


def _needs(module: bytes) -> tuple[str, ...]:
    found = _DEPENDS.search(module)
    names = found[1].decode(errors="replace").split(",") if found else ()
    return tuple(name.replace("-", "_") for name in names if name)


def _with_needs(names: Sequence[str], needs: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for name in names:
        yield name
        yield from _with_needs(needs.get(name, ()), needs)


def render_secrets(nonce: str, authorized_keys: str, host_key: bytes, *, probe: bool) -> bytes:
    """What one guest alone gets: its nonce, who may log in, and its own host key."""
    entries = [
        Entry("lab/nonce", 0o644, nonce.encode() + b"\n"),
        Entry("lab/authorized_keys", 0o600, authorized_keys.encode() + b"\n"),
        Entry("lab/host_key", 0o600, host_key),
    ]
    if probe:
        entries.append(Entry("lab/probe", 0o644, b""))
    return render_cpio(entries)
