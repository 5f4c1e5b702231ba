"""A running guest: QEMU started with everything handed to it, watched until it is gone."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import resource
import secrets
import socket
import stat
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from orchestrator.adapters.console import (
    MAX_LOG_BYTES,
    Console,
    KernelLog,
    RescueShell,
    open_line,
)
from orchestrator.adapters.initramfs import render_secrets
from orchestrator.adapters.qmp import Qmp
from orchestrator.adapters.relay import open_relay
from orchestrator.adapters.ssh import (
    KeyPair,
    SshShell,
    SshStream,
    connect,
    connect_over,
    dial_host,
    generate_key_pair,
    is_answering,
    resume_shell,
)
from orchestrator.adapters.sshstate import SshState
from orchestrator.adapters.wall import Inside, Wall, find_wall, unprivileged
from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import (
    BootError,
    ConnectionLostError,
    GuestDiedError,
    GuestPanickedError,
    HostError,
    LabError,
    LaunchError,
    MachineError,
    RunInterruptedError,
    ShellError,
)
from orchestrator.plan.bootfailure import (
    BootSight,
    Processor,
    explain_boot,
    has_kernel_spoken,
    parse_processor,
)
from orchestrator.plan.klog import Marker
from orchestrator.plan.qemu import DIALLED, Disk, GuestFds, GuestSpec, Memory, render_qemu_argv
from orchestrator.plan.walls import KVM, own_limits

QEMU = "qemu-system-x86_64"
QEMU_OWN_MIB = 4096  # what QEMU maps beside the guest's memory: code cache, stacks, libraries
MAX_FILE_BYTES = 64 << 20
MAX_FILES = 1024
LAUNCH_SECONDS = 30.0
REAP_SECONDS = 5.0
# Between a QEMU that does not talk any more and the end of its console.
END_SECONDS = 0.5
# Between a break and the letter of SysRq, try after try. A busy guest takes a while to see the
# break, and the kernel waits for the letter for five seconds of its own, which were half a second
# where a busy host had it measure its clock at a tenth of the speed.
BREAK_SECONDS = (0.5, 0.1, 2.0)
ANSWER_SECONDS = 3.0
SYSRQ_SECONDS = 3.0
RESCUE_SECONDS = 20.0
# Which part of the time that a boot may take its kernel may be silent. Now and then one stands
# still for ever where guests are emulated (6.1, one boot in some hundreds, mid-way), and the sooner
# another is started the better.
STILL_PART = 1 / 3
STILL_SECONDS = 5.0
# How often a boot is looked at from outside, and how long one question may take.
LOOK_SECONDS = 2.0
ASK_SECONDS = 5.0
# A server of its own for a connection that the guest makes.
CALL = (
    "PATH=$PATH:/usr/sbin; "
    f"/usr/local/bin/sysio --call {' '.join(map(str, DIALLED))} "
    "dropbear -i -s -j -k -r /lab/host_key </dev/null >/dev/null 2>&1 &"
)
REST_SECONDS = 0.02
RESCUE_LOOK = "ps; /lab/bin/busybox ip addr; /lab/bin/busybox netstat -ltn; df"
# Emulated guests are this much slower, at the least, than the deadlines in lab.yaml assume.
TCG_SLOWNESS = 5.0


@dataclass(frozen=True)
class BootFiles:
    """What a guest boots from; all of it shared and never written."""

    kernel_path: Path
    initramfs_path: Path
    image_path: Path | None = None
    layer_path: Path | None = None


def time_scale(spec: GuestSpec) -> float:
    """By how much deadlines grow with this accelerator."""
    return 1.0 if spec.accelerator == "kvm" else TCG_SLOWNESS


@dataclass(frozen=True)
class Frozen:
    """A guest that stands still, to go on from there any number of times."""

    spec: GuestSpec
    files: BootFiles
    nonce: str
    initrd: bytes = field(repr=False)
    """What is handed to QEMU has to be the same again."""
    memory: int
    """The file with its memory."""
    state: bytes = field(repr=False)
    """Its devices' state, as QEMU writes it."""
    ssh: SshState | None = None
    """The lab's end of the connection that it holds open."""


