"""The guest's own agent, run on this machine, at the end of a real SSH channel."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest

from orchestrator.adapters.agent import AGENT, Agent, Order, script
from orchestrator.adapters.ssh import SshShell, connect, generate_key_pair
from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import (
    CommandTimeoutError,
    ConnectionLostError,
    MachineError,
    RunInterruptedError,
)
from orchestrator.plan.klog import Marker
from orchestrator.plan.outcome import CommandResult
from tests.contract.ssh_server import Command, SshServer, end, ssh_server

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_leaks")]

USER_KEY = generate_key_pair()
HOST_KEY = generate_key_pair()
MIB = 1 << 20


def soon(seconds: float = 20.0) -> Deadline:
    return Deadline.after(seconds, "the test")


def agent_command(sysio: Path, home: Path) -> Command:
    """What a guest's SSH server does: the agent, and its pipes on a channel."""

    def run(channel: paramiko.Channel) -> None:
        environment = {"HOME": str(home), "LAB_TEST_SECRET": "not for a step"}
        with subprocess.Popen(
            (sysio, "--agent"),
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as child:
            assert child.stdin
            assert child.stdout
            assert child.stderr
            to_child = child.stdin

            def feed() -> None:
                with contextlib.suppress(OSError), to_child:
                    while data := channel.recv(65536):
                        to_child.write(data)
                        to_child.flush()

            feeder = threading.Thread(target=feed, name="feeder")
            feeder.start()
            while data := os.read(child.stdout.fileno(), 65536):
                channel.sendall(data)
            channel.sendall_stderr(child.stderr.read())
            status = child.wait()
            end(channel, status if status >= 0 else 128 - status)
            feeder.join()

    return run


def say_bytes(data: bytes) -> Command:
    def run(channel: paramiko.Channel) -> None:
        channel.recv(65536)
        channel.sendall(data)
        end(channel, 0)

    return run


@pytest.fixture
def server(sysio: Path, open_dir: Path) -> Iterator[SshServer]:
    commands = {AGENT: agent_command(sysio, open_dir)}
    with ssh_server(HOST_KEY, USER_KEY, commands) as server:
        yield server


@pytest.fixture
def shell(server: SshServer) -> Iterator[SshShell]:
    shell = connect(server.port, USER_KEY, HOST_KEY, soon())
    yield shell
    shell.close()


@pytest.fixture
def agent(shell: SshShell) -> Iterator[Agent]:
    agent = Agent.start(shell, soon())
    yield agent
    agent.close()


def run(agent: Agent, text: str, **more: object) -> CommandResult:
    return agent.run(Order(script(text), **more), soon())  # type: ignore[arg-type]


# --- what a command gives --------------------------------------------------------------------


def test_both_outputs_and_the_status_arrive(agent: Agent) -> None:
    result = run(agent, "echo out; echo err >&2; exit 3")
    assert (result.stdout, result.stderr) == (b"out\n", b"err\n")
    assert (result.status, result.signal) == (3, None)
    assert result.command == "echo out; echo err >&2; exit 3"
    assert result.seconds > 0


def test_one_agent_runs_one_command_after_another(agent: Agent) -> None:
    for number in range(50):
        assert run(agent, f"echo {number}").stdout == b"%d\n" % number


def test_a_command_gets_its_input_and_its_end(agent: Agent) -> None:
    assert run(agent, "cat; echo end", stdin=b"in").stdout == b"inend\n"
    assert run(agent, "cat; echo end").stdout == b"end\n"


def test_much_goes_in_and_comes_out_at_the_same_time(agent: Agent) -> None:
    data = os.urandom(3 * MIB)
    assert run(agent, "cat", stdin=data).stdout == data


def test_input_that_nobody_reads_stops_nothing(agent: Agent) -> None:
    assert run(agent, "echo done", stdin=bytes(2 * MIB)).stdout == b"done\n"
    assert run(agent, "exec <&-; sleep 0.1; echo done", stdin=bytes(2 * MIB)).status == 0


def test_only_so_much_is_kept(agent: Agent) -> None:
    order = Order(script("head -c 3000000 /dev/zero; echo err >&2"))
    result = agent.run(order, soon(), limit=1000)
    assert (len(result.stdout), result.stderr) == (1000, b"err\n")
    assert result.truncated
    assert not run(agent, "echo").truncated


@pytest.mark.parametrize("text", ["kill -KILL $$", "sh -c 'kill -KILL $$'", "exit 137"])
def test_the_signal_that_ended_it_is_named(agent: Agent, text: str) -> None:
    result = run(agent, text)
    assert (result.status, result.signal) == (None, "SIGKILL")


def test_what_cannot_be_executed_is_told(agent: Agent) -> None:
    result = agent.run(Order(("/nonexistent", "a b")), soon())
    assert result.status == 1
    assert result.stderr == b"sysio: /nonexistent: ENOENT (No such file or directory)\n"
    assert result.command == "/nonexistent 'a b'"


def test_it_has_ended_when_nobody_can_print_any_more(agent: Agent) -> None:
    result = run(agent, "(sleep 0.3; echo late) & echo soon")
    assert result.stdout == b"soon\nlate\n"


# --- what a command finds --------------------------------------------------------------------


def test_its_environment_is_a_steps_and_nothing_else(agent: Agent, open_dir: Path) -> None:
    told = dict(line.split("=", 1) for line in run(agent, "env").stdout.decode().splitlines())
    assert told["PATH"].startswith("/usr/local/sbin:/usr/local/bin:")
    assert (told["HOME"], told["USER"], told["SHELL"]) == ("/root", "root", "/bin/sh")
    assert "LAB_TEST_SECRET" not in told
    assert run(agent, "pwd").stdout.decode().strip() == str(open_dir)


def test_it_leads_a_session_and_has_three_files(agent: Agent) -> None:
    result = run(agent, "cut -d' ' -f6 /proc/$$/stat; echo $$; ls /proc/$$/fd | tr '\\n' ' '")
    session, leader, files = result.stdout.decode().split("\n")
    assert session == leader
    assert files.split()[:3] == ["0", "1", "2"]
    assert len(files.split()) <= 4  # a shell may hold its script


def test_it_dies_of_a_broken_pipe_as_ever(agent: Agent) -> None:
    assert run(agent, "kill -PIPE $$").signal == "SIGPIPE"


def test_its_own_words_need_no_other_program(agent: Agent) -> None:
    result = agent.run(Order(("sysio", "open=/proc/self/comm", "read=20")), soon())
    assert result.stdout == b'open 3\nread 6 "sysio\\n"\n'
    assert agent.run(Order(("sysio", "nonsense")), soon()).status == 64


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_it_can_be_another_users(agent: Agent) -> None:
    assert run(agent, "id -u; id -g; id -G", user=4321).stdout == b"4321\n4321\n4321\n"
    assert run(agent, "id -u").stdout == b"0\n"


# --- what goes wrong -------------------------------------------------------------------------


def test_a_command_without_end_is_given_up(agent: Agent) -> None:
    order = Order(script("echo begun; echo so >&2; exec sleep 2"))
    with pytest.raises(CommandTimeoutError, match=r"no end by its deadline \(1 s\): ") as caught:
        agent.run(order, soon(1))
    assert (caught.value.stdout, caught.value.stderr) == (b"begun\n", b"so\n")
    assert agent.lost


def test_an_agent_that_is_killed_is_a_connection_lost(agent: Agent) -> None:
    with pytest.raises(ConnectionLostError, match=r"ended while this ran: echo begun; kill"):
        run(agent, "echo begun; kill -KILL $PPID")
    assert agent.lost


def test_a_connection_that_is_cut_is_lost(server: SshServer, agent: Agent) -> None:
    timer = threading.Timer(0.3, server.cut)
    timer.start()
    with pytest.raises(ConnectionLostError, match="while this ran: sleep 2"):
        run(agent, "sleep 2")
    timer.join()


class LongMarker(Marker):
    """More than the kernel's log takes in one piece."""

    def render(self) -> str:
        return "x" * 600

    def __post_init__(self) -> None:
        pass


def test_a_marker_that_cannot_be_written_is_told_and_nothing_is_run(
    agent: Agent, open_dir: Path
) -> None:
    marker = LongMarker("0123456789abcdef", "cell", "begin")
    with pytest.raises(MachineError, match=r"the marker before it: Message too long\): touch"):
        run(agent, f"touch {open_dir}/done", begin=marker)
    assert not (open_dir / "done").exists()
    assert agent.lost


def test_a_stop_ends_the_wait(agent: Agent) -> None:
    timer = threading.Timer(0.3, process.stop_all)
    timer.start()
    with pytest.raises(RunInterruptedError):
        run(agent, "sleep 2")
    timer.join()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"q" + struct.pack("<I", 0), r"the guest's agent says b'q'"),
        (b"x" + struct.pack("<I", 2) + b"ab", r"the guest's agent says b'x'"),
        (b"o" + struct.pack("<I", 1 << 30), "a piece of 1073741824 bytes"),
        (b"f" + struct.pack("<I", 4) + b"\x1b[2m", r"the guest's agent failed"),
    ],
)
def test_an_agent_that_talks_nonsense_is_told(data: bytes, said: str) -> None:
    with ssh_server(HOST_KEY, USER_KEY, {AGENT: say_bytes(data)}) as server:
        shell = connect(server.port, USER_KEY, HOST_KEY, soon())
        agent = Agent.start(shell, soon())
        with pytest.raises(MachineError, match=said):
            run(agent, "true")
        assert agent.lost
        shell.close()


def test_an_agent_that_ends_in_the_middle_of_a_word_is_lost() -> None:
    with ssh_server(HOST_KEY, USER_KEY, {AGENT: say_bytes(b"o\x05\0\0\0abc")}) as server:
        shell = connect(server.port, USER_KEY, HOST_KEY, soon())
        agent = Agent.start(shell, soon())
        with pytest.raises(ConnectionLostError):
            run(agent, "true")
        shell.close()
