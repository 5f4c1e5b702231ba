"""The same lab on three machines, of which one is killed and one is cut off in the middle."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.adapters.cache import default_cache_dir
from tests.clusters import Machines, make_papers, open_machines
from tests.vm.conftest import (
    REPOSITORY,
    RUN_SECONDS,
    Ran,
    lab_argv,
    processes_below,
    run_lab,
    run_to_end,
)

pytest.importorskip("distributed")

SCENARIOS = (
    "loading/taints-the-kernel-once",
    "loading/is-refused-the-second-time",
    "loading/leaves-nothing-behind",
    "loading/is-hidden-by-its-old-file-before-5.0",
)
"""The last one is skipped on both kernels."""
SOME = ("-k", "5.10", "-k", "6.1", *(word for name in SCENARIOS for word in ("-s", name)))
QUICK = ("-k", "quick")
IMAGES = {"focal", "bullseye", "bookworm", "trixie"}
"""Those of the quick kernels."""
# What a worker of a test is given of this machine's cache: as links, so that nothing is copied.
KINDS = ("accelerator", "images", "initramfs", "kernels", "modules", "resolved", "vmlinux")
# What is of a machine and a moment. How often guests booted, and how many forks went on from
# which, is the machines' own work: with two machines, two have to boot.
OWN = ("seconds", "boot_seconds", "build_seconds", "started", "run_id", "hosts", "retried")
GUESTS = ("boots", "was_frozen", "builds", "fork_note")
# Of a complaint: registers and addresses, what an old stack still holds, and so how many frames and
# which modules it has.
LOGS = ("lines", "frames", "first", "last", "modules")
MARKER = re.compile(r"lab-[0-9a-f]{16} c\d+")
"""A boot's own number, and a scenario's on it."""


def normalised(value: Any) -> Any:
    """A result without what differs between two runs at home, and between machines."""
    if isinstance(value, dict):
        left = {key: each for key, each in value.items() if key not in (*OWN, *GUESTS, *LOGS)}
        return {key: normalised(each) for key, each in left.items()}
    if isinstance(value, str):
        return MARKER.sub("a marker", value)
    return [normalised(each) for each in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Net:
    """A bridge, and a network namespace for each name; none of it where that needs root."""

    host: str
    spaces: dict[str, str]

    def prefix(self, name: str) -> tuple[str, ...]:
        """What runs a command there."""
        space = self.spaces.get(name)
        return ("ip", "netns", "exec", space) if space else ()

    def cut(self, name: str, machines: Machines) -> None:
        """Nothing comes from there any more, or goes there."""
        if name in self.spaces:
            ip("link", "set", f"v{self.spaces[name]}", "down")
        else:
            machines.signal(name, signal.SIGSTOP)


def ip(*words: str) -> None:
    subprocess.run(("ip", *words), check=True)


@contextlib.contextmanager
def open_net(names: tuple[str, ...]) -> Iterator[Net]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        yield Net("127.0.0.1", {})
        return
    tag = secrets.token_hex(2)
    bridge, top = f"lab{tag}", f"10.211.{int(tag[:2], 16)}"
    spaces = {name: f"l{tag}{name}" for name in names}
    try:
        ip("link", "add", bridge, "type", "bridge")
        ip("addr", "add", f"{top}.1/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        for number, space in enumerate(spaces.values(), 2):
            ip("netns", "add", space)
            ip("link", "add", f"v{space}", "type", "veth", "peer", "name", "eth0", "netns", space)
            ip("link", "set", f"v{space}", "master", bridge, "up")
            ip("-n", space, "addr", "add", f"{top}.{number}/24", "dev", "eth0")
            ip("-n", space, "link", "set", "eth0", "up")
            ip("-n", space, "link", "set", "lo", "up")
        yield Net(f"{top}.1", spaces)
    finally:
        for space in spaces.values():
            subprocess.run(("ip", "netns", "del", space), check=False)
        subprocess.run(("ip", "link", "del", bridge), check=False)


def link_cache(target: Path, releases: set[str], images: set[str]) -> None:
    """A cache of its own with what this machine has of some kernels."""
    source = default_cache_dir()
    for kind in KINDS:
        for entry in sorted((source / kind).glob("*")) if (source / kind).is_dir() else ():
            of_kernel = any(release in entry.name for release in releases)
            of_image = entry.name.partition("-")[0] in images
            if kind != "accelerator" and not of_kernel and not of_image:
                continue
            (target / kind).mkdir(parents=True, exist_ok=True)
            place = target / kind / entry.name
            if entry.is_dir():
                shutil.copytree(entry, place, copy_function=_link, symlinks=True)
            else:
                shutil.copy2(entry, place)


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


def wait_for_guest(machines: Machines, names: tuple[str, ...], run: subprocess.Popen[bytes]) -> str:
    """The first of these workers that has a guest at work."""
    end = time.monotonic() + RUN_SECONDS
    while time.monotonic() < end:
        for name in names:
            if any("-nodefaults" in _argv(pid) for pid in _below(machines, name)):
                return name
        assert run.poll() is None, "the run ended before it could be disturbed"
        time.sleep(0.1)
    raise AssertionError(f"none of {names} began to play")


def _below(machines: Machines, name: str) -> set[int]:
    return processes_below(machines.processes[name].pid)


def _argv(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    return ""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(SOME, id="some"),
        pytest.param(QUICK, id="quick", marks=pytest.mark.nightly),
    ],
)
def words(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """What is played: the whole quick matrix by night."""
    chosen: tuple[str, ...] = request.param
    return chosen


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, words: tuple[str, ...]) -> dict[str, Any]:
    """What the same words come to at home, which leaves modules in the cache, too."""
    ran = run_lab(tmp_path_factory.mktemp("home") / "results", *words)
    assert ran.status == 0
    return ran.results


def test_two_of_three_workers_may_fail(
    home: dict[str, Any], words: tuple[str, ...], tmp_path: Path
) -> None:
    names = ("a", "b", "c")
    releases = {kernel["identity"]["release"] for kernel in home["kernels"]}
    with open_net(names) as net, open_machines(tmp_path / "m", make_papers(tmp_path / "p")) as all_:
        all_.start_scheduler(net.host, ttl="10 s")
        for name in names:
            link_cache(tmp_path / f"cache-{name}", releases, IMAGES)
            env = {"LAB_CACHE": str(tmp_path / f"cache-{name}"), "LAB_FROZEN_GIB": "1"}
            all_.start_worker(name, "-j", "1", env=env, prefix=net.prefix(name))
        assert all_.papers is not None
        results = tmp_path / "results"
        argv = lab_argv("run", "--lab", REPOSITORY / "lab.yaml", "--results", results, *words)
        all_.start("run", (*argv, "--cluster", all_.address, *all_.papers.words), {})
        run = all_.processes["run"]
        killed = wait_for_guest(all_, names, run)
        all_.signal(killed, signal.SIGKILL)
        left = tuple(name for name in names if name != killed)
        net.cut(wait_for_guest(all_, left, run), all_)
        status = run.wait(timeout=RUN_SECONDS)
        print(said := all_.log("run").read_text(errors="replace"))
    assert status == 0, said
    found = Ran(status, said, results).results
    assert normalised(found) == normalised(home)
    retried = [line for kernel in found["kernels"] for line in kernel["retried"]]
    assert sum("its worker was lost" in line for line in retried) >= 2, retried
    assert "retried for the infrastructure" in said
    for kernel in found["kernels"]:
        for cell in kernel["cells"]:
            if cell["outcome"] != "skipped":
                assert (results / "latest" / cell["evidence"] / "transcript.txt").is_file()


def test_an_open_scheduler_elsewhere_is_refused() -> None:
    status, said = run_to_end(lab_argv("run", "--cluster", "tcp://192.0.2.1:8786", "-k", "6.1"))
    assert status == 2
    assert "neither encrypted nor authenticated" in said
