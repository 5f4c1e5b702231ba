"""QMP against a peer on the other end of a socket that answers as it is told."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.adapters.machine import QEMU
from orchestrator.adapters.qmp import MAX_MESSAGE, Qmp
from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import MachineError

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_leaks")]

GREETING = {
    "QMP": {
        "version": {
            "qemu": {"micro": 22, "minor": 2, "major": 7},
            "package": "Debian 1:7.2+dfsg-7+deb12u18",
        },
        "capabilities": ["oob"],
    }
}
EVENT = {"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RESET", "data": {}}
# `info usernet` of QEMU 7.2.22 with one forwarded port and one open connection.
USERNET = (
    "Hub -1 (net0):\r\n"
    "  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n"
    "  TCP[SYN_SENT]       9       127.0.0.1 32914       10.0.2.15    22     0     0\r\n"
    "  TCP[HOST_FORWARD]   3       127.0.0.1 32913       10.0.2.15    22     0     0\r\n"
)


def soon(seconds: float = 10.0) -> Deadline:
    return Deadline.after(seconds, "the test")


class Peer:
    """The other end: reads commands, writes what it is told."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._lines = sock.makefile("rb")
        self._threads: list[threading.Thread] = []
        self.commands: list[dict[str, Any]] = []

    def send(self, *messages: object) -> None:
        for message in messages:
            self.socket.sendall(json.dumps(message).encode() + b"\r\n")

    def read(self) -> dict[str, Any]:
        command = json.loads(self._lines.readline())
        assert isinstance(command, dict)
        self.commands.append(command)
        return command

    def answer(self, reply: Callable[[dict[str, Any]], object]) -> None:
        """Answer the next command, on a thread."""

        def serve() -> None:
            try:
                command = self.read()
                message = reply(command)
                if isinstance(message, dict):
                    self.send({"id": command["id"], **message})
                elif isinstance(message, bytes):
                    self.socket.sendall(message)
            except (OSError, ValueError):
                return  # the client has gone

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        self._threads.append(thread)

    def close(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self._lines.close()
        self.socket.close()
        for thread in self._threads:
            thread.join(timeout=5)


@pytest.fixture
def ends() -> Iterator[tuple[Qmp, Peer]]:
    ours, theirs = socket.socketpair()
    qmp, peer = Qmp(ours), Peer(theirs)
    yield qmp, peer
    peer.close()
    qmp.close()


Ends = tuple[Qmp, Peer]


# --- greeting --------------------------------------------------------------------------------


def test_the_greeting_gives_the_version_and_enters_command_mode(ends: Ends) -> None:
    qmp, peer = ends
    peer.send(GREETING)
    peer.answer(lambda _: {"return": {}})
    assert qmp.greet(soon()) == "7.2.22"
    assert peer.commands[0]["execute"] == "qmp_capabilities"


@pytest.mark.parametrize(
    "greeting",
    [
        {"return": {}},
        {"QMP": {}},
        {"QMP": None},
        {"QMP": {"version": {"qemu": {"major": 7}}}},
        {"QMP": {"version": {"qemu": "7.2"}}},
        EVENT,
    ],
)
def test_another_greeting_is_refused(ends: Ends, greeting: object) -> None:
    qmp, peer = ends
    peer.send(greeting)
    with pytest.raises(MachineError, match="greeted with something else"):
        qmp.greet(soon())


# --- answers ---------------------------------------------------------------------------------


def test_a_command_carries_its_arguments_and_gives_the_answer(ends: Ends) -> None:
    qmp, peer = ends
    peer.answer(lambda _: {"return": ["an", "answer"]})
    assert qmp.execute("do-it", soon(), id="console") == ["an", "answer"]
    sent = peer.commands[0]
    assert (sent["execute"], sent["arguments"]) == ("do-it", {"id": "console"})


def test_events_before_the_answer_are_passed_over(ends: Ends) -> None:
    qmp, peer = ends
    peer.send(EVENT, EVENT)
    one_more = json.dumps(EVENT).encode() + b"\r\n"
    peer.answer(lambda _: one_more + b'{"return": 1, "id": 1}\r\n')
    assert qmp.execute("count", soon()) == 1


def test_an_answer_in_pieces_is_put_together(ends: Ends) -> None:
    qmp, peer = ends

    def in_pieces(command: dict[str, Any]) -> None:
        for byte in json.dumps({"return": "whole", "id": command["id"]}).encode() + b"\r\n":
            peer.socket.sendall(bytes([byte]))
            time.sleep(0.002)

    peer.answer(in_pieces)
    assert qmp.execute("ask", soon()) == "whole"


def test_two_answers_in_one_piece_are_taken_apart(ends: Ends) -> None:
    qmp, peer = ends
    both = b"".join(
        json.dumps({"return": number, "id": number}).encode() + b"\r\n" for number in (1, 2)
    )
    peer.answer(lambda _: both)
    assert qmp.execute("first", soon()) == 1
    assert qmp.execute("second", soon()) == 2


def test_a_late_answer_is_not_taken_for_the_next_commands(ends: Ends) -> None:
    qmp, peer = ends
    with pytest.raises(MachineError, match="did not answer"):
        qmp.execute("slow", soon(0.2))
    slow = peer.read()
    peer.send({"return": "stale", "id": slow["id"]})
    peer.answer(lambda _: {"return": "fresh"})
    assert qmp.execute("fast", soon()) == "fresh"


def test_a_late_error_is_not_taken_for_the_next_commands(ends: Ends) -> None:
    qmp, peer = ends
    with pytest.raises(MachineError, match="did not answer"):
        qmp.execute("slow", soon(0.2))
    peer.send({"error": {"desc": "stale"}, "id": peer.read()["id"]})
    peer.answer(lambda _: {"return": "fresh"})
    assert qmp.execute("fast", soon()) == "fresh"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ({"class": "GenericError", "desc": "Chardev 'x' not found"}, "Chardev 'x' not found"),
        ({"class": "CommandNotFound"}, "CommandNotFound"),
        ("just words", "just words"),
        (None, "None"),
        (["a", "list"], "list"),
    ],
)
def test_a_refusal_is_told_with_its_reason(ends: Ends, error: object, said: str) -> None:
    qmp, peer = ends
    peer.answer(lambda _: {"error": error})
    with pytest.raises(MachineError, match=f"refused send-break: .*{said}"):
        qmp.execute("send-break", soon())


