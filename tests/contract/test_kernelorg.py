"""Releases from a mirror of kernel.org that the test makes, signs, serves and spoils."""

from __future__ import annotations

import base64
import hashlib
import lzma
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.adapters import kernelorg
from orchestrator.adapters.cache import Cache
from orchestrator.adapters.download import Patience
from orchestrator.adapters.kernelorg import (
    BASE,
    KernelOrg,
    base_url,
    judge_signature,
    near_versions,
    parse_sums,
    tarball_name,
)
from orchestrator.adapters.kernelsource import inspect_source
from orchestrator.foundation.errors import SourceError
from orchestrator.plan.openpgp import dearmor, pick_keys, split_keys
from tests.contract.mirror import Archive, Mirror, serve
from tests.contract.openpgp import SigningKey
from tests.trees import FILES, pack

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(shutil.which("gpgv") is None, reason="needs gpgv"),
]

DEVELOPER = SigningKey("A Developer <developer@example.org>")
STRANGER = SigningKey("Stranger <stranger@example.org>")
PLAIN = pack(FILES, mode="w")
QUICK = Patience(tries=2, pause=0.01, stall=2.0)
V5 = "pub/v5.x"


class Releases:
    """A mirror with a few releases, and the way to fetch from it."""

    def __init__(self, folder: Path) -> None:
        self.archive = Archive(folder, DEVELOPER)
        self.folder = folder
        self.keyring = folder / "developers.gpg"
        self.keyring.write_bytes(DEVELOPER.keyring)
        self.mirror: Mirror | None = None
        for version in ("5.4", "5.5", "5.5.1", "5.5.18", "5.5.19", "5.6.2"):
            self.add(version)

    def add(self, version: str, *, key: SigningKey = DEVELOPER, plain: bytes = PLAIN) -> None:
        files = self.archive.files
        files[f"{V5}/linux-{version}.tar.xz"] = lzma.compress(plain)
        files[f"{V5}/linux-{version}.tar.sign"] = key.sign(plain)
        self.sum()

    def sum(self) -> None:
        files = self.archive.files
        lines = (
            f"{hashlib.sha256(data).hexdigest()}  {Path(name).name}\n"
            for name, data in files.items()
            if name.startswith(V5) and name.endswith(".tar.xz")
        )
        text = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n" + "".join(lines)
        files[f"{V5}/sha256sums.asc"] = text.encode()

    def fetch(self, version: str = "5.5.19") -> kernelorg.Release:
        assert self.mirror is not None
        cache = Cache(self.folder / "cache")
        base = f"{self.mirror.url}/pub/"
        return KernelOrg(cache, self.keyring, base=base, patience=QUICK).fetch(version)


@pytest.fixture
def releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Releases]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Releases(tmp_path)
    with serve(made.archive) as mirror:
        made.mirror = mirror
        yield made


def test_a_release(releases: Releases, tmp_path: Path) -> None:
    release = releases.fetch()
    assert release.signer == DEVELOPER.fingerprint.hex().upper()
    source = inspect_source(Cache(tmp_path / "cache"), release.path)
    assert source.version == "5.5.19"
    assert sorted(path.name for path in release.path.parent.iterdir()) == [
        "linux-5.5.19.tar.xz",
        "signer",
    ]


def test_the_cache_answers_without_the_mirror(releases: Releases) -> None:
    first = releases.fetch()
    releases.archive.files.clear()
    assert releases.fetch() == first


def test_another_keyring_is_asked_again(releases: Releases) -> None:
    releases.fetch()
    releases.keyring.write_bytes(STRANGER.keyring)
    with pytest.raises(SourceError, match="none of those"):
        releases.fetch()


def test_a_series_first_release(releases: Releases) -> None:
    assert releases.fetch("5.5.0").path.name == "linux-5.5.tar.xz"


def test_who_signed_it_must_be_known(releases: Releases) -> None:
    releases.add("5.5.19", key=STRANGER)
    key_id = STRANGER.fingerprint[-8:].hex().upper()
    with pytest.raises(SourceError, match=f"key {key_id}, which is none of those"):
        releases.fetch()


