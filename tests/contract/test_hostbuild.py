"""Modules built in real boxes, by a make and a tree that only pretend to be a kernel's; and
where a lab's modules come from: cache, box or guest.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.adapters import box as box_module
from orchestrator.adapters import hostbuild
from orchestrator.adapters.box import Box
from orchestrator.adapters.builtcache import build_keys, keep_built, take_built
from orchestrator.adapters.cache import Cache, remove_tree
from orchestrator.adapters.hostbuild import HostBuilder, check_size, complete_tree, ensure_tree
from orchestrator.adapters.images import Image, ensure_root
from orchestrator.adapters.kbuild import BuiltModule, Sources, load_sources
from orchestrator.adapters.kernels import Kernel
from orchestrator.foundation.errors import BuildError, HostError, SourceError
from orchestrator.plan.kernel import Part, ResolvedKernel
from orchestrator.plan.model import BuildPlace, ModuleEntry
from orchestrator.plan.outcome import FolderBuild
from orchestrator.plan.qemu import Accelerator
from orchestrator.policy.building import BuildOrder, Built, Workshop
from orchestrator.policy.events import Doing, Event, Note
from tests.elf import make_ko
from tests.root import PROGRAMS, make_root

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap"),
]

RELEASE = "6.1.0-test+deb12"
KO = make_ko(f"vermagic={RELEASE} SMP ", "depends=", "name=hello")
# A "source" is a module already, so that a module comes out; what else is to happen while it
# is built stands in a script beside it.
TREE_MAKEFILE = """\
modules:
\tcd $(M) && for f in *.mod.in; do [ -e $$f ] && cp $$f $${f%.mod.in}.ko; done; true
\tcd $(M) && echo symbols of $(M) > Module.symvers
\tcd $(M) && if [ -e also ]; then sh ./also; fi
"""
WITH_MAKE = (*PROGRAMS, "make", "find", "nproc", "uname", "rm", "echo", "head")


def make_image_root(root: Path) -> Path:
    make_root(root, WITH_MAKE)
    (root / "usr/lib/keep").mkdir(parents=True)
    (root / "usr/lib/keep/this").write_text("kept")
    (root / "usr/local/bin").mkdir(parents=True)
    (root / "usr/local/bin/sysio").write_text("sysio")
    for path in (root, *root.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    return root


def make_layer(layer: Path) -> Path:
    modules = layer / "usr/lib/modules" / RELEASE
    (modules / "kernel/drivers").mkdir(parents=True)
    (modules / "kernel/drivers/big.ko").write_text("x")
    (modules / "build").symlink_to(f"/usr/src/linux-headers-{RELEASE}")
    headers = layer / "usr/src" / f"linux-headers-{RELEASE}"
    headers.mkdir(parents=True)
    (headers / "Makefile").write_text(TREE_MAKEFILE)
    (layer / "usr/lib/linux-kbuild").mkdir()
    (layer / "usr/lib/linux-kbuild/tool").write_text("a tool")
    return layer


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = make_image_root(tmp_path_factory.mktemp("hostbuild") / "root")
    try:
        Box(path).check()
    except HostError as error:
        pytest.skip(f"no boxes here: {error.message}")
    yield path
    remove_tree(path)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = make_layer(tmp_path_factory.mktemp("layer") / "tree")
    complete_tree(path, RELEASE)
    return path


@pytest.fixture
def source_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "hello"
    folder.mkdir()
    (folder / "hello.mod.in").write_bytes(KO)
    return folder


@pytest.fixture
def builder(root: Path, tree: Path, tmp_path: Path) -> Iterator[HostBuilder]:
    (tmp_path / "work").mkdir()
    yield HostBuilder(root, tree, tmp_path / "work", RELEASE, 60)
    remove_tree(tmp_path / "work")


Build = Callable[..., tuple[BuiltModule, ...]]


@pytest.fixture
def build(builder: HostBuilder, source_dir: Path, tmp_path: Path) -> Build:
    """Builds the folder, with a script run within the build."""

    def build(also: str = "", name: str = "hello") -> tuple[BuiltModule, ...]:
        (source_dir / "also").write_text(also)
        return builder.build(load_sources(name, source_dir), tmp_path / "out" / name)

    return build


def log_of(tmp_path: Path, name: str = "hello") -> str:
    return (tmp_path / "out" / name / "build.log").read_text()


# --- a build in a box ------------------------------------------------------------------------


def test_a_build_gives_its_modules_symbols_and_a_log(
    build: Build, source_dir: Path, tmp_path: Path
) -> None:
    (module,) = build("echo to stderr >&2")
    assert (module.name, module.release) == ("hello", RELEASE)
    assert module.path.read_bytes() == KO
    out = tmp_path / "out/hello"
    assert {path.name for path in out.iterdir()} == {"build.log", "hello.ko", "Module.symvers"}
    log = log_of(tmp_path)
    assert log.startswith(f"$ cd /lab/src/hello && make -C /lib/modules/{RELEASE}/build M=")
    assert f"Entering directory '/usr/src/linux-headers-{RELEASE}'" in log
    assert "to stderr" in log
    assert {path.name for path in source_dir.iterdir()} == {"also", "hello.mod.in"}


def test_it_sees_its_sources_and_nothing_else_of_the_host(build: Build, tmp_path: Path) -> None:
    build(
        f"ls -d {tmp_path} 2>&1; ls / /lab /lab/src; cat /usr/lib/keep/this "
        "/usr/lib/linux-kbuild/tool /usr/local/bin/sysio; id -u; env"
    )
    log = log_of(tmp_path)
    assert str(tmp_path) in log  # in the words of ls, which did not find it
    assert "cannot access" in log or "No such file" in log
    assert "kepta toolsysio65534\n" in log
    assert "/lab:\nsrc\n" in log
    assert "/lab/src:\nhello\n" in log
    assert "LAB_" not in log
    assert "USER=" not in log


@pytest.mark.parametrize(
    "place",
    [
        *("/", "/usr", "/usr/lib", "/usr/local/bin", "/usr/src", "/lib/modules", "/lab"),
        *(f"/lib/modules/{RELEASE}/build", "/usr/lib/keep", "/etc", "/mnt"),
    ],
)
def test_all_but_its_sources_is_read_only(build: Build, tmp_path: Path, place: str) -> None:
    build(f"echo x > {place}/written && echo it was written; true")
    assert "it was written" not in log_of(tmp_path)
    assert "ead-only file system" in log_of(tmp_path)


def test_uname_tells_the_guests_release_and_else_the_truth(build: Build, tmp_path: Path) -> None:
    build("uname -r; uname --kernel-release; uname -sm; /bin/uname -r")
    lines = log_of(tmp_path).splitlines()
    assert lines.count(RELEASE) == 2
    assert f"Linux {os.uname().machine}" in lines
    assert os.uname().release in lines


def test_one_folder_sees_those_before_it(build: Build, tmp_path: Path) -> None:
    build(name="first")
    build("cat ../first/Module.symvers; ls ../first", name="second")
    log = log_of(tmp_path, "second")
    assert "symbols of /lab/src/first\n" in log
    assert "hello.ko\n" in log


def test_a_folder_can_be_placed_without_building_it(
    builder: HostBuilder, build: Build, source_dir: Path, tmp_path: Path
) -> None:
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    (earlier / "Module.symvers").write_text("symbols from before")
    (source_dir / "also").write_text("")
    builder.place(load_sources("first", source_dir), earlier)
    build("cat ../first/Module.symvers; ls ../first", name="second")
    log = log_of(tmp_path, "second")
    assert "symbols from before" in log
    assert "hello.mod.in\n" in log


def test_a_folder_below_is_built_with_what_lies_above_it(
    builder: HostBuilder, source_dir: Path, tmp_path: Path
) -> None:
    (source_dir / "sub").mkdir()
    (source_dir / "hello.mod.in").rename(source_dir / "sub/hello.mod.in")
    (source_dir / "common.h").write_text("what lies above")
    (source_dir / "sub/also").write_text("cat ../common.h")
    entry = ModuleEntry(path="hello", folder="sub")
    out = tmp_path / "out/hello"
    (module,) = builder.build(load_sources("hello", source_dir, entry), out)
    assert module.name == "hello"
    assert "what lies above" in log_of(tmp_path)
    assert (out / "Module.symvers").read_text() == "symbols of /lab/src/hello/sub\n"
    builder.place(load_sources("again", source_dir, entry), out)
    work = tmp_path / "work/src/again/sub/Module.symvers"
    assert work.read_text() == "symbols of /lab/src/hello/sub\n"


def test_a_command_of_its_own_builds_a_folder(
    builder: HostBuilder, source_dir: Path, tmp_path: Path
) -> None:
    make = (
        "echo $KVER $kernelver $KDIR $KERNELDIR $KERNEL_SRC $kernel_source_dir $KCFLAGS\n"
        "echo [${KERNELRELEASE-unset}]; pwd; uname -r\n"
        'make -C "$KDIR" M="$PWD" modules && exit 0 # and not further'
    )
    entry = ModuleEntry(path="hello", make=make)
    (source_dir / "also").write_text("echo made by kbuild")
    (module,) = builder.build(load_sources("hello", source_dir, entry), tmp_path / "out/hello")
    assert module.name == "hello"
    log = log_of(tmp_path)
    tree = f"/lib/modules/{RELEASE}/build"
    assert f"\n{RELEASE} {RELEASE} {' '.join([tree] * 4)} -g\n" in log
    assert f"\n[unset]\n/lab/src/hello\n{RELEASE}\n" in log
    assert "\nmade by kbuild\n" in log


def test_a_command_that_fails_fails_the_build(
    builder: HostBuilder, source_dir: Path, tmp_path: Path
) -> None:
    entry = ModuleEntry(path="hello", make="echo 'make: *** no rule' >&2; exit 3")
    with pytest.raises(BuildError, match=r"hello does not build: make: \*\*\* no rule") as caught:
        builder.build(load_sources("hello", source_dir, entry), tmp_path / "out/hello")
    assert caught.value.status == 3


# --- builds that fail ------------------------------------------------------------------------


def test_a_build_that_fails_is_told_as_a_guests_is(build: Build, tmp_path: Path) -> None:
    with pytest.raises(BuildError) as caught:
        build("echo \"hello.c:3:1: error: expected ';'\"; exit 1")
    error = caught.value
    assert error.message == "hello does not build: hello.c:3:1: error: expected ';'"
    assert (error.status, error.argv[:2]) == (2, ("sh", "-c"))
    assert error.evidence == tmp_path / "out/hello/build.log"
    assert "expected ';'" in error.output
    assert "expected ';'" in log_of(tmp_path)


def test_a_build_that_takes_too_long(
    root: Path, tree: Path, source_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "work").mkdir()
    slow = HostBuilder(root, tree, tmp_path / "work", RELEASE, 3)
    (source_dir / "also").write_text("echo so far; sleep 987.5")
    with pytest.raises(BuildError, match="hello was not built within 3 s") as caught:
        slow.build(load_sources("hello", source_dir), tmp_path / "out/hello")
    assert "build:" in caught.value.hint
    assert "so far" in log_of(tmp_path)
    remove_tree(tmp_path / "work")


def test_a_build_that_makes_no_module(build: Build) -> None:
    with pytest.raises(BuildError, match="made no module"):
        build("rm hello.ko")


def test_a_build_that_makes_rubbish(build: Build) -> None:
    with pytest.raises(BuildError, match=r"hello\.ko cannot be read"):
        build("echo rubbish > hello.ko")


def test_links_and_odd_names_are_not_taken(build: Build, tmp_path: Path) -> None:
    (module,) = build(
        "ln -s /etc/passwd link.ko; mkdir dir.ko; mkdir -p deep/er; "
        "cp hello.ko 'deep/er/a b.ko'; ln -s / deep/all; echo x > deep/Module.symvers"
    )
    assert module.name == "hello"
    out = tmp_path / "out/hello"
    assert {path.name for path in out.iterdir()} == {"build.log", "hello.ko", "Module.symvers"}
    assert (out / "Module.symvers").read_text() == "symbols of /lab/src/hello\n"


def test_modules_that_are_too_large(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostbuild, "MAX_MODULE_BYTES", 8192)
    with pytest.raises(BuildError, match="larger than"):
        build("head -c 100000 /dev/zero > big.ko")


def test_a_build_that_fills_the_disk_is_ended(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hostbuild, "MAX_BUILD_BYTES", 1 << 20)
    with pytest.raises(BuildError, match="makes more than 1 MiB"):
        build("head -c 2000000 /dev/zero > big; sleep 987.6")


def test_a_build_that_makes_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostbuild, "MAX_BUILD_FILES", 3)
    for name in ("a", "b/c"):
        (tmp_path / name).mkdir(parents=True)
    check_size("hello", tmp_path)
    (tmp_path / "b/d").write_text("")
    with pytest.raises(BuildError, match="3 files"):
        check_size("hello", tmp_path)


def test_a_long_log_is_cut(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostbuild, "MAX_OUTPUT", 1000)
    build("i=0; while [ $i -lt 1000 ]; do echo line $i; i=$((i+1)); done")
    assert len(log_of(tmp_path)) < 1200


# --- what was built is kept ------------------------------------------------------------------


def resolved(sha256: str = "a" * 64) -> ResolvedKernel:
    part = Part(name="kernel", version=RELEASE, sha256=sha256, size=0)
    return ResolvedKernel(
        release=RELEASE, version="6.1.0", origin="test", parts=(part,), recipe="r"
    )


def a_kernel(folder: Path, key: str = "kernel-1") -> Kernel:
    return Kernel(
        key=key,
        resolved=resolved(),
        vmlinuz_path=folder / "vmlinuz",
        config_path=folder / "config",
        layer_path=folder / "layer.squashfs",
        boot_modules=(),
        vmlinuz_sha256="",
        config_sha256="",
        compiler="",
    )


def an_image(folder: Path, packages: tuple[str, ...] = ("gcc=12",)) -> Image:
    return Image("testy-1", "testy", folder / "image.squashfs", folder / "busybox", packages)


def test_a_key_changes_with_all_that_a_build_depends_on(tmp_path: Path) -> None:
    one, two = Sources("one", b"1"), Sources("two", b"2")
    image, kernel = an_image(tmp_path), a_kernel(tmp_path)
    first, second = build_keys(image, kernel, (one, two))
    assert build_keys(image, kernel, (one, two)) == (first, second)
    others = {
        build_keys(image, kernel, (replace(one, archive=b"x"),))[0],
        build_keys(image, kernel, (replace(one, name="x"),))[0],
        build_keys(image, a_kernel(tmp_path, "kernel-2"), (one,))[0],
        build_keys(an_image(tmp_path, ("gcc=13",)), kernel, (one,))[0],
        build_keys(replace(image, key="testy-2"), kernel, (one,))[0],
        build_keys(image, kernel, (two,))[0],
    }
    assert len({first, second, *others}) == 8
    # The second can see the first, but not the other way round.
    changed = build_keys(image, kernel, (replace(one, archive=b"x"), two))
    assert changed[1] != second
    assert build_keys(image, kernel, (one, replace(two, archive=b"x")))[0] == first


@pytest.fixture
def output_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "hello.ko").write_bytes(KO)
    (folder / "build.log").write_text("$ make\n")
    (folder / "Module.symvers").write_text("symbols")
    (folder / "else").write_text("not of the build")
    return folder


def test_what_was_kept_is_taken_whole(tmp_path: Path, output_dir: Path) -> None:
    cache = Cache(tmp_path / "cache")
    assert take_built(cache, "k", tmp_path / "again") is None
    keep_built(cache, "k", output_dir)
    modules = take_built(cache, "k", tmp_path / "again")
    assert modules is not None
    assert [module.path for module in modules] == [tmp_path / "again/hello.ko"]
    kept = {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    assert kept == {
        name: (output_dir / name).read_bytes()
        for name in ("hello.ko", "build.log", "Module.symvers")
    }


@pytest.mark.parametrize(
    "spoil",
    [
        lambda entry: (entry / "hello.ko").write_bytes(KO + b"x"),
        lambda entry: (entry / "hello.ko").unlink(),
        lambda entry: (entry / "built.json").unlink(),
        lambda entry: (entry / "built.json").write_text("{}"),
        lambda entry: (entry / "built.json").write_text("[]"),
        lambda entry: (entry / "built.json").write_text("{"),
        lambda entry: (entry / "built.json").write_text('{"files": {}}'),
        lambda entry: (entry / "built.json").write_text(
            json.dumps({"files": {"../../out/else": "x"}})
        ),
    ],
)
def test_a_damaged_entry_is_as_good_as_none_and_is_replaced(
    tmp_path: Path, output_dir: Path, spoil: Callable[[Path], object]
) -> None:
    cache = Cache(tmp_path / "cache")
    keep_built(cache, "k", output_dir)
    spoil(tmp_path / "cache/modules/k")
    assert take_built(cache, "k", tmp_path / "again") is None
    assert not list((tmp_path / "again").glob("*"))
    keep_built(cache, "k", output_dir)
    assert take_built(cache, "k", tmp_path / "again")


# --- where modules come from -----------------------------------------------------------------

needs_squashfs = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("mksquashfs", "unsquashfs")),
    reason="needs squashfs-tools",
)


def squash(folder: Path, target: Path) -> None:
    argv = ("mksquashfs", str(folder), str(target), "-quiet", "-no-progress", "-comp", "lz4")
    subprocess.run(argv, check=True, capture_output=True)


class Shop:
    """A lab of two folders, an image and a kernel, and what its workshops told."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.cache = Cache(folder / "cache")
        self._folder = folder
        squash(root, folder / "image.squashfs")
        squash(make_layer(folder / "layer"), folder / "layer.squashfs")
        self.image, self.kernel = an_image(folder), a_kernel(folder)
        self.dirs = {name: folder / "lab" / name for name in ("one", "two")}
        for name, path in self.dirs.items():
            path.mkdir(parents=True)
            ko = make_ko(f"vermagic={RELEASE} SMP ", "depends=", f"name={name}")
            (path / f"{name}.mod.in").write_bytes(ko)
        self.events: list[Event] = []
        self.runs = 0

    def workshop(self, place: BuildPlace = "auto", accelerator: Accelerator = "tcg") -> Workshop:
        self.runs += 1
        order = BuildOrder(
            kernel_name="k",
            kernel=self.kernel,
            image=self.image,
            module_dirs=self.dirs,
            place=place,
            accelerator=accelerator,
            seconds=60,
            output_dir=self._folder / f"run-{self.runs}",
        )
        return Workshop(order, self.cache, self._hear)

    def _hear(self, event: Event) -> None:
        self.events.append(event)

    def notes(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Note)]

    def built(self) -> list[str]:
        """What was built since this was last asked, in the words that a user sees."""
        told = [event.what for event in self.events if isinstance(event, Doing)]
        self.events.clear()
        return [what for what in told if what.startswith("building ")]


