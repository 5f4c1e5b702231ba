"""A guest that scenarios are played in: booted, checked, with the lab's modules in place."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType

from orchestrator.adapters.agent import Agent, Order
from orchestrator.adapters.kbuild import BuiltModule, pack_modules
from orchestrator.adapters.machine import (
    BootFiles,
    Frozen,
    Machine,
    seal_memory,
    start_fork,
    start_machine,
    time_scale,
)
from orchestrator.adapters.programs import Program, build_program, send_programs
from orchestrator.adapters.ssh import (
    MAX_OUTPUT,
    Job,
    KeyPair,
    SshStream,
    check,
    generate_key_pair,
)
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import BootError, LabError, MachineError, RunInterruptedError
from orchestrator.plan.bootfailure import has_kernel_spoken
from orchestrator.plan.klog import Marker, Record
from orchestrator.plan.leaks import KMEMLEAK
from orchestrator.plan.leftovers import Names, parse_names
from orchestrator.plan.model import Timeouts
from orchestrator.plan.outcome import CommandResult
from orchestrator.plan.paths import RunDir
from orchestrator.plan.qemu import GuestSpec
from orchestrator.plan.visible import clip, decode, visible
from orchestrator.plan.yamlsource import shown_path

MARKER_SECONDS = 15.0
FREEZE_SECONDS = 20.0
THAW_SECONDS = 20.0
SEED_BYTES = 64
# All names that a module can leave behind.
LIST_NAMES = ("sysio", "--names")
# What nobody refers to. What is younger than five seconds is not told (mm/kmemleak.c,
# MSECS_MIN_AGE), nor what has changed since the look before.
FORGET_LEAKS = f"echo clear >{KMEMLEAK}"
# It reads all of memory, twice, on a kernel that checks each access.
LEAK_SECONDS = 120.0
# Where a frozen guest has the word by which it is known again.
WORD_PATH = "/run/lab/frozen"
# Until the server's process for the connection that was closed is gone.
UNTIL_ALONE = (
    "until set -- $(/lab/bin/busybox pidof dropbear) && [ $# -le {0} ]; "
    "do /lab/bin/busybox sleep 0.02; done"
)
CALL_SECONDS = 10.0
# For the first answer over a connection that was frozen with its guest: it takes 0.2 s
# without KVM, or for ever.
ANSWER_SECONDS = 4.0


@dataclass(frozen=True)
class GuestPlan:
    """All that is needed to boot a guest of one kernel, again and again."""

    kernel: str
    release: str
    spec: GuestSpec
    files: BootFiles
    timeouts: Timeouts
    run_dir: RunDir
    programs: tuple[Program, ...] = ()
    """What steps bring: in each guest before anything is played."""

    @property
    def scale(self) -> float:
        """By how much deadlines grow with the accelerator."""
        return time_scale(self.spec)


@dataclass(frozen=True)
class FrozenGuest:
    """A guest that stands still, with all in place for a scenario."""

    machine: Frozen
    user_key: KeyPair
    host_key: KeyPair
    word: str
    """Only its memory holds it: what goes on with this word in it did not boot anew."""
    names: Names
    """What there was in it."""
    note: str = ""
    """Why its forks have to be connected to anew, where that is so."""
    unbuilt: Mapping[str, bytes] = field(default_factory=dict)
    """Test programs that did not build, by their labels: the end of what their builds said."""

    def without_connection(self) -> FrozenGuest:
        """The same, to be connected to anew."""
        return replace(self, machine=replace(self.machine, ssh=None))


class BootCounter:
    """Counts the boots of one kernel, for guests on several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.count = 0

    def next(self) -> int:
        """The number of a new boot, from 1."""
        with self._lock:
            self.count += 1
            return self.count


class LogLostError(MachineError):
    """A marker did not reach the host: what the kernel said since is not known."""


@dataclass(frozen=True)
class Place:
    """A point in the logs of a guest: which boot, and which record."""

    boot: int
    record: int


