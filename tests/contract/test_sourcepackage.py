"""Sources of kernels out of an archive that the test makes, signs and serves."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.adapters import kernelorg, sourcepackage
from orchestrator.adapters.apt import AptRoot
from orchestrator.adapters.cache import Cache
from orchestrator.adapters.kernelorg import ensure_developer_keys
from orchestrator.adapters.sourcepackage import fetch_source_package, resolve_source_package
from orchestrator.foundation.errors import SourceError
from tests.contract.mirror import Archive, Deb, Mirror, serve
from tests.contract.openpgp import SigningKey
from tests.contract.test_distribution import (
    KEY,
    STRANGER,
    apt_of_this_test,
    make_apt_root,
    recipe_of,
)

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(shutil.which("apt-get") is None, reason="no apt here"),
]
assert apt_of_this_test  # used by name, as a fixture

RECIPE = recipe_of("testy", "amd64")
DEBIAN = "usr/src/linux-source-6.1.tar.xz"
UBUNTU = "usr/src/linux-source-5.4.0/linux-source-5.4.0.tar.bz2"
DEBS = [
    Deb("linux-source-6.1", "6.1.1-1", files={DEBIAN: "one", "usr/src/patch.xz": ""}),
    Deb("linux-source-5.4.0", "5.4.0-1", files={UBUNTU: "two"}),
    Deb("linux-source-empty", "1", files={"usr/src/x": "x"}),
    Deb("linux-source-6.9", "1", files={DEBIAN: "a", UBUNTU: "b"}),
    Deb("linux-source-6.3", "1"),
]


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    made = Archive(tmp_path, KEY)
    made.publish("testy", DEBS)
    return made


@pytest.fixture
def mirror(archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    with serve(archive) as server:
        apt = make_apt_root(tmp_path / "apt", server.url, "testy")
        apt.update()

        monkeypatch.setattr(sourcepackage, "ensure_apt_root", lambda *_: apt)
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def fetch(cache: Cache, name: str = "linux-source-6.1") -> Path:
    return fetch_source_package(cache, RECIPE, resolve_source_package(cache, RECIPE, name))


@pytest.mark.usefixtures("mirror")
@pytest.mark.parametrize(
    ("name", "file", "text"),
    [
        ("linux-source-6.1", "linux-source-6.1.tar.xz", "one"),
        ("linux-source-5.4.0", "linux-source-5.4.0.tar.bz2", "two"),
    ],
)
def test_a_tarball_is_all_that_is_kept(cache: Cache, name: str, file: str, text: str) -> None:
    path = fetch(cache, name)
    assert (path.name, path.read_text()) == (file, text)
    assert [each.name for each in path.parent.iterdir()] == [file]


def test_the_cache_answers_without_the_mirror(cache: Cache, mirror: Mirror) -> None:
    path = fetch(cache)
    mirror.faults[""] = "gone"
    assert fetch(cache) == path


def test_a_package_that_the_archive_has_no_more_is_not_taken_for_another(
    cache: Cache, mirror: Mirror, archive: Archive
) -> None:
    old = resolve_source_package(cache, RECIPE, "linux-source-6.1")
    archive.publish("testy", [Deb("linux-source-6.1", "6.1.2-1", files={DEBIAN: "newer"})])
    mirror.faults["6.1.1-1_amd64.deb"] = "gone"
    with pytest.raises(SourceError, match="cannot fetch linux-source-6"):
        fetch_source_package(cache, RECIPE, old)


@pytest.mark.usefixtures("mirror")
@pytest.mark.parametrize(
    ("name", "says", "hint"),
    [
        ("linux-source-6.2", "testy has no package", "did you mean 'linux-source-6."),
        ("linux-source-xyz", "testy has no package", ""),
        ("linux-source-6.3", "cannot unpack", ""),
        ("linux-source-empty", "0 tarballs", ""),
        ("linux-source-6.9", "2 tarballs", ""),
    ],
)
def test_what_cannot_be_had(cache: Cache, name: str, says: str, hint: str) -> None:
    with pytest.raises(SourceError, match=says) as caught:
        fetch(cache, name)
    assert hint in caught.value.hint


def test_a_package_that_is_not_what_was_signed(cache: Cache, mirror: Mirror) -> None:
    mirror.faults[".deb"] = "lie"
    with pytest.raises(SourceError, match="cannot fetch"):
        fetch(cache)


# --- the developers' keys, out of Debian's own source package --------------------------------

DEVELOPERS = {
    KEY.fingerprint.hex().upper(): "One",
    STRANGER.fingerprint.hex().upper(): "Two",
}


def debian_tar(content: bytes | None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:xz") as tar:
        info = tarfile.TarInfo("debian/control")
        tar.addfile(info)
        if content is not None:
            info = tarfile.TarInfo(kernelorg.SIGNING_KEYS)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def publish_sources(archive: Archive, versions: dict[str, bytes], key: SigningKey = KEY) -> None:
    """A suite's index of source packages: ``linux`` in these versions."""
    paragraphs = []
    for version, data in versions.items():
        name = f"linux_{version}.debian.tar.xz"
        archive.files[f"pool/{name}"] = data
        archive.files[f"pool/linux_{version}.dsc"] = b"dsc"
        sums = "".join(
            f" {hashlib.sha256(content).hexdigest()} {len(content)} {file}\n"
            for file, content in ((f"linux_{version}.dsc", b"dsc"), (name, data))
        )
        paragraphs.append(
            f"Package: linux\nBinary: x\nVersion: {version}\nFormat: 3.0 (quilt)\n"
            f"Directory: pool\nChecksums-Sha256:\n{sums}"
        )
    index = "\n".join(paragraphs).encode()
    archive.files["dists/testy/main/source/Sources"] = index
    release = (
        "Origin: Test\nSuite: testy\nCodename: testy\n"
        f"Date: {time.strftime('%a, %d %b %Y %H:%M:%S UTC', time.gmtime())}\n"
        "Architectures: amd64\nComponents: main\nSHA256:\n"
        f" {hashlib.sha256(index).hexdigest()} {len(index)} main/source/Sources\n"
    ).encode()
    archive.files["dists/testy/Release"] = release
    archive.files["dists/testy/Release.gpg"] = key.sign(release)


