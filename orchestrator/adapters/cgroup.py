"""What bounds a whole run: the cgroup that it is in, or a scope of systemd's that it enters.

Each process has limits of its own (``machine.py``); what several guests take together, and the
processors, only a cgroup bounds. An ordinary user has one to give limits to from systemd, where
cgroup v2 is delegated to the user's own manager.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from orchestrator.adapters import host
from orchestrator.foundation import process
from orchestrator.foundation.errors import HostError

# systemd.resource-control(5). A run has no more of the processors than anything else of the user's
# that wants them, and half of what that has where both do.
CPU_WEIGHT = 50
TASKS_MAX = 8192
# What stays for the rest of the machine.
SPARED = 0.15
ENTERED = "KMOD_LAB_IN_SCOPE"
WITHOUT_SYSTEMD = "run the lab in a cgroup with limits, as containers have"


def check_bounds(root: Path = host.ROOT) -> str:
    """The bounds that the present cgroup gives, in words.

    Raises ``HostError`` where memory or processes have none.
    """
    least, _ = host.cgroup_limits(root)
    if least["memory"] is None or least["processes"] is None:
        hint = "lab run --scope" if has_manager() else WITHOUT_SYSTEMD
        raise HostError(
            f"each guest has limits, all together have none: {host.limits(root)}", hint=hint
        )
    return host.limits(root)


def has_manager() -> bool:
    """Whether the user's own systemd runs, or the system's where the lab is root."""
    return _manager_socket().exists()


def _manager_socket() -> Path:
    # systemd's own private socket, src/shared/bus-util.c of systemd 252.
    if os.geteuid() == 0:
        return Path("/run/systemd/private")
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    return Path(runtime, "systemd/private")


def scope_argv(tool: str, command: Sequence[str], *, memory_mib: int, user: bool) -> list[str]:
    """What runs ``command`` in a scope, with bounds for all of it together (systemd-run(1))."""
    bounds = {
        "MemoryMax": f"{memory_mib}M",
        "MemorySwapMax": "0",
        "TasksMax": str(TASKS_MAX),
        "CPUWeight": str(CPU_WEIGHT),
    }
    return [
        *(tool, *(("--user",) if user else ()), "--scope", "--quiet", "--collect"),
        *(f"--property={name}={value}" for name, value in bounds.items()),
        *("--", *command),
    ]


def enter_scope(command: Sequence[str]) -> None:
    """Go on as ``command`` in a scope with bounds: returns only where that was done before.

    Raises ``HostError`` where this machine has no cgroup v2, or no systemd to ask.
    """
    if os.environ.get(ENTERED):
        return
    if not (host.ROOT / "sys/fs/cgroup/cgroup.controllers").exists():
        raise HostError("--scope takes cgroup v2, and this machine has v1", hint=WITHOUT_SYSTEMD)
    if not has_manager():
        raise HostError("--scope takes systemd, and none answers here", hint=WITHOUT_SYSTEMD)
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    argv = scope_argv(
        process.find_tool("systemd-run", hint="--scope takes systemd"),
        command,
        memory_mib=int(total * (1 - SPARED)),
        user=os.geteuid() != 0,
    )
    try:
        os.execve(argv[0], argv, {**os.environ, ENTERED: "1"})
    except OSError as error:
        raise HostError(f"cannot start {argv[0]}: {error.strerror}") from error
