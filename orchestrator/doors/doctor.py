"""``lab doctor``: what this machine lacks, and the command that mends it."""

from __future__ import annotations

import getpass
import json
import os
import platform
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from orchestrator.adapters.accelerator import KVM, cached_verdict, qemu_version, without_probing
from orchestrator.adapters.apt import DEBIAN_KEYRING, HOST_KEYRINGS
from orchestrator.adapters.cache import Cache, default_cache_dir
from orchestrator.adapters.host import tool_version
from orchestrator.adapters.sandbox import require_sandbox, sandbox_is_required, see_walls
from orchestrator.doors.facts import collect_facts, collect_network, lab_version, private
from orchestrator.foundation import process
from orchestrator.foundation.errors import EXIT_BROKEN, EXIT_PASSED, HostError
from orchestrator.policy.capacity import available_mib

System = Literal["debian", "fedora", "arch"]
# One guest image, one kernel and their packages take about 0.4 GiB.
CACHE_GIB_WANTED = 4
MEMORY_MIB_WANTED = 1536
COLUMNS = 80

INSTALL: dict[System, str] = {
    "debian": "apt-get install --no-install-recommends",
    "fedora": "dnf install",
    "arch": "pacman -S --needed",
}
# Tool by tool: the package that has it on each system.
PACKAGES: dict[str, dict[System, str]] = {
    "qemu-system-x86_64": {
        "debian": "qemu-system-x86",
        "fedora": "qemu-system-x86-core",
        "arch": "qemu-system-x86",
    },
    "mmdebstrap": {"debian": "mmdebstrap", "fedora": "mmdebstrap", "arch": "mmdebstrap"},
    "apt-get": {"debian": "apt", "fedora": "apt", "arch": "apt"},
    "dpkg-deb": {"debian": "dpkg", "fedora": "dpkg", "arch": "dpkg"},
    "gpgv": {"debian": "gpgv", "fedora": "gnupg2", "arch": "gnupg"},
    "sqfstar": {"debian": "squashfs-tools", "fedora": "squashfs-tools", "arch": "squashfs-tools"},
    "mksquashfs": {
        "debian": "squashfs-tools",
        "fedora": "squashfs-tools",
        "arch": "squashfs-tools",
    },
    "unsquashfs": {
        "debian": "squashfs-tools",
        "fedora": "squashfs-tools",
        "arch": "squashfs-tools",
    },
    "bwrap": {"debian": "bubblewrap", "fedora": "bubblewrap", "arch": "bubblewrap"},
    "env": {"debian": "coreutils", "fedora": "coreutils", "arch": "coreutils"},
    "depmod": {"debian": "kmod", "fedora": "kmod", "arch": "kmod"},
    "setpriv": {"debian": "util-linux", "fedora": "util-linux", "arch": "util-linux"},
    "prlimit": {"debian": "util-linux", "fedora": "util-linux-core", "arch": "util-linux"},
    "unshare": {"debian": "util-linux", "fedora": "util-linux-core", "arch": "util-linux"},
}
# What single commands call, by tool; all others can do without.
OPTIONAL: dict[str, str] = {"gdb": "lab gdb"}
ROOTLESS_TOOL = "newuidmap"
ROOTLESS_PACKAGES: dict[System, str] = {
    "debian": "uidmap",
    "fedora": "shadow-utils",
    "arch": "shadow",
}
KEYRING_PACKAGES: dict[System, str] = {
    "debian": "debian-archive-keyring",
    "fedora": "debian-keyring",
    "arch": "debian-archive-keyring",
}
# Without it mmdebstrap takes every release for one of Debian's, and looks for Ubuntu's there.
RELEASE_NAMES = Path("/usr/share/distro-info/ubuntu.csv")
RELEASE_NAMES_PACKAGES: dict[System, str] = {
    "debian": "distro-info-data",
    "fedora": "distro-info-data",
    "arch": "distro-info-data",
}


@dataclass(frozen=True)
class Check:
    """One thing looked at: well or not, what was found, and what mends it."""

    name: str
    well: bool
    found: str
    mend: str = ""
    needed: bool = True
    """Whether the lab cannot work without it."""


