"""Boots that fail, told apart: recorded consoles, and what QEMU said of processors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.plan.bootfailure import (
    MAX_LAST_LINES,
    MAX_LINE,
    BootEnd,
    BootFailure,
    BootSight,
    Processor,
    explain_boot,
    has_kernel_spoken,
    parse_processor,
)
from orchestrator.plan.klog import Record, parse_log

DATA = Path(__file__).parents[1] / "data"
NONCE = "0123456789abcdef"

# As QEMU 7.2 prints them, cut after the control registers. A bzImage whose payload is damaged:
# the unpacking code ends in a loop around HLT. A 6.1 kernel that idles, and one in a program.
HALTED = """
RAX=000000000000000a RBX=000000000431d0a0 RCX=0000000000000000 RDX=00000000000003f8
R12=0000000000000000 R13=0000000000000000 R14=0000000000000000 R15=0000000000000000
RIP=000000000431e079 RFL=00000002 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=1
CR0=80050033 CR2=0000000000000000 CR3=0000000004377000 CR4=00001020
"""
IDLE = HALTED.replace("RIP=000000000431e079", "RIP=ffffffff81a8f4bb").replace("0002", "0246")
PROGRAM = "RIP=00007f1122334455 RFL=00000246 [---Z-P-] CPL=3 II=0 A20=1 SMM=0 HLT=0"
NO_CODE = "EIP=001677d0 EFL=00000046 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=0"
UNPACKING = "RIP=000000000431e079 RFL=00000046 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=0"


def recorded(name: str) -> tuple[Record, ...]:
    return parse_log((DATA / "boot" / name).read_bytes())


def nonce_of(records: tuple[Record, ...]) -> str:
    found = (re.match(r"lab-([0-9a-f]{16}) boot ", record.text) for record in records)
    return next((match[1] for match in found if match), NONCE)


def explained(name: str, **seen: object) -> BootFailure:
    records = recorded(name)
    failure = explain_boot(BootSight(records, nonce_of(records), **seen))  # type: ignore[arg-type]
    assert failure is not None
    return failure


@pytest.mark.parametrize(
    ("registers", "processor"),
    [
        (HALTED, Processor.HALTED),
        (IDLE, Processor.IN_KERNEL),
        (PROGRAM, Processor.IN_KERNEL),
        (NO_CODE, Processor.BEFORE_KERNEL),
        (UNPACKING, Processor.BEFORE_KERNEL),
        ("", Processor.UNKNOWN),
        ("  TCP[HOST_FORWARD]  13  127.0.0.1 1  10.0.2.15  22  0  0", Processor.UNKNOWN),
        ("CPL=3 HLT=0", Processor.UNKNOWN),
    ],
)
def test_what_a_processor_does(registers: str, processor: Processor) -> None:
    assert parse_processor(registers) is processor


@pytest.mark.parametrize(
    ("name", "end", "hint", "last"),
    [
        ("rdinit.log", BootEnd.BEFORE_INIT, "no `init=` or `rdinit=`", "Kernel panic - not sync"),
        ("noblk.log", BootEnd.NO_ROOT, "VIRTIO_BLK; it refused to load virtio_blk.ko", "lab-"),
        ("nonet.log", BootEnd.NO_NETWORK, "VIRTIO_NET; it refused to load virtio_net.ko", "lab-"),
        ("ready.log", BootEnd.NO_SSH, "rescue.log", "lab-"),
    ],
)
def test_how_far_a_boot_got(name: str, end: BootEnd, hint: str, last: str) -> None:
    failure = explained(name)
    assert failure.end is end
    assert hint in failure.hint
    assert failure.last_lines[-1].startswith(last)
    assert len(failure.last_lines) == MAX_LAST_LINES


@pytest.mark.parametrize(
    ("seen", "end", "hint"),
    [
        ({"processor": Processor.IN_KERNEL}, BootEnd.NO_CONSOLE, "SERIAL_8250_CONSOLE"),
        ({"processor": Processor.IN_KERNEL}, BootEnd.NO_CONSOLE, "a damaged vmlinux"),
        ({"answers_ssh": True}, BootEnd.NO_CONSOLE, "SERIAL_8250_CONSOLE"),
        ({"processor": Processor.HALTED}, BootEnd.NO_KERNEL, "memory_mib"),
        ({"processor": Processor.BEFORE_KERNEL}, BootEnd.NO_KERNEL, "bzImage"),
        ({}, BootEnd.NO_KERNEL, "bzImage"),
    ],
)
def test_a_silent_console_is_told_by_what_else_is_seen(
    seen: dict[str, object], end: BootEnd, hint: str
) -> None:
    failure = explained("firmware.log", **seen)
    assert failure.end is end
    assert hint in failure.hint
    assert "Booting from ROM..." in failure.last_lines


def test_a_kernel_that_answers_is_not_damaged() -> None:
    assert "damaged" not in explained("firmware.log", answers_ssh=True).hint


@pytest.mark.parametrize("name", ["panic-4.15.log", "panic-7.3.log", "oopspanic-7.3.log"])
def test_a_panic_is_shown_with_what_led_to_it(name: str) -> None:
    records = parse_log((DATA / "klog" / name).read_bytes())
    failure = explain_boot(BootSight(records, NONCE))
    assert failure is not None
    assert failure.last_lines[-1].startswith("Kernel panic - not syncing: ")


@pytest.mark.parametrize(
    "said",
    [
        "qemu: linux kernel too old to load a ram disk",
        "qemu-system-x86_64: Error loading uncompressed kernel without PVH ELF Note",
        "qemu-system-x86_64: Error while loading elf kernel",
    ],
)
def test_a_kernel_that_qemu_refuses(said: str) -> None:
    failure = explain_boot(BootSight((), NONCE, output=said))
    assert failure is not None
    assert failure.end is BootEnd.NO_KERNEL
    assert failure.last_lines == ()


def test_a_qemu_that_does_not_start_is_no_boot() -> None:
    assert explain_boot(BootSight((), NONCE, output="qemu: -cpu max: unknown option")) is None
    assert explain_boot(BootSight((), NONCE)) is None


def test_each_mark_of_init_has_a_hint() -> None:
    """What ``images/guest/init`` can fail of is known here, by name."""
    guest = Path(__file__).parents[2] / "images/guest"
    marks = re.findall(r"\|\| fail (\S+)", (guest / "init").read_text())
    assert len(marks) == 5
    for mark in marks:
        said = Record(0, 1.0, f"lab-{NONCE} boot initramfs")
        failed = Record(1, 1.1, f"lab-{NONCE} boot failed-{mark}")
        failure = explain_boot(BootSight((said, failed), NONCE))
        assert failure is not None
        assert failure.end is BootEnd.NO_ROOT
        assert failure.hint.startswith("the kernel needs "), mark


def test_marks_of_another_boot_say_nothing() -> None:
    marks = [Record(n, 1.0, f"lab-{NONCE} boot {word}") for n, word in enumerate(("root", "ready"))]
    failure = explain_boot(BootSight(marks, "f" * 16))
    assert failure is not None
    assert failure.end is BootEnd.BEFORE_INIT


def test_a_root_without_the_rest() -> None:
    failure = explain_boot(BootSight((Record(0, 1.0, f"lab-{NONCE} boot root"),), NONCE))
    assert failure is not None
    assert failure.end is BootEnd.IN_RC


def test_a_kernel_without_stamps_is_heard_too() -> None:
    banner = "\x1bc\x1b[2JLinux version 6.1.0 (a@b)"
    assert has_kernel_spoken((Record(0, None, banner),))
    assert not has_kernel_spoken(recorded("firmware.log"))


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.text(max_size=400)), st.text())
def test_whatever_is_on_the_console_is_shown_safely(texts: list[str], output: str) -> None:
    records = [Record(number, 1.0, text) for number, text in enumerate(texts)]
    failure = explain_boot(BootSight(records, NONCE, output=output))
    if failure is None:
        return
    assert len(failure.last_lines) <= MAX_LAST_LINES
    for line in failure.last_lines:
        assert line.isprintable()
        assert len(line) <= MAX_LINE
