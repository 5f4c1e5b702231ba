"""``lab shell``: a prepared guest, entered; gone when the shell is left."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import tempfile
import termios
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from orchestrator.adapters.cache import Cache
from orchestrator.adapters.ssh import SshShell
from orchestrator.doors.doctor import require_host
from orchestrator.foundation.errors import EXIT_PASSED, UsageError
from orchestrator.plan.model import Lab
from orchestrator.plan.paths import RunDir
from orchestrator.plan.plan import KernelPlan
from orchestrator.plan.visible import visible
from orchestrator.policy.building import Built
from orchestrator.policy.events import Doing, Event, Note
from orchestrator.policy.guest import Guest, GuestPlan
from orchestrator.policy.worker import guest_spec, open_workshop, prepare


class _Channel(Protocol):
    """The guest's end of the terminal."""

    def fileno(self) -> int: ...
    def recv(self, size: int, /) -> bytes: ...
    def sendall(self, data: bytes, /) -> None: ...
    def resize_pty(self, width: int = ..., height: int = ...) -> None: ...


def enter(lab: Lab, plan: KernelPlan, cache: Cache) -> int:
    """Boot a guest of this kernel, build the lab's modules in it, and give the user a shell.

    Blocks until the shell is left. Raises ``UsageError`` without a terminal.
    """
    if not sys.stdin.isatty():
        raise UsageError("lab shell needs a terminal", hint="for scripts there is `lab run`")
    require_host()
    ready = prepare(lab, plan, cache, _say)
    with tempfile.TemporaryDirectory(prefix="lab-shell-") as folder:
        guest_plan = GuestPlan(
            kernel=plan.name,
            release=ready.kernel.release,
            spec=guest_spec(lab, ready),
            files=ready.files,
            timeouts=lab.file.timeouts,
            run_dir=RunDir(Path(folder)),
        )
        workshop = open_workshop(lab, ready, guest_plan, cache, _say)
        built = workshop.build_without_guest()
        _say(Doing(plan.name, "booting"))
        with Guest(guest_plan, built.modules if built else {}) as guest:
            if built is not None:
                workshop.send_sources(guest)
            else:
                built = workshop.build_in(guest)
                guest.push_modules(built.modules)
            _tell(plan.name, built)
            _attach(guest.machine.shell)
    return EXIT_PASSED


def _say(event: Event) -> None:
    if isinstance(event, Doing):
        print(f"{event.kernel}: {event.what}", file=sys.stderr)
    elif isinstance(event, Note):
        print(f"{event.kernel}: {visible(event.text)}", file=sys.stderr)


def _tell(kernel: str, built: Built) -> None:
    for failure in built.errors.values():
        _say(Note(kernel, failure.message))
    names = " ".join(f"/lab/modules/{name}.ko" for name in built.modules) or "none"
    print(f"modules: {names}\r\nsources: /lab/src\r\nleave with exit or ^D", file=sys.stderr)


def _attach(shell: SshShell) -> None:
    size = shutil.get_terminal_size()
    kind = os.environ.get("TERM", "xterm")
    channel: _Channel = shell.open_terminal(kind, size.columns, size.lines)
    with _raw_terminal(), _resizing(channel):
        _copy(channel)


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _resizing(channel: _Channel) -> Iterator[None]:
    def resize(_number: int, _frame: object) -> None:
        size = shutil.get_terminal_size()
        channel.resize_pty(width=size.columns, height=size.lines)

    before = signal.signal(signal.SIGWINCH, resize)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)


def _copy(channel: _Channel) -> None:
    """Terminal to guest and back, until either side ends."""
    stdin, stdout = sys.stdin.fileno(), sys.stdout.fileno()
    while True:
        readable, _, _ = select.select([channel, stdin], [], [])
        if channel in readable:
            data = channel.recv(65536)
            if not data:
                return
            os.write(stdout, data)
        if stdin in readable:
            typed = os.read(stdin, 65536)
            if not typed:
                return
            channel.sendall(typed)
