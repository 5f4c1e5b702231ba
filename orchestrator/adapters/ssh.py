"""Commands and files over SSH: the only module that imports paramiko.

One connection per guest, key-only, with a key pair made for the run and the guest's
host key made by us beforehand, so that it is pinned before the first byte.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import paramiko
from paramiko.message import Message

from orchestrator.adapters.sshbounds import BoundedPacketizer, bound_channel
from orchestrator.adapters.sshstate import SshState, capture, make_recorded, resume
from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import (
    CommandTimeoutError,
    ConnectError,
    ConnectionLostError,
    LabError,
)
from orchestrator.plan.outcome import CommandResult
from orchestrator.plan.visible import clip, visible

MAX_OUTPUT = 4 << 20
RETRY_SECONDS = 0.1
# Between two looks whether a guest takes more; its window is rarely full.
WINDOW_SECONDS = 0.01

# Its messages would reach the terminal through logging's last resort, and pytest's reports, which
# take them from loggers that do not propagate, too; ours say more.
logging.getLogger("paramiko").addHandler(logging.NullHandler())
logging.getLogger("paramiko").propagate = False
logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True)
class KeyPair:
    """A private key, and its public half as ``authorized_keys`` wants it."""

    private: paramiko.ECDSAKey

    @property
    def public_line(self) -> str:
        """One line of ``authorized_keys``."""
        return f"{self.private.get_name()} {self.private.get_base64()} lab"

    def to_dropbear(self) -> bytes:
        """The private key in dropbear's own file format.

        Type, curve and point as SSH strings, then the secret as an mpint (dropbear
        2013.61 to 2025, ``ecdsa.c: buf_get_ecdsa_priv_key``).
        """
        secret = self.private.signing_key.private_numbers().private_value
        tail = Message()
        tail.add_mpint(secret)
        return bytes(self.private.asbytes() + tail.asbytes())

    def to_pem(self) -> str:
        """The private key as text."""
        text = io.StringIO()
        self.private.write_private_key(text)
        return text.getvalue()

    @classmethod
    def from_pem(cls, text: str) -> KeyPair:
        """The pair of such a key. Raises ``ValueError``."""
        try:
            return cls(paramiko.ECDSAKey.from_private_key(io.StringIO(text)))
        except paramiko.SSHException as error:
            raise ValueError(f"no private key: {error}") from error

    def write(self, path: Path) -> None:
        """Write the private key to a file that only this user can read."""
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            self.private.write_private_key(file)


def generate_key_pair() -> KeyPair:
    """A fresh key pair, in memory only. ECDSA P-256: what every guest's server knows."""
    return KeyPair(paramiko.ECDSAKey.generate(bits=256))


class Job(Protocol):
    """A command that runs in the guest while other things happen."""

    def wait_for_output(self, text: bytes, deadline: Deadline) -> bool:
        """Block until standard output contains ``text``; whether it did by the deadline."""

    def wait(self, deadline: Deadline) -> CommandResult:
        """Block until it ends; raises ``CommandTimeoutError`` or ``ConnectionLostError``."""

    def close(self) -> None:
        """Give it up."""


class Shell(Protocol):
    """Runs commands in a guest. The seam behind which another transport would stand."""

    def run(
        self, command: str, deadline: Deadline, *, stdin: bytes = b"", limit: int = MAX_OUTPUT
    ) -> CommandResult:
        """Run ``command`` under ``sh -c`` and return what it gave, whatever its status."""

    def start(self, command: str, deadline: Deadline) -> Job:
        """Start ``command`` and return at once."""

    def close(self) -> None:
        """Close the connection."""


