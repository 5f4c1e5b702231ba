"""The wall around QEMU, made by the real bubblewrap, with a prying inmate in QEMU's place."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.adapters import machine
from orchestrator.adapters.cache import remove_tree
from orchestrator.adapters.relay import open_relay
from orchestrator.adapters.wall import MAX_TASKS, Inside, Wall, find_wall, kernel_version
from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import HostError
from orchestrator.plan.qemu import GuestSpec
from orchestrator.plan.walls import KVM

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap"),
]

REPO = Path(__file__).resolve().parents[2]
SPEC = GuestSpec("tcg", memory_mib=64, cpus=1)
SERVED = re.compile(r"serve : (\d+)\n")


def soon(seconds: float = 20) -> Deadline:
    return Deadline.after(seconds, "a test's inmate")


@pytest.fixture(scope="module")
def inmate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = Path(os.fspath(tmp_path_factory.mktemp("wall", numbered=True)))
    # Where another user can look, too.
    path = Path("/tmp") / f"lab-inmate-{os.getpid()}"
    source = Path(__file__).parent / "inmate.c"
    subprocess.run(("gcc", "-O2", "-Wall", "-Werror", "-o", folder / "inmate", source), check=True)
    shutil.copy(folder / "inmate", path)
    path.chmod(0o755)
    yield path
    path.unlink()
    remove_tree(path.parent / f"{path.name}-bin")


@pytest.fixture(scope="module", params=["user", "no-user"])
def wall(inmate: Path, request: pytest.FixtureRequest) -> Wall:
    """With a user namespace, and as root makes walls where those are closed."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "no-user":
            if os.geteuid() != 0:
                pytest.skip("an ordinary user has no walls without a user namespace")
            tool = inmate.parent / f"{inmate.name}-bin" / "bwrap"
            tool.parent.mkdir(exist_ok=True)
            tool.write_text(REFUSING.format(bwrap=process.find_tool("bwrap")))
            tool.chmod(0o755)
            patch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
        try:
            found = find_wall(str(inmate))
        except HostError as error:
            pytest.skip(f"no walls here: {error.message}")
    assert found.user is (request.param == "user")
    return found


# A machine that has no user namespaces for anybody.
REFUSING = """\
#!/bin/sh
case " $* " in *" --unshare-user "*) echo "bwrap: setting up uid map: Denied" >&2; exit 1;; esac
exec {bwrap} "$@"
"""


class Cell:
    """An inmate within walls: what it printed, and how it ended."""

    def __init__(self, child: process.Child, inside: Inside, output: Path) -> None:
        self.child = child
        self.inside = inside
        self._output = output

    def said(self) -> str:
        return self._output.read_text(errors="replace")

    def wait_for(self, pattern: re.Pattern[str]) -> re.Match[str]:
        end = time.monotonic() + 20
        while not (found := pattern.search(self.said())):
            assert time.monotonic() < end, self.said()
            assert self.child.status is None, self.said()
            time.sleep(0.01)
        return found


class Prison:
    def __init__(self, wall: Wall, inmate: Path, folder: Path) -> None:
        self._wall = wall
        self._inmate = inmate
        self._output = folder / "output"

    @contextlib.contextmanager
    def hold(
        self, *orders: str, pass_fds: tuple[int, ...] = (), spec: GuestSpec = SPEC
    ) -> Iterator[Cell]:
        with contextlib.ExitStack() as stack:
            output = stack.enter_context(self._output.open("wb"))
            inside = stack.enter_context(contextlib.closing(Inside()))
            argv = (*machine.wall_prefix(spec, self._wall, inside), str(self._inmate), *orders)
            child = stack.enter_context(
                process.start(argv, output=output, pass_fds=(inside.info, *pass_fds), cwd=Path("/"))
            )
            stack.callback(inside.end, child)
            inside.find(child, self._wall)
            yield Cell(child, inside, self._output)

    def ask(self, *orders: str, spec: GuestSpec = SPEC) -> dict[str, str]:
        """What came of each order."""
        with self.hold(*orders, spec=spec) as cell:
            assert cell.child.wait(soon()) == 0, cell.said()
            lines = (line.partition(":") for line in cell.said().splitlines())
            return {order.strip(): came.strip() for order, _, came in lines}


