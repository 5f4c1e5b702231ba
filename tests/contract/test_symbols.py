"""Lines of code for addresses, in files of the host's gcc, with binutils as the witness."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.adapters.dwarf import resolve
from orchestrator.adapters.kbuild import BuiltModule, load_sources
from orchestrator.adapters.symbols import Symbols
from orchestrator.foundation import process
from orchestrator.plan.frames import CodeAddress, SourceLocation
from orchestrator.plan.klog import find_findings, parse_log
from orchestrator.policy.decoding import decode_findings
from tests.elf import make_ko

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc here"),
    pytest.mark.skipif(shutil.which("addr2line") is None, reason="no binutils here"),
]

# As Kbuild calls gcc, as far as it matters here: sections, and functions that begin at 16.
FLAGS = (
    *("-O2", "-fno-pic", "-mcmodel=kernel", "-fno-asynchronous-unwind-tables"),
    *("-fcf-protection=none", "-falign-functions=16", "-fno-ipa-icf"),
)
# One column as in the kernel's own headers; what is marked is looked for by its mark.
SOURCES = {
    "kernel/include/list.h": """\
static inline __attribute__((always_inline)) void list_add(int **head, int *item)
{
	head[0] = item;
	*(volatile int *)head[1] = 1; /* in the list */
}
""",
    "m/deep/deeper.h": """\
static inline __attribute__((always_inline)) int deeper_still(int number)
{
	return *(volatile int *)(long)number; /* deepest */
}

static inline __attribute__((always_inline)) int deeper(int number)
{
	return deeper_still(number + 1) * 3; /* deeper */
}
""",
    "m/first.c": """\
#include "list.h"
#include "deep/deeper.h"

extern int out(const char *text, int number);
extern void alarm(const char *text) __attribute__((cold));
extern void give_up(const char *text) __attribute__((noreturn));

int *first_items[4];

static __attribute__((noinline)) int twin(int number)
{
	return out("first twin", number) + 1; /* first twin */
}

int first_work(int number)
{
	list_add(first_items, first_items[number & 3]); /* adds */
	if (number & 1) {
		alarm("odd"); /* cold */
		alarm("very odd");
		return -3;
	}
	return twin(number) + deeper(number); /* goes deeper */
}

__attribute__((section(".init.text"))) int first_init(void)
{
	if (out("init", 0))
		return -1;
	first_work(2); /* from init */
	give_up("init"); /* never back */
}

__attribute__((section(".exit.text"))) void first_exit(void)
{
	out("exit", deeper(1)); /* at exit */
}

int init_module(void) __attribute__((alias("first_init")));
""",
    "m/second.c": """\
extern int out(const char *text, int number);

static __attribute__((noinline)) int twin(int number)
{
	int i, sum = 0;

	for (i = 0; i < number; i++)
		sum += out("second twin", i); /* second twin */
	return sum;
}

int second_work(int number)
{
	return twin(number) + 2; /* calls its twin */
}
""",
    "m/stub.S": """\
	.text
	.globl	stub
	.type	stub, @function
stub:
	nop
	ud2 /* in assembly */
	.size	stub, . - stub
""",
}


def line_of(mark: str) -> tuple[str, int, str]:
    """File, number and text of the line with this mark."""
    return next(
        (name, number, line.strip())
        for name, text in SOURCES.items()
        for number, line in enumerate(text.splitlines(), 1)
        if f"/* {mark} */" in line
    )


def at(function: str, mark: str) -> SourceLocation:
    """What is to be found there."""
    name, number, text = line_of(mark)
    if name.startswith("m/"):
        return SourceLocation(function, name.removeprefix("m/"), number, text, own=True)
    return SourceLocation(function, "include/list.h", number)


Make = Callable[..., BuiltModule]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Builds the module with more flags; each combination once."""
    root = tmp_path_factory.mktemp("symbols")
    built: dict[tuple[str, ...], BuiltModule] = {}
    for name, text in SOURCES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    # The sources and a kernel's headers lie there, and the paths in the debug info say so.
    mapped = (
        f"-ffile-prefix-map={root}/kernel=/usr/src/linux-headers-6.1",
        f"-ffile-prefix-map={root}/m=/lab/src/m",
    )

    def make(*flags: str, here: bool = False) -> BuiltModule:
        """``here``: called in the module's folder with a plain name, as from 6.13 on."""
        key = (*flags, str(here))
        if key in built:
            return built[key]
        folder = root / f"out-{len(built)}"
        folder.mkdir()
        for name in ("first.c", "second.c", "stub.S"):
            source = name if here else str(root / "m" / name)
            debug = [flag for flag in flags if flag.startswith("-g")]
            argv = ["gcc", *(debug if name.endswith("S") else (*FLAGS, *flags)), *mapped]
            argv += [f"-I{root}/kernel/include", f"-I{root}/m", "-c", source]
            cwd = root / "m" if here else folder
            subprocess.run([*argv, "-o", str(folder / f"{name}.o")], check=True, cwd=cwd)
        path = folder / "m.ko"
        parts = [str(folder / f"{name}.o") for name in ("first.c", "second.c", "stub.S")]
        subprocess.run(["ld", "-r", "-o", str(path), *parts], check=True)
        built[key] = BuiltModule("m", path, "", (), sources=load_sources("m", root / "m"))
        return built[key]

    return make


