"""Bounds of a run: those that are there, and what asks systemd for some."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.adapters import cgroup, host
from orchestrator.adapters.cgroup import CPU_WEIGHT, TASKS_MAX, check_bounds, enter_scope
from orchestrator.foundation.errors import HostError


def make_v2(root: Path, **limits: str) -> Path:
    """A machine's files whose cgroup (v2) has these limits, two folders below the top."""
    group = root / "sys/fs/cgroup/user.slice/run.scope"
    group.mkdir(parents=True)
    (root / "sys/fs/cgroup/cgroup.controllers").write_text("cpu memory pids\n")
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("0::/user.slice/run.scope\n")
    for name, value in limits.items():
        (group.parent / name.replace("_", ".")).write_text(f"{value}\n")
    return root


def test_bounds_are_those_on_the_way_to_the_top(tmp_path: Path) -> None:
    make_v2(tmp_path, memory_max=str(2 << 30), pids_max="500", cpu_max="50000 100000")
    assert check_bounds(tmp_path) == ("memory 2048 MiB, processors 0.5, processes 500 (cgroup v2)")


@pytest.mark.parametrize("lacking", ["memory_max", "pids_max"])
def test_without_one_of_two_there_are_no_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    limits = {"memory_max": str(2 << 30), "pids_max": "500"} | {lacking: "max"}
    make_v2(tmp_path, **limits)
    monkeypatch.setattr(cgroup, "has_manager", lambda: True)
    with pytest.raises(HostError, match=r"all together have none: .*unlimited") as caught:
        check_bounds(tmp_path)
    assert caught.value.hint == "lab run --scope"
    monkeypatch.setattr(cgroup, "has_manager", lambda: False)
    with pytest.raises(HostError) as caught:
        check_bounds(tmp_path)
    assert caught.value.hint == cgroup.WITHOUT_SYSTEMD


def test_a_scope_is_asked_for_with_bounds() -> None:
    argv = cgroup.scope_argv("systemd-run", ("lab", "run"), memory_mib=1000, user=True)
    assert argv == [
        *("systemd-run", "--user", "--scope", "--quiet", "--collect"),
        "--property=MemoryMax=1000M",
        "--property=MemorySwapMax=0",
        f"--property=TasksMax={TASKS_MAX}",
        f"--property=CPUWeight={CPU_WEIGHT}",
        *("--", "lab", "run"),
    ]
    assert "--user" not in cgroup.scope_argv("x", (), memory_mib=1, user=False)


def test_where_nobody_gives_scopes_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "ROOT", tmp_path)
    with pytest.raises(HostError, match="cgroup v2"):
        enter_scope(("false",))
    make_v2(tmp_path)
    monkeypatch.setattr(cgroup, "has_manager", lambda: False)
    with pytest.raises(HostError, match="takes systemd"):
        enter_scope(("false",))


def test_a_scope_is_entered_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else systemd-run would start the lab, and that systemd-run, for ever."""
    mark = tmp_path / "mark"
    make_v2(tmp_path)
    monkeypatch.setattr(host, "ROOT", tmp_path)
    monkeypatch.setenv(cgroup.ENTERED, "1")
    enter_scope(("touch", str(mark)))
    assert not mark.exists()


SYSTEMD_RUN = """#!/bin/sh
echo "$$ $*" >{mark}
while [ "$1" != -- ]; do shift; done
shift
exec "$@"
"""
ENTERS = """
import os, sys
from pathlib import Path
from orchestrator.adapters import cgroup, host
host.ROOT = Path(sys.argv[1])
cgroup.has_manager = lambda: True
cgroup.enter_scope((sys.executable, *sys.orig_argv[1:]))
print(os.getpid())
"""


def test_the_lab_goes_on_in_its_scope_as_the_same_process(tmp_path: Path) -> None:
    """With a stand-in for systemd-run that starts what it is told, as that does with --scope."""
    make_v2(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/systemd-run").write_text(SYSTEMD_RUN.format(mark=tmp_path / "mark"))
    (tmp_path / "bin/systemd-run").chmod(0o755)
    told = subprocess.run(
        (sys.executable, "-c", ENTERS, str(tmp_path)),
        env={**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    pid, *arguments = (tmp_path / "mark").read_text().split()
    assert told.stdout == f"{pid}\n"
    assert "--scope" in arguments
    assert f"--property=TasksMax={TASKS_MAX}" in arguments
