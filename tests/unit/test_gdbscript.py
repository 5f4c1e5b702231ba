"""What gdb is told: scripts from values, and the kernel's symbols as a file that tools can read."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from orchestrator.adapters.kbuild import BuiltModule
from orchestrator.foundation.errors import UsageError
from orchestrator.plan.gdbscript import LoadedModule, parse_sections, render_script
from orchestrator.plan.symbolfile import parse_kallsyms, render_symbol_file
from orchestrator.policy.debugging import load_order

# As 6.1 prints them, with modules loaded; the last lines as a hostile guest might.
KALLSYMS = b"""\
0000000000000000 A fixed_percpu_data
0000000000002000 A cpu_debug_store
ffffffff81000000 T _stext
ffffffff81000000 T _text
ffffffff81000040 t local_one
ffffffff81000100 T vfs_read
ffffffff81000300 W weak_one
ffffffff81400000 T _etext
ffffffff82000000 D jiffies
ffffffff82000010 b static_thing
ffffffff83000000 T __init_begin
ffffffff83000100 t start_of_day
ffffffff83100000 R __init_end
ffffffffc0000000 t overlay_open\t[overlay]
ffffffffc0000080 d overlay_ops\t[overlay]
ffffffffc0298000 t procfs1_read\t[procfs1]
ffffffff81000200 T evil name
ffffffff81000200 T evil;name
ffffffff81000200 T \x1b[2J
ffffffff8100020 T short
nonsense
"""


def test_symbols_are_those_that_stay_in_the_kernels_half() -> None:
    symbols = parse_kallsyms(KALLSYMS, {"procfs1"})
    assert [(f"{each.address:x}", each.name) for each in symbols] == [
        ("ffffffff81000000", "_stext"),
        ("ffffffff81000000", "_text"),
        ("ffffffff81000040", "local_one"),
        ("ffffffff81000100", "vfs_read"),
        ("ffffffff81000300", "weak_one"),
        ("ffffffff81400000", "_etext"),
        ("ffffffff82000000", "jiffies"),
        ("ffffffff82000010", "static_thing"),
        ("ffffffff83100000", "__init_end"),
        ("ffffffffc0000000", "overlay_open"),
        ("ffffffffc0000080", "overlay_ops"),
    ]


def test_a_kernel_that_hides_its_addresses_has_no_symbols() -> None:
    assert parse_kallsyms(b"0000000000000000 T _stext\n0000000000000000 T vfs_read\n") == ()
    assert parse_kallsyms(b"") == ()


@pytest.fixture
def symbol_file(tmp_path: Path) -> Path:
    path = tmp_path / "kernel.sym"
    path.write_bytes(render_symbol_file(parse_kallsyms(KALLSYMS, {"procfs1"})))
    return path


def output_of(*argv: str | Path) -> str:
    if shutil.which(str(argv[0])) is None:
        pytest.skip(f"{argv[0]} is not installed here")
    done = subprocess.run([*map(str, argv)], capture_output=True, text=True, check=True, timeout=60)
    assert "arning" not in done.stderr + done.stdout, done.stderr
    return done.stdout


def test_nm_reads_them(symbol_file: Path) -> None:
    lines = set(output_of("nm", symbol_file).splitlines())
    assert {
        "ffffffff81000040 t local_one",
        "ffffffff81000100 T vfs_read",
        "ffffffff82000000 A jiffies",
        "ffffffff82000010 a static_thing",
        "ffffffffc0000000 t overlay_open",
    } <= lines
    assert len(lines) == 11


def test_readelf_finds_nothing_wrong(symbol_file: Path) -> None:
    shown = output_of("readelf", "-W", "-h", "-S", "-s", symbol_file)
    assert ".modules" in shown
    assert "512 FUNC    GLOBAL DEFAULT    1 vfs_read" in shown


def test_gdb_names_what_is_at_an_address(symbol_file: Path) -> None:
    words = ("-ex", "info symbol 0xffffffff81000105", "-ex", "info address overlay_open")
    shown = output_of("gdb", "-nx", "-batch", *words, symbol_file)
    assert "vfs_read + 5 in section .text" in shown
    assert "0xffffffffc0000000" in shown


def test_no_symbols_are_a_file_too() -> None:
    assert render_symbol_file(()).startswith(b"\x7fELF")


SECTIONS = b"""\
/sys/module/look/sections/.text:0xffffffffc0298000
/sys/module/look/sections/.text.unlikely:0xffffffffc0298095
/sys/module/look/sections/.init.text:0xffffffffc02a0000
/sys/module/look/sections/.note.gnu.build-id:0xffffffffc02a1000
/sys/module/look/sections/.symtab:0xffffffffc02a2000
/sys/module/look/sections/.bss:0x0000000000000000
/sys/module/other/sections/__param:0xffffffffc02b0000
/sys/module/look/sections/.te xt:0xffffffffc02c0000
/sys/module/look/sections/.data:0xffffffffc02d0000; shell rm
/sys/module/../sections/.data:0xffffffffc02d0000
"""


def test_sections_are_those_that_stay_and_have_a_place() -> None:
    assert parse_sections(SECTIONS) == {
        "look": {".text": 0xFFFFFFFFC0298000, ".text.unlikely": 0xFFFFFFFFC0298095},
        "other": {"__param": 0xFFFFFFFFC02B0000},
    }


def test_a_script_has_symbols_sources_modules_and_the_target() -> None:
    places = parse_sections(SECTIONS)
    text = render_script(
        kernel=Path("/run dir/kernel.sym"),
        modules=[LoadedModule(name, Path(f"/m/{name}.ko"), places[name]) for name in places],
        sources={"/lab/src/look": Path('/home/a "b"\\c')},
        socket=Path("/run dir/gdb"),
    )
    assert text.splitlines() == [
        "set confirm off",
        "set architecture i386:x86-64",
        'symbol-file "/run dir/kernel.sym"',
        'set substitute-path "/lab/src/look" "/home/a \\"b\\"\\\\c"',
        'add-symbol-file "/m/look.ko" 0xffffffffc0298000 -s .text.unlikely 0xffffffffc0298095',
        'add-symbol-file "/m/other.ko" -s __param 0xffffffffc02b0000',
        "target remote /run dir/gdb",
    ]


def test_without_the_kernels_symbols_there_is_no_line_for_them() -> None:
    text = render_script(kernel=None, modules=(), sources={}, socket=Path("/s"))
    assert "symbol-file" not in text


@pytest.mark.parametrize("name", ["a\nshell rm", "a\x1b"])
def test_a_path_that_would_end_a_line_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="gdb takes no such path"):
        render_script(kernel=None, modules=(), sources={"/x": Path(name)}, socket=Path("/s"))


def test_gdb_takes_the_paths_of_a_script_as_they_are(tmp_path: Path) -> None:
    odd = tmp_path / 'a "b" c\\d'
    odd.mkdir()
    (odd / "k.sym").write_bytes(render_symbol_file(parse_kallsyms(KALLSYMS)))
    text = render_script(
        kernel=odd / "k.sym", modules=(), sources={"/lab/src/x": odd}, socket=odd / "none"
    )
    script = tmp_path / "script"
    script.write_text(text.replace("target remote", "# target remote"))
    words = ("-x", script, "-ex", "show substitute-path", "-ex", "info symbol vfs_read")
    shown = output_of("gdb", "-nx", "-batch", *words)
    assert f"`/lab/src/x' -> `{odd}'" in shown
    assert "vfs_read in section .text" in shown


def test_modules_are_loaded_after_those_that_they_need() -> None:
    needs = {"user": ("core", "crc32c"), "core": ("base",), "base": (), "ring": ("gnir",)}
    needs["gnir"] = ("ring",)
    modules = {
        name: BuiltModule(name, Path(f"/{name}.ko"), "6.1 SMP", depends)
        for name, depends in needs.items()
    }
    assert [each.name for each in load_order(modules)] == ["base", "core", "user", "gnir", "ring"]
