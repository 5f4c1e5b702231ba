"""The kernel log as the host's end of the serial console saw it: lines, markers, findings.

Everything here is pure. Bytes come from a guest and may be anything: a line can be
torn, endless, full of control characters, or written by user space in the shape of a
kernel's report. Nothing raises on them.

The guest's kernel runs with ``ignore_loglevel``, so what printk took is what was read.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from orchestrator.plan.frames import (
    Frame,
    LoadedCode,
    SourceLocation,
    find_bare_frames,
    find_culprit,
    parse_frames,
)
from orchestrator.plan.visible import decode

if TYPE_CHECKING:
    from orchestrator.plan.model import FindingClass

# --- lines -------------------------------------------------------------------------------

MAX_LINE_BYTES = 8192
"""Where an endless line is cut; the kernel's own lines are below 2 KiB."""

# kernel/printk/printk.c, print_prefix(): "[%5lu.%06lu]" then, where CONFIG_PRINTK_CALLER
# (15ff2069cb7f, v5.1) is set, "[%*s]" with the thread or the processor, then one blank.
_STAMP = re.compile(
    rb"\[( {4}\d| {3}\d{2}| {2}\d{3}| \d{4}|\d{5,10})(\.\d{6})\](?:\[ {0,5}([TC]\d{1,10})\])? ?"
)
_STAMP_BYTES = 48


@dataclass(frozen=True, slots=True)
class Record:
    """One line of the console's output."""

    number: int
    """Counts from 0 per boot."""
    time: float | None
    """printk's own seconds since boot; None where the line has no stamp."""
    text: str
    """Without stamp, caller and line end; undecodable bytes as ``\\xff``."""
    caller: str = ""
    """``T123`` or ``C1`` where the kernel prints callers."""
    before: str = ""
    """What user space or the firmware had left on the line before the kernel's stamp."""


class LineAssembler:
    """Cuts a stream of bytes into lines, in bounded memory.

    A line longer than ``limit`` is given in pieces. A piece never ends within what may
    be the stamp of a kernel's line, as those may follow any rubbish without a newline.
    """

    def __init__(self, limit: int = MAX_LINE_BYTES) -> None:
        if limit < 2 * _STAMP_BYTES:
            raise ValueError(f"a limit of {limit} bytes is too small for the kernel's lines")
        self._limit = limit
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that ``data`` completes, without their newlines."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        pieces = [piece for line in lines for piece in self._cut(line)]
        if len(self._rest) > self._limit:
            *whole, self._rest = self._cut(self._rest)
            pieces += whole
        return pieces

    def flush(self) -> list[bytes]:
        """What is left at the end of the stream: at most one line."""
        rest, self._rest = self._rest, b""
        return [rest] if rest else []

    def _cut(self, line: bytes) -> list[bytes]:
        pieces = []
        while len(line) > self._limit:
            at = self._cut_at(line)
            pieces.append(line[:at])
            line = line[at:]
        return [*pieces, line]

    def _cut_at(self, line: bytes) -> int:
        """Before the last kernel's line in the first ``limit`` bytes, or before its beginnings."""
        head = line[: self._limit]
        stamps = [match.start() for match in _STAMP.finditer(head) if match.start()]
        if stamps:
            return stamps[-1]
        bracket = head.rfind(b"[", self._limit - _STAMP_BYTES)
        return bracket if bracket > 0 else self._limit


def parse_line(number: int, raw: bytes) -> Record:
    """One line of the console as a value; never fails."""
    line = raw.rstrip(b"\r\n")
    # The 8250's console writes a whole line under the port's lock, but wherever user space
    # (or the firmware, which ends no line before it jumps) has left the cursor.
    stamp = _STAMP.match(line) or _STAMP.search(line)
    if stamp is None:
        return Record(number, None, decode(line))
    return Record(
        number,
        float(stamp[1] + stamp[2]),
        decode(line[stamp.end() :]),
        caller=decode(stamp[3] or b""),
        before=decode(line[: stamp.start()]),
    )


