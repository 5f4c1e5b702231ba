"""Kernels made ready to boot: kernel file, boot modules, a layer with modules and build tree."""

from __future__ import annotations

import gzip
import json
import lzma
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import zstandard

from orchestrator.adapters.cache import hash_of, reading, sha256_of, write_json
from orchestrator.adapters.sources import SourceContext, source_of
from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import SourceError
from orchestrator.plan.kernel import ResolvedKernel
from orchestrator.plan.model import KernelEntry

FORMAT = 3
# What the guest needs before it has a root file system, by module name; a kernel that has
# one built in says so in modules.builtin.
BOOT_MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_rng", "squashfs", "overlay")
OPTIONAL_BOOT_MODULES = frozenset({"virtio_rng"})


@dataclass(frozen=True)
class Kernel:
    """One exact kernel, in the cache and ready to boot."""

    key: str
    resolved: ResolvedKernel
    vmlinuz_path: Path
    config_path: Path
    layer_path: Path
    boot_modules: tuple[Path, ...]
    """In the order in which they must be loaded, not compressed."""
    vmlinuz_sha256: str
    config_sha256: str
    compiler: str
    """What built it, as far as its configuration or its headers say."""

    @property
    def release(self) -> str:
        """What ``uname -r`` must say."""
        return self.resolved.release


def load_resolution(context: SourceContext, entry: KernelEntry) -> ResolvedKernel | None:
    """What ``entry`` was resolved to when the network was last asked; None if never."""
    if not source_of(entry).floats(entry):
        return None
    try:
        return ResolvedKernel.model_validate_json(_resolution_path(context, entry).read_text())
    except (OSError, ValueError):
        return None  # never asked, or damaged: ask again


def forget_resolutions(entries: Iterable[tuple[SourceContext, KernelEntry]]) -> None:
    """Fetch newer indexes, and forget which kernels the entries were resolved to.

    What is cached of the older kernels stays. Raises ``SourceError``; then nothing more is
    forgotten.
    """
    updated = set()
    for context, entry in entries:
        source = source_of(entry)
        if (type(source), context.recipe) not in updated:
            source.update(context, entry)
            updated.add((type(source), context.recipe))
        _resolution_path(context, entry).unlink(missing_ok=True)


def ensure_resolution(context: SourceContext, entry: KernelEntry) -> ResolvedKernel:
    """The exact kernel that ``entry`` stands for: what it was last time, or the newest now."""
    if known := load_resolution(context, entry):
        return known
    source = source_of(entry)
    resolved = source.resolve(context, entry)
    if source.floats(entry):
        write_json(_resolution_path(context, entry), resolved.model_dump())
    return resolved


def _resolution_path(context: SourceContext, entry: KernelEntry) -> Path:
    recipe = context.recipe
    # Whether a kernel may be skipped does not change which it is.
    asked = entry.model_dump(exclude={"optional"})
    if not asked.get("extra"):  # what was looked up before there was this key stays known
        asked.pop("extra", None)
    here = source_of(entry).local_inputs(context, entry)
    parts = (recipe.release, recipe.also, recipe.flavour, asked, here, *recipe.whereabouts)
    key = hash_of(FORMAT, *parts)
    return context.cache.root / "resolved" / f"{recipe.release}-{key}.json"


def kernel_key(resolved: ResolvedKernel) -> str:
    """What the prepared kernel depends on, in a name."""
    hashes = [part.sha256 for part in resolved.parts]
    return f"{resolved.release}-{hash_of(FORMAT, hashes, resolved.recipe)}"


def ensure_kernel(context: SourceContext, entry: KernelEntry, resolved: ResolvedKernel) -> Kernel:
    """The kernel ready to boot, fetched, or built, and unpacked if the cache has it not."""

    def make(folder: Path) -> None:
        tree = folder / "tree"
        tree.mkdir()
        source_of(entry).fill(context, entry, resolved, tree)
        assemble_kernel(tree, resolved.release, folder)
        shutil.rmtree(tree)
        about = {
            "format": FORMAT,
            "resolved": resolved.model_dump(),
            "vmlinuz_sha256": sha256_of(folder / "vmlinuz"),
            "config_sha256": sha256_of(folder / "config"),
            "compiler": read_compiler(folder / "config") or resolved.compiler,
        }
        write_json(folder / "kernel.json", about)

    folder = context.cache.ensure("kernels", kernel_key(resolved), make)
    with reading(folder):
        return _read_kernel(folder, resolved)


