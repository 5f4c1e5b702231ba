"""Laying out, and building with real boxes and a make that only pretends to be a kernel's."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.adapters import kernelbuild
from orchestrator.adapters.box import Box
from orchestrator.adapters.cache import Cache, remove_tree
from orchestrator.adapters.kernelbuild import (
    BuildPlan,
    Wish,
    lay_out,
    load_known,
    load_wish,
    make_words,
    resolve_build,
    wanted_object,
    wanted_source,
)
from orchestrator.adapters.kernels import assemble_kernel
from orchestrator.adapters.kernelsource import SourceTree, inspect_source
from orchestrator.foundation.errors import ConfigError, HostError, LabError, SourceError
from orchestrator.plan.paths import shipped_images_dir
from orchestrator.plan.recipe import Keyring, Recipe
from tests.root import PROGRAMS, make_root
from tests.trees import FILES, pack, write_tree

pytestmark = pytest.mark.timeout(120)

CONFIG_DIR = shipped_images_dir() / "config"
RELEASE = "5.5.19-lab"
RECIPE = Recipe(
    distribution="debian",
    release="testy",
    keyring=Keyring(file="x.gpg", package="x", release="trixie"),
    flavour="amd64",
    packages=("bash",),
    kernel_packages=("flex",),
)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def source(cache: Cache, tmp_path: Path) -> SourceTree:
    return inspect_source(cache, write_tree(tmp_path / "linux"))


# --- what is asked for -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flavour", "release"),
    [("default", RELEASE), ("debug", f"{RELEASE}-debug"), ("kcsan", f"{RELEASE}-kcsan")],
)
def test_the_release_is_known_before_the_build(
    source: SourceTree, flavour: kernelbuild.Flavour, release: str
) -> None:
    assert resolve_build(BuildPlan(source, RECIPE, flavour), CONFIG_DIR)[0] == release


def test_a_users_localversion_is_part_of_it(source: SourceTree, tmp_path: Path) -> None:
    extra = tmp_path / "extra.config"
    extra.write_text('CONFIG_LOCALVERSION="-mine"\n')
    plan = BuildPlan(source, RECIPE, extra=(extra,))
    assert resolve_build(plan, CONFIG_DIR)[0] == "5.5.19-mine-lab"
    extra.write_text(f'CONFIG_LOCALVERSION="{"x" * 64}"\n')
    with pytest.raises(SourceError, match="too long"):
        resolve_build(plan, CONFIG_DIR)


def test_a_users_options_win(tmp_path: Path) -> None:
    extra = tmp_path / "extra.config"
    extra.write_text("# CONFIG_KALLSYMS is not set\n")
    assert load_wish("default", (), CONFIG_DIR).options["KALLSYMS"] == "y"
    assert load_wish("default", (extra,), CONFIG_DIR).options["KALLSYMS"] == "n"


def test_what_a_user_asks_for_is_insisted_on(tmp_path: Path) -> None:
    extra = tmp_path / "extra.config"
    extra.write_text("CONFIG_VMAP_STACK=y\n")
    assert "VMAP_STACK" in load_wish("default", (), CONFIG_DIR).optional
    assert load_wish("default", (extra,), CONFIG_DIR).optional == frozenset()


@pytest.mark.parametrize("content", [b"KALLSYMS=y\n", b"\xff\xfe", None])
def test_a_fragment_that_is_none(tmp_path: Path, content: object) -> None:
    extra = tmp_path / "extra.config"
    if isinstance(content, bytes):
        extra.write_bytes(content)
    with pytest.raises(ConfigError, match=r"extra\.config"):
        load_wish("default", (extra,), CONFIG_DIR)


def test_how_it_is_built_is_of_all_that_matters(source: SourceTree, tmp_path: Path) -> None:
    extra = tmp_path / "extra.config"
    extra.write_text("CONFIG_X=y\n")
    other = RECIPE.model_copy(update={"kernel_packages": ("another-flex",)})
    plans = [
        BuildPlan(source, RECIPE),
        BuildPlan(source, RECIPE, "debug"),
        BuildPlan(source, RECIPE, extra=(extra,)),
        BuildPlan(source, other),
    ]
    hashes = {resolve_build(plan, CONFIG_DIR)[1] for plan in plans}
    assert len(hashes) == 4
    again = BuildPlan(SourceTree(Path("/x"), "0" * 64, "5.5.19", "", "."), RECIPE)
    assert resolve_build(again, CONFIG_DIR)[1] in hashes  # the source has a hash of its own


def test_make_is_told_what_makes_builds_alike() -> None:
    words = make_words("-lab", ())
    assert "ARCH=x86_64" in words
    assert {"KBUILD_BUILD_USER=lab", "KBUILD_BUILD_HOST=lab", "LOCALVERSION=-lab"} <= set(words)
    assert any(word.startswith("KBUILD_BUILD_TIMESTAMP=") for word in words)


def test_what_a_tree_knows(tmp_path: Path) -> None:
    root = write_tree(
        tmp_path / "linux",
        arch__x86__Kconfig="config X86\n\tdepends on B\n",
        arch__arm__Kconfig="config ARM\n",
        tools__Kconfig="config TOOL\n",
    )
    (root / "lib").mkdir()
    (root / "lib/Kconfig.debug").write_text("config DEBUG\n")
    (root / "lib/Kconfig.link").symlink_to("/etc/passwd")
    assert load_known(root) == {"MODULES": (), "X86": ("B",), "DEBUG": ()}


# --- laying out --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("Makefile", True),
        ("Kconfig", True),
        ("Kbuild", True),
        ("README", False),
        ("include/linux/module.h", True),
        ("scripts/Makefile.modpost", True),
        ("scripts/mod/modpost.c", True),
        ("scripts/dtc/include-prefixes/arm", False),
        ("arch/x86/Makefile", True),
        ("arch/x86/include/asm/io.h", True),
        ("arch/x86/entry/syscalls/Makefile", True),
        ("arch/x86/kernel/traps.c", False),
        ("arch/x86/Kconfig.debug", True),
        ("arch/arm/include/asm/io.h", False),
        ("arch/arm/Makefile", False),
        ("arch/Kconfig", True),
        ("kernel/module.c", False),
        ("kernel/Makefile", False),
        ("kernel/Kconfig.preempt", True),
        ("drivers/net/Kconfig", True),
        ("tools/objtool/check.c", False),
        ("Documentation/Kconfig", False),
        ("samples/Kconfig", False),
    ],
)
def test_what_of_the_source_goes_along(name: str, wanted: bool) -> None:
    assert wanted_source(name) is wanted


@pytest.mark.parametrize(
    ("name", "executable", "wanted"),
    [
        (".config", False, True),
        ("Module.symvers", False, True),
        ("vmlinux", True, False),
        ("vmlinux.o", False, False),
        ("source", False, False),
        ("include/generated/autoconf.h", False, True),
        ("include/config/auto.conf", False, True),
        ("include/config/kernel.release", False, True),
        ("include/config/SMP", False, False),
        ("include/config/some/option.h", False, False),
        ("arch/x86/include/generated/asm/x.h", False, True),
        ("arch/x86/boot/bzImage", False, False),
        ("scripts/mod/modpost", True, True),
        ("scripts/mod/modpost.o", False, False),
        ("scripts/basic/.fixdep.cmd", False, False),
        ("scripts/module.lds", False, True),
        ("tools/objtool/objtool", True, True),
        ("tools/objtool/objtool", False, False),
        ("tools/objtool/fixdep", True, False),
        ("tools/bpf/resolve_btfids/resolve_btfids", True, True),
        ("kernel/module.ko", False, False),
    ],
)
def test_what_of_the_build_goes_along(name: str, executable: bool, wanted: bool) -> None:
    assert wanted_object(name, executable=executable) is wanted


def write_objects(root: Path) -> Path:
    """What a build leaves, as far as it matters."""
    for name, text in {
        "arch/x86/boot/bzImage": "boot me",
        "vmlinux": "not compressed",
        ".config": "CONFIG_MODULES=y\n",
        "Module.symvers": "",
        "include/generated/autoconf.h": "",
        "include/config/auto.conf": "",
        "scripts/mod/modpost": "",
        f".installed/lib/modules/{RELEASE}/modules.builtin": "kernel/fs/squashfs.ko\n",
        f".installed/lib/modules/{RELEASE}/kernel/x.ko": "a module",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "scripts/mod/modpost").chmod(0o700)
    for name in ("build", "source"):
        (root / f".installed/lib/modules/{RELEASE}/{name}").symlink_to("/mnt/objects")
    return root


def test_a_tree_as_packages_would_unpack(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    lay_out(write_tree(tmp_path / "s"), write_objects(tmp_path / "o"), tree, RELEASE)
    modules, headers = tree / "usr/lib/modules" / RELEASE, tree / f"usr/src/linux-headers-{RELEASE}"
    assert (tree / f"boot/vmlinuz-{RELEASE}").read_text() == "boot me"
    assert (tree / f"boot/vmlinux-{RELEASE}").read_text() == "not compressed"
    assert (tree / f"boot/config-{RELEASE}").read_text() == "CONFIG_MODULES=y\n"
    assert sorted(path.name for path in modules.iterdir()) == [
        "kernel",
        "modules.builtin",
        "modules.order",
    ]
    assert (headers / "Makefile").read_text() == FILES["Makefile"]
    assert not (headers / "kernel").exists()
    assert os.access(headers / "scripts/mod/modpost", os.X_OK)
    assert (headers / "scripts/mod/modpost").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    "name", ["arch/x86/boot/bzImage", "vmlinux", ".config", "include/generated/autoconf.h"]
)
def test_a_link_is_never_followed(tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    objects = write_objects(tmp_path / "o")
    (objects / name).unlink()
    (objects / name).symlink_to(secret)
    tree = tmp_path / "tree"
    with contextlib.suppress(SourceError):
        lay_out(write_tree(tmp_path / "s"), objects, tree, RELEASE)
    for path in tree.rglob("*"):
        assert path.is_symlink() or path.is_dir() or "hunter2" not in path.read_text()


def test_a_link_to_a_folder_is_not_entered(tmp_path: Path) -> None:
    (tmp_path / "outside/include").mkdir(parents=True)
    (tmp_path / "outside/include/secret.h").write_text("hunter2")
    objects = write_objects(tmp_path / "o")
    (objects / "include/more").symlink_to(tmp_path / "outside/include")
    tree = tmp_path / "tree"
    lay_out(write_tree(tmp_path / "s"), objects, tree, RELEASE)
    assert (tree / f"usr/src/linux-headers-{RELEASE}/include/more").is_symlink()
    assert not [path for path in tree.rglob("secret.h") if "more" not in str(path)]


@pytest.mark.parametrize("name", ["arch/x86/boot/bzImage", "vmlinux", ".config"])
def test_a_build_that_made_too_little(tmp_path: Path, name: str) -> None:
    objects = write_objects(tmp_path / "o")
    (objects / name).unlink()
    with pytest.raises(SourceError, match=f"made no {Path(name).name}"):
        lay_out(write_tree(tmp_path / "s"), objects, tmp_path / "tree", RELEASE)


# --- building, with a compiler and a make of straw -----------------------------------------

MAKE = """#!/bin/sh
for word; do last=$word; case $word in O=*) out=${word#O=};; esac; done
cd "$out" || exit 9
case " $* " in
*" allnoconfig "*) cp wanted.config .config; @CONFIG@ ;;
*" bzImage "*) @BUILD@
  mkdir -p include/config arch/x86/boot include/generated scripts
  echo @RELEASE@ > include/config/kernel.release
  echo kernel > arch/x86/boot/bzImage; echo elf > vmlinux; touch Module.symvers ;;
