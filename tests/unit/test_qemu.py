"""QEMU's command line, as it is and stays until somebody means to change it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import get_args

import pytest

from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.plan.model import SparingArgument
from orchestrator.plan.qemu import (
    PC,
    QUICK_FIRMWARE,
    SPARING_ARGUMENTS,
    Board,
    Disk,
    GuestFds,
    GuestSpec,
    Memory,
    choose_board,
    kernel_command_line,
    render_qemu_argv,
)

FDS = GuestFds(
    kernel=10,
    initrd=11,
    qmp=12,
    rescue=14,
    dialled=13,
    disks=(Disk("image", 15), Disk("kernel", 16)),
)
TCG = GuestSpec("tcg", memory_mib=512, cpus=2)
COMMAND_LINE = (
    "console=ttyS0 ignore_loglevel log_buf_len=4M printk.time=1 printk.devkmsg=on panic=-1 "
    "net.ifnames=0 no_timer_check random.trust_cpu=on tsc=reliable cryptomgr.notests "
    "raid=noautodetect norandmaps mitigations=off"
)
GOLDEN = f"""\
/usr/bin/qemu
-nodefaults
-no-user-config
-display none
-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
-no-reboot
-machine pc,graphics=off,vmport=off
-accel tcg,thread=multi,tb-size=256
-cpu max
-m 512M
-smp 2
-kernel /proc/self/fd/10
-initrd /proc/self/fd/11
-append {COMMAND_LINE}
-chardev socket,id=qmp,fd=12
-mon chardev=qmp,mode=control
-chardev stdio,id=console,signal=off
-serial chardev:console
-chardev socket,id=rescue,fd=14
-serial chardev:rescue
-blockdev driver=file,node-name=image-file,filename=/proc/self/fd/15,read-only=on,\
locking=off,cache.direct=off
-blockdev driver=raw,node-name=image,file=image-file,read-only=on
-device virtio-blk-pci,drive=image,serial=image
-blockdev driver=file,node-name=kernel-file,filename=/proc/self/fd/16,read-only=on,\
locking=off,cache.direct=off
-blockdev driver=raw,node-name=kernel,file=kernel-file,read-only=on
-device virtio-blk-pci,drive=kernel,serial=kernel
-chardev socket,id=dialled,fd=13
-netdev user,id=net0,restrict=on,ipv6=off,hostfwd=tcp:127.0.0.1:0-:22,\
guestfwd=tcp:10.0.2.100:22-chardev:dialled
-device virtio-net-pci,netdev=net0,romfile=
-device virtio-rng-pci,rng=rng0
-object rng-builtin,id=rng0
"""


def shown(argv: tuple[str, ...]) -> str:
    """An option and its value on a line."""
    text = argv[0]
    for part in argv[1:]:
        text += ("\n" if part.startswith("-") else " ") + part
    return text + "\n"


def test_the_whole_command_line() -> None:
    assert shown(render_qemu_argv("/usr/bin/qemu", TCG, FDS)) == GOLDEN


def test_kvm_changes_the_accelerator_and_the_processor_alone() -> None:
    argv = shown(render_qemu_argv("/usr/bin/qemu", replace(TCG, accelerator="kvm"), FDS))
    assert argv == GOLDEN.replace("-accel tcg,thread=multi,tb-size=256", "-accel kvm").replace(
        "-cpu max", "-cpu host"
    )


# What QEMU 7.2 tells of it, cut to what is near what counts.
Q35_HELP = """\
pc-q35-7.2-machine options:
  acpi=<OnOffAuto>       - Enable ACPI
  graphics=<bool>        - Set on/off to enable/disable graphics emulation
  i8042=<bool>
  pit=<OnOffAuto>        - Enable i8254 PIT
  sata=<bool>            - Enable/disable Serial ATA bus
  smbus=<bool>           - Enable/disable system management bus
  vmport=<OnOffAuto>     - Enable vmport (pc & q35)
