"""The wall around QEMU: namespaces that bubblewrap makes, and the ways that lead through them.

Within it QEMU sees its own program, libraries and firmware, can write nowhere, and has a network
with nobody in it. The lab reaches a guest's port by entering that network for one connection
(``enter.py``); there is no way in the other direction.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import resource
import select
import signal
import socket
import sys
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from orchestrator.adapters import enter
from orchestrator.adapters.box import HINT, TOOL, is_bwraps, refused
from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import HostError, MachineError
from orchestrator.plan.walls import NOBODY, Shown, render_walls, show

PROBE_SECONDS = 30.0
START_SECONDS = 30.0
END_SECONDS = 30.0  # a large guest on a busy host
CONNECT_SECONDS = 30.0
MAX_LINKS = 40
# Threads of one QEMU. It has one for each of its guest's processors, and up to 64 for disks.
MAX_TASKS = 512
NS_GET_USERNS = 0xB701  # the user namespace that another namespace belongs to, ioctl_ns(2)
LOADER_CACHE = "/etc/ld.so.cache"


@dataclass(frozen=True)
class Wall:
    """What bubblewrap is told on this host; made by ``find_wall``."""

    tool: str
    shown: Shown
    seals: bool = True
    """Whether no further user namespace can be made within."""
    user: bool = True
    """Whether there is a user namespace, too."""

    def render(
        self, *, identity: Sequence[str] = (), kvm: bool = False, info: int | None = None
    ) -> tuple[str, ...]:
        """The prefix of a command that is to be walled in, as whom ``identity`` makes of us."""
        return render_walls(
            *(self.tool, self.shown),
            identity=identity,
            kvm=kvm,
            info=info,
            user=self.user,
            seals=self.seals,
        )

    @property
    def namespaces(self) -> str:
        """Which there are, in words."""
        return f"{'user, ' if self.user else ''}mount, process, IPC, UTS and network namespaces"


_found: dict[tuple[object, ...], Wall | HostError] = {}
_finding = threading.Lock()


def find_wall(program: str) -> Wall:
    """The wall for a QEMU; what was found out holds as long as the lab's process lives.

    Raises ``HostError`` where there can be none: without bubblewrap, where this machine refuses
    namespaces, or where ``program`` is no plain executable whose libraries can be told.
    """
    path = os.path.realpath(program)
    try:
        tool = process.find_tool(TOOL, hint=HINT)
        key = (path, os.stat(path).st_mtime_ns, tool, os.geteuid())
    except OSError as error:
        raise HostError(f"{program}: {error.strerror}") from error
    with _finding:
        if key not in _found:
            try:
                _found[key] = _find(program, tool)
            except HostError as error:
                _found[key] = error
        found = _found[key]
    if isinstance(found, HostError):
        # A new one: an exception gathers what happens to it.
        raise HostError(found.message, hint=found.hint) from found
    return found


def _find(program: str, tool: str) -> Wall:
    _check_pidfd()
    _check_program(program)
    files = [program, *_libraries(program)]
    files += [LOADER_CACHE] if os.path.exists(LOADER_CACHE) else []
    wall = Wall(tool, _show(files, ()))
    done = _probe(wall, program)
    if done.status != 0 and b"disable-userns" in done.stderr:
        wall = replace(wall, seals=False)
        done = _probe(wall, program)
    if done.status != 0 and os.geteuid() == 0:
        # Where user namespaces are closed, root needs none.
        files.append(process.find_tool("setpriv"))
        files += _libraries(files[-1])
        without = Wall(tool, _show(files, ()), user=False)
        again = _probe(without, program)
        wall, done = (without, again) if again.status == 0 else (wall, done)
    if done.status != 0:
        if is_bwraps(done.stderr):
            raise refused(done)
        said = done.last_lines()[-300:] or f"status {done.status}"
        raise HostError(f"{program} does not run within walls: {said}")
    folders = done.stdout.decode(errors="replace").splitlines()
    return replace(wall, shown=_show(files, filter(os.path.isdir, folders)))


def _check_pidfd() -> None:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        raise HostError(
            f"this kernel has no pidfds: {error.strerror}", hint="Linux 5.3 and later have them"
        ) from error


def _check_program(program: str) -> None:
    try:
        with open(program, "rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise HostError(f"{program}: {error.strerror}") from error
    if magic != b"\x7fELF":
        raise HostError(
            f"{program} is a script, and what it starts cannot be walled in",
            hint="put the QEMU that it starts first in PATH",
        )


def _libraries(program: str) -> list[str]:
    """What the program loads at its start, as its own loader lists it (ld.so(8))."""
    # For this program alone, and not for what starts it.
    argv = (process.find_tool("env"), "LD_TRACE_LOADED_OBJECTS=1", program, "--version")
    done = process.run(argv, deadline=Deadline.after(PROBE_SECONDS, "listing QEMU's libraries"))
    text = done.stdout.decode(errors="surrogateescape")
    return re.findall(r"^\t(?:\S+ => )?(/\S+) \(0x", text, re.MULTILINE)


def _show(files: Iterable[str], folders: Iterable[str]) -> Shown:
    links: dict[str, str] = {}
    return show(
        [_follow(path, links) for path in files],
        [_follow(path, links) for path in folders],
        links,
    )


def _follow(path: str, links: dict[str, str]) -> str:
    """Where a path leads without links; those that were on the way go to ``links``."""
    here, parts, left = "/", path.split("/"), MAX_LINKS
    while parts:
        part = parts.pop(0)
        if part in ("", "."):
            continue
        step = os.path.dirname(here) if part == ".." else os.path.join(here, part)
        if not os.path.islink(step):
            here = step
            continue
        left -= 1
        if not left:
            raise HostError(f"{path}: too many symbolic links")
        links[step] = to = os.readlink(step)
        here = "/" if to.startswith("/") else here
        parts = to.split("/") + parts
    return here


def _probe(wall: Wall, program: str) -> process.Completed:
    """QEMU's answer, from within, to where its firmware is."""
    identity = unprivileged(within=not wall.user)
    argv = (*wall.render(identity=identity), program, "-L", "help")
    return process.run(argv, deadline=Deadline.after(PROBE_SECONDS, "QEMU's first walls"))