class Keys:
    """The way to the developers' keys, with the test's archive at its end."""

    def __init__(self, archive: Archive, mirror: Mirror, cache: Cache, folder: Path) -> None:
        self.archive, self.mirror, self.cache, self.folder = archive, mirror, cache, folder

    def fetch(self) -> Path:
        return ensure_developer_keys(self.cache, RECIPE)


@pytest.fixture
def keys(
    archive: Archive, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Keys]:
    with serve(archive) as server:

        def root(*_: object) -> AptRoot:
            apt = make_apt_root(tmp_path / "source-apt", server.url, "testy")
            listed = tmp_path / "source-apt/etc/apt/sources.list"
            listed.write_text(
                listed.read_text().replace("deb ", "deb-src ").replace("[arch=amd64] ", "")
            )
            apt.update()
            return apt

        monkeypatch.setattr(kernelorg, "ensure_source_root", root)
        monkeypatch.setattr(kernelorg, "ensure_keyring", lambda *_: tmp_path)
        monkeypatch.setattr(kernelorg, "FINGERPRINTS", DEVELOPERS)
        yield Keys(archive, server, cache, tmp_path)


BOTH = KEY.keyring + STRANGER.keyring


def test_the_keys_of_the_newest_package(keys: Keys) -> None:
    other = SigningKey("Other <other@example.org>")
    tar = debian_tar(other.keyring + STRANGER.keyring + KEY.keyring)
    publish_sources(keys.archive, {"6.1-1": debian_tar(b""), "6.2-1": tar})
    path = keys.fetch()
    assert path.read_bytes() == BOTH
    assert [each.name for each in path.parent.iterdir()] == ["developers.gpg"]


def test_a_version_that_is_gone_is_passed_over(keys: Keys) -> None:
    publish_sources(keys.archive, {"6.1-1": debian_tar(BOTH), "6.2-1": debian_tar(b"")})
    del keys.archive.files["pool/linux_6.2-1.debian.tar.xz"]
    assert keys.fetch().read_bytes() == BOTH


@pytest.mark.parametrize(
    ("tar", "says"),
    [
        (debian_tar(None), "no usable"),
        (debian_tar(b""), "no OpenPGP key"),
        (debian_tar(KEY.keyring), "lacks the key of Two"),
        (debian_tar(BOTH)[:300], "no usable"),
        (b"no archive", "no usable"),
    ],
)
def test_a_package_without_the_keys(keys: Keys, tar: bytes, says: str) -> None:
    publish_sources(keys.archive, {"6.1-1": tar})
    with pytest.raises(SourceError, match=says):
        keys.fetch()


def test_an_index_that_a_stranger_signed(keys: Keys) -> None:
    publish_sources(keys.archive, {"6.1-1": debian_tar(BOTH)}, key=STRANGER)
    with pytest.raises(SourceError, match="indexes"):
        keys.fetch()


def test_a_file_that_is_not_what_was_signed(keys: Keys) -> None:
    publish_sources(keys.archive, {"6.1-1": debian_tar(BOTH)})
    keys.mirror.faults[".debian.tar.xz"] = "lie"
    with pytest.raises(SourceError, match="cannot fetch linux's"):
        keys.fetch()


def test_no_such_package(keys: Keys) -> None:
    publish_sources(keys.archive, {})
    with pytest.raises(SourceError, match="no package of that name"):
        keys.fetch()