def parse_log(data: bytes, first: int = 0) -> tuple[Record, ...]:
    """A whole recorded console."""
    assembler = LineAssembler()
    lines = assembler.feed(data) + assembler.flush()
    return tuple(parse_line(number, line) for number, line in enumerate(lines, first))


# --- markers -----------------------------------------------------------------------------

_MARKER = re.compile(r"lab-([0-9a-f]{8,64}) ([A-Za-z0-9._-]{1,32}) ([A-Za-z0-9._-]{1,64})")


@dataclass(frozen=True)
class Marker:
    """A line that the guest writes to ``/dev/kmsg`` so that the host can cut the log.

    ``nonce`` is random and of one run: what a module logs cannot pass for a marker.
    """

    nonce: str
    cell: str
    word: str

    def __post_init__(self) -> None:
        if not _MARKER.fullmatch(self.render()):
            raise ValueError(f"not fit for a marker: {self.nonce!r} {self.cell!r} {self.word!r}")

    def render(self) -> str:
        """The text to write, without a newline."""
        return f"lab-{self.nonce} {self.cell} {self.word}"


def parse_marker(text: str, nonce: str | None = None) -> Marker | None:
    """The marker that a record's text is, if it is one (of the run with this nonce)."""
    match = _MARKER.fullmatch(text)
    if match is None or (nonce is not None and match[1] != nonce):
        return None
    return Marker(*match.groups())


# --- findings ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Allowed:
    """That an entry of the lab's ``allow`` speaks of a complaint."""

    entry: int
    """Its place in the list, from 0."""
    reason: str
    until: str
    """The last day on which it counts."""
    expired: bool = False
    """Whether that day is past: then the complaint fails the scenario."""


@dataclass(frozen=True)
class Finding:
    """One complaint of the kernel."""

    kind: FindingClass
    headline: str
    """Its first telling line."""
    first: int
    last: int
    """Numbers of its first and last records."""
    lines: tuple[str, ...]
    modules: tuple[str, ...] = ()
    """Modules named in its traces (``symbol+0x1/0x2 [module]``), in order of appearance."""
    expected: bool = False
    frames: tuple[Frame, ...] = ()
    """Every code address in its lines, in order."""
    allowed: Allowed | None = None
    """The entry of ``allow`` that speaks of it."""

    def with_gone(self, loaded: Sequence[LoadedCode]) -> Finding:
        """The finding with frames in code of modules that are gone, and these modules named."""
        gone = find_bare_frames(self.lines, loaded)
        frames = sorted((*self.frames, *gone), key=lambda frame: frame.line)
        names = (frame.address.module for frame in gone)
        modules = dict.fromkeys((*self.modules, *names))
        return replace(self, frames=tuple(frames), modules=tuple(modules))

    @property
    def harmless(self) -> bool:
        """Whether it does not fail the scenario: it is expected, or allowed."""
        return self.expected or (self.allowed is not None and not self.allowed.expired)

    @property
    def culprit(self) -> SourceLocation | None:
        """The first line of a module's own code in it, None if none is known."""
        return find_culprit(self.frames)

    @property
    def is_fatal(self) -> bool:
        """Whether die() ended a task over it: what that task held is held for ever."""
        return any(_DIED.search(line) for line in self.lines)


class _Role(enum.Enum):
    """What a line that starts, or goes on with, a report is in that report.

    A report of the kernel is: an optional message; "cut here"; an optional message; what
    happened (a warning, a BUG(), a fault); for the latter two the line of die(); a dump.
    """

    OPENER = 0
    DIE = 1
    WARNING = 2
    BUG = 3
    FAULT = 4
    MESSAGE = 5
    """Tells more than all others: names the report."""
    ALONE = 6
    """Starts a report of its own, always."""
    TAIL = 7
    """Belongs to a report of the same class right before it, if there is one."""


