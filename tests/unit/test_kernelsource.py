"""Sources of kernels: what they say of themselves, and what is no source at all."""

from __future__ import annotations

import gzip
import os
import tarfile
from pathlib import Path

import pytest

from orchestrator.adapters import kernelsource
from orchestrator.adapters.cache import Cache
from orchestrator.adapters.kernelsource import (
    inspect_source,
    join_localversions,
    parse_make_version,
)
from orchestrator.foundation.errors import SourceError
from tests.trees import FILES, MAKEFILE, pack, write_tree

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


# --- versions ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("makefile", "version"),
    [
        (MAKEFILE, "5.5.19"),
        ("VERSION = 7\nPATCHLEVEL = 1\nSUBLEVEL = 0\nEXTRAVERSION = -rc2\n", "7.1.0-rc2"),
        ("VERSION=4\nPATCHLEVEL\t=\t15\nSUBLEVEL = 18\n", "4.15.18"),
        ("VERSION = 6\nPATCHLEVEL = 1\nSUBLEVEL =\nEXTRAVERSION =\n", "6.1"),
        ("VERSION = 6\nPATCHLEVEL = 1\nSUBLEVEL = 5\nVERSION = 9\n", "6.1.5"),
    ],
)
def test_a_makefiles_version(makefile: str, version: str) -> None:
    assert parse_make_version(makefile) == version


@pytest.mark.parametrize(
    "makefile",
    ["", "VERSION = 5", "obj-m := x.o", "VERSION = $(shell id)\nPATCHLEVEL = 1\n"],
)
def test_a_makefile_of_something_else(makefile: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse_make_version(makefile)


def test_localversions_are_joined_as_the_kernel_joins_them() -> None:
    files = {
        "localversion2": "-b\n",
        "localversion-a": " -a ",
        "localversion~": "-no",
        "Makefile": "x",
        "sub/localversion": "-no",
    }
    assert join_localversions(files) == "-a-b"


# --- folders -----------------------------------------------------------------------------


def test_a_folder(cache: Cache, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "linux", localversion="-mine\n")
    source = inspect_source(cache, root)
    assert source.is_folder
    assert (source.version, source.local) == ("5.5.19", "-mine")
    assert source.release("-lab") == "5.5.19-mine-lab"
    assert inspect_source(cache, root) == source


def test_the_digest_is_of_contents(cache: Cache, tmp_path: Path) -> None:
    one = inspect_source(cache, write_tree(tmp_path / "one"))
    two = inspect_source(cache, write_tree(tmp_path / "two"))
    assert one.digest == two.digest
    os.utime(tmp_path / "two/Kbuild", (1, 1))
    assert inspect_source(cache, tmp_path / "two").digest == one.digest


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "kernel/module.c").write_text("/*!*/"),
        lambda root: (root / "kernel/more.c").write_text(""),
        lambda root: (root / "kernel/module.c").rename(root / "kernel/renamed.c"),
        lambda root: (root / "kernel/module.c").chmod(0o755),
        lambda root: (root / "kernel/link").symlink_to("module.c"),
    ],
    ids=["content", "new", "renamed", "program", "link"],
)
def test_every_change_shows(cache: Cache, tmp_path: Path, change: object) -> None:
    root = write_tree(tmp_path / "linux")
    before = inspect_source(cache, root).digest
    assert callable(change)
    change(root)
    assert inspect_source(cache, root).digest != before


def test_a_repository_is_neither_asked_nor_counted(cache: Cache, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "linux")
    before = inspect_source(cache, root).digest
    (root / ".git").mkdir()
    (root / ".git/config").write_text(f"[core]\n\tfsmonitor = touch {tmp_path}/ran\n")
    assert inspect_source(cache, root).digest == before
    assert not (tmp_path / "ran").exists()


def test_links_are_not_followed(cache: Cache, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "linux")
    (root / "loop").symlink_to(".")
    (root / "out").symlink_to(tmp_path)
    (root / "gone").symlink_to("nowhere")
    assert inspect_source(cache, root).version == "5.5.19"


def test_a_pipe_does_not_hold_it_up(cache: Cache, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "linux")
    os.mkfifo(root / "pipe")
    assert inspect_source(cache, root).version == "5.5.19"


