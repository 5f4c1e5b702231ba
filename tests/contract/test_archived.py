"""Releases that have left the mirrors: expired keys, stale indexes, packages that are gone."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.adapters import apt as apt_module
from orchestrator.adapters.apt import AptRoot, ensure_apt_root, ensure_keyring, run_mmdebstrap
from orchestrator.adapters.cache import Cache, sha256_of
from orchestrator.adapters.sources import SourceContext
from orchestrator.adapters.sources.distribution import SOURCE, DistributionEntry, resolve_kernel
from orchestrator.foundation.errors import SourceError
from orchestrator.plan.kernel import Part
from orchestrator.plan.recipe import Keyring, Recipe
from tests.contract.aptroot import isolate, make_apt_root
from tests.contract.mirror import Archive, Deb, Mirror, serve
from tests.contract.openpgp import SigningKey, armored

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(shutil.which("apt-get") is None, reason="no apt here"),
    pytest.mark.skipif(shutil.which("gpgv") is None, reason="no gpgv here"),
]

YEAR = 365 * 24 * 3600
NOW = int(time.time())
MADE = NOW - 10 * YEAR
EXPIRED = MADE + 2 * YEAR
BEFORE, AFTER = MADE + YEAR, MADE + 3 * YEAR

LIVING = SigningKey("Living <living@example.org>", MADE)
OLD = SigningKey("Old <old@example.org>", MADE, EXPIRED)
STRANGER = SigningKey("Stranger <stranger@example.org>", MADE, EXPIRED)
REVOKED = SigningKey("Revoked <revoked@example.org>", MADE, revoked=True)
OLD_REVOKED = SigningKey("Worst <worst@example.org>", MADE, EXPIRED, revoked=True)
# As in Debian's archive, where subkeys sign.
SUBKEY = SigningKey("", MADE, EXPIRED, master=OLD)
SUBKEY_FOR_EVER = SigningKey("", MADE, master=OLD)
SUBKEY_LONGER = SigningKey("", MADE, MADE + 5 * YEAR, master=OLD)
SUBKEY_SHORTER = SigningKey("", MADE, EXPIRED, master=LIVING)
SUBKEY_REVOKED = SigningKey("", MADE, EXPIRED, revoked=True, master=LIVING)
SUBKEY_OF_REVOKED = SigningKey("", MADE, EXPIRED, master=OLD_REVOKED)

KERNEL = Deb("linux-image-4.19.0-9-amd64", "4.19.118-2", files={"boot/vmlinuz": "a kernel"})
HEADERS = Deb("linux-headers-4.19.0-9-amd64", "4.19.118-2", files={"usr/src/file": "headers"})
NEWER = [
    Deb("linux-image-4.19.0-27-amd64", "4.19.316-1", files={"boot/vmlinuz": "newer"}),
    Deb("linux-headers-4.19.0-27-amd64", "4.19.316-1", files={"usr/src/file": "newer"}),
]
SERIES = DistributionEntry(image="oldy", version="4.19")


@pytest.fixture(autouse=True)
def apt_of_this_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(tmp_path, monkeypatch)


@pytest.fixture
def mirror(open_dir: Path) -> Iterator[Mirror]:
    with serve(Archive(open_dir / "build", LIVING)) as mirror:
        yield mirror


# --- signatures, as apt judges them ----------------------------------------------------------


@dataclass(frozen=True)
class Signed:
    """A Release file's signature, and what is to be thought of it once its release is past."""

    key: SigningKey
    at: int
    good: bool
    said: str = ""
    known: SigningKey | None = None
    """The key that is in the keyring, if not this one."""


