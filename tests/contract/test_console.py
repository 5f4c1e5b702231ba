"""The console's reader against recorded boots, cut and spoilt in the ways that happen."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.adapters import console as console_module
from orchestrator.adapters.console import Console, KernelLog, RescueShell, open_line
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import MachineError
from orchestrator.plan.klog import MAX_LINE_BYTES, Marker, find_findings, parse_log

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_leaks")]

DATA = Path(__file__).parents[1] / "data" / "klog"
BOOT = (DATA / "healthy-6.1.log").read_bytes()
MARKER = Marker("0123456789abcdef", "boot", "ready")
STAMPED = b"[    1.000000] "


def soon(seconds: float = 10.0) -> Deadline:
    return Deadline.after(seconds, "the test")


def on_socket(ours: socket.socket, path: Path) -> Console:
    """A console on a socket: QEMU's end says more in a test that can be cut."""
    fd = ours.detach()
    return Console(fd, os.dup(fd), path)


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[tuple[Console, socket.socket]]:
    """A console, and QEMU's end of it."""
    ours, theirs = socket.socketpair()
    with on_socket(ours, tmp_path / "console.log") as console:
        yield console, theirs
        theirs.close()


Guest = tuple[Console, socket.socket]


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


# --- whole boots -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 1000, 65536, 1 << 20])
def test_a_recorded_boot_arrives_whole_in_pieces_of_any_size(guest: Guest, size: int) -> None:
    console, qemu = guest
    for start in range(0, len(BOOT), size):
        qemu.sendall(BOOT[start : start + size])
    qemu.close()
    assert console.log.wait_for_end(soon())
    assert console.log.records() == parse_log(BOOT)
    assert console.path.read_bytes() == BOOT


@pytest.mark.parametrize("name", sorted(path.name for path in DATA.glob("*.log")))
def test_every_recorded_log_arrives_and_its_panic_is_seen(guest: Guest, name: str) -> None:
    console, qemu = guest
    data = (DATA / name).read_bytes()
    qemu.sendall(data)
    qemu.close()
    assert console.log.wait_for_end(soon())
    assert console.log.records() == parse_log(data)
    panicked = b"] Kernel panic - not syncing" in data or b"][    C0] Kernel panic" in data
    assert (console.log.panic is not None) == panicked


def test_a_line_is_a_record_before_the_next_one_comes(guest: Guest) -> None:
    console, qemu = guest
    qemu.sendall(STAMPED + b"alone\n")
    assert console.log.wait_until(lambda: console.log.count == 1, soon())
    assert console.log.last_line == "alone"


def test_the_file_has_what_the_log_has(guest: Guest) -> None:
    """Evidence is on disk before anybody can act on it."""
    console, qemu = guest
    qemu.sendall(STAMPED + b"first\n" + STAMPED + MARKER.render().encode() + b"\n")
    assert console.log.wait_for_marker(MARKER, soon()) == 1
    assert MARKER.render().encode() in console.path.read_bytes()


def test_half_a_line_at_the_end_is_kept(guest: Guest) -> None:
    console, qemu = guest
    qemu.sendall(STAMPED + b"whole\n" + STAMPED + b"cut sh")
    qemu.close()
    assert console.log.wait_for_end(soon())
    assert [record.text for record in console.log.records()] == ["whole", "cut sh"]


def test_the_last_line_is_the_last_that_says_anything(guest: Guest) -> None:
    console, qemu = guest
    assert console.log.last_line == ""
    qemu.sendall(STAMPED + b"said\n\n   \n")
    assert console.log.wait_until(lambda: console.log.count == 3, soon())
    assert console.log.last_line == "said"


def test_slices_of_the_log(guest: Guest) -> None:
    console, qemu = guest
    qemu.sendall(b"".join(STAMPED + b"%d\n" % number for number in range(5)))
    assert console.log.wait_until(lambda: console.log.count == 5, soon())
    assert [record.text for record in console.log.records(1, 3)] == ["1", "2"]
    assert [record.number for record in console.log.records(3)] == [3, 4]
    assert console.log.records(9) == ()


# --- markers ---------------------------------------------------------------------------------