class SshJob:
    """One command on one channel."""

    def __init__(self, channel: paramiko.Channel, command: str, limit: int) -> None:
        self._channel = channel
        self._command = command
        self._limit = limit
        self._started = time.monotonic()
        self._out = bytearray()
        self._err = bytearray()
        self._truncated = False

    def feed(self, stdin: bytes, deadline: Deadline) -> None:
        """Send all of ``stdin`` and close it, taking output meanwhile: neither side blocks."""
        view = memoryview(stdin)
        while view and not self._channel.exit_status_ready():
            if deadline.passed:
                raise self._timeout(deadline)
            if self._channel.send_ready():
                try:
                    view = view[self._channel.send(bytes(view[:32768])) :]
                except OSError:
                    break  # the command has closed its end: its exit status tells the rest
            else:
                self._pump(0.05)
            self._drain()
        with contextlib.suppress(OSError, EOFError):
            self._channel.shutdown_write()

    def wait_for_output(self, text: bytes, deadline: Deadline) -> bool:
        """See ``Job``."""
        while text not in self._out:
            if deadline.passed or self._finished():
                self._drain()
                self._check_alive()
                return text in self._out
            self._pump(deadline.within(0.5))
            self._check_alive()
        return True

    def wait(self, deadline: Deadline) -> CommandResult:
        """See ``Job``."""
        while not self._finished():
            if deadline.passed:
                raise self._timeout(deadline)
            self._pump(deadline.within(0.5))
            self._check_alive()
        self._drain()
        self._check_alive()
        status = self._channel.recv_exit_status()
        if status < 0 and not self._channel.eof_received:
            raise self._lost()
        self.close()
        name = signal_name(status)
        return CommandResult(
            command=self._command,
            status=status if name is None else None,
            signal=name,
            stdout=bytes(self._out),
            stderr=bytes(self._err),
            seconds=time.monotonic() - self._started,
            truncated=self._truncated,
        )

    def close(self) -> None:
        """See ``Job``. Quiet where the connection has gone."""
        _close_quietly(self._channel)

    def _finished(self) -> bool:
        """All output is here and the status too: the status alone may overtake the output."""
        channel = self._channel
        return channel.closed or (channel.exit_status_ready() and bool(channel.eof_received))

    def _pump(self, seconds: float) -> None:
        """Wait for something to read, then take it."""
        with contextlib.suppress(OSError, ValueError):  # a channel closed under us
            select.select([self._channel], [], [], seconds)
        self._drain()

    def _drain(self) -> None:
        while self._channel.recv_ready():
            self._keep(self._out, self._channel.recv(65536))
        while self._channel.recv_stderr_ready():
            self._keep(self._err, self._channel.recv_stderr(65536))

    def _keep(self, buffer: bytearray, data: bytes) -> None:
        room = self._limit - len(buffer)
        buffer += data[: max(0, room)]
        self._truncated = self._truncated or len(data) > room

    def _check_alive(self) -> None:
        """Raise unless the connection is there, or has brought all of the command's end."""
        process.check_stopping()
        channel, transport = self._channel, self._channel.get_transport()
        # The exception is noted first, then the channels are closed, then it is not active.
        gone = transport.saved_exception is not None or not transport.is_active()
        if gone and not (channel.eof_received and channel.exit_status >= 0):
            raise self._lost()

    def _lost(self) -> ConnectionLostError:
        self.close()
        return ConnectionLostError(f"the connection ended while this ran: {self._command}")

    def _timeout(self, deadline: Deadline) -> CommandTimeoutError:
        self.close()
        return CommandTimeoutError(
            f"no end by its deadline ({deadline.seconds:g} s): {self._command}",
            stdout=bytes(self._out),
            stderr=bytes(self._err),
        )


def signal_name(status: int) -> str | None:
    """The signal that a shell's exit status above 128 stands for, if there is such a signal.

    A server that says that a signal ended the shell itself gives no status; paramiko 5
    drops the signal's name.
    """
    if status < 0:
        return "a signal"
    try:
        return signal.Signals(status - 128).name
    except ValueError:
        return None


