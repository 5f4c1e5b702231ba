"""SSH against a real server in this process that misbehaves in every way it can."""

from __future__ import annotations

import base64
import itertools
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from paramiko.common import cMSG_CHANNEL_CLOSE
from paramiko.message import Message

from orchestrator.adapters.ssh import (
    MAX_OUTPUT,
    KeyPair,
    SshShell,
    check,
    connect,
    generate_key_pair,
)
from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import (
    CommandTimeoutError,
    ConnectError,
    ConnectionLostError,
    GuestDiedError,
    MachineError,
    RunInterruptedError,
)
from orchestrator.plan.outcome import CommandResult
from tests.contract.ssh_server import (
    SshServer,
    end,
    raw_server,
    say,
    send_exit_signal,
    send_message,
    ssh_server,
)

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_leaks")]

USER_KEY = generate_key_pair()
HOST_KEY = generate_key_pair()
MIB = 1 << 20


def soon(seconds: float = 20.0) -> Deadline:
    return Deadline.after(seconds, "the test")


# --- the commands that the server knows ------------------------------------------------------


def flood(channel: paramiko.Channel) -> None:
    for _ in range(10):
        channel.sendall(b"x" * MIB)
    end(channel, 0)


def count_stdin(channel: paramiko.Channel) -> None:
    total = 0
    while data := channel.recv(65536):
        total += len(data)
    channel.sendall(f"{total}\n".encode())
    end(channel, 0)


def echo_slowly(channel: paramiko.Channel) -> None:
    """Gives back what it reads while it reads: deadlocks whoever writes first and reads then."""
    while data := channel.recv(20000):
        channel.sendall(data)
    end(channel, 0)


def ignore_stdin(channel: paramiko.Channel) -> None:
    channel.sendall(b"not interested\n")
    end(channel, 7)


def never_read(channel: paramiko.Channel) -> None:
    channel.sendall(b"busy\n")
    channel.status_event.wait(30)  # set when the channel is closed


def never_end(channel: paramiko.Channel) -> None:
    channel.sendall(b"so far\n")
    channel.sendall_stderr(b"so bad\n")
    channel.status_event.wait(30)


def cut_after_output(channel: paramiko.Channel) -> None:
    channel.sendall(b"half a li")
    channel.get_transport().sock.shutdown(socket.SHUT_RDWR)


def cut_before_status(channel: paramiko.Channel) -> None:
    """The output is whole, but nobody knows how the command ended."""
    channel.sendall(b"all of it\n")
    channel.shutdown_write()
    time.sleep(0.2)
    channel.get_transport().sock.shutdown(socket.SHUT_RDWR)


def cut_before_output(channel: paramiko.Channel) -> None:
    """The status has come, but not all that was printed before."""
    channel.send_exit_status(0)
    channel.sendall(b"half of")
    time.sleep(0.2)
    channel.get_transport().sock.shutdown(socket.SHUT_RDWR)


def bare_close(channel: paramiko.Channel) -> None:
    """The channel ends with nothing said; paramiko's own ``close`` would send an EOF."""
    message = Message()
    message.add_byte(cMSG_CHANNEL_CLOSE)
    message.add_int(channel.remote_chanid)
    send_message(channel, message)


def killed(channel: paramiko.Channel) -> None:
    channel.sendall(b"before\n")
    channel.shutdown_write()
    send_exit_signal(channel, "KILL")
    channel.close()


def status_first(channel: paramiko.Channel) -> None:
    """The exit status overtakes the output, as RFC 4254 allows."""
    channel.send_exit_status(3)
    time.sleep(0.3)
    channel.sendall(b"late\n")
    channel.shutdown_write()
    channel.close()


def drip(channel: paramiko.Channel) -> None:
    for piece in (b"star", b"ting\nrea", b"dy\n"):
        channel.sendall(piece)
        time.sleep(0.1)
    channel.recv(1)
    end(channel, 0)


def say_ready_too_late(channel: paramiko.Channel) -> None:
    channel.sendall(b"x" * 100 + b"ready\n")
    end(channel, 0)


COMMANDS = {
    "hello": say(b"out\n", b"err\n"),
    "fail": say(b"", b"no such thing\n", 3),
    "bytes": say(bytes(range(256))),
    "silent": say(),
    "flood": flood,
    "count": count_stdin,
    "echo": echo_slowly,
    "ignore": ignore_stdin,
    "never-read": never_read,
    "never-end": never_end,
    "cut": cut_after_output,
    "cut-before-status": cut_before_status,
    "cut-before-output": cut_before_output,
    "bare-close": bare_close,
    "killed": killed,
    "status-first": status_first,
    "drip": drip,
    "too-late": say_ready_too_late,
    **{f"exit {status}": say(status=status) for status in (1, 128, 130, 137, 143, 200, 255)},
    "it's; $(odd)": say(b"quoted\n"),
}


