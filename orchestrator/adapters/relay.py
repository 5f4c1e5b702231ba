"""A port on 127.0.0.1 that leads into another network: for a user's own programs."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Callable, Iterator

CHUNK = 65536
LOOK_SECONDS = 0.5
SEND_SECONDS = 30.0


@contextlib.contextmanager
def open_relay(dial: Callable[[], socket.socket]) -> Iterator[int]:
    """The port; each connection to it is joined to one that ``dial`` opens, until the context ends.

    Where ``dial`` fails, that connection is closed, and no other.
    """
    ended = threading.Event()
    threads: list[threading.Thread] = []

    def start(work: Callable[[socket.socket], None], sock: socket.socket) -> None:
        threads.append(threading.Thread(target=work, args=(sock,), name="relay", daemon=True))
        threads[-1].start()

    def serve(server: socket.socket) -> None:
        while not ended.is_set():
            with contextlib.suppress(OSError):  # nobody came for a while
                start(join, server.accept()[0])

    def join(client: socket.socket) -> None:
        with client, contextlib.suppress(Exception), dial() as server:
            _join(client, server, ended)

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(LOOK_SECONDS)
        start(serve, server)
        try:
            yield int(server.getsockname()[1])
        finally:
            ended.set()
            for thread in threads:
                thread.join()


def _join(client: socket.socket, server: socket.socket, ended: threading.Event) -> None:
    """Pass on what comes from either side, until both have said all, or it is ``ended``."""
    to = {client: server, server: client}
    speaking = set(to)
    for sock in to:
        sock.settimeout(SEND_SECONDS)
    while speaking and not ended.is_set():
        for sock in select.select(speaking, (), (), LOOK_SECONDS)[0]:
            if data := sock.recv(CHUNK):
                to[sock].sendall(data)
            else:
                speaking.remove(sock)
                to[sock].shutdown(socket.SHUT_WR)
