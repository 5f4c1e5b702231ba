"""Guests within walls: booted, frozen, forked, reached; and refused where a wall is missing."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from orchestrator.adapters.machine import QEMU, describe_wall

from .conftest import LABS, REPOSITORY, Ran, lab_argv, run_lab

LAB = LABS / "forks/lab.yaml"
WALLED = "QEMU has user, mount, process, IPC, UTS and network namespaces of its own"
KEPT = re.compile(r"kept until Ctrl-C: (ssh .*)")
BOOT_SECONDS = 600

needs_walls = pytest.mark.skipif(describe_wall() != WALLED, reason="no walls around QEMU here")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """One boot, three forks of it, and one boot more for the scenario that reboots."""
    results = tmp_path_factory.mktemp("sandbox")
    return run_lab(
        *(results, "--lab", LAB, "--require-sandbox", "-s", "scenarios/draws*"),
        *("-s", "scenarios/reboots"),
    )


@needs_walls
def test_guests_boot_fork_and_reboot_within_walls(ran: Ran) -> None:
    assert ran.status == 0, ran.output
    assert ran.results["sandbox"] == WALLED
    assert f"sandbox: {WALLED}\n" in (ran.run_dir / "report.txt").read_text()
    assert ran.results["kernels"][0]["fork_note"] == ""
    argvs = [path.read_text().splitlines() for path in ran.run_dir.rglob("argv")]
    assert len(argvs) >= 5
    for argv in argvs:
        assert {"--unshare-net", "--unshare-pid", "--unshare-user"} <= set(argv)


@needs_walls
def test_a_kept_guest_is_reached_by_the_users_own_ssh(tmp_path: Path) -> None:
    if shutil.which("ssh") is None:
        pytest.skip("needs ssh(1)")
    argv = lab_argv("run", "--results", tmp_path, "--lab", LAB, "--keep", "-s", "scenarios/draws")
    with subprocess.Popen(
        argv, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as lab:
        try:
            command = _read_until(lab, KEPT)
            command = command.replace("ssh -ti", "ssh -n -i").replace("bash -l", "uname -r")
            told = subprocess.run(
                ("sh", "-c", command),
                cwd=REPOSITORY,
                capture_output=True,
                timeout=120,
                check=False,
            )
            assert told.stdout.startswith(b"6.1."), told.stderr
        finally:
            lab.send_signal(signal.SIGINT)
            assert lab.wait(60) == 0


def _read_until(lab: subprocess.Popen[bytes], pattern: re.Pattern[str]) -> str:
    assert lab.stdout is not None
    text, end = "", time.monotonic() + BOOT_SECONDS
    while time.monotonic() < end:
        if select.select([lab.stdout], [], [], 1)[0]:
            data = os.read(lab.stdout.fileno(), 65536)
            assert data, text
            text += data.decode(errors="replace")
        if found := pattern.search(text):
            return found[1]
    raise AssertionError(text)


def test_a_sandbox_that_is_required_and_cannot_be_is_refused(
    tmp_path: Path, open_dir: Path
) -> None:
    refusing = open_dir / "bwrap"
    said = "bwrap: No permissions to create new namespace"
    refusing.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    refusing.chmod(0o755)
    env = {"PATH": f"{open_dir}:{os.environ['PATH']}"}
    for arguments, more in ((("--require-sandbox",), {}), ((), {"LAB_REQUIRE_SANDBOX": "1"})):
        refused = run_lab(tmp_path, "--lab", LAB, *arguments, env={**env, **more})
        assert refused.status == 3
        assert "a wall is missing: namespaces of QEMU: this machine refuses" in refused.output
        assert not (tmp_path / "latest").exists()


def test_without_bubblewrap_at_all_nothing_is_played(tmp_path: Path, open_dir: Path) -> None:
    for folder in os.environ["PATH"].split(":"):
        for tool in Path(folder).glob("*"):
            if tool.name != "bwrap" and not (open_dir / tool.name).exists():
                (open_dir / tool.name).symlink_to(tool)
    assert (open_dir / QEMU).exists()
    refused = run_lab(tmp_path, "--lab", LAB, "--require-sandbox", env={"PATH": str(open_dir)})
    assert refused.status == 3
    assert "bwrap: not installed" in refused.output