class Machine:
    """A guest that runs. Made by ``start_machine``; used from one thread."""

    def __init__(
        self,
        *,
        spec: GuestSpec,
        nonce: str,
        child: process.Child,
        console: Console,
        qmp: Qmp,
        rescue: RescueShell,
        line: socket.socket,
        output_path: Path,
        origin: Frozen | None = None,
        state: int | None = None,
        inside: Inside | None = None,
    ) -> None:
        self._stack = contextlib.ExitStack()
        self._inside = inside
        self._port: int | None = None
        self._line = line
        self._origin = origin
        self._state = state
        self.spec = spec
        self.argv = child.argv
        self._nonce = nonce
        self._child = child
        self._console = console
        self._qmp = qmp
        self._rescue = rescue
        self._output_path = output_path
        self._shell: SshShell | None = None
        self._processor = Processor.UNKNOWN
        self._answers_ssh = False

    @property
    def log(self) -> KernelLog:
        """The kernel log of this boot."""
        return self._console.log

    @property
    def shell(self) -> SshShell:
        """The guest's shell, once ``wait_for_boot`` has returned."""
        assert self._shell is not None, "the guest has not booted"
        return self._shell

    @property
    def alive(self) -> bool:
        """Whether QEMU runs and the guest's kernel has not panicked."""
        return self._child.status is None and self.log.panic is None and not self.log.ended

    def check_alive(self) -> None:
        """Raise ``GuestPanickedError`` or ``GuestDiedError`` if the guest is gone, saying how."""
        process.check_stopping()
        if self.log.panic is not None:
            raise GuestPanickedError(f"the guest's kernel panicked: {self.log.panic}")
        if self.log.ended or self._child.status is not None:
            # The console closes a moment before the process has a status.
            status = self._child.wait(Deadline.after(REAP_SECONDS, "QEMU to end"))
            process.check_stopping()
            how = self._how_it_ended()
            raise GuestDiedError(f"the guest is gone: {how}", by_itself=status == 0)

    def _check_soon(self) -> None:
        """``check_alive``, after a moment for the news of its end to come."""
        self.log.wait_for_end(Deadline.after(END_SECONDS, "the console's end"))
        self.check_alive()

    def wait_for_boot(self, deadline: Deadline, user_key: KeyPair, host_key: KeyPair) -> None:
        """Block until the guest takes commands over SSH.

        Raises ``LaunchError``, ``BootError``, ``GuestPanickedError``, ``GuestDiedError`` or
        ``ConnectError``, each with how far the boot got, what to do, and the last lines of the
        console; a kernel that dies or stands still is noticed at once.
        """
        try:
            self._wait_for_boot(deadline, user_key, host_key)
        except RunInterruptedError:
            raise
        except LabError as error:
            self._explain(error)
            raise

    def _wait_for_boot(self, deadline: Deadline, user_key: KeyPair, host_key: KeyPair) -> None:
        self.greet()
        self.wait_for_stage("ready", deadline)
        self._connect(deadline, user_key, host_key)

    def wait_for_thaw(
        self, deadline: Deadline, user_key: KeyPair, host_key: KeyPair
    ) -> SshStream | None:
        """Block until a guest that ``start_fork`` made goes on and takes commands over SSH.

        The stream that was open when it was frozen, if there was one; whether the guest still
        answers there shows when it is used. Raises like ``wait_for_boot``, and ``MachineError``
        where QEMU cannot restore it.
        """
        assert self._origin is not None, "it was not made by start_fork"
        self.thaw(deadline)
        if self._origin.ssh is None:
            self._connect(deadline, user_key, host_key)
            return None
        self._shell, stream = resume_shell(self._line, self._origin.ssh)
        return stream

    def thaw(self, deadline: Deadline) -> None:
        """Block until QEMU says that a guest that ``start_fork`` made goes on; nothing is asked
        of the guest. Raises ``LaunchError``, ``MachineError`` where QEMU cannot restore it.
        """
        assert self._state is not None, "it was not made by start_fork"
        self.greet()
        try:
            self._qmp.thaw(self._state, deadline)
        except MachineError:
            self._check_soon()
            raise

    def have_it_call(self, deadline: Deadline, user_key: KeyPair, host_key: KeyPair) -> None:
        """Have a guest that is up connect to the lab, and talk to it over that connection alone.

        It survives ``freeze``. Raises ``ShellError``.
        """
        self.shell.run(CALL, deadline)
        called = connect_over(self._line, user_key, host_key, deadline)
        self.shell.close()
        self._shell = called

    def freeze(self, deadline: Deadline, stream: SshStream | None = None) -> Frozen:
        """Stop the guest for good; what ``start_fork`` takes, once this machine's context ended.

        It has to have a memory of its own (``start_machine``'s ``memory``). ``stream`` survives,
        if it is the only one and on a connection that ``have_it_call`` made; no other does.
        Raises ``MachineError`` where QEMU cannot do it, ``ShellError`` where the stream is not
        at rest.
        """
        assert self._origin is not None, "it was started with a memory of its own"
        if stream is None:
            self.close()
        with _memory_file("state") as state:
            self._qmp.freeze(state, deadline)
            os.lseek(state, 0, os.SEEK_SET)
            with os.fdopen(os.dup(state), "rb") as file:
                frozen = replace(self._origin, state=file.read(), ssh=None)
        if stream is None:
            return frozen
        self._wait_for_rest(deadline)
        return replace(frozen, ssh=self.shell.capture(stream))

    def _wait_for_rest(self, deadline: Deadline) -> None:
        """Wait until all that the guest sent has been taken; raises where it has not taken all."""
        if _bytes_left(self._line, termios.TIOCOUTQ):
            raise ConnectionLostError("the guest was frozen before it took all that was sent")
        while _bytes_left(self._line, termios.FIONREAD) and not deadline.passed:
            time.sleep(REST_SECONDS)
        time.sleep(REST_SECONDS)  # for paramiko's thread, to be through with the last of it

    def ssh_port(self) -> int:
        """Where the guest's SSH is on 127.0.0.1, for any program of this machine, until the guest
        is closed. Raises ``MachineError``.
        """
        if self._port is None:
            port = self._forwarded_port()
            if self._inside is not None:
                dial = partial(self._inside.connect, port, LAUNCH_SECONDS)
                port = self._stack.enter_context(open_relay(dial))
            self._port = port
        return self._port

    def _forwarded_port(self) -> int:
        """The same, in QEMU's own network."""
        deadline = Deadline.after(LAUNCH_SECONDS, "asking QEMU for its port")
        return self._qmp.forwarded_port(deadline)

    def serve_gdb(self, path: Path) -> None:
        """Let gdb in by a Unix socket that is made at ``path``; who reaches its folder may.

        Raises ``MachineError``, ``HostError`` where there can be no socket.
        """
        deadline = Deadline.after(LAUNCH_SECONDS, "asking QEMU to wait for a debugger")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            try:
                listener.bind(str(path))
                listener.listen(1)
            except OSError as error:
                raise HostError(
                    f"there can be no socket at {path}: {error.strerror or error}",
                    hint="TMPDIR=/tmp has temporary files where names are short",
                ) from error
            self._qmp.serve_gdb(listener.fileno(), deadline)

    def _dial(self, port: int, seconds: float) -> socket.socket:
        return (dial_host if self._inside is None else self._inside.connect)(port, seconds)

    def _connect(self, deadline: Deadline, user_key: KeyPair, host_key: KeyPair) -> None:
        try:
            self._shell = connect(
                *(self._forwarded_port(), user_key, host_key, deadline),
                check_guest=self.check_alive,
                dial=self._dial,
            )
        except MachineError:
            self._check_soon()  # how the guest ended says more than how that was noticed
            raise
        except ShellError:
            self.check_alive()
            self._look_inside()
            raise

    def _explain(self, error: LabError) -> None:
        """Say in an error of the boot how far it got."""
        failure = explain_boot(
            BootSight(
                records=self.log.records(),
                nonce=self._nonce,
                output=self._output(),
                processor=self._processor,
                answers_ssh=self._answers_ssh,
            )
        )
        if failure is not None:
            error.explain(
                failure.end.value,
                hint=failure.hint,
                evidence=self._console.path,
                last_lines=failure.last_lines,
            )

    def wait_for_stage(self, stage: str, deadline: Deadline) -> None:
        """Block until the guest's init says that it has come to ``stage``."""
        ready = Marker(self._nonce, "boot", stage)
        failed = f"lab-{self._nonce} boot failed-"

        def decided() -> bool:
            log = self.log
            return (
                log.position_of(ready) is not None
                or log.panic is not None
                or self._failure(failed) is not None
            )

        self._wait_and_look(decided, deadline)
        process.check_stopping()
        if (failure := self._failure(failed)) is not None:
            raise BootError(f"the guest's init gave up: {failure}", evidence=self._console.path)
        if self.log.position_of(ready) is not None:
            return
        if not self.alive:
            self._child.wait(Deadline.after(REAP_SECONDS, "QEMU to end"))
            process.check_stopping()
            if self.log.count == 0:
                raise LaunchError(
                    f"QEMU ended before the kernel said anything: {self._how_it_ended()}",
                    argv=self.argv,
                    status=self._child.status,
                    output=self._output(),
                )
            self.check_alive()
        raise BootError(
            f"no {stage!r} from the guest: {deadline}; {self._how_far()}",
            evidence=self._console.path,
        )

    def _wait_and_look(self, decided: Callable[[], bool], deadline: Deadline) -> None:
        """Wait for the console to decide. Raises ``BootError`` where it never will.

        A processor that halted with interrupts off stays so, and a guest that answers without
        having said anything has no console that the host can hear.
        """
        halted = False
        count, since = self.log.count, deadline.elapsed
        while not deadline.passed:
            pause = Deadline.after(deadline.within(LOOK_SECONDS), deadline.name)
            if self.log.wait_until(decided, pause) or self.log.ended:
                return
            process.check_stopping()
            self._look_at_processor()
            is_halted = self._processor is Processor.HALTED
            # Twice: a processor that another one stopped stands so for a moment, before an end.
            if halted and is_halted and not decided():
                raise BootError(
                    "the guest's processor has halted for good", evidence=self._console.path
                )
            halted = is_halted
            if self._processor is Processor.IN_KERNEL and self._is_silent():
                self._answers_ssh = self._asks_for_ssh()
                if self._answers_ssh and self._is_silent():
                    raise BootError(
                        "it answers over SSH, and the host heard nothing of it",
                        evidence=self._console.path,
                    )
            if count != self.log.count or self._is_silent():
                count, since = self.log.count, deadline.elapsed
            elif deadline.elapsed - since > max(STILL_SECONDS, deadline.seconds * STILL_PART):
                raise BootError(
                    f"the kernel has said nothing for {deadline.elapsed - since:.0f} s; "
                    f"{self._how_far()}",
                    evidence=self._console.path,
                )
        if self._is_silent():  # on a busy host there may have been no look at all
            self._look_at_processor()

    def _look_at_processor(self) -> None:
        """See what the first processor does, where QEMU tells."""
        with contextlib.suppress(MachineError):
            asking = Deadline.after(ASK_SECONDS, "asking QEMU for registers")
            self._processor = parse_processor(self._qmp.registers(asking))

    def _is_silent(self) -> bool:
        """Whether no kernel has said anything on the console."""
        return not has_kernel_spoken(self.log.records())

    def _asks_for_ssh(self) -> bool:
        with contextlib.suppress(MachineError):
            asking = Deadline.after(ASK_SECONDS, "asking for SSH")
            return is_answering(self._qmp.forwarded_port(asking), asking, dial=self._dial)
        return False

    def reboot(self, deadline: Deadline) -> bool:
        """Ask the guest to reboot in an orderly way, and wait until QEMU has ended for it."""
        with contextlib.suppress(Exception):
            self.shell.start("sync; /lab/bin/busybox reboot -f", deadline)
        return self.log.wait_for_end(deadline)

    def collect_hang(self, deadline: Deadline, *, every_task: bool = False) -> None:
        """Make a hung kernel print its blocked tasks and processors to the log (SysRq w, l).

        With ``every_task`` then its other tasks too (t): some 1000 lines, which took one second
        without KVM.
        """
        for command in (b"w", b"l", b"t")[: 3 if every_task else 2]:
            if not any(self._ask_sysrq(command, pause, deadline) for pause in BREAK_SECONDS):
                break  # a kernel that takes no request takes no other
        self._wait_for_silence(deadline, SYSRQ_SECONDS)

    def _ask_sysrq(self, command: bytes, pause: float, deadline: Deadline) -> bool:
        """Send a break, then, after a pause, a SysRq command; whether the kernel took it."""
        first = self.log.count
        with contextlib.suppress(MachineError):
            self._qmp.send_break(deadline)
        # The break must be taken before the letter comes: the port's one flag for it is
        # of whatever is read next, and a second break undoes the first.
        self._pause(deadline, pause)
        self._console.send(command)
        answer = Deadline.after(deadline.within(ANSWER_SECONDS), "SysRq")
        return self.log.wait_until(partial(self._has_sysrq, first), answer)

    def _wait_for_silence(self, deadline: Deadline, seconds: float) -> None:
        """Wait until nothing was logged for so long, but not beyond the guest's end."""
        count = -1
        while count != self.log.count and not (deadline.passed or self.log.ended):
            count = self.log.count
            self._pause(deadline, seconds)

    def _has_sysrq(self, first: int) -> bool:
        return any(record.text.startswith("sysrq: ") for record in self.log.records(first))

    def _pause(self, deadline: Deadline, seconds: float) -> None:
        """Wait, but not beyond the guest's end."""
        self.log.wait_until(lambda: False, Deadline.after(deadline.within(seconds), "a pause"))

    def rescue(self, command: str, deadline: Deadline) -> str:
        """Run a command on the second serial port; for when SSH is dead."""
        return self._rescue.run(command, deadline)

    def _look_inside(self) -> None:
        """Leave in ``rescue.log`` what a guest without SSH looks like from its own console."""
        with contextlib.suppress(MachineError):
            self.rescue(RESCUE_LOOK, Deadline.after(RESCUE_SECONDS, "a look inside"))

    def greet(self) -> None:
        """Wait until QEMU takes commands. Raises ``LaunchError`` if it ends instead."""
        try:
            self._qmp.greet(Deadline.after(LAUNCH_SECONDS, "QEMU's greeting"))
        except MachineError as error:
            self._child.wait(Deadline.after(REAP_SECONDS, "QEMU to end"))
            process.check_stopping()
            raise LaunchError(
                f"QEMU did not start: {self._output() or error.message}",
                argv=self.argv,
                status=self._child.status,
                output=self._output(),
            ) from error

    def _failure(self, prefix: str) -> str | None:
        for record in reversed(self.log.records()):
            if record.text.startswith(prefix):
                return record.text.removeprefix(prefix).replace("-", " ")
        return None

    def _how_far(self) -> str:
        last = self.log.last_line
        return f"last console line: {last!r:.200}" if last else "the console is empty"

    def _how_it_ended(self) -> str:
        output = self._output()
        status = self._child.status
        if self._inside is not None and status is not None and status > 128:
            status = 128 - status  # bubblewrap tells of a signal as shells do
        how = "it powered off or rebooted" if status == 0 else f"QEMU's status is {status}"
        if self.log.flooded:
            most = f"{MAX_LOG_BYTES >> 20} MiB, or a million lines"
            how = f"its console said more than {most}, and nobody reads on"
        return f"{how}; {self._how_far()}" + (f"; QEMU said: {output}" if output else "")

    def _output(self) -> str:
        with contextlib.suppress(OSError):
            return self._output_path.read_text(errors="backslashreplace").strip()[-1000:]
        return ""

    def close(self) -> None:
        """Close the ways in. QEMU itself ends with ``start_machine``'s context."""
        if self._shell is not None:
            self._shell.close()
        self._stack.close()
        self._port = None