def test_an_error_without_an_id_is_the_present_commands(ends: Ends) -> None:
    """QEMU leaves the id out where it could not even parse the command."""
    qmp, peer = ends
    peer.answer(lambda _: b'{"error": {"class": "GenericError", "desc": "JSON parse error"}}\r\n')
    with pytest.raises(MachineError, match="JSON parse error"):
        qmp.execute("ask", soon())


# --- a peer that is ill ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "rubbish",
    [b"no json\n", b"{\n", b"\xff\xfe\x00\n", b"\n", b"[" * 100_000 + b"\n"],
    ids=["words", "half", "no UTF-8", "empty", "deep"],
)
def test_what_is_no_json_is_told(ends: Ends, rubbish: bytes) -> None:
    qmp, peer = ends
    peer.answer(lambda _: rubbish)
    with pytest.raises(MachineError, match="no JSON"):
        qmp.execute("ask", soon())


@pytest.mark.parametrize("line", [b"[1]\n", b"3\n", b'"return"\n', b"null\n"])
def test_json_that_is_no_object_is_told(ends: Ends, line: bytes) -> None:
    qmp, peer = ends
    peer.answer(lambda _: line)
    with pytest.raises(MachineError, match="no object"):
        qmp.execute("ask", soon())


def test_an_endless_line_is_not_swallowed(ends: Ends) -> None:
    qmp, peer = ends
    peer.answer(lambda _: b"x" * (4 * MAX_MESSAGE))
    with pytest.raises(MachineError, match="has no end"):
        qmp.execute("ask", soon())


def test_silence_ends_at_the_deadline(ends: Ends) -> None:
    qmp, _ = ends
    started = time.monotonic()
    with pytest.raises(MachineError, match=r"did not answer: the test \(0\.3 s\)"):
        qmp.execute("ask", soon(0.3))
    assert 0.2 < time.monotonic() - started < 3


def test_endless_events_end_at_the_deadline(ends: Ends) -> None:
    qmp, peer = ends

    def chatter(_: object) -> None:
        while True:
            peer.send(EVENT)

    peer.answer(chatter)
    started = time.monotonic()
    with pytest.raises(MachineError, match="did not answer"):
        qmp.execute("ask", soon(0.3))
    assert time.monotonic() - started < 3


