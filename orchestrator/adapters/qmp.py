"""QEMU's machine protocol, as far as the lab speaks it.

A synchronous client of our own: the protocol is one JSON object per line, and the
published client (``qemu.qmp``) is asyncio throughout, where every other wait of the
lab is a thread with a deadline.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import MachineError

MAX_MESSAGE = 1 << 20
# QEMU tells of the end of a migration by events too, which may be lost; asking is cheap.
POLL_SECONDS = 0.005


class Qmp:
    """A connection to one QEMU, used from one thread."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._buffer = b""
        self._asked = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def greet(self, deadline: Deadline) -> str:
        """Take QEMU's greeting and enter command mode; QEMU's version."""
        greeting = self._receive(deadline)
        try:
            version = greeting["QMP"]["version"]["qemu"]
            shown = ".".join(str(version[part]) for part in ("major", "minor", "micro"))
        except (KeyError, TypeError):
            raise MachineError(f"QEMU greeted with something else: {greeting!r:.200}") from None
        self.execute("qmp_capabilities", deadline)
        return shown

    def execute(self, command: str, deadline: Deadline, **arguments: Any) -> Any:
        """Run a command; what it returns. ``MachineError`` if QEMU refuses or goes away."""
        return self._execute(command, deadline, arguments)

    def _execute(
        self,
        command: str,
        deadline: Deadline,
        arguments: Mapping[str, Any],
        files: Sequence[int] = (),
    ) -> Any:
        self._asked += 1
        message = {"execute": command, "arguments": arguments, "id": self._asked}
        try:
            self._socket.settimeout(deadline.left or 0.001)
            data = json.dumps(message).encode() + b"\n"
            if files:
                socket.send_fds(self._socket, [data], files)
            else:
                self._socket.sendall(data)
        except OSError as error:
            raise MachineError(f"QEMU is gone ({command}: {error})") from error
        while True:
            answer = self._receive(deadline)
            if "error" in answer and answer.get("id", self._asked) == self._asked:
                raise MachineError(f"QEMU refused {command}: {_reason(answer['error'])}")
            if "return" in answer and answer.get("id") == self._asked:
                return answer["return"]
            # Anything else is an event (the console and the process tell the same, sooner),
            # or the late answer to a command that was given up.

    def forwarded_port(self, deadline: Deadline) -> int:
        """The port on 127.0.0.1 that QEMU bound for the guest's SSH.

        QEMU 7.2 tells it only in the human monitor's words.
        """
        text = self.execute("human-monitor-command", deadline, **{"command-line": "info usernet"})
        found = re.search(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s", str(text))
        if not found:
            raise MachineError(f"QEMU names no forwarded port: {str(text)!r:.300}")
        return int(found[1])

    def freeze(self, state: int, deadline: Deadline) -> None:
        """Stop the guest for good and write its devices' state to the file ``state``.

        Its memory is not written anywhere: it is a file already. Raises ``MachineError``.
        """
        self.execute("stop", deadline)
        self._leave_memory_where_it_is(deadline)
        self._hand_over("state", state, deadline)
        self.execute("migrate", deadline, uri="fd:state")
        while True:
            status = self.execute("query-migrate", deadline)
            if status.get("status") == "completed":
                return
            if status.get("status") in ("failed", "cancelled"):
                why = status.get("error-desc", "it does not say why")
                raise MachineError(f"QEMU cannot freeze the guest: {why}")
            time.sleep(POLL_SECONDS)

    def thaw(self, state: int, deadline: Deadline) -> None:
        """Go on from where a guest was frozen. Raises ``MachineError``."""
        self._leave_memory_where_it_is(deadline)
        self.execute("migrate-incoming", deadline, uri=f"fd:{state}")
        # A restore that fails ends QEMU, and that is noticed here.
        while self.execute("query-status", deadline)["status"] == "inmigrate":
            time.sleep(POLL_SECONDS)
        self.execute("cont", deadline)

    def _leave_memory_where_it_is(self, deadline: Deadline) -> None:
        """QEMU 4.0 and later: memory that is in a shared file is no part of what is migrated."""
        wanted = [{"capability": "x-ignore-shared", "state": True}]
        self.execute("migrate-set-capabilities", deadline, capabilities=wanted)

    def _hand_over(self, name: str, fd: int, deadline: Deadline) -> None:
        """Give QEMU an open file, under a name that ``fd:`` takes."""
        self._execute("getfd", deadline, {"fdname": name}, (fd,))

    def registers(self, deadline: Deadline) -> str:
        """The first processor's registers, in the human monitor's words."""
        return str(
            self.execute("human-monitor-command", deadline, **{"command-line": "info registers"})
        )

    def send_break(self, deadline: Deadline) -> None:
        """A serial break on the kernel's console: the next character is a SysRq command."""
        self.execute("chardev-send-break", deadline, id="console")

    def serve_gdb(self, listener: int, deadline: Deadline) -> None:
        """Have debuggers that connect to ``listener``, a listening socket, debug the guest.

        It is not stopped before one does. Raises ``MachineError``.
        """
        self._hand_over("gdb", listener, deadline)
        address = {"type": "fd", "data": {"str": "gdb"}}
        backend = {"type": "socket", "data": {"addr": address, "server": True, "wait": False}}
        self.execute("chardev-add", deadline, id="gdb", backend=backend)
        # QMP has no such command; that of the human monitor says what it does, in words.
        line = "gdbserver chardev:gdb"
        said = str(self.execute("human-monitor-command", deadline, **{"command-line": line}))
        if not said.startswith("Waiting for gdb connection"):
            raise MachineError(f"QEMU does not wait for a debugger: {said.strip()!r:.300}")

    def _receive(self, deadline: Deadline) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            if deadline.passed:
                raise MachineError(f"QEMU did not answer: {deadline}")
            if len(self._buffer) > MAX_MESSAGE:
                raise MachineError("QEMU's answer has no end")
            self._socket.settimeout(deadline.left or 0.001)
            try:
                chunk = self._socket.recv(65536)
            except TimeoutError:
                continue
            except OSError as error:
                raise MachineError(f"QEMU is gone ({error})") from error
            if not chunk:
                raise MachineError("QEMU closed its monitor")
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise MachineError(f"QEMU's answer is no JSON: {line!r:.200}") from error
        if not isinstance(message, dict):
            raise MachineError(f"QEMU's answer is no object: {line!r:.200}")
        return message


def _reason(error: object) -> str:
    """What QEMU says of an error: its description, or whatever there is instead."""
    described = error.get("desc") if isinstance(error, dict) else None
    return str(described or error)[:300]
