"""The QEMU command line as a pure function of a small value.

Every outside thing (kernel, initramfs, disks, sockets) is handed to QEMU as an open
descriptor: it needs no path of ours, no permission on the cache, and no port or
socket name that another process could take first. The console is its standard input
and output.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Accelerator = Literal["kvm", "tcg"]

# Where a guest calls the lab. A connection that was made from inside is part of the guest when it
# is frozen (slirp_state_save() in libslirp's src/state.c); one to a forwarded port is not.
DIALLED = ("10.0.2.100", 22)

# What every guest boots with, or the lab could not see what its kernel does.
BASE_ARGUMENTS: tuple[str, ...] = (
    "console=ttyS0",  # the kernel's log goes to the host from the first line
    "ignore_loglevel",  # all of it, whatever the level
    "log_buf_len=4M",  # so that a burst does not overwrite what was not yet printed
    "printk.time=1",
    "printk.devkmsg=on",  # our markers must not be rate-limited (since 4.10)
    "panic=-1",  # reboot at once: QEMU's -no-reboot turns that into an exit
    "net.ifnames=0",
)
# What spares time or false alarms, by its name, and why it is safe for a test of modules. A lab
# can do without.
SPARING_ARGUMENTS: Mapping[str, str] = {
    # The timer-routing test fails at random on busy emulated machines.
    "no_timer_check": "no_timer_check",
    # The guest's first key exchange must not wait for entropy (4.19).
    "random.trust_cpu": "random.trust_cpu=on",
    # No clock-source watchdog: it fires on a busy host, not on bad modules.
    "tsc": "tsc=reliable",
    # Self-tests of the crypto API, and a search for RAIDs: no part of a module's test.
    "cryptomgr.notests": "cryptomgr.notests",
    "raid": "raid=noautodetect",
    # Programs lie where they always lie, and so code that was translated for one process serves
    # the next: a command costs 0.07 s of a processor instead of 0.16 in an emulated guest (6.1).
    # Where a process has its memory is no business of a module's.
    "norandmaps": "norandmaps",
    # Against attacks on the processor by its own programs (5.2): a tenth of an emulated guest's
    # time. What a module does, and what the kernel checks, is the same.
    "mitigations": "mitigations=off",
}

# What a guest has no use for, by the names of properties of QEMU's q35: a screen, VMware's port, an
# AHCI controller, the SMBus, and a keyboard (its own since 7.0). Looking for each costs time.
UNUSED_PARTS = ("graphics", "vmport", "sata", "smbus", "i8042")
# Starts a kernel, a bzImage as well as a vmlinux, and does nothing else. It is part of QEMU.
QUICK_FIRMWARE = "qboot.rom"


@dataclass(frozen=True)
class Board:
    """The computer around a guest's processors and devices."""

    machine: str
    """QEMU's name for it."""
    without: tuple[str, ...]
    """Parts of it that are left out."""
    firmware: str | None = None
    """Where guests are emulated; None for QEMU's own choice."""


# What every QEMU has. The interrupts of its PCI devices are told by code in its ACPI tables, which
# the guest runs for each device: an eighth of an emulated boot.
PC = Board("pc", ("graphics", "vmport"))


def choose_board(told: str, *, has_quick_firmware: bool) -> Board:
    """The board that guests boot quickest on, from what ``-machine q35,help`` told."""
    properties = frozenset(re.findall(r"^\s+([a-z0-9-]+)=<", told, re.MULTILINE))
    without = tuple(part for part in UNUSED_PARTS if part in properties)
    if not without:
        return PC
    return Board("q35", without, QUICK_FIRMWARE if has_quick_firmware else None)


# What of the kernel QEMU may ask no more: its own sandbox.
SECCOMP = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@dataclass(frozen=True)
class Disk:
    """A raw image that the guest sees read-only as a virtio disk."""

    name: str
    fd: int


@dataclass(frozen=True)
class Memory:
    """A file that is the guest's memory."""

    fd: int
    state: int | None = None
    """Where the devices' state is that the guest goes on from; None for one that boots."""
    private: bool = False
    """Whether what it writes stays its own, and is not written to the file."""


@dataclass(frozen=True)
class GuestFds:
    """Descriptors that QEMU inherits, by number."""

    kernel: int
    initrd: int
    qmp: int
    rescue: int
    dialled: int
    """What the guest reaches when it calls ``DIALLED``."""
    disks: tuple[Disk, ...] = ()
    memory: Memory | None = None
    """None for memory that is QEMU's alone."""

    @property
    def numbers(self) -> tuple[int, ...]:
        """All of them."""
        found = [self.kernel, self.initrd, self.qmp, self.rescue, self.dialled]
        found += [disk.fd for disk in self.disks]
        if self.memory is not None:
            found.append(self.memory.fd)
            found += [] if self.memory.state is None else [self.memory.state]
        return tuple(found)