@pytest.fixture
def server() -> Iterator[SshServer]:
    with ssh_server(HOST_KEY, USER_KEY, COMMANDS) as server:
        yield server


@pytest.fixture
def shell(server: SshServer) -> Iterator[SshShell]:
    shell = connect(server.port, USER_KEY, HOST_KEY, soon())
    yield shell
    shell.close()


# --- commands --------------------------------------------------------------------------------


def test_a_command_gives_its_status_and_both_outputs_apart(shell: SshShell) -> None:
    result = shell.run("hello", soon())
    assert (result.status, result.signal) == (0, None)
    assert (result.stdout, result.stderr) == (b"out\n", b"err\n")
    assert result.command == "hello"
    assert not result.truncated


def test_a_failing_command_is_a_result_not_an_exception(shell: SshShell) -> None:
    result = shell.run("fail", soon())
    assert (result.status, result.stderr) == (3, b"no such thing\n")


@pytest.mark.parametrize(
    ("command", "status", "signal"),
    [
        ("exit 1", 1, None),
        ("exit 128", 128, None),
        ("exit 130", None, "SIGINT"),
        ("exit 137", None, "SIGKILL"),
        ("exit 143", None, "SIGTERM"),
        # No signal has these numbers: a program may end with them.
        ("exit 200", 200, None),
        ("exit 255", 255, None),
    ],
)
def test_a_status_above_128_is_a_signal_where_there_is_such_a_signal(
    shell: SshShell, command: str, status: int | None, signal: str | None
) -> None:
    result = shell.run(command, soon())
    assert (result.status, result.signal) == (status, signal)


def test_output_is_bytes_and_stays_as_it_is(shell: SshShell) -> None:
    assert shell.run("bytes", soon()).stdout == bytes(range(256))


def test_a_command_line_arrives_as_it_was_written(shell: SshShell) -> None:
    assert shell.run("it's; $(odd)", soon()).stdout == b"quoted\n"


def test_many_commands_share_the_connection(shell: SshShell) -> None:
    results = [shell.run("hello", soon()) for _ in range(20)]
    assert {result.stdout for result in results} == {b"out\n"}


def test_output_is_cut_at_the_limit_and_the_result_says_so(shell: SshShell) -> None:
    result = shell.run("flood", soon())
    assert len(result.stdout) == MAX_OUTPUT < 10 * MIB
    assert result.truncated
    assert result.status == 0


def test_output_of_just_the_limit_is_not_truncated(shell: SshShell) -> None:
    result = shell.run("bytes", soon(), limit=256)
    assert (len(result.stdout), result.truncated) == (256, False)
    result = shell.run("bytes", soon(), limit=255)
    assert (len(result.stdout), result.truncated) == (255, True)


def test_five_megabytes_of_input_arrive(shell: SshShell) -> None:
    result = shell.run("count", soon(), stdin=b"y" * (5 * MIB))
    assert result.stdout == f"{5 * MIB}\n".encode()


def test_input_and_output_do_not_wait_for_each_other(shell: SshShell) -> None:
    data = os.urandom(3 * MIB)
    assert shell.run("echo", soon(), stdin=data).stdout == data


def test_a_command_need_not_read_its_input(shell: SshShell) -> None:
    result = shell.run("ignore", soon(), stdin=b"y" * (5 * MIB))
    assert (result.status, result.stdout) == (7, b"not interested\n")


def test_a_command_that_never_reads_its_input_is_given_up(shell: SshShell) -> None:
    started = time.monotonic()
    with pytest.raises(CommandTimeoutError, match="never-read") as caught:
        shell.run("never-read", soon(0.5), stdin=b"y" * (5 * MIB))
    assert caught.value.stdout == b"busy\n"
    assert time.monotonic() - started < 3


def test_a_command_that_never_ends_is_given_up_with_what_it_said(shell: SshShell) -> None:
    started = time.monotonic()
    with pytest.raises(CommandTimeoutError, match=r"0\.5 s.*: never-end") as caught:
        shell.run("never-end", soon(0.5))
    assert (caught.value.stdout, caught.value.stderr) == (b"so far\n", b"so bad\n")
    assert 0.4 < time.monotonic() - started < 3