@pytest.fixture
def prison(wall: Wall, inmate: Path, tmp_path: Path) -> Prison:
    return Prison(wall, inmate, tmp_path)


# --- files -------------------------------------------------------------------------------


def test_nothing_of_the_hosts_files_is_there(prison: Prison, inmate: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    tmp_path.chmod(0o755)
    unseen: tuple[str, ...] = (
        "/etc/passwd",
        "/etc/shadow",
        "/root",
        "/home",
        str(Path.home()),
        "/dev/null",
    )
    unseen += ("/sys/kernel", "/run", "/var", "/usr/bin/env", "/bin/sh", str(tmp_path / "secret"))
    told = prison.ask("list:/", "list:/tmp", "list:/etc", *(f"read:{path}" for path in unseen))
    assert set(told["list /"].split()) <= {"etc", "lib", "lib64", "proc", "tmp", "usr"}
    assert told["list /tmp"] == inmate.name
    assert told["list /etc"] == "ld.so.cache"
    assert {path: told[f"read {path}"] for path in unseen} == dict.fromkeys(unseen, "ENOENT")


def test_libraries_are_there_wherever_they_are(open_dir: Path) -> None:
    """Those that a link leads to, too; and nothing else beside a program."""
    (open_dir / "private/lib").mkdir(parents=True)
    (open_dir / "lib").symlink_to("private/lib")
    (open_dir / "own.c").write_text("int own(void) { return 7; }\n")
    (open_dir / "main.c").write_text(
        "int own(void);\nint main(int argc, char **argv)\n{\n"
        "\treturn argc > 1 && argv[1][0] == 'x' ? own() : 0;\n}\n"
    )
    library, program = open_dir / "lib/libown.so", open_dir / "main"
    compiling = ("gcc", "-shared", "-fPIC", "-o", library, open_dir / "own.c")
    subprocess.run(compiling, check=True)
    linking = ("gcc", "-o", program, open_dir / "main.c", library, f"-Wl,-rpath,{library.parent}")
    subprocess.run(linking, check=True)
    wall = find_wall(str(program))
    assert str(open_dir / "private/lib") in wall.shown.paths
    assert str(program) in wall.shown.paths
    assert str(open_dir) not in wall.shown.paths
    with Prison(wall, program, open_dir).hold("x") as cell:
        assert cell.child.wait(soon()) == 7, cell.said()


def test_nothing_can_be_written_anywhere(prison: Prison, inmate: Path) -> None:
    places: tuple[str, ...] = (
        "/x",
        "/tmp/x",
        "/etc/x",
        "/proc/x",
        "/usr/x",
        "/etc/ld.so.cache",
        str(inmate),
    )
    places += ("/proc/self/oom_score_adj", "/proc/sys/kernel/core_pattern", "/usr/lib/x")
    told = prison.ask(*(f"create:{place}" for place in places))
    assert set(told.values()) <= {"EROFS", "ENOENT", "EACCES"}, told
    assert told["create /tmp/x"] == told["create /proc/self/oom_score_adj"] == "EROFS"


# --- the network -------------------------------------------------------------------------


def test_no_port_and_no_socket_of_the_host_is_reached(prison: Prison) -> None:
    abstract = f"lab-wall-{os.getpid()}"
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as named,
    ):
        named.bind(f"\0{abstract}")
        named.listen()
        port = server.getsockname()[1]
        told = prison.ask(f"dial:{port}", "dial-out:80", f"dial-unix:@{abstract}")
    assert told[f"dial {port}"] == "ECONNREFUSED"
    assert told["dial-out 80"] == "ENETUNREACH"
    assert told[f"dial-unix @{abstract}"] == "ECONNREFUSED"


def test_the_lab_reaches_a_port_within_and_nobody_else_does(prison: Prison) -> None:
    with prison.hold("serve:") as cell:
        port = int(cell.wait_for(SERVED)[1])
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
        for word in (b"one", b"two"):
            with cell.inside.connect(port, 20) as found:
                found.sendall(word)
                assert found.recv(10) == word
        with pytest.raises(ConnectionRefusedError, match="Connection refused"):
            cell.inside.connect(1, 20)
        cell.inside.end(cell.child)
        with pytest.raises(ConnectionRefusedError):
            cell.inside.connect(port, 20)


