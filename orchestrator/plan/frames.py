"""Where in the code the kernel was: the addresses that a report of the kernel names.

The kernel prints an address as ``symbol+0x12/0x34 [module]``: the symbol before it, how far
behind that, how far it is from there to the next symbol, and whose it is; nothing stands in
brackets for the kernel's own. It did so in all versions from 4.4 to 7.3. What changed is what
stands around it, and a build ID that may follow the module's name (9294523e3768, v5.14).

All of it is text from a guest, and may be anything. Nothing raises on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

MAX_FRAMES = 500
"""How many frames of one report are kept: more than any trace of the kernel has."""


@dataclass(frozen=True)
class CodeAddress:
    """An address as the kernel prints it."""

    symbol: str
    """With the compiler's endings: ``.isra.0``, ``.constprop.0``, ``.part.0``, ``.cold``."""
    offset: int
    size: int
    """From this symbol to the next one, as the kernel counts; not what the ELF file says."""
    module: str = ""
    """Empty for the kernel's own."""
    exact: bool = False
    """Whether it is the instruction itself. A return address is the one after the call."""

    def __str__(self) -> str:
        module = f" [{self.module}]" if self.module else ""
        size = f"/{self.size:#x}" if self.size else ""
        return f"{self.symbol}+{self.offset:#x}{size}{module}"


@dataclass(frozen=True)
class LoadedCode:
    """Where a module's code was when it was loaded, by section."""

    module: str
    sections: Mapping[str, range]

    def find(self, address: int, *, exact: bool) -> CodeAddress | None:
        """What is there by section; None if none of its code is. A call may end a section."""
        for name, where in self.sections.items():
            if where.start <= address < where.stop + (not exact):
                return CodeAddress(name, address - where.start, 0, self.module, exact)
        return None


@dataclass(frozen=True)
class SourceLocation:
    """A line of source code, and the function that it is in."""

    function: str
    file: str
    """A file of the module is named from the module's folder."""
    line: int | None
    """Counts from 1; None where the compiler gave no line."""
    text: str = ""
    """The line, each run of blanks as one; empty where the file is not at hand as it was built."""
    own: bool = False
    """Whether the file is one of the module's folder, not a header of the kernel."""

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{self.function} at {where}"


@dataclass(frozen=True)
class Frame:
    """One address of a report, and what code is there, where that is known."""

    address: CodeAddress
    line: int
    """In which of the report's lines it stands, from 0."""
    reliable: bool = True
    """False where the kernel only found it on the stack (``? ``)."""
    code: tuple[SourceLocation, ...] = ()
    """The innermost function first; each but the last was inlined into the one after it."""
    note: str = ""
    """Why ``code`` is empty, where it was looked for."""
    aside: bool = False
    """Whether it is where a lock was taken or preemption was switched off, before what the report
    is about.
    """


_ADDRESS = re.compile(
    r"(?<![\w.$])(?P<symbol>[A-Za-z_.$][\w.$]{0,199})"
    r"\+0x(?P<offset>[0-9a-f]{1,8})/0x(?P<size>[0-9a-f]{1,8})(?![0-9a-z])"
    r"(?: \[(?P<module>[A-Za-z0-9_-]{1,64})(?: [0-9a-f]{1,64})?\])?"
)
# show_regs(), x86: "RIP: 0010:f+0x1/0x2", in 4.4 "RIP: 0010:[<...>]  [<...>] f+0x1/0x2"; and
# "IP: f+0x1/0x2" in show_fault_oops() of 4.15, "IP: [<...>] f+0x1/0x2" in 4.4.
_REGISTER = re.compile(r"\s*R?IP(?::|\s)")
_WARNING = re.compile(r"WARNING: ")
# kfence_report_error(): the stack of the fault itself, so its first address is exact; what was
# found later is a stack of calls.
_KFENCE_ACCESS = re.compile(r"BUG: KFENCE: .{1,40} (?:read|write) in ")


def parse_frames(lines: Sequence[str]) -> tuple[Frame, ...]:
    """Every code address in the lines of one report, in their order.

    Most are return addresses: of call traces (``? `` makes one unreliable), of KASAN's
    headline (``_RET_IP_``, mm/kasan) and its stacks, of lockdep's `` at: ``. Exact is what a
    register held at a fault or a trap. Offset 0 is a function that is named, not returned to.
    """
    found = [
        Frame(
            _address(match),
            number,
            not line[: match.start()].endswith("? "),
            aside=_is_aside(lines, number),
        )
        for number, line in enumerate(lines)
        for match in _ADDRESS.finditer(line)
    ][:MAX_FRAMES]
    exact = _exact(lines, found)
    return tuple(_marked(frame, exact) for frame in found)