# For each role, which roles a report must have one of, and none of, for the line to go on
# with that report. Up to its dump, that is: what comes after a dump is another report.
_JOINS: dict[_Role, tuple[frozenset[_Role], frozenset[_Role]]] = {
    _Role.OPENER: (
        # CHECK_DATA_CORRUPTION(): with BUG_ON_DATA_CORRUPTION pr_err(), then BUG(). And slub.
        frozenset({_Role.MESSAGE}),
        frozenset({_Role.OPENER, _Role.WARNING, _Role.BUG, _Role.FAULT, _Role.DIE}),
    ),
    _Role.MESSAGE: (
        # Before the WARNING line with __warn_printk(), as on x86; after it with __warn() and
        # its args, as on machines whose WARN() is no trap.
        frozenset({_Role.OPENER, _Role.FAULT}),
        frozenset({_Role.MESSAGE, _Role.DIE}),
    ),
    _Role.WARNING: (
        frozenset({_Role.OPENER, _Role.MESSAGE}),
        frozenset({_Role.WARNING, _Role.BUG, _Role.FAULT, _Role.DIE}),
    ),
    _Role.BUG: (
        frozenset({_Role.OPENER, _Role.MESSAGE}),
        frozenset({_Role.WARNING, _Role.BUG, _Role.FAULT, _Role.DIE}),
    ),
    _Role.DIE: (
        frozenset({_Role.OPENER, _Role.MESSAGE, _Role.BUG, _Role.FAULT}),
        frozenset({_Role.DIE, _Role.WARNING}),
    ),
}

_END_TRACE = re.compile(r"---\[ end trace ")
"""print_oops_end_marker(); "---[ end trace ]---" in ubsan_epilogue() of 7.3."""
_END_PANIC = re.compile(r"---\[ end Kernel panic")
_FENCE = re.compile(r"={20,}$")
_FENCE_OR_END = re.compile(rf"{_FENCE.pattern}|{_END_TRACE.pattern}")
_OOM_END = re.compile(
    r"(?:Out of memory|Memory cgroup out of memory)\b.*: Kill(?:ed)? process \d"
    r"|Out of memory and no killable processes"
)


@dataclass(frozen=True)
class _Detector:
    """How a report (or a part of one) starts: the pattern is matched at the text's start."""

    kind: FindingClass
    role: _Role
    pattern: re.Pattern[str]
    until: re.Pattern[str] | None = None
    """The report's last line, where it has one."""
    reach: int = 0
    """How many lines may come before ``until``, or before the trace; 0: the line alone."""


def _detector(
    kind: FindingClass,
    role: _Role,
    pattern: str,
    until: re.Pattern[str] | None = None,
    reach: int = 0,
) -> _Detector:
    if role is _Role.MESSAGE:  # what it tells of comes next
        reach = max(reach, 5)
    return _Detector(kind, role, re.compile(pattern), until, reach)


# die(): "%s: %04lx [#%d]" in 4.15 to 6.1, with "Oops: " before it in 6.12 and 7.3, where a
# page fault's own word makes it "Oops: Oops: 0002 [#1]" (__die_header(), arch/x86).
_CODE = r": [0-9a-f]{4} \[#\d+\](?: |$)"
_DIED = re.compile(_CODE)

# How long a report of slub's can be before its trace: it prints a page, 16 bytes to the line, with
# what is around it.
_SLAB = 600

