"""The user's terminal, or whatever stands in for it, at a guest's shell."""

from __future__ import annotations

import codecs
import contextlib
import os
import select
import shlex
import shutil
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from orchestrator.adapters.ssh import SshShell
from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import EXIT_BROKEN
from orchestrator.plan.visible import visible

POLL_SECONDS = 0.2
START_SECONDS = 60.0
# A step of a scenario has the same; a command over SSH alone lacks all that is in sbin.
GUEST_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class _Channel(Protocol):
    """The guest's end: what is used of paramiko's."""

    def fileno(self) -> int: ...
    def recv(self, size: int, /) -> bytes: ...
    def recv_ready(self) -> bool: ...
    def recv_stderr(self, size: int, /) -> bytes: ...
    def recv_stderr_ready(self) -> bool: ...
    def send(self, data: bytes, /) -> int: ...
    def send_ready(self) -> bool: ...
    def sendall(self, data: bytes, /) -> None: ...
    def shutdown_write(self) -> None: ...
    def exit_status_ready(self) -> bool: ...
    def recv_exit_status(self) -> int: ...
    def resize_pty(self, width: int = ..., height: int = ...) -> None: ...


def attach(shell: SshShell) -> int:
    """Give the user's terminal to a shell in the guest until either ends; its exit status.

    Keys reach the guest as they are, Ctrl-C too. Raises ``RunInterruptedError`` after a signal.
    """
    size = shutil.get_terminal_size()
    kind = os.environ.get("TERM", "xterm")
    channel: _Channel = shell.open_terminal(kind, size.columns, size.lines)
    with _raw_terminal(), _resizing() as resized:
        _copy(channel, resized)
    return _status_of(channel)


def run_words(shell: SshShell, words: Sequence[str]) -> int:
    """Run a command in the guest with our standard streams; its exit status.

    One word is a line for the guest's ``sh``, several are a command and its arguments. What it
    prints reaches a file or a pipe as it is, and a terminal with escapes for what that would obey.
    Raises ``RunInterruptedError`` after a signal.
    """
    command = words[0] if len(words) == 1 else shlex.join(words)
    line = f"export PATH={GUEST_PATH}; cd; {command}"
    stream = shell.open_stream(line, Deadline.after(START_SECONDS, "starting the command"))
    channel: _Channel = stream.channel
    try:
        _pump(channel)
        return _status_of(channel)
    finally:
        stream.close()


def _status_of(channel: _Channel) -> int:
    status = channel.recv_exit_status()
    return status if status >= 0 else EXIT_BROKEN


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd, termios.TCSADRAIN)  # what is typed already is for the guest
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _resizing() -> Iterator[threading.Event]:
    """Set whenever the terminal has another size.

    The handler must not tell the guest itself: it runs amid whatever the main thread does, which
    may be sending, with paramiko's locks held.
    """
    resized = threading.Event()
    before = signal.signal(signal.SIGWINCH, lambda _number, _frame: resized.set())
    try:
        yield resized
    finally:
        signal.signal(signal.SIGWINCH, before)


def _copy(channel: _Channel, resized: threading.Event) -> None:
    """Terminal to guest and back, until either side ends."""
    stdin, stdout = sys.stdin.fileno(), sys.stdout.fileno()
    while True:
        readable, _, _ = select.select([channel, stdin], [], [], POLL_SECONDS)
        process.check_stopping()
        if resized.is_set():
            resized.clear()
            size = shutil.get_terminal_size()
            channel.resize_pty(width=size.columns, height=size.lines)
        if channel in readable:
            data = channel.recv(65536)
            if not data:
                return
            _write_all(stdout, data)
        if stdin in readable:
            typed = os.read(stdin, 65536)
            if not typed:
                return
            channel.sendall(typed)


def _pump(channel: _Channel) -> None:
    """Our standard streams to a command's and back, until it has ended."""
    outputs = _Output(sys.stdout.fileno()), _Output(sys.stderr.fileno())
    source: int | None = sys.stdin.fileno()
    if sys.stdin.isatty():  # what is typed is for who typed `lab`
        channel.shutdown_write()
        source = None
    pending = b""
    while True:
        ended = channel.exit_status_ready()  # first: what came before is then there to be read
        progress = _drain(channel, *outputs)
        process.check_stopping()
        if ended and not progress:
            return
        if pending and channel.send_ready():
            pending = pending[_send(channel, pending[:32768]) :]
        elif not pending and source is not None and _is_readable(source):
            pending = os.read(source, 65536)
            if not pending:
                channel.shutdown_write()
                source = None
        elif not progress:
            _wait(channel, None if pending else source)


def _send(channel: _Channel, data: bytes) -> int:
    """How much of it is done with: all of it where the command has closed its end."""
    try:
        return channel.send(data)
    except OSError:
        return len(data)


def _drain(channel: _Channel, out: _Output, err: _Output) -> bool:
    """Take what is there; whether anything was."""
    progress = False
    pairs: tuple[tuple[Callable[[], bool], Callable[[int], bytes], _Output], ...] = (
        (channel.recv_ready, channel.recv, out),
        (channel.recv_stderr_ready, channel.recv_stderr, err),
    )
    for ready, receive, output in pairs:
        while ready():
            output.write(receive(65536))
            progress = True
    return progress


def _is_readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def _wait(channel: _Channel, source: int | None) -> None:
    started = time.monotonic()
    sources: list[_Channel | int] = [channel] if source is None else [channel, source]
    select.select(sources, [], [], POLL_SECONDS)
    # A command that has closed its output and goes on is always readable.
    if time.monotonic() - started < POLL_SECONDS / 100:
        time.sleep(POLL_SECONDS / 20)


class _Output:
    """One of our streams, for what a guest prints."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="backslashreplace")
        self._is_terminal = os.isatty(fd)

    def write(self, data: bytes) -> None:
        """Write all of it, safe to show where it is shown."""
        _write_all(self._fd, shown(self._decoder.decode(data)) if self._is_terminal else data)


def shown(text: str) -> bytes:
    """What a guest printed for a terminal: lines and tabs stay, all else that is not text goes."""
    lines = (
        "\t".join(visible(part) for part in line.removesuffix("\r").split("\t"))
        for line in text.split("\n")
    )
    return "\n".join(lines).encode()


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