@dataclass(frozen=True)
class GuestSpec:
    """A guest, apart from its descriptors."""

    accelerator: Accelerator
    memory_mib: int
    cpus: int
    arguments: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    """Names of ``SPARING_ARGUMENTS`` that it does without."""
    network: bool = True
    board: Board = PC


def kernel_command_line(spec: GuestSpec) -> str:
    """What the guest's kernel is told: ours first, so that a lab's own arguments win."""
    sparing = (text for name, text in SPARING_ARGUMENTS.items() if name not in spec.without)
    return " ".join((*BASE_ARGUMENTS, *sparing, *spec.arguments))


def render_qemu_argv(binary: str, spec: GuestSpec, fds: GuestFds) -> tuple[str, ...]:
    """QEMU's command line for a guest.

    The options exist since QEMU 5.0; measured with 7.2.
    """
    return (
        binary,
        *_machine(spec, fds.memory),
        *("-kernel", _path(fds.kernel), "-initrd", _path(fds.initrd)),
        *("-append", kernel_command_line(spec)),
        *_sockets(fds),
        *(part for disk in fds.disks for part in _disk(disk)),
        *(_network(fds) if spec.network else ("-nic", "none")),
        *("-device", "virtio-rng-pci,rng=rng0", "-object", "rng-builtin,id=rng0"),
    )


def _path(fd: int) -> str:
    return f"/proc/self/fd/{fd}"


def _machine(spec: GuestSpec, memory: Memory | None) -> tuple[str, ...]:
    parts = (spec.board.machine, *(f"{part}=off" for part in spec.board.without))
    machine = ",".join((*parts, *(("memory-backend=ram",) if memory else ())))
    accel = "kvm" if spec.accelerator == "kvm" else "tcg,thread=multi,tb-size=256"
    cpu = "host" if spec.accelerator == "kvm" else "max"
    return (
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *("-sandbox", SECCOMP),
        # -no-reboot: a guest that reboots ends QEMU, so that a lost kernel is never
        # mistaken for one that came back.
        *("-no-reboot", "-machine", machine, "-accel", accel, "-cpu", cpu),
        *_firmware(spec),
        *("-m", f"{spec.memory_mib}M", "-smp", str(spec.cpus)),
        *(_memory(spec, memory) if memory else ()),
    )


def _firmware(spec: GuestSpec) -> tuple[str, ...]:
    # Under KVM there is little to gain, and nobody has seen the quick one there.
    if spec.board.firmware is None or spec.accelerator == "kvm":
        return ()
    return ("-bios", spec.board.firmware)


def _memory(spec: GuestSpec, memory: Memory) -> tuple[str, ...]:
    # share: a guest that is to be frozen writes its memory to the file; the guests that go on
    # from there map it copy-on-write.
    share = "off" if memory.private else "on"
    return (
        "-object",
        f"memory-backend-file,id=ram,size={spec.memory_mib}M,mem-path={_path(memory.fd)},"
        f"share={share}",
        *(() if memory.state is None else ("-incoming", "defer")),
    )


def _sockets(fds: GuestFds) -> tuple[str, ...]:
    return (
        *("-chardev", f"socket,id=qmp,fd={fds.qmp}", "-mon", "chardev=qmp,mode=control"),
        *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
        *("-chardev", f"socket,id=rescue,fd={fds.rescue}", "-serial", "chardev:rescue"),
    )


def _disk(disk: Disk) -> tuple[str, ...]:
    return (
        "-blockdev",
        f"driver=file,node-name={disk.name}-file,filename={_path(disk.fd)},read-only=on,"
        "locking=off,cache.direct=off",
        "-blockdev",
        f"driver=raw,node-name={disk.name},file={disk.name}-file,read-only=on",
        "-device",
        f"virtio-blk-pci,drive={disk.name},serial={disk.name}",
    )


def _network(fds: GuestFds) -> tuple[str, ...]:
    # Port 0: QEMU binds a free one itself, so that parallel guests never race for it.
    host, port = DIALLED
    forward = f"hostfwd=tcp:127.0.0.1:0-:22,guestfwd=tcp:{host}:{port}-chardev:dialled"
    return (
        *("-chardev", f"socket,id=dialled,fd={fds.dialled}"),
        *("-netdev", f"user,id=net0,restrict=on,ipv6=off,{forward}"),
        *("-device", "virtio-net-pci,netdev=net0,romfile="),
    )