# Read in the sources of 4.15, 5.4, 6.1, 6.12 and 7.3 (x86-64). Where the note names no
# version, all five print it so. Order matters: the first that matches is taken.
_DETECTORS: tuple[_Detector, ...] = (
    # --- CUT_HERE: warn_slowpath_fmt(), __warn_printk(), report_bug(); UBSAN in 7.3
    _detector("warning", _Role.OPENER, r"------------\[ cut here \]-{12}$", _END_TRACE, 200),
    # --- __warn(), kernel/panic.c. "CPU: 0 PID: 156 at fs/proc/generic.c:383 f+0x1/0x2";
    # 7.3 "fs/proc/generic.c:405 at f+0x1/0x2, CPU#1: insmod/178". Other lines that start
    # with WARNING: are advice (mitigations, MTRRs), so what follows is part of the pattern.
    _detector("warning", _Role.WARNING, r"WARNING: CPU: \d+ PID: \d+ at ", _END_TRACE, 200),
    _detector(
        "warning",
        _Role.WARNING,
        r"WARNING: (?:\S+:\d+ )?at \S+(?: \[[^]]+\])?, CPU#\d+: ",
        _END_TRACE,
        200,
    ),
    # --- messages of WARN() and of BUG() after pr_err() that name a class of their own
    _detector(  # lib/list_debug.c: "list_add corruption. ", "list_del corruption, "
        "list-corruption", _Role.MESSAGE, r"list_(?:add|del) corruption[.,]|list_add double add:"
    ),
    _detector(  # lib/refcount.c; "refcount_t overflow at" in 4.15's refcount_error_report()
        "refcount", _Role.MESSAGE, r"refcount_t(?:: | \w+ at )"
    ),
    _detector(  # fs/proc/generic.c, proc_register()
        "duplicate-name", _Role.MESSAGE, r"proc_dir_entry '[^']*' already registered"
    ),
    _detector(  # fs/sysfs/dir.c, sysfs_warn_dup(): WARN() in 4.15, dump_stack() from 5.4 on
        "duplicate-name", _Role.MESSAGE, r"sysfs: cannot create duplicate filename '", None, 10
    ),
    _detector(  # lib/kobject.c, kobject_add_internal(); "kobject: " before it in 6.12
        "duplicate-name", _Role.TAIL, r"(?:kobject: )?kobject_add_internal failed for .* -EEXIST"
    ),
    _detector(  # fs/proc/generic.c, remove_proc_entry()
        "not-empty", _Role.MESSAGE, r"remove_proc_entry: removing non-empty directory '"
    ),
    _detector(  # mm/slub.c, list_slab_objects(): fenced; "on" without a name from 6.12 on
        "not-empty", _Role.MESSAGE, r"BUG \S+ \(.*\): Objects remaining (?:in|on) ", None, _SLAB
    ),
    _detector(  # mm/slub.c, slab_bug(): then an object in hex, and dump_stack() up to 6.1, WARN()
        # in Debian's 6.12.117
        "bug",
        _Role.MESSAGE,
        r"BUG \S+ \(.*\): ",
        None,
        _SLAB,
    ),
    _detector(  # mm/slab_common.c: pr_err() and dump_stack() up to 5.4, WARN() in 6.1
        "not-empty", _Role.MESSAGE, r"kmem_cache_destroy \S+: Slab cache still has objects", None, 5
    ),
    _detector(  # mm/usercopy.c and lib/string*.c, then BUG()
        "bug",
        _Role.MESSAGE,
        r"usercopy: [Kk]ernel memory (?:exposure|overwrite) attempt detected "
        r"|detected buffer overflow in ",
    ),
    _detector(  # arch/x86/kernel/cfi.c, cet.c (traps.c in 6.1), then BUG() or die()
        "bug", _Role.MESSAGE, r"CFI failure at |(?:traps: )?Missing ENDBR: "
    ),
    _detector(  # lib/ubsan.c, ubsan_prologue(): "Undefined behaviour in" up to 5.4, fenced up
        # to 6.1, in "cut here" in 7.3; "at" from the trap handler (CONFIG_UBSAN_TRAP)
        "ubsan",
        _Role.MESSAGE,
        r"UBSAN: .+ (?:in|at) ",
        _FENCE_OR_END,
        60,
    ),
    _detector(  # arch/x86/mm/fault.c, page_fault_oops(), between the fault and die()
        "stack-overflow", _Role.MESSAGE, r"Thread overran stack, or stack corrupted"
    ),
    # --- lib/bug.c, report_bug(); "Kernel BUG" without CONFIG_DEBUG_BUGVERBOSE up to 6.12
    _detector("bug", _Role.BUG, r"kernel BUG at \S+:\d+!", _END_TRACE, 200),
    _detector("bug", _Role.BUG, r"[Kk]ernel BUG at .*\[verbose debug info", _END_TRACE, 200),
    # --- faults: arch/x86/mm/fault.c, show_fault_oops(); "unable to handle kernel NULL pointer
    # dereference at" in 4.15, where a continuation may be missing
    _detector(
        "oops",
        _Role.FAULT,
        r"BUG: kernel NULL pointer dereference, address: "
        r"|BUG: unable to handle (?:kernel\b|page fault for address: )",
        _END_TRACE,
        200,
    ),
    _detector(  # arch/x86/kernel/traps.c, handle_stack_overflow(); "TASK stack" from 6.1 on
        "stack-overflow",
        _Role.FAULT,
        r"BUG: (?:\S+ )?stack guard page was hit at ",
        _END_TRACE,
        200,
    ),
    _detector("oops", _Role.FAULT, r"(?:traps: )?PANIC: double fault", _END_TRACE, 200),
    # --- die()
    _detector(
        "gpf",
        _Role.DIE,
        rf"(?:Oops: )?(?:segment-related )?general protection fault[^:]*{_CODE}",
        _END_TRACE,
        200,
    ),
    _detector(
        "stack-overflow",
        _Role.DIE,
        rf"(?:Oops: )?(?:kernel stack overflow \([^)]*\)|stack guard page){_CODE}",
        _END_TRACE,
        200,
    ),
    _detector("oops", _Role.DIE, rf"Oops(?:: [^:]{{1,80}})?{_CODE}", _END_TRACE, 200),
    _detector(
        "oops",
        _Role.DIE,
        r"(?:divide error|overflow|bounds|invalid opcode|invalid TSS|segment not present"
        r"|stack segment|alignment check|double fault|(?:simd|fpu|iret) exception|int3|debug"
        r"|coprocessor segment overrun|unexpected #NM exception|Bad pagetable"
        rf"|control protection fault){_CODE}",
        _END_TRACE,
        200,
    ),
    # --- kernel/panic.c, panic(); its end has no "]---" in 4.15
    _detector("panic", _Role.ALONE, r"Kernel panic - not syncing: ", _END_PANIC, 200),
    # --- sanitizers, between fences of "="
    _detector("kasan", _Role.ALONE, r"BUG: KASAN: ", _FENCE, 300),
    _detector("kfence", _Role.ALONE, r"BUG: KFENCE: ", _FENCE, 300),
    _detector("kcsan", _Role.ALONE, r"BUG: KCSAN: ", _FENCE, 300),
    # --- kernel/locking/lockdep.c and rtmutex; "[ INFO: ... ]" in kernels before these
    _detector(
        "lockdep",
        _Role.ALONE,
        r"(?:WARNING: |\[ (?:INFO|BUG): )(?:possible (?:circular locking dependency"
        r"|recursive locking|irq lock inversion dependency) detected"
        r"|\S+-safe -> \S+-unsafe lock order detected|inconsistent lock state"
        r"|suspicious RCU usage|bad (?:unlock balance|contention) detected|held lock freed"
        r"|circular locking deadlock detected|Nested lock was not taken|chain_key collision"
        r"|lock held when returning to user space|.+/\d+ still has locks held"
        r"|Invalid wait context)",
        None,
        400,
    ),
    _detector(
        "lockdep",
        _Role.ALONE,
        r"INFO: trying to register non-static key\.|BUG: MAX_(?:LOCK|STACK)\w+ too low!"
        r"|BUG: key \w+ (?:not in \.data|has not been registered)!",
        None,
        10,
    ),
    # --- kernel/sched/core.c: ___might_sleep(), __schedule_bug(), __cant_sleep()
    _detector(
        "atomic-sleep",
        _Role.ALONE,
        r"BUG: (?:sleeping function called from invalid context at "
        r"|scheduling while atomic: |assuming (?:atomic|non migratable) context at "
        r"|scheduling in a non-blocking section: )",
        None,
        20,
    ),
    # --- kernel/rcu: no "rcu: " before it in 4.15; "rcu_tasks detected stalls on tasks"
    _detector(
        "rcu-stall",
        _Role.ALONE,
        r"(?:rcu: )?INFO: rcu_?\w* (?:self-)?detected (?:expedited )?stalls?\b",
        None,
        60,
    ),
    # --- kernel/watchdog*.c: "NMI watchdog: " from watchdog_hld.c, watchdog_perf.c;
    # "CPU1: Watchdog detected" in 7.3
    _detector(
        "soft-lockup", _Role.ALONE, r"(?:NMI )?(?:watchdog: )?BUG: soft lockup - CPU#\d", None, 60
    ),
    _detector(
        "hard-lockup",
        _Role.ALONE,
        r"(?:NMI )?(?:watchdog: )?(?:CPU\d+: )?Watchdog detected hard LOCKUP on cpu \d",
        None,
        60,
    ),
    # --- kernel/hung_task.c; "blocked in I/O wait for" in 7.3
    _detector(
        "hung-task",
        _Role.ALONE,
        r"INFO: task .+:\d+ blocked(?: in I/O wait)? for more than \d+ seconds",
        None,
        10,
    ),
    # --- net/core/dev.c, netdev_wait_allrefs(): a reference to a device is never dropped
    _detector(
        "refcount",
        _Role.ALONE,
        r"unregister_netdevice: waiting for .* to become free\. Usage count = ",
    ),
    # --- mm/kmemleak.c, kmemleak_scan()
    _detector("kmemleak", _Role.ALONE, r"kmemleak: \d+ new suspected memory leaks"),
    # --- kernel/workqueue.c, wq_watchdog_timer_fn(). Not "workqueue: ... hogged CPU", which
    # slow guests print in all health.
    _detector("workqueue-stall", _Role.ALONE, r"BUG: workqueue lockup - pool", None, 60),
    # --- mm/oom_kill.c, dump_header() and oom_kill_process(); warn_alloc()
    _detector("oom", _Role.ALONE, r".{1,16} invoked oom-killer: ", _OOM_END, 1000),
    _detector(
        "oom",
        _Role.TAIL,
        r"(?:Out of memory|Memory cgroup out of memory)\b.*: Kill(?:ed)? process \d"
        r"|Out of memory and no killable processes",
    ),
    _detector("oom", _Role.ALONE, r".{1,16}: page allocation failure: order:\d", None, 5),
    # --- names taken twice elsewhere: fs/debugfs/inode.c, fs/proc/proc_sysctl.c
    _detector(
        "duplicate-name",
        _Role.ALONE,
        r"debugfs: (?:File|Directory) '.*' (?:in directory|with parent) '.*' already present!"
        r"|sysctl duplicate entry: ",
    ),
    # --- kernel/printk: messages lost by the NMI-safe buffers (up to 5.14), by setup_log_buf()
    _detector(
        "lost-log",
        _Role.ALONE,
        r"(?:printk: )?(?:Lost \d+ message\(s\)!|dropped \d+ messages|\d+ messages dropped"
        r"|Too many dropped messages)",
    ),
    # --- more of BUG: mm/memory.c, mm/page_alloc.c, mm/slub.c, kernel/fork.c,
    # kernel/locking/spinlock_debug.c, kernel/workqueue.c, lib/smp_processor_id.c, mm/mempool.c
    _detector(
        "bug",
        _Role.ALONE,
        r"BUG: (?:Bad page (?:state|map|cache)\b|Bad rss-counter state |non-zero pgtables_bytes "
        r"|(?:spin|rw)lock .* on CPU#|workqueue leaked |using \S+ in preemptible "
        r"|mempool element poison mismatch|KMSAN: )",
        None,
        60,
    ),
)

