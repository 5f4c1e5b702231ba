"""What kmemleak says, and which of it a module has to answer for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.plan.frames import CodeAddress, LoadedCode
from orchestrator.plan.klog import Finding, finding_of
from orchestrator.plan.leaks import MAX_LINES, MAX_OBJECTS, Lost, judge_leaks, parse_kmemleak

# As Linux 6.1 prints it of a module that is gone.
OBJECT = """\
unreferenced object 0xffff888008f4c{number:03x} (size {size}):
  comm "sysio", pid 131, jiffies 4294702781 (age 7.156s)
  hex dump (first 32 bytes):
    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  ................
    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  ................
  backtrace:
    [<00000000a1b2c3d4>] kmalloc_trace+0x2a/0xa0
    [<00000000{number:08x}>] {caller}
    [<000000005e6f7a8b>] do_one_initcall+0x9d/0x3b0
"""
LOST = "0xffffffffc0004012"
LOADED = (LoadedCode("lossy", {".text": range(0xFFFFFFFFC0004000, 0xFFFFFFFFC0004100)}),)
COUNT = finding_of(
    "kmemleak",
    "kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
    ("kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",),
    40,
    40,
)
OTHER = finding_of("warning", "WARNING: other", ("WARNING: other",), 10, 12)


def told(*callers: str, size: int = 128) -> tuple[Lost, ...]:
    text = "".join(
        OBJECT.format(number=number, size=size, caller=caller)
        for number, caller in enumerate(callers)
    )
    return parse_kmemleak(text.encode())


def judged(*callers: str, findings: tuple[Finding, ...] = (OTHER, COUNT)) -> tuple[Finding, ...]:
    return judge_leaks(findings, told(*callers), LOADED, {"lossy"})


def test_an_object_is_told_with_who_allocated_it() -> None:
    (lost,) = told(LOST)
    assert (lost.size, lost.count) == (128, 1)
    assert lost.lines[0] == "unreferenced object 0xffff888008f4c000 (size 128):"
    assert lost.lines[-1].endswith("do_one_initcall+0x9d/0x3b0")


def test_objects_of_one_place_are_counted_and_told_once() -> None:
    same = parse_kmemleak(OBJECT.format(number=0, size=64, caller=LOST).encode() * 16)
    assert [(lost.size, lost.count) for lost in same] == [(64, 16)]
    assert len(told(LOST, "f+0x1/0x2")) == 2


def test_what_a_module_lost_stands_in_place_of_the_kernels_count() -> None:
    other, leak = judged(LOST)
    assert other == OTHER
    assert (leak.kind, leak.first, leak.modules) == ("kmemleak", 40, ("lossy",))
    assert leak.headline == "memory leak: an object of 128 bytes was allocated here and never freed"
    assert [frame.address for frame in leak.frames if frame.address.module] == [
        CodeAddress(".text", 0x12, 0, "lossy")
    ]


def test_a_module_that_is_still_named_is_known_by_its_name() -> None:
    _, leak = judged("lossy_read+0x12/0x40 [lossy]")
    assert leak.modules == ("lossy",)


def test_what_the_kernel_lost_itself_is_nobodys() -> None:
    assert judged("acpi_ns_init+0x1/0x2", "0xffffffff81234567") == (OTHER,)
    assert judged() == (OTHER,)


def test_what_another_module_lost_is_not_the_labs() -> None:
    assert judged("g+0x1/0x2 [another]") == (OTHER,)


def test_a_list_without_an_end_is_cut() -> None:
    many = "".join(
        OBJECT.format(number=1, size=size, caller=LOST) for size in range(1, MAX_OBJECTS + 100)
    )
    assert len(parse_kmemleak(many.encode())) == MAX_OBJECTS
    (endless,) = parse_kmemleak(b"unreferenced object 0x1 (size 8):\n" + b"    00 00\n" * 1000)
    assert len(endless.lines) == MAX_LINES


def test_a_size_that_is_no_number_is_none() -> None:
    assert parse_kmemleak(b"unreferenced object 0x1 (size %s):\n" % (b"9" * 5000)) == ()


@given(st.binary(max_size=400))
def test_nothing_that_stands_there_raises(noise: bytes) -> None:
    head = b"unreferenced object 0xffff888008f4c000 (size 8):\n"
    for data in (noise, head + noise, noise + head):
        judge_leaks((COUNT,), parse_kmemleak(data), LOADED, {"lossy"})