class Guest:
    """One guest after another for the same kernel; boots are counted, logs are kept."""

    def __init__(
        self, plan: GuestPlan, modules: Mapping[str, BuiltModule], boots: BootCounter | None = None
    ) -> None:
        self.plan = plan
        self.modules = modules
        self._boots = boots or BootCounter()
        self._folder = Path()
        self._stack = contextlib.ExitStack()
        self._machines: list[Machine] = []
        self._agent: Agent | None = None
        self.names: Names | None = None
        """What there is in it before anything is played; None where it was not looked at."""
        self.unbuilt: Mapping[str, bytes] = {}
        """Test programs that did not build in it; see ``FrozenGuest``."""
        self._keys: tuple[KeyPair, KeyPair] | None = None
        self._goes_on = False
        """Whether its agent came with it out of a frozen guest."""

    def __enter__(self) -> Guest:
        self.boot()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def machine(self) -> Machine:
        """The machine that runs now."""
        return self._machines[-1]

    @property
    def has_spoken(self) -> bool:
        """Whether the kernel of the last machine said anything."""
        return bool(self._machines) and has_kernel_spoken(self.machine.log.records())

    def boot(self, memory: int | None = None) -> None:
        """Start a machine and make it ready for scenarios. Raises ``MachineError`` or worse.

        With ``memory``, see ``start_machine``, it can be frozen.
        """
        user_key, host_key = generate_key_pair(), generate_key_pair()
        machine = self._start(
            self.plan.run_dir.boot(self.plan.kernel, self._boots.next()),
            lambda folder: start_machine(
                *(self.plan.spec, self.plan.files, folder),
                user_key=user_key,
                host_key=host_key,
                memory=memory,
            ),
            (user_key, host_key),
        )
        seconds = self.plan.timeouts.boot * self.plan.scale
        machine.wait_for_boot(Deadline.after(seconds, "the boot"), user_key, host_key)
        self._check_release()
        self.furnish(self.modules)

    def furnish(self, modules: Mapping[str, BuiltModule]) -> None:
        """Put these modules, and the plan's test programs, where scenarios look for them."""
        if modules:
            self.push_modules(modules)
        if self.plan.programs:
            self._push_programs()

    def _start(
        self,
        folder: Path,
        start: Callable[[Path], AbstractContextManager[Machine]],
        keys: tuple[KeyPair, KeyPair],
    ) -> Machine:
        self._keys, self._folder = keys, folder
        self._agent = self.names = None
        self._goes_on = False
        machine = self._stack.enter_context(start(folder))
        self._machines.append(machine)
        return machine

    def freeze(self) -> FrozenGuest:
        """End this guest; others go on from here (``resume``). Raises ``MachineError``."""
        assert self._keys is not None, "the guest has not booted"
        machine, word = self.machine, secrets.token_hex(16)
        deadline = Deadline.after(FREEZE_SECONDS * self.plan.scale, "freezing the guest")
        stream = self._agent.stream if self._goes_on and self._agent else None
        names = names_in(self.run(Order(LIST_NAMES), deadline))
        if KMEMLEAK in names.names:
            self.ask_for_leaks(FORGET_LEAKS)
            deadline = Deadline.after(deadline.seconds, deadline.name)
        command = f"mkdir -p /run/lab && printf %s {word} >{WORD_PATH}"
        check(machine.shell.run(command, deadline), "marking the guest", MachineError)
        note = ""
        if stream is None:
            stream, note = self._have_it_call()
        if stream is None:
            machine.shell.close()
        machine.rescue(UNTIL_ALONE.format(1 if stream is None else 2), deadline)
        frozen = FrozenGuest(
            *(machine.freeze(deadline, stream), *self._keys, word, names, note),
            unbuilt=self.unbuilt,
        )
        self.close()
        seal_memory(frozen.machine.memory)
        return frozen

    def _have_it_call(self) -> tuple[SshStream | None, str]:
        """An agent's stream over a connection that survives freezing; None, and why there is none.

        What comes after a fork is the dearest without KVM: a handshake, and a server's process.
        """
        assert self._keys is not None, "the guest has not booted"
        deadline = Deadline.after(CALL_SECONDS * self.plan.scale, "a call from the guest")
        try:
            self.machine.have_it_call(deadline, *self._keys)
            self._agent = Agent.start(self.machine.shell, deadline)
            self.run(Order(LIST_NAMES), deadline)  # and with it, all that was sent is taken
        except RunInterruptedError:
            raise
        except LabError as error:
            self.machine.check_alive()
            return None, f"forks are connected to anew: {error.message}"
        return self._agent.stream, ""

    def resume(self, frozen: FrozenGuest, folder: Path, *, alone: bool = False) -> None:
        """Go on from a frozen guest, with a clock and random numbers of its own.

        One that is ``alone`` with its memory (``take_frozen``, not sealed) can be frozen again.
        Raises ``MachineError`` or worse where that cannot be, or another guest answers.
        """
        keys = frozen.user_key, frozen.host_key
        machine = self._start(
            folder, lambda folder: start_fork(frozen.machine, folder, private=not alone), keys
        )
        deadline = Deadline.after(THAW_SECONDS * self.plan.scale, "going on from a frozen guest")
        stream = machine.wait_for_thaw(deadline, *keys)
        self._agent = None if stream is None else Agent(stream)
        words = ("sysio", "--wake", str(round(time.time())), WORD_PATH)
        if stream is not None:
            seconds = deadline.within(ANSWER_SECONDS * self.plan.scale)
            deadline = Deadline.after(seconds, "an answer from a frozen guest")
        result = self.run(Order(words, stdin=os.urandom(SEED_BYTES)), deadline)
        said = check(result, "going on from a frozen guest", MachineError).stdout
        if said.decode(errors="replace").split() != [frozen.word, self.plan.release]:
            raise MachineError("the guest that goes on is not the one that was frozen")
        self.names, self.unbuilt = frozen.names, frozen.unbuilt
        self._goes_on = stream is not None

    def close(self) -> None:
        """End the guest; its logs stay readable."""
        self._stack.close()

    def reboot(self, deadline: Deadline) -> None:
        """An orderly reboot, as the guest sees it: this machine ends, another starts."""
        machine = self.machine
        ended = machine.reboot(deadline)
        if not ended:
            raise MachineError(f"the guest did not go down for its reboot: {deadline}")
        if machine.log.panic is not None:
            machine.check_alive()
        self._stack.close()
        self.boot()

    def push_modules(self, modules: Mapping[str, BuiltModule]) -> None:
        """Copy built modules to where ``load`` finds them, all with one command: without KVM
        each takes a second.
        """
        self.modules = modules
        deadline = Deadline.after(30 * self.plan.scale, "copying modules into the guest")
        command = "mkdir -p /lab/modules && tar -x -m --no-same-owner -C /lab/modules"
        result = self.machine.shell.run(command, deadline, stdin=pack_modules(modules.values()))
        check(result, "copying modules into the guest", MachineError)

    def _push_programs(self) -> None:
        """Bring the lab's test programs, and build those that have to be built; what those say is
        left in the boot's folder.
        """
        scale, shell = self.plan.scale, self.machine.shell
        deadline = Deadline.after(30 * scale, "copying test programs into the guest")
        send_programs(shell, self.plan.programs, deadline)
        unbuilt = {}
        for program in self.plan.programs:
            if not program.build:
                continue
            built, said = build_program(shell, program, self.plan.timeouts.build * scale)
            (self._folder / f"{program.label}.log").write_bytes(said)
            if not built:
                unbuilt[program.label] = said
        self.unbuilt = unbuilt

    def ssh_command(self) -> str:
        """A command that opens a shell in this guest; leaves its keys in the boot's folder."""
        assert self._keys is not None, "the guest has not booted"
        user_key, host_key = self._keys
        folder, port = shown_path(self._folder), self.machine.ssh_port()
        key_path, hosts_path = folder / "id", folder / "known_hosts"
        if not key_path.exists():
            user_key.write(key_path)
            hosts_path.write_text(f"[127.0.0.1]:{port} {host_key.public_line}\n")
            self._stack.callback(key_path.unlink, missing_ok=True)
        hosts = shlex.quote(f"UserKnownHostsFile={hosts_path}")
        return f"ssh -ti {shlex.quote(str(key_path))} -o {hosts} -p {port} root@127.0.0.1 bash -l"

    def _check_release(self) -> None:
        deadline = Deadline.after(20 * self.plan.scale, "uname -r")
        said = check(self.machine.shell.run("uname -r", deadline), "uname -r", MachineError)
        release = said.stdout.decode(errors="replace").strip()
        if release != self.plan.release:
            raise BootError(
                f"the wrong kernel runs: uname -r says {release!r}, "
                f"the plan says {self.plan.release!r}"
            )

    # --- steps ---------------------------------------------------------------------------

    def place(self) -> Place:
        """The present end of the log."""
        return Place(len(self._machines) - 1, self.machine.log.count)

    def records(self, since: Place, until: Place | None = None) -> tuple[Record, ...]:
        """What was logged between two places, over reboots."""
        found: list[Record] = []
        last = until.boot if until else len(self._machines) - 1
        for number in range(since.boot, last + 1):
            first = since.record if number == since.boot else 0
            end = until.record if until and number == until.boot else None
            found += self._machines[number].log.records(first, end)
        return tuple(found)

    def marker(self, cell: str, word: str) -> Marker:
        """A marker that nothing in the guest can have known before it is written."""
        return Marker(secrets.token_hex(8), cell, word)

    def find(self, marker: Marker) -> Place:
        """Where a marker is in the log. Raises ``LogLostError`` if it does not arrive.

        A guest that panicked or died raises that instead.
        """
        deadline = Deadline.after(MARKER_SECONDS * self.plan.scale, f"marker {marker.word}")
        record = self.machine.log.wait_for_marker(marker, deadline)
        if record is None:
            self.machine.check_alive()
            raise LogLostError(
                f"the marker {marker.word!r} did not reach the host's end of the console: "
                "what the kernel said is not known"
            )
        return Place(len(self._machines) - 1, record)

    def run(self, order: Order, deadline: Deadline, *, limit: int = MAX_OUTPUT) -> CommandResult:
        """Have the guest's agent carry out an order. Raises as that does."""
        if self._agent is None or self._agent.lost:
            self._agent = Agent.start(self.machine.shell, deadline)
        return self._agent.run(order, deadline, limit=limit)

    def ask_for_leaks(self, command: str) -> bytes:
        """What a command to kmemleak prints. Raises ``LabError``."""
        deadline = Deadline.after(LEAK_SECONDS * self.plan.scale, "kmemleak")
        return self.machine.shell.run(command, deadline).stdout

    def start_marked(
        self, begin: Marker, name: str, command: str, deadline: Deadline, user: int | None
    ) -> Job:
        """Start a command in the background, after a marker."""
        words = (begin.render(), name, "" if user is None else str(user), command)
        line = " ".join(("/lab/bin/lab-background", *(shlex.quote(word) for word in words)))
        return self.machine.shell.start(line, deadline)


def names_in(result: CommandResult) -> Names:
    """What the guest listed. Raises ``MachineError`` where it could not."""
    names = parse_names(result.stdout)
    if names is None:
        said = clip(visible(decode(result.stderr[-300:]).strip()), 300)
        how = result.signal or f"status {result.status}"
        why = said or "/proc, /sys or /dev may not be what they were"
        raise MachineError(f"the guest's names could not be listed ({how}): {why}")
    return names