@contextlib.contextmanager
def start_machine(
    spec: GuestSpec,
    files: BootFiles,
    folder: Path,
    *,
    user_key: KeyPair,
    host_key: KeyPair,
    probe: bool = False,
    memory: int | None = None,
) -> Iterator[Machine]:
    """Start a guest; it is gone when the context ends, whatever ended it.

    ``folder`` gets ``console.log`` (all the kernel said), ``rescue.log``, ``qemu.log`` and
    ``argv``. With ``memory``, as ``open_memory`` gives it, the guest can be frozen. Raises
    ``LaunchError`` or ``HostError`` if QEMU cannot be started.
    """
    nonce = secrets.token_hex(8)
    secret = render_secrets(nonce, user_key.public_line, host_key.to_dropbear(), probe=probe)
    initrd = files.initramfs_path.read_bytes() + secret
    origin = None if memory is None else Frozen(spec, files, nonce, initrd, memory, b"")
    with contextlib.ExitStack() as stack:
        fds, ends = _open_all(stack, files, initrd)
        if memory is not None:
            os.ftruncate(memory, 0)  # whatever an earlier guest left there
            os.ftruncate(memory, spec.memory_mib << 20)
            fds = replace(fds, memory=Memory(memory))
        yield _launch(stack, spec, nonce, folder, fds, ends, origin=origin)


