"""Why a guest did not come up: how far its boot got, what stopped it, and what to do.

Three things are looked at: the console, with the marks that ``images/guest/init`` and ``rc``
leave there; what QEMU itself said; and, where the console is silent, the processor and the
SSH port, as only they tell a kernel that does not run from one that is not heard.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.plan.klog import Record
from orchestrator.plan.visible import clip, visible

MAX_LAST_LINES = 8
MAX_LINE = 160


class Processor(enum.Enum):
    """What the guest's first processor does, as far as its registers tell."""

    UNKNOWN = "unknown"
    BEFORE_KERNEL = "before-kernel"
    """Firmware, a loader, or whatever lies where a kernel should."""
    IN_KERNEL = "in-kernel"
    """A 64-bit kernel, or a program under it."""
    HALTED = "halted"
    """Halted with interrupts off: nothing wakes it any more."""


# QEMU's "info registers" for x86 (7.2, target/i386/cpu-dump.c, x86_cpu_dump_state()): RIP and
# RFL where the processor is in 64-bit mode, EIP and EFL before.
_POINTER = re.compile(r"\bRIP=([0-9a-f]{16})\b")
_FLAGS = re.compile(r"\b(?:RFL|EFL)=([0-9a-f]{8,16})\b.*?\bCPL=(\d)\b.*?\bHLT=(\d)\b", re.DOTALL)
_INTERRUPTS_ON = 1 << 9
# Documentation/arch/x86/x86_64/mm.rst: what a kernel maps for itself is above this.
_KERNEL_HALF = 0xFFFF_8000_0000_0000


def parse_processor(registers: str) -> Processor:
    """What QEMU's ``info registers`` says of a processor."""
    flags = _FLAGS.search(registers)
    if flags is None:
        return Processor.UNKNOWN
    if flags[3] == "1" and not int(flags[1], 16) & _INTERRUPTS_ON:
        return Processor.HALTED
    pointer = _POINTER.search(registers)
    if flags[2] == "3" or (pointer and int(pointer[1], 16) >= _KERNEL_HALF):
        return Processor.IN_KERNEL
    return Processor.BEFORE_KERNEL


@dataclass(frozen=True)
class BootSight:
    """What the host saw of a boot."""

    records: Sequence[Record]
    """The console, from its start."""
    nonce: str
    """The boot's own, by which its marks are told from others."""
    output: str = ""
    """What QEMU said."""
    processor: Processor = Processor.UNKNOWN
    answers_ssh: bool = False


class BootEnd(enum.Enum):
    """Where a boot ended; the value is the beginning of the sentence that tells it."""

    NO_KERNEL = "no kernel started"
    NO_CONSOLE = "no console: a kernel runs, but its serial console is silent"
    BEFORE_INIT = "the boot ended in the kernel, before init"
    NO_ROOT = "no root: the boot ended in the initramfs, before the guest's disks were mounted"
    NO_NETWORK = "no network: the guest has no eth0"
    IN_RC = "the boot ended with the root mounted, before the guest was ready"
    NO_SSH = "no SSH: the guest has booted, but does not let the lab in"


@dataclass(frozen=True)
class BootFailure:
    """A boot that failed, explained."""

    end: BootEnd
    hint: str
    """What to do about it."""
    last_lines: tuple[str, ...]
    """The last of the console, safe to show."""


def explain_boot(sight: BootSight) -> BootFailure | None:
    """How far a boot got that did not succeed; None where QEMU itself did not start.

    None also for a console of which nothing is known: neither a kernel's line, nor the
    firmware's, nor a processor.
    """
    marks = find_marks(sight.records, sight.nonce)
    end = _end(sight, marks)
    if end is None:
        return None
    return BootFailure(end, _hint(end, sight, marks), last_lines(sight.records))


def find_marks(records: Sequence[Record], nonce: str) -> tuple[str, ...]:
    """What the guest's init and rc of this boot said of themselves, in order."""
    prefix = f"lab-{nonce} boot "
    return tuple(
        record.text.removeprefix(prefix) for record in records if record.text.startswith(prefix)
    )


def last_lines(records: Sequence[Record]) -> tuple[str, ...]:
    """The last lines of a console that say anything, safe to show.

    Where the kernel panicked they end with that: what led to it says more than the trace.
    """
    panic = next((n for n, each in enumerate(records) if each.text.startswith(_PANIC)), None)
    found: list[str] = []
    for record in reversed(records if panic is None else records[: panic + 1]):
        text = record.before + record.text
        if text.strip():
            found.append(clip(visible(text), MAX_LINE))
        if len(found) == MAX_LAST_LINES:
            break
    return tuple(reversed(found))


_PANIC = "Kernel panic - not syncing: "
_BANNER = re.compile(r"Linux version \d")
# hw/i386/x86.c, x86_load_linux() and load_elfboot() of QEMU 7.2, and what its load_elf() says.
_REFUSED = re.compile(
    r"qemu: (?:linux kernel too old|could not (?:load|open) kernel|invalid kernel header|error "
    r"(?:reading|loading))|Error (?:loading uncompressed|while loading elf) kernel"
    r"|kernel does not support"
)


