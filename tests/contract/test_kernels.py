"""Kernels made ready to boot, from made-up trees with real tools."""

from __future__ import annotations

import gzip
import lzma
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from orchestrator.adapters import kernels
from orchestrator.adapters.cache import Cache
from orchestrator.adapters.kernels import (
    BOOT_MODULES,
    Kernel,
    assemble_kernel,
    ensure_kernel,
    kernel_key,
)
from orchestrator.adapters.sources import SourceContext
from orchestrator.adapters.sources.distribution import DistributionEntry
from orchestrator.foundation.errors import SourceError
from orchestrator.plan.kernel import Part, ResolvedKernel
from orchestrator.plan.recipe import Keyring, Recipe
from tests.elf import make_ko

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(
        not all(
            shutil.which(tool, path="/usr/bin:/bin:/usr/sbin:/sbin")
            for tool in ("depmod", "mksquashfs", "unsquashfs")
        ),
        reason="needs kmod and squashfs-tools",
    ),
]

RELEASE = "6.1.0-1-amd64"
# Who needs whom, as in a stock kernel: by the symbols that they give each other.
EXPORTS = {
    "virtio": "register_virtio_driver",
    "virtio_ring": "virtqueue_add",
    "failover": "failover_register",
    "net_failover": "net_failover_create",
}
IMPORTS = {
    "virtio_ring": ("register_virtio_driver",),
    "virtio_pci": ("virtqueue_add", "register_virtio_driver"),
    "virtio_blk": ("virtqueue_add",),
    "virtio_net": ("virtqueue_add", "net_failover_create"),
    "virtio_rng": ("virtqueue_add",),
    "net_failover": ("failover_register",),
}


def module(name: str) -> bytes:
    exports = (EXPORTS[name],) if name in EXPORTS else ()
    return make_ko("license=GPL", f"name={name}", exports=exports, imports=IMPORTS.get(name, ()))


class Tree:
    """An unpacked kernel, to be spoilt before it is put together."""

    def __init__(self, root: Path, *, lib: str = "lib") -> None:
        self.root = root / "tree"
        self.folder = root / "out"
        self.folder.mkdir()
        self.modules = self.root / lib / "modules" / RELEASE
        self.boot = self.root / "boot"
        self.headers = self.root / "usr/src" / f"linux-headers-{RELEASE}"
        for folder in (self.modules / "kernel", self.boot, self.headers):
            folder.mkdir(parents=True)
        for name in {*EXPORTS, *BOOT_MODULES}:
            (self.modules / "kernel" / f"{name}.ko").write_bytes(module(name))
        (self.modules / "modules.order").touch()
        (self.modules / "modules.builtin").touch()
        (self.boot / f"vmlinuz-{RELEASE}").write_text("the kernel")
        (self.boot / f"config-{RELEASE}").write_text("CONFIG_X=y")
        (self.headers / "Makefile").write_text("all:\n")

    def drop(self, name: str) -> None:
        (self.modules / "kernel" / f"{name}.ko").unlink()

    def pack(self, name: str, ending: str, compress: Callable[[bytes], bytes]) -> None:
        path = self.modules / "kernel" / f"{name}.ko"
        path.with_name(path.name + ending).write_bytes(compress(path.read_bytes()))
        path.unlink()

    def assemble(self) -> list[str]:
        """The boot modules in their order."""
        assemble_kernel(self.root, RELEASE, self.folder)
        return (self.folder / "boot-modules/order").read_text().split()

    def layer(self) -> set[str]:
        argv = ("unsquashfs", "-l", "-d", "", str(self.folder / "layer.squashfs"))
        done = subprocess.run(argv, capture_output=True, check=True, text=True)
        return set(done.stdout.split())


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_a_kernel_is_put_together(tree: Tree) -> None:
    order = tree.assemble()
    assert (tree.folder / "vmlinuz").read_text() == "the kernel"
    assert (tree.folder / "config").read_text() == "CONFIG_X=y"
    assert {name.removesuffix(".ko") for name in order} == {*BOOT_MODULES, *EXPORTS}
    for name in order:
        data = (tree.folder / "boot-modules" / name).read_bytes()
        assert data == module(name.removesuffix(".ko"))


def test_boot_modules_come_after_those_they_need(tree: Tree) -> None:
    order = tree.assemble()
    giver = {symbol: name for name, symbol in EXPORTS.items()}
    assert len(order) == len(set(order))
    for name, symbols in IMPORTS.items():
        for symbol in symbols:
            assert order.index(f"{giver[symbol]}.ko") < order.index(f"{name}.ko")