@contextlib.contextmanager
def start_fork(frozen: Frozen, folder: Path, *, private: bool = True) -> Iterator[Machine]:
    """Start a guest that will go on where another was frozen; gone when the context ends.

    ``Machine.wait_for_thaw`` makes it go on. It shares the memory with all others until it
    writes there, and nothing that it does reaches them. One that is not ``private`` writes to the
    file, which must not be sealed and has no other guest: it can be frozen again. Raises like
    ``start_machine``.
    """
    with contextlib.ExitStack() as stack:
        fds, ends = _open_all(stack, frozen.files, frozen.initrd)
        state = stack.enter_context(_memory_file("state", frozen.state))
        fds = replace(fds, memory=Memory(frozen.memory, state, private))
        spec, nonce = frozen.spec, frozen.nonce
        yield _launch(stack, spec, nonce, folder, fds, ends, origin=frozen, state=state)


@contextlib.contextmanager
def open_memory() -> Iterator[int]:
    """A file for a guest's memory, in memory itself; pages that nobody wrote take no room."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    fd = os.memfd_create("guest-memory", flags)
    try:
        yield fd
    finally:
        os.close(fd)


def seal_memory(fd: int) -> None:
    """Nobody can change the file any more, QEMU's guests included; they map it privately.

    Raises ``HostError`` while a machine still writes to it.
    """
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    try:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except OSError as error:
        raise HostError(f"a guest's memory cannot be sealed: {error.strerror}") from error


@contextlib.contextmanager
def _memory_file(name: str, data: bytes = b"") -> Iterator[int]:
    """A file in memory, to be read from its beginning."""
    fd = os.memfd_create(name)
    try:
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(data)
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)


def _launch(
    stack: contextlib.ExitStack,
    spec: GuestSpec,
    nonce: str,
    folder: Path,
    fds: GuestFds,
    ends: dict[str, socket.socket],
    *,
    origin: Frozen | None = None,
    state: int | None = None,
) -> Machine:
    """QEMU, started within our walls, with somebody at each of its lines."""
    folder.mkdir(parents=True, exist_ok=True)
    binary = process.find_tool(QEMU)
    wall = _find_wall(binary)
    inside = None if wall is None else stack.enter_context(contextlib.closing(Inside()))
    argv = (*wall_prefix(spec, wall, inside), *render_qemu_argv(binary, spec, fds))
    (folder / "argv").write_text("".join(f"{part}\n" for part in argv))
    output = stack.enter_context((folder / "qemu.log").open("wb"))
    receiving, sending, *theirs = open_line()
    try:
        console = stack.enter_context(Console(receiving, sending, folder / "console.log"))
        child = stack.enter_context(
            process.start(
                argv,
                output=output,
                talk=(theirs[0], theirs[1]),
                pass_fds=(*fds.numbers, *(() if inside is None else (inside.info,))),
                cwd=Path("/"),
                guarded=True,
            )
        )
        if wall is not None and inside is not None:
            stack.callback(inside.end, child)
            inside.find(child, wall)
    finally:
        # Else our copies would keep the lines open after QEMU's death.
        for fd in theirs:
            os.close(fd)
        for end in ("qmp-qemu", "rescue-qemu", "dialled-qemu"):
            ends[end].close()
    rescue = RescueShell(ends["rescue"], folder / "rescue.log")
    stack.callback(rescue.close)
    qmp = Qmp(ends["qmp"])
    stack.callback(qmp.close)
    machine = Machine(
        spec=spec,
        nonce=nonce,
        child=child,
        console=console,
        qmp=qmp,
        rescue=rescue,
        line=ends["dialled"],
        output_path=folder / "qemu.log",
        origin=origin,
        state=state,
        inside=inside,
    )
    stack.callback(machine.close)
    return machine


def _open_all(
    stack: contextlib.ExitStack, files: BootFiles, initrd: bytes
) -> tuple[GuestFds, dict[str, socket.socket]]:
    """Open everything that QEMU inherits; the stack closes our copies."""

    def open_file(path: Path) -> int:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, fd)
        return fd

    ends: dict[str, socket.socket] = {}
    for name in ("qmp", "rescue", "dialled"):
        ours, theirs = socket.socketpair()
        ends[name], ends[f"{name}-qemu"] = ours, theirs
        stack.callback(ours.close)
        stack.callback(theirs.close)
    disks = [
        Disk(name, open_file(path))
        for name, path in (("image", files.image_path), ("kernel", files.layer_path))
        if path is not None
    ]
    fds = GuestFds(
        kernel=open_file(files.kernel_path),
        initrd=stack.enter_context(_memory_file("initrd", initrd)),
        qmp=ends["qmp-qemu"].fileno(),
        rescue=ends["rescue-qemu"].fileno(),
        dialled=ends["dialled-qemu"].fileno(),
        disks=tuple(disks),
    )
    return fds, ends


def _bytes_left(sock: socket.socket, question: int) -> int:
    """How many bytes wait in a socket: to be read by us, or by the other end."""
    count = array.array("i", [0])
    fcntl.ioctl(sock, question, count)
    return count[0]


def describe_wall() -> str:
    """What stands around this host's QEMU, in words."""
    try:
        wall = find_wall(process.find_tool(QEMU))
    except HostError as error:
        return f"QEMU has no namespaces of its own: {error.message}"
    return f"QEMU has {wall.namespaces} of its own"