# All of them at once, as almost every line matches none.
_ANY = re.compile("|".join(f"(?:{each.pattern.pattern})" for each in _DETECTORS))

# console_emit_next_record() and its forerunners print this themselves, without a stamp, so
# no module can print it so, and whatever user space had left on the line stands before it.
# The other is the host's own word (adapters/console.py).
_DROPPED = _detector(
    "lost-log",
    _Role.ALONE,
    r".*\*\* (?:\d+ printk messages dropped|console output dropped: the host fell behind) \*\*",
)
# A report whose start was lost or torn.
_ORPHAN = _Detector("warning", _Role.ALONE, _END_TRACE)

_CALL_TRACE = re.compile(r"\s*Call Trace:")
_REGISTERS = re.compile(
    r"(?:RIP|IP|Code|RSP|RAX|RDX|RBP|R08|R10|R13|FS|CS|CR2|DR0|DR3|PKRU|Stack):(?:\s|$)"
    r"|note: .* exited with "
)
_DUMP = re.compile(
    rf"{_REGISTERS.pattern}|\s*(?:$|Call Trace:|</?[A-Z#]\w*>"
    r"|(?:\? )?[\w.$]+\+0x[0-9a-f]+/0x[0-9a-f]+|(?:\? )?0x[0-9a-f]{8,}\b|\[<[0-9a-f]+>\]"
    r"|CPU: \d+ |CPU#?\d+: |Hardware name:|Modules linked in:|Tainted: |Workqueue:|task:"
    r"|#PF: |PGD [0-9a-f]|\*pd|BAD$|Kernel Offset: |in_atomic\(\)|Preemption disabled at:"
    r"|irq event stamp:|(?:hard|soft)irqs last |preempt_count: |RCU nest depth: "
    r"|\*\* \d+ printk messages dropped)"
)
_BODY = re.compile(r"\s*(?:CPU: \d+ |Modules linked in:|Call Trace:|RIP: )")


