"""Kernels from this machine: trees to be built, and what has been built, by their paths."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.adapters.cache import Cache
from orchestrator.adapters.kernels import ensure_resolution, load_resolution
from orchestrator.adapters.sources import PATHS_VARIABLE, SourceContext, source_of
from orchestrator.adapters.sources.built import BuiltEntry
from orchestrator.adapters.sources.path import KernelFiles, PathEntry
from orchestrator.foundation.errors import SourceError
from orchestrator.plan.recipes import load_shipped_recipe
from orchestrator.plan.version import KernelVersion
from tests.kernelimage import make_vmlinux
from tests.trees import write_tree

RELEASE = "6.9.0-rc3-mine"


@pytest.fixture
def context(tmp_path: Path) -> SourceContext:
    lab_dir = tmp_path / "lab"
    lab_dir.mkdir()
    return SourceContext(Cache(tmp_path / "cache"), load_shipped_recipe("bookworm"), lab_dir)


# --- a tree to be built ----------------------------------------------------------------------


def test_a_tree_is_looked_at_each_time(context: SourceContext) -> None:
    tree = write_tree(context.lab_dir / "linux")
    entry = BuiltEntry(image="bookworm", source="./linux")
    first = ensure_resolution(context, entry)
    assert (first.release, first.version) == ("5.5.19-lab", "5.5.19")
    assert first.origin == "./linux, built in bookworm"
    assert load_resolution(context, entry) is None  # nothing is remembered of it
    (tree / "init").mkdir(exist_ok=True)
    (tree / "init/main.c").write_text("/* changed */\n")
    second = ensure_resolution(context, entry)
    assert second.release == first.release
    assert second.parts != first.parts


def test_flavour_and_options_are_part_of_what_it_is(context: SourceContext) -> None:
    write_tree(context.lab_dir / "linux")
    (context.lab_dir / "more.config").write_text("CONFIG_USB=y\n")
    plain = BuiltEntry(image="bookworm", source="./linux")
    entries = (
        plain,
        plain.model_copy(update={"flavour": "debug"}),
        plain.model_copy(update={"config": ("more.config",)}),
    )
    found = [ensure_resolution(context, entry) for entry in entries]
    assert len({kernel.recipe for kernel in found}) == 3
    assert [kernel.release for kernel in found] == ["5.5.19-lab", "5.5.19-lab-debug", "5.5.19-lab"]


def test_what_a_package_was_resolved_to_is_so_for_one_configuration_alone(
    context: SourceContext,
) -> None:
    fragment = context.lab_dir / "more.config"
    entry = BuiltEntry(image="bookworm", source="linux-source-6.1", config=("more.config",))
    source = source_of(entry)
    assert source.floats(entry)
    fragment.write_text("CONFIG_USB=y\n")
    first = source.local_inputs(context, entry)
    fragment.write_text("CONFIG_USB=n\n")
    second = source.local_inputs(context, entry)
    fragment.write_text("# the same again\nCONFIG_USB=y\n")
    assert source.local_inputs(context, entry) == first != second
    debug = entry.model_copy(update={"flavour": "debug"})
    assert source.local_inputs(context, debug) not in (first, second)
    fragment.unlink()
    assert source.local_inputs(context, entry) == ""  # resolving it says what is wrong


def test_a_tree_that_changed_since_it_was_resolved_is_not_built(
    context: SourceContext, tmp_path: Path
) -> None:
    tree = write_tree(context.lab_dir / "linux")
    entry = BuiltEntry(image="bookworm", source="./linux")
    resolved = ensure_resolution(context, entry)
    (tree / "Kbuild").write_text("# changed\n")
    with pytest.raises(SourceError, match=r"not what it was.*its SHA-256 was") as caught:
        source_of(entry).fill(context, entry, resolved, tmp_path / "tree")
    assert "lab lock --update" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "content"),
    [("localversion-odd", "-bl\u00fcte"), ("localversion-long", "-" + "x" * 80)],
)
def test_a_release_that_none_can_be_is_told(
    context: SourceContext, name: str, content: str
) -> None:
    write_tree(context.lab_dir / "linux", **{name: content})
    entry = BuiltEntry(image="bookworm", source="./linux")
    with pytest.raises(SourceError, match=r"release|calls itself|too long"):
        ensure_resolution(context, entry)


def test_options_of_ones_own_can_spoil_the_release(context: SourceContext) -> None:
    write_tree(context.lab_dir / "linux")
    (context.lab_dir / "odd.config").write_text('CONFIG_LOCALVERSION="-a b"\n')
    entry = BuiltEntry(image="bookworm", source="./linux", config=("odd.config",))
    with pytest.raises(SourceError, match="calls itself"):
        ensure_resolution(context, entry)


@pytest.mark.parametrize(
    ("source", "version"),
    [("5.5.19", "5.5.19"), ("6.13-rc2", "6.13-rc2"), ("linux-source-6.1", "6.1")],
)
def test_what_stands_for_the_version_until_it_is_known(source: str, version: str) -> None:
    assert BuiltEntry(image="x", source=source).version_hint() == KernelVersion.parse(version)
    assert BuiltEntry(image="x", source="./linux").version_hint() is None


@pytest.mark.parametrize("source", ["linux", "v5.5.19", "5", "latest", "linux-source-"])
def test_what_is_no_source_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match="is no source of a kernel"):
        BuiltEntry(image="x", source=source)


# --- what a lab may read ---------------------------------------------------------------------


def test_what_is_outside_of_the_lab_needs_leave(
    context: SourceContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PATHS_VARIABLE, raising=False)
    outside = write_tree(tmp_path / "elsewhere/linux")
    (context.lab_dir / "link").symlink_to(outside)
    for text in ("../elsewhere/linux", str(outside), "./link"):
        entry = BuiltEntry(image="bookworm", source=text)
        with pytest.raises(SourceError, match="outside of the lab's folder") as caught:
            ensure_resolution(context, entry)
        assert caught.value.hint.startswith(f"{PATHS_VARIABLE}={outside.parent} ")
    monkeypatch.setenv(PATHS_VARIABLE, f"/nowhere:{outside.parent}")
    assert ensure_resolution(context, BuiltEntry(image="bookworm", source="./link")).release


# --- a kernel that has been built ------------------------------------------------------------


def bz_image(release: str) -> bytes:
    """The head of a bzImage, as Documentation/arch/x86/boot.rst has it."""
    head = bytearray(0x800)
    head[0x202:0x206] = b"HdrS"
    head[0x20E:0x210] = (0x400).to_bytes(2, "little")
    text = f"{release} (me@here) #1 SMP".encode() + b"\0"
    head[0x600 : 0x600 + len(text)] = text
    return bytes(head)


def write_built(root: Path, *, release: str = RELEASE) -> PathEntry:
    """What a build leaves, in folders below ``root``."""
    build = root / "build"
    for name, text in {
        "arch/x86/boot/bzImage": None,
        "include/generated/utsrelease.h": f'#define UTS_RELEASE "{release}"\n',
        "Makefile": "all:\n",
        "Module.symvers": "",
        ".config": "CONFIG_MODULES=y\n",
        "include/linux/module.h": "/* */\n",
        "kernel/fork.o": "object",
    }.items():
        path = build / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bz_image(release) if text is None else text.encode())
    modules = root / "installed/lib/modules" / release
    modules.mkdir(parents=True)
    (modules / "modules.order").write_text("kernel/a.ko\n")
    (modules / "build").symlink_to("/somewhere")
    files = KernelFiles(kernel="build/arch/x86/boot/bzImage", modules="installed", build="build")
    return PathEntry(image="bookworm", path=files)


def test_a_built_kernel_is_found_by_its_parts(context: SourceContext, tmp_path: Path) -> None:
    entry = write_built(context.lab_dir)
    resolved = ensure_resolution(context, entry)
    assert (resolved.release, resolved.version) == (RELEASE, "6.9.0-rc3")
    assert [part.name for part in resolved.parts] == ["kernel", "modules", "build"]

    tree = tmp_path / "tree"
    tree.mkdir()
    source_of(entry).fill(context, entry, resolved, tree)
    files = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()}
    headers = f"usr/src/linux-headers-{RELEASE}"
    assert files == {
        f"boot/vmlinuz-{RELEASE}",
        f"boot/config-{RELEASE}",
        f"usr/lib/modules/{RELEASE}/modules.order",
        *(f"{headers}/{name}" for name in ("Makefile", "Module.symvers", ".config")),
        f"{headers}/include/linux/module.h",
        f"{headers}/include/generated/utsrelease.h",
    }


def test_a_vmlinux_is_taken_as_it_is(context: SourceContext, tmp_path: Path) -> None:
    entry = write_built(context.lab_dir)
    vmlinux = make_vmlinux(release=RELEASE)
    (context.lab_dir / "build/arch/x86/boot/bzImage").write_bytes(vmlinux)
    (context.lab_dir / "build/.config").write_text("CONFIG_PVH=y\n")
    resolved = ensure_resolution(context, entry)
    assert resolved.release == RELEASE
    tree = tmp_path / "tree"
    tree.mkdir()
    source_of(entry).fill(context, entry, resolved, tree)
    assert (tree / f"boot/vmlinuz-{RELEASE}").read_bytes() == vmlinux


def test_the_folder_of_modules_itself_will_do(context: SourceContext) -> None:
    entry = write_built(context.lab_dir)
    inner = entry.path.model_copy(update={"modules": f"installed/lib/modules/{RELEASE}"})
    direct = entry.model_copy(update={"path": inner})
    assert ensure_resolution(context, direct) == ensure_resolution(context, entry)


def _spoil_image(root: Path) -> None:
    (root / "build/arch/x86/boot/bzImage").write_bytes(bz_image("6.8.0"))


def _no_image(root: Path) -> None:
    (root / "build/arch/x86/boot/bzImage").write_bytes(b"#!/bin/sh\n")


def _no_vmlinux(root: Path) -> None:
    (root / "build/arch/x86/boot/bzImage").write_bytes(b"\x7fELF")


def _other_vmlinux(root: Path) -> None:
    (root / "build/arch/x86/boot/bzImage").write_bytes(make_vmlinux(release="6.8.0"))


def _vmlinux_for_xen(root: Path) -> None:
    (root / "build/arch/x86/boot/bzImage").write_bytes(make_vmlinux(release=RELEASE))
    (root / "build/.config").write_text("CONFIG_XEN_PVH=y\n")


def _vmlinux_without_entry(root: Path) -> None:
    vmlinux = make_vmlinux(release=RELEASE, notes=b"")
    (root / "build/arch/x86/boot/bzImage").write_bytes(vmlinux)
    (root / "build/.config").write_text("CONFIG_PVH=y\n")


def _no_build(root: Path) -> None:
    (root / "build/include/generated/utsrelease.h").unlink()


def _odd_build(root: Path) -> None:
    (root / "build/include/generated/utsrelease.h").write_text("nothing\n")


def _no_modules(root: Path) -> None:
    (root / f"installed/lib/modules/{RELEASE}/modules.order").unlink()


def _no_config(root: Path) -> None:
    (root / "build/.config").unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_spoil_image, r"is of 6\.8\.0, and build of 6\.9\.0-rc3-mine"),
        (_no_image, "is no bzImage"),
        (_no_vmlinux, "is no vmlinux: it does not say which Linux it is"),
        (_other_vmlinux, r"is of 6\.8\.0, and build of 6\.9\.0-rc3-mine"),
        (_vmlinux_for_xen, "QEMU cannot boot: it is built without CONFIG_PVH"),
        (_vmlinux_without_entry, "QEMU cannot boot: it has no PVH entry"),
        (_no_build, "is no kernel's build tree"),
        (_odd_build, "names no release"),
        (_no_modules, "holds no modules of 6.9.0-rc3-mine"),
        (_no_config, "has no .config"),
    ],
)
def test_parts_that_do_not_fit_are_told(
    context: SourceContext, spoil: Callable[[Path], None], said: str
) -> None:
    entry = write_built(context.lab_dir)
    spoil(context.lab_dir)
    with pytest.raises(SourceError, match=said):
        ensure_resolution(context, entry)


@pytest.mark.parametrize(
    "changed",
    [
        "build/arch/x86/boot/bzImage",
        f"installed/lib/modules/{RELEASE}/modules.order",
        "build/Module.symvers",
    ],
)
def test_what_changed_since_is_not_taken(
    context: SourceContext, tmp_path: Path, changed: str
) -> None:
    entry = write_built(context.lab_dir)
    resolved = ensure_resolution(context, entry)
    with (context.lab_dir / changed).open("ab") as file:
        file.write(b"more")
    assert len(source_of(entry).lost(context, entry, resolved)) == 1
    tree = tmp_path / "tree"
    tree.mkdir()
    with pytest.raises(SourceError, match="is not what it was"):
        source_of(entry).fill(context, entry, resolved, tree)
    assert not list(tree.iterdir())


def test_objects_do_not_count(context: SourceContext) -> None:
    entry = write_built(context.lab_dir)
    resolved = ensure_resolution(context, entry)
    (context.lab_dir / "build/kernel/fork.o").write_text("another")
    assert ensure_resolution(context, entry) == resolved
