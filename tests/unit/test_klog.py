"""The kernel log: lines, markers, and findings in real logs and in hand-written ones."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.plan import klog
from orchestrator.plan.klog import (
    Finding,
    LineAssembler,
    Marker,
    Record,
    find_findings,
    parse_line,
    parse_log,
    parse_marker,
)
from orchestrator.plan.model import FindingClass

DATA = Path(__file__).parents[1] / "data" / "klog"
NONCE = "0123456789abcdef"


def findings_in(name: str) -> tuple[Finding, ...]:
    return find_findings(parse_log((DATA / name).read_bytes()))


def kinds_in(name: str) -> list[str]:
    return [finding.kind for finding in findings_in(name)]


def kernel_says(*texts: str) -> tuple[Record, ...]:
    return tuple(Record(number, number / 10, text) for number, text in enumerate(texts))


def kinds_of(*texts: str) -> list[str]:
    return [finding.kind for finding in find_findings(kernel_says(*texts))]


# --- lines -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "record"),
    [
        (b"[    0.000000] Linux version 6.1\r\n", Record(7, 0.0, "Linux version 6.1")),
        (b"[   12.345678] text\r", Record(7, 12.345678, "text")),
        (b"[12345.000001]   indented", Record(7, 12345.000001, "  indented")),
        (b"[1234567.000001] long up", Record(7, 1234567.000001, "long up")),
        (b"[    1.000000][  T123] of a thread", Record(7, 1.0, "of a thread", caller="T123")),
        (b"[    1.000000][    C1] of an interrupt", Record(7, 1.0, "of an interrupt", caller="C1")),
        (b"[    1.000000] [T123] a module's own", Record(7, 1.0, "[T123] a module's own")),
        (b"[    1.000000]", Record(7, 1.0, "")),
        (b"[    1.000000] ", Record(7, 1.0, "")),
        (b"no stamp", Record(7, None, "no stamp")),
        (b"", Record(7, None, "")),
        (b"[1.5] not printk's", Record(7, None, "[1.5] not printk's")),
        (b"took [12.345678] s", Record(7, None, "took [12.345678] s")),
        (b"[    1.000000] caf\xc3\xa9 \xff\x00", Record(7, 1.0, "caf\u00e9 \\xff\x00")),
        (b"[    1.000000] a\rb", Record(7, 1.0, "a\rb")),
        (b"# prompt[    1.000000] torn", Record(7, 1.0, "torn", before="# prompt")),
        (
            b"\x1bc\x1b[?7l\x1b[2J[    0.000000] first",
            Record(7, 0.0, "first", before="\x1bc\x1b[?7l\x1b[2J"),
        ),
        (
            b"[    1.000000] user data [    2.000000] BUG: KASAN: forged",
            Record(7, 1.0, "user data [    2.000000] BUG: KASAN: forged"),
        ),
    ],
)
def test_a_line_is_parsed(raw: bytes, record: Record) -> None:
    assert parse_line(7, raw) == record


@settings(deadline=None)  # the machine may be busy
@given(st.binary(max_size=300))
def test_parsing_never_fails(raw: bytes) -> None:
    record = parse_line(0, raw)
    record.text.encode()  # no surrogates: every text can be written to a file
    record.before.encode()


def test_lines_come_whole_however_the_stream_is_cut() -> None:
    stream = b"one\r\ntwo\n\nthree"
    for size in range(1, len(stream) + 1):
        assembler = LineAssembler()
        lines = [
            line
            for at in range(0, len(stream), size)
            for line in assembler.feed(stream[at : at + size])
        ]
        assert lines == [b"one\r", b"two", b""]
        assert assembler.flush() == [b"three"]
        assert assembler.flush() == []


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.binary(max_size=400)))
def test_no_byte_is_lost_and_no_piece_is_too_long(chunks: list[bytes]) -> None:
    assembler = LineAssembler(limit=100)
    pieces = [piece for chunk in chunks for piece in assembler.feed(chunk)]
    pieces += assembler.flush()
    assert all(len(piece) <= 100 for piece in pieces)
    assert b"".join(pieces) == b"".join(chunks).replace(b"\n", b"")


def test_memory_is_bounded_where_no_newline_comes() -> None:
    assembler = LineAssembler(limit=1000)
    pieces = []
    for _ in range(100):
        pieces += assembler.feed(b"x" * 777)
    assert sum(map(len, pieces)) >= 77_700 - 1000


@pytest.mark.parametrize("rubbish", range(60, 130))
def test_a_kernel_line_after_endless_rubbish_is_not_torn(rubbish: int) -> None:
    assembler = LineAssembler(limit=128)
    pieces = assembler.feed(b"x" * rubbish)
    pieces += assembler.feed(b"[    1.000000][  T123] BUG: KASAN: x in y\r\n")
    texts = [parse_line(0, piece).text for piece in pieces]
    assert "BUG: KASAN: x in y" in texts


def test_a_limit_below_a_stamp_is_refused() -> None:
    with pytest.raises(ValueError, match="too small"):
        LineAssembler(limit=40)


# --- markers -----------------------------------------------------------------------------


def test_a_marker_survives_the_way_through_the_kernel() -> None:
    marker = Marker(NONCE, "c12", "step-3")
    text = marker.render()
    assert len(text) < 200
    assert text.isprintable()
    record = parse_line(3, b"# [   12.345678] " + text.encode() + b"\r\n")
    assert parse_marker(record.text, NONCE) == marker
    assert parse_marker(record.text) == marker


@pytest.mark.parametrize(
    "text",
    [
        "",
        "lab-",
        f"lab-{NONCE} c12",
        f"lab-{NONCE} c12 step-3 more",
        f" lab-{NONCE} c12 step-3",
        f"lab-{NONCE} c12 step-3\n",
        f"splat: lab-{NONCE} c12 step-3",
        "lab-fedcba9876543210 c12 step-3",
    ],
)
def test_what_is_not_exactly_a_marker_is_none(text: str) -> None:
    assert parse_marker(text, NONCE) is None


@pytest.mark.parametrize(
    ("nonce", "cell", "word"),
    [("", "c1", "end"), ("XYZ" * 4, "c1", "end"), (NONCE, "a b", "end"), (NONCE, "c1", "a\nb")],
)
def test_an_unfit_marker_is_refused(nonce: str, cell: str, word: str) -> None:
    with pytest.raises(ValueError, match="not fit for a marker"):
        Marker(nonce, cell, word)


@settings(deadline=None)  # the machine may be busy
@given(st.text(max_size=120))
def test_parsing_a_marker_never_fails(text: str) -> None:
    marker = parse_marker(text)
    assert marker is None or marker.render() == text


# --- real logs ---------------------------------------------------------------------------

SOFT = ["warning", "warning", "refcount", "duplicate-name", "not-empty", "duplicate-name"]
RECORDED: dict[str, list[str]] = {
    "healthy-4.15.log": [],
    "healthy-5.4.log": [],
    "healthy-6.1.log": [],
    "healthy-7.3.log": [],
    # the last is "cut here" as the second line of a module's own message
    "soft-4.15.log": [kind for kind in SOFT if kind != "refcount"] + ["warning"],
    "soft-5.4.log": [*SOFT, "warning"],
    "soft-6.1.log": [*SOFT, "warning"],
    "soft-7.3.log": [*SOFT, "ubsan", "warning"],
    "null-4.15.log": ["oops"],
    "null-5.4.log": ["oops"],
    "null-6.1.log": ["oops"],
    "null-7.3.log": ["oops"],
    "call-5.4.log": ["oops"],
    "divide-6.1.log": ["oops"],
    "divide-7.3.log": ["oops"],
    "gpf-4.15.log": ["gpf"],
    "gpf-6.1.log": ["gpf"],
    "gpf-7.3.log": ["gpf"],
    "deep-4.15.log": ["stack-overflow"],
    "deep-5.4.log": ["stack-overflow", "warning"],
    "deep-6.1.log": ["stack-overflow", "panic"],
    "deep-7.3.log": ["stack-overflow", "panic"],
    "bug-4.15.log": ["bug"],
    "bug-6.1.log": ["bug"],
    "bug-7.3.log": ["bug"],
    "list-6.1.log": ["list-corruption"],
    "list-7.3.log": ["list-corruption"],
    "atomic-6.1.log": ["atomic-sleep", "warning"],
    "atomic-7.3.log": ["atomic-sleep", "warning"],
    "panic-4.15.log": ["panic"],
    "panic-7.3.log": ["panic"],
    "sysrq-c-4.15.log": ["oops", "panic"],
    "sysrq-c-5.4.log": ["panic"],
    "oopspanic-4.15.log": ["oops", "panic"],
    "oopspanic-7.3.log": ["oops", "panic"],
    "hang-5.4.log": ["hung-task", "hung-task"],
    "hang-7.3.log": ["hung-task", "hung-task"],
    "lockup-4.15.log": ["soft-lockup"],
    "lockup-6.1.log": ["soft-lockup"],
    "lockup-7.3.log": ["soft-lockup", "soft-lockup"],
    "rcu-4.15.log": ["rcu-stall", "rcu-stall"],
    "rcu-6.1.log": ["rcu-stall"],
    "oom-4.15.log": ["oom"],
    "oom-6.1.log": ["oom"],
    "kfence-7.3.log": ["kfence", "kfence"],
    "drop-4.15.log": ["lost-log"] * 3,
    "drop-5.4.log": ["lost-log"] * 3,
    "drop-6.1.log": ["lost-log"] * 3,
    "drop-7.3.log": ["lost-log"] * 3,
    "kasan-6.1.log": ["kasan"],
    "lockdep-6.1.log": ["lockdep"],
    "mightsleep-6.1.log": ["atomic-sleep"],
    "kmemleak-6.1.log": ["kmemleak"],
    "kcsan-6.1.log": ["kcsan"] * 4,
    "slub-free-6.12.log": ["bug"],
    "slub-left-6.12.log": ["not-empty"] * 2,
}


def test_every_recorded_log_is_tested() -> None:
    assert {path.name for path in DATA.glob("*.log")} == RECORDED.keys()


@pytest.mark.parametrize(("name", "kinds"), RECORDED.items())
def test_findings_in_recorded_logs(name: str, kinds: list[str]) -> None:
    assert kinds_in(name) == kinds


@pytest.mark.parametrize("name", RECORDED)
def test_the_same_is_found_where_the_kernel_prints_no_stamps(name: str) -> None:
    records = parse_log((DATA / name).read_bytes())
    stampless = [
        Record(record.number, None, record.text)
        for record in records
        # what user space printed in between is told from the kernel's by its stamp only
        if record.time is not None or "dropped" in record.text
    ]
    assert [finding.kind for finding in find_findings(stampless)] == RECORDED[name]


@pytest.mark.parametrize("name", [name for name, kinds in RECORDED.items() if kinds])
def test_markers_and_other_findings_are_not_within_a_finding(name: str) -> None:
    findings = findings_in(name)
    for finding in findings:
        assert not any(parse_marker(line) for line in finding.lines)
    for one, other in itertools.pairwise(findings):
        assert one.last < other.first


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("null-4.15.log", "---[ end trace "),
        ("null-7.3.log", "note: insmod["),
        ("divide-7.3.log", "PKRU: 55555554"),  # user space's line stands between
        ("bug-6.1.log", "PKRU: 55555554"),
        ("panic-7.3.log", "Kernel Offset: disabled"),
        ("hang-7.3.log", " </TASK>"),
        ("atomic-6.1.log", " </TASK>"),
        ("oom-6.1.log", "Out of memory: Killed process "),
        ("kfence-7.3.log", "====="),
        ("lockup-6.1.log", " </TASK>"),
        ("list-7.3.log", "PKRU: 55555554"),
    ],
)
def test_a_finding_ends_with_its_dump(name: str, last: str) -> None:
    assert findings_in(name)[0].lines[-1].startswith(last)


@pytest.mark.parametrize(
    ("name", "nth", "headline"),
    [
        ("soft-4.15.log", 0, "WARNING: CPU: 1 PID: 135 at "),
        ("soft-7.3.log", 0, "WARNING: splat.c:154 at splat_init+0x12f/0xff0 [splat], CPU#1: "),
        ("soft-7.3.log", 3, "proc_dir_entry '/proc/splat' already registered"),
        ("soft-7.3.log", 6, "UBSAN: shift-out-of-bounds in splat.c:150:3"),
        ("null-4.15.log", 0, "BUG: unable to handle kernel NULL pointer dereference at 0000"),
        ("null-7.3.log", 0, "BUG: kernel NULL pointer dereference, address: 0000"),
        ("bug-7.3.log", 0, "kernel BUG at splat.c:158!"),
        ("list-6.1.log", 0, "list_add corruption. next->prev should be prev "),
        ("gpf-7.3.log", 0, "Oops: general protection fault, probably for non-canonical address "),
        ("oopspanic-7.3.log", 1, "Kernel panic - not syncing: Fatal exception"),
    ],
)
def test_the_headline_tells_most(name: str, nth: int, headline: str) -> None:
    assert findings_in(name)[nth].headline.startswith(headline)


def test_modules_in_the_traces_are_named() -> None:
    assert findings_in("null-6.1.log")[0].modules == ("splat",)
    assert findings_in("oom-6.1.log")[0].modules == ()
    build_id = "bcd" * 13 + "e"
    trace = (" first+0x1/0x2 [one]", f" second+0x1/0x2 [two {build_id}]", " third+0x1/0x2 [one]")
    records = kernel_says("BUG: scheduling while atomic: a/1/0x2", "Call Trace:", *trace)
    assert find_findings(records)[0].modules == ("one", "two")


def test_the_numbers_are_those_of_the_records() -> None:
    records = parse_log((DATA / "null-6.1.log").read_bytes(), first=1000)
    finding = find_findings(records)[0]
    assert records[finding.first - 1000].text == finding.headline
    assert records[finding.last - 1000].text == finding.lines[-1]


def test_the_firmware_leaves_its_noise_before_the_first_line() -> None:
    records = parse_log((DATA / "healthy-6.1.log").read_bytes())
    first = next(record for record in records if record.time is not None)
    assert first.text.startswith("Linux version 6.1.0-56-cloud-amd64 ")
    assert first.before.startswith("Probing EDD")
    assert "\x1bc" in first.before


def test_a_shell_without_a_newline_does_not_hide_the_kernel() -> None:
    records = parse_log((DATA / "soft-7.3.log").read_bytes())
    torn = next(record for record in records if record.before)
    assert (torn.before, torn.text) == ("no newline here", "splat: got: after-a-tear")


@pytest.mark.parametrize("version", ["4.15", "5.4", "6.1", "7.3"])
def test_the_kernel_stamps_every_line_of_a_message(version: str) -> None:
    records = parse_log((DATA / f"soft-{version}.log").read_bytes())
    at = next(i for i, record in enumerate(records) if record.text == "splat: first line")
    assert [record.text for record in records[at + 1 : at + 3]] == [
        "------------[ cut here ]------------",
        "last line",
    ]
    assert all(record.time is not None for record in records[at : at + 3])


# --- each class, as the sources print it ---------------------------------------------------

CUT = "------------[ cut here ]------------"
END = "---[ end trace 0000000000000000 ]---"
DUMP = ("CPU: 0 PID: 1 Comm: a Not tainted 6.1.0 #1", "Call Trace:", " f+0x1/0x2", " g+0x3/0x4")
FENCE = "=" * 66

WRITTEN: list[tuple[str, tuple[str, ...]]] = [
    ("kasan", (FENCE, "BUG: KASAN: slab-out-of-bounds in f+0x1/0x2 [m]", "Write of size 8", FENCE)),
    ("kasan", (FENCE, "BUG: KASAN: double-free or invalid-free in f+0x1/0x2", "", *DUMP, FENCE)),
    ("kcsan", (FENCE, "BUG: KCSAN: data-race in f / g", "", *DUMP, FENCE)),
    ("ubsan", ("=" * 80, "UBSAN: Undefined behaviour in a.c:1:2", "it is", *DUMP, "=" * 80)),
    ("ubsan", ("=" * 80, "UBSAN: array-index-out-of-bounds in a.c:1:2", *DUMP, "=" * 80)),
    ("ubsan", (CUT, "UBSAN: shift-out-of-bounds in a.c:1:2", *DUMP, "---[ end trace ]---")),
    (
        "ubsan",
        (
            "UBSAN: array index out of bounds at f+0x1/0x2",
            "Oops: invalid opcode: 0000 [#1] SMP",
            *DUMP,
            END,
        ),
    ),
    ("lockdep", ("=" * 54, "WARNING: possible circular locking dependency detected", *DUMP)),
    ("lockdep", ("=" * 32, "WARNING: inconsistent lock state", "6.1.0 #1", *DUMP)),
    ("lockdep", ("=" * 44, "WARNING: possible recursive locking detected", *DUMP)),
    ("lockdep", ("=" * 29, "WARNING: suspicious RCU usage", "6.1.0 #1", *DUMP)),
    ("lockdep", ("WARNING: SOFTIRQ-safe -> SOFTIRQ-unsafe lock order detected",)),
    ("lockdep", ("WARNING: possible irq lock inversion dependency detected",)),
    ("lockdep", ("WARNING: bad unlock balance detected!",)),
    ("lockdep", ("WARNING: held lock freed!",)),
    ("lockdep", ("WARNING: lock held when returning to user space!",)),
    ("lockdep", ("WARNING: insmod/12 still has locks held!",)),
    ("lockdep", ("[ BUG: Invalid wait context ]",)),
    ("lockdep", ("[ INFO: possible circular locking dependency detected ]",)),
    ("lockdep", ("[ INFO: suspicious RCU usage. ]",)),
    ("lockdep", ("INFO: trying to register non-static key.", "the code is fine but", *DUMP)),
    ("lockdep", ("BUG: MAX_LOCKDEP_ENTRIES too low!",)),
    ("atomic-sleep", ("BUG: sleeping function called from invalid context at a.c:1", *DUMP)),
    ("atomic-sleep", ("BUG: scheduling while atomic: swapper/0/0/0x00000002", *DUMP)),
    ("rcu-stall", ("INFO: rcu_sched self-detected stall on CPU",)),
    ("rcu-stall", ("rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",)),
    ("rcu-stall", ("rcu: INFO: rcu_sched detected expedited stalls on CPUs/tasks: { 1-... }",)),
    ("rcu-stall", ("INFO: rcu_tasks detected stalls on tasks:",)),
    ("soft-lockup", ("watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [a b:1]", *DUMP)),
    ("hard-lockup", ("NMI watchdog: Watchdog detected hard LOCKUP on cpu 0", *DUMP)),
    ("hard-lockup", ("watchdog: Watchdog detected hard LOCKUP on cpu 1", *DUMP)),
    ("hard-lockup", ("watchdog: CPU0: Watchdog detected hard LOCKUP on cpu 1", *DUMP)),
    ("hung-task", ("INFO: task kworker/u4:1:33 blocked for more than 120 seconds.", *DUMP)),
    ("hung-task", ("INFO: task a:1 blocked in I/O wait for more than 120 seconds.", *DUMP)),
    (
        "refcount",
        (CUT, "refcount_t: underflow; use-after-free.", "WARNING: CPU: 0 PID: 1 at f", END),
    ),
    ("refcount", ("unregister_netdevice: waiting for eth0 to become free. Usage count = 1",)),
    ("list-corruption", (CUT, "list_del corruption, 12->next is LIST_POISON1 (34)", END)),
    (
        "list-corruption",
        ("list_add double add: new=1, prev=2, next=3.", CUT, "kernel BUG at a.c:1!"),
    ),
    ("kmemleak", ("kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",)),
    ("workqueue-stall", ("BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck",)),
    ("stack-overflow", ("kernel stack overflow (double-fault): 0000 [#1] SMP", *DUMP, END)),
    ("stack-overflow", ("Oops: stack guard page: 0000 [#1] SMP", *DUMP, END)),
    (
        "stack-overflow",
        (
            "BUG: unable to handle page fault for address: ffff",
            "#PF: supervisor write access in kernel mode",
            "Thread overran stack, or stack corrupted",
            "Oops: 0002 [#1] SMP PTI",
            *DUMP,
            END,
        ),
    ),
    ("oops", ("BUG: unable to handle kernel ", "IP: f+0x1/0x2", "Oops: 0000 [#1]", *DUMP, END)),
    ("oops", ("BUG: unable to handle kernel paging request at ffff", "Oops: 0002 [#2]", END)),
    ("oops", ("traps: PANIC: double fault, error_code: 0x0", "double fault: 0000 [#1] SMP", END)),
    ("oops", ("Oops: Oops: 0002 [#1] SMP NOPTI", *DUMP, END)),
    ("gpf", ("general protection fault: 0000 [#1] PREEMPT SMP", *DUMP, END)),
    ("bug", (CUT, "kernel BUG at mm/slub.c:1!", "invalid opcode: 0000 [#1] SMP", *DUMP, END)),
    ("bug", ("Kernel BUG at f+0x1/0x2 [verbose debug info unavailable]", END)),
    ("bug", ("usercopy: Kernel memory exposure attempt detected from SLUB object", CUT)),
    ("bug", ("detected buffer overflow in memcpy", CUT, "kernel BUG at lib/string.c:1!", END)),
    ("bug", ("BUG: Bad page state in process a  pfn:00001", *DUMP)),
    ("bug", ("BUG: spinlock bad magic on CPU#0, insmod/12", " lock: x+0x0/0x10", *DUMP)),
    ("bug", ("=" * 77, "BUG kmalloc-64 (Tainted: G  OE): Redzone overwritten", *DUMP)),
    ("bug", ("BUG: using smp_processor_id() in preemptible [00000000] code: a/1", *DUMP)),
    ("not-empty", ("=" * 77, "BUG x (Tainted: G  OE): Objects remaining in x on __kmem", *DUMP)),
    ("not-empty", ("kmem_cache_destroy x: Slab cache still has objects", *DUMP)),
    ("not-empty", (CUT, "kmem_cache_destroy x: Slab cache still has objects when called", END)),
    ("duplicate-name", ("debugfs: Directory 'a' with parent '/' already present!",)),
    ("duplicate-name", ("kobject: kobject_add_internal failed for a with -EEXIST, don't",)),
    ("oom", ("insmod: page allocation failure: order:10, mode:0xcc0(GFP_KERNEL)", *DUMP)),
    ("oom", ("Memory cgroup out of memory: Killed process 1 (a) total-vm:1kB",)),
    ("lost-log", ("Lost 3 message(s)!",)),
    ("panic", ("Kernel panic - not syncing: kernel: panic_on_warn set ...", *DUMP)),
    ("panic", ("Kernel panic - not syncing: corrupted stack end detected inside scheduler",)),
    ("warning", (CUT, "WARNING: CPU: 3 PID: 99999 at a.c:1 f+0x1/0x2", *DUMP, END)),
    ("warning", ("WARNING: CPU: 3 PID: 99999 at f+0x1/0x2 [m]", *DUMP, END)),
    ("warning", (CUT, "msg", "WARNING: at f+0x1/0x2 [m], CPU#0: a b/1", *DUMP, END)),
    ("warning", (CUT,)),
    ("warning", (END,)),
]


@pytest.mark.parametrize(("kind", "texts"), WRITTEN)
def test_each_report_is_one_finding(kind: str, texts: tuple[str, ...]) -> None:
    findings = find_findings(kernel_says("before", *texts, "after"))
    assert [finding.kind for finding in findings] == [kind]
    assert "before" not in findings[0].lines
    assert "after" not in findings[0].lines


def test_every_class_is_tested() -> None:
    recorded = {kind for kinds in RECORDED.values() for kind in kinds}
    assert recorded | {kind for kind, _ in WRITTEN} == set(get_args(FindingClass))


QUIET = [
    "splat: loading out-of-tree module taints kernel.",
    "splat: module verification failed: signature and/or required key missing - tainting kernel",
    "Spectre V2 : WARNING: Unprivileged eBPF is enabled with eIBRS on, data leaks possible",
    "Speculative Return Stack Overflow: WARNING: See https://kernel.org/doc/html/latest/",
    "MDS: Vulnerable: Clear CPU buffers attempted, no microcode",
    "WARNING: Spectre-v2 mitigation is off, disabling ITS",
    "WARNING: modpost: missing MODULE_LICENSE() in splat.o",
    "WARNING: polling idle and HT enabled, performance may degrade",
    "WARNING: Flushing system-wide workqueues will be prohibited in near future.",
    "INFO: NMI handler (nmi_cpu_backtrace_handler) took too long to run: 3.178 msecs",
    "INFO: lockdep is turned off.",
    "rcu: INFO: Stall ended before state dump start",
    "workqueue: splat_work hogged CPU for >10000us 4 times, consider switching to WQ_UNBOUND",
    "perf: interrupt took too long (2500 > 2496), lowering kernel.perf_event_max_sample_rate",
    "splat: BUG: kernel NULL pointer dereference, address: 0000000000000000",
    "splat: got: ------------[ cut here ]------------",
    " BUG: KASAN: slab-out-of-bounds in f",
    "splat: WARNING: CPU: 0 PID: 1 at a.c:1",
    "splat: Kernel panic - not syncing: not really",
    "Oops: the user typed this",
    "general protection fault is an exception of x86",
    "traps: a[12] general protection fault ip:1 sp:2 error:0 in a[1+2]",
    "a[12]: segfault at 0 ip 1 sp 2 error 4 in a[1+2]",
    "trap invalid opcode ip:1 sp:2 error:0",
    "x86/fpu: Enabled xstate features 0x7",
    "BUG: this module's own words",
    "INFO: task list follows",
    "** replaying previous printk message **",
    "kmemleak: Kernel memory leak detector disabled",
    "systemd[1]: Out of memory handling is ready",
    "Call Trace:",
    FENCE,
    "** 12 printk messages dropped **",
]


@pytest.mark.parametrize("text", QUIET)
def test_ordinary_lines_are_no_findings(text: str) -> None:
    assert kinds_of("before", text, "after") == []


def test_a_call_of_dump_stack_is_no_finding() -> None:
    assert kinds_of("splat: here is how I was called", *DUMP, "splat: as you see") == []


# --- reports one after and within another ----------------------------------------------------


def test_panic_after_an_oops_is_a_second_finding() -> None:
    oops = ("BUG: kernel NULL pointer dereference, address: 0", "Oops: 0000 [#1] SMP", *DUMP, END)
    panic = ("Kernel panic - not syncing: Fatal exception", "Kernel Offset: disabled")
    assert kinds_of(*oops, *panic, "---[ end Kernel panic - not syncing: Fatal exception ]---") == [
        "oops",
        "panic",
    ]


def test_two_reports_of_one_class_stay_two() -> None:
    one = (CUT, "refcount_t: underflow; use-after-free.", "WARNING: CPU: 0 PID: 1 at f", *DUMP, END)
    assert kinds_of(*one, *one) == ["refcount", "refcount"]


def test_a_warning_does_not_swallow_the_oops_that_comes_within_it() -> None:
    warning = (CUT, "WARNING: CPU: 0 PID: 1 at f", "Modules linked in: m", *DUMP)
    oops = ("BUG: kernel NULL pointer dereference, address: 0", "Oops: 0000 [#1] SMP", *DUMP, END)
    assert kinds_of(*warning, *oops, *DUMP, END) == ["warning", "oops"]


def test_a_general_protection_fault_after_a_warning_is_another_report() -> None:
    warning = (CUT, "WARNING: CPU: 0 PID: 1 at f", *DUMP, END)
    gpf = ("general protection fault: 0000 [#1] SMP", *DUMP, END)
    assert kinds_of(*warning, *gpf) == ["warning", "gpf"]


def test_reports_of_two_processors_printed_into_one_another() -> None:
    header = "WARNING: CPU: {} PID: 1 at f"
    assert kinds_of(
        CUT, header.format(0), CUT, header.format(1), *DUMP, *DUMP, END, "other", END
    ) == ["warning", "warning"]


def test_the_end_of_a_report_whose_start_is_lost_is_a_finding() -> None:
    finding = find_findings(kernel_says(" f+0x1/0x2", END, "after"))[0]
    assert (finding.kind, finding.headline) == ("warning", END)


def test_lost_lines_are_found_within_a_report() -> None:
    records = list(kernel_says(CUT, "WARNING: CPU: 0 PID: 1 at f", *DUMP, END))
    records.insert(4, Record(99, None, "** 12 printk messages dropped **"))
    findings = find_findings(records)
    assert [finding.kind for finding in findings] == ["warning", "lost-log"]
    assert findings[0].lines[-1] == END


def test_lost_lines_are_found_after_what_user_space_left_on_the_line() -> None:
    records = [Record(0, 1.0, "x"), Record(1, None, "# ** 3 printk messages dropped **")]
    assert [finding.kind for finding in find_findings(records)] == ["lost-log"]


def test_only_the_kernels_own_lines_count() -> None:
    forged = [
        Record(0, 1.0, "the kernel's line"),
        Record(1, None, "BUG: KASAN: slab-out-of-bounds in user_space"),
        Record(2, None, CUT),
    ]
    assert find_findings(forged) == ()


def test_what_user_space_prints_is_no_part_of_a_report() -> None:
    records = list(kernel_says("BUG: scheduling while atomic: a/1/0x2", *DUMP))
    records.insert(3, Record(99, None, "Segmentation fault"))
    finding = find_findings(records)[0]
    assert finding.lines == ("BUG: scheduling while atomic: a/1/0x2", *DUMP)


def test_an_unfinished_report_ends_with_the_log() -> None:
    finding = find_findings(kernel_says(CUT, "WARNING: CPU: 0 PID: 1 at f", *DUMP[:3]))[0]
    assert finding.lines[-1] == DUMP[2]


def test_a_report_is_bounded() -> None:
    finding = find_findings(kernel_says("BUG: KASAN: x in f", *["more"] * 5000))[0]
    assert len(finding.lines) < 500


def test_a_flood_of_findings_takes_no_quadratic_time() -> None:
    lost = tuple(Record(i, None, "** 1 printk messages dropped **") for i in range(20_000))
    assert len(find_findings(lost)) == 20_000
    assert len(kinds_of(*[CUT, END] * 5_000)) == 5_000


# --- whatever comes --------------------------------------------------------------------------

_starts = [text for _, texts in WRITTEN for text in texts] + QUIET


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.sampled_from(_starts), max_size=40))
def test_findings_are_sane_in_any_mixture(texts: list[str]) -> None:
    records = kernel_says(*texts)
    findings = find_findings(records)
    for finding in findings:
        assert 0 <= finding.first <= finding.last < len(records)
        assert finding.lines == tuple(texts[finding.first : finding.last + 1])
        assert finding.headline
    assert list(findings) == sorted(findings, key=lambda finding: finding.first)


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.sampled_from(_starts), max_size=25))
def test_no_mixture_hides_a_panic(texts: list[str]) -> None:
    panic = "Kernel panic - not syncing: x"
    assert "panic" in kinds_of(*texts, panic, "after")


@settings(deadline=None)  # the machine may be busy
@given(st.binary(max_size=2000))
def test_finding_never_fails(data: bytes) -> None:
    find_findings(parse_log(data))


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.text(max_size=80), max_size=20))
def test_finding_never_fails_on_texts(texts: list[str]) -> None:
    find_findings(kernel_says(*texts))


@pytest.mark.parametrize("text", ["x" * 8000, " " * 8000, "BUG " + "(" * 8000, "=" * 8000])
def test_long_lines_take_no_long_time(text: str) -> None:
    for each in klog._DETECTORS:
        each.pattern.match(text)
    kinds_of(*[text] * 20)


@pytest.mark.parametrize(
    ("name", "fatal"),
    [
        *(
            (f"{what}-{version}.log", True)
            for what in ("null", "gpf", "bug", "deep")
            for version in ("4.15", "6.1", "7.3")
        ),
        *((f"{what}-6.1.log", True) for what in ("divide", "list")),
        *((f"{what}-6.1.log", False) for what in ("soft", "atomic", "lockup", "rcu", "oom")),
        ("hang-5.4.log", False),
        ("kfence-7.3.log", False),
    ],
)
def test_a_report_that_ended_a_task_is_fatal(name: str, fatal: bool) -> None:
    assert findings_in(name)
    assert any(finding.is_fatal for finding in findings_in(name)) is fatal
