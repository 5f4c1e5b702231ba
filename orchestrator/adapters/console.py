"""The serial console: the kernel's log as the host sees it, and the way in when SSH is dead.

This is the only module that imports pexpect.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import io
import os
import secrets
import socket
import termios
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import pexpect
from pexpect import fdpexpect
from pexpect.spawnbase import SpawnBase

from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import MachineError
from orchestrator.plan.klog import LineAssembler, Marker, Record, parse_line

# A guest that logs more than this in one life is not testing, it is flooding; the log is
# cut here, and a window that ends beyond the cut has no end marker, so it is an error.
MAX_LOG_BYTES = 256 << 20
# The same for the lab's memory, in which a line takes more than on the console: 256 MiB of
# newlines alone would be 32 GiB.
MAX_LOG_MEMORY = 256 << 20
_LINE_MEMORY = 256
# How much a guest can say before anybody reads it. It must not be little: a kernel waits for its
# serial port for 10 ms and then writes on, over what the port still holds (Linux 6.5,
# drivers/tty/serial/8250/8250_port.c, wait_for_xmitr()). A socket takes some 280 bytes of QEMU's,
# which come one by one, before it is full. This is what everybody may have (pipe(7)).
PIPE_BYTES = 1 << 20
_PAGE = 4096
# More than any answer of the rescue shell: what it is asked for is a page of text.
MAX_RESCUE_BYTES = 1 << 20
# What plan/klog.py takes for a log that was lost.
FELL_BEHIND = b"** console output dropped: the host fell behind **"
PANIC = "Kernel panic - not syncing"
POLL_SECONDS = 0.25


class KernelLog:
    """The records of one boot, in order; filled by one thread, read by others."""

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._markers: dict[str, int] = {}
        self._changed = threading.Condition()
        self._ended = False
        self._flooded = False
        self._stamped = False
        self._panic: str | None = None
        self._memory = 0

    def append(self, raw: bytes) -> None:
        """Take the next line of the console."""
        with self._changed:
            record = parse_line(len(self._records), raw)
            self._records.append(record)
            self._memory += _LINE_MEMORY + len(record.text) + len(record.before)
            if record.text.startswith("lab-"):
                self._markers.setdefault(record.text, record.number)
            self._stamped = self._stamped or record.time is not None
            # Where the kernel stamps its lines, one without a stamp is user space's.
            if record.text.startswith(PANIC) and (record.time is not None or not self._stamped):
                self._panic = self._panic or record.text
            self._changed.notify_all()

    def end(self, *, flooded: bool = False) -> None:
        """There will be no more lines: the console is closed, or said too much."""
        with self._changed:
            self._ended = True
            self._flooded = flooded
            self._changed.notify_all()

    @property
    def ended(self) -> bool:
        """Whether no more lines will come: QEMU has gone, or was ``flooded``."""
        return self._ended

    @property
    def flooded(self) -> bool:
        """Whether the log was cut at ``MAX_LOG_BYTES`` or ``MAX_LOG_MEMORY``."""
        return self._flooded

    @property
    def is_full(self) -> bool:
        """Whether it takes as much memory as it may."""
        return self._memory >= MAX_LOG_MEMORY

    @property
    def panic(self) -> str | None:
        """The panic's line, once there was one."""
        return self._panic

    @property
    def count(self) -> int:
        """How many records there are."""
        return len(self._records)

    @property
    def last_line(self) -> str:
        """The text of the last line that says anything."""
        with self._changed:
            return next((r.text for r in reversed(self._records) if r.text.strip()), "")

    def records(self, first: int = 0, end: int | None = None) -> tuple[Record, ...]:
        """The records from ``first`` up to, not including, ``end``."""
        with self._changed:
            return tuple(self._records[first:end])

    def position_of(self, marker: Marker) -> int | None:
        """The number of the marker's record, if it has arrived."""
        with self._changed:
            return self._markers.get(marker.render())

    def wait_until(self, condition: Callable[[], bool], deadline: Deadline) -> bool:
        """Block until ``condition`` holds; False if the deadline passed or the log ended first."""
        with self._changed:
            while not condition():
                if self._ended or deadline.passed:
                    return condition()
                self._changed.wait(deadline.within(POLL_SECONDS))
            return True

    def wait_for_marker(self, marker: Marker, deadline: Deadline) -> int | None:
        """Block until the marker arrives; its record's number, or None if it did not."""
        text = marker.render()
        self.wait_until(lambda: text in self._markers or self._panic is not None, deadline)
        return self.position_of(marker)

    def wait_for_end(self, deadline: Deadline) -> bool:
        """Block until the console is closed; whether it was by the deadline."""
        return self.wait_until(lambda: self._ended, deadline)


