"""A program of its own: connects to a port in other namespaces, and hands the connection over.

A socket stays in the network namespace that it was made in. So this goes where the port is, opens
one, and sends it to who asked. It cannot be a function of the lab's: a process with threads may
not enter a user namespace (setns(2)).

Its arguments: the descriptors of the user namespace, of the network namespace, and of the socket
to answer on, and the port on 127.0.0.1. Run with ``python -I -S``.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys

SECONDS = 10.0


def main() -> None:
    """Enter, connect, answer; any failure ends it with a traceback."""
    user, network, line, port = map(int, sys.argv[1:5])
    libc = ctypes.CDLL(None, use_errno=True)
    # Its own user namespace is one that a process may not enter: root's, where QEMU has none.
    same = os.path.sameopenfile(user, os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC))
    for namespace in (network,) if same else (user, network):
        if libc.setns(namespace, 0) != 0:
            raise OSError(ctypes.get_errno(), "setns: " + os.strerror(ctypes.get_errno()))
    with (
        socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as found,
        socket.socket(fileno=line) as answer,
    ):
        socket.send_fds(answer, [b"."], [found.fileno()])


if __name__ == "__main__":
    main()