def test_a_marker_is_waited_for_and_found_where_it_is(guest: Guest) -> None:
    console, qemu = guest
    line = STAMPED + MARKER.render().encode() + b"\n"
    threading.Timer(0.2, qemu.sendall, (STAMPED + b"before\n" + line,)).start()
    assert console.log.wait_for_marker(MARKER, soon()) == 1
    assert console.log.position_of(MARKER) == 1


def test_a_marker_written_twice_is_where_it_was_first(guest: Guest) -> None:
    console, qemu = guest
    line = STAMPED + MARKER.render().encode() + b"\n"
    qemu.sendall(line + STAMPED + b"between\n" + line)
    assert console.log.wait_until(lambda: console.log.count == 3, soon())
    assert console.log.position_of(MARKER) == 0


@pytest.mark.parametrize(
    "text",
    [
        b"lab-0123456789abcdee boot ready",
        b"lab-0123456789abcdef boot read",
        b"lab-0123456789abcdef boot ready now",
        b"echo: lab-0123456789abcdef boot ready",
    ],
)
def test_what_is_only_like_a_marker_is_none(guest: Guest, text: bytes) -> None:
    console, qemu = guest
    qemu.sendall(STAMPED + text + b"\n")
    assert console.log.wait_until(lambda: console.log.count == 1, soon())
    assert console.log.position_of(MARKER) is None


def test_a_marker_that_does_not_come_is_waited_for_until_the_deadline(guest: Guest) -> None:
    console, qemu = guest
    qemu.sendall(STAMPED + b"something else\n")
    started = time.monotonic()
    assert console.log.wait_for_marker(MARKER, soon(0.4)) is None
    assert 0.35 < time.monotonic() - started < 3


def test_nobody_waits_for_a_marker_on_a_closed_console(guest: Guest) -> None:
    console, qemu = guest
    threading.Timer(0.2, qemu.close).start()
    started = time.monotonic()
    assert console.log.wait_for_marker(MARKER, soon(30)) is None
    assert time.monotonic() - started < 3
    assert console.log.ended


# --- panics ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["panic-4.15.log", "panic-7.3.log", "oopspanic-7.3.log"])
def test_a_panic_ends_a_wait_within_a_second(guest: Guest, name: str) -> None:
    console, qemu = guest
    threading.Timer(0.2, qemu.sendall, ((DATA / name).read_bytes(),)).start()
    started = time.monotonic()
    assert console.log.wait_for_marker(MARKER, soon(30)) is None
    assert time.monotonic() - started < 1.2
    assert console.log.panic is not None
    assert console.log.panic.startswith("Kernel panic - not syncing: ")


def test_the_first_panic_is_the_one_told(guest: Guest) -> None:
    console, qemu = guest
    for reason in (b"first", b"second"):
        qemu.sendall(STAMPED + b"Kernel panic - not syncing: " + reason + b"\n")
    assert console.log.wait_until(lambda: console.log.count == 2, soon())
    assert console.log.panic == "Kernel panic - not syncing: first"


@pytest.mark.parametrize(
    "text",
    [
        STAMPED + b"module: Kernel panic - not syncing: not really\n",
        STAMPED + b"booted\nKernel panic - not syncing: said by a program\n",
    ],
    ids=["within a line", "without the kernel's stamp"],
)
def test_words_about_a_panic_are_none(guest: Guest, text: bytes) -> None:
    console, qemu = guest
    qemu.sendall(text + STAMPED + b"on we go\n")
    assert console.log.wait_until(lambda: console.log.last_line == "on we go", soon())
    assert console.log.panic is None


def test_a_panic_of_a_kernel_that_stamps_nothing_is_seen(guest: Guest) -> None:
    console, qemu = guest
    qemu.sendall(b"Linux version 6.1\nKernel panic - not syncing: early\n")
    assert console.log.wait_until(lambda: console.log.panic is not None, soon())


# --- ends and floods -------------------------------------------------------------------------


def test_a_console_that_never_says_anything_ends_with_qemu(guest: Guest) -> None:
    console, qemu = guest
    qemu.close()
    assert console.log.wait_for_end(soon())
    assert console.log.count == 0
    assert not console.log.flooded