def test_the_connection_outlives_a_command_that_was_given_up(shell: SshShell) -> None:
    with pytest.raises(CommandTimeoutError):
        shell.run("never-end", soon(0.3))
    assert shell.run("hello", soon()).stdout == b"out\n"


@pytest.mark.parametrize("command", ["cut", "cut-before-status", "cut-before-output", "bare-close"])
def test_a_command_without_an_end_is_a_lost_connection(shell: SshShell, command: str) -> None:
    started = time.monotonic()
    with pytest.raises(ConnectionLostError, match=f"while this ran: {command}"):
        shell.run(command, soon())
    assert time.monotonic() - started < 3


def test_a_cut_while_input_is_sent_is_a_lost_connection(server: SshServer, shell: SshShell) -> None:
    threading.Timer(0.3, server.cut).start()
    with pytest.raises(ConnectionLostError):
        shell.run("never-read", soon(), stdin=b"y" * (5 * MIB))


def test_no_command_can_be_started_on_a_lost_connection(server: SshServer, shell: SshShell) -> None:
    server.cut()
    with pytest.raises(ConnectionLostError, match="takes no command"):
        shell.run("hello", soon())


def test_a_signal_that_ends_the_shell_itself_is_a_signal(shell: SshShell) -> None:
    result = shell.run("killed", soon())
    assert result.status is None
    assert result.signal == "a signal"
    assert result.stdout == b"before\n"


def test_output_behind_the_status_is_not_lost(shell: SshShell) -> None:
    result = shell.run("status-first", soon())
    assert (result.status, result.stdout) == (3, b"late\n")


def test_a_guest_that_does_not_answer_the_request_is_given_up_by_the_deadline() -> None:
    with ssh_server(HOST_KEY, USER_KEY, answers_exec=False) as server:
        shell = connect(server.port, USER_KEY, HOST_KEY, soon())
        started = time.monotonic()
        with pytest.raises(CommandTimeoutError, match="hello"):
            shell.run("hello", soon(0.5))
        assert time.monotonic() - started < 5
        shell.close()


def test_the_end_of_the_run_ends_a_command(shell: SshShell) -> None:
    threading.Timer(0.3, process.stop_all).start()
    started = time.monotonic()
    with pytest.raises(RunInterruptedError):
        shell.run("never-end", soon())
    assert time.monotonic() - started < 3


def test_the_end_of_the_run_refuses_further_commands(shell: SshShell) -> None:
    process.stop_all()
    with pytest.raises(RunInterruptedError):
        shell.run("hello", soon())


def test_closing_twice_and_closing_a_lost_connection_is_quiet(
    server: SshServer, shell: SshShell
) -> None:
    server.cut()
    shell.close()
    shell.close()


# --- background jobs -------------------------------------------------------------------------


def test_a_job_is_waited_for_by_what_it_prints(shell: SshShell) -> None:
    job = shell.start("drip", soon())
    assert job.wait_for_output(b"ready", soon())
    job.close()


def test_a_job_and_a_command_run_side_by_side(shell: SshShell) -> None:
    job = shell.start("never-end", soon())
    assert job.wait_for_output(b"so far", soon())
    assert shell.run("hello", soon()).stdout == b"out\n"
    job.close()


def test_a_job_that_does_not_say_it_is_waited_for_until_the_deadline(shell: SshShell) -> None:
    job = shell.start("never-end", soon())
    started = time.monotonic()
    assert not job.wait_for_output(b"ready", soon(0.4))
    assert 0.3 < time.monotonic() - started < 3
    job.close()


def test_a_job_that_ended_without_saying_it_is_not_waited_for(shell: SshShell) -> None:
    job = shell.start("hello", soon())
    started = time.monotonic()
    assert not job.wait_for_output(b"ready", soon())
    assert time.monotonic() - started < 3
    assert job.wait(soon()).stdout == b"out\n"


def test_a_lost_connection_is_not_a_job_that_kept_silent(shell: SshShell) -> None:
    job = shell.start("cut", soon())
    with pytest.raises(ConnectionLostError):
        job.wait_for_output(b"ready", soon())


def test_the_end_of_the_run_ends_waiting_for_a_job(shell: SshShell) -> None:
    job = shell.start("never-end", soon())
    threading.Timer(0.3, process.stop_all).start()
    started = time.monotonic()
    with pytest.raises(RunInterruptedError):
        job.wait_for_output(b"ready", soon())
    assert time.monotonic() - started < 3
    job.close()


