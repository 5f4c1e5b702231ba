"""The one door to processes: nothing it starts outlives anybody, or keeps anybody waiting."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import HostError, RunInterruptedError

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_leaks")]
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a PID namespace")


def soon(seconds: float = 20.0) -> Deadline:
    return Deadline.after(seconds, "the test")


def unique_seconds() -> str:
    """How long to sleep: a number that no other process has on its command line."""
    return f"{secrets.randbelow(10**9) + 10**9}.5"


def running(word: str) -> list[int]:
    """The processes, apart from zombies, that have ``word`` on their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if word.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def wait_for(condition: Callable[[], bool], seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def sh(script: str, *, deadline: Deadline | None = None) -> process.Completed:
    return process.run(("sh", "-c", script), deadline=deadline or soon())


# --- running to the end ----------------------------------------------------------------------


def test_a_tool_gives_status_and_outputs() -> None:
    done = sh("echo out; echo err >&2; exit 3")
    assert (done.status, done.stdout, done.stderr) == (3, b"out\n", b"err\n")
    assert done.argv[:2] == ("sh", "-c")


def test_a_signal_is_a_negative_status() -> None:
    assert sh("kill -KILL $$").status == -signal.SIGKILL


def test_what_cannot_be_executed_fails_with_a_reason() -> None:
    done = process.run(("/no/such/tool",), deadline=soon())
    assert done.status != 0
    assert b"/no/such/tool" in done.stderr


def test_a_folder_that_is_not_there_is_the_hosts_fault(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot start true: No such file"):
        process.run(("true",), deadline=soon(), cwd=tmp_path / "none")
    with (
        pytest.raises(HostError, match="cannot start true"),
        process.start(("true",), cwd=tmp_path / "none"),
    ):
        pass


def test_standard_input_is_empty_or_a_file(tmp_path: Path) -> None:
    assert sh("cat").stdout == b""
    (tmp_path / "in").write_bytes(b"from a file")
    done = process.run(("cat",), deadline=soon(), stdin_path=tmp_path / "in")
    assert done.stdout == b"from a file"


def test_standard_output_can_go_to_a_file(tmp_path: Path) -> None:
    done = process.run(("echo", "hello"), deadline=soon(), stdout_path=tmp_path / "out")
    assert done.stdout == b""
    assert (tmp_path / "out").read_bytes() == b"hello\n"


def test_a_flood_on_both_outputs_blocks_nobody() -> None:
    done = sh("head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2")
    assert (len(done.stdout), len(done.stderr)) == (3_000_000, 3_000_000)


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "MAX_CAPTURED", 1000)
    done = sh("head -c 5000 /dev/zero; head -c 5000 /dev/zero >&2")
    assert (len(done.stdout), len(done.stderr)) == (1000, 1000)


def test_tools_speak_plain_english_and_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    done = process.run(("env",), deadline=soon(), env={"EXTRA": "1"})
    lines = done.stdout.decode().splitlines()
    assert "LC_ALL=C.UTF-8" in lines
    assert "PATH=/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin" in lines
    assert "EXTRA=1" in lines


def test_the_last_lines_say_standard_error_last() -> None:
    done = process.Completed(("x",), 1, b"out\n\n\n", b"  err \xff\n")
    assert done.last_lines() == "out\n  err \\xff"
    assert len(process.Completed(("x",), 1, b"line\n" * 5000, b"").last_lines()) <= 4000


# --- deadlines -------------------------------------------------------------------------------


def test_a_deadline_ends_the_whole_session() -> None:
    seconds = unique_seconds()
    started = time.monotonic()
    with pytest.raises(HostError, match=r"sh did not end by its deadline: the test \(0\.4 s\)"):
        sh(f"sleep {seconds} & sleep {seconds}", deadline=soon(0.4))
    assert time.monotonic() - started < 3
    wait_for(lambda: not running(seconds))


def test_what_a_tool_leaves_running_is_not_waited_for() -> None:
    """Neither in its session, nor in one of its own; both hold the tool's output open."""
    seconds = unique_seconds()
    started = time.monotonic()
    try:
        done = sh(f"setsid sleep {seconds} & sleep {seconds} & echo done")
        assert (done.status, done.stdout) == (0, b"done\n")
        assert time.monotonic() - started < 8
        # A session of its own is out of reach, except for ``contained``.
        wait_for(lambda: len(running(seconds)) == 1)
    finally:
        for pid in running(seconds):
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not running(seconds))