class SshStream:
    """One command on one channel, and what is said to and fro."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel
        self._came = threading.Event()
        channel.in_buffer.set_event(self._came)

    @property
    def channel(self) -> paramiko.Channel:
        """What it is on."""
        return self._channel

    def send(self, data: bytes, deadline: Deadline) -> None:
        """Block until all of it is on its way; raises like ``receive``."""
        view = memoryview(data)
        while view:
            self._check(deadline)
            if not self._channel.send_ready():
                time.sleep(WINDOW_SECONDS)
                continue
            try:
                view = view[self._channel.send(bytes(view[:32768])) :]
            except OSError as error:
                raise self._lost() from error

    def receive(self, deadline: Deadline) -> bytes:
        """Block until there is something; at least one byte of its standard output.

        Raises ``CommandTimeoutError``, or ``ConnectionLostError`` where there will be nothing.
        """
        while True:
            self._check(deadline)
            # Not recv with a timeout: paramiko measures that by the wall clock, which may jump.
            if not self._came.wait(deadline.within(0.5)):
                continue
            try:
                data = self._channel.recv(65536)
            except OSError as error:
                raise self._lost() from error
            if not data:
                raise self._lost()
            return data

    def close(self) -> None:
        """Give it up. Quiet where the connection has gone."""
        _close_quietly(self._channel)

    def _check(self, deadline: Deadline) -> None:
        process.check_stopping()
        if deadline.passed:
            raise CommandTimeoutError(f"nothing by its deadline ({deadline.seconds:g} s)")

    def _lost(self) -> ConnectionLostError:
        process.check_stopping()
        said = ""
        if self._channel.recv_stderr_ready():
            said = self._channel.recv_stderr(1000).decode(errors="backslashreplace").strip()
        return ConnectionLostError("the connection ended" + (f" ({said})" if said else ""))


class SshShell:
    """A shell over one SSH connection."""

    def __init__(self, transport: paramiko.Transport) -> None:
        self._transport = transport

    def close(self) -> None:
        """Close the connection; never blocks for long, never raises."""
        with contextlib.suppress(Exception):
            self._transport.close()

    def run(
        self, command: str, deadline: Deadline, *, stdin: bytes = b"", limit: int = MAX_OUTPUT
    ) -> CommandResult:
        """See ``Shell``."""
        job = SshJob(self._open(command, deadline), command, limit)
        try:
            job.feed(stdin, deadline)
            return job.wait(deadline)
        finally:
            job.close()

    def start(self, command: str, deadline: Deadline) -> SshJob:
        """See ``Shell``."""
        job = SshJob(self._open(command, deadline), command, MAX_OUTPUT)
        job.feed(b"", deadline)
        return job

    def open_stream(self, command: str, deadline: Deadline) -> SshStream:
        """Start ``command``, to talk to it. Raises as ``run`` does."""
        return SshStream(self._open(command, deadline))

    def capture(self, stream: SshStream) -> SshState:
        """What the connection is while nothing is under way, for ``resume_shell``.

        It has to be one of ``connect_over``'s, with this one stream open. Raises ``ShellError``.
        """
        return capture(self._transport, stream.channel)

    def open_terminal(self, kind: str, columns: int, rows: int) -> paramiko.Channel:
        """An interactive shell on a terminal of its own."""
        channel = self._transport.open_session(timeout=30)
        channel.get_pty(kind, columns, rows)
        channel.exec_command("exec bash -l")
        return channel

    def _open(self, command: str, deadline: Deadline) -> paramiko.Channel:
        process.check_stopping()
        # What paramiko waits for here has no deadline, or one of the wall clock, which may jump.
        # Closing ends either.
        opened: list[paramiko.Channel] = []
        given_up = threading.Event()

        def give_up() -> None:
            given_up.set()
            if opened:
                _close_quietly(opened[0])
            else:
                self.close()

        timer = threading.Timer(deadline.within(threading.TIMEOUT_MAX), give_up)
        timer.start()
        try:
            channel = self._transport.open_session(timeout=math.inf)
            bound_channel(channel)
            opened.append(channel)
            channel.exec_command(command)  # root's shell is sh, see images/guest/rc
        except Exception as error:  # of any kind, see _shake_hands
            process.check_stopping()
            if given_up.is_set():
                raise CommandTimeoutError(
                    f"not begun by its deadline ({deadline.seconds:g} s): {command}"
                ) from error
            raise ConnectionLostError(f"the guest takes no command ({error}): {command}") from error
        finally:
            timer.cancel()
        return channel


def _close_quietly(channel: paramiko.Channel) -> None:
    with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
        channel.close()


def dial_host(port: int, seconds: float) -> socket.socket:
    """A connection to ``port`` on 127.0.0.1 of this machine. Raises ``OSError``."""
    return socket.create_connection(("127.0.0.1", port), timeout=seconds)


def connect(
    port: int,
    user_key: KeyPair,
    host_key: KeyPair,
    deadline: Deadline,
    *,
    check_guest: Callable[[], None] = process.check_stopping,
    dial: Callable[[int, float], socket.socket] = dial_host,
) -> SshShell:
    """Connect to the guest's SSH server on 127.0.0.1; tries again until the deadline.

    ``dial`` opens the connection, where the port is in another network than ours. Raises
    ``ConnectError`` with the last failure, at once if the host key is not ours or ours is
    refused, and whatever ``check_guest`` raises between two tries.
    """
    last: Exception | None = None
    while not deadline.passed:
        check_guest()
        try:
            sock = dial(port, deadline.within(10))
            transport = paramiko.Transport(sock, packetizer_class=BoundedPacketizer)
            return _shake_hands(transport, user_key, host_key, deadline)
        except (paramiko.SSHException, OSError, EOFError) as error:
            last = error
            time.sleep(RETRY_SECONDS)
    said = clip(visible(str(last or "nothing tried")), 300)
    raise ConnectError(f"no SSH from the guest: {deadline}; last: {said}")


def is_answering(
    port: int, deadline: Deadline, *, dial: Callable[[int, float], socket.socket] = dial_host
) -> bool:
    """Whether something on 127.0.0.1 greets as SSH servers do, by the deadline.

    That QEMU takes the connection says nothing: it does so before the guest has a word.
    """
    try:
        with dial(port, deadline.left or 0.001) as sock:
            sock.settimeout(deadline.left or 0.001)
            return sock.recv(4, socket.MSG_WAITALL) == b"SSH-"
    except OSError:
        return False


def connect_over(
    sock: socket.socket, user_key: KeyPair, host_key: KeyPair, deadline: Deadline
) -> SshShell:
    """Connect to a server at the other end of a socket; the connection can be captured.

    Raises ``ConnectError``.
    """
    try:
        return _shake_hands(make_recorded(sock), user_key, host_key, deadline)
    except (paramiko.SSHException, OSError, EOFError) as error:
        said = clip(visible(str(error)), 300)
        raise ConnectError(f"no SSH from the guest: {said}") from error


def resume_shell(sock: socket.socket, state: SshState) -> tuple[SshShell, SshStream]:
    """Go on with a captured connection over another socket; the stream that was open on it.

    Whether somebody is there shows when it is used. Raises ``ShellError``.
    """
    transport, channel = resume(sock, state)
    return SshShell(transport), SshStream(channel)


def _shake_hands(
    transport: paramiko.Transport, user_key: KeyPair, host_key: KeyPair, deadline: Deadline
) -> SshShell:
    # Without KVM the server's first answer alone can take seconds. paramiko would measure all but
    # the second by the wall clock, which may jump: _wait_for has the deadline.
    transport.banner_timeout = math.inf
    transport.handshake_timeout = max(1.0, deadline.left)
    try:
        _log_in(transport, user_key, host_key, deadline)
    except (paramiko.SSHException, OSError, EOFError, ConnectError):
        transport.close()
        raise
    except Exception as error:
        # What paramiko's thread met in a server's packets comes to whoever waits for it, and can
        # be anything: no text where text should be, a point on no curve, lengths beyond the end.
        transport.close()
        said = f"{type(error).__name__}: {error}"
        raise paramiko.SSHException(f"a packet that is none ({said:.200})") from error
    except BaseException:
        transport.close()
        raise
    return SshShell(transport)


def _log_in(
    transport: paramiko.Transport, user_key: KeyPair, host_key: KeyPair, deadline: Deadline
) -> None:
    done = threading.Event()
    transport.start_client(event=done)
    _wait_for(transport, done, deadline, "no end of the key exchange")
    if transport.get_remote_server_key() != host_key.private:
        raise ConnectError("the guest's SSH server shows a host key that is not ours")
    done = threading.Event()
    transport.auth_publickey("root", user_key.private, event=done)
    _wait_for(transport, done, deadline, "no answer to our key")
    if not transport.is_authenticated():
        raise ConnectError("the guest's SSH server refuses our key") from transport.get_exception()


def _wait_for(
    transport: paramiko.Transport, done: threading.Event, deadline: Deadline, missing: str
) -> None:
    """Block until paramiko's thread has ``done`` it. Raises what ended the connection."""
    while not done.wait(deadline.within(0.1)):
        process.check_stopping()
        if deadline.passed:
            raise paramiko.SSHException(missing)
    if not transport.is_active():
        raise transport.get_exception() or paramiko.SSHException("the connection ended")


def check(result: CommandResult, what: str, error: type[LabError] = LabError) -> CommandResult:
    """The result, if the command succeeded; else ``error`` with what it printed."""
    if result.status == 0:
        return result
    said = (result.stderr or result.stdout).decode(errors="backslashreplace").strip()
    status = result.signal or f"status {result.status}"
    raise error(f"{what}: {status}: {said[-1000:]}")