def host_system() -> System:
    """Which family of distributions this is, by ``/etc/os-release``; Debian's if unknown."""
    try:
        text = Path("/etc/os-release").read_text().lower()
    except OSError:
        return "debian"
    words = {
        word
        for line in text.splitlines()
        if line.startswith(("id=", "id_like="))
        for word in line.split("=", 1)[1].strip('"').split()
    }
    if words & {"fedora", "rhel", "centos"}:
        return "fedora"
    return "arch" if "arch" in words else "debian"


def check_host(*, versions: bool = False) -> tuple[Check, ...]:
    """Everything that can be seen without starting a guest or touching the network.

    With ``versions`` each tool is asked for its own, which takes some milliseconds each.
    """
    system = host_system()
    return (
        _python(),
        _architecture(),
        *(
            _tool(name, packages[system], system, versions=versions)
            for name, packages in PACKAGES.items()
        ),
        *(_optional(name, user, system, versions=versions) for name, user in OPTIONAL.items()),
        *_rootless(system),
        _keyring(system),
        _release_names(system),
        _cache_room(),
        _memory(),
        _accelerator(),
    )


def require_host(*, sandbox: bool = False) -> None:
    """Raise ``HostError`` for the first thing that the lab cannot work without.

    With ``sandbox``, or where ``LAB_REQUIRE_SANDBOX`` says so, a missing wall is one.
    """
    lacking = [check for check in check_host() if not check.well and check.needed]
    if lacking:
        first = lacking[0]
        more = f" (and {len(lacking) - 1} more: `lab doctor`)" if len(lacking) > 1 else ""
        raise HostError(f"{first.name}: {first.found}{more}", hint=first.mend)
    if sandbox or sandbox_is_required():
        require_sandbox(Cache(default_cache_dir()))


def check_walls() -> tuple[Check, ...]:
    """The walls of the sandbox: all are tried, which starts QEMU and bubblewrap, and no guest."""
    return tuple(
        Check(wall.name, wall.stands, wall.found, wall.mend, needed=False)
        for wall in see_walls(Cache(default_cache_dir()))
    )


def report(
    lab_path: Path = Path("lab.yaml"), *, network: bool = False, as_json: bool = False
) -> int:
    """Print every check and what a bug report needs beside them; the exit status."""
    checks, walls = check_host(versions=True), check_walls()
    facts = collect_facts(lab_path)
    reached = collect_network(Cache(default_cache_dir())) if network else {}
    lacking = sum(not check.well and check.needed for check in checks)
    if as_json:
        _print_json(checks, walls, facts, reached, able=not lacking)
    else:
        _print_text(checks, walls, facts, reached)
        if lacking:
            print(f"{lacking} of these must be mended before `lab run` can work.")
        else:
            print("This machine can run the lab.")
    return EXIT_BROKEN if lacking else EXIT_PASSED


def _print_text(
    checks: tuple[Check, ...],
    walls: tuple[Check, ...],
    facts: Mapping[str, str],
    reached: Mapping[str, str],
) -> None:
    print(f"{lab_version()}, Python {platform.python_version()}")
    for title, values in (("this machine:", facts), ("network:", reached)):
        if values:
            print(title)
        width = max(map(len, values), default=0)
        for name, found in values.items():
            print(*_wrapped(f"  {name:<{width}}  ", found), sep="\n")
    for title, looked_at in (("checks:", checks), ("walls of the sandbox:", walls)):
        print(title)
        _print_checks(looked_at)


def _print_checks(checks: tuple[Check, ...]) -> None:
    for check in checks:
        sign = "ok " if check.well else ("NO " if check.needed else "-- ")
        print(*_wrapped(f"  {sign} {check.name:<20} ", private(check.found)), sep="\n")
        if not check.well and check.mend:
            # A command stays in one line, to be copied.
            line = f"      mend: {check.mend}"
            print(line if len(line) <= COLUMNS else f"      mend:\n    {check.mend}")


def _wrapped(head: str, text: str) -> Iterator[str]:
    """Lines of at most ``COLUMNS``, the text beside what it is of."""
    lines = textwrap.wrap(text, COLUMNS - len(head), break_on_hyphens=False) or [""]
    yield f"{head}{lines[0]}"
    yield from (f"{'':{len(head)}}{line}" for line in lines[1:])