@pytest.fixture
def shop(tmp_path: Path, root: Path) -> Shop:
    if shutil.which("mksquashfs") is None or shutil.which("unsquashfs") is None:
        pytest.skip("needs squashfs-tools")
    return Shop(tmp_path, root)


def who(built: Built | None) -> dict[str, str]:
    assert built is not None
    return {folder.name: folder.by for folder in built.folders}


def test_what_is_unchanged_is_built_once(shop: Shop) -> None:
    first = shop.workshop().build_without_guest()
    assert who(first) == {"one": "host", "two": "host"}
    assert shop.built() == ["building one on the host", "building two on the host"]
    again = shop.workshop("guest").build_without_guest()
    assert who(again) == {"one": "cache", "two": "cache"}
    assert shop.built() == []
    assert first is not None
    assert again is not None
    assert set(first.modules) == set(again.modules) == {"one", "two"}
    for name, module in again.modules.items():
        assert module.path.read_bytes() == first.modules[name].path.read_bytes()
        assert module.path.parent.parent.name == "run-2"


def test_what_changed_is_built_beside_what_did_not(shop: Shop) -> None:
    shop.workshop().build_without_guest()
    (shop.dirs["two"] / "also").write_text("cat ../one/Module.symvers")
    shop.events.clear()
    built = shop.workshop().build_without_guest()
    assert who(built) == {"one": "cache", "two": "host"}
    assert shop.built() == ["building two on the host"]
    assert built is not None
    log = built.modules["two"].path.with_name("build.log").read_text()
    assert "symbols of /lab/src/one" in log


