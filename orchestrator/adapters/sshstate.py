"""An SSH connection that goes on where another was, with its keys and counters.

A fork of a guest has the server's end of a connection in its memory. Here is the client's: what
it was when the guest was frozen, so that a fork is talked to at once. Without KVM the first
handshake with a server costs half of what a whole cell costs.

All forks of a guest then have the same keys. That would be grave where anybody could listen:
these connections go through a socket pair between the lab and its own QEMU.

paramiko makes no such thing, but lets its parts be replaced (``packetizer_class``, 3.4 and
later). Where one of its inner names is not what it was in 3.4 to 5.1, ``UnknownParamikoError``
says so, and a handshake is made as ever.
"""

from __future__ import annotations

# The types of paramiko know only what is public.
# mypy: disable-error-code="attr-defined,misc,name-defined"
import socket
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import paramiko

from orchestrator.foundation.errors import ShellError

CIPHER = "aes128-ctr"
# The second is for older dropbears, which are built without the first (Ubuntu 16.04 to 20.04).
MACS = ("hmac-sha2-256", "hmac-sha1")
BLOCK = 16


class UnknownParamikoError(ShellError):
    """The paramiko that is installed keeps its connections in another way."""


class _Engine(Protocol):
    def update(self, data: bytes, /) -> bytes: ...


class _NoCipher:
    def update(self, data: bytes) -> bytes:
        return data