def test_what_was_signed_must_be_what_came(releases: Releases) -> None:
    good = releases.archive.files[f"{V5}/linux-5.5.19.tar.sign"]
    releases.add("5.5.19", plain=pack({**FILES, "evil": "x"}, mode="w"))
    releases.archive.files[f"{V5}/linux-5.5.19.tar.sign"] = good
    with pytest.raises(SourceError, match=r"is not what A Developer .* signed") as caught:
        releases.fetch()
    assert "tampered" in caught.value.hint


def test_the_signature_is_over_the_uncompressed_archive(releases: Releases) -> None:
    packed = releases.archive.files[f"{V5}/linux-5.5.19.tar.xz"]
    releases.archive.files[f"{V5}/linux-5.5.19.tar.sign"] = DEVELOPER.sign(packed)
    with pytest.raises(SourceError, match="is not what"):
        releases.fetch()


@pytest.mark.parametrize("signature", [b"", b"nonsense", b"-----BEGIN PGP SIGNATURE-----\n\nxx"])
def test_what_is_no_signature(releases: Releases, signature: bytes) -> None:
    releases.archive.files[f"{V5}/linux-5.5.19.tar.sign"] = signature
    with pytest.raises(SourceError, match="no signature that can be verified"):
        releases.fetch()


def test_a_wrong_checksum(releases: Releases) -> None:
    assert releases.mirror is not None
    releases.mirror.faults["5.5.19.tar.xz"] = "lie"
    with pytest.raises(SourceError, match="not what was promised"):
        releases.fetch()


@pytest.mark.parametrize("fault", ["truncate", "broken", "cut"])
def test_a_bad_mirror(releases: Releases, fault: str) -> None:
    assert releases.mirror is not None
    releases.mirror.faults["5.5.19.tar.xz"] = fault  # type: ignore[assignment]
    with pytest.raises(SourceError, match=r"cannot fetch|not what was promised"):
        releases.fetch()
    releases.mirror.faults.clear()
    assert releases.fetch().version == "5.5.19"


def test_what_is_signed_but_no_archive(releases: Releases) -> None:
    files = releases.archive.files
    files[f"{V5}/linux-5.5.19.tar.xz"] = b"not xz"
    releases.sum()
    with pytest.raises(SourceError, match="is not what"):
        releases.fetch()


def test_a_damaged_archive_whose_checksum_fits(releases: Releases) -> None:
    files = releases.archive.files
    files[f"{V5}/linux-5.5.19.tar.xz"] = files[f"{V5}/linux-5.5.19.tar.xz"][:-30]
    releases.sum()
    with pytest.raises(SourceError, match="cannot be decompressed"):
        releases.fetch()


@pytest.mark.parametrize("missing", ["sha256sums.asc", "linux-5.5.19.tar.sign"])
def test_a_mirror_without_one_of_the_files(releases: Releases, missing: str) -> None:
    del releases.archive.files[f"{V5}/{missing}"]
    with pytest.raises(SourceError) as caught:
        releases.fetch()
    assert missing in caught.value.message
    assert "LAB_KERNEL_ORG" in caught.value.hint


@pytest.mark.parametrize(
    ("version", "near"),
    [
        ("5.5.20", "5.5.1, 5.5.18, 5.5.19"),
        ("5.5.2", "5.5, 5.5.1, 5.5.18, 5.5.19"),
        ("5.9.1", "5.5.18, 5.5.19, 5.6.2"),
    ],
)
def test_what_there_is_instead(releases: Releases, version: str, near: str) -> None:
    with pytest.raises(SourceError, match=f"there is no Linux {version}") as caught:
        releases.fetch(version)
    assert caught.value.hint == f"near it there are {near}"


@pytest.mark.parametrize(
    ("version", "says", "hint"),
    [
        ("7.1-rc2", "release candidate", "git checkout v7.1-rc2"),
        ("5.4.0-216-generic", "no release of kernel.org", "source package"),
        ("5.x", "not a kernel version", ""),
        ("../5.5", "not a kernel version", ""),
        ("5", "not a kernel version", ""),
    ],
)
def test_what_is_no_release(releases: Releases, version: str, says: str, hint: str) -> None:
    assert releases.mirror is not None
    with pytest.raises(SourceError, match=says) as caught:
        releases.fetch(version)
    assert hint in caught.value.hint
    assert releases.mirror.asked == []


