"""What stands in a kernel module's file of where its code came from: ELF symbols, DWARF lines.

``python -m orchestrator.adapters.dwarf FILE ADDRESSES`` answers in JSON; ``adapters/symbols.py``
asks. It is a process of its own because the file comes from a guest: pyelftools can be led into
loops without an end and into any amount of memory, and only a process can be bounded in both.

A module is not linked: every section begins at address 0, and what refers to another is left to
relocations. So the sections are laid out first, in the order in which the kernel's loader does
it, and the debug sections relocated to that. After this an address is one number.
"""

from __future__ import annotations

import io
import json
import posixpath
import struct
import sys
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from elftools.dwarf.dwarfinfo import DebugSectionDescriptor, DwarfConfig, DWARFInfo
from elftools.elf.elffile import ELFFile

MAX_DEBUG_BYTES = 256 << 20
"""Of all debug sections, unpacked."""
MAX_INLINED = 64
"""How deep functions may be inlined into one another; compilers stop far before."""
MAX_LINES = 4096
"""Of one answer; an honest address has one to five."""
MAX_TEXT = 500
_PAGE = 4096
_GAP = 16 * _PAGE

_ALLOC, _EXEC, _COMPRESSED = 0x2, 0x4, 0x800
_ZLIB = 1
_SHN_LORESERVE = 0xFF00
# x86-64's relocations that assemblers put into debug sections: how many bytes they set.
_NONE, _PC32 = 0, 2
_ABSOLUTE = {1: "<Q", 10: "<I", 11: "<I"}  # R_X86_64_64, _32, _32S
_ASSEMBLER = 0x8001
"""DW_LANG_Mips_Assembler: what binutils call every assembly, which has lines alone."""
# Constructor arguments of DWARFInfo; the rest says nothing of lines or functions.
_DEBUG_SECTIONS = (
    *("info", "abbrev", "str", "line", "line_str", "ranges", "rnglists", "addr", "str_offsets"),
)
_WANTED = frozenset(f".debug_{name}" for name in _DEBUG_SECTIONS)
_OTHER_SECTIONS = (
    *("debug_aranges_sec", "debug_frame_sec", "eh_frame_sec", "debug_loc_sec"),
    *("debug_pubtypes_sec", "debug_pubnames_sec", "debug_loclists_sec", "debug_sup_sec"),
    *("gnu_debugaltlink_sec", "debug_types_sec"),
)


class UnresolvedError(Exception):
    """No line for an address; the message says why."""


@dataclass(frozen=True)
class Line:
    """A function, and a line in a file, named as the compiler was called."""

    function: str
    path: str
    """Absolute if the compiler's folder was; empty if it is not known."""
    line: int | None


@dataclass(frozen=True)
class _Section:
    name: str
    flags: int
    data: bytes
    size: int
    base: int
    """The address that it was laid out at; 0 if the loader does not load it."""

    @property
    def is_code(self) -> bool:
        return bool(self.flags & _ALLOC and self.flags & _EXEC)

    @property
    def is_init(self) -> bool:
        """Whether the loader keeps it apart, to free it after the module's start."""
        return self.name.startswith(".init")


@dataclass(frozen=True)
class _Symbol:
    name: str
    address: int
    size: int
    """What the file says."""


