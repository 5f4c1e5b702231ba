"""A kernel's symbols for a debugger: from ``/proc/kallsyms`` of a guest to an ELF file.

Kernels of distributions come without a vmlinux that has symbols, and what is unpacked from a
bzImage is stripped. Names and addresses are what the running kernel says, so it does not matter
whether it was moved at its start. There are no lines and no types in it.

The text comes from a guest: what is no symbol is passed over.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Iterable
from dataclasses import dataclass

MAX_SYMBOLS = 1_000_000
# Linux Documentation/arch/x86/x86_64/mm.rst: the kernel's half of all addresses. What is below
# is the place of a variable within a processor's own.
KERNEL_HALF = 0xFFFF_8000_0000_0000
# kernel/kallsyms.c prints the letters of nm(1): small for what is local.
_SYMBOL = re.compile(
    rb"([0-9a-f]{16}) ([A-Za-z]) ([A-Za-z_.$][\w.$]{0,511})(?:[ \t]+\[([\w-]{1,64})\])?", re.ASCII
)
_CODE = frozenset("tTwW")

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_ENTRY = struct.Struct("<IBBHQQ")
_EXEC, _X86_64 = 2, 62
_SYMTAB, _STRTAB, _NOBITS = 2, 3, 8
_ALLOC_EXEC = 0x2 | 0x4
_ABSOLUTE = 0xFFF1
_FUNCTION, _OBJECT = 2, 1


@dataclass(frozen=True)
class Symbol:
    """A name in the kernel, or in one of its modules."""

    address: int
    name: str
    is_code: bool
    is_global: bool
    module: str = ""


def parse_kallsyms(text: bytes, without: Collection[str] = ()) -> tuple[Symbol, ...]:
    """The symbols in it, by address, but for those of the modules ``without``.

    What is freed after the boot is left out: something else is there. Empty where the kernel
    hides its addresses (``kptr_restrict``).
    """
    found: list[Symbol] = []
    for line in text.split(b"\n"):
        match = _SYMBOL.fullmatch(line.rstrip())
        if match is None or len(found) == MAX_SYMBOLS:
            continue
        address, letter = int(match[1], 16), match[2].decode()
        module = (match[4] or b"").decode()
        if address >= KERNEL_HALF and module not in without:
            code = letter in _CODE
            found.append(Symbol(address, match[3].decode(), code, letter.isupper(), module))
    freed = _range(found, "__init_begin", "__init_end")
    return tuple(
        sorted(
            (each for each in found if each.address not in freed),
            key=lambda each: (each.address, each.name),
        )
    )


def _range(symbols: Iterable[Symbol], first: str, last: str) -> range:
    places = {each.name: each.address for each in symbols if each.name in (first, last)}
    return range(places.get(first, 0), places.get(last, 0))


def render_symbol_file(symbols: Collection[Symbol]) -> bytes:
    """An ELF file for x86-64 with these symbols, and no contents: a debugger reads those from the
    guest's memory.
    """
    kernel = [each for each in symbols if each.is_code and not each.module]
    others = [each for each in symbols if each.is_code and each.module]
    ranges = [(name, code) for name, code in ((".text", kernel), (".modules", others)) if code]
    sections = [(name, code[0].address, code[-1].address + 1) for name, code in ranges]
    names, entries = bytearray(b"\0"), bytearray(_ENTRY.size)
    # Local ones first, as the format wants it.
    ordered = sorted(symbols, key=lambda each: each.is_global)
    ends = _ends(symbols)
    for each in ordered:
        index = 1 + (1 if each.module and kernel else 0) if each.is_code else _ABSOLUTE
        info = (each.is_global << 4) | (_FUNCTION if each.is_code else _OBJECT)
        size = ends[each.address] - each.address
        entries += _ENTRY.pack(len(names), info, 0, index, each.address, size)
        names += each.name.encode() + b"\0"
    local = 1 + sum(not each.is_global for each in ordered)
    return _assemble(sections, bytes(entries), bytes(names), local)


def _ends(symbols: Iterable[Symbol]) -> dict[int, int]:
    """Where what is at an address ends: where the next symbol is, which may be far off."""
    places = sorted({each.address for each in symbols})
    nexts = [*places[1:], places[-1] + 1] if places else []
    return {at: min(end, at + (1 << 20)) for at, end in zip(places, nexts, strict=True)}


def _assemble(
    sections: Collection[tuple[str, int, int]], symbols: bytes, names: bytes, local: int
) -> bytes:
    count = len(sections)
    labels = bytearray(b"\0")
    headers = bytearray(_SECTION.size)
    body = _HEADER.size
    for label, start, end in sections:
        headers += _SECTION.pack(
            *(len(labels), _NOBITS, _ALLOC_EXEC, start, body, end - start, 0, 0, 16, 0)
        )
        labels += label.encode() + b"\0"
    tables = ((".symtab", _SYMTAB, symbols), (".strtab", _STRTAB, names))
    for label, kind, data in tables:
        link, entry = (count + 2, _ENTRY.size) if kind == _SYMTAB else (0, 0)
        first = local if kind == _SYMTAB else 0
        headers += _SECTION.pack(
            *(len(labels), kind, 0, 0, body, len(data), link, first, 8 if entry else 1, entry)
        )
        labels += label.encode() + b"\0"
        body += len(data)
    own = len(labels)
    labels += b".shstrtab\0"
    headers += _SECTION.pack(own, _STRTAB, 0, 0, body, len(labels), 0, 0, 1, 0)
    body += len(labels)
    head = _HEADER.pack(
        b"\x7fELF\x02\x01\x01" + bytes(9),
        *(_EXEC, _X86_64, 1, 0, 0, body, 0, _HEADER.size, 0, 0, _SECTION.size),
        *(count + 4, count + 3),
    )
    return head + symbols + names + bytes(labels) + bytes(headers)