def locate_code(module: str, sizes: Mapping[str, int], listed: bytes) -> LoadedCode:
    """Where a module's code is, from what ``/sys/module/MODULE/sections`` says.

    That is a line for each section, its name and its address. An address of 0 is what a kernel
    shows that hides them (``kptr_restrict``).
    """
    places = {}
    for line in listed.decode(errors="replace").splitlines():
        name, _, text = line.partition(" ")
        match = _SECTION_ADDRESS.fullmatch(text)
        if match and name in sizes and (address := int(match[1], 16)):
            places[name] = range(address, address + sizes[name])
    return LoadedCode(module, places)


_SECTION_ADDRESS = re.compile(r"0x([0-9a-f]{1,16})")


# What the kernel prints where it knows no symbol: for code of a module that is gone.
_BARE = re.compile(
    r"^\s*(?P<register>R?IP: (?:0010:)?)?(?:\[<[0-9a-f]+>\] )?(?P<guess>\? )?"
    r"0x(?P<address>[0-9a-f]{16})$"
)


def find_bare_frames(lines: Sequence[str], loaded: Sequence[LoadedCode]) -> tuple[Frame, ...]:
    """The addresses without a symbol that are where a module's code was, in their order.

    ``loaded`` is in order of loading: the last one that was there is meant.
    """
    found = []
    for number, line in enumerate(lines):
        match = _BARE.match(line)
        if match is None:
            continue
        at, exact = int(match["address"], 16), match["register"] is not None
        places = (each.find(at, exact=exact) for each in reversed(loaded))
        if (address := next((place for place in places if place), None)) is not None:
            found.append(Frame(address, number, not match["guess"]))
    return tuple(found[:MAX_FRAMES])


# lockdep_print_held_locks(), and print_preempt_disable_ip(), whose address has a line of its own.
_HELD_LOCK = re.compile(r"\s*#\d+: ")
_PREEMPTION = re.compile(r"Preemption disabled at:$")


def _is_aside(lines: Sequence[str], number: int) -> bool:
    before = lines[number - 1] if number else ""
    return bool(_HELD_LOCK.match(lines[number]) or _PREEMPTION.match(before))


def _address(match: re.Match[str]) -> CodeAddress:
    return CodeAddress(
        match["symbol"], int(match["offset"], 16), int(match["size"], 16), match["module"] or ""
    )


def _exact(lines: Sequence[str], frames: Iterable[Frame]) -> frozenset[CodeAddress]:
    """Which of the addresses are those of an instruction.

    WARN() traps, and then names the trap, since 9a93848fe787 (v4.12); before, it called a
    function, and names where that returned to. A trap leaves its registers in the report.
    """
    frames = tuple(frames)
    in_register = {frame.address for frame in frames if _REGISTER.match(lines[frame.line])}
    trapped = {(address.symbol, address.module) for address in in_register}
    accessed = {frame.address for frame in frames if _KFENCE_ACCESS.match(lines[frame.line])}
    warned = {
        frame.address
        for frame in frames
        if _WARNING.match(lines[frame.line])
        and (frame.address.symbol, frame.address.module) in trapped
    }
    return frozenset(in_register | accessed | warned)


def _marked(frame: Frame, exact: frozenset[CodeAddress]) -> Frame:
    """The frame with its address called exact if it is; a fault's own comes up again in traces."""
    address = frame.address
    if address not in exact and address.offset:
        return frame
    known = CodeAddress(address.symbol, address.offset, address.size, address.module, exact=True)
    return replace(frame, address=known)


def find_culprit(frames: Iterable[Frame]) -> SourceLocation | None:
    """The first line of a module's own code in a report, None if none is known.

    Where that called what was inlined from the kernel's headers, it is the line of the call:
    the header is hardly to blame. Frames that are not reliable do not count, and where a lock was
    taken only if there is no other: a lock that is held too long has no trace of its own.
    """
    reliable = [frame for frame in frames if frame.reliable]
    return next(
        (
            location
            for frame in sorted(reliable, key=lambda frame: frame.aside)
            for location in frame.code
            if location.own
        ),
        None,
    )
