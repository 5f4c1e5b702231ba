"""A guest whose SSH server is another: what it says, leaves out, and never stops saying."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import paramiko
import pytest
from paramiko.common import cMSG_CHANNEL_DATA, cMSG_CHANNEL_EXTENDED_DATA
from paramiko.message import Message

from orchestrator.adapters.agent import AGENT, MAX_PIECE, Agent, Order, script
from orchestrator.adapters.ssh import (
    MAX_OUTPUT,
    SshShell,
    SshStream,
    connect,
    connect_over,
    generate_key_pair,
)
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import (
    CommandTimeoutError,
    ConnectError,
    ConnectionLostError,
    MachineError,
    ShellError,
)
from tests.contract.ssh_server import end, raw_server, say, send_message, ssh_server
from tests.hostile.conftest import BY_NIGHT, GIB, MIB, Peak

pytestmark = [pytest.mark.timeout(3600 if BY_NIGHT else 120), pytest.mark.usefixtures("no_leaks")]

USER_KEY = generate_key_pair()
HOST_KEY = generate_key_pair()
GREETING = b"SSH-2.0-hostile\r\n"
# What a flood comes to in all.
FLOOD = 10 * GIB if BY_NIGHT else 32 * MIB


def soon(seconds: float = 20.0) -> Deadline:
    return Deadline.after(seconds, "the test")


# --- before anybody knows who it is ----------------------------------------------------------


def for_ever(data: bytes, pause: float = 0.0) -> Callable[[socket.socket], None]:
    """A server that repeats itself until it is hung up on."""

    def behave(sock: socket.socket) -> None:
        sent = 0
        while sent < FLOOD:
            sock.sendall(data)
            sent += len(data)
            threading.Event().wait(pause)

    return behave


def say_and_wait(data: bytes) -> Callable[[socket.socket], None]:
    """A server that says so much, and then nothing more."""

    def behave(sock: socket.socket) -> None:
        sock.sendall(data)
        while sock.recv(65536):
            pass

    return behave


def say_and_go(data: bytes) -> Callable[[socket.socket], None]:
    def behave(sock: socket.socket) -> None:
        sock.sendall(data)

    return behave


def packet(payload: bytes, *, size: int | None = None, padding: int | None = None) -> bytes:
    """A packet before there is a cipher (RFC 4253, 6)."""
    pad = 8 - (len(payload) + 5) % 8 + 8 if padding is None else padding
    length = len(payload) + pad + 1 if size is None else size
    return struct.pack(">IB", length & 0xFFFFFFFF, pad & 0xFF) + payload + bytes(max(0, pad % 256))


def kexinit(names: bytes = b"curve25519-sha256@libssh.org", **lists: bytes) -> bytes:
    """An offer of algorithms, each list by its place (``l2`` is the third)."""
    usual = [
        *(names, b"ecdsa-sha2-nistp256", b"aes128-ctr", b"aes128-ctr"),
        *(b"hmac-sha2-256", b"hmac-sha2-256", b"none", b"none", b"", b""),
    ]
    for place, value in lists.items():
        usual[int(place[1:])] = value
    body = b"".join(struct.pack(">I", len(each)) + each for each in usual)
    return packet(b"\x14" + bytes(16) + body + bytes(5))


def string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


# What stands after the offer: an answer to the key exchange, in which nothing is right.
REPLIES = {
    "an empty answer": packet(b"\x1f"),
    "no key at all": packet(b"\x1f" + string(b"") + string(b"") + string(b"")),
    "a key of no kind": packet(b"\x1f" + string(b"x" * 50) + string(b"y" * 32) + string(b"z" * 8)),
    "a point that is none": packet(
        b"\x1f"
        + string(string(b"ecdsa-sha2-nistp256") + string(b"nistp256") + string(b"\x04" + bytes(64)))
        + string(bytes(32))
        + string(b"")
    ),
    "lengths beyond the packet": packet(b"\x1f" + struct.pack(">I", 0xFFFFFFF0) + b"x" * 40),
    "a login that nobody asked for": packet(b"\x34"),
    "a channel that nobody asked for": packet(b"\x5a" + string(b"session") + bytes(12)),
    "a message of no kind": packet(b"\xff" * 9),
    "goodbye": packet(b"\x01" + bytes(3) + b"\x02" + string(b"\xff\xfe\x1b[2J") + string(b"")),
    "goodbye, cut short": packet(b"\x01"),
}

STAGES = {
    "nothing": b"",
    "half a greeting": b"SSH-2",
    "a greeting": GREETING,
    "half a packet": GREETING + kexinit()[:100],
    "an offer": GREETING + kexinit(),
    **{f"an offer, {name}": GREETING + kexinit() + reply for name, reply in REPLIES.items()},
}

RUBBISH = {
    "zeros": bytes(70000),
    "random bytes": os.urandom(70000),
    "a greeting in no text": b"\xff\xfe\xfd\n",
    "a greeting of escapes": b"\x1b]52;c;aGVsbG8=\x07\x1b[2J\r\n" * 3,
    "an old protocol": b"SSH-1.5-\x1b[2J\r\n",
    "a packet of no bytes": GREETING + packet(b"", size=0),
    "a packet of one byte": GREETING + packet(b"", size=1),
    "a packet of 4 GiB": GREETING + packet(b"\x14", size=0xFFFFFFFC),
    "a packet of 4 GiB in blocks": GREETING + packet(b"\x14", size=0xFFFFFFF4),
    "a packet of 300 MiB": GREETING + packet(b"\x14", size=300 * MIB + 4),
    "more padding than packet": GREETING + packet(b"\x14" * 11, size=12, padding=255),
    "lists beyond the offer": GREETING + packet(b"\x14" + bytes(16) + b"\xff" * 40),
    "lists in no text": GREETING + kexinit(b"\xff\xfe\xfd"),
    "no list at all": GREETING + kexinit(b""),
    "a cipher that nobody has": GREETING + kexinit(l2=b"rot13"),
    "a compression": GREETING + kexinit(l6=b"zlib", l7=b"zlib"),
}


def refused(port: int, seconds: float = 1.0) -> tuple[str, float]:
    """What a connection ends with, and after how many seconds."""
    started = time.monotonic()
    with pytest.raises(ConnectError) as caught:
        connect(port, USER_KEY, HOST_KEY, soon(seconds))
    return caught.value.message, time.monotonic() - started


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("then", [say_and_wait, say_and_go])
def test_a_server_that_stops_at_any_stage(
    name: str, then: Callable[[bytes], Callable[[socket.socket], None]]
) -> None:
    with raw_server(then(STAGES[name])) as port:
        said, seconds = refused(port, 0.3)
    assert said.startswith("no SSH from the guest: the test (0.3 s)")
    assert seconds < 8


@pytest.mark.parametrize("name", RUBBISH)
def test_a_server_that_answers_rubbish(name: str, peak: Peak) -> None:
    with raw_server(say_and_wait(RUBBISH[name])) as port:
        said, seconds = refused(port)
    assert said.startswith("no SSH from the guest: the test (1 s)")
    assert seconds < 8
    assert peak.grown < 32 * MIB


@pytest.mark.parametrize(
    ("begin", "more", "told"),
    [
        pytest.param(b"", b"x" * 65536, "more than 4096 bytes", id="a line without end"),
        pytest.param(b"", b"hello\n" * 9999, "Indecipherable", id="lines without end"),
        pytest.param(GREETING, b"\x7f\xff\xff\xfc" * 9999, "a packet of", id="bytes without end"),
        pytest.param(
            GREETING + kexinit() + packet(b"", size=0xFFFFFFF4),
            bytes(65536),
            "a packet of 429496",
            id="a packet without end",
        ),
    ],
)
def test_a_server_that_never_stops(begin: bytes, more: bytes, told: str, peak: Peak) -> None:
    def behave(sock: socket.socket) -> None:
        sock.sendall(begin)
        for_ever(more)(sock)

    with raw_server(behave) as port:
        said, seconds = refused(port, 2.0)
    assert told in said
    assert seconds < 9
    assert peak.grown < 32 * MIB


@pytest.mark.parametrize("data", [b"S", b"\n", b"\0"])
def test_a_server_of_one_byte_at_a_time(data: bytes) -> None:
    """Each byte begins another wait of paramiko's: only the deadline ends it."""
    with raw_server(for_ever(data, pause=0.1)) as port:
        said, seconds = refused(port)
    assert said.startswith("no SSH from the guest: the test (1 s)")
    assert seconds < 8