def test_closing_takes_what_had_already_arrived(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with theirs, on_socket(ours, tmp_path / "console.log") as console:
        theirs.sendall(BOOT)
    assert console.path.read_bytes() == BOOT
    assert console.log.records() == parse_log(BOOT)


def test_closing_does_not_wait_for_a_silent_qemu(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    started = time.monotonic()
    with theirs, on_socket(ours, tmp_path / "console.log") as console:
        pass
    assert time.monotonic() - started < 2
    assert console.log.ended


def test_closing_twice_is_quiet(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    console = on_socket(ours, tmp_path / "console.log")
    console.close()
    console.close()
    console.send(b"w")


def test_a_flood_is_cut_and_said_to_be(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_module, "MAX_LOG_BYTES", 100_000)
    console, qemu = guest
    qemu.settimeout(0.5)
    with contextlib.suppress(OSError):  # nobody reads any more
        for number in range(100_000):
            qemu.sendall(STAMPED + b"line %d\n" % number)
            if console.log.ended:
                break
    assert console.log.wait_for_end(soon())
    assert console.log.flooded
    assert 100_000 <= console.path.stat().st_size < 200_000
    assert console.log.wait_for_marker(MARKER, soon(5)) is None


def test_what_a_guest_says_while_nobody_reads_is_not_lost(tmp_path: Path) -> None:
    """QEMU hands over one byte at a time, and the kernel does not wait for long."""
    receiving, sending, *theirs = open_line()
    os.set_blocking(theirs[1], False)
    said = BOOT * (400_000 // len(BOOT))
    for at in range(len(said)):
        assert os.write(theirs[1], said[at : at + 1]) == 1
    with Console(receiving, sending, tmp_path / "console.log") as console:
        os.close(theirs[1])
        assert console.log.wait_for_end(soon())
    os.close(theirs[0])
    assert console.path.read_bytes() == said
    assert not any(finding.kind == "lost-log" for finding in find_findings(console.log.records()))


def test_where_the_host_fell_behind_the_log_says_so(tmp_path: Path) -> None:
    receiving, sending, *theirs = open_line()
    os.set_blocking(theirs[1], False)
    line = STAMPED + b"on and on\n"
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(theirs[1], line)
    with Console(receiving, sending, tmp_path / "console.log") as console:
        os.set_blocking(theirs[1], True)
        os.write(theirs[1], STAMPED + b"and on\n")
        os.close(theirs[1])
        assert console.log.wait_for_end(soon())
    os.close(theirs[0])
    kinds = {finding.kind for finding in find_findings(console.log.records())}
    assert kinds == {"lost-log"}
    assert b"the host fell behind" in console.path.read_bytes()


def test_a_line_without_end_is_given_in_pieces(guest: Guest) -> None:
    console, qemu = guest
    qemu.sendall(b"x" * (10 * MAX_LINE_BYTES) + b"\n")
    qemu.close()
    assert console.log.wait_for_end(soon())
    texts = [record.text for record in console.log.records()]
    assert max(map(len, texts)) <= MAX_LINE_BYTES
    assert sum(map(len, texts)) == 10 * MAX_LINE_BYTES


def test_a_full_disk_does_not_blind_the_log() -> None:
    ours, theirs = socket.socketpair()
    with theirs, on_socket(ours, Path("/dev/full")) as console:
        theirs.sendall(BOOT)
        theirs.shutdown(socket.SHUT_RDWR)
        assert console.log.wait_for_end(soon())
        assert console.log.records() == parse_log(BOOT)


def test_typing_reaches_qemu(guest: Guest) -> None:
    console, qemu = guest
    console.send(b"w")
    assert qemu.recv(10) == b"w"


def test_typing_to_a_qemu_that_is_gone_is_quiet(guest: Guest) -> None:
    console, qemu = guest
    qemu.close()
    assert console.log.wait_for_end(soon())
    console.send(b"w")


def test_many_readers_see_the_same_log() -> None:
    log = KernelLog()
    found: list[int | None] = []
    readers = [
        threading.Thread(target=lambda: found.append(log.wait_for_marker(MARKER, soon())))
        for _ in range(8)
    ]
    for reader in readers:
        reader.start()
    for number in range(1000):
        log.append(STAMPED + b"line %d" % number)
    log.append(STAMPED + MARKER.render().encode())
    for reader in readers:
        reader.join()
    assert found == [1000] * 8


# --- the rescue shell ------------------------------------------------------------------------


@contextlib.contextmanager
def shell_on_a_terminal() -> Iterator[socket.socket]:
    """An interactive shell on a terminal, as in a guest, joined to our end of a socket."""
    ours, theirs = socket.socketpair()
    master, slave = pty.openpty()
    shell = subprocess.Popen(
        ("setsid", "--ctty", "sh", "-i"),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={"PATH": os.environ["PATH"], "PS1": "# "},
    )
    os.close(slave)

    def to_shell() -> None:
        with contextlib.suppress(OSError):
            while data := theirs.recv(4096):
                os.write(master, data)

    ended = threading.Event()

    def from_shell() -> None:
        # What the shell started may live on with the other end open: a plain read would wait.
        with contextlib.suppress(OSError):
            while not ended.is_set():
                if select.select([master], [], [], 0.1)[0]:
                    theirs.sendall(os.read(master, 4096))

    threads = [threading.Thread(target=copy, daemon=True) for copy in (to_shell, from_shell)]
    for thread in threads:
        thread.start()
    try:
        yield ours
    finally:
        theirs.shutdown(socket.SHUT_RDWR)
        shell.kill()
        shell.wait()
        ended.set()
        for thread in threads:
            thread.join(timeout=5)
        os.close(master)
        theirs.close()


def test_the_rescue_shell_gives_what_a_command_prints(tmp_path: Path) -> None:
    with shell_on_a_terminal() as sock:
        rescue = RescueShell(sock, tmp_path / "rescue.log")
        assert rescue.run("echo hello", soon()) == "hello"
        assert rescue.run("echo one; echo two", soon()).splitlines() == ["one", "two"]
        assert rescue.run("true", soon()) == ""
        assert rescue.run("echo 'it''s'; exit_status() { return 3; }; exit_status", soon()) == "its"
        rescue.close()
    assert b"hello" in (tmp_path / "rescue.log").read_bytes()


def test_the_rescue_shell_gives_up_a_command_that_hangs(tmp_path: Path) -> None:
    with shell_on_a_terminal() as sock:
        rescue = RescueShell(sock, tmp_path / "rescue.log")
        started = time.monotonic()
        with pytest.raises(MachineError, match=r"does not answer: the test \(0\.5 s\)"):
            rescue.run("sleep 30", soon(0.5))
        assert time.monotonic() - started < 3
        rescue.close()


def test_an_echo_of_the_line_is_not_its_answer(tmp_path: Path) -> None:
    """A terminal that echoes and a shell that is dead behind it."""
    ours, theirs = socket.socketpair()

    def echo() -> None:
        with contextlib.suppress(OSError):
            theirs.sendall(theirs.recv(4096))

    thread = threading.Thread(target=echo, daemon=True)
    thread.start()
    rescue = RescueShell(ours, tmp_path / "rescue.log")
    with theirs, pytest.raises(MachineError, match="does not answer"):
        rescue.run("echo hello", soon(0.5))
    rescue.close()
    thread.join()


def test_a_rescue_shell_whose_guest_is_gone_is_told_at_once(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    rescue = RescueShell(ours, tmp_path / "rescue.log")
    threading.Timer(0.2, theirs.close).start()
    started = time.monotonic()
    with pytest.raises(MachineError, match="does not answer"):
        rescue.run("echo hello", soon(30))
    with pytest.raises(MachineError, match="does not answer"):
        rescue.run("echo hello", soon(30))
    assert time.monotonic() - started < 3
    rescue.close()


def test_a_full_disk_does_not_silence_the_rescue_shell() -> None:
    with shell_on_a_terminal() as sock:
        rescue = RescueShell(sock, Path("/dev/full"))
        assert rescue.run("echo hello", soon()) == "hello"
        rescue.close()