def test_a_connection_within_outlives_who_made_it_and_ends_with_the_inmate(prison: Prison) -> None:
    with prison.hold("serve:") as cell:
        found = cell.inside.connect(int(cell.wait_for(SERVED)[1]), 20)
    with found:
        assert found.recv(10) == b""


@pytest.mark.usefixtures("no_leaks")
def test_a_relay_leads_a_users_programs_in(prison: Prison) -> None:
    with prison.hold("serve:") as cell:
        port = int(cell.wait_for(SERVED)[1])
        with open_relay(lambda: cell.inside.connect(port, 20)) as outer:
            for size in (1, 1 << 20):
                with socket.create_connection(("127.0.0.1", outer), timeout=20) as found:
                    data, got = b"x" * size, b""
                    while len(got) < size:
                        found.sendall(data[len(got) : len(got) + 4096])
                        got += found.recv(4096, socket.MSG_WAITALL if size > 1 else 0)
                    assert got == data
            cell.inside.end(cell.child)
            with socket.create_connection(("127.0.0.1", outer), timeout=20) as found:
                assert found.recv(10) == b""  # the relay is there, and nobody behind it
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", outer), timeout=5)


# --- processes, privileges, limits -------------------------------------------------------


def test_no_process_of_the_host_is_seen(prison: Prison) -> None:
    told = prison.ask("list:/proc", f"kill:{os.getpid()}")
    assert [word for word in told["list /proc"].split() if word.isdigit()] == ["1"]
    assert told[f"kill {os.getpid()}"] == "ESRCH"