def _print_json(
    checks: tuple[Check, ...],
    walls: tuple[Check, ...],
    facts: Mapping[str, str],
    reached: Mapping[str, str],
    *,
    able: bool,
) -> None:
    value = {
        "lab": lab_version().removeprefix("lab "),
        "python": platform.python_version(),
        "able": able,
        "facts": facts,
        "network": reached,
        "checks": [{**asdict(check), "found": private(check.found)} for check in checks],
        "walls": [{**asdict(wall), "found": private(wall.found)} for wall in walls],
    }
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _python() -> Check:
    return Check("Python", sys.version_info >= (3, 11), platform.python_version(), "Python 3.11")


def _architecture() -> Check:
    machine = platform.machine()
    return Check(
        "processor", machine == "x86_64", machine, "the lab's guests are x86_64, and so is its host"
    )


def _tool(name: str, package: str, system: System, *, versions: bool = False) -> Check:
    mend = f"{_sudo()}{INSTALL[system]} {package}"
    try:
        path = process.find_tool(name)
        version = tool_version(name, path) if versions and not name.startswith("qemu") else ""
        found = f"{qemu_version()}, {path}" if name.startswith("qemu") else path
    except HostError:
        return Check(name, False, "not installed", mend)
    return Check(name, True, f"{version}, {found}" if version else found)


def _sudo() -> str:
    return "" if os.geteuid() == 0 else "sudo "


def _optional(name: str, user: str, system: System, *, versions: bool) -> Check:
    """A tool that is called as its package on every system."""
    check = _tool(name, name, system, versions=versions)
    found = check.found if check.well else f"{check.found}: `{user}` alone calls it"
    return replace(check, found=found, needed=False)


def _rootless(system: System) -> tuple[Check, ...]:
    """What making images takes when one is not root."""
    if os.geteuid() == 0:
        return ()
    tool = _tool(ROOTLESS_TOOL, ROOTLESS_PACKAGES[system], system)
    user = getpass.getuser()
    try:
        lines = Path("/etc/subuid").read_text().splitlines()
    except OSError:
        lines = []
    mapped = any(line.startswith((f"{user}:", f"{os.getuid()}:")) for line in lines)
    found = "a range is yours" if mapped else "no range of user ids for you"
    mend = "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER"
    return (tool, Check("/etc/subuid", mapped, found, mend))


def _keyring(system: System) -> Check:
    path = HOST_KEYRINGS / DEBIAN_KEYRING
    mend = f"{_sudo()}{INSTALL[system]} {KEYRING_PACKAGES[system]}"
    return Check("Debian's keys", path.exists(), str(path) if path.exists() else "missing", mend)


def _release_names(system: System) -> Check:
    found = RELEASE_NAMES.exists()
    mend = f"{_sudo()}{INSTALL[system]} {RELEASE_NAMES_PACKAGES[system]}"
    return Check("names of releases", found, str(RELEASE_NAMES) if found else "missing", mend)


def _cache_room() -> Check:
    folder = default_cache_dir()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free / (1 << 30)
    writable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    found = f"{folder}: {free:.1f} GiB free" if writable else f"{existing}: not writable"
    well = writable and free >= CACHE_GIB_WANTED
    mend = f"LAB_CACHE=/some/folder with {CACHE_GIB_WANTED} GiB free puts it elsewhere"
    # A warm cache needs no room; a cold one says so itself when the disk is full.
    return Check("cache", well, found, mend, needed=not writable)


def _memory() -> Check:
    mib = available_mib()
    mend = "`guest: {memory_mib: 256}` in lab.yaml makes guests smaller"
    return Check("memory", mib >= MEMORY_MIB_WANTED, f"{mib} MiB available", mend, needed=False)


def _accelerator() -> Check:
    try:
        verdict = without_probing() or cached_verdict(Cache(default_cache_dir()))
    except HostError as error:
        return Check("accelerator", False, error.message, needed=False)
    if verdict is None:
        return Check("accelerator", True, f"{KVM} is there; the first run finds out if it works")
    slow = "" if verdict.accelerator == "kvm" else " (slower, as sure)"
    found = f"{verdict.accelerator}{slow}: {verdict.reason}"
    return Check("accelerator", verdict.accelerator == "kvm", found, needed=False)
