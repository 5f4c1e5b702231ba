"""scripts/setup-host: the same table as the doctor's, and nothing done where nothing lacks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from orchestrator.adapters.apt import DEBIAN_KEYRING, HOST_KEYRINGS
from orchestrator.doors.doctor import (
    KEYRING_PACKAGES,
    PACKAGES,
    RELEASE_NAMES,
    RELEASE_NAMES_PACKAGES,
    ROOTLESS_PACKAGES,
)

SCRIPT = Path(__file__).parents[2] / "scripts/setup-host"
pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="no checkout")


def table() -> dict[str, str]:
    found = re.search(r"wanted='\n(.*?)'", SCRIPT.read_text(), re.DOTALL)
    assert found
    return dict(line.split(":") for line in found[1].split())


def test_the_doctor_and_the_script_name_the_same_packages() -> None:
    script = table()
    assert script.pop("python3") == "python3"
    assert script == {tool: packages["debian"] for tool, packages in PACKAGES.items()}


def test_the_doctor_and_the_script_name_the_same_other_packages() -> None:
    text = SCRIPT.read_text()
    assert f"need {KEYRING_PACKAGES['debian']}\n" in text
    assert f"need {ROOTLESS_PACKAGES['debian']}\n" in text
    assert f"[ -e {RELEASE_NAMES} ] || need {RELEASE_NAMES_PACKAGES['debian']}\n" in text


def run_script(
    tmp_path: Path, *, lacking: tuple[str, ...] = (), apt: str = "exit 0"
) -> subprocess.CompletedProcess[str]:
    """The script where only these commands exist: stand-ins that say how they were called."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in {*table(), "sudo", "newuidmap"} - set(lacking) - {"apt-get"}:
        (tools / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{tmp_path}/calls\n')
    (tools / "sudo").write_text('#!/bin/sh\nexec "$@"\n')
    if "apt-get" not in lacking:
        (tools / "apt-get").write_text(f'#!/bin/sh\necho "apt-get $*" >>{tmp_path}/calls\n{apt}\n')
    for path in tools.iterdir():
        path.chmod(0o755)
    identity = shutil.which("id")
    assert identity
    (tools / "id").symlink_to(identity)
    # Not the system's own folders, of which the script searches those of root.
    text = SCRIPT.read_text().replace("PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin", "")
    return subprocess.run(
        ("/bin/sh", "-c", text, "setup-host"),
        env={"PATH": str(tools)},
        capture_output=True,
        text=True,
        check=False,
    )


def calls(tmp_path: Path) -> list[str]:
    path = tmp_path / "calls"
    return [line for line in path.read_text().splitlines() if line.startswith("apt-get")]


needs_files = pytest.mark.skipif(
    not ((HOST_KEYRINGS / DEBIAN_KEYRING).exists() and RELEASE_NAMES.exists()),
    reason="this host lacks Debian's keys, or the names of releases",
)


@needs_files
def test_a_host_that_lacks_nothing_is_left_alone(tmp_path: Path) -> None:
    done = run_script(tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert calls(tmp_path) == []


@needs_files
def test_what_lacks_is_installed_once_and_said(tmp_path: Path) -> None:
    done = run_script(tmp_path, lacking=("sqfstar", "mksquashfs", "qemu-system-x86_64"))
    assert done.returncode == 0
    assert "qemu-system-x86 squashfs-tools" in done.stderr
    assert calls(tmp_path) == [
        "apt-get -q update",
        "apt-get -q install -y --no-install-recommends qemu-system-x86 squashfs-tools",
    ]


@needs_files
def test_a_failed_installation_fails(tmp_path: Path) -> None:
    done = run_script(tmp_path, lacking=("gpgv",), apt="exit 100")
    assert done.returncode == 100


@needs_files
def test_a_host_without_apt_is_told_what_it_lacks(tmp_path: Path) -> None:
    done = run_script(tmp_path, lacking=("apt-get", "depmod"))
    assert done.returncode == 3
    assert "apt kmod" in done.stderr
    assert "lab doctor" in done.stderr


def test_the_script_can_be_executed() -> None:
    assert os.access(SCRIPT, os.X_OK)