def test_it_is_nobody_without_privileges_or_an_environment(
    wall: Wall, prison: Prison, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_TEST_SECRET", "hunter2")
    told = prison.ask("status", "environment:", "unshare-user:")
    assert told["Uid"].split() == ["65534"] * 4
    assert int(told["CapEff"], 16) == 0
    assert told["NoNewPrivs"] == "1"
    assert told["environment"] == ("PWD=/" if told["environment"] else "")
    assert int(told["CapBnd"], 16) == 0
    if wall.user:  # else the machine itself has none
        assert told["unshare-user"] in ("ENOSPC", "EPERM")


def test_a_file_cannot_grow_for_ever(prison: Prison, tmp_path: Path) -> None:
    with prison.hold("grow") as cell:
        # The first process of its namespace is spared the signal, and told EFBIG.
        assert cell.child.wait(soon()) == 1
    assert (tmp_path / "output").stat().st_size == machine.MAX_FILE_BYTES


@pytest.mark.skipif(not os.access(KVM, os.R_OK), reason=f"no {KVM}, or it is closed")
def test_kvm_is_within_where_it_is_used_and_only_there(prison: Prison) -> None:
    orders = (f"read:{KVM}", "list:/dev", "create:/dev/x", "status", "read:/etc/shadow")
    told = prison.ask(*orders)
    assert (told[f"read {KVM}"], told["list /dev"]) == ("ENOENT", "ENOENT")
    told = prison.ask(*orders, spec=replace(SPEC, accelerator="kvm"))
    assert (told[f"read {KVM}"], told["list /dev"]) == ("done", "kvm")
    assert told["create /dev/x"] == "EROFS"
    assert (told["CapEff"], told["read /etc/shadow"]) == (f"{0:016x}", "ENOENT")


# --- ends --------------------------------------------------------------------------------


def test_its_status_is_told(prison: Prison) -> None:
    for order, status in (("exit:7", 7), ("exit:0", 0)):
        with prison.hold(order) as cell:
            assert cell.child.wait(soon()) == status
    with prison.hold("die:") as cell:
        assert cell.child.wait(soon()) == 128 + signal.SIGILL


@pytest.mark.usefixtures("no_leaks")
def test_after_its_end_all_that_it_held_is_given_up(prison: Prison) -> None:
    memory = os.memfd_create("memory", os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(memory, 4096)
        os.fchmod(memory, 0o666)
        with prison.hold(f"keep-mapped:{memory}", pass_fds=(memory,)) as cell:
            cell.wait_for(re.compile("mapped\n"))
            with pytest.raises(OSError, match="busy"):
                fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
            assert cell.child.status is None
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        assert cell.child.status == 128 + signal.SIGKILL  # bubblewrap collected it
    finally:
        os.close(memory)


LAB = """
import contextlib, re, sys, time
from pathlib import Path
from orchestrator.adapters.wall import Inside, find_wall, unprivileged
from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline

def hold(stack, *orders):
    inside = stack.enter_context(contextlib.closing(Inside()))
    wall = find_wall(sys.argv[1])
    argv = (*wall.render(identity=unprivileged(), info=inside.info), sys.argv[1], *orders)
    output = stack.enter_context(open(sys.argv[2], "wb"))
    child = stack.enter_context(
        process.start(argv, output=output, pass_fds=(inside.info,), cwd=Path("/"))
    )
    stack.callback(inside.end, child)
    inside.find(child, wall)
    return inside

def said(pattern):
    while not (found := re.search(pattern, Path(sys.argv[2]).read_text())):
        time.sleep(0.01)
    return found[1]

with contextlib.ExitStack() as stack:
    inside = hold(stack, "status", "serve:")
    with inside.connect(int(said("serve : (.*)\\n")), 20) as found:
        found.sendall(b"hello")
        print(found.recv(10).decode(), said("Uid:(.*)").split(), flush=True)
    time.sleep(float(sys.argv[3]))
with contextlib.ExitStack() as stack:
    hold(stack, "fork-all:")
    print(said("fork-all : (.*)"))
"""


def test_it_ends_with_the_lab_whatever_ends_that(inmate: Path, wall: Wall, open_dir: Path) -> None:
    assert wall
    argv = (sys.executable, "-c", LAB, str(inmate), str(open_dir / "output"), "60")
    with subprocess.Popen(argv, cwd=REPO, stdout=subprocess.PIPE) as lab:
        assert lab.stdout is not None
        assert lab.stdout.readline(), "it did not come up"
        assert _running(inmate)
        lab.kill()
    end = time.monotonic() + 10
    while _running(inmate):
        assert time.monotonic() < end, "it outlived the lab"
        time.sleep(0.02)


def _running(inmate: Path) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if words[0] == os.fsencode(inmate):
                found.append(path.parent.name)
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_ordinary_user_has_and_enters_the_same_walls(inmate: Path, open_dir: Path) -> None:
    open_dir.chmod(0o777)
    shutil.copytree(REPO / "orchestrator", open_dir / "orchestrator")
    (open_dir / "orchestrator").chmod(0o755)
    # Root's virtual environment may be closed.
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable
    done = subprocess.run(
        (
            *("setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups", "--"),
            *(python, "-c", LAB, str(inmate), str(open_dir / "output"), "0"),
        ),
        cwd=open_dir,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    if "refuses bubblewrap" in done.stderr:
        pytest.skip("this machine gives an ordinary user no namespaces")
    assert done.returncode == 0, done.stderr
    first, forks = done.stdout.splitlines()
    assert first == f"hello {['65534'] * 4}"
    if kernel_version() >= (5, 14):
        assert int(forks) in range(MAX_TASKS - 10, MAX_TASKS)


# --- where there is none -----------------------------------------------------------------


def test_a_script_in_qemus_place_has_no_wall(tmp_path: Path) -> None:
    (tmp_path / "qemu").write_text("#!/bin/sh\nexec qemu-system-x86_64\n")
    with pytest.raises(HostError, match="is a script"):
        find_wall(str(tmp_path / "qemu"))


def test_without_bubblewrap_there_is_no_wall_and_that_is_said(
    inmate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "qemu-system-x86_64").symlink_to(inmate)
    for tool in ("setpriv", "prlimit"):
        (tmp_path / tool).symlink_to(process.find_tool(tool))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="no 'bwrap'") as caught:
        find_wall(str(inmate))
    assert caught.value.hint == "install the package bubblewrap"
    assert machine.describe_wall() == (
        "QEMU has no namespaces of its own: this machine has no 'bwrap'"
    )
    assert "bwrap" not in " ".join(machine.wall_prefix(SPEC, None, None))


def test_a_program_that_does_not_run_has_no_wall(tmp_path: Path) -> None:
    (tmp_path / "qemu").write_bytes(b"\x7fELF" + bytes(100))
    (tmp_path / "qemu").chmod(0o755)
    with pytest.raises(HostError):
        find_wall(str(tmp_path / "qemu"))