*" modules_install "*) mkdir -p .installed/lib/modules/@RELEASE@
  for m in virtio_pci virtio_blk virtio_net virtio_rng squashfs overlay; do
    echo kernel/$m.ko; done > .installed/lib/modules/@RELEASE@/modules.builtin ;;
esac
exit 0
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if any(shutil.which(tool) is None for tool in ("bwrap", "mksquashfs", "depmod")):
        pytest.skip("needs bubblewrap, squashfs-tools and kmod")
    path = make_root(tmp_path_factory.mktemp("build") / "root", (*PROGRAMS, "sed"))
    try:
        Box(path).check()
    except HostError as error:
        pytest.skip(f"no boxes here: {error.message}")
    yield path
    remove_tree(path)


class Straw:
    """A build with tools that pretend, in a real box."""

    def __init__(self, root: Path, tmp_path: Path) -> None:
        self.root = root
        self.log = tmp_path / "log/kernel-build.log"
        self.log.parent.mkdir()
        self.folder = tmp_path / "kernel"
        self.folder.mkdir()
        self.said: list[str] = []
        self.tools()

    def tools(
        self, *, gcc: str = "12.2.0", config: str = "", build: str = "", release: str = RELEASE
    ) -> None:
        text = MAKE.replace("@CONFIG@", config or ":").replace("@BUILD@", build or ":")
        self._write("make", text.replace("@RELEASE@", release))
        self._write("gcc", f"#!/bin/sh\necho {gcc}\n")

    def _write(self, name: str, text: str) -> None:
        path = self.root / "usr/bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def build(self, source: SourceTree, flavour: kernelbuild.Flavour = "default") -> None:
        plan = BuildPlan(source, RECIPE, flavour)
        release, _ = resolve_build(plan, CONFIG_DIR)
        tree = self.folder / "tree"
        tree.mkdir()
        build = kernelbuild._Build(plan, release, Box(self.root), tree, self.log, self.said.append)
        build.run(Wish({"MODULES": "y"}), 2)
        assemble_kernel(tree, release, self.folder)