@pytest.fixture(scope="module")
def module(make: Make) -> BuiltModule:
    return make("-gdwarf-5")


# --- what an address looks like in the log ---------------------------------------------------


def code_sections(path: Path) -> list[tuple[str, int]]:
    """Name and number of each section with code."""
    with path.open("rb") as file:
        return [
            (section.name, number)
            for number, section in enumerate(ELFFile(file).iter_sections())
            if section["sh_flags"] & 4 and section["sh_size"]
        ]


def functions(path: Path) -> list[tuple[str, str, int, int]]:
    """Each symbol of code: name, section, where it begins there, and its size in the file."""
    with path.open("rb") as file:
        elf = ELFFile(file)
        table = elf.get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        names = {number: name for name, number in code_sections(path)}
        return [
            (symbol.name, names[symbol["st_shndx"]], symbol["st_value"], symbol["st_size"])
            for symbol in table.iter_symbols()
            if symbol.name and symbol["st_shndx"] in names
        ]


def span(path: Path, symbol: str, number: int = 0) -> int:
    """What a kernel prints after the slash: the way to the next symbol, or to the page's end.

    Counted as its loader does: sections of code one behind the other, those of ``.init`` apart.
    """
    rows = functions(path)
    name, section, *_ = [row for row in rows if row[0] == symbol][number]
    bases: dict[str, int] = {}
    end = 0
    with path.open("rb") as file:
        for each in ELFFile(file).iter_sections():
            is_code = each["sh_flags"] & 4
            if is_code and each.name.startswith(".init") == section.startswith(".init"):
                bases[each.name] = -(-end // each["sh_addralign"]) * each["sh_addralign"]
                end = bases[each.name] + each["sh_size"]
    starts = sorted({bases[row[1]] + row[2] for row in rows if row[1] in bases})
    here = bases[section] + [row for row in rows if row[0] == name][number][2]
    page_end = -(-end // 4096) * 4096
    return min((start for start in starts if start > here), default=page_end) - here


def disassemble(path: Path, symbol: str) -> list[tuple[int, int, str]]:
    """The instructions of a function with relocations: offset in it, length, text."""
    argv = ["objdump", "-dr", "--no-show-raw-insn", "-w", f"--disassemble={symbol}", str(path)]
    text = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    rows = [line.split(":", 1) for line in text.splitlines() if line.startswith("  ")]
    found = [(int(offset, 16), code.strip()) for offset, code in rows]
    begin = found[0][0]
    ends = [offset for offset, _ in found[1:]]
    size = next(row[3] for row in functions(path) if row[0] == symbol)
    ends.append(begin + size)
    return [
        (offset - begin, end - offset, code)
        for (offset, code), end in zip(found, ends, strict=True)
    ]


def after_call(path: Path, symbol: str, called: str) -> int:
    """The offset of the address that a call returns to."""
    return next(
        offset + length
        for offset, length, code in disassemble(path, symbol)
        if "call" in code and called in code
    )


def resolved(module: BuiltModule, *addresses: CodeAddress) -> list[tuple[SourceLocation, ...]]:
    found = Symbols().resolve(module, addresses)
    assert [note for _, note in found.values()] == [""] * len(addresses)
    return [found[each][0] for each in addresses]


def note_of(module: BuiltModule, address: CodeAddress) -> str:
    code, note = Symbols().resolve(module, [address])[address]
    assert code == ()
    return note


# --- the whole file against addr2line --------------------------------------------------------

Chain = list[tuple[str, str]]


def witness(path: Path, section: str, offsets: Sequence[int]) -> list[Chain]:
    """What addr2line says of each offset in a section: functions with file:line."""
    argv = ["addr2line", "-a", "-i", "-f", "-e", str(path), "-j", section, *map(hex, offsets)]
    text = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    chains = []
    for block in text.split("0x")[1:]:
        lines = block.splitlines()[1:]
        places = [place.split(" (")[0].rsplit("/", 1)[-1] for place in lines[1::2]]
        chains.append(list(zip(lines[::2], places, strict=True)))
    return chains


@pytest.mark.parametrize(
    "flags",
    [
        ("-gdwarf-4",),
        ("-gdwarf-5",),
        ("-gdwarf-5", "-gz=zlib"),
        ("-gdwarf-5", "-Os"),
        ("-gdwarf-4", "-ffunction-sections"),
    ],
    ids=" ".join,
)
def test_every_byte_of_code_is_where_addr2line_sees_it(make: Make, flags: tuple[str, ...]) -> None:
    path = make(*flags).path
    checked = 0
    for name, section, start, size in functions(path):
        if name in ("twin", "stub"):
            continue  # twins have a test of their own; of assembly addr2line names no function
        printed = span(path, name)
        answers = resolve(path, [(name, offset, printed, True) for offset in range(size)])
        seen = [
            [(function, f"{where.rsplit('/', 1)[-1]}:{line}") for function, where, line in row]
            for row in (answer["lines"] for answer in answers)
        ]
        assert seen == witness(path, section, range(start, start + size)), name
        checked += size
    assert checked > 150


# --- what a report names ---------------------------------------------------------------------


@pytest.mark.parametrize("flags", [("-gdwarf-4",), ("-gdwarf-5",), ("-gdwarf-5", "-gz=zlib")])
def test_a_fault_in_what_was_inlined_twice(make: Make, flags: tuple[str, ...]) -> None:
    module = make(*flags)
    name, number, _ = line_of("deepest")
    size = span(module.path, "first_work")
    everywhere = [CodeAddress("first_work", at, size, "m", True) for at in range(size)]
    chains = [code for code, _ in Symbols().resolve(module, everywhere).values()]
    assert (
        at("deeper_still", "deepest"),
        at("deeper", "deeper"),
        at("first_work", "goes deeper"),
    ) in chains
    assert (at("list_add", "in the list"), at("first_work", "adds")) in chains
    assert (name, number) == ("m/deep/deeper.h", 3)


def test_a_return_address_is_of_the_line_that_called(module: BuiltModule) -> None:
    """Behind a call that does not return there is another function, or nothing."""
    path = module.path
    offset = after_call(path, "first_init", "give_up")
    size = next(row[3] for row in functions(path) if row[0] == "first_init")
    assert offset == size, "the call is the last of its function"
    called = CodeAddress("first_init", offset, 4096, "m")
    back = CodeAddress("first_init", after_call(path, "first_init", "first_work"), 4096, "m")
    assert resolved(module, called, back) == [
        (at("first_init", "never back"),),
        (at("first_init", "from init"),),
    ]


def test_sections_are_told_apart(module: BuiltModule) -> None:
    """Every section begins at 0, so the same offset is in all of them."""
    path = module.path
    exit_size = span(path, "first_exit")
    addresses = [
        CodeAddress("first_init", after_call(path, "first_init", "first_work"), 4096, "m"),
        CodeAddress("first_exit", 1, exit_size, "m", exact=True),
    ]
    init, leave = resolved(module, *addresses)
    assert init[-1].function == "first_init"
    assert leave[-1] == replace(
        at("first_exit", "at exit"), line=leave[-1].line, text=leave[-1].text
    )
    assert leave[-1].function == "first_exit"


def test_an_alias_is_the_function_itself(module: BuiltModule) -> None:
    offset = after_call(module.path, "first_init", "first_work")
    (code,) = resolved(module, CodeAddress("init_module", offset, 4096, "m"))
    assert code == (at("first_init", "from init"),)


def test_the_part_that_is_seldom_run(module: BuiltModule) -> None:
    path = module.path
    assert "first_work.cold" in {row[0] for row in functions(path)}
    offset = after_call(path, "first_work.cold", "alarm")
    size = span(path, "first_work.cold")
    (found,) = resolved(module, CodeAddress("first_work.cold", offset, size, "m"))
    assert found[0] == at("first_work", "cold")
    assert {each.function for each in found} == {"first_work"}  # gcc inlines a part of it in it


def test_two_functions_of_one_name_are_told_by_their_sizes(module: BuiltModule) -> None:
    first, second = (span(module.path, "twin", number) for number in (0, 1))
    assert first != second
    one = CodeAddress("twin", 1, first, "m")
    other = CodeAddress("twin", 1, second, "m")
    assert [code[-1].file for code in resolved(module, one, other)] == ["first.c", "second.c"]


def test_two_functions_of_one_name_and_size_are_not_guessed_at(
    tmp_path: Path, module: BuiltModule
) -> None:
    parts = []
    for name in ("a", "b"):
        source = tmp_path / f"{name}.c"
        source.write_text(
            "extern int out(int);\n"
            "static __attribute__((noinline)) int twin(int n) { return out(n) + 1; }\n"
            f"int {name}(int n) {{ return twin(n) + 1; }}\n"
        )
        parts.append(str(tmp_path / f"{name}.o"))
        subprocess.run(["gcc", *FLAGS, "-g", "-c", str(source), "-o", parts[-1]], check=True)
    path = tmp_path / "m.ko"
    subprocess.run(["ld", "-r", "-o", str(path), *parts], check=True)
    size = span(path, "twin")
    assert size == span(path, "twin", 1)
    note = note_of(replace(module, path=path), CodeAddress("twin", 4, size, "m"))
    assert note == "the module has more than one symbol of this name and size"


def test_assembly_has_lines_and_the_symbol_for_a_name(module: BuiltModule) -> None:
    path = module.path
    size = span(path, "stub")
    (code,) = resolved(module, CodeAddress("stub", 1, size, "m", exact=True))
    assert code == (at("stub", "in assembly"),)


def test_a_module_built_in_its_own_folder(make: Make) -> None:
    """From 6.13 on the compiler is called there, with names that are relative."""
    module = make("-gdwarf-5", here=True)
    offset = after_call(module.path, "first_init", "first_work")
    (code,) = resolved(module, CodeAddress("first_init", offset, 4096, "m"))
    assert code == (at("first_init", "from init"),)


def test_a_report_with_its_code(module: BuiltModule) -> None:
    """From the kernel's log to the line that the module made its mistake in."""
    path = module.path
    fault = next(
        offset
        for offset, _, _ in disassemble(path, "first_work")
        if resolve(path, [("first_work", offset, span(path, "first_work"), True)])[0]["lines"][0][0]
        == "list_add"
    )
    inside = CodeAddress("first_work", fault, span(path, "first_work"), "m")
    caller = CodeAddress("first_init", after_call(path, "first_init", "first_work"), 4096, "m")
    log = f"""\
[    2.000000] BUG: kernel NULL pointer dereference, address: 0000000000000000
[    2.000000] Oops: 0002 [#1] PREEMPT SMP NOPTI
[    2.000000] RIP: 0010:{inside}
[    2.000000] Call Trace:
[    2.000000]  {caller}
[    2.000000]  ext4_fill+0x1/0x20 [ext4]
[    2.000000]  do_one_initcall+0x59/0x220
[    2.000000] ---[ end trace 0000000000000000 ]---
"""
    found = find_findings(parse_log(log.encode()))
    (finding,) = decode_findings(found, {"m": module}, Symbols())
    assert finding.culprit == at("first_work", "adds")
    first, second, *others = finding.frames
    assert first.code[0].file == "include/list.h"
    assert second.code == (at("first_init", "from init"),)
    assert [(frame.code, frame.note) for frame in others] == [((), ""), ((), "")]
    assert replace(finding, frames=found[0].frames) == found[0]


# --- what is not known -----------------------------------------------------------------------


def test_a_module_without_debug_info(make: Make) -> None:
    module = make("-g0")
    size = span(module.path, "first_work")
    assert note_of(module, CodeAddress("first_work", 4, size, "m")) == (
        "the module has no debug info"
    )


def test_a_stripped_module(module: BuiltModule, tmp_path: Path) -> None:
    path = tmp_path / "m.ko"
    subprocess.run(["strip", "-o", str(path), str(module.path)], check=True)
    note = note_of(replace(module, path=path), CodeAddress("first_work", 4, 0x40, "m"))
    assert note in ("the module has no symbols", "the module that was built has no such symbol")


@pytest.mark.parametrize(
    ("symbol", "offset", "grown", "note"),
    [
        ("nowhere", 4, 0, "the module that was built has no such symbol"),
        ("first_work", 4, 16, "the symbol is of another size in the module that was built"),
        ("first_work", 0x4000, 0, "the address is not in the symbol"),
        ("first_items", 0, 0, "the module that was built has no such symbol"),
    ],
)
def test_an_address_that_the_module_does_not_have(
    module: BuiltModule, symbol: str, offset: int, grown: int, note: str
) -> None:
    size = span(module.path, "first_work") + grown
    assert note_of(module, CodeAddress(symbol, offset, size, "m")) == note


@pytest.mark.parametrize("content", [b"", b"rubbish", b"\x7fELF", make_ko("vermagic=6.1 ")])
def test_no_module_at_all(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.ko"
    path.write_bytes(content)
    assert note_of(BuiltModule("m", path, "", ()), CodeAddress("f", 1, 2, "m"))


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    module = BuiltModule("m", tmp_path / "none.ko", "", ())
    assert "cannot be read" in note_of(module, CodeAddress("f", 1, 2, "m"))


def test_another_machines_object(tmp_path: Path) -> None:
    content = bytearray(make_ko("vermagic=6.1 "))
    content[18] = 183  # EM_AARCH64
    (tmp_path / "m.ko").write_bytes(content)
    module = BuiltModule("m", tmp_path / "m.ko", "", ())
    assert note_of(module, CodeAddress("f", 1, 2, "m")) == "it is no object file for x86-64"


# --- hostile files ---------------------------------------------------------------------------


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_damage_gives_lines_or_a_note(
    data: st.DataObject, module: BuiltModule, tmp_path: Path
) -> None:
    """Damage where it is read; what it leads to in time and memory is the next tests'."""
    content = bytearray(module.path.read_bytes())
    with module.path.open("rb") as file:
        debug = [
            section.header
            for section in ELFFile(file).iter_sections()
            if section.name.startswith((".debug", ".rela.debug", ".symtab", ".strtab"))
        ]
    for _ in range(data.draw(st.integers(1, 8))):
        section = data.draw(st.sampled_from(debug))
        offset = data.draw(st.integers(0, max(0, section["sh_size"] - 1)))
        content[section["sh_offset"] + offset] = data.draw(st.integers(0, 255))
    path = tmp_path / "m.ko"
    path.write_bytes(content[: data.draw(st.sampled_from((len(content), len(content) * 3 // 4)))])
    size = span(module.path, "first_work")
    address = CodeAddress("first_work", 4, size, "m")
    code, note = Symbols(seconds=20, memory_mib=512).resolve(replace(module, path=path), [address])[
        address
    ]
    assert bool(code) != bool(note)


def sibling_loop(module: BuiltModule) -> bytes:
    """The module with a tree of debug info in which a sibling is its own next one."""
    content = bytearray(module.path.read_bytes())
    with module.path.open("rb") as file:
        elf = ELFFile(file)
        section = elf.get_section_by_name(".debug_info")
        assert section is not None
        start = section["sh_offset"]
        unit = next(iter(elf.get_dwarf_info().iter_CUs()))
        for die in unit.get_top_DIE().iter_children():
            if "DW_AT_sibling" in die.attributes and die.tag != "DW_TAG_subprogram":
                sibling = die.attributes["DW_AT_sibling"]
                assert sibling.form == "DW_FORM_ref4"
                where = start + sibling.offset
                content[where : where + 4] = (die.offset - unit.cu_offset).to_bytes(4, "little")
                return bytes(content)
    raise AssertionError("no DW_AT_sibling")


def test_debug_info_without_an_end_is_given_up(module: BuiltModule, tmp_path: Path) -> None:
    path = tmp_path / "m.ko"
    path.write_bytes(sibling_loop(module))
    size = span(module.path, "first_work")
    started = time.monotonic()
    symbols = Symbols(seconds=3)
    address = CodeAddress("first_work", 4, size, "m")
    _, note = symbols.resolve(replace(module, path=path), [address])[address]
    assert "cannot be read" in note
    assert 3 <= time.monotonic() - started < 60


def test_a_file_that_needs_more_memory_than_allowed(module: BuiltModule, tmp_path: Path) -> None:
    path = tmp_path / "m.ko"
    shutil.copy(module.path, path)
    os.truncate(path, 1 << 30)
    symbols = Symbols(memory_mib=256)
    address = CodeAddress("first_work", 4, 5, "m")
    _, note = symbols.resolve(replace(module, path=path), [address])[address]
    assert "MemoryError" in note


def test_what_is_known_of_a_file_is_not_asked_again(module: BuiltModule, tmp_path: Path) -> None:
    path = tmp_path / "m.ko"
    shutil.copy(module.path, path)
    here = replace(module, path=path)
    address = CodeAddress("first_init", after_call(path, "first_init", "first_work"), 4096, "m")
    symbols = Symbols()
    before = symbols.resolve(here, [address])
    path.unlink()
    assert symbols.resolve(here, [address]) == before
    assert before[address][0] == (at("first_init", "from init"),)


def test_a_run_that_is_being_ended_waits_for_no_line(module: BuiltModule) -> None:
    process.stop_all()
    address = CodeAddress("first_init", 4, 4096, "m")
    code, note = Symbols().resolve(module, [address])[address]
    assert code == ()
    assert "interrupted" in note


def test_the_users_folder_is_no_place_to_import_from(
    module: BuiltModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('imported from the current folder')\n")
    monkeypatch.chdir(tmp_path)
    offset = after_call(module.path, "first_init", "first_work")
    (code,) = resolved(module, CodeAddress("first_init", offset, 4096, "m"))
    assert code == (at("first_init", "from init"),)


# --- sections --------------------------------------------------------------------------------


def offset_in_section(path: Path, symbol: str) -> int:
    with path.open("rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        found = table.get_symbol_by_name(symbol)
        assert found is not None
        return int(found[0]["st_value"])


def test_an_address_by_its_section_is_the_same(module: BuiltModule) -> None:
    """Of a module that is gone only the addresses of its sections are known."""
    offset = after_call(module.path, "first_init", "first_work")
    start = offset_in_section(module.path, "first_init")
    by_symbol = CodeAddress("first_init", offset, 4096, "m")
    by_section = CodeAddress(".init.text", start + offset, 0, "m")
    assert resolved(module, by_section) == resolved(module, by_symbol)


@pytest.mark.parametrize("name", [".text", ".data", ".nowhere"])
def test_a_section_that_does_not_reach_so_far(module: BuiltModule, name: str) -> None:
    address = CodeAddress(name, 1 << 20, 0, "m")
    assert note_of(module, address) == "the module that was built has no code there"


# --- the sources -----------------------------------------------------------------------------


def text_of(module: BuiltModule) -> SourceLocation:
    offset = after_call(module.path, "first_init", "first_work")
    (code,) = resolved(module, CodeAddress("first_init", offset, 4096, "m"))
    return code[0]


def test_a_line_is_told_as_it_was_built(tmp_path: Path, module: BuiltModule) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    path = folder / "first.c"
    path.write_text(SOURCES["m/first.c"])
    built = replace(module, sources=load_sources("m", folder))
    path.write_text("/* one line more */\n" + SOURCES["m/first.c"])
    assert text_of(built) == at("first_init", "from init")
    path.unlink()
    assert text_of(built) == at("first_init", "from init")


def test_a_file_that_was_not_among_the_sources_has_no_text(module: BuiltModule) -> None:
    assert module.sources is not None
    bare = replace(module.sources, archive=load_sources("m", Path(__file__).parent).archive)
    found = text_of(replace(module, sources=bare))
    assert found == replace(at("first_init", "from init"), text="")


def test_a_module_whose_sources_are_not_known(module: BuiltModule) -> None:
    found = text_of(replace(module, sources=None))
    assert (found.function, found.line) == ("first_init", line_of("from init")[1])
    assert (found.text, found.own) == ("", False)


@pytest.mark.parametrize(
    "spelling",
    ["/lab/src/m/../../../etc/passwd", "../../etc/passwd", "/etc/passwd", "/lab/src/m//etc/passwd"],
)
def test_a_path_that_leads_elsewhere_reads_nothing(tmp_path: Path, spelling: str) -> None:
    """The name of a file in debug info is what the guest says it is."""
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "m.c").write_text("int f(void);\n")
    (tmp_path / "evil.c").write_text(
        f'# 1 "{spelling}"\nextern int out(void);\nint f(void) {{ return out() + 1; }}\n'
    )
    path = tmp_path / "m.ko"
    argv = ["gcc", *FLAGS, "-g", "-c", str(tmp_path / "evil.c"), "-o", str(path)]
    subprocess.run(argv, check=True)
    module = BuiltModule("m", path, "", (), sources=load_sources("m", folder))
    offset = after_call(path, "f", "out")
    (code,) = resolved(module, CodeAddress("f", offset, 4096, "m"))
    assert [(each.function, each.text) for each in code] == [("f", "")]
