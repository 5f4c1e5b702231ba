"""How much of an SSH server is listened to.

The server is a guest's, and root of the guest can put another in its place. paramiko believes what
a server says of sizes: it waits for a packet of 4 GiB, for a greeting line without end, and keeps
whatever comes for a channel, window or not (``Packetizer.read_all``, ``Packetizer.readline`` and
``Channel._feed`` of 3.4 to 5.1). With these bounds such a connection ends.
"""

from __future__ import annotations

# The types of paramiko know only what is public.
# mypy: disable-error-code="misc,name-defined,type-arg"
from typing import Any

import paramiko
from paramiko.buffered_pipe import BufferedPipe

# RFC 4253, 6.1, has 35000 for what everybody takes; paramiko asks for pieces of 32768.
MAX_PACKET = 256 << 10
# RFC 4253, 4.2: a line of 255, and lines before it, of which paramiko reads 100.
MAX_LINE = 4096


class BoundedPacketizer(paramiko.Packetizer):
    """One that takes no packet and no line that is longer than any of an honest server's."""

    _line = 0

    def read_all(self, n: int, check_rekey: bool = False) -> Any:
        """See paramiko. Raises ``SSHException`` for more than ``MAX_PACKET``."""
        if n > MAX_PACKET:
            raise paramiko.SSHException(f"the server announces a packet of {n} bytes")
        return super().read_all(n, check_rekey)

    def readline(self, timeout: float) -> str:
        """See paramiko. Raises ``SSHException`` for a line that is longer than ``MAX_LINE``."""
        self._line = 0
        try:
            return str(super().readline(timeout))
        except UnicodeDecodeError as error:
            raise paramiko.SSHException("the server greets with what is no text") from error

    def _read_timeout(self, timeout: float) -> Any:
        data = super()._read_timeout(timeout)
        self._line += len(data)
        if self._line > MAX_LINE:
            raise paramiko.SSHException(f"the server greets with more than {MAX_LINE} bytes")
        return data


class _BoundedPipe(BufferedPipe):
    """What came on a channel and was not taken yet."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def feed(self, data: bytes | str) -> None:
        if len(self) + len(data) > self._limit:
            # On the transport's thread: the connection ends.
            raise paramiko.SSHException("the server sends more than it was allowed to")
        super().feed(data)


def bound_channel(channel: paramiko.Channel) -> None:
    """Hold a server to the channel's window. For one on which nothing was asked for yet."""
    # An honest server never has more under way than the window, of both outputs together.
    limit = channel.in_window_size + MAX_PACKET
    channel.in_buffer = _BoundedPipe(limit)
    channel.in_stderr_buffer = _BoundedPipe(limit)
