"""lab doctor: what it looks at, what it says, and what it lets pass."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from orchestrator.adapters import sandbox
from orchestrator.adapters.accelerator import Verdict
from orchestrator.adapters.apt import DEBIAN_KEYRING
from orchestrator.doors import doctor
from orchestrator.doors.doctor import (
    INSTALL,
    PACKAGES,
    Check,
    check_host,
    check_walls,
    report,
    require_host,
)
from orchestrator.foundation import process
from orchestrator.foundation.errors import EXIT_BROKEN, EXIT_PASSED, HostError


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host that has everything: stand-ins for the tools, keys, room and memory."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in (*PACKAGES, *doctor.OPTIONAL, doctor.ROOTLESS_TOOL):
        (tools / name).write_text(f"#!/bin/sh\necho {name} 7.2\n")
        (tools / name).chmod(0o755)
    keyrings = tmp_path / "keyrings"
    keyrings.mkdir()
    (keyrings / DEBIAN_KEYRING).touch()
    (tmp_path / "ubuntu.csv").touch()
    # Where the lab itself finds what it starts these with.
    setpriv = process.find_tool("setpriv")
    (tools / "setpriv").unlink()
    (tools / "setpriv").symlink_to(setpriv)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setattr(doctor, "HOST_KEYRINGS", keyrings)
    monkeypatch.setattr(doctor, "RELEASE_NAMES", tmp_path / "ubuntu.csv")
    monkeypatch.setattr(doctor, "available_mib", lambda: 8192)
    monkeypatch.setattr(doctor, "CACHE_GIB_WANTED", 0)
    monkeypatch.setattr(doctor, "host_system", lambda: "debian")
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LAB_ACCEL", "tcg")
    return tmp_path


def check(name: str) -> Check:
    return next(check for check in check_host() if check.name == name)


root_only = pytest.mark.skipif(
    os.geteuid() != 0, reason="the ranges of a user's ids are the host's"
)


@root_only
def test_a_host_that_has_everything_can_run_the_lab(
    host: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report() == EXIT_PASSED
    out = capsys.readouterr().out
    assert "NO " not in out
    assert out.endswith("This machine can run the lab.\n")
    assert "qemu-system-x86_64 7.2" in out
    for name in PACKAGES:
        assert f"ok  {name}" in out
    require_host()
    assert not (host / "cache").exists()  # to look is not to make


@root_only
def test_what_one_command_alone_calls_can_be_done_without(
    host: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (host / "bin/gdb").unlink()
    assert report() == EXIT_PASSED
    out = capsys.readouterr().out
    assert "--  gdb" in out
    assert "`lab gdb` alone calls it" in out
    assert "apt-get install --no-install-recommends gdb" in out


@root_only
def test_slow_is_not_broken(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report() == EXIT_PASSED
    assert "--  accelerator" in capsys.readouterr().out
    assert host


@pytest.mark.usefixtures("host")
def test_the_accelerator_that_was_asked_for_is_told() -> None:
    assert "LAB_ACCEL=tcg" in check("accelerator").found


@root_only
@pytest.mark.parametrize("system", ["debian", "fedora", "arch"])
def test_a_tool_that_lacks_is_told_with_the_systems_own_command(
    host: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    system: doctor.System,
) -> None:
    (host / "bin/qemu-system-x86_64").unlink()
    monkeypatch.setattr(doctor, "host_system", lambda: system)
    assert report() == EXIT_BROKEN
    out = capsys.readouterr().out
    assert "NO  qemu-system-x86_64   not installed\n" in out
    assert f"mend: {INSTALL[system]} {PACKAGES['qemu-system-x86_64'][system]}\n" in out
    assert "1 of these must be mended" in out


@root_only
def test_a_run_is_refused_with_the_first_thing_that_lacks(host: Path) -> None:
    for name in ("mmdebstrap", "gpgv"):
        (host / "bin" / name).unlink()
    with pytest.raises(HostError, match=r"mmdebstrap: not installed \(and 1 more: ") as caught:
        require_host()
    assert caught.value.hint.endswith("apt-get install --no-install-recommends mmdebstrap")


def test_missing_keys_are_told(host: Path) -> None:
    (host / "keyrings" / DEBIAN_KEYRING).unlink()
    found = check("Debian's keys")
    assert not found.well
    assert found.needed
    assert found.mend.endswith("debian-archive-keyring")


def test_missing_names_of_releases_are_told(host: Path) -> None:
    (host / "ubuntu.csv").unlink()
    found = check("names of releases")
    assert not found.well
    assert found.needed
    assert found.mend.endswith("distro-info-data")


@pytest.mark.usefixtures("host")
def test_little_room_is_told_but_a_warm_cache_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CACHE_GIB_WANTED", 1 << 30)
    found = check("cache")
    assert not found.well
    assert not found.needed
    assert "LAB_CACHE=" in found.mend


def test_a_cache_in_a_file_is_told(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (host / "file").touch()
    monkeypatch.setenv("LAB_CACHE", str(host / "file/cache"))
    found = check("cache")
    assert not found.well
    assert found.needed


@pytest.mark.usefixtures("host")
def test_little_memory_is_told_and_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "available_mib", lambda: 700)
    found = check("memory")
    assert (found.well, found.needed, found.found) == (False, False, "700 MiB available")


def test_every_tool_has_a_package_on_every_system() -> None:
    for name, packages in {
        **PACKAGES,
        "newuidmap": doctor.ROOTLESS_PACKAGES,
        "keys": doctor.KEYRING_PACKAGES,
    }.items():
        assert set(packages) == set(INSTALL), name


def test_every_tool_that_the_lab_starts_is_looked_for() -> None:
    """What ``find_tool`` is asked for anywhere is in the doctor's table."""
    root = Path(doctor.__file__).parents[1]
    texts = (path.read_text() for path in root.rglob("*.py"))
    asked = {name for text in texts for name in re.findall(r'find_tool\("([^"]+)"\)', text)}
    assert asked >= {"setpriv", "unshare", "prlimit", "mmdebstrap", "sqfstar"}
    assert asked <= set(PACKAGES) | set(doctor.OPTIONAL)


