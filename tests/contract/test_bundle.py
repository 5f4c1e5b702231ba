"""What ``lab export`` writes and ``lab import`` reads, whole and damaged."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.adapters.bundle import FORMAT, MANIFEST, read_bundle, write_bundle
from orchestrator.adapters.cache import Cache, remove_tree
from orchestrator.foundation.errors import HostError, UsageError

pytestmark = pytest.mark.timeout(120)

KERNEL = ("kernels", "6.1.0-9+deb13~x-cloud-amd64-0123456789abcdef")
IMAGE = ("images", "bookworm-0123-4567")
FILES = {
    KERNEL: {"vmlinuz": "the kernel", "boot-modules/order": "a.ko\n", "boot-modules/a.ko": "a"},
    IMAGE: {"image.squashfs": "", "busybox": "box" * 999, "image.json": "{}"},
}


def fill(root: Path) -> dict[tuple[str, str], Path]:
    folders = {}
    for (kind, key), files in FILES.items():
        folders[kind, key] = root / kind / key
        for name, text in files.items():
            path = root / kind / key / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    (folders[IMAGE] / "busybox").chmod(0o755)
    return folders


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_bundle(fill(tmp_path / "there"), tmp_path / "bundle.tar")
    return tmp_path / "bundle.tar"


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "here")


def contents(cache: Cache) -> dict[tuple[str, str], dict[str, str]]:
    """Every entry of the cache, half ones too."""
    return {
        (kind.name, entry.name): {
            str(path.relative_to(entry)): path.read_text()
            for path in entry.rglob("*")
            if path.is_file()
        }
        for kind in (cache.root.iterdir() if cache.root.exists() else ())
        if kind.name not in ("hashes", "locks")
        for entry in kind.iterdir()
    }


# --- there and back --------------------------------------------------------------------------


def test_what_was_exported_is_imported(bundle: Path, cache: Cache) -> None:
    assert read_bundle(cache, bundle) == (KERNEL, IMAGE)
    assert contents(cache) == FILES
    folder = cache.find(*IMAGE)
    assert folder is not None
    assert (folder / "busybox").stat().st_mode & 0o777 == 0o755
    assert (folder / "image.json").stat().st_mode & 0o777 == 0o644


def test_a_bundle_is_the_same_wherever_it_is_made(tmp_path: Path, bundle: Path) -> None:
    folders = fill(tmp_path / "elsewhere")
    for folder in folders.values():
        for path in folder.rglob("*"):
            os.utime(path, (1, 1))
    write_bundle(folders, tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == bundle.read_bytes()


def test_what_is_imported_twice_is_there_once(bundle: Path, cache: Cache) -> None:
    read_bundle(cache, bundle)
    before = {path: path.stat().st_ino for path in cache.root.rglob("*")}
    assert read_bundle(cache, bundle) == (KERNEL, IMAGE)
    assert {path: path.stat().st_ino for path in cache.root.rglob("*")} == before


def test_what_the_cache_has_is_left_as_it_is(bundle: Path, cache: Cache) -> None:
    own = cache.root.joinpath(*KERNEL)
    own.mkdir(parents=True)
    (own / "vmlinuz").write_text("own")
    read_bundle(cache, bundle)
    assert (own / "vmlinuz").read_text() == "own"
    assert contents(cache)[IMAGE] == FILES[IMAGE]


def test_links_are_not_carried(tmp_path: Path, cache: Cache) -> None:
    folders = fill(tmp_path / "there")
    (folders[IMAGE] / "link").symlink_to("/etc/passwd")
    write_bundle(folders, tmp_path / "bundle.tar")
    read_bundle(cache, tmp_path / "bundle.tar")
    assert contents(cache) == FILES


@pytest.mark.parametrize("target", ["none/bundle.tar", "file/bundle.tar", "folder"])
def test_a_bundle_that_cannot_be_written_is_told(tmp_path: Path, target: str) -> None:
    folders = fill(tmp_path / "there")
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(HostError):
        write_bundle(folders, tmp_path / target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "there"]


# --- damaged ---------------------------------------------------------------------------------


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.data())
def test_one_flipped_bit_is_found_or_means_nothing(
    bundle: Path, cache: Cache, tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(bundle.read_bytes())
    bit = data.draw(st.integers(0, len(content) * 8 - 1))
    content[bit // 8] ^= 1 << bit % 8
    (tmp_path / "flipped.tar").write_bytes(content)
    remove_tree(cache.root)
    try:
        read_bundle(cache, tmp_path / "flipped.tar")
    except UsageError:
        assert all(FILES[key] == files for key, files in contents(cache).items())
    else:
        assert contents(cache) == FILES


def test_a_bundle_that_ends_too_soon_is_told(bundle: Path, cache: Cache, tmp_path: Path) -> None:
    content = bundle.read_bytes()
    with tarfile.open(bundle) as tar:
        last = tar.getmembers()[-1]
    for size in range(0, last.offset_data + last.size, 211):
        (tmp_path / "cut.tar").write_bytes(content[:size])
        remove_tree(cache.root)
        with pytest.raises(UsageError):
            read_bundle(cache, tmp_path / "cut.tar")
        assert all(FILES[key] == files for key, files in contents(cache).items())


def test_a_flipped_bit_in_a_kernel_names_the_file(bundle: Path, cache: Cache) -> None:
    bundle.write_bytes(bundle.read_bytes().replace(b"the kernel", b"the kernem"))
    with pytest.raises(UsageError, match=r"damaged: kernels/.*/vmlinuz is not what its list says"):
        read_bundle(cache, bundle)
    assert contents(cache) == {}


def make(path: Path, manifest: Any, *members: tuple[tarfile.TarInfo | str, bytes]) -> Path:
    """A bundle with anything in it; the manifest as bytes, or as what it says."""
    raw = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    with tarfile.open(path, "w") as tar:
        for given_info, content in ((MANIFEST, raw), *members):
            info = tarfile.TarInfo(given_info) if isinstance(given_info, str) else given_info
            info.size = len(content) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(content))
    return path


def listing(*names: str, content: bytes = b"x") -> dict[str, Any]:
    return {
        "format": FORMAT,
        "files": {name: hashlib.sha256(content).hexdigest() for name in names},
    }


@pytest.mark.parametrize(
    "name",
    [
        "kernels/../../evil",
        "kernels/x/../../../evil",
        "/kernels/x/evil",
        "/etc/passwd",
        "../evil",
        "kernels/x/./evil",
        "kernels/x//evil",
        "kernels/x/.hidden",
        "kernels/.x.new/evil",
        "kernels/evil",
        "kernels/x/",
        "kernels",
        "",
        "keyrings/x/debian.gpg",
        "apt/x/etc/apt/sources.list",
        "resolved/x/evil",
        "kernels/x/a\nb",
        "kernels/x/" + "a" * 300,
        "kernels/x/a\\b",
        "kernels/x/\u00e4",
    ],
)
def test_a_name_that_no_bundle_has_is_refused(tmp_path: Path, cache: Cache, name: str) -> None:
    path = make(tmp_path / "b.tar", listing("kernels/y/good", name), ("kernels/y/good", b"x"))
    with pytest.raises(UsageError, match="which no bundle does"):
        read_bundle(cache, path)
    assert contents(cache) == {}
    assert sorted(each.name for each in tmp_path.iterdir()) == ["b.tar"]


def special(kind: bytes, name: str = "kernels/x/vmlinuz") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = "/etc/hostname"
    return info


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE]
)
def test_a_member_that_is_no_file_is_refused(tmp_path: Path, cache: Cache, kind: bytes) -> None:
    path = make(tmp_path / "b.tar", listing("kernels/x/vmlinuz"), (special(kind), b""))
    with pytest.raises(UsageError, match="kernels/x/vmlinuz is no file"):
        read_bundle(cache, path)
    assert contents(cache) == {}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
def test_a_list_that_is_no_file_is_refused(tmp_path: Path, cache: Cache, kind: bytes) -> None:
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        tar.addfile(special(kind, MANIFEST))
    with pytest.raises(UsageError, match=r"it has no kmod-lab\.json"):
        read_bundle(cache, tmp_path / "b.tar")


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (b"", "damaged"),
        (b"{", "damaged"),
        (b"\xff", "damaged"),
        (b"[" * 100_000, "damaged"),
        ([], "damaged"),
        ({}, "damaged"),
        ({"format": FORMAT}, "damaged"),
        ({"format": FORMAT, "files": []}, "damaged"),
        ({"format": FORMAT, "files": "x"}, "damaged"),
        ({"format": FORMAT + 1, "folders": {}}, "another version of the lab"),
    ],
)
def test_a_list_that_is_damaged_is_told(
    tmp_path: Path, cache: Cache, manifest: Any, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        read_bundle(cache, make(tmp_path / "b.tar", manifest))
    assert contents(cache) == {}


def test_a_file_that_is_missing_is_told(tmp_path: Path, cache: Cache) -> None:
    path = make(tmp_path / "b.tar", listing("kernels/x/a", "kernels/x/b"), ("kernels/x/a", b"x"))
    with pytest.raises(UsageError, match="'kernels/x/b' is missing"):
        read_bundle(cache, path)
    assert contents(cache) == {}


@pytest.mark.parametrize("name", ["kernels/x/c", "../evil", "/evil", "README"])
def test_a_file_that_the_list_does_not_name_is_told(
    tmp_path: Path, cache: Cache, name: str
) -> None:
    members = (("kernels/x/a", b"x"), (name, b"x"))
    path = make(tmp_path / "b.tar", listing("kernels/x/a"), *members)
    with pytest.raises(UsageError, match=f"'{name}' is not in its list"):
        read_bundle(cache, path)
    assert contents(cache) == {}


@pytest.mark.parametrize("content", [b"", b"text\n" * 500, b"\x1f\x8b" + b"x" * 2000, bytes(10240)])
def test_what_is_no_bundle_is_told(tmp_path: Path, cache: Cache, content: bytes) -> None:
    (tmp_path / "b.tar").write_bytes(content)
    with pytest.raises(UsageError, match=r"b\.tar: not a bundle of `lab export`"):
        read_bundle(cache, tmp_path / "b.tar")


@pytest.mark.parametrize("name", ["none.tar", "."])
def test_a_bundle_that_is_not_there_is_told(tmp_path: Path, cache: Cache, name: str) -> None:
    with pytest.raises(UsageError, match=r"No such file|Is a directory"):
        read_bundle(cache, tmp_path / name)