def _read_kernel(folder: Path, resolved: ResolvedKernel) -> Kernel:
    about = json.loads((folder / "kernel.json").read_text())
    modules = (folder / "boot-modules" / "order").read_text().split()
    return Kernel(
        key=folder.name,
        resolved=resolved,
        vmlinuz_path=folder / "vmlinuz",
        config_path=folder / "config",
        layer_path=folder / "layer.squashfs",
        boot_modules=tuple(folder / "boot-modules" / name for name in modules),
        vmlinuz_sha256=_text(about["vmlinuz_sha256"]),
        config_sha256=_text(about["config_sha256"]),
        compiler=_text(about["compiler"]),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value


def read_compiler(config_path: Path) -> str:
    """What a kernel's configuration says of its compiler; nothing in the oldest ones."""
    text = config_path.read_text(errors="replace")
    match = re.search(r'^CONFIG_CC_VERSION_TEXT="(.*)"$', text, re.MULTILINE)
    return match[1] if match else ""


def assemble_kernel(tree: Path, release: str, folder: Path) -> None:
    """Make of an unpacked kernel and build tree what a guest boots and mounts.

    ``tree`` is changed: the layer holds everything below ``usr/``, so that it fits over
    userlands with and without a merged ``/usr``.
    """
    _merge_usr(tree)
    modules_dir = tree / "usr/lib/modules" / release
    if not modules_dir.is_dir():
        raise SourceError(f"{release}: its packages bring no modules")
    build = modules_dir / "build"
    if not build.is_symlink() and not build.exists():
        build.symlink_to(f"/usr/src/linux-headers-{release}")
    if not (tree / "usr/src" / f"linux-headers-{release}").is_dir():
        raise SourceError(f"{release}: its packages bring no build tree")
    (tree / "lib").symlink_to("usr/lib")  # where depmod looks
    _run("indexing modules", "depmod", "-b", str(tree), release)
    (tree / "lib").unlink()
    _take_boot_file(tree, release, "vmlinuz", folder)
    _take_boot_file(tree, release, "config", folder)
    if (tree / "boot" / f"vmlinux-{release}").is_file():
        _take_boot_file(tree, release, "vmlinux", folder)
    (folder / "vmlinuz").chmod(0o644)  # Ubuntu's is closed to the user that QEMU runs as
    for path in tree.iterdir():
        if path.name != "usr":
            shutil.rmtree(path)
    _copy_boot_modules(modules_dir, folder / "boot-modules")
    _run(
        *("packing the kernel's layer", "mksquashfs", str(tree), str(folder / "layer.squashfs")),
        *("-comp", "lz4", "-all-root", "-no-progress", "-no-xattrs"),
    )


def _take_boot_file(tree: Path, release: str, name: str, folder: Path) -> None:
    """Move the kernel file, or its configuration, out of the tree.

    Debian's packages moved them from ``/boot`` to the modules' folder in 7.x.
    """
    places = (
        tree / "boot" / f"{name}-{release}",
        tree / "usr/lib/modules" / release / name,
    )
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise SourceError(f"{release}: its packages bring no {name}")
    shutil.move(path, folder / name)


def _merge_usr(tree: Path) -> None:
    """Move ``lib/modules`` and the like below ``usr/lib``."""
    lib = tree / "lib"
    if not lib.is_dir() or lib.is_symlink():
        return
    for path in lib.iterdir():
        target = tree / "usr/lib" / path.name
        target.mkdir(parents=True, exist_ok=True)
        for child in path.iterdir():
            _merge_into(child, target / child.name)
    shutil.rmtree(lib)


def _merge_into(source: Path, target: Path) -> None:
    if target.is_dir() and source.is_dir() and not source.is_symlink():
        for child in source.iterdir():
            _merge_into(child, target / child.name)
    else:
        source.rename(target)


def _copy_boot_modules(modules_dir: Path, target: Path) -> None:
    """The modules that the initramfs loads, with what they depend on, in loading order."""
    target.mkdir()
    depends = _read_modules_dep(modules_dir / "modules.dep")
    builtin = {_module_name(line) for line in _lines(modules_dir / "modules.builtin")}
    order: list[str] = []
    for name in BOOT_MODULES:
        if name in builtin:
            continue
        path = next((path for path in depends if _module_name(path) == name), None)
        if path is None:
            if name in OPTIONAL_BOOT_MODULES:
                continue
            raise SourceError(
                f"{modules_dir.name}: this kernel has no {name}, built in or as a module",
                hint="a guest of the lab needs " + ", ".join(BOOT_MODULES),
            )
        # modules.dep lists dependencies nearest first: the reverse is a loading order.
        for part in (*reversed(depends[path]), path):
            if part not in order:
                order.append(part)
    names = []
    for part in order:
        name = f"{_module_name(part)}.ko"
        (target / name).write_bytes(_decompress(modules_dir / part))
        names.append(name)
    (target / "order").write_text("".join(f"{name}\n" for name in names))


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _read_modules_dep(path: Path) -> dict[str, list[str]]:
    pairs = (line.split(":", 1) for line in _lines(path) if ":" in line)
    return {module: depends.split() for module, depends in pairs}


def _module_name(path: str) -> str:
    """``kernel/drivers/net/virtio-net.ko.xz`` is the module ``virtio_net``."""
    return Path(path).name.split(".ko", 1)[0].replace("-", "_")


def _decompress(path: Path) -> bytes:
    decompressors: dict[str, Callable[[bytes], bytes]] = {
        ".ko": bytes,
        ".xz": lzma.decompress,
        ".gz": gzip.decompress,
        # Not decompress(): a frame need not say how long its contents are.
        ".zst": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
    }
    decompress = decompressors.get(path.suffix)
    if decompress is None:
        raise SourceError(f"{path.name}: modules compressed so are not known to the lab")
    return decompress(path.read_bytes())


def _run(what: str, tool: str, *arguments: str) -> None:
    argv: Sequence[str] = (process.find_tool(tool), *arguments)
    done = process.run(argv, deadline=Deadline.after(600, what))
    if done.status != 0:
        raise SourceError(f"{what} failed: {done.last_lines()}")
