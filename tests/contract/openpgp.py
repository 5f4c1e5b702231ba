"""Just enough of OpenPGP (RFC 4880) to sign an archive's index, without a tool or its agent."""

from __future__ import annotations

import base64
import hashlib
import struct
import time
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

RSA, SHA256 = 1, 8
BINARY, SELF, SUBKEY, BACK = 0x00, 0x13, 0x18, 0x19
REVOKED, SUBKEY_REVOKED = 0x20, 0x28


def _packet(tag: int, body: bytes) -> bytes:
    return bytes([0xC0 | tag, 0xFF]) + struct.pack(">I", len(body)) + body


def _mpi(number: int) -> bytes:
    return struct.pack(">H", number.bit_length()) + number.to_bytes(-(-number.bit_length() // 8))


def _subpackets(*packets: tuple[int, bytes]) -> bytes:
    data = b"".join(
        b"\xff" + struct.pack(">IB", len(body) + 1, kind) + body for kind, body in packets
    )
    return struct.pack(">H", len(data)) + data


@dataclass(frozen=True)
class SigningKey:
    """A key that signs; ``keyring`` is its public half as apt reads it.

    With a ``master`` it is a subkey of that key, as in Debian's archive.
    """

    user: str
    created: int = field(default_factory=lambda: int(time.time()) - 3600)
    expires: int | None = None
    revoked: bool = False
    master: SigningKey | None = None
    _key: rsa.RSAPrivateKey = field(
        default_factory=lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048)
    )

    @property
    def _public(self) -> bytes:
        numbers = self._key.public_key().public_numbers()
        head = bytes([4]) + struct.pack(">I", self.created) + bytes([RSA])
        return head + _mpi(numbers.n) + _mpi(numbers.e)

    @property
    def _hashed(self) -> bytes:
        """The key as signatures over keys have it."""
        return b"\x99" + struct.pack(">H", len(self._public)) + self._public

    @property
    def fingerprint(self) -> bytes:
        return hashlib.sha1(self._hashed).digest()

    @property
    def keyring(self) -> bytes:
        if self.master is not None:
            over = self.master._hashed + self._hashed
            back = self._packet_body(BACK, over, self.created + 60)
            wrapped = (32, back)
            packets = [self.master.keyring, _packet(14, self._public)]
            if self.revoked:
                packets.append(self.master._sign(SUBKEY_REVOKED, over, self.created + 90))
            packets.append(
                self.master._sign(
                    SUBKEY, over, self.created + 60, *self._life(), (27, b"\x02"), wrapped
                )
            )
            return b"".join(packets)
        user = self.user.encode()
        over = self._hashed + b"\xb4" + struct.pack(">I", len(user)) + user
        revocation = self._sign(REVOKED, self._hashed, self.created + 90) if self.revoked else b""
        self_signature = self._sign(SELF, over, self.created + 60, *self._life(), (27, b"\x03"))
        return _packet(6, self._public) + revocation + _packet(13, user) + self_signature

    def _life(self) -> list[tuple[int, bytes]]:
        if self.expires is None:
            return []
        return [(9, struct.pack(">I", self.expires - self.created))]

    def sign(self, data: bytes, at: int | None = None) -> bytes:
        """A detached signature, armored, which says that it was made ``at`` that time."""
        return armored(self.signature(data, at))

    def signature(self, data: bytes, at: int | None = None) -> bytes:
        """The packet alone: a file may bear several."""
        return self._sign(BINARY, data, self.created + 60 if at is None else at)

    def _sign(self, kind: int, data: bytes, at: int, *more: tuple[int, bytes]) -> bytes:
        return _packet(2, self._packet_body(kind, data, at, *more))

    def _packet_body(self, kind: int, data: bytes, at: int, *more: tuple[int, bytes]) -> bytes:
        hashed = _subpackets((2, struct.pack(">I", at)), (33, bytes([4]) + self.fingerprint), *more)
        head = bytes([4, kind, RSA, SHA256]) + hashed
        over = data + head + b"\x04\xff" + struct.pack(">I", len(head))
        digest = hashlib.sha256(over).digest()
        signature = self._key.sign(over, padding.PKCS1v15(), hashes.SHA256())
        unhashed = _subpackets((16, self.fingerprint[-8:]))
        return head + unhashed + digest[:2] + _mpi(int.from_bytes(signature))


def armored(signatures: bytes) -> bytes:
    """Signatures as text."""
    check = base64.b64encode(_crc24(signatures).to_bytes(3)).decode()
    text = base64.encodebytes(signatures).decode()
    return (
        f"-----BEGIN PGP SIGNATURE-----\n\n{text}={check}\n-----END PGP SIGNATURE-----\n"
    ).encode()


def _crc24(data: bytes) -> int:
    crc = 0xB704CE
    for byte in data:
        crc ^= byte << 16
        for _ in range(8):
            crc <<= 1
            if crc & 0x1000000:
                crc ^= 0x1864CFB
    return crc
