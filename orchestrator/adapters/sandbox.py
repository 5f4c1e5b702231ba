"""Which walls stand on this host: each is tried, none is believed from a version."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from orchestrator.adapters.accelerator import KVM, cached_verdict, without_probing
from orchestrator.adapters.box import Box
from orchestrator.adapters.cache import Cache
from orchestrator.adapters.cgroup import check_bounds
from orchestrator.adapters.host import read_line
from orchestrator.adapters.machine import QEMU, everyone_may_use_kvm
from orchestrator.adapters.wall import find_wall
from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import HostError
from orchestrator.plan.qemu import SECCOMP

PROBE_SECONDS = 20.0
SANDBOX_VARIABLE = "LAB_REQUIRE_SANDBOX"


@dataclass(frozen=True)
class WallSeen:
    """A wall, whether it stands, what was found, and what puts it up."""

    name: str
    stands: bool
    found: str
    mend: str = ""
    required: bool = True
    """Whether a run that requires the sandbox needs it."""


def see_walls(cache: Cache) -> tuple[WallSeen, ...]:
    """All of them. Starts QEMU and bubblewrap, no guest; takes some 0.2 s."""
    return (*_namespaces(), _seccomp(), _identity(cache), _box(), _cgroup())


def _namespaces() -> tuple[WallSeen, WallSeen]:
    try:
        wall = find_wall(process.find_tool(QEMU))
    except HostError as error:
        why, mend = error.message, error.hint
        return (
            WallSeen("namespaces of QEMU", False, why, mend),
            WallSeen(
                "network of QEMU",
                False,
                "this machine's; guests have none (restrict=on), a broken QEMU would",
                mend,
            ),
        )
    return (
        WallSeen("namespaces of QEMU", True, f"{wall.namespaces}, all files read-only"),
        WallSeen("network of QEMU", True, "its own, with nobody in it"),
    )


def _seccomp() -> WallSeen:
    name = "system calls of QEMU"
    if not read_line(Path("/proc/sys/kernel/seccomp/actions_avail")):
        return WallSeen(name, False, "this kernel has no seccomp", "a kernel with CONFIG_SECCOMP")
    try:
        argv = (process.find_tool(QEMU), "-sandbox", SECCOMP, "--version")
        done = process.run(argv, deadline=Deadline.after(PROBE_SECONDS, "qemu -sandbox"))
    except HostError as error:
        return WallSeen(name, False, error.message, error.hint)
    if done.status != 0:
        return WallSeen(name, False, done.last_lines()[-200:], "a QEMU that is built with seccomp")
    return WallSeen(name, True, f"filtered (-sandbox {SECCOMP.partition(',')[0]})")


def _identity(cache: Cache) -> WallSeen:
    name = "user of QEMU"
    if os.geteuid() != 0:
        return WallSeen(name, True, "you, who can gain no privilege")
    try:
        decided = without_probing() or cached_verdict(cache)
    except HostError:
        decided = None
    kvm = decided.accelerator == "kvm" if decided else KVM.exists()
    if kvm and not everyone_may_use_kvm():
        mend = f"chgrp kvm {KVM} && chmod 0660 {KVM}"
        return WallSeen(name, False, f"root, without privileges: {KVM} is root's alone", mend)
    return WallSeen(name, True, "nobody, where the lab is root")


def _box() -> WallSeen:
    name = "box of builds"
    try:
        # The root of this machine does for an image's.
        Box(Path("/")).check()
    except HostError as error:
        return WallSeen(name, False, error.message, error.hint)
    return WallSeen(name, True, "an image's files, read-only, and no network")


def _cgroup() -> WallSeen:
    name = "bounds of a run"
    try:
        found = check_bounds()
    except HostError as error:
        return WallSeen(name, False, error.message, error.hint, required=False)
    return WallSeen(name, True, found, required=False)


def sandbox_is_required() -> bool:
    """Whether ``LAB_REQUIRE_SANDBOX`` says so."""
    return os.environ.get(SANDBOX_VARIABLE, "0") not in ("", "0")


def require_sandbox(cache: Cache) -> None:
    """Raise ``HostError`` for the first required wall that does not stand."""
    missing = [wall for wall in see_walls(cache) if wall.required and not wall.stands]
    if missing:
        first = missing[0]
        more = f" (and {len(missing) - 1} more: `lab doctor`)" if len(missing) > 1 else ""
        raise HostError(
            f"the sandbox is required, and a wall is missing: {first.name}: {first.found}{more}",
            hint=first.mend,
        )