@pytest.fixture
def straw(root: Path, tmp_path: Path) -> Straw:
    return Straw(root, tmp_path)


def test_a_folder_is_built_and_left_as_it_was(straw: Straw, source: SourceTree) -> None:
    before = sorted(source.path.rglob("*"))
    straw.build(source)
    assert sorted(source.path.rglob("*")) == before
    names = {path.name for path in straw.folder.iterdir()}
    assert names == {*("vmlinuz", "vmlinux", "config", "layer.squashfs", "boot-modules", "tree")}
    assert "allnoconfig" in straw.log.read_text()


def test_an_archive_is_built(straw: Straw, cache: Cache, tmp_path: Path) -> None:
    path = tmp_path / "linux.tar.xz"
    path.write_bytes(pack(FILES))
    straw.build(inspect_source(cache, path))
    assert (straw.folder / "vmlinuz").read_text() == "kernel\n"


def test_the_first_error_is_told(straw: Straw, source: SourceTree) -> None:
    straw.tools(build="echo 'x.c:1:2: error: no such thing'; echo 'make: *** [x] Error 1'; exit 2")
    with pytest.raises(SourceError) as caught:
        straw.build(source)
    assert caught.value.message == (
        f"{RELEASE} does not build with gcc 12.2.0: x.c:1:2: error: no such thing"
    )
    assert "focal" in caught.value.hint
    assert caught.value.evidence == straw.log
    assert "no such thing" in straw.log.read_text()