def _find_wall(binary: str) -> Wall | None:
    """QEMU's namespaces; None where this host has none for it, which `lab doctor` explains."""
    try:
        return find_wall(binary)
    except HostError:
        return None


def wall_prefix(spec: GuestSpec, wall: Wall | None, inside: Inside | None) -> tuple[str, ...]:
    """What stands before QEMU's command: limits, privileges given up, death with the lab, and
    walls where there are some.
    """
    limits = own_limits(
        spec.memory_mib + QEMU_OWN_MIB,
        file_bytes=MAX_FILE_BYTES,
        files=MAX_FILES,
        hard=_hard_limits(),
    )
    kvm = spec.accelerator == "kvm"
    return (
        *(process.find_tool("prlimit"), *limits, "--"),
        *(
            _identity(kvm=kvm)
            if wall is None or inside is None
            else wall.render(identity=_identity(kvm=kvm, wall=wall), kvm=kvm, info=inside.info)
        ),
    )


def _hard_limits() -> Mapping[str, int]:
    """Those of the lab itself, by prlimit(1)'s words."""
    kinds = {
        "as": resource.RLIMIT_AS,
        "core": resource.RLIMIT_CORE,
        "fsize": resource.RLIMIT_FSIZE,
        "nofile": resource.RLIMIT_NOFILE,
    }
    hard = {name: resource.getrlimit(kind)[1] for name, kind in kinds.items()}
    return {name: most for name, most in hard.items() if most != resource.RLIM_INFINITY}


