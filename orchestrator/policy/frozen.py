"""Frozen guests between runs: what one depends on, what is kept of it, and what it is made of."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator.adapters import sshstate
from orchestrator.adapters.accelerator import qemu_version
from orchestrator.adapters.cache import hash_of, sha256_of
from orchestrator.adapters.freezer import Freezer
from orchestrator.adapters.kbuild import BuiltModule
from orchestrator.adapters.kernels import Kernel
from orchestrator.adapters.machine import QEMU, Frozen, seal_memory
from orchestrator.adapters.programs import Program
from orchestrator.adapters.ssh import KeyPair
from orchestrator.foundation import process
from orchestrator.plan.leftovers import Names
from orchestrator.plan.qemu import Disk, GuestFds, GuestSpec, Memory, render_qemu_argv
from orchestrator.policy.guest import FrozenGuest, GuestPlan

FORMAT = 4
CPUINFO = Path("/proc/cpuinfo")


def frozen_key(
    bare: str, modules: Mapping[str, BuiltModule], programs: Sequence[Program] = ()
) -> str:
    """The name of a guest that is frozen with these in place; ``bare`` with nothing."""
    if not modules and not programs:
        return bare
    return f"{bare}-" + hash_of(
        sorted((name, sha256_of(module.path)) for name, module in modules.items()),
        sorted(program.sha256 + program.label for program in programs),
    )


def bare_key(plan: GuestPlan, kernel: Kernel, image_key: str) -> str:
    """The name of a guest that is frozen as it booted.

    Anything that may make another guest of it is in the name: QEMU and its command line, the
    processor where the guest has the host's, and every file that it boots from. Raises
    ``HostError`` where there is no QEMU.
    """
    return f"{plan.release}-" + hash_of(
        FORMAT,
        _qemu_identity(),
        _machine_identity(plan.spec),
        (kernel.key, kernel.vmlinuz_sha256, plan.files.kernel_path.name),
        plan.files.initramfs_path.parent.name,
        image_key,
    )


def _qemu_identity() -> tuple[str | int, ...]:
    path = Path(process.find_tool(QEMU)).resolve()
    about = path.stat()
    return (qemu_version(), str(path), about.st_size, about.st_mtime_ns)


def _machine_identity(spec: GuestSpec) -> tuple[object, ...]:
    fds = GuestFds(
        3, 4, 5, 6, 7, (Disk("image", 8), Disk("kernel", 9)), Memory(10, 11, private=True)
    )
    argv = render_qemu_argv(QEMU, spec, fds)
    if spec.accelerator != "kvm":
        return (argv,)
    same = ("model name", "stepping", "microcode", "flags")
    lines = CPUINFO.read_text().partition("\n\n")[0].splitlines()
    return (argv, [line for line in lines if line.startswith(same)])


def keep_frozen(freezer: Freezer, key: str, frozen: FrozenGuest, console: Path) -> None:
    """Keep a guest for later runs, if there is room. ``console`` is what it said until then."""
    machine, names = frozen.machine, frozen.names
    shared = machine.files.initramfs_path.stat().st_size
    about = {
        "nonce": machine.nonce,
        "secrets": base64.b64encode(machine.initrd[shared:]).decode(),
        "ssh": None if machine.ssh is None else sshstate.to_json(machine.ssh),
        "user_key": frozen.user_key.to_pem(),
        "host_key": frozen.host_key.to_pem(),
        "word": frozen.word,
        "names": asdict(names) | {"names": sorted(names.names)},
        "note": frozen.note,
        "unbuilt": {
            label: base64.b64encode(said).decode() for label, said in frozen.unbuilt.items()
        },
    }
    freezer.keep(key, about, machine.memory, machine.state, console)


def take_frozen(
    freezer: Freezer, key: str, plan: GuestPlan, memory: int, *, sealed: bool = True
) -> FrozenGuest | None:
    """A guest that an earlier run kept, with its memory in ``memory``; None if there is none.

    One that is not ``sealed`` is for a guest that is ``alone`` with it.
    """
    taken = freezer.take(key, memory)
    if taken is None:
        return None
    about, state = taken
    try:
        guest = _read(about, state, plan, memory)
    except (KeyError, TypeError, ValueError, AttributeError):
        freezer.drop(key)  # of another version of the lab, for one
        return None
    if sealed:
        seal_memory(memory)
    return guest


def _read(about: dict[str, Any], state: bytes, plan: GuestPlan, memory: int) -> FrozenGuest:
    initrd = plan.files.initramfs_path.read_bytes() + base64.b64decode(about["secrets"])
    ssh = None if about["ssh"] is None else sshstate.from_json(about["ssh"])
    machine = Frozen(plan.spec, plan.files, about["nonce"], initrd, memory, state, ssh)
    names = about["names"]
    return FrozenGuest(
        machine,
        KeyPair.from_pem(about["user_key"]),
        KeyPair.from_pem(about["host_key"]),
        about["word"],
        Names(names["taint"], frozenset(names["names"]), tuple(names["unread"])),
        about["note"],
        {label: base64.b64decode(said) for label, said in about.get("unbuilt", {}).items()},
    )