@dataclass
class _Report:
    """A finding in the making; indexes are into the records looked at."""

    detector: _Detector
    """The one that names the report."""
    start: int
    head: int
    """Where the headline is."""
    latest: int
    """Its last line so far that matched a detector."""
    roles: set[_Role] = field(default_factory=set)

    def join(self, index: int, detector: _Detector) -> None:
        """Take one more line; the most telling role names the report."""
        if detector.role.value > self.detector.role.value and detector.role is not _Role.TAIL:
            self.detector, self.head = detector, index
        self.latest = index
        self.roles.add(detector.role)

    @property
    def is_line(self) -> bool:
        """Whether the report has no dump: one line, that may stand within another's report."""
        return self.reach == 0

    @property
    def until(self) -> re.Pattern[str] | None:
        """The last line to look for."""
        dies = {_Role.OPENER, _Role.WARNING, _Role.BUG, _Role.FAULT, _Role.DIE}
        return _END_TRACE if self.roles & dies else self.detector.until

    @property
    def reach(self) -> int:
        """How far to look for it, or for a trace."""
        return 200 if self.until is _END_TRACE else self.detector.reach


def find_findings(records: Sequence[Record]) -> tuple[Finding, ...]:
    """Every complaint of the kernel in ``records``, in order.

    Where any record has a stamp, those without are passed over: the kernel puts its prefix
    on every line, also of a record with newlines in it (msg_print_text() in 4.15,
    record_print_text() in 7.3), so such a line is user space's.
    """
    kernel = _from_kernel(records)
    spans = _spans(kernel, _find_reports(kernel))
    spans += _find_orphans(kernel, spans)
    spans.sort(key=lambda span: span[0].start)
    return tuple(_finding(kernel, report, end) for report, end in spans)