def test_half_an_answer_and_the_end_is_told(ends: Ends) -> None:
    qmp, peer = ends

    def half(_: object) -> None:
        peer.socket.sendall(b'{"return": ')
        peer.socket.shutdown(socket.SHUT_WR)

    peer.answer(half)
    with pytest.raises(MachineError, match="closed its monitor"):
        qmp.execute("ask", soon())


def test_a_peer_that_was_never_there_is_told() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    qmp = Qmp(ours)
    with pytest.raises(MachineError, match="closed its monitor"):
        qmp.greet(soon())
    with pytest.raises(MachineError, match="gone"):
        qmp.execute("ask", soon())
    qmp.close()


# --- what the lab asks -----------------------------------------------------------------------


def test_the_forwarded_port_is_found_in_the_monitors_words(ends: Ends) -> None:
    qmp, peer = ends
    peer.answer(lambda _: {"return": USERNET})
    assert qmp.forwarded_port(soon()) == 32913
    assert peer.commands[0]["arguments"] == {"command-line": "info usernet"}


@pytest.mark.parametrize(
    "answer", ["", "unknown command: 'info usernet'", USERNET.replace("HOST_FORWARD", "X"), {}, 7]
)
def test_no_forwarded_port_is_told(ends: Ends, answer: object) -> None:
    qmp, peer = ends
    peer.answer(lambda _: {"return": answer})
    with pytest.raises(MachineError, match="names no forwarded port"):
        qmp.forwarded_port(soon())


@contextlib.contextmanager
def real_qemu(machine: str) -> Iterator[Qmp]:
    """A QEMU that does not begin, and its monitor."""
    if shutil.which(QEMU) is None:
        pytest.skip(f"no {QEMU} here")
    ours, theirs = socket.socketpair()
    argv = (
        *(QEMU, "-nodefaults", "-display", "none", "-machine", machine, "-S"),
        *("-chardev", f"socket,id=qmp,fd={theirs.fileno()}", "-mon", "chardev=qmp,mode=control"),
        *("-netdev", "user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:0-:22"),
    )
    with ours, theirs, process.start(argv, pass_fds=(theirs.fileno(),)):
        yield Qmp(ours)


def test_qemu_itself_is_understood() -> None:
    with real_qemu("none") as qmp:
        version = qmp.greet(soon(30))
        assert [part.isdigit() for part in version.split(".")] == [True, True, True]
        assert 1024 <= qmp.forwarded_port(soon(30)) <= 65535
        with pytest.raises(MachineError, match=r"refused chardev-send-break: .*console"):
            qmp.send_break(soon(30))
        with pytest.raises(MachineError, match="refused no-such-thing"):
            qmp.execute("no-such-thing", soon(30))


def test_a_debugger_is_let_in_by_a_socket_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "gdb"
    with real_qemu("pc") as qmp, socket.socket(socket.AF_UNIX) as listener:
        qmp.greet(soon(30))
        listener.bind(str(path))
        listener.listen(1)
        qmp.serve_gdb(listener.fileno(), soon())
        with socket.socket(socket.AF_UNIX) as debugger:
            debugger.settimeout(10)
            debugger.connect(str(path))
            debugger.sendall(b"+$?#3f")  # gdb's remote protocol: why did it stop?
            said = b""
            while b"#" not in said:
                said += debugger.recv(4096)
            assert said.startswith(b"+$T05thread:")


def test_a_qemu_that_does_not_wait_for_a_debugger_is_not_believed(
    ends: Ends, tmp_path: Path
) -> None:
    qmp, peer = ends

    def reply(command: dict[str, Any]) -> object:
        refused = "Could not open gdbserver on device 'chardev:gdb'\r\n"
        return {"return": refused if command["execute"] == "human-monitor-command" else {}}

    for _ in range(3):
        peer.answer(reply)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "gdb"))
        with pytest.raises(MachineError, match=r"does not wait for a debugger: .Could not open"):
            qmp.serve_gdb(listener.fileno(), soon())
    asked = [command["execute"] for command in peer.commands]
    assert sorted(asked) == ["chardev-add", "getfd", "human-monitor-command"]