@pytest.mark.parametrize(
    ("version", "name"),
    [("5.5", "5.5"), ("5.5.0", "5.5"), ("5.5.19", "5.5.19"), ("2.6.0", "2.6.0")],
)
def test_names_of_archives(version: str, name: str) -> None:
    assert tarball_name(version) == name


def test_the_mirror_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAB_KERNEL_ORG", raising=False)
    assert base_url() == BASE
    monkeypatch.setenv("LAB_KERNEL_ORG", "http://mirror.example/kernel/")
    assert base_url() == "http://mirror.example/kernel"


def test_sums_are_read_and_nothing_else() -> None:
    digest = "0" * 64
    assert parse_sums(f"x\n{digest}  a.tar\n{digest} *b\n{digest[1:]}  c\n") == {
        "a.tar": digest,
        "b": digest,
    }


def test_nothing_near_in_an_empty_list() -> None:
    assert near_versions("5.5", []) == []


@pytest.mark.parametrize(
    "said",
    [
        "",
        "[GNUPG:] NODATA 4",
        "[GNUPG:] GOODSIG 0123 Linus Torvalds",
        "[GNUPG:] VALIDSIG",
        "gpgv: [GNUPG:] VALIDSIG a b c d e f g h i j",
    ],
)
def test_less_than_a_valid_signature(said: str) -> None:
    with pytest.raises(SourceError):
        judge_signature("x", 0, said)


def test_a_valid_signature_and_a_failure() -> None:
    valid = "[GNUPG:] VALIDSIG " + " ".join("abcdefghij")
    assert judge_signature("x", 0, valid) == "j"
    with pytest.raises(SourceError):
        judge_signature("x", 1, valid)
    with pytest.raises(SourceError):
        judge_signature("x", 0, valid + "\n[GNUPG:] REVKEYSIG 0 x")


# --- keys --------------------------------------------------------------------------------


def test_only_the_keys_that_are_asked_for(releases: Releases) -> None:
    name = DEVELOPER.fingerprint.hex().upper()
    both = STRANGER.keyring + DEVELOPER.keyring
    keys, absent = pick_keys(both, [name, "F" * 40])
    assert keys == DEVELOPER.keyring
    assert absent == ("F" * 40,)
    releases.keyring.write_bytes(keys)
    assert releases.fetch().signer == name


def armored(data: bytes) -> bytes:
    body = base64.encodebytes(data).decode()
    return (
        f"-----BEGIN PGP PUBLIC KEY BLOCK-----\nVersion: x\n\n{body}=abcd\n"
        "-----END PGP PUBLIC KEY BLOCK-----\n"
    ).encode()


def test_armor_is_taken_off() -> None:
    assert dearmor(armored(DEVELOPER.keyring)) == DEVELOPER.keyring
    assert dearmor(DEVELOPER.keyring) == DEVELOPER.keyring
    assert dearmor(armored(DEVELOPER.keyring) * 2) == DEVELOPER.keyring * 2


def test_armor_may_be_indented_have_no_headers_and_text_around_it() -> None:
    lines = armored(DEVELOPER.keyring).decode().splitlines()
    lines.remove("Version: x")
    text = "\n".join(["Hello.", *(f"  {line}\r" for line in lines), "Bye.", ""])
    assert dearmor(text.encode()) == DEVELOPER.keyring


def test_damaged_armor_is_told() -> None:
    with pytest.raises(ValueError, match="its armor is damaged"):
        dearmor(armored(DEVELOPER.keyring).replace(b"A", b"A*", 1))


BEGIN = b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n"


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        BEGIN + b"\n",
        BEGIN + b"\n" * 100_000,
        BEGIN * 20_000,
        BEGIN + b"a: b\n" * 99999,
    ],
    ids=["nothing", "text", "begin", "blanks", "begins", "headers"],
)
def test_what_holds_no_keys(data: bytes) -> None:
    with pytest.raises(ValueError, match="no OpenPGP key"):
        dearmor(data)


@pytest.mark.parametrize("cut", [1, 2, 5, 100, 300])
def test_keys_cut_short(cut: int) -> None:
    with pytest.raises(ValueError, match=r"cut short|in parts|length|no file of"):
        split_keys(DEVELOPER.keyring[:cut])