def _from_kernel(records: Sequence[Record]) -> Sequence[Record]:
    if all(record.time is None for record in records):
        return records  # printk.time=0
    return [
        record
        for record in records
        if record.time is not None or _DROPPED.pattern.match(record.text)
    ]


def _find_reports(records: Sequence[Record]) -> list[_Report]:
    reports: list[_Report] = []
    before: _Report | None = None
    for index, record in enumerate(records):
        detector = _detect(record)
        if detector is None:
            continue
        if before is not None and _goes_on(records, before, index, detector):
            before.join(index, detector)
            continue
        reports.append(_Report(detector, index, index, index, {detector.role}))
        if not reports[-1].is_line:
            before = reports[-1]
    return reports


def _detect(record: Record) -> _Detector | None:
    if record.time is None and _DROPPED.pattern.match(record.text):
        return _DROPPED
    if not _ANY.match(record.text):
        return None
    return next((each for each in _DETECTORS if each.pattern.match(record.text)), None)


def _goes_on(records: Sequence[Record], report: _Report, index: int, detector: _Detector) -> bool:
    """Whether the line at ``index`` belongs to the report before it."""
    if detector.role is _Role.TAIL:
        same = detector.kind == report.detector.kind
        return same and _end(records, report, index + 1) >= index - 1
    if detector.role not in _JOINS or index - report.latest > report.reach:
        return False
    needs, excludes = _JOINS[detector.role]
    between = records[report.start + 1 : index]
    return (
        bool(report.roles & needs)
        and not report.roles & excludes
        and not any(_BODY.match(record.text) for record in between)
    )


