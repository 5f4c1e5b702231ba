"""Kernel modules made by hand: as much of ELF as depmod and the lab read of one."""

from __future__ import annotations

import struct
from collections.abc import Sequence


def make_ko(
    *modinfo: str, exports: Sequence[str] = (), imports: Sequence[str] = (), size: int = 0
) -> bytes:
    """A relocatable x86-64 object with these lines of ``.modinfo``, and these symbols."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name in imports)
    symbols = bytes(24)
    at = 1
    for name in imports:
        symbols += struct.pack("<IBBHQQ", at, 0x10, 0, 0, 0, 0)  # global, undefined
        at += len(name) + 1
    sections: list[tuple[str, int, bytes, int, int]] = [
        ("", 0, b"", 0, 0),
        (".modinfo", 1, b"".join(line.encode() + b"\0" for line in modinfo), 0, 0),
        ("__ksymtab_strings", 1, b"".join(name.encode() + b"\0" for name in exports), 0, 0),
        (".symtab", 2, symbols, 4, 24),
        (".strtab", 3, names, 0, 0),
        (".text", 1, bytes(size), 0, 0),
    ]
    labels = b"".join(name.encode() + b"\0" for name, *_ in sections) + b".shstrtab\0"
    sections.append((".shstrtab", 3, labels, 0, 0))

    body, headers, label = b"", b"", 0
    for name, kind, data, link, entry in sections:
        offset = 64 + len(body)
        headers += struct.pack(
            *("<IIQQQQIIQQ", label, kind, 0, 0, offset, len(data), link, int(kind == 2), 1, entry)
        )
        body += data + bytes(-len(data) % 8)
        label += len(name) + 1
    head = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    head += struct.pack(
        *("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64),
        *(len(sections), len(sections) - 1),
    )
    return head + body + headers