def test_an_option_that_does_not_take_is_named(straw: Straw, source: SourceTree) -> None:
    straw.tools(config="echo '# CONFIG_MODULES is not set' > .config")
    with pytest.raises(ConfigError, match="CONFIG_MODULES is n, not y"):
        straw.build(source)


def test_a_flavour_that_the_tree_has_not(straw: Straw, source: SourceTree) -> None:
    with pytest.raises(SourceError, match="cannot be built as kcsan: it has no KCSAN") as caught:
        straw.build(source, "kcsan")
    assert "5.8" in caught.value.hint


def test_another_release_than_was_foretold(straw: Straw, source: SourceTree) -> None:
    straw.tools(release="5.5.19-other")
    with pytest.raises(SourceError, match=r"calls itself '5\.5\.19-other'"):
        straw.build(source)


@pytest.mark.parametrize("gcc", ["", "none"])
def test_no_compiler(straw: Straw, source: SourceTree, gcc: str) -> None:
    straw.tools(gcc=gcc)
    with pytest.raises(SourceError, match="no working gcc"):
        straw.build(source)


def test_a_compiler_too_old(straw: Straw, cache: Cache, tmp_path: Path) -> None:
    makefile = "VERSION = 7\nPATCHLEVEL = 1\nSUBLEVEL = 0\n"
    source = inspect_source(cache, write_tree(tmp_path / "new", Makefile=makefile))
    straw.tools(gcc="7.5.0")
    with pytest.raises(SourceError, match=r"gcc 7: Linux 6\.15 and later") as caught:
        straw.build(source)
    assert "image: bookworm" in caught.value.hint


def test_objects_that_are_links(straw: Straw, source: SourceTree, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(RELEASE)
    straw.tools(config=f"ln -sf {tmp_path}/secret .config")
    with pytest.raises(LabError, match="made no file of"):
        straw.build(source)


def test_a_step_that_is_ended_is_in_the_log(
    straw: Straw, source: SourceTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernelbuild, "BUILD_SECONDS", 2.0)
    straw.tools(build="echo so far; sleep 987.4")
    with pytest.raises(HostError, match="did not end by its deadline"):
        straw.build(source)
    assert "so far" in straw.log.read_text()
    assert [path.name for path in straw.log.parent.iterdir()] == [straw.log.name]


def test_a_huge_kernel_loses_its_debugging_information(
    straw: Straw, source: SourceTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernelbuild, "MAX_VMLINUX", 1)
    straw._write("objcopy", '#!/bin/sh\necho stripped > "$2"\n')
    straw.build(source)
    assert (straw.folder / "vmlinux").read_text() == "stripped\n"
