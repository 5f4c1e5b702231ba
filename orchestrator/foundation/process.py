"""The one module that starts processes.

Every child gets a session of its own, so that a signal to the lab's terminal does
not reach it unasked, and dies with the lab, whatever kills the lab. Every wait has a
deadline. After ``stop_all`` no child is left and none can be started: that is how a
Ctrl-C ends every thread at once, whatever it waits for.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import HostError, RunInterruptedError

# More than any tool prints that we read to the end; the rest goes to log files.
MAX_CAPTURED = 64 << 20
GRACE_SECONDS = 2.0
WATCH_SECONDS = 1.0
SHELL = "/bin/sh"


@dataclass(frozen=True)
class Completed:
    """A process that has ended: status (negative for a signal), and what it printed."""

    argv: tuple[str, ...]
    status: int
    stdout: bytes
    stderr: bytes

    def last_lines(self) -> str:
        """The end of what it printed, standard error after standard output."""
        text = (self.stdout + b"\n" + self.stderr).decode(errors="backslashreplace")
        return "\n".join(line for line in text.splitlines() if line.strip()).strip()[-4000:]


class Child:
    """A running process in a session of its own."""

    def __init__(self, argv: tuple[str, ...], popen: subprocess.Popen[bytes]) -> None:
        self.argv = argv
        self.pid = popen.pid
        self._popen = popen

    @property
    def status(self) -> int | None:
        """The exit status (negative for a signal), None while it runs."""
        return self._popen.poll()

    def wait(self, deadline: Deadline) -> int | None:
        """Block until it ends; its status, or None if the deadline passed first."""
        while not self._ends_within(deadline.within(WATCH_SECONDS)):
            if deadline.passed:
                return None
        return self.status

    def _ends_within(self, seconds: float) -> bool:
        """Block until it ends, but no longer than that; whether it has.

        It wakes at once, where ``Popen.wait`` looks every 50 ms.
        """
        if self.status is None:
            with contextlib.suppress(OSError):  # before Linux 5.3, gVisor
                pidfd = os.pidfd_open(self.pid)
                try:
                    end = select.poll()
                    end.register(pidfd, select.POLLIN)
                    end.poll(seconds * 1000)
                finally:
                    os.close(pidfd)
                return self.status is not None
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(timeout=seconds)
        return self.status is not None

    def communicate(
        self, deadline: Deadline, watch: Callable[[], None] | None
    ) -> tuple[bytes, bytes]:
        """Block until it ends; what it printed, where that was to be kept.

        What it leaves running may hold its output open; that is not waited for.
        """
        ended = False
        while True:
            seconds = deadline.within(WATCH_SECONDS)
            if self._popen.stdout is None and self._popen.stderr is None:
                self._ends_within(seconds)
                seconds = 0.0
            try:
                out, err = self._popen.communicate(timeout=seconds)
            except subprocess.TimeoutExpired as late:
                check_stopping()
                if ended:  # and all that it had printed until then has been taken since
                    return late.stdout or b"", late.stderr or b""
                if deadline.passed:
                    raise HostError(
                        f"{self.argv[0]} did not end by its deadline: {deadline}"
                    ) from None
                ended = self.status is not None
                if watch is not None:
                    watch()
            else:
                return out or b"", err or b""

    def kill(self) -> None:
        """End it and everything in its session, and collect it. Safe to call twice."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()
        _children.discard(self)

    def close_pipes(self) -> None:
        """Read no more of what it prints; for the thread alone that reads it."""
        for pipe in (self._popen.stdout, self._popen.stderr):
            if pipe is not None:
                pipe.close()

    def terminate(self) -> None:
        """Ask it to end, and force it after a short grace."""
        if self.status is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(timeout=GRACE_SECONDS)
        self.kill()


class _Spawner:
    """A thread that lives as long as the process and starts every child.

    ``PR_SET_PDEATHSIG`` fires when the *thread* that started the child ends
    (prctl(2)); a child of a worker thread would die with the worker.
    """

    def __init__(self) -> None:
        self._requests: queue.SimpleQueue[tuple[Callable[[], object], queue.SimpleQueue[object]]]
        self._requests = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def popen(self, start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._serve, name="spawner", daemon=True)
                self._thread.start()
        answer: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._requests.put((start, answer))
        result = answer.get()
        if isinstance(result, BaseException):
            raise result
        assert isinstance(result, subprocess.Popen)
        return result

    def _serve(self) -> None:
        while True:
            start, answer = self._requests.get()
            try:
                answer.put(start())
            except BaseException as error:  # handed to the caller, whatever it is
                answer.put(error)


