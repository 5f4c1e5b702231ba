"""The code addresses in reports of the kernel: in recorded logs, and in forms that they lack."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.plan.frames import (
    MAX_FRAMES,
    CodeAddress,
    Frame,
    LoadedCode,
    SourceLocation,
    find_bare_frames,
    find_culprit,
    locate_code,
    parse_frames,
)
from orchestrator.plan.klog import Finding, find_findings, parse_log

DATA = Path(__file__).parents[1] / "data" / "klog"
ADDRESS = CodeAddress("f", 0x12, 0x34, "m")
EXACT = CodeAddress("f", 0x12, 0x34, "m", exact=True)


def findings_in(name: str) -> tuple[Finding, ...]:
    return find_findings(parse_log((DATA / name).read_bytes()))


def of_module(finding: Finding) -> list[str]:
    """Its frames in the module: ``=`` before an exact one, ``?`` before an unreliable one."""
    return [
        ("=" if frame.address.exact else "") + ("" if frame.reliable else "? ") + str(frame.address)
        for frame in finding.frames
        if frame.address.module
    ]


# --- recorded logs ---------------------------------------------------------------------------

# Log, which of its reports, and the frames in the module that made it.
RECORDED = [
    (
        "null-4.15.log",
        0,
        [
            "=splat_null.isra.0+0xd/0x1e [splat]",  # IP:
            "=splat_null.isra.0+0xd/0x1e [splat]",  # RIP: 0010:
            "? splat_init+0x29/0x1000 [splat]",
            "=splat_null.isra.0+0xd/0x1e [splat]",  # RIP: ... RSP: ...
        ],
    ),
    (
        "null-5.4.log",
        0,
        [
            "=splat_null.isra.0+0xd/0x18 [splat]",
            "=? splat_null.isra.0+0xd/0x18 [splat]",
            "? splat_init+0x29/0x1000 [splat]",
            "=splat_null.isra.0+0xd/0x18 [splat]",
        ],
    ),
    (
        "null-6.1.log",
        0,
        [
            "=splat_null.isra.0+0xc/0xcd7 [splat]",
            "splat_init+0x26/0x1000 [splat]",
            "=splat_null.isra.0+0xc/0xcd7 [splat]",
        ],
    ),
    (
        "null-7.3.log",
        0,
        [
            "=splat_null.isra.0+0xc/0x20 [splat]",
            "splat_init+0x2a/0xff0 [splat]",
            "? __pfx_init_module+0x10/0x10 [splat]",
            "=splat_null.isra.0+0xc/0x20 [splat]",
        ],
    ),
    (
        "soft-4.15.log",
        0,
        ["=splat_init+0x11f/0x1000 [splat]", "=splat_init+0x11f/0x1000 [splat]"],
    ),
    (  # the warning names the start of what WARN() does, the register where it trapped
        "soft-7.3.log",
        1,
        [
            "=splat_init+0x150/0xff0 [splat]",
            "=splat_init+0x157/0xff0 [splat]",
            "? __pfx_init_module+0x10/0x10 [splat]",
        ],
    ),
    (  # the kernel trapped, the module only called it
        "soft-6.1.log",
        3,
        ["splat_dupproc.isra.0+0x21/0x50 [splat]", "splat_init+0x1ca/0x1000 [splat]"],
    ),
    (
        "kfence-7.3.log",
        0,
        [
            "=splat_uaf.isra.0+0x39/0x50 [splat]",
            "=splat_uaf.isra.0+0x39/0x50 [splat]",
            "splat_init+0x25b/0xff0 [splat]",
            "splat_uaf.isra.0+0x29/0x50 [splat]",  # allocated
            "splat_init+0x25b/0xff0 [splat]",
            "splat_uaf.isra.0+0x34/0x50 [splat]",  # freed
            "splat_init+0x25b/0xff0 [splat]",
        ],
    ),
]


@pytest.mark.parametrize(("log", "number", "frames"), RECORDED)
def test_frames_of_a_recorded_report(log: str, number: int, frames: list[str]) -> None:
    assert of_module(findings_in(log)[number]) == frames


@pytest.mark.parametrize(
    "log",
    sorted(
        path.name
        for path in DATA.glob("*.log")
        if path.name.split("-")[0] in {"null", "gpf", "divide", "bug", "deep", "call", "list"}
    ),
)
def test_the_first_frame_of_a_fault_is_exact(log: str) -> None:
    finding = findings_in(log)[0]
    registers = [
        frame for frame in finding.frames if finding.lines[frame.line].lstrip().startswith("RIP")
    ]
    assert registers or log.startswith("call"), "a call through NULL has no symbol in RIP"
    assert all(frame.address.exact and frame.reliable for frame in registers)


def test_every_module_frame_in_the_recorded_logs_is_found() -> None:
    """Counted in another way: by what each ends with."""
    for path in DATA.glob("*.log"):
        for finding in find_findings(parse_log(path.read_bytes())):
            ends = sum(len(_NAMED.findall(line)) for line in finding.lines)
            assert len(of_module(finding)) == ends, path.name


_NAMED = re.compile(r"/0x[0-9a-f]+ \[\w+\]")


@pytest.mark.parametrize(
    ("log", "asides"),
    [
        # where the lock was taken, before the trace of where the kernel slept
        ("mightsleep-6.1.log", 1),
        ("null-6.1.log", 0),
    ],
)
def test_where_a_lock_was_taken_is_aside(log: str, asides: int) -> None:
    (finding,) = findings_in(log)
    assert sum(frame.aside for frame in finding.frames if frame.address.module) == asides


def located(line: int) -> SourceLocation:
    return SourceLocation("f", "f.c", line, own=True)


def test_what_is_aside_is_blamed_only_if_there_is_no_other() -> None:
    address = CodeAddress("f", 1, 2, "m")
    lock = Frame(address, 0, code=(located(3),), aside=True)
    call = Frame(address, 1, code=(located(7),))
    assert find_culprit((lock, call)) == located(7)
    assert find_culprit((lock,)) == located(3)


# --- forms -----------------------------------------------------------------------------------

FORMS = {
    " f+0x12/0x34 [m]": ADDRESS,
    "  [<ffffffffa0001012>] f+0x12/0x34 [m]": ADDRESS,  # 4.4
    "RIP: 0010:f+0x12/0x34 [m]": EXACT,
    "RIP: 0010:[<ffffffffa0001012>]  [<ffffffffa0001012>] f+0x12/0x34 [m]": EXACT,  # 4.4
    "RIP  [<ffffffffa0001012>] f+0x12/0x34 [m]": EXACT,  # 4.4, after the trace
    "IP: [<ffffffffa0001012>] f+0x12/0x34 [m]": EXACT,  # 4.4
    "IP: f+0x12/0x34 [m]": EXACT,  # 4.15
    # 4.4: a call, so where it returned to
    "WARNING: CPU: 0 PID: 1 at /lab/src/m/m.c:5 f+0x12/0x34 [m]()": ADDRESS,
    "BUG: KASAN: slab-out-of-bounds in f+0x12/0x34 [m]": ADDRESS,
    "BUG: KFENCE: use-after-free write in f+0x12/0x34 [m]": EXACT,
    "BUG: KFENCE: invalid free in f+0x12/0x34 [m]": ADDRESS,
    "BUG: KFENCE: memory corruption in f+0x12/0x34 [m]": ADDRESS,
    "ffff888005b0c2a8 (&lock){+.+.}-{3:3}, at: f+0x12/0x34 [m]": ADDRESS,
    "hardirqs last  enabled at (77): [<ffffffffc0000012>] f+0x12/0x34 [m]": ADDRESS,
    " f+0x12/0x34 [m 0123456789abcdef0123456789abcdef01234567]": ADDRESS,
    "RIP: 0010:f+0x12/0x34 [m 0123456789abcdef0123456789abcdef01234567]": EXACT,
    " f+0x12/0x34": CodeAddress("f", 0x12, 0x34),
    " f.isra.0.cold+0x12/0x34 [m]": CodeAddress("f.isra.0.cold", 0x12, 0x34, "m"),
    " f.constprop.0+0x12/0x34 [m]": CodeAddress("f.constprop.0", 0x12, 0x34, "m"),
    " f.part.12+0x12/0x34 [m]": CodeAddress("f.part.12", 0x12, 0x34, "m"),
    " f+0x0/0x34 [m]": CodeAddress("f", 0, 0x34, "m", exact=True),
}


@pytest.mark.parametrize(("line", "address"), FORMS.items())
def test_one_address(line: str, address: CodeAddress) -> None:
    assert parse_frames([line]) == (Frame(address, 0),)


@pytest.mark.parametrize("line", [" ? f+0x12/0x34 [m]", " [<ffffffffa0001012>] ? f+0x12/0x34 [m]"])
def test_what_was_only_found_on_the_stack(line: str) -> None:
    assert parse_frames([line]) == (Frame(ADDRESS, 0, reliable=False),)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Code: 0f 0b <0f> 0b",
        "f+0x12 [m]",
        "f+12/34 [m]",
        "f+0x/0x34 [m]",
        "9f+0x12/0x34g",
        "Modules linked in: m(OE+)",
        "BUG: KCSAN: data-race in f [m] / g [m]",
        "f+0x123456789/0x34 [m]",
    ],
)
def test_no_address(line: str) -> None:
    assert parse_frames([line]) == ()


def test_a_module_with_an_impossible_name_is_none() -> None:
    (frame,) = parse_frames(["f+0x12/0x34 [../m]"])
    assert frame.address == CodeAddress("f", 0x12, 0x34)


@pytest.mark.parametrize(
    ("register", "exact"),
    [
        ("RIP: 0010:f+0x12/0x34 [m]", True),
        ("RIP: 0010:f+0x19/0x34 [m]", True),  # 7.3, WARN() with a message
        ("RIP: 0010:g+0x12/0x34 [m]", False),  # not its own trap
        ("RIP: 0033:0x47fbe9", False),
    ],
)
def test_a_warning_is_exact_if_it_trapped(register: str, exact: bool) -> None:
    warning = "WARNING: CPU: 0 PID: 1 at m.c:5 f+0x12/0x34 [m]"
    assert parse_frames([warning, register])[0].address.exact is exact


def test_lines_are_counted_and_all_of_a_line_is_read() -> None:
    frames = parse_frames(["", "f+0x1/0x2 [m] g+0x1/0x2", "", "f+0x1/0x2 [m]"])
    assert [(frame.address.symbol, frame.line) for frame in frames] == [
        ("f", 1),
        ("g", 1),
        ("f", 3),
    ]


def test_a_report_without_an_end_has_so_many_frames_and_no_more() -> None:
    assert len(parse_frames([" f+0x1/0x2 [m]"] * 5000)) == MAX_FRAMES


@given(st.lists(st.text(st.sampled_from("RIP: f+0x12/[m]? .\x1b\u202e\n"), max_size=60)))
def test_no_line_breaks_it(lines: list[str]) -> None:
    for frame in parse_frames(lines):
        assert 0 <= frame.line < len(lines)
        assert str(frame.address).isprintable()


# --- whose line it is ------------------------------------------------------------------------

HEADER = SourceLocation("list_add", "include/linux/list.h", 70)
CALLER = SourceLocation("m_add", "m.c", 12, "list_add(a, b);", own=True)
OUTER = SourceLocation("m_init", "m.c", 20, "m_add();", own=True)


def frame(*code: SourceLocation, reliable: bool = True) -> Frame:
    return Frame(ADDRESS, 0, reliable, code)


@pytest.mark.parametrize(
    ("frames", "culprit"),
    [
        ((), None),
        ((frame(),), None),
        ((frame(CALLER), frame(OUTER)), CALLER),
        ((frame(HEADER, CALLER, OUTER),), CALLER),
        ((frame(), frame(HEADER), frame(OUTER)), OUTER),
        ((frame(CALLER, reliable=False), frame(OUTER)), OUTER),
        ((frame(CALLER, reliable=False),), None),
        ((frame(HEADER),), None),
    ],
)
def test_the_first_line_of_the_modules_own_code(
    frames: tuple[Frame, ...], culprit: SourceLocation | None
) -> None:
    assert find_culprit(frames) == culprit


def test_a_place_in_words() -> None:
    assert str(CALLER) == "m_add at m.c:12"
    assert str(SourceLocation("m_add", "m.c", None)) == "m_add at m.c"
    assert str(ADDRESS) == "f+0x12/0x34 [m]"


# --- code that is gone -------------------------------------------------------------------------

SIZES = {".text": 0x100, ".init.text": 0x40, ".text.unlikely": 0x10}
LISTED = b"""\
.init.text 0xffffffffc05b8000
.static_call.text 0xffffffffc05b9000
.text 0xffffffffc05b0000
.text.unlikely 0x0000000000000000
.exit.text rubbish
"""


def test_where_a_modules_code_is() -> None:
    code = locate_code("late", SIZES, LISTED)
    assert code.sections == {
        ".text": range(0xFFFFFFFFC05B0000, 0xFFFFFFFFC05B0100),
        ".init.text": range(0xFFFFFFFFC05B8000, 0xFFFFFFFFC05B8040),
    }
    assert locate_code("late", SIZES, b"").sections == {}


@pytest.mark.parametrize(
    ("line", "section", "offset", "exact", "reliable"),
    [
        ("RIP: 0010:0xffffffffc05b0005", ".text", 5, True, True),
        ("IP: 0xffffffffc05b0005", ".text", 5, True, True),
        (" ? 0xffffffffc05b8010", ".init.text", 0x10, False, False),
        ("    [<00000000a1b2c3d4>] 0xffffffffc05b0012", ".text", 0x12, False, True),
        (" 0xffffffffc05b0100", ".text", 0x100, False, True),  # behind a call that ends it
    ],
)
def test_an_address_without_a_name(
    line: str, section: str, offset: int, exact: bool, reliable: bool
) -> None:
    code = locate_code("late", SIZES, LISTED)
    (frame,) = find_bare_frames(("head", line), (code,))
    assert frame.address == CodeAddress(section, offset, 0, "late", exact)
    assert (frame.line, frame.reliable) == (1, reliable)
    assert str(frame.address) == f"{section}+{offset:#x} [late]"


@pytest.mark.parametrize(
    "line",
    [
        "RIP: 0010:0xffffffffc05b0100",
        "RIP: 0010:0xffffffffc05afffb",
        "address: 0xffffffffc05b0005",
        "RAX: 0xffffffffc05b0005 RBX: 0",
        "0xffffffffc05b00051",
        "f+0x5/0x10 [late]",
    ],
)
def test_what_is_no_address_of_its_code(line: str) -> None:
    assert find_bare_frames((line,), (locate_code("late", SIZES, LISTED),)) == ()


def test_the_module_that_was_there_last_is_meant() -> None:
    first, last = (LoadedCode(name, {".text": range(4096, 8192)}) for name in ("first", "last"))
    (frame,) = find_bare_frames(("RIP: 0010:0x0000000000001001",), (first, last))
    assert frame.address.module == "last"