def test_nothing_is_left_beside_the_results(shop: Shop, tmp_path: Path) -> None:
    shop.workshop().build_without_guest()
    assert {path.name for path in (tmp_path / "run-1").iterdir()} == {"one", "two"}


@pytest.mark.parametrize(
    ("place", "accelerator", "on_host"),
    [
        ("auto", "tcg", True),
        ("auto", "kvm", False),
        ("host", "kvm", True),
        ("guest", "tcg", False),
    ],
)
def test_where_modules_are_built(
    shop: Shop, place: BuildPlace, accelerator: Accelerator, on_host: bool
) -> None:
    built = shop.workshop(place, accelerator).build_without_guest()
    assert (built is not None) is on_host


def test_without_boxes_it_is_left_to_the_guest_and_told(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(box_module, "TOOL", "bwrap-that-nobody-has")
    workshop = shop.workshop()
    assert workshop.build_without_guest() is None
    assert "modules are built in the guest: " in workshop.note
    assert "bwrap-that-nobody-has" in workshop.note
    assert "install the package bubblewrap" in workshop.note
    assert shop.notes() == [workshop.note]


def test_who_insists_on_the_host_gets_an_error_without_boxes(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(box_module, "TOOL", "bwrap-that-nobody-has")
    with pytest.raises(HostError, match="bwrap-that-nobody-has"):
        shop.workshop("host").build_without_guest()


def test_what_the_box_may_have_refused_is_left_to_the_guest(shop: Shop) -> None:
    (shop.dirs["two"] / "also").write_text("touch /usr/lib/x || exit 1")
    workshop = shop.workshop()
    assert workshop.build_without_guest() is None
    assert "'Read-only file system'" in workshop.note
    insisting = shop.workshop("host").build_without_guest()
    assert insisting is not None
    assert "two does not build" in str(insisting.errors["two"])


def test_a_failure_is_kept_for_nobody(shop: Shop) -> None:
    (shop.dirs["one"] / "also").write_text("echo 'a.c:1:1: error: no'; exit 1")
    shop.events.clear()
    for _ in range(2):
        built = shop.workshop().build_without_guest()
        assert built is not None
        assert [str(e) for e in built.errors.values()] == ["one does not build: a.c:1:1: error: no"]
        assert set(built.modules) == {"two"}
        # The second could have seen what the first would have made.
        assert shop.built() == ["building one on the host", "building two on the host"]


def test_a_module_for_another_kernel_is_a_failure(shop: Shop) -> None:
    (shop.dirs["one"] / "one.mod.in").write_bytes(make_ko("vermagic=5.4.0 SMP "))
    built = shop.workshop().build_without_guest()
    assert built is not None
    assert [folder.by for folder in built.folders] == ["host", "host"]
    assert "one.ko is for another kernel" in str(built.errors["one"])
    assert isinstance(built.folders[0], FolderBuild)


def test_sources_are_read_once(shop: Shop) -> None:
    """An editor may save a file between the two: what is kept must be of what was hashed."""
    workshop = shop.workshop("guest")
    workshop.build_without_guest()
    before = workshop.folders
    (shop.dirs["one"] / "one.mod.in").write_bytes(KO)
    assert workshop.folders is before


@needs_squashfs
def test_a_tree_holds_what_a_build_reads(tmp_path: Path) -> None:
    squash(make_layer(tmp_path / "layer"), tmp_path / "layer.squashfs")
    cache = Cache(tmp_path / "cache")
    tree = ensure_tree(cache, a_kernel(tmp_path))
    assert (tree / "usr/src" / f"linux-headers-{RELEASE}" / "Makefile").is_file()
    assert (tree / "usr/lib/modules" / RELEASE / "build").is_symlink()
    assert not (tree / "usr/lib/modules" / RELEASE / "kernel").exists()
    assert (tree / "lab/src").is_dir()
    assert ensure_tree(cache, a_kernel(tmp_path)) == tree


@needs_squashfs
def test_a_damaged_layer(tmp_path: Path) -> None:
    (tmp_path / "layer.squashfs").write_bytes(b"hsqs")
    with pytest.raises(SourceError, match=f"build tree of {RELEASE}".replace("+", r"\+")):
        ensure_tree(Cache(tmp_path / "cache"), a_kernel(tmp_path))


@needs_squashfs
def test_an_image_that_was_made_anew_is_unpacked_anew(tmp_path: Path) -> None:
    """`lab lock --update` puts a newer userland under the same key."""
    cache = Cache(tmp_path / "cache")
    for number in ("1", "2"):
        folder = tmp_path / f"root-{number}"
        (folder / "usr/bin").mkdir(parents=True)
        (folder / "usr/bin/cc").write_text(number)
        (tmp_path / "image.squashfs").unlink(missing_ok=True)
        squash(folder, tmp_path / "image.squashfs")
        found = ensure_root(cache, an_image(tmp_path, (f"gcc={number}",)))
        assert (found / "usr/bin/cc").read_text() == number