SIGNATURES = {
    "a key that is valid": Signed(LIVING, NOW - 60, True),
    "an expired key, before": Signed(OLD, BEFORE, True),
    "an expired key, in its last second": Signed(OLD, EXPIRED - 1, True),
    "an expired key, as it expired": Signed(OLD, EXPIRED, False, "EXPKEYSIG"),
    "an expired key, after": Signed(OLD, AFTER, False, "EXPKEYSIG"),
    "an expired key, before it was made": Signed(OLD, MADE - YEAR, False, "EXPKEYSIG"),
    "a revoked key": Signed(REVOKED, BEFORE, False, "REVKEYSIG"),
    "a key that expired and was revoked": Signed(OLD_REVOKED, BEFORE, False, "EXPKEYSIG"),
    "an unknown key": Signed(STRANGER, BEFORE, False, "NO_PUBKEY", known=OLD),
    "an expired subkey, before": Signed(SUBKEY, BEFORE, True),
    "an expired subkey, after": Signed(SUBKEY, AFTER, False, "EXPKEYSIG"),
    "a subkey of an expired key, before": Signed(SUBKEY_FOR_EVER, BEFORE, True),
    "a subkey of an expired key, after": Signed(SUBKEY_FOR_EVER, AFTER, False, "EXPKEYSIG"),
    "a subkey that outlived its key, after": Signed(SUBKEY_LONGER, AFTER, False, "EXPKEYSIG"),
    "a subkey that its key outlives, before": Signed(SUBKEY_SHORTER, BEFORE, True),
    "a subkey that its key outlives, after": Signed(SUBKEY_SHORTER, AFTER, False, "EXPKEYSIG"),
    "a subkey that was revoked": Signed(SUBKEY_REVOKED, BEFORE, False, "EXPKEYSIG"),
    "a subkey of a revoked key": Signed(SUBKEY_OF_REVOKED, BEFORE, False, "KEYSIG"),
}


@pytest.mark.parametrize("signed", SIGNATURES.values(), ids=SIGNATURES.keys())
def test_a_signature_counts_if_its_key_was_good_when_it_was_made(
    open_dir: Path, mirror: Mirror, signed: Signed
) -> None:
    mirror.archive.publish("oldy", [KERNEL], sign=lambda data: signed.key.sign(data, signed.at))
    keyring = (signed.known or signed.key).keyring
    root = make_apt_root(open_dir / "apt", mirror.url, "oldy", keyring=keyring, past=True)
    if signed.good:
        root.update()
        assert root.names("linux-image") == (KERNEL.name,)
    else:
        with pytest.raises(SourceError, match=signed.said):
            root.update()
        assert root.names("linux-image") == ()


@pytest.mark.skipif(
    Path("/usr/lib/apt/methods/sqv").exists(),
    reason="this apt has sqv, which judges every release by the time of its signature",
)
def test_an_expired_key_counts_for_no_release_that_still_gets_updates(
    open_dir: Path, mirror: Mirror
) -> None:
    mirror.archive.publish("oldy", [KERNEL], sign=lambda data: OLD.sign(data, BEFORE))
    root = make_apt_root(open_dir / "apt", mirror.url, "oldy", keyring=OLD.keyring)
    with pytest.raises(SourceError, match="EXPKEYSIG"):
        root.update()


@pytest.mark.parametrize("what", ["Release", "Release.gpg"])
def test_an_old_index_that_was_changed_is_refused(
    open_dir: Path, mirror: Mirror, what: str
) -> None:
    mirror.archive.publish("oldy", [KERNEL], sign=lambda data: OLD.sign(data, BEFORE))
    mirror.faults[f"oldy/{what}"] = "lie"
    root = make_apt_root(open_dir / "apt", mirror.url, "oldy", keyring=OLD.keyring, past=True)
    with pytest.raises(SourceError, match=r"BADSIG|not signed|invalid"):
        root.update()
    assert root.names("linux-image") == ()


@pytest.mark.parametrize(
    ("others", "good"),
    [
        ([(OLD, BEFORE), (STRANGER, BEFORE)], True),
        ([(STRANGER, BEFORE), (OLD, BEFORE)], True),
        ([(OLD_REVOKED, BEFORE), (OLD, BEFORE)], True),
        ([(OLD, AFTER), (STRANGER, BEFORE)], False),
        ([(OLD_REVOKED, BEFORE), (OLD, AFTER)], False),
    ],
    ids=["and a stranger", "a stranger and", "a revoked one and", "late", "none good"],
)
def test_of_several_signatures_one_must_count(
    open_dir: Path, mirror: Mirror, others: list[tuple[SigningKey, int]], good: bool
) -> None:
    """Debian's Release files bear those of the next release's keys, and of the release team's."""
    mirror.archive.publish(
        "oldy",
        [KERNEL],
        sign=lambda data: armored(b"".join(key.signature(data, at) for key, at in others)),
    )
    keyring = OLD.keyring + OLD_REVOKED.keyring
    root = make_apt_root(open_dir / "apt", mirror.url, "oldy", keyring=keyring, past=True)
    if good:
        root.update()
        assert root.names("linux-image") == (KERNEL.name,)
    else:
        with pytest.raises(SourceError, match="EXPKEYSIG"):
            root.update()


