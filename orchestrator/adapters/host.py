"""What this machine is: for bug reports, and to understand why a run takes what it takes.

Everything is read from files and from the environment. ``root`` is where the machine's files
are looked for.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import HostError
from orchestrator.plan.visible import clip, visible

ROOT = Path("/")
_VERSION = re.compile(r"\b\d+(?:\.\d+)+[^\s,)]*|\b\d+\b")
# What says its version in another way than with --version.
_ODD: Mapping[str, str] = {
    "sqfstar": "-version",
    "mksquashfs": "-version",
    "unsquashfs": "-version",
}
_UNLIMITED_BYTES = 1 << 60
"""What a cgroup (v1) says without a limit is near 2^63, less a page (mm/page_counter.c)."""


def tool_version(name: str, path: str) -> str:
    """The version that the tool at ``path`` tells; nothing where it tells none in 10 s."""
    with contextlib.suppress(HostError):
        argv = (path, _ODD.get(name, "--version"))
        done = process.run(argv, deadline=Deadline.after(10, f"{name} --version"))
        line = (done.stdout + done.stderr).decode(errors="replace").partition("\n")[0]
        if found := _VERSION.search(line):
            return clip(visible(found[0]), 40)
    return ""


def read_line(path: Path) -> str:
    """The first line of a small file, without blanks around it; nothing where there is none."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return visible(file.readline(4096).strip())
    except OSError:
        return ""


def distribution(root: Path = ROOT) -> str:
    """The name of the distribution, as in ``/etc/os-release``."""
    try:
        lines = (root / "etc/os-release").read_text(errors="replace").splitlines()
    except OSError:
        return "Linux"
    fields = dict(line.split("=", 1) for line in lines if "=" in line)
    return visible(fields.get("PRETTY_NAME", "Linux").strip("\"'"))


def processors(root: Path = ROOT) -> str:
    """How many there are, how many of them are ours, and what they are."""
    model = _cpuinfo(root).get("model name", "of an unknown kind")
    there = os.cpu_count() or 1
    ours = len(os.sched_getaffinity(0))
    share = f"{there}" if ours == there else f"{ours} of {there}"
    return f"{share}, {model}, {os.uname().machine}"


def memory(root: Path = ROOT) -> str:
    """What there is, and what is available, without limits of a cgroup."""
    fields = _fields(root / "proc/meminfo")
    mib = {name: int(fields.get(name, "0").split()[0]) >> 10 for name in _MEMORY}
    return (
        f"{mib['MemTotal']} MiB, {mib['MemAvailable']} MiB available, "
        f"swap {mib['SwapFree']} of {mib['SwapTotal']} MiB free"
    )


_MEMORY = ("MemTotal", "MemAvailable", "SwapTotal", "SwapFree")


def _fields(path: Path) -> dict[str, str]:
    """``name: value`` lines; the first of each name."""
    fields: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in path.read_text(errors="replace").splitlines():
            name, colon, value = line.partition(":")
            if colon:
                fields.setdefault(name.strip(), visible(value.strip()))
    return fields


def _cpuinfo(root: Path) -> dict[str, str]:
    return _fields(root / "proc/cpuinfo")


def limits(root: Path = ROOT) -> str:
    """What the cgroups that this process is in allow, in words."""
    least, version = cgroup_limits(root)
    shown = ", ".join(
        f"{name} {'unlimited' if value is None else f'{value:g}'}"
        + (" MiB" if name == "memory" and value is not None else "")
        for name, value in least.items()
    )
    return f"{shown} (cgroup {version})"


def cgroup_limits(root: Path = ROOT) -> tuple[dict[str, float | None], str]:
    """What the cgroups that this process is in allow: ``memory`` in MiB, ``processors`` and
    ``processes``, each the least on the way to the top, None without one; and their version.
    """
    groups = _own_groups(root)
    unified = root / "sys/fs/cgroup"
    found: dict[str, list[float]] = {"memory": [], "processors": [], "processes": []}
    version = "v2" if (unified / "cgroup.controllers").exists() else "v1"
    if version == "v2":
        for folder in _up(unified, groups.get("", "/")):
            _note(found["memory"], read_line(folder / "memory.max"), 1 << 20)
            quota, _, period = read_line(folder / "cpu.max").partition(" ")
            _note(found["processors"], quota, float(period or 1))
            _note(found["processes"], read_line(folder / "pids.max"), 1)
    else:
        for folder in _up(unified / "memory", groups.get("memory", "/")):
            limit = read_line(folder / "memory.limit_in_bytes")
            _note(found["memory"], limit, 1 << 20)
        for folder in _up(unified / "cpu", groups.get("cpu", "/")):
            period = read_line(folder / "cpu.cfs_period_us")
            _note(found["processors"], read_line(folder / "cpu.cfs_quota_us"), float(period or 1))
        for folder in _up(unified / "pids", groups.get("pids", "/")):
            _note(found["processes"], read_line(folder / "pids.max"), 1)
    return {name: min(values, default=None) for name, values in found.items()}, version