"""
QUICK = Board("q35", ("graphics", "vmport", "sata", "smbus", "i8042"), QUICK_FIRMWARE)


def test_a_q35_goes_without_what_no_guest_needs() -> None:
    assert choose_board(Q35_HELP, has_quick_firmware=True) == QUICK
    argv = shown(render_qemu_argv("/usr/bin/qemu", replace(TCG, board=QUICK), FDS))
    assert argv == GOLDEN.replace(
        "-machine pc,graphics=off,vmport=off",
        "-machine q35,graphics=off,vmport=off,sata=off,smbus=off,i8042=off",
    ).replace("-cpu max\n", "-cpu max\n-bios qboot.rom\n")


def test_only_what_this_qemu_can_leave_out_is_left_out() -> None:
    """QEMU 6.2 has no such property."""
    told = Q35_HELP.replace("  i8042=<bool>\n", "")
    board = choose_board(told, has_quick_firmware=False)
    assert board == Board("q35", ("graphics", "vmport", "sata", "smbus"))
    argv = render_qemu_argv("qemu", replace(TCG, board=board), FDS)
    assert argv[argv.index("-machine") + 1] == "q35,graphics=off,vmport=off,sata=off,smbus=off"
    assert "-bios" not in argv


@pytest.mark.parametrize("told", ["", "qemu-system-x86_64: unsupported machine type"])
def test_without_a_q35_it_is_a_pc(told: str) -> None:
    assert choose_board(told, has_quick_firmware=True) == PC


def test_under_kvm_the_firmware_is_qemus_own_choice() -> None:
    argv = render_qemu_argv("qemu", replace(TCG, accelerator="kvm", board=QUICK), FDS)
    assert "-bios" not in argv
    assert argv[argv.index("-machine") + 1].startswith("q35,")


def test_a_probe_has_no_network_and_no_disk() -> None:
    spec = GuestSpec("kvm", memory_mib=256, cpus=1, network=False)
    argv = render_qemu_argv("qemu", spec, replace(FDS, disks=()))
    assert argv[argv.index("-nic") + 1] == "none"
    assert not {"-netdev", "-blockdev"} & set(argv)
    assert (argv[argv.index("-m") + 1], argv[argv.index("-smp") + 1]) == ("256M", "1")


def test_a_labs_own_arguments_come_last_and_so_win() -> None:
    spec = replace(TCG, arguments=("panic=10", "dyndbg=module hello +p"))
    assert kernel_command_line(spec) == COMMAND_LINE + " panic=10 dyndbg=module hello +p"


@pytest.mark.parametrize("sample", ["-no-reboot", "-no-user-config", "-nodefaults"])
def test_what_keeps_a_guest_honest_is_always_there(sample: str) -> None:
    for spec in (TCG, replace(TCG, accelerator="kvm"), replace(TCG, network=False)):
        assert sample in render_qemu_argv("qemu", spec, FDS)


def test_disks_can_only_be_read() -> None:
    argv = render_qemu_argv("qemu", TCG, FDS)
    blocks = [argv[at + 1] for at, part in enumerate(argv) if part == "-blockdev"]
    assert len(blocks) == 4
    assert all("read-only=on" in block for block in blocks)


@pytest.mark.parametrize("quick", [False, True])
def test_qemu_itself_takes_every_option(quick: bool) -> None:
    """All but the descriptors: QEMU must get as far as not finding those."""
    binary = shutil.which("qemu-system-x86_64")
    if binary is None:
        pytest.skip("no qemu-system-x86_64 here")
    spec = TCG
    if quick:
        help_argv = (binary, "-machine", "q35,help")
        told = process.run(help_argv, deadline=Deadline.after(20, "qemu")).stdout.decode()
        spec = replace(TCG, board=choose_board(told, has_quick_firmware=False))
        assert spec.board.machine == "q35"
    argv = (*render_qemu_argv(binary, spec, FDS), "-S")
    done = process.run(argv, deadline=Deadline.after(20, "qemu"))
    assert done.status == 1
    said = done.stderr.decode()
    assert "fd" in said
    assert not any(word in said for word in ("invalid option", "unknown", "not supported"))


def test_memory_in_a_file_is_shared_by_who_boots_and_private_to_who_goes_on() -> None:
    booting = render_qemu_argv("qemu", TCG, replace(FDS, memory=Memory(20)))
    going_on = render_qemu_argv("qemu", TCG, replace(FDS, memory=Memory(20, 21, private=True)))
    for argv, share in ((booting, "on"), (going_on, "off")):
        objects = [argv[at + 1] for at, part in enumerate(argv) if part == "-object"]
        assert objects[0] == (
            f"memory-backend-file,id=ram,size=512M,mem-path=/proc/self/fd/20,share={share}"
        )
        assert argv[argv.index("-machine") + 1].endswith(",memory-backend=ram")
    assert "-incoming" not in booting
    assert going_on[going_on.index("-incoming") + 1] == "defer"


def test_a_guest_that_goes_on_is_the_same_machine() -> None:
    booting = render_qemu_argv("qemu", TCG, replace(FDS, memory=Memory(20)))
    going_on = render_qemu_argv("qemu", TCG, replace(FDS, memory=Memory(20, 21, private=True)))
    assert shown(going_on) == shown(booting).replace("share=on", "share=off\n-incoming defer")


def test_every_descriptor_is_handed_over() -> None:
    assert FDS.numbers == (10, 11, 12, 14, 13, 15, 16)
    assert replace(FDS, memory=Memory(20)).numbers == (*FDS.numbers, 20)
    assert replace(FDS, memory=Memory(20, 21)).numbers == (*FDS.numbers, 20, 21)


def test_what_spares_time_can_be_left_out_by_name() -> None:
    assert set(SPARING_ARGUMENTS) == set(get_args(SparingArgument))
    assert all(text.split("=")[0] == name for name, text in SPARING_ARGUMENTS.items())
    spec = replace(TCG, without=("mitigations", "tsc"), arguments=("quiet",))
    left = COMMAND_LINE.replace(" mitigations=off", "").replace(" tsc=reliable", "")
    assert kernel_command_line(spec) == f"{left} quiet"