class _Guard:
    """A process that outlives a lab that is killed, for the moment that it takes to kill a child
    with all of its group.

    The death signal alone is not enough. A child tells the kernel of it when it runs, and what it
    starts does so later: bubblewrap's child when all of its mounts are made, and until its parent
    has told it to go on it waits for that, for ever if need be. Who is killed as a group is
    killed in one go, whatever it was at. The guard waits for the lab's end of a pipe to close.
    """

    _SCRIPT = 'read -r group || exit; read -r _ || kill -s KILL -- "-$group"'

    def __init__(self, *, wanted: bool) -> None:
        self._popen: subprocess.Popen[bytes] | None = None
        if wanted:
            # Before the child: between that one's start and `watch` there is next to nothing.
            self._popen = _spawner.popen(self._start)

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            (SHELL, "-c", self._SCRIPT),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def watch(self, child: Child) -> None:
        """Kill its group when the lab has ended."""
        self._tell(f"{child.pid}\n")

    def close(self) -> None:
        """The child has ended and was collected: its number may be another's any time."""
        self._tell("end\n")
        if self._popen is not None:
            assert self._popen.stdin is not None
            self._popen.stdin.close()
            self._popen.wait()

    def _tell(self, line: str) -> None:
        if self._popen is not None:
            assert self._popen.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self._popen.stdin.write(line.encode())
                self._popen.stdin.flush()