def test_the_layer_holds_modules_and_build_tree_below_usr(tree: Tree) -> None:
    tree.assemble()
    layer = tree.layer()
    assert f"/usr/lib/modules/{RELEASE}/kernel/virtio_pci.ko" in layer
    assert f"/usr/lib/modules/{RELEASE}/modules.dep" in layer
    assert f"/usr/src/linux-headers-{RELEASE}/Makefile" in layer
    assert f"/usr/lib/modules/{RELEASE}/build" in layer
    assert {path.split("/")[1] for path in layer if path.startswith("/")} <= {"", "usr"}


def test_a_build_link_of_the_packages_own_is_kept(tree: Tree) -> None:
    (tree.modules / "build").symlink_to("/usr/src/elsewhere")
    tree.assemble()
    link = tree.root / "usr/lib/modules" / RELEASE / "build"
    assert str(link.readlink()) == "/usr/src/elsewhere"


def test_a_build_link_is_made_where_there_is_none(tree: Tree) -> None:
    tree.assemble()
    link = tree.root / "usr/lib/modules" / RELEASE / "build"
    assert str(link.readlink()) == f"/usr/src/linux-headers-{RELEASE}"


def test_modules_below_lib_and_usr_lib_end_up_together(tree: Tree) -> None:
    more = tree.root / "usr/lib/modules" / RELEASE / "kernel"
    more.mkdir(parents=True)
    (more / "extra.ko").write_bytes(make_ko("license=GPL"))
    (tree.root / "lib/firmware").mkdir()
    (tree.root / "lib/firmware/blob").touch()
    tree.assemble()
    layer = tree.layer()
    assert f"/usr/lib/modules/{RELEASE}/kernel/extra.ko" in layer
    assert f"/usr/lib/modules/{RELEASE}/kernel/virtio.ko" in layer
    assert "/usr/lib/firmware/blob" in layer


def test_a_kernel_that_lies_with_its_modules_is_found(tmp_path: Path) -> None:
    """Debian's packages of 7.x have no ``/boot`` any more."""
    tree = Tree(tmp_path, lib="usr/lib")
    for name in ("vmlinuz", "config"):
        (tree.boot / f"{name}-{RELEASE}").rename(tree.modules / name)
    tree.boot.rmdir()
    tree.assemble()
    assert (tree.folder / "vmlinuz").read_text() == "the kernel"


def test_a_kernel_file_that_is_closed_becomes_readable(tree: Tree) -> None:
    (tree.boot / f"vmlinuz-{RELEASE}").chmod(0o600)
    tree.assemble()
    assert (tree.folder / "vmlinuz").stat().st_mode & 0o777 == 0o644


def test_compressed_modules_are_unpacked_for_the_boot(tree: Tree) -> None:
    tree.pack("virtio_blk", ".xz", lzma.compress)
    assert "virtio_blk.ko" in tree.assemble()
    assert (tree.folder / "boot-modules/virtio_blk.ko").read_bytes() == module("virtio_blk")


def compress_zst_stream(data: bytes) -> bytes:
    """As ``zstd`` does with what comes through a pipe: the frame does not say its size."""
    stream = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    return stream.compress(data) + stream.flush()


@pytest.mark.parametrize(
    ("name", "compress"),
    [
        ("a.ko", bytes),
        ("a.ko.xz", lzma.compress),
        ("a.ko.gz", gzip.compress),
        ("a.ko.zst", zstandard.compress),
        ("a.ko.zst", compress_zst_stream),
    ],
)
def test_each_compression_is_undone(
    tmp_path: Path, name: str, compress: Callable[[bytes], bytes]
) -> None:
    """Apart from a tree, as not every depmod knows every compression."""
    (tmp_path / name).write_bytes(compress(b"module"))
    assert kernels._decompress(tmp_path / name) == b"module"


def test_a_module_with_hyphens_in_its_file_name_is_found(tree: Tree) -> None:
    folder = tree.modules / "kernel"
    (folder / "virtio_net.ko").rename(folder / "virtio-net.ko")
    assert "virtio_net.ko" in tree.assemble()


