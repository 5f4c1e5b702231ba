"""Looking into a real guest: a shell in it, with a terminal and without."""

from __future__ import annotations

import itertools
import os
import pty
import select
import shlex
import shutil
import signal
import stat
import subprocess
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import LABS, REPOSITORY, lab_argv

LAB = LABS / "forks/lab.yaml"
SECONDS = 600
# The suite's guests boot; these are about those that do not.
FROZEN = {**os.environ, "LAB_FROZEN_GIB": "4", "PYTHONPATH": str(REPOSITORY)}


def call(
    *arguments: str | Path, cwd: Path = REPOSITORY, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        lab_argv(*arguments),
        cwd=cwd,
        env=FROZEN,
        input=stdin,
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.fixture
def private_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `lab` puts temporary files, to see that it leaves none."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setitem(FROZEN, "TMPDIR", str(folder))
    return folder


# --- lab shell --------------------------------------------------------------------------------


def test_a_command_is_run_and_its_status_is_ours(private_tmp: Path) -> None:
    script = "ls /lab/modules; cat; echo bad >&2; exit 7"
    done = call("shell", "--lab", LAB, "6.1", "--", script, stdin=b"typed \x1b\n")
    assert (done.returncode, done.stdout) == (7, b"late.ko\ntyped \x1b\n"), done.stderr
    assert done.stderr.endswith(b"bad\n")
    assert list(private_tmp.iterdir()) == []


def test_words_reach_the_command_as_they_are() -> None:
    done = call("shell", "--lab", LAB, "6.1", "--", "printf", "%s|", "a b", "$HOME", "--")
    assert (done.returncode, done.stdout) == (0, b"a b|$HOME|--|"), done.stderr


def test_a_folder_of_modules_needs_no_lab(tmp_path: Path) -> None:
    shutil.copytree(LAB.parent / "module", tmp_path / "mine")
    script = "insmod /lab/modules/late.ko && grep -c late /proc/modules; ls /lab/src; uname -r"
    done = call("shell", "--module", "mine", "bookworm", "--", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().splitlines()[:2] == ["1", "mine"]
    assert done.stdout.decode().splitlines()[2].startswith("6.1.")


def test_a_guest_that_panics_is_no_success(private_tmp: Path) -> None:
    done = call("shell", "--lab", LAB, "6.1", "--", "echo c >/proc/sysrq-trigger")
    assert done.returncode == 3
    assert b"the guest's kernel panicked" in done.stderr
    assert list(private_tmp.iterdir()) == []


class Terminal:
    """A terminal with `lab` on it."""

    def __init__(self, *arguments: str | Path) -> None:
        self._ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (33, 99))
        self.process = subprocess.Popen(
            lab_argv(*arguments),
            cwd=REPOSITORY,
            env={**FROZEN, "TERM": "xterm"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.text = ""

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def resize(self, rows: int, columns: int) -> None:
        termios.tcsetwinsize(self._ours, (rows, columns))
        self.process.send_signal(28)  # SIGWINCH: it is not the session's terminal

    def wait_for(self, text: str) -> None:
        """Read on until the text is there; what comes later is looked for behind it."""
        end = time.monotonic() + SECONDS
        while text not in self.text:
            assert time.monotonic() < end, f"no {text!r} in {self.text!r}"
            if select.select([self._ours], [], [], 1.0)[0]:
                try:
                    self.text += os.read(self._ours, 65536).decode(errors="replace")
                except OSError:
                    pytest.fail(f"it ended without {text!r}: {self.text!r}")
        self.text = self.text.partition(text)[2]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=60)
        os.close(self._ours)


@pytest.fixture
def in_shell() -> Iterator[Terminal]:
    terminal = Terminal("shell", "--lab", LAB, "6.1")
    yield terminal
    terminal.close()


def test_a_terminal_is_the_guests(private_tmp: Path, in_shell: Terminal) -> None:
    in_shell.wait_for("leave with exit or ^D")
    in_shell.type("stty size; echo $((40+2))\n")
    in_shell.wait_for("33 99")
    in_shell.wait_for("42")
    in_shell.resize(22, 77)
    in_shell.type("until [ \"$(stty size)\" = '22 77' ]; do :; done; echo $((90+1))\n")
    in_shell.wait_for("91")
    # The command itself says that it has the terminal: Ctrl-C before that is bash's, which would
    # go on with a list whose command did not die of it.
    in_shell.type("sh -c 'echo $((50+3)); exec sleep 1000'\n")
    in_shell.wait_for("53")
    in_shell.type("\x03")
    in_shell.type("echo status $?\n")
    in_shell.wait_for("status 130")
    in_shell.type("exit 5\n")
    assert in_shell.process.wait(timeout=60) == 5
    assert list(private_tmp.iterdir()) == []


# --- lab watch --------------------------------------------------------------------------------


class Watching:
    """`lab watch` in a process of its own, and what it prints."""

    def __init__(self, *arguments: str | Path) -> None:
        self.process = subprocess.Popen(
            lab_argv("watch", *arguments),
            cwd=REPOSITORY,
            env=FROZEN,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self._guard = threading.Timer(SECONDS, self.process.kill)
        self._guard.start()

    def next(self, word: str) -> str:
        """The next line with this word in it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if word in line:
                return line
        pytest.fail(f"it ended without {word!r}")

    def end(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(timeout=60)
        finally:
            self._guard.cancel()
            self.process.kill()
            assert self.process.stdout is not None
            self.process.stdout.close()


@pytest.fixture
def looking_lab(tmp_path: Path) -> Path:
    """A lab whose module nobody has built before, so that it is this test's to change."""
    folder = tmp_path / "lab"
    shutil.copytree(LABS / "looking", folder)
    source = folder / "module/look.c"
    source.write_text(source.read_text().replace("is there", f"is there {time.time_ns()}"))
    return folder


def test_what_is_saved_is_played_again(looking_lab: Path) -> None:
    lab, source = looking_lab / "lab.yaml", looking_lab / "module/look.c"
    good = source.read_text()
    watching = Watching("--lab", lab, "-k", "6.1", "-s", "ready", "-s", "apart", "-j", "1")
    try:
        assert "2 passed (2 played" in watching.next("PASS")
        source.write_text(good.replace("ready\\n", "not yet\\n"))
        assert "look.c" in watching.next("changed: ")
        assert "1 of 2 failed (1 played" in watching.next("FAIL ")
        assert "look: ready" in watching.next("look: ready")
        source.write_text(good.replace("pr_info(", "pr_inf("))
        watching.next("changed: ")
        assert "1 of 2 failed (1 played" in watching.next("FAIL ")
        lab.write_text(lab.read_text().replace("scenarios:", "scenario:"))
        watching.next("changed: ")
        assert watching.next("ERROR")
        source.write_text(good)
        lab.write_text((LABS / "looking/lab.yaml").read_text())
        assert "2 passed (2 played" in watching.next("PASS")
    finally:
        status = watching.end()
    assert status == 130


# --- lab replay -------------------------------------------------------------------------------


def test_the_state_before_the_step_that_failed_is_there_again(
    looking_lab: Path, tmp_path: Path
) -> None:
    lab, results = looking_lab / "lab.yaml", tmp_path / "results"
    here = ("--lab", lab, "--results", results)
    ran = call("run", *here, "-k", "6.1", "-s", "fails", "-j", "1")
    assert ran.returncode == 1, ran.stderr
    script = "cat /tmp/one; ls /tmp; lsmod | grep -o '^look '; exit 4"
    done = call("replay", *here, "latest", "6.1/fails", "--", script)
    assert (done.returncode, done.stdout) == (4, b"one\none\nlook \n"), done.stderr
    said = done.stderr.decode()
    assert "kernel, modules and scenario are those of that run" in said
    assert "   3 run cat /tmp/two  <- failed then: " in said

    source, scenarios = looking_lab / "module/look.c", looking_lab / "scenarios.yaml"
    source.write_text(source.read_text().replace("ready\\n", "other\\n"))
    scenarios.write_text(scenarios.read_text().replace("/tmp/three", "/tmp/four"))
    done = call("replay", *here, "latest", "6.1/fails", "--step", "2", "--", "ls /tmp")
    assert (done.returncode, done.stdout) == (0, b""), done.stderr
    said = done.stderr.decode()
    assert "changed since: the module look has changed" in said
    assert "changed since: the scenario has changed" in said
    assert "   4 run touch /tmp/four" in said


# --- lab gdb ----------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("gdb") is None, reason="no gdb here")
def test_a_breakpoint_in_a_module_is_hit_and_shows_its_source() -> None:
    scenario = "helloworld/is-read-by-cat-in-two-calls"
    debugged = subprocess.Popen(
        lab_argv("gdb", "6.1", "-s", scenario, "--print"),
        cwd=REPOSITORY,
        env=FROZEN,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    guard = threading.Timer(SECONDS, debugged.kill)
    guard.start()
    reader = gdb = None
    try:
        assert debugged.stderr is not None
        lines = list(itertools.takewhile(lambda line: "Ctrl-C" not in line, debugged.stderr))
        told = {line.partition(":")[0].strip(): line.strip() for line in lines}
        script = next(line.split()[-1] for line in lines if line.startswith("gdb -x "))
        assert stat.S_IMODE(Path(script).parent.stat().st_mode) == 0o700
        words = ("break procfs1_read", "continue", "bt 2", "list", "detach")
        gdb = subprocess.Popen(
            ["gdb", "-nx", "-batch", "-x", script, *(w for each in words for w in ("-ex", each))],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert gdb.stdout is not None
        before = list(itertools.takewhile(lambda line: "Breakpoint 1 at" not in line, gdb.stdout))
        ssh = shlex.split(told["a shell in the guest"].partition(": ")[2])[:-2]
        ssh.remove("-ti")
        at = ssh.index("-o") - 1
        reader = subprocess.Popen(
            [*ssh[:at], "-i", *ssh[at:], "head -c 5 /proc/helloworld"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        said = gdb.stdout.read()  # not communicate(), which passes over what is buffered
        assert "Breakpoint 1, procfs1_read (" in said, (before, said)
        assert " at /lab/src/procfs/procfs1.c:" in said, "as it was built"
        assert "proc_reg_read" in said, "the kernel's own symbols are known too"
        assert "static ssize_t procfs1_read(struct file *file" in said, "out of this checkout"
        assert reader.communicate(timeout=SECONDS)[0] == "Hello"
        debugged.send_signal(signal.SIGINT)
        assert debugged.wait(timeout=60) == 130
        assert not Path(script).exists()
    finally:
        guard.cancel()
        for each in (reader, gdb, debugged):
            if each is not None:
                each.kill()
                each.communicate()


@pytest.mark.skipif(shutil.which("gdb") is None, reason="no gdb here")
def test_gdb_is_started_with_every_module_loaded(private_tmp: Path) -> None:
    words = ("-nx", "-batch", "-ex", "info line look_exit", "-ex", "info symbol vfs_read")
    done = call("gdb", "--lab", LABS / "looking/lab.yaml", "6.1", "--", *words)
    assert done.returncode == 0, done.stderr
    assert b'of "/lab/src/look/look.c" starts at address' in done.stdout
    assert b"vfs_read in section .text" in done.stdout
    assert b"modules that gdb knows: look\n" in done.stderr
    assert list(private_tmp.iterdir()) == []


# --- lab console ------------------------------------------------------------------------------


def test_the_console_of_a_session_is_followed_to_its_end(
    private_tmp: Path, in_shell: Terminal
) -> None:
    in_shell.wait_for("leave with exit or ^D")
    follower = subprocess.Popen(
        lab_argv("console", "-f", "shell", "6.1"),
        cwd=REPOSITORY,
        env=FROZEN,
        stdout=subprocess.PIPE,
        text=True,
    )
    guard = threading.Timer(SECONDS, follower.kill)
    guard.start()
    try:
        in_shell.type('echo "said $((40+2)) \x16\x1b[2J" >/dev/kmsg\n')
        assert follower.stdout is not None
        assert any("said 42" in line and "\x1b" not in line for line in follower.stdout)
        in_shell.type("exit\n")
        assert in_shell.process.wait(timeout=60) == 0
        assert follower.wait(timeout=60) == 0
    finally:
        guard.cancel()
        follower.kill()
        follower.communicate()
    assert list(private_tmp.iterdir()) == []


def test_the_console_of_a_past_run_is_printed(tmp_path: Path) -> None:
    here = ("--lab", LABS / "looking/lab.yaml", "--results", tmp_path / "results")
    ran = call("run", *here, "-k", "6.1", "-s", "ready", "-j", "1")
    assert ran.returncode == 0, ran.stderr
    done = call("console", *here, "latest", "6.1/scenarios/ready")
    assert done.returncode == 0, done.stderr
    assert b"look: ready\n" in done.stdout
    assert b"\r" not in done.stdout
