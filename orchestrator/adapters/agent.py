"""Steps, one after another, by one process of the guest: ``images/guest/tool/agent.c``.

It speaks over one SSH channel, so no step pays for a shell that only waits for another.
"""

from __future__ import annotations

import os
import shlex
import signal
import struct
import time
from dataclasses import dataclass

from orchestrator.adapters.ssh import MAX_OUTPUT, SshShell, SshStream, signal_name
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import (
    CommandTimeoutError,
    ConnectionLostError,
    MachineError,
)
from orchestrator.plan.klog import Marker
from orchestrator.plan.outcome import CommandResult
from orchestrator.plan.visible import clip, decode, visible

AGENT = "/usr/local/bin/sysio --agent"
# More than any piece that it sends.
MAX_SAID = 200
"""How much of the agent's own words is told."""
MAX_PIECE = 1 << 20


@dataclass(frozen=True)
class Order:
    """A command, and what it is run with. ``sysio`` as its first word costs no execve(2)."""

    words: tuple[str, ...]
    begin: Marker | None = None
    end: Marker | None = None
    user: int | None = None
    stdin: bytes = b""

    @property
    def shown(self) -> str:
        """The command as one would type it."""
        is_script = self.words[:2] == ("sh", "-c") and len(self.words) == 3
        return self.words[2] if is_script else shlex.join(self.words)

    def encode(self) -> bytes:
        """What the agent takes."""
        texts = [
            *("" if marker is None else marker.render() for marker in (self.begin, self.end)),
            "" if self.user is None else str(self.user),
            str(len(self.words)),
            *self.words,
        ]
        data = b"".join(os.fsencode(text) + b"\0" for text in texts) + self.stdin
        return struct.pack("<I", len(data)) + data


def script(text: str) -> tuple[str, ...]:
    """The words of a command that is text for a shell."""
    return ("sh", "-c", text)


class Agent:
    """The process in the guest, and the channel to it. Used from one thread."""

    def __init__(self, stream: SshStream) -> None:
        """It listens on the other end already."""
        self.stream = stream
        self._pending = bytearray()
        self.lost = False
        """Whether it can take no more orders: one did not end, or the connection did."""

    @classmethod
    def start(cls, shell: SshShell, deadline: Deadline) -> Agent:
        """Start it in a guest. Raises ``ShellError``."""
        return cls(shell.open_stream(AGENT, deadline))

    def close(self) -> None:
        """Give it up, and whatever it runs."""
        self.lost = True
        self.stream.close()

    def run(self, order: Order, deadline: Deadline, *, limit: int = MAX_OUTPUT) -> CommandResult:
        """Have a command run; what it gave, whatever its status. Blocks until it has ended.

        Of each of its outputs ``limit`` bytes are kept. Raises ``CommandTimeoutError`` with what
        it has printed until then, ``ConnectionLostError``, and ``MachineError`` where the guest
        could not run it or write a marker; then no further order can be taken.
        """
        output = _Output(limit)
        started = time.monotonic()
        try:
            self.stream.send(order.encode(), deadline)
            status = self._follow(output, deadline)
        except CommandTimeoutError as timeout:
            self.close()
            raise CommandTimeoutError(
                f"no end by its deadline ({deadline.seconds:g} s): {order.shown}",
                stdout=bytes(output.stdout),
                stderr=bytes(output.stderr),
            ) from timeout
        except ConnectionLostError as error:
            self.close()
            raise ConnectionLostError(f"{error.message} while this ran: {order.shown}") from error
        except MachineError as error:
            self.close()
            raise MachineError(f"{error.message}: {order.shown}") from error
        name = (
            _name_of(os.WTERMSIG(status))
            if os.WIFSIGNALED(status)
            else signal_name(os.WEXITSTATUS(status))
        )
        return CommandResult(
            command=order.shown,
            status=None if name else os.WEXITSTATUS(status),
            signal=name,
            stdout=bytes(output.stdout),
            stderr=bytes(output.stderr),
            seconds=time.monotonic() - started,
            truncated=output.truncated,
        )

    def _follow(self, output: _Output, deadline: Deadline) -> int:
        """Take pieces until the command has ended; what waitpid(2) gave."""
        while True:
            kind, size = struct.unpack("<cI", self._take(5, deadline))
            if size > MAX_PIECE:
                raise MachineError(f"the guest's agent sends a piece of {size} bytes")
            piece = self._take(size, deadline)
            if kind == b"o":
                output.keep(output.stdout, piece)
            elif kind == b"e":
                output.keep(output.stderr, piece)
            elif kind == b"x" and size == 4:
                return _status_of(int.from_bytes(piece, "little"))
            elif kind == b"f":
                text = clip(visible(decode(piece)), MAX_SAID)
                raise MachineError(f"the guest's agent failed ({text})")
            else:
                raise MachineError(f"the guest's agent says {kind!r}")

    def _take(self, size: int, deadline: Deadline) -> bytes:
        while len(self._pending) < size:
            self._pending += self.stream.receive(deadline)
        taken = bytes(self._pending[:size])
        del self._pending[:size]
        return taken


def _status_of(status: int) -> int:
    """What waitpid(2) gave for a process that ended. ``MachineError`` for what it never gives."""
    if status > 0xFFFF or not (os.WIFEXITED(status) or os.WIFSIGNALED(status)):
        raise MachineError(f"the guest's agent says that a command ended with {status:#x}")
    return status


def _name_of(number: int) -> str:
    """A signal's name; those of real time have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class _Output:
    """What a command printed, up to a limit."""

    def __init__(self, limit: int) -> None:
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.truncated = False
        self._limit = limit

    def keep(self, buffer: bytearray, piece: bytes) -> None:
        """Add a piece, or what there is room for."""
        room = max(0, self._limit - len(buffer))
        buffer += piece[:room]
        self.truncated = self.truncated or len(piece) > room
