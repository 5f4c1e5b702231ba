"""What a bug report says of a machine: read from trees that look like machines."""

from __future__ import annotations

import getpass
import http.server
import json
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.adapters import host
from orchestrator.adapters.cache import Cache
from orchestrator.doors import facts
from orchestrator.doors.cli import main
from tests.unit.labs import write_lab

pytestmark = pytest.mark.timeout(60)


def tree(root: Path, **files: str) -> Path:
    """A machine with these files; ``__`` is a slash."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


# --- limits ------------------------------------------------------------------------------------


def test_limits_are_the_least_on_the_way_to_the_top(tmp_path: Path) -> None:
    group = tmp_path / "sys/fs/cgroup"
    tree(tmp_path, proc__self__cgroup="0::/a/b\n")
    (group / "a/b").mkdir(parents=True)
    (group / "cgroup.controllers").write_text("cpu memory pids\n")
    (group / "a/b/memory.max").write_text("max\n")
    (group / "a/memory.max").write_text(f"{512 << 20}\n")
    (group / "a/b/cpu.max").write_text("150000 100000\n")
    (group / "a/cpu.max").write_text("max 100000\n")
    (group / "a/b/pids.max").write_text("100\n")
    (group / "a/pids.max").write_text("90\n")
    wanted = "memory 512 MiB, processors 1.5, processes 90 (cgroup v2)"
    assert host.limits(tmp_path) == wanted


def test_limits_of_the_first_kind_of_cgroup(tmp_path: Path) -> None:
    group = tmp_path / "sys/fs/cgroup"
    tree(tmp_path, proc__self__cgroup="3:memory:/x/y\n2:cpu,cpuacct:/\n")
    for name in ("memory", "cpu"):
        (group / name).mkdir(parents=True)
    # In a container only the top is there, whatever the path says.
    (group / "memory/memory.limit_in_bytes").write_text(f"{256 << 20}\n")
    (group / "cpu/cpu.cfs_quota_us").write_text("-1\n")
    (group / "cpu/cpu.cfs_period_us").write_text("100000\n")
    wanted = "memory 256 MiB, processors unlimited, processes unlimited (cgroup v1)"
    assert host.limits(tmp_path) == wanted
    (group / "memory/memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert host.limits(tmp_path).startswith("memory unlimited")


def test_a_machine_without_cgroups_has_no_limits(tmp_path: Path) -> None:
    assert host.limits(tmp_path).startswith("memory unlimited, processors unlimited")


# --- container, virtual machine, user namespaces, KVM ---------------------------------------------


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, "no container, no virtual machine"),
        ({".dockerenv": ""}, "a container (Docker), no virtual machine"),
        ({"run__.containerenv": ""}, "a container (Podman), no virtual machine"),
        ({"run__systemd__container": "lxc\n"}, "a container (lxc), no virtual machine"),
        ({"proc__1__cgroup": "0::/kubepods/x\n"}, "a container, no virtual machine"),
        ({"proc__cpuinfo": "flags : fpu hypervisor\n"}, "no container, a virtual machine"),
        (
            {"proc__cpuinfo": "flags : hypervisor\n", "sys__class__dmi__id__sys_vendor": "QEMU\n"},
            "no container, a virtual machine (QEMU)",
        ),
        (
            {"proc__sys__kernel__osrelease": "6.6.1-microsoft-standard-WSL2\n"},
            "no container, a virtual machine (WSL)",
        ),
    ],
)
def test_surroundings(
    tmp_path: Path, files: dict[str, str], wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("container", raising=False)
    assert host.surroundings(tree(tmp_path, **files)) == wanted


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, "none"),
        ({"user__max_user_namespaces": "0\n"}, "none"),
        ({"user__max_user_namespaces": "9\n"}, "allowed"),
        ({"user__max_user_namespaces": "9\n", "kernel__unprivileged_userns_clone": "0"}, "root's"),
        (
            {
                "user__max_user_namespaces": "9\n",
                "kernel__apparmor_restrict_unprivileged_userns": "1\n",
            },
            "by AppArmor",
        ),
    ],
)
def test_user_namespaces(tmp_path: Path, files: dict[str, str], wanted: str) -> None:
    tree(tmp_path / "proc/sys", **files)
    assert host.user_namespaces(tmp_path).startswith(wanted)


def test_kvm_that_is_not_there(tmp_path: Path) -> None:
    tree(tmp_path, proc__cpuinfo="flags : fpu svm\n")
    assert host.kvm_device(tmp_path) == "no device; the processor can virtualize"


def test_kvm_that_is_there(tmp_path: Path) -> None:
    tree(tmp_path, dev__kvm="", sys__module__kvm_intel__parameters__nested="Y\n")
    (tmp_path / "dev/kvm").chmod(0o660)
    assert host.kvm_device(tmp_path) == "mode 0660, opens, kvm_intel (nested: Y)"


# --- files -------------------------------------------------------------------------------------


def test_the_file_system_is_that_of_the_nearest_mount(tmp_path: Path) -> None:
    lines = (
        "1 0 0:1 / / rw - ext4 /dev/a rw\n"
        "2 1 0:2 / /data rw shared:1 - xfs /dev/b rw\n"
        "3 2 0:3 / /data/with\\040blank rw - tmpfs tmpfs rw\n"
    )
    tree(tmp_path, proc__self__mountinfo=lines)
    for path, kind in (("/x", "ext4"), ("/data/x", "xfs"), ("/data/with blank/x", "tmpfs")):
        assert host.file_system(Path(path), tmp_path) == kind
    assert host.file_system(Path("/database"), tmp_path) == "ext4"


def test_a_folder_is_counted_with_hard_links_once(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/one").write_bytes(b"x" * 65536)
    alone = host.folder_size(tmp_path, 30)
    os.link(tmp_path / "a/one", tmp_path / "a/b/two")
    assert host.folder_size(tmp_path, 30) == alone
    assert alone[0] >= 65536
    assert alone[1]


def test_counting_ends(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"x" * 65536)
    assert host.folder_size(tmp_path, -1) == (0, False)


def test_what_a_tool_says_of_its_version(tmp_path: Path) -> None:
    for said, version in (
        ("bubblewrap 0.8.0", "0.8.0"),
        ("kmod version 30", "30"),
        ("Debian 'dpkg-deb' package archive backend version 1.21.22 (amd64).", "1.21.22"),
        ("usage: nothing", ""),
        ("\x1b[31m 1.2\x1b[0m", "1.2\\x1b[0m"),
    ):
        tool = tmp_path / "tool"
        tool.write_text(f"#!/bin/sh\ncat << 'X'\n{said}\nX\n")
        tool.chmod(0o755)
        assert host.tool_version("tool", str(tool)) == version


# --- the report ---------------------------------------------------------------------------------


def test_the_commit_of_a_checkout(tmp_path: Path) -> None:
    git, commit = tmp_path / ".git", "0123456789" * 4
    assert facts._commit(git) == ""
    tree(git, HEAD="ref: refs/heads/main\n")
    assert facts._commit(git) == ""
    (git / "packed-refs").write_text(f"# pack-refs\n{commit} refs/heads/main\n")
    assert facts._commit(git) == commit[:9]
    tree(git, refs__heads__main="f" * 40)
    assert facts._commit(git) == "f" * 9
    (git / "HEAD").write_text(commit)
    assert facts._commit(git) == commit[:9]


def test_the_home_folder_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert facts.private("/home/ann/x:/home/ann, /home/anna /x/home/ann") == (
        "~/x:~, /home/anna /x/home/ann"
    )
    monkeypatch.setenv("HOME", "/")
    assert facts.private("/a/b") == "/a/b"


@pytest.fixture
def quiet_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a lab, and an empty cache."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "home/cache"))
    monkeypatch.setenv("LAB_ACCEL", "tcg")
    monkeypatch.setenv("https_proxy", "http://user:secret@proxy.example:3128")
    monkeypatch.setenv("LAB_SNAPSHOT", "http://private.example/")
    path = write_lab(tmp_path / "home/lab")
    monkeypatch.chdir(path.parent)
    return path


def test_a_report_fits_a_terminal_and_tells_no_secret(
    quiet_host: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["doctor"])
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    assert "4 kernels, 3 scenarios; no lab.lock" in said
    assert "LAB_ACCEL=tcg" in said
    assert "LAB_SNAPSHOT is set" in " ".join(said.split())
    for secret in ("secret", "example", str(quiet_host.parents[1])):
        assert secret not in said
    assert not re.search(rf"\b{re.escape(os.uname().nodename)}\b", said)
    if getpass.getuser() != "root":
        assert getpass.getuser() not in said


@pytest.mark.usefixtures("quiet_host")
def test_a_report_for_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["doctor", "--json"])
    value = json.loads(capsys.readouterr().out)
    assert value["able"] is (status == 0)
    assert value["network"] == {}
    assert {"system", "limits", "cache", "/dev/kvm", "lab"} <= value["facts"].keys()
    assert {"name", "well", "needed", "found", "mend"} == value["checks"][0].keys()


def test_the_state_of_the_lab_and_its_lock(quiet_host: Path) -> None:
    lock = quiet_host.with_name("lab.lock")
    lock.write_text("format: 1\nimages: {}\nkernels: {}\n")
    assert "lab.lock does not fit 5.4, 6.1, 6.1-rt, 7.x" in facts._lab(quiet_host)
    lock.write_text("nonsense: 1\n")
    assert "its lock cannot be read" in facts._lab(quiet_host)
    quiet_host.write_text("nonsense: 1\n")
    assert facts._lab(quiet_host).startswith("cannot be read: ")
    assert facts._lab(Path("no/lab.yaml")) == "none here"


@pytest.fixture
def server() -> Iterator[str]:
    """An HTTP server that has nothing but answers."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Nothing) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()
        thread.join()


class _Nothing(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(200 if self.path.endswith("/dists/bookworm/InRelease") else 404)

    def log_message(self, *_: object) -> None:
        """Tests are quiet."""


def test_what_can_be_reached(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in facts.PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LAB_KERNEL_ORG", server)
    monkeypatch.setenv("LAB_SNAPSHOT", "http://127.0.0.1:9/")
    sources = tmp_path / "apt/bookworm-1/etc/apt/sources.list"
    sources.parent.mkdir(parents=True)
    sources.write_text(
        f"deb [signed-by=/x] {server}/debian bookworm main\ndeb-src x y z\n"
        f"deb {server}/debian bookworm-updates main\ndeb {server}/security stable/updates main\n"
    )
    reached = facts.collect_network(Cache(tmp_path))
    assert list(reached) == ["archive of bookworm", "kernel.org", "snapshot service"]
    assert reached["archive of bookworm"] == "yes (HTTP 200)"
    assert reached["kernel.org"] == "yes (HTTP 404)"
    assert reached["snapshot service"].startswith("no: the connection failed")
    assert "127.0.0.1" not in str(reached)