class _Children:
    """The children that run now, and whether new ones are allowed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[Child] = set()
        self._stopped = False

    def start(self, argv: tuple[str, ...], popen: Callable[[], subprocess.Popen[bytes]]) -> Child:
        with self._lock:
            if self._stopped:
                raise RunInterruptedError()
            child = Child(argv, _spawner.popen(popen))
            self._running.add(child)
            return child

    def discard(self, child: Child) -> None:
        with self._lock:
            self._running.discard(child)

    def stop_all(self) -> None:
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for child in running:
            child.terminate()

    @property
    def stopped(self) -> bool:
        return self._stopped

    def allow(self) -> None:
        with self._lock:
            self._stopped = False


_spawner = _Spawner()
_children = _Children()


def stop_all() -> None:
    """End every child, and refuse new ones with ``RunInterruptedError`` from now on."""
    _children.stop_all()


def stopping() -> bool:
    """Whether ``stop_all`` was called."""
    return _children.stopped


def allow_again() -> None:
    """Undo ``stop_all``, for a process that goes on after an interrupted run: `lab watch`, tests.

    No thread of that run may be left.
    """
    _children.allow()


def check_stopping() -> None:
    """Raise ``RunInterruptedError`` if the run is being ended; for waits without a child."""
    if _children.stopped:
        raise RunInterruptedError()


def find_tool(name: str, *, hint: str = "") -> str:
    """The absolute path of an executable; ``HostError`` if the host has none.

    ``/sbin`` directories are searched too: an ordinary user's PATH lacks them on Debian.
    """
    found = shutil.which(name, path=_search_path())
    if found is None:
        raise HostError(
            f"this machine has no {name!r}",
            hint=hint or "`lab doctor` names the package; `make setup` installs it",
        )
    return found


def _search_path() -> str:
    """Where tools are; no empty part, which would stand for the current folder."""
    given = [part for part in os.environ.get("PATH", os.defpath).split(":") if part]
    return ":".join((*given, "/usr/local/sbin", "/usr/sbin", "/sbin"))


def dying_with_parent(*, within: bool = False) -> tuple[str, ...]:
    """A prefix that makes the kernel end a command when the lab ends.

    ``start`` and ``run`` put it before every command. One that changes its user id on the
    way loses it (``commit_creds`` in the kernel clears the signal) and needs it again. It is for
    the lab's own child, and ends it where the lab had ended before the kernel was told; ``within``
    a PID namespace nobody sees that.
    """
    told = (find_tool("setpriv"), "--pdeathsig", "KILL", "--")
    if within:
        return told
    return (*told, SHELL, "-c", '[ "$PPID" = "$0" ] && exec "$@"', str(os.getpid()))


def contained() -> tuple[str, ...]:
    """A prefix for a tool with children of its own: all of them die with the tool.

    A PID namespace does that, and only root may make one without a user namespace (which
    mmdebstrap then makes itself).
    """
    if os.geteuid() != 0:
        return ()
    return (find_tool("unshare"), "--fork", "--pid", "--kill-child", "--mount-proc", "--")


def _tool_environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    env = dict(os.environ)
    env["LC_ALL"] = "C.UTF-8"
    env["PATH"] = _search_path()
    env.update(extra or {})
    return env


@contextlib.contextmanager
def start(
    argv: Sequence[str],
    *,
    output: IO[bytes] | int | None = None,
    talk: tuple[int, int] | None = None,
    pass_fds: Sequence[int] = (),
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    guarded: bool = False,
) -> Iterator[Child]:
    """A child that runs while the context is open, and is gone, with its session, after it.

    Standard input is empty; standard output and error go to ``output`` (discarded if
    None). With ``talk`` they do not: these descriptors are standard input and output then, and
    standard error alone goes to ``output``. ``guarded`` is for what has children of its own that
    are not sure to end with it. Raises ``HostError`` if it cannot be started,
    ``RunInterruptedError`` after ``stop_all``.
    """
    full = (*dying_with_parent(), *argv)
    sink = subprocess.DEVNULL if output is None else output
    stdin, stdout = (subprocess.DEVNULL, sink) if talk is None else talk

    def popen() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            full,
            stdin=stdin,
            stdout=stdout,
            stderr=sink,
            pass_fds=tuple(pass_fds),
            cwd=cwd,
            env=_tool_environment(env),
            start_new_session=True,
        )

    child, guard = _start(argv, popen, guarded=guarded)
    try:
        yield child
    finally:
        child.terminate()
        guard.close()


def _start(
    argv: Sequence[str], popen: Callable[[], subprocess.Popen[bytes]], *, guarded: bool
) -> tuple[Child, _Guard]:
    guard = _Guard(wanted=guarded)
    try:
        child = _children.start(tuple(argv), popen)
    except OSError as error:
        guard.close()
        raise HostError(f"cannot start {argv[0]}: {error.strerror}") from error
    except BaseException:
        guard.close()
        raise
    guard.watch(child)
    return child, guard


def run(
    argv: Sequence[str],
    *,
    deadline: Deadline,
    stdin_path: Path | None = None,
    stdout_path: Path | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    watch: Callable[[], None] | None = None,
    pass_fds: Sequence[int] = (),
    guarded: bool = False,
) -> Completed:
    """Run a tool to its end and return what it gave, whatever its status.

    Blocks at most until ``deadline``: then the tool and its session are killed and
    ``HostError`` says so. ``watch`` is called every second; what it raises ends the tool
    in the same way. With ``stdout_path`` standard output goes there. ``guarded`` is as for
    ``start``. Raises
    ``RunInterruptedError`` if the run is being ended.
    """
    full = (*dying_with_parent(), *argv)
    with contextlib.ExitStack() as files:
        stdin = files.enter_context(stdin_path.open("rb")) if stdin_path else subprocess.DEVNULL
        stdout = files.enter_context(stdout_path.open("wb")) if stdout_path else subprocess.PIPE

        def popen() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                full,
                stdin=stdin,
                stdout=stdout,
                stderr=subprocess.PIPE,
                pass_fds=tuple(pass_fds),
                cwd=cwd,
                env=_tool_environment(env),
                start_new_session=True,
            )

        child, guard = _start(argv, popen, guarded=guarded)
        try:
            out, err = child.communicate(deadline, watch)
        finally:
            child.kill()
            child.close_pipes()
            guard.close()
    check_stopping()
    return Completed(tuple(argv), child.status or 0, out[:MAX_CAPTURED], err[:MAX_CAPTURED])


def run_on_terminal(argv: Sequence[str]) -> int:
    """Run a tool that has the lab's own terminal, to its end; its status, negative for a signal.

    Ctrl-C is the tool's alone meanwhile; only the main thread can have it so. The tool ends with
    the lab. Raises ``HostError`` if it cannot be started, ``RunInterruptedError`` if the run is
    being ended.
    """
    full = (*dying_with_parent(), *argv)
    check_stopping()
    # Not SIG_IGN: the tool would inherit that.
    before = signal.signal(signal.SIGINT, lambda _number, _frame: None)
    try:
        child = _spawner.popen(lambda: subprocess.Popen(full, env=_tool_environment(None)))
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return child.wait(timeout=WATCH_SECONDS)
                check_stopping()
        finally:
            if child.poll() is None:
                child.kill()
            child.wait()
    except OSError as error:
        raise HostError(f"cannot start {argv[0]}: {error.strerror}") from error
    finally:
        signal.signal(signal.SIGINT, before)
