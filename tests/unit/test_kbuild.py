"""Building modules: what goes into a guest, what comes out of it, and what is believed of it."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.adapters import kbuild
from orchestrator.adapters.kbuild import (
    BuiltModule,
    GuestBuilder,
    ModuleBuildError,
    _unpack_modules,
    check_release,
    load_sources,
    pack_modules,
    pack_tree,
    read_module,
    send_sources,
)
from orchestrator.adapters.ssh import Job
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import (
    BuildError,
    CommandTimeoutError,
    ConfigError,
    ConnectionLostError,
    MachineError,
)
from orchestrator.plan.buildfailure import first_error
from orchestrator.plan.model import ModuleEntry
from orchestrator.plan.outcome import CommandResult
from tests.elf import make_ko

pytestmark = pytest.mark.timeout(60)

RELEASE = "6.1.0-56-cloud-amd64"
VERMAGIC = f"vermagic={RELEASE} SMP preempt mod_unload modversions "
KO = make_ko("license=GPL", VERMAGIC, "depends=other,third", "name=hello")


def members(archive: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
        return {member.name: member for member in tar}


# --- sources into the guest ------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "hello"
    for name in ("Kbuild", "hello.c", "include/hello.h", "tools/run.sh"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"/* {name} */\n")
    (root / "tools/run.sh").chmod(0o755)
    return root


def test_sources_are_packed_in_order_with_their_modes(tree: Path) -> None:
    packed = members(pack_tree(tree))
    assert list(packed) == ["Kbuild", "hello.c", "include/hello.h", "tools/run.sh"]
    assert packed["tools/run.sh"].mode == 0o755
    assert packed["hello.c"].mode == 0o644
    assert {(member.uid, member.gid) for member in packed.values()} == {(0, 0)}


def test_the_labs_own_files_are_no_sources(tree: Path) -> None:
    (tree / "lab.yaml").touch()
    (tree / "scenarios").mkdir()
    (tree / "scenarios/a.yaml").touch()
    without = {tree / "lab.yaml", tree / "scenarios/a.yaml"}
    before = load_sources("hello", tree, without=without).sha256
    (tree / "scenarios/a.yaml").write_text("another word")
    assert load_sources("hello", tree, without=without).sha256 == before
    assert load_sources("hello", tree).sha256 != before


def test_a_line_of_a_folder_below_is_found_under_either_name(tree: Path) -> None:
    (tree / "sub").mkdir()
    (tree / "sub/low.c").write_text("low")
    (tree / "sub/link").symlink_to("../include")
    entry = ModuleEntry(path="x", folder="sub")
    sources = load_sources("hello", tree, entry)
    assert sources.build_folder == "/lab/src/hello/sub"
    assert sources.lines_of("low.c") == sources.lines_of("sub/low.c") == ["low"]
    assert sources.lines_of("../include/hello.h") == ["/* include/hello.h */", ""]
    assert sources.lines_of("../../hello/hello.c") is None
    entry = ModuleEntry(path="x", folder="sub/link")
    assert load_sources("hello", tree, entry).build_folder == "/lab/src/hello/include"


def test_packing_twice_gives_the_same_bytes(tree: Path) -> None:
    first = pack_tree(tree)
    os.utime(tree / "hello.c", (1, 1))
    assert pack_tree(tree) == first


@pytest.mark.parametrize(
    "name",
    [
        *("hello.ko", "hello.o", ".hello.o.cmd", "hello.mod", "hello.mod.c", "built-in.a"),
        *("modules.order", "Module.symvers"),
        *(".git/config", "sub/.git/config", ".hg/x", ".svn/x", "lab-results/1/x.c"),
        *(".venv/lib/x.py", "tools/__pycache__/x.pyc"),
    ],
)
def test_what_an_earlier_build_or_a_tool_left_is_not_packed(tree: Path, name: str) -> None:
    (tree / name).parent.mkdir(parents=True, exist_ok=True)
    (tree / name).write_text("left over")
    assert name not in members(pack_tree(tree))


@pytest.mark.parametrize("name", ["gitignore.c", "hello.ko.c", "mod.h", ".config", "a b.c", "ü.c"])
def test_what_only_looks_like_that_is_packed(tree: Path, name: str) -> None:
    (tree / name).write_text("source")
    assert name in members(pack_tree(tree))


def test_links_are_followed_inside_the_folder_and_not_out_of_it(tree: Path) -> None:
    (tree.parent / "secret").write_text("secret")
    (tree / "inside.c").symlink_to("hello.c")
    (tree / "outside.c").symlink_to("../secret")
    (tree / "absolute.c").symlink_to("/etc/passwd")
    (tree / "dangling.c").symlink_to("nothing")
    (tree / "loop.c").symlink_to("loop.c")
    (tree / "up").symlink_to("..")
    packed = members(pack_tree(tree))
    assert packed["inside.c"].isfile()
    assert not {"outside.c", "absolute.c", "dangling.c", "loop.c"} & packed.keys()
    assert not any(name.startswith("up") for name in packed)
    assert b"secret" not in pack_tree(tree)


def test_a_link_to_a_neighbour_with_the_same_beginning_is_not_followed(tree: Path) -> None:
    neighbour = tree.with_name("hello-private")
    neighbour.mkdir()
    (neighbour / "key").write_text("secret")
    (tree / "key.c").symlink_to("../hello-private/key")
    assert "key.c" not in members(pack_tree(tree))


def test_what_is_no_file_is_not_packed(tree: Path) -> None:
    os.mkfifo(tree / "pipe.c")
    assert "pipe.c" not in members(pack_tree(tree))


def test_a_folder_that_is_itself_a_link_is_packed(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tree)
    assert "hello.c" in members(pack_tree(tmp_path / "link"))


def test_more_than_sources_is_refused_before_it_is_read(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tree / "disk.img").open("wb") as file:
        file.truncate(1 << 40)  # would not fit into memory
    with pytest.raises(ConfigError, match="more than 64 MiB of sources") as caught:
        pack_tree(tree)
    assert "Kbuild" in caught.value.hint
    (tree / "disk.img").unlink()
    monkeypatch.setattr(kbuild, "MAX_SOURCE_BYTES", 10)
    with pytest.raises(ConfigError):
        pack_tree(tree)


def test_an_empty_folder_is_an_empty_archive(tmp_path: Path) -> None:
    assert members(pack_tree(tmp_path)) == {}


# --- modules out of the guest ----------------------------------------------------------------


def archive_of(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for info, data in entries:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def entry(name: str, data: bytes = b"data", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_modules_are_taken_by_their_plain_names(tmp_path: Path) -> None:
    archive = archive_of(entry("./a.ko", b"A"), entry("./deep/er/b-1.ko", b"B"))
    paths = _unpack_modules(archive, tmp_path)
    assert [path.name for path in paths] == ["a.ko", "b-1.ko"]
    assert (tmp_path / "b-1.ko").read_bytes() == b"B"
    assert files_in(tmp_path) == ["a.ko", "b-1.ko"]


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("../../evil.ko", ["evil.ko"]),
        ("/etc/evil.ko", ["evil.ko"]),
        ("..", []),
        ("../..ko", []),
        (".ko", []),
        ("a b.ko", []),
        ("a\nb.ko", []),
        ("a.ko\n", []),
        ("a.ko.sh", []),
        ("é.ko", []),
        ("x" * 65 + ".ko", []),
        ("build.log", []),
    ],
)
def test_names_lead_nowhere_else(tmp_path: Path, name: str, taken: list[str]) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    _unpack_modules(archive_of(entry(name)), inner)
    assert files_in(tmp_path) == ["a", "a/b", *(f"a/b/{each}" for each in taken)]


@pytest.mark.parametrize(
    "kind",
    [
        *(tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE),
        *(tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.CONTTYPE),
    ],
)
def test_only_plain_files_are_taken(tmp_path: Path, kind: bytes) -> None:
    hostile = entry("evil.ko", b"", type=kind, linkname="/etc/passwd", devmajor=1, devminor=5)
    assert _unpack_modules(archive_of(hostile, entry("good.ko")), tmp_path) == [
        tmp_path / "good.ko"
    ]
    assert files_in(tmp_path) == ["good.ko"]


def test_a_link_in_the_way_is_not_written_through(tmp_path: Path) -> None:
    """A guest cannot make one here; an archive with a link and a file of one name could."""
    link = entry("a.ko", b"", type=tarfile.SYMTYPE, linkname="../outside")
    (tmp_path / "out").mkdir()
    _unpack_modules(archive_of(link, entry("a.ko", b"A")), tmp_path / "out")
    assert files_in(tmp_path) == ["out", "out/a.ko"]


def test_a_sparse_file_does_not_grow(tmp_path: Path) -> None:
    info, data = entry("big.ko", b"x")
    info.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.name": "big.ko",
        "GNU.sparse.size": str(1 << 45),
        "GNU.sparse.map": f"{(1 << 45) - 1},1",
    }
    assert _unpack_modules(archive_of((info, data)), tmp_path) == []


@pytest.mark.parametrize(
    "archive",
    [
        b"",
        b"tar: no such file",
        b"x" * 10240,
        b"\0" * 511,
        gzip.compress(archive_of(entry("a.ko"))),
        archive_of(entry("a.ko", b"A" * 5000))[:2000],
        b"\x7fELF" + bytes(10236),
    ],
    ids=["nothing", "words", "x", "short", "compressed", "truncated", "ELF"],
)
def test_what_is_no_archive_is_no_fault_of_the_module(tmp_path: Path, archive: bytes) -> None:
    with pytest.raises(MachineError, match="gave no archive of modules"):
        _unpack_modules(archive, tmp_path)


def test_an_empty_archive_has_no_modules(tmp_path: Path) -> None:
    assert _unpack_modules(bytes(10240), tmp_path) == []


GOOD_ARCHIVE = archive_of(entry("a.ko", b"A" * 600), entry("b.ko", b"B"))


@settings(
    deadline=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(changes=st.lists(st.tuples(st.integers(0, 2047), st.integers(0, 255)), max_size=8))
def test_a_spoilt_archive_is_read_or_refused(
    tmp_path: Path, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(GOOD_ARCHIVE)
    for at, byte in changes:
        data[at] = byte
    try:
        paths = _unpack_modules(bytes(data), tmp_path)
    except MachineError:
        return
    assert all(path.parent == tmp_path for path in paths)


def test_built_modules_are_packed_by_the_names_that_load_looks_for(tmp_path: Path) -> None:
    built = []
    for name in ("hello-world", "other"):
        path = tmp_path / f"{name}.ko"
        path.write_bytes(KO + name.encode())
        built.append(BuiltModule(name.replace("-", "_"), path, RELEASE, ()))
    archive = pack_modules(built)
    assert list(members(archive)) == ["hello_world.ko", "other.ko"]
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
        content = tar.extractfile("other.ko")
        assert content is not None
        assert content.read() == KO + b"other"


# --- what a module says of itself ------------------------------------------------------------


def test_a_module_is_read(tmp_path: Path) -> None:
    (tmp_path / "hello-world.ko").write_bytes(KO)
    module = read_module(tmp_path / "hello-world.ko")
    assert module.name == "hello_world"
    assert module.release == RELEASE
    assert module.depends == ("other", "third")


def test_a_module_that_needs_none_other(tmp_path: Path) -> None:
    (tmp_path / "a.ko").write_bytes(make_ko(VERMAGIC, "depends="))
    assert read_module(tmp_path / "a.ko").depends == ()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "cannot be read"),
        (b"#!/bin/sh\n", "cannot be read"),
        (b"\x7fELF", "cannot be read"),
        (KO[:40], "cannot be read"),
        (KO[:-200], "cannot be read"),
        (make_ko(), "no vermagic"),
        (make_ko("license=GPL"), "no vermagic"),
        (make_ko("vermagic"), ""),
    ],
)
def test_what_is_no_module_is_refused(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "a.ko").write_bytes(data)
    if said:
        with pytest.raises(BuildError, match=f"a.ko .*{said}"):
            read_module(tmp_path / "a.ko")
    else:
        assert read_module(tmp_path / "a.ko").release == ""


def test_what_a_module_exports_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.ko"
    path.write_bytes(make_ko(VERMAGIC, exports=("a_first", "a_second")))
    assert read_module(path).exports == ("a_first", "a_second")
    path.write_bytes(make_ko(VERMAGIC))
    assert read_module(path).exports == ()


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="cannot be read"):
        read_module(tmp_path / "none.ko")


def test_any_damage_is_read_or_refused(tmp_path: Path) -> None:
    """pyelftools trips over damage with all kinds of exceptions."""
    chance = random.Random(1)
    path = tmp_path / "a.ko"
    for _ in range(500):
        data = bytearray(KO)
        for _ in range(chance.randrange(1, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data[: chance.choice((len(data), chance.randrange(len(data))))])
        with contextlib.suppress(BuildError):
            read_module(path)


def test_a_module_for_another_kernel_is_told_with_both(tmp_path: Path) -> None:
    module = BuiltModule("hello", tmp_path / "hello.ko", f"{RELEASE} SMP mod_unload ", ())
    check_release(module, RELEASE)
    with pytest.raises(BuildError, match=f"vermagic says '{RELEASE}', the plan says '6.1.0'"):
        check_release(module, "6.1.0")


# --- why a build failed ----------------------------------------------------------------------

MAKE = "make: Entering directory '/usr/src/linux-headers-6.1.0'\n"


@pytest.mark.parametrize(
    ("output", "first"),
    [
        (
            MAKE + "  CC [M]  /lab/src/hello/hello.o\n"
            "/lab/src/hello/hello.c: In function 'hello_init':\n"
            "/lab/src/hello/hello.c:12:9: warning: unused variable 'x' [-Wunused-variable]\n"
            "/lab/src/hello/hello.c:14:9: error: implicit declaration of function 'prnt'\n"
            "make[2]: *** [scripts/Makefile.build:250: /lab/src/hello/hello.o] Error 1\n",
            "/lab/src/hello/hello.c:14:9: error: implicit declaration of function 'prnt'",
        ),
        (
            "hello.c:1:10: fatal error: linux/nope.h: No such file or directory\n"
            "compilation terminated.\n",
            "hello.c:1:10: fatal error: linux/nope.h: No such file or directory",
        ),
        (
            "  MODPOST /lab/src/hello/Module.symvers\n"
            'ERROR: modpost: "no_such" [/lab/src/hello/hello.ko] undefined!\n'
            "make[1]: *** [scripts/Makefile.modpost:126: Module.symvers] Error 1\n",
            'ERROR: modpost: "no_such" [/lab/src/hello/hello.ko] undefined!',
        ),
        (
            "cc1: error: unrecognized command-line option '-Wnope'\n"
            "make[2]: *** [hello.o] Error 1\n",
            "cc1: error: unrecognized command-line option '-Wnope'",
        ),
        (
            MAKE + "scripts/Makefile.build:41: /lab/src/hello/Makefile: No such file or directory\n"
            "make[1]: *** No rule to make target '/lab/src/hello/Makefile'.  Stop.\n",
            "make[1]: *** No rule to make target '/lab/src/hello/Makefile'.  Stop.",
        ),
        (
            "make: *** /lib/modules/6.1/build: No such file or directory.  Stop.\n",
            "make: *** /lib/modules/6.1/build: No such file or directory.  Stop.",
        ),
        ("sh: 1: make: not found\n\n  \n", "sh: 1: make: not found"),
        ("", "no output"),
        ("\n \n", "no output"),
        ("x" * 1000, "x" * 300),
    ],
)
def test_the_first_line_that_says_why(output: str, first: str) -> None:
    assert first_error(output) == first


# --- a builder and its guest -----------------------------------------------------------------

Answer = CommandResult | Exception


def gave(status: int, stdout: bytes = b"", stderr: bytes = b"", **more: bool) -> CommandResult:
    return CommandResult("", status, None, stdout, stderr, 0.1, **more)


class FakeShell:
    """A guest that knows three commands: unpack sources, make, send modules."""

    def __init__(self, *, unpack: Answer, make: Answer, send: Answer) -> None:
        self._answers = {"tar -x": unpack, "make -C": make, "tar -c": send}
        self.commands: list[tuple[str, bytes]] = []

    def run(
        self, command: str, _deadline: Deadline, *, stdin: bytes = b"", limit: int = 0
    ) -> CommandResult:
        self.commands.append((command, stdin))
        answer = next(value for key, value in self._answers.items() if key in command)
        if isinstance(answer, Exception):
            raise answer
        assert limit == 0 or "tar -c" in command
        return answer

    def start(self, command: str, deadline: Deadline) -> Job:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


@pytest.fixture
def build(tree: Path, tmp_path: Path) -> Callable[..., tuple[BuiltModule, ...]]:
    def build(*, release: str = RELEASE, **answers: Answer) -> tuple[BuiltModule, ...]:
        well: dict[str, Answer] = {
            "unpack": gave(0),
            "make": gave(0, b"  LD [M]  hello.ko\n"),
            "send": gave(0, archive_of(entry("./hello.ko", KO))),
        }
        shell = FakeShell(**(well | answers))
        sources = load_sources("hello", tree)
        return GuestBuilder(shell, release, 60).build(sources, tmp_path / "out")

    return build


Build = Callable[..., tuple[BuiltModule, ...]]


def test_a_build_gives_its_modules_and_a_log(build: Build, tmp_path: Path) -> None:
    (module,) = build()
    assert (module.name, module.path) == ("hello", tmp_path / "out/hello.ko")
    check_release(module, RELEASE)
    log = (tmp_path / "out/build.log").read_text()
    assert log.startswith("$ cd /lab/src/hello && make -C /lib/modules/6.1.0-56-cloud-amd64/build")
    assert log.endswith("\n  LD [M]  hello.ko\n")
    assert " KCFLAGS=-g " in log.splitlines()[0]


def test_a_folder_with_an_odd_name_is_quoted(tree: Path, tmp_path: Path) -> None:
    shell = FakeShell(unpack=gave(0), make=gave(0), send=gave(0, bytes(10240)))
    with pytest.raises(BuildError):
        GuestBuilder(shell, RELEASE, 60).build(load_sources("a b;c", tree), tmp_path / "out")
    assert all("'/lab/src/a b;c'" in command for command, _ in shell.commands)
    assert shell.commands[0][1] == pack_tree(tree)


def test_a_module_that_does_not_compile_is_told_with_the_first_error(
    build: Build, tmp_path: Path
) -> None:
    output = b"line\n" * 100 + b"hello.c:3:1: error: expected ';'\nmake: *** Error 1\n"
    with pytest.raises(BuildError, match=r"hello does not build: hello\.c:3:1: error") as caught:
        build(make=gave(2, output))
    error = caught.value
    assert error.status == 2
    assert error.evidence == tmp_path / "out/build.log"
    assert "expected ';'" in (tmp_path / "out/build.log").read_text()
    assert len(error.output.splitlines()) == 40
    assert error.argv[:2] == ("sh", "-c")


def test_the_first_error_is_told_with_its_source_and_what_has_changed(
    build: Build, tree: Path
) -> None:
    (tree / "hello.c").write_text("\n\n\tdel_timer(&timer);\n")
    output = b"/lab/src/hello/hello.c:3:9: error: implicit declaration of function 'del_timer'\n"
    with pytest.raises(ModuleBuildError) as caught:
        build(make=gave(2, output), release="6.17.0-42-generic")
    failure = caught.value.failure
    assert (failure.place, failure.source) == ("hello.c:3:9", "        del_timer(&timer);")
    assert "timer_delete()" in caught.value.message
    assert "since 6.15" in caught.value.message
    for release in (RELEASE, "my-kernel"):
        with pytest.raises(ModuleBuildError) as caught:
            build(make=gave(2, output), release=release)
        assert caught.value.failure.change is None


def test_only_what_is_sent_is_read_for_its_source(tree: Path) -> None:
    (tree.parent / "secret").write_text("secret")
    (tree / "outside.c").symlink_to("../secret")
    (tree / ".git").mkdir()
    (tree / ".git/config").write_text("secret")
    lines_of = load_sources("hello", tree).lines_of
    assert lines_of("hello.c") == ["/* hello.c */", ""]
    assert lines_of("include/hello.h") == ["/* include/hello.h */", ""]
    for file in (
        *("outside.c", ".git/config", "../secret", "include/../../secret", "nothing.c", ""),
        *(str(tree / "hello.c"), str(tree.parent / "secret"), "/etc/passwd", "\0", "include"),
    ):
        assert lines_of(file) is None, file


def test_a_source_that_is_no_text_has_lines_too(tree: Path) -> None:
    (tree / "hello.c").write_bytes(b"\xff\x00\r\n\x0cend")
    assert load_sources("hello", tree).lines_of("hello.c") == ["\ufffd\x00\r", "\x0cend"]


def test_a_build_that_takes_too_long_is_told_with_its_output_so_far(
    build: Build, tmp_path: Path
) -> None:
    with pytest.raises(BuildError, match="hello was not built within 60 s") as caught:
        build(make=CommandTimeoutError("late", stdout=b"  CC [M]  hello.o\n"))
    assert "build:" in caught.value.hint
    assert "CC [M]" in (tmp_path / "out/build.log").read_text()


def test_a_build_that_makes_no_module_is_told(build: Build) -> None:
    with pytest.raises(BuildError, match="made no module") as caught:
        build(send=gave(0, bytes(10240)))
    assert "obj-m" in caught.value.hint


def test_a_build_that_makes_rubbish_is_told(build: Build) -> None:
    with pytest.raises(BuildError, match=r"hello\.ko cannot be read"):
        build(send=gave(0, archive_of(entry("hello.ko", b"rubbish"))))


@pytest.mark.parametrize(
    ("answers", "error", "said"),
    [
        ({"unpack": gave(2, b"", b"tar: No space left")}, MachineError, "copying .*No space left"),
        ({"send": gave(2, b"", b"tar: failed")}, MachineError, "fetching the modules of hello"),
        ({"send": gave(0, b"rubbish")}, MachineError, "no archive"),
        ({"send": gave(0, b"x", truncated=True)}, BuildError, "larger than"),
        ({"unpack": ConnectionLostError("gone")}, ConnectionLostError, "gone"),
        ({"make": ConnectionLostError("gone")}, ConnectionLostError, "gone"),
        ({"unpack": CommandTimeoutError("late")}, CommandTimeoutError, "late"),
    ],
)
def test_a_guest_that_breaks_is_not_a_module_that_does_not_build(
    build: Build, answers: dict[str, Answer], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        build(**answers)


def test_sources_can_be_sent_on_their_own(tree: Path) -> None:
    shell = FakeShell(unpack=gave(0), make=gave(0), send=gave(0))
    send_sources(shell, load_sources("hello", tree), Deadline.after(5, "sending"))
    assert "mkdir -p /lab/src/hello && tar -x" in shell.commands[0][0]