def _identity(*, kvm: bool, wall: Wall | None = None) -> tuple[str, ...]:
    """What gives up privileges: root becomes nobody, who may still open ``/dev/kvm`` where it is
    used. bubblewrap gives up what others have.
    """
    root = os.geteuid() == 0
    if root and (not kvm or everyone_may_use_kvm()):
        group = os.stat(KVM).st_gid if kvm else None
        return unprivileged(group, within=wall is not None and not wall.user)
    if wall is not None:
        return ()
    bounds = ("--bounding-set=-all",) if root else ()
    setpriv = (process.find_tool("setpriv"), "--no-new-privs", "--inh-caps=-all")
    return (*setpriv, *bounds, "--", *process.dying_with_parent())


def everyone_may_use_kvm() -> bool:
    """Whether a process that gave up root can still open ``/dev/kvm`` through its group."""
    info = os.stat(KVM)
    return bool(info.st_mode & stat.S_IWOTH) or (
        info.st_gid != 0 and bool(info.st_mode & stat.S_IWGRP)
    )


def probe_boots(spec: GuestSpec, files: BootFiles, folder: Path, seconds: float) -> None:
    """Boot a kernel as far as its first process and no further; raises what went wrong."""
    key = generate_key_pair()
    with start_machine(spec, files, folder, user_key=key, host_key=key, probe=True) as machine:
        machine.greet()
        machine.wait_for_stage("probed", Deadline.after(seconds, "a probe of the accelerator"))