def test_a_watch_ends_a_tool_by_raising(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "WATCH_SECONDS", 0.1)
    seconds = unique_seconds()
    calls = []

    def watch() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise HostError("the disk is full")

    with pytest.raises(HostError, match="the disk is full"):
        process.run(("sleep", seconds), deadline=soon(), watch=watch)
    assert not running(seconds)


# --- children that go on ---------------------------------------------------------------------


def test_a_child_runs_while_the_context_is_open() -> None:
    seconds = unique_seconds()
    with process.start(("sleep", seconds)) as child:
        wait_for(lambda: running(seconds) == [child.pid])
        statuses = [child.status, child.wait(soon(0.1))]
    assert [*statuses, child.status] == [None, None, -signal.SIGTERM]
    assert not running(seconds)


def test_a_child_has_a_session_of_its_own() -> None:
    with process.start(("sleep", "30")) as child:
        wait_for(lambda: os.getsid(child.pid) == child.pid)


def test_a_childs_output_goes_where_it_is_told(tmp_path: Path) -> None:
    with (
        (tmp_path / "out").open("wb") as file,
        process.start(("sh", "-c", "echo out; echo err >&2; exit 4"), output=file) as child,
    ):
        assert child.wait(soon()) == 4
    assert (tmp_path / "out").read_bytes() == b"out\nerr\n"


def test_a_child_gets_the_descriptors_it_is_handed_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("handed")
    with (tmp_path / "one").open() as one, (tmp_path / "two").open("w") as two:
        os.set_inheritable(two.fileno(), True)
        script = f"cat <&{one.fileno()}; : 2>/dev/null >&{two.fileno()} || echo closed"
        argv = ("bash", "-c", script)
        with (
            (tmp_path / "out").open("wb") as file,
            process.start(argv, output=file, pass_fds=(one.fileno(),)) as child,
        ):
            child.wait(soon())
    assert (tmp_path / "out").read_text() == "handedclosed\n"


def test_a_child_may_end_in_good_order(tmp_path: Path) -> None:
    script = f"trap 'echo bye > {tmp_path}/bye; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    with (tmp_path / "out").open("wb") as file:
        with process.start(("sh", "-c", script), output=file) as child:
            wait_for(lambda: (tmp_path / "out").read_bytes() == b"up\n")
        assert child.status == 0
    assert (tmp_path / "bye").exists()


def test_a_child_that_will_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "GRACE_SECONDS", 0.2)
    with (tmp_path / "out").open("wb") as file:
        script = "trap '' TERM; echo up; while :; do sleep 0.05; done"
        with process.start(("sh", "-c", script), output=file) as child:
            wait_for(lambda: (tmp_path / "out").read_bytes() == b"up\n")
        assert child.status == -signal.SIGKILL


def test_what_a_child_leaves_behind_in_its_session_is_killed() -> None:
    seconds = unique_seconds()
    with process.start(("sh", "-c", f"sleep {seconds} & exit 0")) as child:
        assert child.wait(soon()) == 0
    wait_for(lambda: not running(seconds))


def test_ending_a_child_twice_is_quiet() -> None:
    with process.start(("sleep", "30")) as child:
        child.kill()
        child.terminate()
        child.kill()
    assert child.status == -signal.SIGKILL


# --- the end of the lab ----------------------------------------------------------------------

KILLED_LAB = """
import sys, threading, time
from orchestrator.foundation import process

prefix = process.contained() if sys.argv[2] == "contained" else ()
script = f"trap '' TERM; setsid sleep {sys.argv[1]} & exec sleep {sys.argv[1]}"
deaf = f"trap '' TERM; exec sleep {sys.argv[1]}"

def hold():
    with process.start((*prefix, "sh", "-c", script if prefix else deaf)):
        print("started", flush=True)
        time.sleep(60)

if sys.argv[2] == "thread":
    threading.Thread(target=hold, daemon=True).start()
    time.sleep(60)
else:
    hold()
"""