def _spans(records: Sequence[Record], reports: Sequence[_Report]) -> list[tuple[_Report, int]]:
    """Each report with the index of its last line; ends at the latest where another starts."""
    spans = []
    bound = len(records)
    for report in reversed(reports):
        spans.append((report, _end(records, report, bound)))
        if not report.is_line:
            bound = report.start
    return spans[::-1]


def _end(records: Sequence[Record], report: _Report, bound: int) -> int:
    """The index of the report's last line."""
    if report.is_line or _Role.TAIL in report.roles:
        return report.latest
    limit = min(bound, report.latest + 1 + report.reach)
    if report.until is not None:
        first = max(report.latest, report.head + 1)
        last = _find(records, range(first, limit), report.until)
        if last is not None:
            # die() prints the registers of the first oops once more after its end.
            return _last_match(records, range(last + 1, bound), _REGISTERS)
    trace = _find(records, range(report.latest + 1, limit), _CALL_TRACE)
    start = report.latest + 1 if trace is None else trace
    end = _last_match(records, range(start, bound), _DUMP)
    while end > report.latest and not records[end].text.strip():
        end -= 1
    return end


def _find(records: Sequence[Record], where: range, pattern: re.Pattern[str]) -> int | None:
    """The first index in ``where`` whose text matches."""
    return next((index for index in where if pattern.match(records[index].text)), None)


def _last_match(records: Sequence[Record], where: range, pattern: re.Pattern[str]) -> int:
    """The last index of those at the start of ``where`` that match; before it if none does."""
    misses = (index for index in where if not pattern.match(records[index].text))
    return next(misses, max(where.start, where.stop)) - 1


def _find_orphans(
    records: Sequence[Record], spans: Sequence[tuple[_Report, int]]
) -> list[tuple[_Report, int]]:
    """Ends of reports whose starts were not seen.

    Reports of two processors can be printed into one another; then the first is cut off
    where the second starts, and its end comes later: that one is no orphan.
    """
    ends = {i for i, record in enumerate(records) if _END_TRACE.match(record.text)}
    owed = []
    for report, end in spans:
        inside = ends.intersection(range(report.start, end + 1))
        ends -= inside
        if report.until is _END_TRACE and not inside:
            owed.append(report.start)
    orphans = []
    for index in sorted(ends):
        if owed and owed[0] < index:
            owed.pop(0)
        else:
            orphans.append((_Report(_ORPHAN, index, index, index), index))
    return orphans


def _finding(records: Sequence[Record], report: _Report, end: int) -> Finding:
    start = report.start
    if start and _FENCE.match(records[start - 1].text):
        start -= 1
    lines = tuple(record.text for record in records[start : end + 1])
    headline = records[report.head].text
    if report.detector.role is _Role.OPENER:
        # "cut here" says nothing; a WARN() whose text begins with a newline has its line later.
        behind = (record.text for record in records[report.head + 1 : end + 1])
        headline = next((text for text in behind if text.strip()), headline)
    elif report.detector.role is _Role.WARNING:
        # What the WARN() itself says, where it says anything.
        before = (record.text for record in records[report.start + 1 : report.head])
        message = next((text.strip() for text in before if text.strip()), "")
        headline += f": {message}" if message else ""
    first, last = records[start].number, records[end].number
    return finding_of(report.detector.kind, headline.strip(), lines, first, last)


def finding_of(
    kind: FindingClass, headline: str, lines: Sequence[str], first: int, last: int
) -> Finding:
    """A finding of these lines, with the code and the modules that they name."""
    frames = parse_frames(lines)
    names = (frame.address.module for frame in frames if frame.address.module)
    modules = tuple(dict.fromkeys(names))
    return Finding(kind, headline, first, last, tuple(lines), modules, frames=frames)
