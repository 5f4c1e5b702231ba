"""What a bug report needs to know of this machine, as names and words.

No personal data: no name of a user, a host or a lab; the home folder is ``~``, and what of the
environment is private (proxies, mirrors) is only said to be set.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

from orchestrator import __version__
from orchestrator.adapters import host
from orchestrator.adapters.accelerator import cached_verdict, qemu_version, without_probing
from orchestrator.adapters.cache import Cache, default_cache_dir
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import LabError
from orchestrator.plan.paths import PACKAGE_DIR

COUNT_SECONDS = 2.0
REACH_SECONDS = 10.0
MAX_ARCHIVES = 12
# Whose value says nothing of anybody, and changes what the lab does.
PLAIN_VARIABLES = ("LAB_ACCEL", "LAB_FROZEN_GIB", "LAB_REQUIRE_SANDBOX")
PRIVATE_VARIABLES = ("LAB_KERNEL_ORG", "LAB_SNAPSHOT", "LAB_PATHS")
PROXY_VARIABLES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy")


def version_line() -> str:
    """Everything that the first question to a bug report asks for, in one line."""
    try:
        qemu = f"QEMU {qemu_version()}"
    except LabError:
        qemu = "no QEMU"
    parts = (lab_version(), f"Python {platform.python_version()}", qemu, _accelerator(), _system())
    return ", ".join(parts)


def lab_version() -> str:
    """``lab`` and its version, with the commit where it runs from a checkout."""
    commit = _commit(PACKAGE_DIR.parent / ".git")
    return f"lab {__version__}" + (f" ({commit})" if commit else "")


def _commit(git: Path) -> str:
    """The first digits of the commit that is checked out; nothing where none is to be read."""
    head = host.read_line(git / "HEAD")
    name = head.removeprefix("ref: ")
    found = head if name == head else host.read_line(git / name) or _packed(git, name)
    return found[:9] if re.fullmatch(r"[0-9a-f]{40,64}", found) else ""


def _packed(git: Path, name: str) -> str:
    try:
        lines = (git / "packed-refs").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split()[0] for line in lines if line.endswith(f" {name}")), "")


def _system() -> str:
    known = os.uname()
    return f"{host.distribution()}, {known.sysname} {known.release} {known.machine}"


def _accelerator() -> str:
    try:
        verdict = without_probing() or cached_verdict(Cache(default_cache_dir()))
    except LabError:
        verdict = None
    return verdict.accelerator if verdict else "kvm not tried yet"


def collect_facts(lab_path: Path) -> dict[str, str]:
    """What this machine, its cache, and the lab at ``lab_path`` are, by name.

    Starts nothing, and asks no network. Takes ``COUNT_SECONDS`` at most for a large cache.
    """
    facts = {
        "system": _system(),
        "inside": host.surroundings(),
        "processors": host.processors(),
        "memory": host.memory(),
        "limits": host.limits(),
        "user": "root" if os.geteuid() == 0 else "not root",
        "user namespaces": host.user_namespaces(),
        "/dev/kvm": host.kvm_device(),
        "cache": _cache(default_cache_dir()),
        "settings": _settings(),
        "lab": _lab(lab_path),
    }
    return {name: private(found) for name, found in facts.items()}


def private(text: str) -> str:
    """The text with ``~`` for the home folder."""
    home = str(Path.home())
    if home == "/":
        return text
    return re.sub(rf"(?<![\w/]){re.escape(home)}(?![\w-])", "~", text)


def _cache(folder: Path) -> str:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = os.statvfs(existing)
    kind = host.file_system(existing.resolve())
    room = f"{free.f_bavail * free.f_frsize / 2**30:.1f} GiB free, {kind}"
    if existing != folder:
        return f"{folder}: not there yet, {room}"
    size, whole = host.folder_size(folder, COUNT_SECONDS)
    entries = ", ".join(
        f"{len(list((folder / kind).glob('[!.]*')))} {kind}" for kind in ("kernels", "images")
    )
    more = "" if whole else " or more"
    return f"{folder}: {size / 2**30:.1f} GiB{more} ({entries}), {room}"


def _settings() -> str:
    """What of the environment changes the lab."""
    words = [f"{name}={os.environ[name]}" for name in PLAIN_VARIABLES if os.environ.get(name)]
    private_ones = (*PRIVATE_VARIABLES, *PROXY_VARIABLES)
    words += [f"{name} is set" for name in private_ones if os.environ.get(name)]
    return ", ".join(words) or "none"


def _lab(path: Path) -> str:
    """How large a lab is, and whether its lock fits it."""
    if not path.exists():
        return "none here"
    from orchestrator.adapters.sources import entry_types
    from orchestrator.plan.labfile import load_lab

    try:
        lab = load_lab(path, entry_types())
    except LabError as error:
        return f"cannot be read: {error.message.splitlines()[0]}"
    size = f"{len(lab.file.kernels)} kernels, {len(lab.scenarios)} scenarios"
    from orchestrator.plan.lock import LOCK_FILE, find_pinned, load_lock

    try:
        lock = load_lock(lab)
    except LabError as error:
        return f"{size}; its lock cannot be read: {error.message.splitlines()[0]}"
    if lock is None:
        return f"{size}; no {LOCK_FILE}"
    unfit = []
    for name in lab.file.kernels:
        try:
            find_pinned(lab, lock, name)
        except LabError:
            unfit.append(name)
    state = f"does not fit {', '.join(unfit)}" if unfit else "fits"
    return f"{size}; {LOCK_FILE} {state}"


def collect_network(cache: Cache) -> dict[str, str]:
    """Whether what the lab fetches from can be reached: by what it is, without its address."""
    from orchestrator.adapters.download import reach

    return {
        name: reach(url, Deadline.after(REACH_SECONDS, name)) for name, url in _places(cache.root)
    }


def _places(root: Path) -> Iterator[tuple[str, str]]:
    from orchestrator.adapters.kernelorg import base_url
    from orchestrator.adapters.snapshot import service_url

    yield from list(_archives(root))[:MAX_ARCHIVES]
    yield "kernel.org", f"{base_url()}/"
    yield "snapshot service", f"{service_url()}/"


def _archives(root: Path) -> Iterator[tuple[str, str]]:
    """Each archive that an apt of the cache knows, by one of its suites, and its signed index."""
    seen = set[str]()
    for path in sorted(root.glob("apt/*/etc/apt/sources.list")):
        for uri, suite in re.findall(
            r"^deb (?:\[[^]]*\] )?(https?://\S+) (\S+)", path.read_text(), re.MULTILINE
        ):
            if uri not in seen and "/" not in suite:
                seen.add(uri)
                yield f"archive of {suite}", f"{uri.rstrip('/')}/dists/{suite}/InRelease"