@pytest.mark.parametrize("past", [True, False])
def test_a_stale_index_counts_for_a_release_that_ended_only(
    open_dir: Path, mirror: Mirror, past: bool
) -> None:
    mirror.archive.publish("oldy", [KERNEL], valid_until="Thu, 01 Aug 2024 00:00:00 UTC")
    root = make_apt_root(open_dir / "apt", mirror.url, "oldy", keyring=LIVING.keyring, past=past)
    if past:
        root.update()
    else:
        with pytest.raises(SourceError, match=r"expired|not valid"):
            root.update()


# --- through mmdebstrap ----------------------------------------------------------------------


@pytest.fixture
def bench(open_dir: Path, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    """A cache, and OLD in the place of the host's keyrings: no mmdebstrap is led anywhere."""
    if shutil.which("mmdebstrap") is None:
        pytest.skip("no mmdebstrap here")
    if os.geteuid() != 0:
        pytest.skip("mmdebstrap without root takes ranges of user ids")
    keyrings = open_dir / "keyrings"
    keyrings.mkdir()
    (keyrings / "removed-keys.gpg").write_bytes(OLD.keyring)
    monkeypatch.setattr(apt_module, "HOST_KEYRINGS", keyrings)
    monkeypatch.setenv("LAB_SNAPSHOT", f"{mirror.url}/snapshot")
    return Cache(tmp_path / "cache")


def recipe_of(**more: Any) -> Recipe:
    values = {
        "distribution": "debian",
        "release": "oldy",
        "keyring": Keyring(file="removed-keys.gpg", package="keys", release="trixie"),
        "flavour": "amd64",
        "packages": ("bash",),
    }
    return Recipe.model_validate({**values, **more})


def publish_old(mirror: Mirror, below: str, security: str, at: int = BEFORE) -> None:
    """A release as it lies in an archive: stale, and signed by a key that has expired since."""

    def sign(data: bytes) -> bytes:
        return OLD.sign(data, at)

    until = "Thu, 01 Aug 2024 00:00:00 UTC"
    publish = mirror.archive.publish
    publish("oldy", [KERNEL, HEADERS], sign=sign, below=below, valid_until=until)
    publish("oldy/updates", NEWER, sign=sign, below=security, valid_until=until)


MOMENT = "20240701T000000Z"
PLACES: dict[str, tuple[str, str, Callable[[Mirror], Recipe]]] = {
    "an archive": (
        "debian/",
        "debian-security/",
        lambda mirror: recipe_of(
            archive=f"{mirror.url}/debian/", security="oldy/updates", ended=True
        ),
    ),
    "a moment": (
        f"snapshot/archive/debian/{MOMENT}/",
        f"snapshot/archive/debian-security/{MOMENT}/",
        lambda _: recipe_of(snapshot=MOMENT, security="oldy/updates"),
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_kernel_comes_from_where_the_recipe_says(
    bench: Cache, mirror: Mirror, place: str, tmp_path: Path
) -> None:
    below, security, make_recipe = PLACES[place]
    publish_old(mirror, below, security)
    recipe = make_recipe(mirror)
    apt = ensure_apt_root(bench, recipe)
    found = resolve_kernel(apt, recipe, SERIES)
    assert (found.release, found.version) == ("4.19.0-27-amd64", "4.19.316")
    assert len(apt.download(found.parts, tmp_path)) == 2
    assert all(path.startswith((below, security)) for path in mirror.asked)
    older = DistributionEntry(image="oldy", version="4.19", package=KERNEL.name)
    assert resolve_kernel(apt, recipe, older).release == "4.19.0-9-amd64"


def test_further_suites_lie_in_the_same_archive(bench: Cache, mirror: Mirror) -> None:
    publish_old(mirror, "debian/", "debian-security/")
    backport = Deb("linux-image-5.10.0-0.deb10.24-amd64", "5.10.179")
    mirror.archive.publish(
        "oldy-backports", [backport], below="debian/", sign=lambda data: OLD.sign(data, BEFORE)
    )
    recipe = recipe_of(archive=f"{mirror.url}/debian", ended=True, also=("oldy-backports",))
    assert backport.name in ensure_apt_root(bench, recipe).names("linux-image")


@pytest.mark.parametrize(
    ("at", "ended", "said"),
    [(AFTER, True, "EXPKEYSIG"), (BEFORE, False, "EXPKEYSIG|expired|not valid")],
)
def test_mmdebstrap_refuses_what_apt_refuses(
    bench: Cache, mirror: Mirror, at: int, ended: bool, said: str
) -> None:
    """Where it is says nothing of how fresh it must be."""
    publish_old(mirror, "debian/", "debian-security/", at)
    recipe = recipe_of(archive=f"{mirror.url}/debian", ended=ended)
    with pytest.raises(SourceError, match=said):
        ensure_apt_root(bench, recipe)
    assert list((bench.root / "apt").iterdir()) == []


def test_what_mmdebstrap_makes_does_not_name_the_verifier(
    bench: Cache, mirror: Mirror, tmp_path: Path
) -> None:
    publish_old(mirror, "debian/", "debian-security/")
    recipe = recipe_of(archive=f"{mirror.url}/debian", security="oldy/updates", ended=True)
    made = tmp_path / "made.tar"
    keyring = ensure_keyring(bench, recipe.keyring)
    run_mmdebstrap(recipe, ("--variant=custom",), made, keyring=keyring, what="a test")
    with tarfile.open(made) as tar:
        files = {
            member.name: source.read()
            for member in tar
            if member.name.startswith("./etc/apt/") and (source := tar.extractfile(member))
        }
    assert b"Check-Valid-Until" in files["./etc/apt/apt.conf.d/99mmdebstrap"]
    assert not any(b"gpgv" in data for data in files.values())
    lines = files["./etc/apt/sources.list"].decode().splitlines()
    assert [line for line in lines if line.startswith("deb ")] == [
        f"deb {mirror.url}/debian oldy main",
        f"deb {mirror.url}/debian-security oldy/updates main",
    ]


# --- packages that are gone ------------------------------------------------------------------


@pytest.fixture
def root(open_dir: Path, mirror: Mirror) -> AptRoot:
    """An archive that had KERNEL and HEADERS and now has NEWER, and a snapshot service."""
    mirror.archive.publish("oldy", NEWER)
    root = make_apt_root(
        open_dir / "apt",
        mirror.url,
        "oldy",
        keyring=LIVING.keyring,
        snapshot=f"{mirror.url}/snapshot",
    )
    root.update()
    mirror.asked.clear()
    return root


def locked(deb: Deb, data: bytes, *, place: bool = True) -> Part:
    """What a lock says of a package."""
    return Part(
        name=deb.name,
        version=deb.version,
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        place=deb.file_name if place else None,
    )


def keep(mirror: Mirror, deb: Deb, *contents: bytes, said: bytes | None = None) -> None:
    """Have the snapshot service know these files under a package's name."""
    files = mirror.archive.files
    hashes = [hashlib.sha1(data).hexdigest() for data in contents]
    answer = {
        "_comment": "foo",
        "binary": deb.name,
        "binary_version": deb.version,
        "result": [
            {"hash": "0" * 40, "architecture": "arm64"},
            *({"hash": sha1, "architecture": "amd64"} for sha1 in hashes),
        ],
        "fileinfo": {
            sha1: [{"name": "x.deb", "archive_name": "debian", "path": "/pool", "size": len(data)}]
            for sha1, data in zip(hashes, contents, strict=True)
        },
    }
    path = f"snapshot/mr/binary/{deb.name}/{deb.version}/binfiles?fileinfo=1"
    files[path] = json.dumps(answer).encode() if said is None else said
    files |= {f"snapshot/file/{sha1}": data for sha1, data in zip(hashes, contents, strict=True)}


def test_a_superseded_build_is_reached_by_a_locks_place_and_hash_alone(
    root: AptRoot, open_dir: Path, mirror: Mirror, tmp_path: Path
) -> None:
    data = KERNEL.build(open_dir / "build")
    mirror.archive.files[KERNEL.file_name] = data  # in the pool, and in no index
    recipe = recipe_of()
    by_name = DistributionEntry(image="oldy", version="4.19", package=KERNEL.name)
    with pytest.raises(SourceError, match="offers no amd64 kernel") as caught:
        resolve_kernel(root, recipe, by_name)
    assert "it has 4.19.0-27-amd64" in caught.value.hint
    assert resolve_kernel(root, recipe, SERIES).release == "4.19.0-27-amd64"
    with pytest.raises(SourceError, match="does not say where it was"):
        root.download([locked(KERNEL, data, place=False)], tmp_path)
    mirror.asked.clear()
    (path,) = root.download([locked(KERNEL, data)], tmp_path)
    assert path.read_bytes() == data
    assert mirror.asked == [KERNEL.file_name]


def test_every_build_that_the_index_names_is_offered(bench: Cache, mirror: Mirror) -> None:
    """And no other: KERNEL lies in the pool, but its headers are named by no index."""
    publish_old(mirror, "debian/", "debian-security/")
    mirror.archive.publish(
        "oldy", [KERNEL], below="debian/", sign=lambda data: OLD.sign(data, BEFORE)
    )
    recipe = recipe_of(archive=f"{mirror.url}/debian", security="oldy/updates", ended=True)
    offers = SOURCE.offers(SourceContext(bench, recipe, bench.root), SERIES)
    assert [offer.release for offer in offers] == ["4.19.0-27-amd64"]


def test_a_package_that_left_the_pool_comes_from_the_snapshot_service(
    root: AptRoot, mirror: Mirror, tmp_path: Path
) -> None:
    epoch = Deb("linux-image-4.19.0-9-amd64", "1:4.19.118+x-2")
    data = b"the package itself"
    keep(mirror, epoch, data)
    (path,) = root.download([locked(epoch, data)], tmp_path)
    assert sha256_of(path) == hashlib.sha256(data).hexdigest()
    assert list(tmp_path.glob("*.deb")) == [path]
    assert list(tmp_path.glob(".*")) == []


def test_of_several_builds_of_one_version_the_locked_one_is_taken(
    root: AptRoot, mirror: Mirror, tmp_path: Path
) -> None:
    data = b"the package itself"
    keep(mirror, KERNEL, b"as long, not equal", b"of another size", data)
    (path,) = root.download([locked(KERNEL, data)], tmp_path)
    assert path.read_bytes() == data
    size = hashlib.sha1(b"of another size").hexdigest()
    assert f"snapshot/file/{size}" not in mirror.asked


@pytest.mark.parametrize(
    ("contents", "said", "complaint"),
    [
        ([b"as long, not equal"], None, "its SHA-256 is"),
        ([b"another size"], None, "of this size"),
        ([], None, "of this size"),
        ([], b"<html>busy</html>", "cannot be read"),
        ([], b"[" * 100000, "cannot be read"),
        ([], b'{"result": {"a": 1}, "fileinfo": 7}', "of this size"),
        ([], b'{"result": [7, {"architecture": "amd64", "hash": "../../x"}]}', "of this size"),
        ([], b" " * (1 << 20) + b"{}", "larger than it can be"),
    ],
    ids=["lies", "size", "none", "no JSON", "deep", "shape", "path", "too much"],
)
def test_nothing_but_the_locked_package_is_taken_from_the_service(
    root: AptRoot,
    mirror: Mirror,
    tmp_path: Path,
    contents: list[bytes],
    said: bytes | None,
    complaint: str,
) -> None:
    keep(mirror, KERNEL, *contents, said=said)
    with pytest.raises(SourceError, match=complaint) as caught:
        root.download([locked(KERNEL, b"the package itself")], tmp_path)
    assert caught.value.message.startswith(f"cannot fetch {KERNEL.name}=")
    assert "lab lock" in caught.value.hint
    assert list(tmp_path.glob("*.deb")) == []


def test_a_package_that_nobody_has_is_told(root: AptRoot, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f"the snapshot service has no {KERNEL.name}"):
        root.download([locked(KERNEL, b"the package itself")], tmp_path)


@pytest.mark.parametrize("distribution", ["debian", "ubuntu"])
def test_the_snapshot_service_is_asked_for_debians_packages_alone(
    bench: Cache, mirror: Mirror, tmp_path: Path, distribution: str
) -> None:
    publish_old(mirror, "debian/", "debian-security/")
    recipe = recipe_of(distribution=distribution, archive=f"{mirror.url}/debian", ended=True)
    apt = ensure_apt_root(bench, recipe)
    gone = Deb("linux-image-4.19.0-1-amd64")
    keep(mirror, gone, b"the package itself")
    part = locked(gone, b"the package itself")
    if distribution == "debian":
        assert len(apt.download([part], tmp_path)) == 1
    else:
        with pytest.raises(SourceError, match="404"):
            apt.download([part], tmp_path)
        assert not any(path.startswith("snapshot/") for path in mirror.asked)


def test_off_the_network_no_service_is_asked(open_dir: Path, mirror: Mirror) -> None:
    root = open_dir / "apt"
    make_apt_root(root, mirror.url, "oldy", keyring=LIVING.keyring)
    cache = Cache(open_dir / "cache", offline=True)
    apt = AptRoot(cache, root, root / "keyring.gpg", snapshot=f"{mirror.url}/snapshot")
    with pytest.raises(SourceError, match="--offline"):
        apt.download([locked(KERNEL, b"x")], open_dir)
    assert mirror.asked == []