def unprivileged(group: int | None = None, *, within: bool = False) -> tuple[str, ...]:
    """A prefix that makes root nobody, with one ``group`` beside; nothing for other users.

    ``within`` says that it comes behind the walls.
    """
    if os.geteuid() != 0:
        return ()
    groups = "--clear-groups" if group is None else f"--groups={group}"
    return (
        *(process.find_tool("setpriv"), "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"),
        *(f"--reuid={NOBODY}", f"--regid={NOBODY}", groups, "--"),
        *process.dying_with_parent(within=within),
    )


class Inside:
    """The process that runs within the wall, as the lab sees it."""

    def __init__(self) -> None:
        self._told, self.info = os.pipe()
        self._open = {self._told, self.info}
        self._pid = 0
        self._pidfd: int | None = None

    def find(self, outer: process.Child, walled: Wall) -> None:
        """Wait for bubblewrap to say which process it is; quietly not where it starts none."""
        self._close(self.info)
        pid = _read_pid(self._told, Deadline.after(START_SECONDS, "bubblewrap's start"))
        if pid is None:
            return
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(pid)
            self._open.add(pidfd)
            # The id is nobody else's as long as this, or what it started, has to collect it.
            if _descends(pid, outer.pid):
                self._pid, self._pidfd = pid, pidfd
                if walled.user:
                    _limit_tasks(pid)

    def end(self, outer: process.Child) -> None:
        """Kill it, and wait until all that it held is given up."""
        if self._pidfd is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        end = select.poll()
        end.register(self._pidfd, select.POLLIN)
        end.poll(END_SECONDS * 1000)
        self._pidfd = None
        # It is bubblewrap that collects it.
        outer.wait(Deadline.after(END_SECONDS, "bubblewrap's end"))

    def close(self) -> None:
        """Close what this holds."""
        self._pidfd = None
        for fd in tuple(self._open):
            self._close(fd)

    def _close(self, fd: int) -> None:
        self._open.remove(fd)
        os.close(fd)

    def connect(self, port: int, seconds: float) -> socket.socket:
        """A connection to ``port`` on 127.0.0.1 of the network within. Raises ``OSError``."""
        with contextlib.ExitStack() as stack:
            network, user = self._open_namespaces(stack)
            ours, theirs = socket.socketpair()
            stack.callback(ours.close)
            stack.callback(theirs.close)
            numbers = (user, network, theirs.fileno())
            argv = (sys.executable, "-I", "-S", enter.__file__, *map(str, numbers), str(port))
            deadline = Deadline.after(min(seconds, CONNECT_SECONDS), "a connection")
            try:
                done = process.run(argv, deadline=deadline, pass_fds=numbers)
            except HostError as error:
                raise TimeoutError(error.message) from error
            if done.status != 0:
                raise ConnectionRefusedError(done.last_lines().rpartition("\n")[2])
            _, fds, _, _ = socket.recv_fds(ours, 1, 1)
            connection = socket.socket(fileno=fds[0])
            connection.settimeout(seconds)
            return connection

    def _open_namespaces(self, stack: contextlib.ExitStack) -> tuple[int, int]:
        """Its network namespace, and the user namespace that this belongs to."""
        if self._pidfd is None:
            raise ConnectionRefusedError("QEMU is gone")
        network = os.open(f"/proc/{self._pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, network)
        signal.pidfd_send_signal(self._pidfd, 0)  # it was still this process, and no other
        if os.fstat(network).st_ino == os.stat("/proc/self/ns/net").st_ino:
            raise MachineError("QEMU has no network namespace of its own")
        user = fcntl.ioctl(network, NS_GET_USERNS)
        stack.callback(os.close, user)
        return network, user


def _read_pid(fd: int, deadline: Deadline) -> int | None:
    """The process id that bubblewrap writes, as JSON; None where it ends without."""
    text = b""
    ready = select.poll()
    ready.register(fd, select.POLLIN)
    while not deadline.passed:
        process.check_stopping()
        if not ready.poll(deadline.within(0.5) * 1000):
            continue
        data = os.read(fd, 4096)
        if not data:
            return None
        text += data
        with contextlib.suppress(ValueError, KeyError):
            return int(json.loads(text)["child-pid"])
    return None


def _limit_tasks(pid: int) -> None:
    """Bound how many threads and processes there are in its user namespace.

    Before Linux 5.14 (21d1c5e386bc, "Reimplement RLIMIT_NPROC on top of ucounts") those of the
    same user everywhere are counted too; there it has no bound. Nor where the lab is root without
    CAP_SYS_RESOURCE, as in many containers: limits of nobody's processes are not root's to set.
    """
    if kernel_version() >= (5, 14):
        with contextlib.suppress(PermissionError):
            resource.prlimit(pid, resource.RLIMIT_NPROC, (MAX_TASKS, MAX_TASKS))


def kernel_version() -> tuple[int, ...]:
    """Major and minor number of this machine's kernel."""
    return tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))


def _descends(pid: int, ancestor: int) -> bool:
    while pid > 1 and pid != ancestor:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            pid = int(file.read().rpartition(")")[2].split()[1])
    return pid == ancestor