def _end(sight: BootSight, marks: Sequence[str]) -> BootEnd | None:
    if "failed-no-network" in marks:
        return BootEnd.NO_NETWORK
    if "ready" in marks:
        return BootEnd.NO_SSH
    if "root" in marks:
        return BootEnd.IN_RC
    if "initramfs" in marks:
        return BootEnd.NO_ROOT
    if has_kernel_spoken(sight.records):
        return BootEnd.BEFORE_INIT
    if sight.answers_ssh or sight.processor is Processor.IN_KERNEL:
        return BootEnd.NO_CONSOLE
    if _REFUSED.search(sight.output):
        return BootEnd.NO_KERNEL
    if sight.records or sight.processor is not Processor.UNKNOWN:
        return BootEnd.NO_KERNEL
    return None


def has_kernel_spoken(records: Sequence[Record]) -> bool:
    """Whether a kernel's line is among them.

    The firmware stamps none; without ``printk.time`` a kernel's own first line is known, which
    may stand behind the firmware's.
    """
    return any(record.time is not None or _BANNER.search(record.text) for record in records)


def _hint(end: BootEnd, sight: BootSight, marks: Sequence[str]) -> str:
    if end is BootEnd.NO_ROOT:
        return _root_hint(marks)
    if end is BootEnd.NO_NETWORK:
        return f"the kernel needs VIRTIO_NET{_unloaded(marks)}"
    if end is BootEnd.BEFORE_INIT:
        return _kernel_hint(sight.records)
    if end is BootEnd.NO_KERNEL and sight.processor is Processor.HALTED:
        return (
            "its loader or its first code gave up, as on a damaged kernel file or where memory is "
            "short: build or fetch the file anew, or raise `memory_mib` in `guest`"
        )
    if end is BootEnd.NO_CONSOLE and not sight.answers_ssh:
        return f"{_HINTS[end]}; and its file must be whole: a damaged vmlinux looks the same"
    return _HINTS[end]


_HINTS = {
    BootEnd.NO_KERNEL: "is the file a whole kernel for x86-64? file(1) must call it a Linux "
    "kernel x86 boot executable bzImage, or an ELF 64-bit executable where it is a vmlinux; build "
    "or fetch it anew, and raise `memory_mib` in `guest` where it is large",
    BootEnd.NO_CONSOLE: "the kernel needs SERIAL_8250_CONSOLE=y, and no argument in `guest` that "
    "takes ttyS0 away",
    BootEnd.IN_RC: "the last lines say what stopped it",
    BootEnd.NO_SSH: "rescue.log, beside the console's, has the guest's processes, addresses and "
    "listening ports; a busy host may want a longer `boot` in `timeouts`",
}

_ROOT_NEEDS = {
    "failed-no-disk": "the kernel needs VIRTIO_PCI and VIRTIO_BLK",
    "failed-no-image": "the kernel needs SQUASHFS with SQUASHFS_LZ4",
    "failed-no-kernel-layer": "the kernel needs SQUASHFS with SQUASHFS_LZ4",
    "failed-no-tmpfs": "the kernel needs TMPFS",
    "failed-no-overlay": "the kernel needs OVERLAY_FS",
}
_NO_MODULE = "no-module-"


def _root_hint(marks: Sequence[str]) -> str:
    need = next((_ROOT_NEEDS[mark] for mark in marks if mark in _ROOT_NEEDS), "")
    return (need or "the console says what init did last") + _unloaded(marks)


def _unloaded(marks: Sequence[str]) -> str:
    """The modules of the initramfs that the kernel refused, if it did."""
    names = [mark.removeprefix(_NO_MODULE) for mark in marks if mark.startswith(_NO_MODULE)]
    if not names:
        return ""
    return f"; it refused to load {', '.join(clip(visible(name), MAX_LINE) for name in names[:5])}"


# What the kernel says of a start without init: init/do_mounts.c and init/main.c, 4.4 to 7.3.
_NO_INIT = re.compile(
    r"VFS: (?:Unable to mount root fs|Cannot open root device)"
    r"|Kernel panic - not syncing: (?:No working init found|No init found|Requested init )"
)
_TOLD_INIT = re.compile(r"Kernel command line: .*\b(?:rd)?init=")
_NO_MEMORY = re.compile(r"Kernel panic - not syncing: (?:Out of memory|System is deadlocked)")


def _kernel_hint(records: Sequence[Record]) -> str:
    def says(pattern: re.Pattern[str]) -> bool:
        return any(pattern.match(record.text) for record in records)

    if says(_NO_MEMORY):
        return "raise `memory_mib` in `guest`"
    if says(_NO_INIT) and says(_TOLD_INIT):
        return "the guest's init is the lab's own: no `init=` or `rdinit=` in `guest`"
    if says(_NO_INIT):
        return (
            "the kernel needs BLK_DEV_INITRD, BINFMT_ELF and BINFMT_SCRIPT to run the lab's "
            "initramfs, and `memory_mib` in `guest` must hold it"
        )
    return "the last lines say what the kernel did; arguments in `guest` come behind the lab's own"