# --- the walls of the sandbox ------------------------------------------------------------


@root_only
def test_a_wall_that_lacks_is_told_and_is_no_obstacle(
    host: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stand-in for QEMU is a script, which has no walls."""
    assert report() == EXIT_PASSED
    out = capsys.readouterr().out
    assert "walls of the sandbox:\n" in out
    assert "  --  namespaces of QEMU   " in out
    assert "is a script" in out
    assert "      mend: put the QEMU that it starts first in PATH\n" in out
    assert report(as_json=True) == EXIT_PASSED
    walls = {wall["name"]: wall for wall in json.loads(capsys.readouterr().out)["walls"]}
    assert walls["namespaces of QEMU"]["well"] is False
    assert walls["box of builds"]["well"] is True
    assert walls["user of QEMU"]["found"] == "nobody, where the lab is root"
    assert host


@root_only
@pytest.mark.parametrize(("value", "refused"), [("1", True), ("yes", True), ("0", False)])
def test_a_run_that_requires_the_sandbox_is_refused(
    host: Path, monkeypatch: pytest.MonkeyPatch, value: str, refused: bool
) -> None:
    assert host
    require_host()
    missing = "a wall is missing: namespaces of QEMU: .* is a script.*and 1 more: `lab doctor`"
    with pytest.raises(HostError, match=missing) as caught:
        require_host(sandbox=True)
    assert caught.value.hint == "put the QEMU that it starts first in PATH"
    monkeypatch.setenv(sandbox.SANDBOX_VARIABLE, value)
    if refused:
        with pytest.raises(HostError, match=missing):
            require_host()
    else:
        require_host()


@root_only
def test_a_box_and_a_filter_that_lack_are_told(host: Path) -> None:
    for tool in ("prlimit", "env"):
        (host / "bin" / tool).unlink()
        (host / "bin" / tool).symlink_to(shutil.which(tool, path="/usr/bin:/bin") or "")
    (host / "bin/bwrap").write_text(
        "#!/bin/sh\necho 'bwrap: Creating new namespace failed: Not permitted' >&2\nexit 1\n"
    )
    (host / "bin/qemu-system-x86_64").write_text(
        "#!/bin/sh\ncase $* in *-sandbox*) echo 'no sandbox in this binary' >&2; exit 1;; esac\n"
    )
    walls = {wall.name: wall for wall in check_walls()}
    assert "refuses bubblewrap its namespaces" in walls["box of builds"].found
    assert walls["system calls of QEMU"].found == "no sandbox in this binary"
    assert not any(wall.needed for wall in walls.values())
    with pytest.raises(HostError, match="and 3 more"):
        require_host(sandbox=True)


@root_only
def test_root_that_must_keep_kvm_is_told(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert host
    monkeypatch.setattr(sandbox, "without_probing", lambda: Verdict("kvm", "a test"))
    monkeypatch.setattr(sandbox, "everyone_may_use_kvm", lambda: False)
    wall = next(wall for wall in check_walls() if wall.name == "user of QEMU")
    assert (wall.well, wall.mend) == (False, "chgrp kvm /dev/kvm && chmod 0660 /dev/kvm")