@dataclass(frozen=True)
class Direction:
    """One of the two ways of a connection: the keys, and how far it has come."""

    key: bytes = field(repr=False)
    iv: bytes = field(repr=False)
    """For the block that comes next."""
    mac_key: bytes = field(repr=False)
    packets: int

    def advanced(self, passed: int, packets: int) -> Direction:
        """It after so many bytes and packets more."""
        counter = (int.from_bytes(self.iv, "big") + passed // BLOCK) % (1 << 8 * BLOCK)
        packets = (self.packets + packets) % (1 << 32)
        return replace(self, iv=counter.to_bytes(BLOCK, "big"), packets=packets)


@dataclass(frozen=True)
class SshState:
    """A connection that stands still, with one channel open."""

    out: Direction
    into: Direction
    session_id: bytes = field(repr=False)
    mac: str
    remote_version: str
    channel: int
    remote_channel: int
    windows: tuple[int, int, int, int]
    """What may still be sent and how much at a time, then the same of what may come."""
    taken: int
    """Bytes that came since the server was last told that they were taken."""


class _Counted:
    """A cipher that knows how many bytes it has seen."""

    def __init__(self, engine: _Engine) -> None:
        self._engine = engine
        self.bytes = 0

    def update(self, data: bytes) -> bytes:
        self.bytes += len(data)
        return self._engine.update(data)


class _RecordingPacketizer(paramiko.Packetizer):
    """One that knows how much went through it in each direction."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.sent = self.received = 0
        self.out = self.into = _Counted(_NoCipher())

    def reset_seqno_out(self) -> None:
        super().reset_seqno_out()
        self.sent = 0

    def reset_seqno_in(self) -> None:
        super().reset_seqno_in()
        self.received = 0

    def set_outbound_cipher(self, block_engine: _Engine, *rest: Any, **more: Any) -> None:
        self.out = _Counted(block_engine)
        super().set_outbound_cipher(self.out, *rest, **more)

    def set_inbound_cipher(self, block_engine: _Engine, *rest: Any, **more: Any) -> None:
        self.into = _Counted(block_engine)
        super().set_inbound_cipher(self.into, *rest, **more)

    def send_message(self, data: Any) -> None:
        super().send_message(data)
        self.sent += 1

    def read_message(self) -> Any:
        message = super().read_message()
        self.received += 1
        return message


def _advanced(
    packetizer: paramiko.Packetizer, out: Direction, into: Direction
) -> tuple[Direction, Direction]:
    """Both ways as they are now, from what they were when they got their ciphers."""
    assert isinstance(packetizer, _RecordingPacketizer)
    return (
        out.advanced(packetizer.out.bytes, packetizer.sent),
        into.advanced(packetizer.into.bytes, packetizer.received),
    )


class _RecordingTransport(paramiko.Transport):
    """One that keeps its keys: those of RFC 4253, 7.2, by their letters."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, packetizer_class=_RecordingPacketizer)
        self.keys: dict[str, bytes] = {}

    def _compute_key(self, letter: str, size: int) -> bytes:
        key: bytes = super()._compute_key(letter, size)
        self.keys[letter] = key
        return key

    @property
    def mac(self) -> str:
        """How both ways are authenticated. Raises ``UnknownParamikoError``."""
        if self.local_mac is None or self.local_mac != self.remote_mac:
            ways = f"{self.local_mac} and {self.remote_mac}"
            raise UnknownParamikoError(f"two ways to authenticate: {ways}")
        return str(self.local_mac)

    def directions(self) -> tuple[Direction, Direction]:
        """How it goes out and in. Raises ``KeyError`` where keys are made in another way."""
        out, into = (
            Direction(key=self.keys[key], iv=self.keys[iv], mac_key=self.keys[mac], packets=0)
            for iv, key, mac in ("ACE", "BDF")
        )
        return _advanced(self.packetizer, out, into)


def make_recorded(sock: socket.socket) -> paramiko.Transport:
    """A transport, not begun, whose connection can be captured later."""
    transport = _RecordingTransport(sock)
    options = transport.get_security_options()
    options.ciphers, options.digests = (CIPHER,), MACS
    return transport


def capture(transport: paramiko.Transport, channel: paramiko.Channel) -> SshState:
    """What the connection is now, while nothing is under way on it.

    ``make_recorded`` made it, or ``resume``. Raises ``UnknownParamikoError``.
    """
    assert isinstance(transport, _RecordingTransport | _ContinuedTransport)
    try:
        out, into = transport.directions()
        return SshState(
            out=out,
            into=into,
            session_id=transport.session_id or b"",
            mac=transport.mac,
            remote_version=transport.remote_version,
            channel=channel.chanid,
            remote_channel=channel.remote_chanid,
            windows=(
                *(channel.out_window_size, channel.out_max_packet_size),
                *(channel.in_window_size, channel.in_max_packet_size),
            ),
            taken=channel.in_window_sofar,
        )
    except (AttributeError, KeyError) as error:
        raise UnknownParamikoError(f"paramiko {paramiko.__version__}: {error}") from error


class _ContinuedPacketizer(_RecordingPacketizer):
    """Says no greeting: that was said when the connection was made.

    The transport's thread says it whenever it gets to it. What another thread sends may be first.
    """

    greeting = b""

    def write_all(self, out: bytes) -> None:
        if out != self.greeting:
            super().write_all(out)

    def start_handshake(self, timeout: float) -> None:
        """There is none."""


class _ContinuedTransport(paramiko.Transport):
    """Begins behind the handshake, and behind the login."""

    _begun = False

    def __init__(self, sock: socket.socket, state: SshState) -> None:
        super().__init__(sock, packetizer_class=_ContinuedPacketizer)
        self.packetizer.greeting = f"{self.local_version}\r\n".encode()
        self._origin = state
        self.session_id = state.session_id
        self.remote_version = state.remote_version
        self.local_cipher = self.remote_cipher = CIPHER
        self.local_mac = self.remote_mac = state.mac
        self.local_compression = self.remote_compression = "none"
        self.initial_kex_done = self.packetizer._initial_kex_done = True
        self.auth_handler = paramiko.auth_handler.AuthHandler(self)
        self.auth_handler.authenticated = self.authenticated = True
        self._continue(state)

    def _continue(self, state: SshState) -> None:
        mac = self._mac_info[state.mac]
        common = (mac["class"], mac["size"])
        for direction, put, operation in (
            (state.out, self.packetizer.set_outbound_cipher, self._ENCRYPT),
            (state.into, self.packetizer.set_inbound_cipher, self._DECRYPT),
        ):
            engine = self._make_engine(direction, operation)
            put(engine, BLOCK, *common, direction.mac_key)  # type: ignore[arg-type]
        for name, direction in (("out", state.out), ("in", state.into)):
            counter = f"_Packetizer__sequence_number_{name}"
            if not hasattr(self.packetizer, counter):
                raise AttributeError(f"no {counter}")
            setattr(self.packetizer, counter, direction.packets)

    @property
    def mac(self) -> str:
        """How both ways are authenticated."""
        return self._origin.mac

    def directions(self) -> tuple[Direction, Direction]:
        """How it goes out and in."""
        return _advanced(self.packetizer, self._origin.out, self._origin.into)

    def _make_engine(self, direction: Direction, operation: object) -> _Engine:
        make = getattr(self, "_get_engine", None) or self._get_cipher  # before 4.0
        return make(CIPHER, direction.key, direction.iv, operation)  # type: ignore[no-any-return]

    def _check_banner(self) -> None:
        pass

    def _send_kex_init(self) -> None:
        if self._begun:
            super()._send_kex_init()

    def _expect_packet(self, *kinds: int) -> None:
        if self._begun:
            super()._expect_packet(*kinds)
        self._begun = True

    def go_on(self, state: SshState) -> paramiko.Channel:
        """Start to listen; the channel that was open."""
        channel = paramiko.Channel(state.channel)
        self._channels.put(state.channel, channel)
        self.channels_seen[state.channel] = True
        self._channel_counter = state.channel + 1
        channel._set_transport(self)
        out_window, out_packet, in_window, in_packet = state.windows
        channel._set_window(in_window, in_packet)
        channel._set_remote_channel(state.remote_channel, out_window, out_packet)
        channel.in_window_sofar = state.taken
        self.clear_to_send.set()
        self.active = True
        self.start()
        return channel


def resume(sock: socket.socket, state: SshState) -> tuple[paramiko.Transport, paramiko.Channel]:
    """Go on with a connection over another socket, and its channel.

    Nothing is sent or waited for. Raises ``UnknownParamikoError``.
    """
    try:
        transport = _ContinuedTransport(sock, state)
        return transport, transport.go_on(state)
    except (AttributeError, TypeError, KeyError) as error:
        raise UnknownParamikoError(f"paramiko {paramiko.__version__}: {error}") from error


def to_json(state: SshState) -> dict[str, Any]:
    """The state as JSON takes it."""
    return _with_text(asdict(state))


def _with_text(value: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _with_text(each)
        if isinstance(each, dict)
        else each.hex()
        if isinstance(each, bytes)
        else each
        for key, each in value.items()
    }


def from_json(value: dict[str, Any]) -> SshState:
    """What ``to_json`` was given. Raises ``KeyError``, ``TypeError`` or ``ValueError``."""
    out_window, out_packet, in_window, in_packet = map(int, value["windows"])
    return SshState(
        out=_direction_from(value["out"]),
        into=_direction_from(value["into"]),
        session_id=bytes.fromhex(value["session_id"]),
        mac=str(value["mac"]),
        remote_version=str(value["remote_version"]),
        channel=int(value["channel"]),
        remote_channel=int(value["remote_channel"]),
        windows=(out_window, out_packet, in_window, in_packet),
        taken=int(value["taken"]),
    )


def _direction_from(value: dict[str, Any]) -> Direction:
    key, iv, mac_key = (bytes.fromhex(value[name]) for name in ("key", "iv", "mac_key"))
    return Direction(key, iv, mac_key, int(value["packets"]))
