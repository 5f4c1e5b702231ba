"""As much of OpenPGP as it takes to know whose keys are in a file (RFC 4880, 4.2 and 12.2).

Signatures are verified by gpgv; this only picks the keys that it is given.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import itertools
from collections.abc import Iterable, Iterator

MAX_KEYS_BYTES = 4 << 20
_PUBLIC_KEY = 6

_BEGIN = "-----BEGIN PGP PUBLIC KEY BLOCK-----"
_END = "-----END PGP PUBLIC KEY BLOCK-----"


def dearmor(data: bytes) -> bytes:
    """The packets in a file of keys, armored or not. Raises ``ValueError`` for neither."""
    if len(data) > MAX_KEYS_BYTES:
        raise ValueError("it is larger than any file of keys")
    if data[:1] and data[0] & 0x80:
        return data
    found = b""
    for lines in _armored(data.decode("ascii", errors="replace")):
        # The last line may be a checksum, of which RFC 9580 says to ignore it.
        text = "".join(line for line in lines if not line.startswith("="))
        try:
            found += base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise ValueError(f"its armor is damaged: {error}") from error
    if not found:
        raise ValueError("there is no OpenPGP key in it")
    return found


def _armored(text: str) -> Iterator[list[str]]:
    """The lines of each block, without blanks around them and without its headers (6.2)."""
    block: list[str] | None = None
    for line in map(str.strip, text.splitlines()):
        if line == _BEGIN:
            block = []
        elif line == _END and block is not None:
            yield list(itertools.dropwhile(lambda line: not line or ": " in line, block))
            block = None
        elif block is not None:
            block.append(line)


def _packets(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """The kind, the body, and the whole of each packet."""
    at = 0
    while at < len(data):
        head = data[at]
        if not head & 0x80:
            raise ValueError("it is no file of OpenPGP keys")
        kind, length, start = _new(data, at) if head & 0x40 else _old(data, at)
        if start + length > len(data):
            raise ValueError("it is cut short")
        yield kind, data[start : start + length], data[at : start + length]
        at = start + length


def _new(data: bytes, at: int) -> tuple[int, int, int]:
    first = data[at + 1] if at + 1 < len(data) else 0
    kind = data[at] & 0x3F
    if first < 192:
        return kind, first, at + 2
    if first < 224:
        second = data[at + 2] if at + 2 < len(data) else 0
        return kind, ((first - 192) << 8) + second + 192, at + 3
    if first == 255:
        return kind, int.from_bytes(data[at + 2 : at + 6], "big"), at + 6
    raise ValueError("it has packets in parts, which keys never have")


def _old(data: bytes, at: int) -> tuple[int, int, int]:
    size = {0: 1, 1: 2, 2: 4}.get(data[at] & 3)
    if size is None:
        raise ValueError("it has a packet without a length, which keys never have")
    length = int.from_bytes(data[at + 1 : at + 1 + size], "big")
    return (data[at] >> 2) & 15, length, at + 1 + size


def split_keys(data: bytes) -> dict[str, bytes]:
    """Each key with all that belongs to it, by its fingerprint. Raises ``ValueError``."""
    keys: dict[str, bytes] = {}
    current = ""
    for kind, body, whole in _packets(data):
        if kind == _PUBLIC_KEY:
            current = _fingerprint(body)
        if current:
            keys[current] = keys.get(current, b"") + whole
    return keys


def _fingerprint(body: bytes) -> str:
    if body[:1] != b"\x04":
        return ""  # of another version: gpgv would not know it either
    # SHA-1 is what a version 4 fingerprint is made of.
    return hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body).hexdigest().upper()


def pick_keys(data: bytes, fingerprints: Iterable[str]) -> tuple[bytes, tuple[str, ...]]:
    """Those keys of a file that are asked for, as gpgv reads them, and which were absent."""
    keys = split_keys(dearmor(data))
    wanted = tuple(fingerprints)
    absent = tuple(name for name in wanted if name not in keys)
    return b"".join(keys[name] for name in wanted if name in keys), absent