@pytest.mark.parametrize(
    "name", [".config", "include/config/auto.conf", "arch/x86/include/generated/x"]
)
def test_a_tree_that_was_built_in(cache: Cache, tmp_path: Path, name: str) -> None:
    root = write_tree(tmp_path / "linux", **{name.replace("/", "__"): ""})
    with pytest.raises(SourceError, match="has been built in") as caught:
        inspect_source(cache, root)
    assert "mrproper" in caught.value.hint


@pytest.mark.parametrize("name", ["Makefile", "Kconfig", "arch/x86/Makefile"])
def test_a_folder_that_is_no_kernel(cache: Cache, tmp_path: Path, name: str) -> None:
    root = write_tree(tmp_path / "linux")
    (root / name).unlink()
    with pytest.raises(SourceError, match=f"no kernel source: it has no {name}"):
        inspect_source(cache, root)


def test_nothing_there(cache: Cache, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such folder or tarball"):
        inspect_source(cache, tmp_path / "linux")


def test_a_release_that_cannot_be(cache: Cache, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "linux", localversion="$(reboot)/..")
    with pytest.raises(SourceError, match="cannot be a kernel's release"):
        inspect_source(cache, root)


def test_a_folder_too_large(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernelsource, "MAX_FILES", 3)
    with pytest.raises(SourceError, match="more than 3 files"):
        inspect_source(cache, write_tree(tmp_path / "linux"))


def test_a_damaged_memory_is_asked_no_more(cache: Cache, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "linux")
    source = inspect_source(cache, root)
    for path in (cache.root / "sources").iterdir():
        path.write_text("[]")
    assert inspect_source(cache, root) == source


# --- tarballs ----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["w:xz", "w:bz2", "w:gz", "w"])
def test_an_archive(cache: Cache, tmp_path: Path, mode: str) -> None:
    path = tmp_path / "linux.tar"
    path.write_bytes(pack({**FILES, "localversion": "-x"}, mode=mode))
    source = inspect_source(cache, path)
    assert not source.is_folder
    assert (source.version, source.local, source.top) == ("5.5.19", "-x", "linux-5.5.19")
    assert inspect_source(cache, path) == source


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (member("/etc/passwd"), "outside of itself"),
        (member("linux-5.5.19/../../x"), "outside of itself"),
        (member("other/x"), "2 folders at its top"),
        (member("linux-5.5.19/sda", tarfile.BLKTYPE), "more than files"),
        (member("linux-5.5.19/pipe", tarfile.FIFOTYPE), "more than files"),
        (member("linux-5.5.19/.config"), "after a build in it"),
    ],
)
def test_an_archive_that_means_harm(
    cache: Cache, tmp_path: Path, extra: tarfile.TarInfo, says: str
) -> None:
    path = tmp_path / "linux.tar.xz"
    path.write_bytes(pack(FILES, extra=(extra,)))
    with pytest.raises(SourceError, match=says):
        inspect_source(cache, path)


@pytest.mark.parametrize("cut", [0, 3, 100, -40])
def test_an_archive_cut_short(cache: Cache, tmp_path: Path, cut: int) -> None:
    path = tmp_path / "linux.tar.xz"
    path.write_bytes(pack(FILES)[:cut])
    with pytest.raises(SourceError, match=r"no whole archive|no kernel source"):
        inspect_source(cache, path)


def test_an_archive_of_something_else(cache: Cache, tmp_path: Path) -> None:
    path = tmp_path / "hello.tar.xz"
    path.write_bytes(pack({"hello.c": "x"}, top="hello"))
    with pytest.raises(SourceError, match="it has no Makefile"):
        inspect_source(cache, path)


def test_a_bomb(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernelsource, "MAX_BYTES", 1 << 20)
    path = tmp_path / "linux.tar.xz"
    path.write_bytes(pack({**FILES, "big": "\0" * (4 << 20)}))
    with pytest.raises(SourceError, match="holds more than"):
        inspect_source(cache, path)


def test_a_header_that_wants_a_terabyte(cache: Cache, tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 1 << 33
    path = tmp_path / "linux.tar.gz"
    path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * (1 << 20)))
    with pytest.raises(SourceError, match=r"more than any honest one|no whole archive"):
        inspect_source(cache, path)