def _note(values: list[float], text: str, unit: float) -> None:
    """Add a limit, where the text is one."""
    if text.isdecimal() and int(text) < _UNLIMITED_BYTES:
        values.append(round(int(text) / unit, 1))


def _own_groups(root: Path) -> dict[str, str]:
    """The cgroup that we are in, by controller; that of v2 under no name."""
    groups = {}
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, names, path = line.split(":", 2)
            groups.update(dict.fromkeys(names.split(","), path))
    return groups


def _up(top: Path, path: str) -> Iterator[Path]:
    """The folders from a cgroup to the top; in a container, only the top may be there."""
    folder = top / path.lstrip("/")
    while folder != top and folder.is_relative_to(top):
        yield folder
        folder = folder.parent
    yield top


def surroundings(root: Path = ROOT) -> str:
    """Which container and which virtual machine this runs in, as far as that shows."""
    container = _container(root)
    machine = _virtual_machine(root)
    return f"{container or 'no container'}, {machine or 'no virtual machine'}"


def _container(root: Path) -> str:
    if (root / ".dockerenv").exists():
        return "a container (Docker)"
    if (root / "run/.containerenv").exists():
        return "a container (Podman)"
    # systemd.io/CONTAINER_INTERFACE: that is how it is written.
    told = os.environ.get("container") or read_line(  # noqa: SIM112
        root / "run/systemd/container"
    )
    if told:
        return f"a container ({clip(visible(told), 30)})"
    first = read_line(root / "proc/1/cgroup")
    return "a container" if re.search(r"docker|kubepods|containerd|libpod|lxc", first) else ""


def _virtual_machine(root: Path) -> str:
    if "microsoft" in read_line(root / "proc/sys/kernel/osrelease").lower():
        return "a virtual machine (WSL)"
    if "hypervisor" not in _cpuinfo(root).get("flags", "").split():
        return ""
    vendor = read_line(root / "sys/class/dmi/id/sys_vendor")
    return f"a virtual machine ({clip(vendor, 40)})" if vendor else "a virtual machine"


def user_namespaces(root: Path = ROOT) -> str:
    """Whether an ordinary user may make user namespaces, which building and bubblewrap take."""
    sysctl = root / "proc/sys"
    if read_line(sysctl / "user/max_user_namespaces") in ("", "0"):
        return "none (user.max_user_namespaces)"
    if read_line(sysctl / "kernel/unprivileged_userns_clone") == "0":
        return "root's alone (kernel.unprivileged_userns_clone)"
    if read_line(sysctl / "kernel/apparmor_restrict_unprivileged_userns") == "1":
        return "by AppArmor profile (kernel.apparmor_restrict_unprivileged_userns)"
    return "allowed"


def kvm_device(root: Path = ROOT) -> str:
    """What ``/dev/kvm`` is to us, and which modules drive it; not whether it works."""
    device = root / "dev/kvm"
    if not device.exists():
        flags = _cpuinfo(root).get("flags", "").split()
        able = "can" if {"vmx", "svm"} & set(flags) else "cannot, or may not,"
        return f"no device; the processor {able} virtualize"
    mode = device.stat().st_mode & 0o777
    opens = os.access(device, os.R_OK | os.W_OK)
    driver = next(
        (name for name in ("kvm_intel", "kvm_amd") if (root / "sys/module" / name).exists()), ""
    )
    nested = read_line(root / "sys/module" / driver / "parameters/nested") if driver else ""
    words = [f"mode {mode:04o}", "opens" if opens else "is closed to you"]
    if driver:
        words.append(f"{driver}{f' (nested: {nested})' if nested else ''}")
    return ", ".join(words)


def file_system(path: Path, root: Path = ROOT) -> str:
    """The type of the file system that ``path`` is on, as the kernel's list of mounts says."""
    best, kind = "", "unknown"
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/mountinfo").read_text(errors="replace").splitlines():
            before, _, after = line.partition(" - ")
            point = before.split()[4].encode().decode("unicode_escape")
            # The last mount on a folder is the one that is seen.
            if path.is_relative_to(point) and len(point) >= len(best):
                best, kind = point, after.split()[0]
    return kind


def folder_size(folder: Path, seconds: float) -> tuple[int, bool]:
    """Bytes on disk of all below ``folder``, hard links once, and whether all was counted.

    Counting stops after ``seconds``: a cache with unpacked images has a million files.
    """
    end = time.monotonic() + seconds
    total, seen, waiting = 0, set[tuple[int, int]](), [folder]
    while waiting:
        if time.monotonic() > end:
            return total, False
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                elif status.st_nlink > 1:
                    if (status.st_dev, status.st_ino) in seen:
                        continue
                    seen.add((status.st_dev, status.st_ino))
                total += status.st_blocks * 512
    return total, True
