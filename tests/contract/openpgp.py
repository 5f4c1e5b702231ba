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
BINARY, SELF = 0x00, 0x13


def _packet(tag: int, body: bytes) -> bytes:
    return bytes([0xC0 | tag, 0xFF]) + struct.pack(">I", len(body)) + body


def _mpi(number: int) -> bytes:
    return struct.pack(">H", number.bit_length()) + number.to_bytes(-(-number.bit_length() // 8))


def _subpackets(*packets: tuple[int, bytes]) -> bytes:
    data = b"".join(bytes([len(body) + 1, kind]) + body for kind, body in packets)
    return struct.pack(">H", len(data)) + data


@dataclass(frozen=True)
class SigningKey:
    """A key that signs; ``keyring`` is its public half as apt reads it."""

    user: str
    created: int = field(default_factory=lambda: int(time.time()) - 3600)
    _key: rsa.RSAPrivateKey = field(
        default_factory=lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048)
    )

    @property
    def _public(self) -> bytes:
        numbers = self._key.public_key().public_numbers()
        head = bytes([4]) + struct.pack(">I", self.created) + bytes([RSA])
        return head + _mpi(numbers.n) + _mpi(numbers.e)

    @property
    def fingerprint(self) -> bytes:
        body = self._public
        return hashlib.sha1(b"\x99" + struct.pack(">H", len(body)) + body).digest()

    @property
    def keyring(self) -> bytes:
        user = self.user.encode()
        body = self._public
        over = b"\x99" + struct.pack(">H", len(body)) + body
        over += b"\xb4" + struct.pack(">I", len(user)) + user
        return _packet(6, body) + _packet(13, user) + self._sign(SELF, over)

    def sign(self, data: bytes) -> bytes:
        """A detached signature, armored."""
        signature = self._sign(BINARY, data)
        check = base64.b64encode(_crc24(signature).to_bytes(3)).decode()
        text = base64.encodebytes(signature).decode()
        return (
            f"-----BEGIN PGP SIGNATURE-----\n\n{text}={check}\n-----END PGP SIGNATURE-----\n"
        ).encode()

    def _sign(self, kind: int, data: bytes) -> bytes:
        hashed = _subpackets(
            (2, struct.pack(">I", self.created + 60)),
            (33, bytes([4]) + self.fingerprint),
            (27, bytes([3])),
        )
        head = bytes([4, kind, RSA, SHA256]) + hashed
        over = data + head + b"\x04\xff" + struct.pack(">I", len(head))
        digest = hashlib.sha256(over).digest()
        signature = self._key.sign(over, padding.PKCS1v15(), hashes.SHA256())
        unhashed = _subpackets((16, self.fingerprint[-8:]))
        return _packet(2, head + unhashed + digest[:2] + _mpi(int.from_bytes(signature)))


def _crc24(data: bytes) -> int:
    crc = 0xB704CE
    for byte in data:
        crc ^= byte << 16
        for _ in range(8):
            crc <<= 1
            if crc & 0x1000000:
                crc ^= 0x1864CFB
    return crc
