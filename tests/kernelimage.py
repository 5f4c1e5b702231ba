"""Kernel files made by hand: as much of a vmlinux and of a bzImage as the lab and QEMU read."""

from __future__ import annotations

import struct

XEN = b"Xen\0"
PHYS32_ENTRY = 18
LOADED_AT = 0x1000000
ENTRY = LOADED_AT + 0x10


def make_note(name: bytes, kind: int, value: bytes) -> bytes:
    """A note of an ELF file, padded to four bytes."""
    head = struct.pack("<III", len(name), len(value), kind)
    return head + name + bytes(-len(name) % 4) + value + bytes(-len(value) % 4)


def make_entry(entry: int = ENTRY) -> bytes:
    """What Linux notes of its PVH entry, behind a note of another kind."""
    value = entry.to_bytes(8, "little")
    return make_note(b"Linux\0", 0, b"abc") + make_note(XEN, PHYS32_ENTRY, value)


def make_vmlinux(
    *,
    release: str = "6.1.0",
    notes: bytes | None = None,
    code: bytes = bytes(64),
    machine: int = 62,
    elf_class: int = 2,
) -> bytes:
    """An executable with the code and a banner, loaded at 16 MiB, and a segment of notes."""
    notes = make_entry() if notes is None else notes
    loaded = code + f"Linux version {release} (me@here)\n\0".encode()
    start = 64 + 2 * 56
    head = b"\x7fELF" + bytes([elf_class, 1, 1]) + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, LOADED_AT, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    place, size = start + len(loaded), len(loaded)
    load = struct.pack("<IIQQQQQQ", 1, 5, start, LOADED_AT, LOADED_AT, size, size, 1)
    note = struct.pack("<IIQQQQQQ", 4, 4, place, 0, 0, len(notes), len(notes), 4)
    return head + load + note + loaded + notes


def make_bzimage(
    payload: bytes, *, protocol: int = 0x20F, offset: int = 0x80, length: int | None = None
) -> bytes:
    """A bzImage of two sectors of set-up code that holds the payload."""
    head = bytearray(3 * 512)
    head[0x1F1] = 2
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x206, protocol)
    struct.pack_into("<II", head, 0x248, offset, len(payload) if length is None else length)
    return bytes(head) + bytes(0x80) + payload + b"\0" * 16