@pytest.mark.parametrize(
    ("where", "children"),
    [("main", 1), ("thread", 1), pytest.param("contained", 2, marks=root_only)],
)
def test_children_die_with_a_lab_that_is_killed(where: str, children: int) -> None:
    """Whatever they think of SIGTERM; contained ones with sessions of their own."""
    seconds = unique_seconds()
    argv = (sys.executable, "-c", KILLED_LAB, seconds, where)
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as lab:
        assert lab.stdout is not None
        assert lab.stdout.readline() == b"started\n"
        wait_for(lambda: sum(_is_sleep(pid) for pid in running(seconds)) == children)
        lab.kill()
    wait_for(lambda: not running(seconds))


def _is_sleep(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == "sleep"
    except OSError:
        return False


def test_a_child_outlives_the_thread_that_asked_for_it() -> None:
    """The kernel's death signal follows the thread, not the process."""
    with contextlib.ExitStack() as stack:
        children: list[process.Child] = []
        thread = threading.Thread(
            target=lambda: children.append(stack.enter_context(process.start(("sleep", "30"))))
        )
        thread.start()
        thread.join()
        time.sleep(0.3)
        assert children[0].status is None


def test_the_end_of_the_run_ends_a_tool() -> None:
    seconds = unique_seconds()
    threading.Timer(0.3, process.stop_all).start()
    started = time.monotonic()
    with pytest.raises(RunInterruptedError):
        process.run(("sleep", seconds), deadline=soon())
    assert time.monotonic() - started < 5
    assert not running(seconds)


def test_the_end_of_the_run_does_not_wait_for_what_a_tool_left_running() -> None:
    seconds = unique_seconds()
    threading.Timer(0.3, process.stop_all).start()
    started = time.monotonic()
    try:
        with pytest.raises(RunInterruptedError):
            sh(f"setsid sleep {seconds} & sleep {seconds}", deadline=soon(40))
        assert time.monotonic() - started < 8
    finally:
        for pid in running(seconds):
            os.kill(pid, signal.SIGKILL)


def test_the_end_of_the_run_ends_a_wait_for_a_child() -> None:
    threading.Timer(0.3, process.stop_all).start()
    with process.start(("sleep", "30")) as child:
        assert child.wait(soon()) == -signal.SIGTERM
    assert process.stopping()
    with pytest.raises(RunInterruptedError):
        process.check_stopping()


def test_nothing_can_be_started_once_the_run_ends() -> None:
    process.stop_all()
    with pytest.raises(RunInterruptedError):
        process.run(("true",), deadline=soon())
    with pytest.raises(RunInterruptedError), process.start(("true",)):
        pass
    process.allow_again()
    assert not process.stopping()
    assert process.run(("true",), deadline=soon()).status == 0


def test_no_child_slips_through_while_the_run_ends() -> None:
    seconds = unique_seconds()
    interrupted = []

    def work() -> None:
        try:
            while True:
                with process.start(("sleep", seconds)) as child:
                    child.wait(soon(0.01))
        except RunInterruptedError:
            interrupted.append(1)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    time.sleep(0.3)
    process.stop_all()
    for worker in workers:
        worker.join(timeout=10)
    assert len(interrupted) == 4
    assert not running(seconds)


# --- finding tools ---------------------------------------------------------------------------


def test_a_tool_in_sbin_is_found_without_it_in_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = next(path for path in map(Path, ("/usr/sbin", "/sbin")) if path.is_dir())
    tool = next(path for path in sorted(folder.iterdir()) if os.access(path, os.X_OK))
    monkeypatch.setenv("PATH", "/nonexistent")
    assert Path(process.find_tool(tool.name)).samefile(tool)


def test_the_users_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "depmod").write_text("#!/bin/sh\n")
    (tmp_path / "depmod").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert process.find_tool("depmod") == str(tmp_path / "depmod")


@pytest.mark.parametrize("path", ["", ":", "::/usr/bin"])
def test_the_current_folder_is_not_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    (tmp_path / "lab-test-tool").write_text("#!/bin/sh\n")
    (tmp_path / "lab-test-tool").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", path)
    with pytest.raises(HostError, match="no 'lab-test-tool'"):
        process.find_tool("lab-test-tool")


def test_a_tool_that_is_not_there_is_told_with_a_hint() -> None:
    with pytest.raises(HostError, match="this machine has no 'no-such-tool'") as caught:
        process.find_tool("no-such-tool")
    assert "lab doctor" in caught.value.hint
    with pytest.raises(HostError) as caught:
        process.find_tool("no-such-tool", hint="make one")
    assert caught.value.hint == "make one"