@pytest.mark.parametrize("name", RUBBISH)
def test_a_guest_that_calls_and_speaks_no_ssh(name: str) -> None:
    """The other way to a guest: the connection that is frozen with it."""
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=_suppressed(say_and_wait(RUBBISH[name])), args=(theirs,))
    thread.start()
    started = time.monotonic()
    with pytest.raises(ConnectError, match="no SSH from the guest"):
        connect_over(ours, USER_KEY, HOST_KEY, soon(1.0))
    assert time.monotonic() - started < 8
    ours.close()
    thread.join()
    theirs.close()


def _suppressed(behave: Callable[[socket.socket], None]) -> Callable[[socket.socket], None]:
    def run(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            behave(sock)

    return run


# --- a server that has the guest's keys ------------------------------------------------------


def beyond_the_window(kind: bytes) -> Callable[[paramiko.Channel], None]:
    """Sends whatever it likes, whatever it may."""

    def command(channel: paramiko.Channel) -> None:
        sent = 0
        while sent < FLOOD:
            message = Message()
            message.add_byte(kind)
            message.add_int(channel.remote_chanid)
            if kind == cMSG_CHANNEL_EXTENDED_DATA:
                message.add_int(1)
            message.add_string(b"x" * 32000)
            send_message(channel, message)
            sent += 32000

    return command


def prints_without_end(channel: paramiko.Channel) -> None:
    """``yes``, within the window."""
    line = b"y\n" * 16000
    for _ in range(FLOOD // len(line)):
        channel.sendall(line)
    end(channel, 0)


def pieces(data: bytes, times: int = 1) -> Callable[[paramiko.Channel], None]:
    """An agent that takes an order and answers so."""

    def command(channel: paramiko.Channel) -> None:
        channel.recv(65536)
        for _ in range(times):
            channel.sendall(data)
        channel.recv(65536)
        end(channel, 0)

    return command


PIECE = struct.pack("<cI", b"o", 32000) + b"x" * 32000

COMMANDS = {
    "hello": say(b"out\n"),
    "data": beyond_the_window(cMSG_CHANNEL_DATA),
    "errors": beyond_the_window(cMSG_CHANNEL_EXTENDED_DATA),
    "yes": prints_without_end,
}


@pytest.fixture
def shell() -> Iterator[SshShell]:
    with ssh_server(HOST_KEY, USER_KEY, COMMANDS) as server:
        shell = connect(server.port, USER_KEY, HOST_KEY, soon())
        yield shell
        shell.close()


def test_output_without_end_is_read_and_not_kept(shell: SshShell, peak: Peak) -> None:
    result = shell.run("yes", soon(3000 if BY_NIGHT else 100))
    assert result.truncated
    assert len(result.stdout) == MAX_OUTPUT
    assert peak.grown < 64 * MIB
    assert shell.run("hello", soon()).stdout == b"out\n"


def _take_all(stream: SshStream) -> None:
    while True:
        stream.receive(soon())


@pytest.mark.parametrize("command", ["data", "errors"])
def test_what_is_sent_beyond_the_window_ends_the_connection(
    shell: SshShell, command: str, peak: Peak
) -> None:
    """Nobody reads: the lab waits for something else on this stream, or for nothing."""
    stream = shell.open_stream(command, soon())
    stop = time.monotonic() + 20
    while shell._transport.is_active() and time.monotonic() < stop:
        threading.Event().wait(0.05)
    assert peak.grown < 64 * MIB
    with pytest.raises(ConnectionLostError):
        _take_all(stream)
    with pytest.raises(ConnectionLostError):
        shell.run("hello", soon())


# --- another agent ---------------------------------------------------------------------------


def order_of(command: Callable[[paramiko.Channel], None], seconds: float) -> None:
    """Give one order to such an agent; no answer is any good."""
    with ssh_server(HOST_KEY, USER_KEY, {AGENT: command}) as server:
        shell = connect(server.port, USER_KEY, HOST_KEY, soon())
        agent = Agent.start(shell, soon())
        try:
            agent.run(Order(script("true")), soon(seconds))
        finally:
            agent.close()
            shell.close()
        assert agent.lost


def floods(channel: paramiko.Channel) -> None:
    """An agent that sends piece after piece of a command's output, and in the end is gone."""
    channel.recv(65536)
    for _ in range(FLOOD // len(PIECE)):
        channel.sendall(PIECE)
    end(channel, 0)


def test_an_agent_that_never_comes_to_an_end(peak: Peak) -> None:
    with pytest.raises(ConnectionLostError, match="the connection ended while this ran: true"):
        order_of(floods, 3000 if BY_NIGHT else 100)
    assert peak.grown < 64 * MIB


def test_an_agent_without_end_is_given_up_by_the_deadline() -> None:
    with pytest.raises(CommandTimeoutError, match="no end by its deadline") as caught:
        order_of(pieces(PIECE, FLOOD // len(PIECE)), 1)
    assert len(caught.value.stdout) <= MAX_OUTPUT


@pytest.mark.parametrize(
    ("data", "error", "told"),
    [
        (struct.pack("<cI", b"o", 0xFFFFFFFF), MachineError, "a piece of 4294967295 bytes"),
        (struct.pack("<cI", b"o", MAX_PIECE + 1), MachineError, "a piece of 1048577 bytes"),
        (struct.pack("<cI", b"o", MAX_PIECE), CommandTimeoutError, "no end by its deadline"),
        (struct.pack("<cI", b"o", 0) * 1000, CommandTimeoutError, "no end by its deadline"),
        (struct.pack("<cI", b"\x1b", 4) + b"abcd", MachineError, r"says b'\x1b'"),
        (struct.pack("<cI", b"x", 3) + b"abc", MachineError, "says b'x'"),
        (struct.pack("<cI", b"x", 5) + b"abcde", MachineError, "says b'x'"),
        (struct.pack("<cI", b"f", 4) + b"\x1b[2J", MachineError, "agent failed"),
        (struct.pack("<cI", b"f", 2) + b"\xff\xfe", MachineError, r"\xff\xfe"),
    ],
)
def test_an_agent_that_makes_up_its_answers(
    data: bytes, error: type[ShellError | MachineError], told: str
) -> None:
    with pytest.raises(error) as caught:
        order_of(pieces(data), 1)
    assert told in caught.value.message


@pytest.mark.parametrize("status", [0x7F, 0xFFFF, 0xFFFFFFFF, 0x137F, 0x10000])
def test_an_agent_that_makes_up_how_a_command_ended(status: int) -> None:
    """As waitpid(2) never says it."""
    answer = struct.pack("<cII", b"x", 4, status)
    with ssh_server(HOST_KEY, USER_KEY, {AGENT: pieces(answer)}) as server:
        shell = connect(server.port, USER_KEY, HOST_KEY, soon())
        agent = Agent.start(shell, soon())
        with pytest.raises(MachineError, match=f"a command ended with {status:#x}: true"):
            agent.run(Order(script("true")), soon())
        assert agent.lost
        shell.close()


def test_a_signal_without_a_name_is_a_signal() -> None:
    """Those of real time have none in Python; a step may end by one."""
    answer = struct.pack("<cII", b"x", 4, 42)
    with ssh_server(HOST_KEY, USER_KEY, {AGENT: pieces(answer)}) as server:
        shell = connect(server.port, USER_KEY, HOST_KEY, soon())
        agent = Agent.start(shell, soon())
        result = agent.run(Order(script("kill -42 $$")), soon())
        assert (result.status, result.signal) == (None, "signal 42")
        agent.close()
        shell.close()


def test_an_agent_that_answers_before_it_is_asked() -> None:
    """An end for a command that did not run: it is that of the next order, and of no other."""
    ended = struct.pack("<cII", b"x", 4, 0)

    def command(channel: paramiko.Channel) -> None:
        channel.sendall(ended * 3)
        channel.recv(65536)

    with ssh_server(HOST_KEY, USER_KEY, {AGENT: command}) as server:
        shell = connect(server.port, USER_KEY, HOST_KEY, soon())
        agent = Agent.start(shell, soon())
        for _ in range(3):
            assert agent.run(Order(script("false")), soon()).status == 0
        agent.close()
        shell.close()