def test_what_is_built_in_is_not_loaded(tree: Tree) -> None:
    for name in ("overlay", "squashfs"):
        tree.drop(name)
    (tree.modules / "modules.builtin").write_text(
        "kernel/fs/overlayfs/overlay.ko\nkernel/fs/squashfs/squashfs.ko\n"
    )
    order = tree.assemble()
    assert not {"overlay.ko", "squashfs.ko"} & set(order)
    assert "virtio_blk.ko" in order


def test_a_kernel_with_all_built_in_loads_nothing(tree: Tree) -> None:
    for name in {*EXPORTS, *BOOT_MODULES}:
        tree.drop(name)
    (tree.modules / "modules.builtin").write_text(
        "".join(f"kernel/{name.replace('_', '-')}.ko\n" for name in BOOT_MODULES)
    )
    assert tree.assemble() == []


def test_a_kernel_can_do_without_a_random_number_device(tree: Tree) -> None:
    tree.drop("virtio_rng")
    assert "virtio_rng.ko" not in tree.assemble()


@pytest.mark.parametrize("name", sorted({*BOOT_MODULES} - {"virtio_rng"}))
def test_a_kernel_that_cannot_boot_here_is_refused(tree: Tree, name: str) -> None:
    tree.drop(name)
    with pytest.raises(SourceError, match=f"{RELEASE}: this kernel has no {name}") as caught:
        tree.assemble()
    assert name in caught.value.hint


def test_modules_compressed_in_a_way_not_known_are_refused(tree: Tree) -> None:
    tree.pack("virtio_blk", ".lz4", bytes)
    with pytest.raises(SourceError, match="virtio_blk"):
        tree.assemble()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda t: (t.boot / f"vmlinuz-{RELEASE}").unlink(), "bring no vmlinuz"),
        (lambda t: (t.boot / f"config-{RELEASE}").unlink(), "bring no config"),
        (lambda t: shutil.rmtree(t.headers), "bring no build tree"),
        (lambda t: shutil.rmtree(t.root / "lib"), "bring no modules"),
    ],
    ids=["vmlinuz", "config", "headers", "modules"],
)
def test_a_kernel_that_lacks_a_part_is_refused(
    tree: Tree, spoil: Callable[[Tree], None], said: str
) -> None:
    spoil(tree)
    with pytest.raises(SourceError, match=said):
        tree.assemble()


# --- in the cache ----------------------------------------------------------------------------

RECIPE = Recipe(
    distribution="debian",
    release="testy",
    keyring=Keyring(file="k.gpg", package="k", release="trixie"),
    flavour="amd64",
    packages=("bash",),
)


def resolved(*sums: str) -> ResolvedKernel:
    parts = tuple(Part(name=f"p{sum_}", version="1", sha256=sum_ * 32, size=1) for sum_ in sums)
    return ResolvedKernel(
        release=RELEASE, version="6.1.27", origin="here", parts=parts, compiler="gcc-12"
    )


def test_the_key_of_a_kernel_is_what_its_packages_hold() -> None:
    assert kernel_key(resolved("aa")).startswith(f"{RELEASE}-")
    assert kernel_key(resolved("aa")) == kernel_key(resolved("aa"))
    assert len({kernel_key(resolved(*sums)) for sums in (("aa",), ("bb",), ("aa", "bb"))}) == 3


def test_a_cached_kernel_needs_nothing_else(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    known = resolved("aa")
    folder = tmp_path / "kernels" / kernel_key(known)
    (folder / "boot-modules").mkdir(parents=True)
    (folder / "boot-modules/order").write_text("virtio.ko\nvirtio_pci.ko\n")
    (folder / "vmlinuz").write_text("abc")
    (folder / "kernel.json").write_text(
        '{"vmlinuz_sha256": "ba78", "config_sha256": "00", "compiler": "gcc-12"}'
    )
    entry = DistributionEntry(image="testy", version="6.1")
    kernel = ensure_kernel(SourceContext(cache, RECIPE, tmp_path), entry, known)
    assert kernel == Kernel(
        key=folder.name,
        resolved=known,
        vmlinuz_path=folder / "vmlinuz",
        config_path=folder / "config",
        layer_path=folder / "layer.squashfs",
        boot_modules=(
            folder / "boot-modules/virtio.ko",
            folder / "boot-modules/virtio_pci.ko",
        ),
        vmlinuz_sha256="ba78",
        config_sha256="00",
        compiler="gcc-12",
    )
    assert kernel.release == RELEASE


def test_boot_modules_that_are_optional_are_boot_modules() -> None:
    assert set(BOOT_MODULES) >= kernels.OPTIONAL_BOOT_MODULES