def test_a_job_that_never_ends_is_given_up_with_what_it_said(shell: SshShell) -> None:
    job = shell.start("never-end", soon())
    with pytest.raises(CommandTimeoutError) as caught:
        job.wait(soon(0.4))
    assert caught.value.stdout == b"so far\n"


# --- connecting ------------------------------------------------------------------------------


def test_another_host_key_is_refused_at_once(server: SshServer) -> None:
    started = time.monotonic()
    with pytest.raises(ConnectError, match="host key that is not ours"):
        connect(server.port, USER_KEY, generate_key_pair(), soon())
    assert time.monotonic() - started < 5
    assert server.tries == 0  # our user key was not shown to whoever that is


def test_a_refused_user_key_is_final(server: SshServer) -> None:
    started = time.monotonic()
    with pytest.raises(ConnectError, match="refuses our key"):
        connect(server.port, generate_key_pair(), HOST_KEY, soon())
    assert time.monotonic() - started < 5


def test_a_server_that_comes_up_later_is_waited_for() -> None:
    server = SshServer(HOST_KEY, USER_KEY, COMMANDS)
    threading.Timer(0.5, server.listen).start()
    try:
        shell = connect(server.port, USER_KEY, HOST_KEY, soon())
        assert shell.run("hello", soon()).status == 0
        shell.close()
    finally:
        server.close()


def test_a_server_that_never_comes_up_is_told_with_the_last_failure() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        started = time.monotonic()
        with pytest.raises(ConnectError, match=r"no SSH.*the test \(0\.5 s\).*refused"):
            connect(bound.getsockname()[1], USER_KEY, HOST_KEY, soon(0.5))
    assert 0.4 < time.monotonic() - started < 3


@pytest.mark.parametrize(
    "greeting",
    [
        pytest.param(b"HTTP/1.0 400 Bad Request\r\n\r\n", id="another protocol"),
        pytest.param(os.urandom(4096), id="random bytes"),
        pytest.param(b"SSH-1.5-ancient\r\n", id="an ancient version"),
        pytest.param(b"SSH-2.0-x\r\n" + b"\xff" * 64, id="a banner and rubbish"),
        pytest.param(b"", id="nothing and the end"),
    ],
)
def test_rubbish_instead_of_ssh_is_told_at_the_deadline(greeting: bytes) -> None:
    with raw_server(lambda sock: sock.sendall(greeting)) as port:
        started = time.monotonic()
        with pytest.raises(ConnectError, match="no SSH from the guest"):
            connect(port, USER_KEY, HOST_KEY, soon(0.3))
        assert time.monotonic() - started < 4


def test_a_server_that_says_nothing_does_not_outlast_the_deadline() -> None:
    released = threading.Event()

    def stay_silent(_: socket.socket) -> None:
        released.wait(30)

    with raw_server(stay_silent) as port:
        started = time.monotonic()
        with pytest.raises(ConnectError):
            connect(port, USER_KEY, HOST_KEY, soon(0.5))
        assert time.monotonic() - started < 4
        released.set()


def test_a_guest_that_is_gone_is_not_waited_for() -> None:
    def gone() -> None:
        raise GuestDiedError("the guest is gone", by_itself=True)

    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        started = time.monotonic()
        with pytest.raises(GuestDiedError):
            connect(bound.getsockname()[1], USER_KEY, HOST_KEY, soon(), check_guest=gone)
    assert time.monotonic() - started < 3


def test_the_end_of_the_run_ends_connecting() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        threading.Timer(0.3, process.stop_all).start()
        started = time.monotonic()
        with pytest.raises(RunInterruptedError):
            connect(bound.getsockname()[1], USER_KEY, HOST_KEY, soon())
        assert time.monotonic() - started < 3


# --- check -----------------------------------------------------------------------------------


def test_check_tells_what_failed_how_and_what_it_said() -> None:
    result = CommandResult("x", 3, None, b"out", b"it broke\n", 0.1)
    with pytest.raises(MachineError, match=r"^copying: status 3: it broke$"):
        check(result, "copying", MachineError)
    result = CommandResult("x", None, "SIGKILL", b"only this", b"", 0.1)
    with pytest.raises(MachineError, match=r"^copying: SIGKILL: only this$"):
        check(result, "copying", MachineError)
    result = CommandResult("x", 0, None, b"", b"warning", 0.1)
    assert check(result, "copying") is result


# --- keys ------------------------------------------------------------------------------------


