"""Consoles without end: what a guest says to the lab's own reader, through the pipe that is QEMU's.

Where the log ends, what is told, and what a full pipe does to it, is in
tests/contract/test_console.py.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from orchestrator.adapters import console as console_module
from orchestrator.adapters.console import (
    MAX_LOG_BYTES,
    MAX_LOG_MEMORY,
    MAX_RESCUE_BYTES,
    Console,
    RescueShell,
    open_line,
)
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import MachineError
from orchestrator.plan.klog import Marker, find_findings
from tests.hostile.conftest import BY_NIGHT, GIB, MIB, Peak

pytestmark = [pytest.mark.timeout(3600 if BY_NIGHT else 120), pytest.mark.usefixtures("no_leaks")]

PIECES = {
    "text": b"a flood on the console\n" * 2850,
    "newlines": b"\n" * 65536,
    "one line": b"x" * 65536,
    "stamps without lines": b"[    1.000000] " * 4369,
    "halves of stamps": b"[    1.00000" * 5461,
    "brackets": b"[" * 65536,
    "no text": b"\xff" * 65536,
    "escapes": b"\x1b[2J\x1b]52;c;ZXZpbA==\x07\r" * 3000,
    "complaints": b"[    1.000000] WARNING: CPU: 0 PID: 1 at a.c:1 f+0x1/0x2\n" * 1000,
    "panics": b"[    1.000000] Kernel panic - not syncing: no\n" * 1000,
    "markers": b"[    1.000000] lab-0123456789abcdef c1 end\n" * 1000,
}
# Each is said until the lab does not listen any more, and then to the end: 10 GB in all by night.
FLOOD = 10 * GIB // len(PIECES) if BY_NIGHT else 24 * MIB
MARKER = Marker("fedcba9876543210", "c1", "end")


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> int:
    """The most memory that a log may take: the lab's own by night, and else a 16th of that."""
    part = 1 if BY_NIGHT else 16
    monkeypatch.setattr(console_module, "MAX_LOG_BYTES", MAX_LOG_BYTES // part)
    monkeypatch.setattr(console_module, "MAX_LOG_MEMORY", MAX_LOG_MEMORY // part)
    return MAX_LOG_MEMORY // part


@pytest.mark.parametrize("name", PIECES)
def test_a_console_without_end(tmp_path: Path, name: str, limits: int, peak: Peak) -> None:
    """Root of a guest can write anything to the port, at any rate."""
    receiving, sending, theirs_in, theirs_out = open_line()
    said = 0

    def flood() -> None:
        nonlocal said
        with contextlib.suppress(OSError):
            while said < FLOOD:
                said += os.write(theirs_out, PIECES[name])

    thread = threading.Thread(target=flood)
    with Console(receiving, sending, tmp_path / "console.log") as console:
        thread.start()
        assert console.log.wait_for_end(Deadline.after(3000, "the flood's end"))
        assert console.log.flooded
        assert console.log.wait_for_marker(MARKER, Deadline.after(1, "a marker")) is None
        assert peak.grown < 2 * limits + 64 * MIB
        assert console.path.stat().st_size <= limits + MIB
    thread.join()  # nobody reads, and the pipe is closed
    os.close(theirs_out)
    os.close(theirs_in)


def test_what_a_flood_says_is_searched_in_bounded_time(tmp_path: Path, limits: int) -> None:
    receiving, sending, theirs_in, theirs_out = open_line()
    assert limits
    with Console(receiving, sending, tmp_path / "console.log") as console:
        for _ in range(64):
            os.write(theirs_out, PIECES["complaints"])
        os.close(theirs_out)
        assert console.log.wait_for_end(Deadline.after(100, "the flood's end"))
        started = time.monotonic()
        assert find_findings(console.log.records())
        assert time.monotonic() - started < 60
    os.close(theirs_in)


@pytest.mark.parametrize("name", PIECES)
def test_a_rescue_port_without_end(tmp_path: Path, name: str, peak: Peak) -> None:
    """Nobody reads it until the lab asks something, and then there is no end to the answer."""
    ours, theirs = socket.socketpair()

    def flood() -> None:
        with contextlib.suppress(OSError):
            while True:
                theirs.sendall(PIECES[name])

    thread = threading.Thread(target=flood)
    thread.start()
    rescue = RescueShell(ours, tmp_path / "rescue.log")
    with pytest.raises(MachineError, match="does not answer: its port is flooded"):
        rescue.run("ps", Deadline.after(60, "an answer"))
    rescue.close()
    thread.join()
    theirs.close()
    assert peak.grown < 32 * MIB
    assert (tmp_path / "rescue.log").stat().st_size <= MAX_RESCUE_BYTES
