"""A real SSH server in this process whose commands are Python functions."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Mapping

import paramiko
from paramiko.common import (
    AUTH_FAILED,
    AUTH_SUCCESSFUL,
    OPEN_SUCCEEDED,
    cMSG_CHANNEL_REQUEST,
)
from paramiko.message import Message

from orchestrator.adapters.ssh import KeyPair

Command = Callable[[paramiko.Channel], None]


class SshServer(paramiko.ServerInterface):
    """Listens on 127.0.0.1; knows one user key, one host key and these commands."""

    def __init__(
        self,
        host_key: KeyPair,
        user_key: KeyPair,
        commands: Mapping[str, Command] | None = None,
        *,
        answers_exec: bool = True,
    ) -> None:
        self._host_key = host_key
        self._user_key = user_key
        self._commands = dict(commands or {})
        self._answers_exec = answers_exec
        self._transports: list[paramiko.Transport] = []
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.tries = 0
        self.ended = threading.Event()
        """For commands that go on until the server does."""

    def listen(self) -> None:
        """Until now connections were refused."""
        self._socket.listen()
        threading.Thread(target=self._accept, name="ssh-accept", daemon=True).start()

    def cut(self) -> None:
        """End every connection without a word."""
        for transport in self._transports:
            with contextlib.suppress(OSError):
                transport.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.ended.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for transport in self._transports:
            transport.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._socket.accept()
                transport = paramiko.Transport(sock)
                transport.add_server_key(self._host_key.private)
                self._transports.append(transport)
                with contextlib.suppress(paramiko.SSHException, EOFError):
                    transport.start_server(event=threading.Event(), server=self)

    # --- what paramiko asks ------------------------------------------------------------------

    def get_allowed_auths(self, _username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        self.tries += 1
        known = username == "root" and key == self._user_key.private
        return AUTH_SUCCESSFUL if known else AUTH_FAILED

    def check_channel_request(self, _kind: str, _number: int) -> int:
        return OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        if not self._answers_exec:
            self.ended.wait()
            return False
        thread = threading.Thread(
            target=self._play, args=(channel, command.decode()), name="ssh-command", daemon=True
        )
        thread.start()
        return True

    def _play(self, channel: paramiko.Channel, command: str) -> None:
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            # The answer to this comes after our answer to the request has been sent.
            channel.get_transport().global_request("turn", wait=True)
            self._commands[command](channel)


@contextlib.contextmanager
def ssh_server(
    host_key: KeyPair,
    user_key: KeyPair,
    commands: Mapping[str, Command] | None = None,
    *,
    answers_exec: bool = True,
) -> Iterator[SshServer]:
    """A server that listens while the context is open."""
    server = SshServer(host_key, user_key, commands, answers_exec=answers_exec)
    server.listen()
    try:
        yield server
    finally:
        server.close()


def say(stdout: bytes = b"", stderr: bytes = b"", status: int = 0) -> Command:
    """A command that prints and ends."""

    def command(channel: paramiko.Channel) -> None:
        channel.sendall(stdout)
        channel.sendall_stderr(stderr)
        end(channel, status)

    return command


def end(channel: paramiko.Channel, status: int) -> None:
    """End a command as dropbear does: no more output, the status, the channel's end."""
    channel.shutdown_write()
    channel.send_exit_status(status)
    channel.close()


def send_exit_signal(channel: paramiko.Channel, name: str) -> None:
    """Say that a signal ended the command (RFC 4254, 6.10); paramiko has no call for it."""
    message = Message()
    message.add_byte(cMSG_CHANNEL_REQUEST)
    message.add_int(channel.remote_chanid)
    message.add_string("exit-signal")
    message.add_boolean(False)
    message.add_string(name)
    message.add_boolean(False)
    message.add_string("")
    message.add_string("")
    send_message(channel, message)


def send_message(channel: paramiko.Channel, message: Message) -> None:
    """Send what paramiko itself would never say."""
    channel.get_transport()._send_user_message(message)  # type: ignore[attr-defined]


@contextlib.contextmanager
def raw_server(behaviour: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port on which every connection is handed to ``behaviour``, on one thread, in turn."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                with sock, contextlib.suppress(OSError):
                    behaviour(sock)

    thread = threading.Thread(target=serve, name="raw-server", daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(timeout=5)