def test_a_file_that_cannot_be_executed_is_no_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lab-test-tool").write_text("#!/bin/sh\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError):
        process.find_tool("lab-test-tool")


# --- tools with children of their own --------------------------------------------------------


@root_only
def test_a_contained_tool_gives_what_it_gives() -> None:
    done = process.run((*process.contained(), "sh", "-c", "echo out; exit 5"), deadline=soon())
    assert (done.status, done.stdout) == (5, b"out\n")


@root_only
def test_a_contained_tool_takes_its_children_along() -> None:
    """Also those that made a session of their own, which is what daemons do."""
    seconds = unique_seconds()
    script = f"setsid sleep {seconds} & sleep {seconds}"
    with pytest.raises(HostError, match="deadline"):
        process.run((*process.contained(), "sh", "-c", script), deadline=soon(0.7))
    wait_for(lambda: not running(seconds))


@root_only
def test_a_contained_tool_that_ends_takes_its_children_along() -> None:
    seconds = unique_seconds()
    script = f"setsid sleep {seconds} & exit 0"
    process.run((*process.contained(), "sh", "-c", script), deadline=soon())
    wait_for(lambda: not running(seconds))


@pytest.mark.skipif(os.geteuid() == 0, reason="root can")
def test_without_root_nothing_is_contained() -> None:
    assert process.contained() == ()


def test_a_tool_on_the_terminal_has_ctrl_c_to_itself() -> None:
    """Its parent is this process, which passes over the signal; it does not."""
    before = signal.getsignal(signal.SIGINT)
    assert process.run_on_terminal(("sh", "-c", "kill -INT $PPID; exit 7")) == 7
    assert process.run_on_terminal(("sh", "-c", "kill -INT $$")) == -signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is before


def test_a_tool_on_the_terminal_ends_with_the_run() -> None:
    ending = threading.Timer(0.2, process.stop_all)
    ending.start()
    with pytest.raises(RunInterruptedError):
        process.run_on_terminal(("sleep", "1000"))
    ending.join()


# --- the moment before a child is sure to end with the lab ------------------------------------

FORGETFUL = """
import sys, time
from orchestrator.foundation import process

# Of the same group, with nothing that would end it with anybody; and its parent ends.
argv = ("sh", "-c", '(sleep "$0"; :) & exit', sys.argv[1])
with process.start(argv, guarded=True) as child:
    while child.status is None:
        time.sleep(0.01)
    print("there", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_all_of_a_guarded_childs_group_ends_with_the_lab(number: signal.Signals) -> None:
    seconds = unique_seconds()
    argv = (sys.executable, "-c", FORGETFUL, seconds)
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as lab:
        assert lab.stdout is not None
        assert lab.stdout.readline() == b"there\n"
        assert any(_is_sleep(pid) for pid in running(seconds))
        lab.send_signal(number)
    wait_for(lambda: not running(seconds))


def test_a_guard_leaves_alone_what_is_not_in_question_any_more() -> None:
    """Another group has the number by then, as far as the guard can tell."""
    with process.start(("sleep", "0.01"), guarded=True) as child:
        child.wait(soon())
    done = process.run(("echo", "two  words"), deadline=soon(), guarded=True)
    assert (done.status, done.stdout) == (0, b"two  words\n")


def test_what_cannot_be_started_leaves_no_guard() -> None:
    with pytest.raises(HostError), process.start(("true",), cwd=Path("/nowhere"), guarded=True):
        pass
    process.stop_all()
    with pytest.raises(RunInterruptedError), process.start(("true",), guarded=True):
        pass


def test_what_is_not_the_labs_own_child_any_more_does_not_begin(tmp_path: Path) -> None:
    argv = (*process.dying_with_parent(), "touch", str(tmp_path / "mine"))
    subprocess.run(argv, check=True)
    assert (tmp_path / "mine").exists()
    argv = (*process.dying_with_parent(), "touch", str(tmp_path / "orphan"))
    done = subprocess.run(("sh", "-c", '"$@"; exit $?', "sh", *argv), check=False)
    assert done.returncode != 0
    assert not (tmp_path / "orphan").exists()
