"""A connection that is taken over: the same server, another client with the keys of the first."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import paramiko
import pytest

from orchestrator.adapters import sshstate
from orchestrator.adapters.agent import AGENT, Agent, Order, script
from orchestrator.adapters.ssh import connect_over, generate_key_pair, resume_shell
from orchestrator.adapters.sshstate import SshState, UnknownParamikoError
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import ConnectionLostError
from tests.contract.ssh_server import SshServer, ssh_server
from tests.contract.test_agent import agent_command

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_leaks")]

USER_KEY = generate_key_pair()
HOST_KEY = generate_key_pair()


def soon(seconds: float = 20.0) -> Deadline:
    return Deadline.after(seconds, "the test")


@pytest.fixture
def server(sysio: Path, open_dir: Path) -> Iterator[SshServer]:
    commands = {AGENT: agent_command(sysio, open_dir)}
    with ssh_server(HOST_KEY, USER_KEY, commands) as server:
        yield server


@contextlib.contextmanager
def captured(server: SshServer, *, before: int = 1) -> Iterator[tuple[SshState, socket.socket]]:
    """What a connection was after so many orders, and the socket that it is on."""
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        ours = sock.dup()
        shell = connect_over(sock, USER_KEY, HOST_KEY, soon())
        agent = Agent.start(shell, soon())
        for number in range(before):
            assert run(agent, f"echo {number}") == b"%d\n" % number
        state = shell.capture(agent.stream)
        shell.close()  # the server hears nothing of it: the connection has another end still
        with ours:
            yield state, ours


def run(agent: Agent, text: str, stdin: bytes = b"") -> bytes:
    return agent.run(Order(script(text), stdin=stdin), soon()).stdout


@pytest.mark.parametrize("before", [0, 1, 20])
def test_the_server_does_not_notice(server: SshServer, before: int) -> None:
    with captured(server, before=before) as (state, sock):
        shell, stream = resume_shell(sock, state)
        agent = Agent(stream)
        for number in range(20):
            assert run(agent, f"echo {number}") == b"%d\n" % number
        shell.close()


def test_what_is_sent_at_once_need_not_wait_for_its_thread(
    server: SshServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy host the transport's thread may not have run at all when the first order goes."""
    sent = threading.Event()

    class Late(sshstate._ContinuedTransport):
        def run(self) -> None:
            assert sent.wait(20)
            super().run()

    monkeypatch.setattr(sshstate, "_ContinuedTransport", Late)
    with captured(server) as (state, sock):
        shell, stream = resume_shell(sock, state)
        stream.send(Order(script("echo first")).encode(), soon())
        sent.set()
        answered = stream.receive(soon())
        assert b"first" in answered
        shell.close()


def test_much_can_be_said_over_it_both_ways(server: SshServer) -> None:
    """More than any window: the other side has to be told what was taken, and tells it."""
    data = os.urandom(5 << 20)
    with captured(server) as (state, sock):
        shell, stream = resume_shell(sock, state)
        agent = Agent(stream)
        result = agent.run(Order(script("cat"), stdin=data), soon(), limit=len(data))
        assert result.stdout == data
        shell.close()


def test_further_channels_can_be_opened_on_it(server: SshServer) -> None:
    with captured(server) as (state, sock):
        shell, _ = resume_shell(sock, state)
        agent = Agent.start(shell, soon())
        assert run(agent, "echo another") == b"another\n"
        shell.close()


def test_it_can_be_taken_over_again_and_again(server: SshServer) -> None:
    with captured(server) as (state, sock):
        for number in range(3):
            shell, stream = resume_shell(sock.dup(), state)
            agent = Agent(stream)
            size = 5000 * number + 1
            assert len(run(agent, f"head -c {size} /dev/zero")) == size
            beside = Agent.start(shell, soon())
            assert run(beside, "echo beside") == b"beside\n"
            beside.close()
            assert run(agent, "wc -c", b"x" * size).strip() == b"%d" % size
            state = shell.capture(agent.stream)
            shell.close()
        _, stream = resume_shell(sock.dup(), state)
        assert run(Agent(stream), "echo still") == b"still\n"


@pytest.mark.parametrize("part", ["out", "into"])
def test_with_other_counters_nothing_is_understood(server: SshServer, part: str) -> None:
    with captured(server) as (state, sock):
        direction = getattr(state, part)
        wrong = replace(state, **{part: replace(direction, packets=direction.packets + 1)})
        shell, stream = resume_shell(sock, wrong)
        with pytest.raises(ConnectionLostError):
            run(Agent(stream), "echo hello")
        shell.close()


def test_it_is_the_same_out_of_a_file(server: SshServer) -> None:
    with captured(server) as (state, sock):
        read = sshstate.from_json(json.loads(json.dumps(sshstate.to_json(state))))
        assert read == state
        shell, stream = resume_shell(sock, read)
        assert run(Agent(stream), "echo again") == b"again\n"
        shell.close()


def test_keys_are_not_shown(server: SshServer) -> None:
    with captured(server) as (state, _):
        assert repr(state.out.key)[2:-1] not in repr(state)
        assert repr(state.session_id)[2:-1] not in repr(state)


def test_a_paramiko_that_is_made_otherwise_is_told(
    server: SshServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with captured(server) as (state, sock):
        monkeypatch.delattr(paramiko.Channel, "_set_remote_channel")
        with pytest.raises(UnknownParamikoError, match="_set_remote_channel"):
            sshstate.resume(sock, state)
