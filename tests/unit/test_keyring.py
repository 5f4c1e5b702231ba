"""Which keys of a keyring count as revoked; what gpgv makes of them is a contract test's."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.plan.keyring import PublicKey, find_unrevoked
from tests.contract.openpgp import SigningKey

LIVING = SigningKey("Living <living@example.org>", 1_500_000_000)
REVOKED = SigningKey("Revoked <revoked@example.org>", 1_500_000_000, revoked=True)
SUBKEY = SigningKey("", 1_500_000_100, master=LIVING)
REVOKED_SUBKEY = SigningKey("", 1_500_000_100, revoked=True, master=LIVING)
SUBKEY_OF_REVOKED = SigningKey("", 1_500_000_100, master=REVOKED)


def found(key: SigningKey) -> PublicKey:
    return PublicKey(key.fingerprint.hex().upper(), key.created)


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ([LIVING], [LIVING]),
        ([REVOKED], []),
        ([SUBKEY], [LIVING, SUBKEY]),
        ([REVOKED_SUBKEY], [LIVING]),
        ([SUBKEY_OF_REVOKED], []),
        ([REVOKED, SUBKEY, REVOKED_SUBKEY], [LIVING, SUBKEY, LIVING]),
        ([], []),
    ],
    ids=["one", "revoked", "subkey", "revoked subkey", "subkey of revoked", "several", "none"],
)
def test_revoked_keys_and_their_subkeys_are_left_out(
    keys: list[SigningKey], wanted: list[SigningKey]
) -> None:
    data = b"".join(key.keyring for key in keys)
    assert list(find_unrevoked(data)) == [found(key) for key in wanted]


@pytest.mark.parametrize("cut", [1, 2, 100, 300])
def test_of_a_keyring_that_ends_too_early_no_key_counts(cut: int) -> None:
    assert find_unrevoked(LIVING.keyring + SUBKEY.keyring[:-cut]) == ()


def test_text_is_no_keyring() -> None:
    assert find_unrevoked(b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n") == ()


@given(st.binary(max_size=64), st.integers(0, len(SUBKEY.keyring) - 1), st.integers(0, 255))
def test_no_bytes_are_too_odd(tail: bytes, at: int, byte: int) -> None:
    find_unrevoked(tail)
    spoilt = bytearray(SUBKEY.keyring)
    spoilt[at] = byte
    find_unrevoked(bytes(spoilt) + tail)


KEYRINGS = sorted(Path("/usr/share/keyrings").glob("debian-archive-*.gpg"))


@pytest.mark.skipif(not KEYRINGS or not shutil.which("gpg"), reason="no keyrings, or no gpg")
@pytest.mark.parametrize("path", KEYRINGS, ids=lambda path: path.name)
def test_gpg_sees_the_same_in_debians_keyrings(path: Path, tmp_path: Path) -> None:
    """Their packets are of the old format, with lengths of one and two bytes."""
    argv = ("gpg", "--homedir", str(tmp_path), "--show-keys", "--with-colons", str(path))
    shown = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    wanted, key = [], [""]
    for line in shown.splitlines():
        fields = line.split(":")
        if fields[0] in ("pub", "sub"):
            key = fields
        elif fields[0] == "fpr" and key[1] != "r":
            wanted.append(PublicKey(fields[9], int(key[5])))
    assert list(find_unrevoked(path.read_bytes())) == wanted