class ModuleFile:
    """One module. Raises anything on a damaged file, ``UnresolvedError`` where it says nothing."""

    def __init__(self, data: bytes) -> None:
        elf = ELFFile(io.BytesIO(data))
        if (elf["e_type"], elf["e_machine"]) != ("ET_REL", "EM_X86_64"):
            raise UnresolvedError("it is no object file for x86-64")
        self._sections = _lay_out(elf)
        self._values, self._symbols = _read_symbols(elf, self._sections)
        self._relocations = _find_relocations(elf)
        self._lines: dict[int, _LineTable] = {}

    # --- symbols -------------------------------------------------------------------------

    def find(self, symbol: str, offset: int, size: int) -> int:
        """The address of ``symbol+offset/size``; which symbol of that name, its size tells.

        The size is the one that the kernel prints: the way to the next symbol of the loaded
        module, or to the end of its code (find_kallsyms_symbol(), kernel/module). A name that
        begins with a dot is a section's, and then there is no size.
        """
        if symbol.startswith("."):
            return self._find_in_section(symbol, offset)
        named = [each for each in self._symbols if each.name == symbol]
        if not named:
            raise UnresolvedError("the module that was built has no such symbol")
        fitting = {each.address for each in named if size in self._spans(each)}
        if not fitting:
            raise UnresolvedError("the symbol is of another size in the module that was built")
        if len(fitting) > 1:
            raise UnresolvedError("the module has more than one symbol of this name and size")
        if offset > size:
            raise UnresolvedError("the address is not in the symbol")
        return fitting.pop() + offset

    def _find_in_section(self, name: str, offset: int) -> int:
        for section in self._sections:
            if section.name == name and section.is_code and offset <= section.size:
                return section.base + offset
        raise UnresolvedError("the module that was built has no code there")

    def _spans(self, symbol: _Symbol) -> set[int]:
        """The sizes that a kernel may print for it.

        The end of the code is that of its last section, or, as most kernels protect it from
        writing, of its last page (debug_align() up to 6.3, PAGE_ALIGN() since).
        """
        start, end = self._region(symbol.address)
        following = bisect_right(self._code_addresses, symbol.address)
        if following < len(self._code_addresses):
            after = self._code_addresses[following]
            if after < end:
                return {after - symbol.address}
        page_end = start + -(-(end - start) // _PAGE) * _PAGE
        return {end - symbol.address, page_end - symbol.address}

    def _region(self, address: int) -> tuple[int, int]:
        """Where the part of the loaded code begins and ends that ``address`` is in."""
        here = next(each for each in self._code if each.base <= address <= each.base + each.size)
        like = [each for each in self._code if each.is_init == here.is_init]
        return like[0].base, like[-1].base + like[-1].size

    @cached_property
    def _code(self) -> list[_Section]:
        """Sections of code by address."""
        found = [each for each in self._sections if each.is_code]
        return sorted(found, key=lambda each: each.base)

    @cached_property
    def _code_addresses(self) -> list[int]:
        return sorted({each.address for each in self._symbols})

    # --- lines ---------------------------------------------------------------------------

    def lines(self, address: int, symbol: str) -> tuple[Line, ...]:
        """The code at an address: the innermost function first, each inlined into the next."""
        unit = next((each for each in self._units if _contains(each, address)), None)
        if unit is None:
            raise UnresolvedError("the module's debug info does not cover it")
        table = self._line_table(unit)
        path, line = table.find(address)
        function = _find_function(unit, address)
        if function is None:
            if _number(unit, "language") != _ASSEMBLER or not path:
                raise UnresolvedError("the module's debug info has no function there")
            return (Line(symbol, path, line),)
        found = []
        for inlined in _find_inlined(function, address)[::-1]:
            found.append(Line(_name(inlined), path, line))
            path, line = table.path(_number(inlined, "call_file")), _number(inlined, "call_line")
        return (*found, Line(_name(function), path, line))

    @cached_property
    def _units(self) -> list[Any]:
        tops = (unit.get_top_DIE() for unit in self._dwarf.iter_CUs())
        return [top for top in tops if top.tag == "DW_TAG_compile_unit"]

    def _line_table(self, unit: Any) -> _LineTable:
        if unit.offset not in self._lines:
            program = self._dwarf.line_program_for_CU(unit.cu)
            if program is None:
                raise UnresolvedError("the module's debug info has no lines")
            folder = _text(unit.attributes.get("DW_AT_comp_dir"))
            self._lines[unit.offset] = _LineTable(program, folder)
        return self._lines[unit.offset]

    @cached_property
    def _dwarf(self) -> Any:
        numbers = {section.name: number for number, section in enumerate(self._sections)}
        if not numbers.keys() >= {".debug_info", ".debug_abbrev", ".debug_line"}:
            raise UnresolvedError("the module has no debug info")
        arguments: dict[str, Any] = dict.fromkeys(_OTHER_SECTIONS)
        left = MAX_DEBUG_BYTES
        for name in _DEBUG_SECTIONS:
            section = f".debug_{name}"
            data = self._debug_data(numbers[section], left) if section in numbers else None
            left -= len(data or b"")
            arguments[f"debug_{name}_sec"] = None if data is None else _descriptor(section, data)
        return DWARFInfo(DwarfConfig(True, "x64", 8), **arguments)

    def _debug_data(self, number: int, limit: int) -> bytes:
        """A debug section as if the module were linked."""
        section = self._sections[number]
        data = bytearray(_unpack(section, limit))
        for table in self._relocations.get(number, ()):
            _relocate(data, table, self._values)
        return bytes(data)


# --- ELF -------------------------------------------------------------------------------------


def _lay_out(elf: ELFFile) -> list[_Section]:
    """All sections, those of code at addresses of their own, as the loader orders them.

    layout_sections(), kernel/module: in the file's order, ``.init`` apart. What is loaded and
    is no code comes behind, so that nothing that a debug section refers to is at 0.
    """
    headers = [(each.name, each.header) for each in elf.iter_sections()]
    stream = elf.stream
    bases = [0] * len(headers)
    at = _GAP
    for wanted in (_is_core_code, _is_init_code, _is_other):
        for number, (name, header) in enumerate(headers):
            if wanted(name, header["sh_flags"]):
                at = _align(at, header["sh_addralign"])
                bases[number] = at
                at += header["sh_size"]
        at = _align(at, _PAGE) + _GAP
    sections = []
    for (name, header), base in zip(headers, bases, strict=True):
        data = b""
        if name in _WANTED and header["sh_type"] != "SHT_NOBITS":
            stream.seek(header["sh_offset"])
            data = stream.read(header["sh_size"])
        sections.append(_Section(name, header["sh_flags"], data, header["sh_size"], base))
    return sections


def _is_core_code(name: str, flags: int) -> bool:
    return bool(flags & _ALLOC and flags & _EXEC) and not name.startswith(".init")


def _is_init_code(name: str, flags: int) -> bool:
    return bool(flags & _ALLOC and flags & _EXEC) and name.startswith(".init")


def _is_other(_name: str, flags: int) -> bool:
    return bool(flags & _ALLOC and not flags & _EXEC)


def _align(at: int, to: int) -> int:
    return at if to <= 1 else -(-at // to) * to


def _read_symbols(elf: ELFFile, sections: Sequence[_Section]) -> tuple[list[int], list[_Symbol]]:
    """The value of each symbol by its number, and the named ones that are code."""
    table = elf.get_section_by_name(".symtab")
    if table is None:
        raise UnresolvedError("the module has no symbols")
    raw = table.data()
    names = elf.get_section(table["sh_link"]).data()
    values, code = [], []
    for entry in struct.iter_unpack("<IBBHQQ", raw[: len(raw) // 24 * 24]):
        label, _, _, index, value, size = entry
        known = 0 < index < min(len(sections), _SHN_LORESERVE)
        values.append(value + sections[index].base if known else value)
        if not known or not sections[index].is_code or value > sections[index].size:
            continue
        name = names[label : label + MAX_TEXT].split(b"\0", 1)[0].decode(errors="replace")
        if name and not name.startswith(".L"):  # is_mapping_symbol(), kernel/module
            code.append(_Symbol(name, values[-1], size))
    return values, code


def _find_relocations(elf: ELFFile) -> Mapping[int, list[bytes]]:
    """The relocations of debug sections, by the number of the section."""
    found: dict[int, list[bytes]] = {}
    for section in elf.iter_sections():
        if section["sh_type"] == "SHT_RELA" and section.name.startswith(".rela.debug_"):
            found.setdefault(section["sh_info"], []).append(section.data())
    return found


def _relocate(data: bytearray, table: bytes, values: Sequence[int]) -> None:
    """Apply relocations to a section that is itself at 0."""
    for offset, info, addend in struct.iter_unpack("<QQq", table[: len(table) // 24 * 24]):
        kind, value = info & 0xFFFFFFFF, values[info >> 32] + addend
        if kind in _ABSOLUTE:
            layout = _ABSOLUTE[kind]
        elif kind == _PC32:
            layout, value = "<I", value - offset
        elif kind == _NONE:
            continue
        else:
            raise UnresolvedError(f"the module's debug info has a relocation of kind {kind}")
        struct.pack_into(layout, data, offset, value % (1 << 8 * struct.calcsize(layout)))


def _unpack(section: _Section, limit: int) -> bytes:
    """A section's contents, uncompressed (CONFIG_DEBUG_INFO_COMPRESSED)."""
    data = section.data
    if section.flags & _COMPRESSED:
        kind, _, size, _ = struct.unpack_from("<IIQQ", data)
        if kind != _ZLIB:
            raise UnresolvedError("the module's debug info is compressed with something not zlib")
        data = zlib.decompressobj().decompress(data[24:], min(size, limit) + 1)
        if len(data) != size:
            raise UnresolvedError("the module's debug info is damaged, or too large")
    if len(data) > limit:
        raise UnresolvedError("the module's debug info is too large")
    return data


def _descriptor(name: str, data: bytes) -> DebugSectionDescriptor:
    return DebugSectionDescriptor(
        stream=io.BytesIO(data), name=name, global_offset=0, size=len(data), address=0
    )


# --- DWARF -----------------------------------------------------------------------------------


def _ranges(die: Any) -> Iterator[tuple[int, int]]:
    """The addresses of a unit, a function or a block; none where it has no code."""
    attributes = die.attributes
    low, high = attributes.get("DW_AT_low_pc"), attributes.get("DW_AT_high_pc")
    if low is not None and high is not None:
        absolute = high.form in ("DW_FORM_addr", "DW_FORM_addrx")
        yield low.value, high.value if absolute else low.value + high.value
        return
    ranges = attributes.get("DW_AT_ranges")
    lists = die.dwarfinfo.range_lists()
    if ranges is None or lists is None:
        return
    top = die.cu.get_top_DIE().attributes.get("DW_AT_low_pc")
    base = 0 if top is None else top.value
    for entry in lists.get_range_list_at_offset(ranges.value, die.cu):
        if hasattr(entry, "base_address"):
            base = entry.base_address
        else:
            shift = 0 if entry.is_absolute else base
            yield entry.begin_offset + shift, entry.end_offset + shift


def _contains(die: Any, address: int) -> bool:
    return any(low <= address < high for low, high in _ranges(die))


def _find_function(unit: Any, address: int) -> Any | None:
    return next(
        (
            die
            for die in unit.iter_children()
            if die.tag == "DW_TAG_subprogram" and _contains(die, address)
        ),
        None,
    )


def _find_inlined(function: Any, address: int) -> list[Any]:
    """What is inlined into a function at an address, the outermost first."""
    found: list[Any] = []
    todo = list(function.iter_children())
    while todo and len(found) < MAX_INLINED:
        die = todo.pop()
        if die.tag == "DW_TAG_lexical_block":
            todo += die.iter_children()
        elif die.tag == "DW_TAG_inlined_subroutine" and _contains(die, address):
            found.append(die)
            todo = list(die.iter_children())
    return found


def _name(die: Any) -> str:
    """A function's name: a copy of one, inlined or split, refers to the one with the name."""
    for _ in range(8):
        if "DW_AT_name" in die.attributes:
            return _text(die.attributes["DW_AT_name"])
        reference = next(
            (
                name
                for name in ("DW_AT_abstract_origin", "DW_AT_specification")
                if name in die.attributes
            ),
            None,
        )
        if reference is None:
            break
        die = die.get_DIE_from_attribute(reference)
    return "(unnamed)"


def _number(die: Any, name: str) -> int | None:
    attribute = die.attributes.get(f"DW_AT_{name}")
    return attribute.value if attribute is not None and isinstance(attribute.value, int) else None


def _text(attribute: Any) -> str:
    return "" if attribute is None else _decode(attribute.value)


def _decode(value: Any) -> str:
    return value[:MAX_TEXT].decode(errors="replace") if isinstance(value, bytes) else ""


@dataclass
class _Sequence:
    """A stretch of code, and the lines in it by address."""

    addresses: list[int] = field(default_factory=list)
    lines: list[tuple[int, int]] = field(default_factory=list)
    """File's number, line."""


class _LineTable:
    """The lines of one compilation unit."""

    def __init__(self, program: Any, folder: str) -> None:
        self._header = program.header
        self._folder = folder
        self._sequences: list[_Sequence] = []
        sequence = _Sequence()
        for entry in program.get_entries():
            state = entry.state
            if state is None:
                continue
            sequence.addresses.append(state.address)
            sequence.lines.append((state.file, state.line))
            if state.end_sequence:
                self._sequences.append(sequence)
                sequence = _Sequence()

    def find(self, address: int) -> tuple[str, int | None]:
        """Path and line at an address. Of several lines at one address the last one counts."""
        for each in self._sequences:
            at = bisect_right(each.addresses, address)
            if 0 < at < len(each.addresses):
                file, line = each.lines[at - 1]
                return self.path(file), line or None
        return "", None

    def path(self, number: int | None) -> str:
        """The path of a file of the table."""
        files = self._header.get("file_entry", ())
        # Before DWARF 5 both count from 1, and 0 is the unit's own folder.
        first = 0 if self._header["version"] >= 5 else 1
        if number is None or not 0 <= number - first < len(files):
            return ""
        entry = files[number - first]
        folders = self._header.get("include_directory", ())
        index = (entry.dir_index or 0) - first
        folder = _decode(folders[index]) if 0 <= index < len(folders) else ""
        path = posixpath.join(self._folder, folder, _decode(entry.name))
        return posixpath.normpath(path)[:MAX_TEXT]


# --- the process -----------------------------------------------------------------------------


def resolve(path: Path, addresses: Sequence[tuple[str, int, int, bool]]) -> list[dict[str, Any]]:
    """What is at each ``(symbol, offset, size, exact)``: ``lines``, or a ``note`` why none.

    A return address is looked up one byte before, in the call: the next instruction can be of
    another line, and behind a call that does not return it is of another function.
    """
    try:
        module = ModuleFile(path.read_bytes())
    except Exception as error:  # a guest made the file; pyelftools can trip in any way
        return [{"lines": [], "note": _why(error)} for _ in addresses]
    answers = []
    left = MAX_LINES
    for address in addresses:
        answer = _resolve_one(module, *address)
        if len(answer["lines"]) > left:
            answer = {"lines": [], "note": "the module's debug info has too many lines"}
        left -= len(answer["lines"])
        answers.append(answer)
    return answers


def _resolve_one(
    module: ModuleFile, symbol: str, offset: int, size: int, exact: bool
) -> dict[str, Any]:
    try:
        address = module.find(symbol, offset, size) - (not exact)
        lines = module.lines(address, symbol)
    except Exception as error:  # as above
        return {"lines": [], "note": _why(error)}
    return {"lines": [[each.function, each.path, each.line] for each in lines], "note": ""}


def _why(error: Exception) -> str:
    if isinstance(error, UnresolvedError):
        return str(error)
    return f"the module's debug info cannot be read: {error!r:.200}"


if __name__ == "__main__":
    json.dump(resolve(Path(sys.argv[1]), json.loads(sys.argv[2])), sys.stdout)