def key_of(secret: int) -> KeyPair:
    key = ec.derive_private_key(secret, ec.SECP256R1())
    return KeyPair(paramiko.ECDSAKey(vals=(key, key.public_key())))


SECRETS = {
    "random": generate_key_pair().private.signing_key.private_numbers().private_value,
    "the top bit is set": (1 << 255) + 12345,
    "leading zero bytes": 0x1234,
    "one": 1,
}


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_a_key_in_dropbear_format_reads_back_as_the_same_key(secret: int) -> None:
    message = Message(key_of(secret).to_dropbear())
    assert message.get_text() == "ecdsa-sha2-nistp256"
    assert message.get_text() == "nistp256"
    point = message.get_binary()
    assert message.get_mpint() == secret
    assert message.get_remainder() == b""
    public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    derived = ec.derive_private_key(secret, ec.SECP256R1()).public_key()
    assert public.public_numbers() == derived.public_numbers()


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_dropbear_itself_reads_our_key(secret: int, tmp_path: Path) -> None:
    tool = shutil.which("dropbearkey")
    if tool is None:
        pytest.skip("no dropbearkey here (package dropbear-bin)")
    path = tmp_path / "key"
    path.write_bytes(key_of(secret).to_dropbear())
    done = process.run((tool, "-y", "-f", str(path)), deadline=soon())
    assert key_of(secret).public_line.rsplit(" ", 1)[0].encode() in done.stdout


def test_the_public_line_is_what_authorized_keys_wants() -> None:
    kind, blob, comment = USER_KEY.public_line.split(" ")
    assert (kind, comment) == ("ecdsa-sha2-nistp256", "lab")
    assert paramiko.ECDSAKey(data=base64.b64decode(blob)) == USER_KEY.private


def test_a_written_key_is_closed_to_others_and_replaces_nothing(tmp_path: Path) -> None:
    path = tmp_path / "id"
    USER_KEY.write(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert paramiko.ECDSAKey.from_private_key_file(str(path)) == USER_KEY.private
    with pytest.raises(FileExistsError):
        HOST_KEY.write(path)
    assert paramiko.ECDSAKey.from_private_key_file(str(path)) == USER_KEY.private


# --- a wall clock that jumps -----------------------------------------------------------------


@pytest.fixture(params=[5, -5], ids=["on", "back"])
def jumping(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the wall clock is five years from the one before."""
    jumps, real = itertools.count(1), time.time
    years: float = request.param * 365 * 24 * 3600.0
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps) * years)


class SlowServer(SshServer):
    """Answers late enough for somebody who waits to look at the clock."""

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        time.sleep(0.3)
        return super().check_auth_publickey(username, key)

    def check_channel_request(self, kind: str, number: int) -> int:
        time.sleep(0.3)
        return super().check_channel_request(kind, number)


@pytest.mark.usefixtures("jumping")
def test_a_clock_that_jumps_ends_nothing() -> None:
    server = SlowServer(HOST_KEY, USER_KEY, COMMANDS)
    server.listen()
    shell = connect(server.port, USER_KEY, HOST_KEY, soon())
    assert server.tries == 1
    assert shell.run("hello", soon()).stdout == b"out\n"
    stream = shell.open_stream("echo", soon())
    sent = b"z" * (3 * MIB)  # more than the window
    sending = threading.Thread(target=stream.send, args=(sent, soon()))
    sending.start()
    received = 0
    while received < len(sent):
        received += len(stream.receive(soon()))
    sending.join()
    shell.close()
    server.close()


@pytest.mark.usefixtures("jumping")
def test_a_clock_that_jumps_makes_no_deadline_later() -> None:
    started = time.monotonic()
    with ssh_server(HOST_KEY, USER_KEY, answers_exec=False) as server:
        shell = connect(server.port, USER_KEY, HOST_KEY, soon())
        with pytest.raises(CommandTimeoutError, match="not begun by"):
            shell.run("hello", soon(0.5))
        shell.close()
    with raw_server(lambda _: time.sleep(2)) as port, pytest.raises(ConnectError):
        connect(port, USER_KEY, HOST_KEY, soon(0.5))
    with ssh_server(HOST_KEY, USER_KEY, {"never-end": never_end}) as server:
        shell = connect(server.port, USER_KEY, HOST_KEY, soon())
        stream = shell.open_stream("never-end", soon())
        assert stream.receive(soon()) == b"so far\n"
        with pytest.raises(CommandTimeoutError, match="nothing by"):
            stream.receive(soon(0.5))
        shell.close()
    assert time.monotonic() - started < 15
