"""Which keys of a keyring nobody has revoked: read from its packets (RFC 4880).

gpgv says of a key that has expired only that, even if the key was revoked as well, so the
verifier for old archives (``adapters/signatures.py``) must know it beforehand. Nothing is
verified here: whoever can write to the keyring can add keys to it anyway, and a revocation
that is there is believed, whoever made it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

_SIGNATURE, _KEY, _SUBKEY = 2, 6, 14
_KEY_REVOKED, _SUBKEY_REVOKED = 0x20, 0x28


@dataclass(frozen=True)
class PublicKey:
    """A key or subkey: its fingerprint, as gpgv writes it, and when it was made."""

    fingerprint: str
    created: int


def find_unrevoked(data: bytes) -> tuple[PublicKey, ...]:
    """The keys and subkeys of a keyring that bear no revocation, nor their main key.

    Only of version 4, as all of the distributions are. Of data that cannot be read to its
    end, none: what is not known is not trusted.
    """
    try:
        return tuple(_walk(data))
    except IndexError:
        return ()


def _walk(data: bytes) -> Iterator[PublicKey]:
    block: list[tuple[PublicKey | None, bool]] = []
    for tag, body in _packets(data):
        if tag == _KEY:
            yield from _living(block)
            block = []
        if tag in (_KEY, _SUBKEY):
            block.append((_public_key(body), False))
        elif tag == _SIGNATURE and block and _kind(body) in (_KEY_REVOKED, _SUBKEY_REVOKED):
            block[-1] = (block[-1][0], True)
    yield from _living(block)


def _living(block: list[tuple[PublicKey | None, bool]]) -> Iterator[PublicKey]:
    if not block or block[0][1]:
        return
    for key, revoked in block:
        if key is not None and not revoked:
            yield key


def _public_key(body: bytes) -> PublicKey | None:
    if body[0] != 4:
        return None
    digest = hashlib.sha1(b"\x99" + len(body).to_bytes(2) + body).hexdigest()
    return PublicKey(digest.upper(), int.from_bytes(_take(body, 1, 4)))


def _kind(body: bytes) -> int:
    """What a signature is for; one of a version not known counts as a revocation."""
    if body[0] == 3:
        return body[2]
    return body[1] if body[0] in (4, 5, 6) else _KEY_REVOKED


def _packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        head = data[at]
        at += 1
        if not head & 0x80:
            raise IndexError("no packet begins here")
        if head & 0x40:
            tag, (size, width) = head & 0x3F, _new_length(data, at)
        else:
            tag, width = head >> 2 & 0x0F, 1 << (head & 3)
            size = int.from_bytes(_take(data, at, width))
            if width == 8:
                raise IndexError("a packet without a length")
        yield tag, _take(data, at + width, size)
        at += width + size


def _new_length(data: bytes, at: int) -> tuple[int, int]:
    """The length of a packet's body, and how many bytes say it."""
    first = data[at]
    if first < 192:
        return first, 1
    if first < 224:
        return (first - 192 << 8) + data[at + 1] + 192, 2
    if first < 255:
        raise IndexError("a packet in parts")
    return int.from_bytes(_take(data, at + 1, 4)), 5


def _take(data: bytes, at: int, size: int) -> bytes:
    found = data[at : at + size]
    if len(found) != size:
        raise IndexError("the data ends too early")
    return found