def open_line() -> tuple[int, int, int, int]:
    """The console's line, two pipes: our ends, to read and to write, then QEMU's."""
    ours_in, theirs_out = os.pipe()
    theirs_in, ours_out = os.pipe()
    with contextlib.suppress(PermissionError):  # a user with very many of them
        fcntl.fcntl(ours_in, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return ours_in, ours_out, theirs_in, theirs_out


class Console:
    """Reads a guest's console to its end, into ``log`` and into a file, on a thread of its own."""

    def __init__(self, receiving: int, sending: int, log_path: Path) -> None:
        """Both descriptors, as ``open_line`` gives them, are closed with it."""
        self.log = KernelLog()
        self.path = log_path
        self._receiving = io.FileIO(receiving, "rb")
        self._sending = io.FileIO(sending, "wb")
        try:
            self._file = log_path.open("wb", buffering=0)
        except OSError:
            self._receiving.close()
            self._sending.close()
            raise
        self._spawn: SpawnBase[bytes] = fdpexpect.fdspawn(
            receiving, timeout=POLL_SECONDS, use_poll=True
        )
        self._full = _room_of(receiving) - 2 * _PAGE
        self._closing = False
        self._thread = threading.Thread(target=self._read, name="console", daemon=True)
        self._thread.start()

    def __enter__(self) -> Console:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading, once QEMU is gone or given up; whatever had arrived is in the file."""
        self._closing = True
        self._thread.join(timeout=10)
        for file in (self._receiving, self._sending, self._file):
            file.close()

    def send(self, data: bytes) -> None:
        """Type on the kernel's console (after a serial break: a SysRq command)."""
        with contextlib.suppress(OSError, ValueError):  # gone, or closed
            self._sending.write(data)

    def _read(self) -> None:
        assembler = LineAssembler()
        taken = 0
        try:
            while taken < MAX_LOG_BYTES and not self.log.is_full:
                late = self._is_full()
                try:
                    data = self._spawn.read_nonblocking(65536, timeout=POLL_SECONDS)
                except pexpect.TIMEOUT:
                    if self._closing:
                        break
                    continue
                taken += len(data)
                if late:
                    self._take_note(assembler)
                # The file first: evidence must be on disk before anybody acts on it.
                with contextlib.suppress(OSError):  # a full disk must not blind the verdict
                    self._file.write(data)
                for line in assembler.feed(data):
                    self.log.append(line)
        except (pexpect.EOF, OSError, ValueError):
            pass
        finally:
            for line in assembler.flush():
                self.log.append(line)
            self.log.end(flooded=taken >= MAX_LOG_BYTES or self.log.is_full)

    def _is_full(self) -> bool:
        """Whether what the guest says now may be lost already."""
        pending = array.array("i", [0])
        fcntl.ioctl(self._receiving, termios.FIONREAD, pending)
        return pending[0] >= self._full

    def _take_note(self, assembler: LineAssembler) -> None:
        """Say in the log that some of it may be missing."""
        with contextlib.suppress(OSError):
            self._file.write(b"\n" + FELL_BEHIND + b"\n")
        for line in assembler.flush():
            self.log.append(line)
        self.log.append(FELL_BEHIND)


def _room_of(fd: int) -> int:
    """How many bytes a pipe holds; of what is no pipe, more than it ever has."""
    try:
        return fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
    except OSError:
        return 1 << 62


class RescueShell:
    """A root shell on the guest's second serial port, for when SSH does not answer."""

    def __init__(self, sock: socket.socket, log_path: Path) -> None:
        self._socket = sock
        self._file = log_path.open("wb", buffering=0)
        self._spawn: SpawnBase[bytes] = fdpexpect.fdspawn(sock, logfile=self)
        self._taken = 0

    def close(self) -> None:
        """Close the port and its transcript."""
        self._socket.close()
        self._file.close()

    def write(self, data: bytes) -> None:
        """Take a piece of the transcript; a full disk must not silence the shell.

        ``MachineError`` where it goes on and on.
        """
        self._taken += len(data)
        if self._taken > MAX_RESCUE_BYTES:
            raise MachineError("the rescue shell does not answer: its port is flooded")
        with contextlib.suppress(OSError):
            self._file.write(data)

    def flush(self) -> None:
        """The transcript is not buffered."""

    def run(self, command: str, deadline: Deadline) -> str:
        """What ``command`` prints. ``MachineError`` if the shell does not answer in time.

        The command is wrapped in two random words, so that an echo of the line itself is
        not taken for its answer.
        """
        begin, end = secrets.token_hex(8), secrets.token_hex(8)
        self._taken = 0
        half = len(begin) // 2
        try:
            line = (
                f"echo {begin[:half]}''{begin[half:]}; {command}; echo {end[:half]}''{end[half:]}"
            )
            self._socket.sendall(line.encode() + b"\n")
            self._spawn.expect_exact(begin.encode(), timeout=deadline.left)
            self._spawn.expect_exact(end.encode(), timeout=deadline.left)
        except (pexpect.TIMEOUT, pexpect.EOF, OSError) as error:
            raise MachineError(f"the rescue shell does not answer: {deadline}") from error
        return (self._spawn.before or b"").decode(errors="backslashreplace").strip("\r\n")
