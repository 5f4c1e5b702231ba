"""Playing one scenario in one guest, and judging it from what the host saw.

Steps travel over SSH. The verdict on the kernel comes from its log as the host read it,
between markers; a marker that does not arrive makes the cell an error, whatever the
steps said.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator.adapters.agent import Order, script
from orchestrator.adapters.kbuild import BuiltModule
from orchestrator.adapters.ssh import MAX_OUTPUT, Job
from orchestrator.adapters.symbols import Symbols
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import (
    CommandTimeoutError,
    ConnectionLostError,
    GuestDiedError,
    GuestPanickedError,
    LabError,
    MachineError,
    RunInterruptedError,
)
from orchestrator.plan.allowing import Allowance, mark_allowed
from orchestrator.plan.execjudge import Judged, judge_exec, judge_ktap, judge_unbuilt
from orchestrator.plan.flavours import explain_absent
from orchestrator.plan.frames import LoadedCode, locate_code
from orchestrator.plan.holders import find_holders
from orchestrator.plan.judge import (
    judge_findings,
    judge_hang,
    judge_log,
    judge_module,
    judge_read,
    judge_run,
    judge_write,
)
from orchestrator.plan.klog import Finding, Record, find_findings, parse_marker
from orchestrator.plan.leaks import KMEMLEAK, Lost, judge_leaks, parse_kmemleak
from orchestrator.plan.leftovers import (
    Leftover,
    Names,
    came_along,
    describe_leftovers,
    find_leftovers,
    without_allowed,
)
from orchestrator.plan.loading import Loading, explain_load
from orchestrator.plan.model import (
    BackgroundStep,
    EndStep,
    ExecStep,
    LoadStep,
    LogStep,
    NamedScenario,
    ReadStep,
    RebootStep,
    RunStep,
    Step,
    UnloadStep,
    WriteStep,
)
from orchestrator.plan.outcome import (
    CellResult,
    CommandResult,
    Hang,
    Mismatch,
    Outcome,
    StepResult,
)
from orchestrator.plan.visible import decode, visible, visible_lines
from orchestrator.policy.collecting import Collected, as_entries, collect
from orchestrator.policy.decoding import decode_findings
from orchestrator.policy.guest import FORGET_LEAKS, LIST_NAMES, Guest, Place, names_in
from orchestrator.policy.hanging import HungStep, ask_hung_guest, explain_hang
from orchestrator.policy.reports.results import MAX_STREAM_BYTES

# After this the kernel's state is not what the next scenario may count on.
SETTLE_SECONDS = 2.0
# Bits of /proc/sys/kernel/tainted that only a broken kernel sets (Linux
# Documentation/admin-guide/tainted-kernels.rst): machine check, bad page, oops, warning,
# soft lockup. Out-of-tree and unsigned (O, E) are what this lab is for.
BROKEN_TAINTS = {4: "machine check", 5: "bad page", 7: "oops", 9: "warning", 14: "soft lockup"}
# Why the modules of a scenario are not unloaded at its end.
AFTER_OOPS = "not tried: the kernel ended a task that may hold the module"
# What all steps of a scenario print is kept until it is judged, each output up to MAX_OUTPUT while
# there is room: 500 steps could have 4 GiB else.
MAX_SCENARIO_OUTPUT = 64 << 20
# What sysio says, beside the names of errors.
READ_ENDLESS = 3
_OVERRUN = re.compile(rb"^sysio: read: (\d+ bytes for a buffer of \d+)", re.MULTILINE)
# The names once more, after what the kernel may still have to do behind an unload's back.
_TYPED = shlex.join(LIST_NAMES)
LIST_NAMES_LATER = f"sleep 1; {_TYPED}"
LIST_LEAKS = f"sleep 6; echo scan >{KMEMLEAK}; echo scan >{KMEMLEAK}; head -c 200000 {KMEMLEAK}"
# Where lab-step leaves the number of a step's first process, below /run/lab.
STEP = ".step"
# How delete_module(2) says that somebody holds the module.
_HELD = ("EAGAIN", "EWOULDBLOCK", "EBUSY")
_ERRNO = re.compile(rb"^sysio: \w+: (E[A-Z0-9]+)", re.MULTILINE)


@dataclass
class _Course:
    """What a play has come to so far."""

    steps: list[StepResult] = field(default_factory=list)
    named: dict[str, Place] = field(default_factory=dict)
    loaded: list[str] = field(default_factory=list)
    jobs: dict[str, Job] = field(default_factory=dict)
    names: Names | None = None
    """What there was before the first load, or since the last reboot."""
    collected: Collected = field(default_factory=Collected)
    """What was brought back from the guest."""
    left: tuple[Leftover, ...] = ()
    """What was there beside it after the last unload."""
    held: set[str] = field(default_factory=set)
    """Modules of which it is told who holds them."""
    window: tuple[Place, Place] | None = None
    """The log of the step that was played last, from its marker to its end."""
    code: list[LoadedCode] = field(default_factory=list)
    """Where the lab's modules were, as they were loaded."""
    lost: tuple[Lost, ...] | None = None
    """What kmemleak told of after the last unload; None where it was not asked."""
    hung: HungStep | None = None
    """The step that did not end, and what the guest said of it."""
    tested: bool = False
    """Whether a test program tested anything."""
    skip: str = ""
    """Why the first that did not skipped itself."""
    broken: str = ""
    """Why the guest cannot be used any more."""
    error: str = ""
    """Why the lab cannot judge this cell."""
    ended_by: LabError | None = None
    """The guest's own end, where that ended the play."""

    @property
    def given_up(self) -> bool:
        """Whether nothing more can be done in this guest."""
        return bool(self.broken or self.error)

    @property
    def stopped(self) -> bool:
        """Whether the steps that follow are not played."""
        return self.given_up or any(step.outcome is Outcome.FAILED for step in self.steps)


class Play:
    """One scenario in one guest: ``open``, ``run``, and later ``judge`` for its result.

    Judging is apart from playing because the cell's window stays open until the next
    cell begins: what the kernel complains of in between belongs to this one.
    """

    def __init__(
        self,
        guest: Guest,
        scenario: NamedScenario,
        cell: str,
        folder: Path,
        symbols: Symbols,
        leaves: Sequence[str] = (),
        allow: Sequence[Allowance] = (),
    ) -> None:
        """``leaves`` are names that any scenario may leave behind; ``allow`` what the kernel may
        say in this one.
        """
        self._guest = guest
        self._symbols = symbols
        self._named = scenario
        self._scenario = scenario.scenario
        self._leaves = (*leaves, *scenario.scenario.leaves)
        self._allow = allow
        self._cell = cell
        self._folder = folder
        self._course = _Course()
        self._begin: Place | None = None
        self._taints: list[int] = []
        self._room = MAX_SCENARIO_OUTPUT
        self._started = time.monotonic()
        self._seconds = 0.0
        self._deadline = Deadline.after(
            guest.plan.timeouts.scenario * guest.plan.scale, f"scenario {scenario.name}"
        )

    @property
    def guest_is_broken(self) -> bool:
        """Whether the next scenario needs another guest."""
        return bool(self._course.broken) or bool(self._findings(None))

    def open(self) -> Place:
        """Begin the cell's window; where it begins. Raises ``RunInterruptedError`` alone."""
        self._begin = self._guest.place()
        if self._guest.names is not None:
            # A fork, at its first line: all that it says is this cell's.
            self._course.names = self._guest.names
            self._taints.append(self._guest.names.taint)
            return self._begin
        try:
            self._begin, self._course.names = self._mark("begin")
            if self._has_kmemleak:
                self._guest.ask_for_leaks(FORGET_LEAKS)
        except LabError as error:
            self._take_end(error)
        return self._begin

    def run(self) -> None:
        """Play all steps, unload what is left, mark the end.

        Raises ``RunInterruptedError`` and nothing else.
        """
        first = [LoadStep(load=name) for name in self._scenario.modules]
        for step in (*first, *self._scenario.steps):
            if self._course.stopped:
                self._record(StepResult(0, step.title, Outcome.SKIPPED, reason="not reached"))
            else:
                self._play_step(step)
        if self._scenario.collect:
            self._course.collected = self._collect()
        self._close()
        self._seconds = time.monotonic() - self._started

    def _collect(self) -> Collected:
        """Bring back what the scenario wants, as the steps left it: modules are still loaded."""
        entries = as_entries(self._scenario.collect)
        if self._course.ended_by is not None or not self._guest.machine.alive:
            return Collected(notes=("nothing was brought back: the guest is gone",))
        try:
            return collect(self._guest, entries, self._folder)
        except CommandTimeoutError as timeout:
            self._course.broken = self._course.broken or timeout.message
            note = "bringing files back did not end in time: reading one of them may block for ever"
            return Collected(notes=(note,), failure=note)
        except LabError as error:
            self._take_end(error)
            return Collected(notes=(f"nothing was brought back: {visible(error.message)}",))

    def _play_step(self, step: Step) -> None:
        started = time.monotonic()
        try:
            result = self._perform(step)
        except CommandTimeoutError as timeout:
            result = self._hung(step, timeout)
        except LabError as error:
            self._take_end(error)
            result = StepResult(0, step.title, Outcome.SKIPPED, reason=error.message)
        if not result.seconds:
            result = replace(result, seconds=time.monotonic() - started)
        self._record(result)

    def _record(self, result: StepResult) -> None:
        self._course.steps.append(replace(result, number=len(self._course.steps) + 1))

    def _take_end(self, error: LabError) -> None:
        """Note why the play ended early: the guest's doing, or the lab's failure to see."""
        if isinstance(error, RunInterruptedError):
            raise error
        course = self._course
        course.broken = course.broken or error.message
        ended = self._how_the_guest_ended(error)
        if ended is None:
            course.error = course.error or error.message
        else:
            course.ended_by = course.ended_by or ended

    def _how_the_guest_ended(self, error: LabError) -> LabError | None:
        """The guest's own end behind ``error``; None if the guest is still there."""
        if isinstance(error, ConnectionLostError):
            log = self._guest.machine.log
            log.wait_until(
                lambda: log.panic is not None, Deadline.after(SETTLE_SECONDS, "a last word")
            )
        try:
            self._guest.machine.check_alive()
        except RunInterruptedError:
            raise
        except MachineError as end:
            self._guest.machine.log.wait_for_end(Deadline.after(SETTLE_SECONDS, "the last lines"))
            return end
        return None

    def _hung(self, step: Step, timeout: CommandTimeoutError) -> StepResult:
        self._course.broken = timeout.message
        seconds = self._seconds_for(step)
        read = len(timeout.stdout) if isinstance(step, ReadStep) else 0
        mismatch = judge_hang(seconds, read)
        name = step.end if isinstance(step, EndStep) else STEP
        hung = self._ask_hung_guest(name, mismatch)
        if isinstance(step, UnloadStep):
            holders = self._holders_of(step.unload.replace("-", "_"))
            self._course.hung = hung = replace(hung, holders=holders)
        command = CommandResult(step.title, None, None, timeout.stdout, timeout.stderr, seconds)
        return StepResult(
            number=0,
            title=step.title,
            outcome=Outcome.FAILED,
            seconds=seconds,
            mismatches=(hung.explained(),),
            command=command,
        )

    def _ask_hung_guest(self, name: str, mismatch: Mismatch) -> HungStep:
        """Have the guest say where the tasks of the present step are; ``judge`` explains it."""
        number = len(self._course.steps) + 1
        self._course.hung = ask_hung_guest(self._guest, number, name, mismatch)
        return self._course.hung

    # --- markers ---------------------------------------------------------------------------

    def _mark(self, word: str, words: Sequence[str] = LIST_NAMES) -> tuple[Place, Names]:
        """Read taints and names between two markers; where the first marker is, and the names."""
        begin = self._guest.marker(self._cell, word)
        end = self._guest.marker(self._cell, f"{word}-end")
        result = self._guest.run(Order(tuple(words), begin, end), self._lab_deadline(word))
        place = self._guest.find(begin)
        self._guest.find(end)
        names = names_in(result)
        self._taints.append(names.taint)
        return place, names

    def _lab_deadline(self, name: str) -> Deadline:
        """For what the lab itself runs in the guest."""
        return Deadline.after(20 * self._guest.plan.scale, name)

    def _close(self) -> None:
        """Unload what the scenario left loaded, and end the window."""
        for job in self._course.jobs.values():
            job.close()
        died = any(finding.is_fatal for finding in self._findings(None))
        for name in reversed(self._course.loaded.copy()):
            if self._course.given_up:
                break
            step = UnloadStep(unload=name)
            if died:  # most often it would wait for the dead, and could tell nothing new
                self._record(StepResult(0, step.title, Outcome.SKIPPED, reason=AFTER_OOPS))
            else:
                self._play_step(step)
        if self._course.given_up:
            return
        if self._course.loaded or self._course.jobs:
            self._course.broken = "the scenario left modules or processes behind"
        try:
            self._look_for_leftovers()
            self._look_for_leaks()
        except LabError as error:
            self._take_end(error)

    def _look_for_leftovers(self) -> None:
        """Compare what there is now with what there was, between the cell's last markers.

        What seems left is looked for once more: some of what an unload undoes is undone a
        little later, and what the kernel's own modules made goes with them. Not where looking
        did harm already.
        """
        course = self._course
        _, now = self._mark("end")
        if course.loaded or course.names is None:
            return  # a module that did not unload has been told
        left = find_leftovers(course.names, now, self._guest.modules)
        if left and now.unread == course.names.unread:
            left = self._look_again(course.names, now)
        course.left = without_allowed(left, self._leaves)
        if left:  # what is allowed is none the less there
            course.broken = course.broken or describe_leftovers(left)

    def _look_again(self, before: Names, now: Names) -> tuple[Leftover, ...]:
        """What is still left a second later, without the kernel's own modules."""
        loaded = came_along(before, now, self._guest.modules)
        command = LIST_NAMES_LATER
        if loaded:
            command = f"modprobe -qr -- {' '.join(map(shlex.quote, loaded))}; {command}"
        _, now = self._mark("later", script(command))
        left = find_leftovers(before, now, self._guest.modules)
        if came_along(before, now, self._guest.modules):
            # They are in use, and what they made cannot be told from what others left.
            left = tuple(each for each in left if each.is_module)
        return left

    @property
    def _has_kmemleak(self) -> bool:
        """Whether the kernel tells what was lost."""
        return self._course.names is not None and KMEMLEAK in self._course.names.names

    def _look_for_leaks(self) -> None:
        """Have the kernel look for what was allocated and lost, where it can, after all is gone.

        Not where something is wrong already: it takes its time.
        """
        course = self._course
        if self._has_kmemleak and course.code and not course.loaded and not course.stopped:
            course.lost = parse_kmemleak(self._guest.ask_for_leaks(LIST_LEAKS))
            self._mark("leaks")  # what the kernel says of it is in the window

    # --- who holds a module ----------------------------------------------------------------

    def _holders_of(self, name: str) -> tuple[str, ...]:
        """Who holds a module that could not be unloaded, in words; nothing if nobody can tell."""
        before = self._course.names
        deadline = self._lab_deadline("looking for who holds it")
        try:
            # By another way than the steps: the last of them may not have ended.
            now = names_in(self._guest.machine.shell.run(f"/usr/local/bin/{_TYPED}", deadline))
            command = f"/lab/bin/lab-holders {shlex.quote(name)}"
            found = self._guest.machine.shell.run(command, deadline).stdout
        except RunInterruptedError:
            raise
        except LabError:
            return ()  # the guest is past that, and what made it so is told already
        return find_holders(found, name, now.names - before.names if before else frozenset())

    # --- steps -----------------------------------------------------------------------------

    def _perform(self, step: Step) -> StepResult:
        performers: Mapping[type[Step], Callable[..., StepResult]] = {
            LoadStep: self._load,
            UnloadStep: self._unload,
            RunStep: self._run_command,
            ExecStep: self._exec_program,
            ReadStep: self._read,
            WriteStep: self._write,
            LogStep: self._check_log,
            BackgroundStep: self._background,
            EndStep: self._end,
            RebootStep: self._reboot,
        }
        return performers[type(step)](step)

    def _seconds_for(self, step: Step) -> float:
        return (step.timeout or self._guest.plan.timeouts.step) * self._guest.plan.scale

    def _deadline_for(self, step: Step) -> Deadline:
        seconds = min(self._seconds_for(step), self._deadline.left)
        return Deadline.after(seconds, step.title)

    def _exec(
        self,
        step: Step,
        *words: str,
        user: int | None = None,
        stdin: bytes = b"",
        whole: bool = False,
    ) -> CommandResult:
        """Run a step's command between its markers; both have arrived when it returns.

        Of its output as much is kept as there is room for in the scenario; all where ``whole``.
        """
        number = len(self._course.steps) + 1
        begin = self._guest.marker(self._cell, f"step-{number}")
        end = self._guest.marker(self._cell, f"step-{number}-end")
        order = Order(words, begin, end, user, stdin)
        room = MAX_OUTPUT if whole else self._room // 2
        limit = min(MAX_OUTPUT, max(MAX_STREAM_BYTES, room))
        result = self._guest.run(order, self._deadline_for(step), limit=limit)
        self._room -= len(result.stdout) + len(result.stderr)
        place = self._guest.find(begin)
        if step.name:
            self._course.named[step.name] = place
        self._course.window = place, self._guest.find(end)
        return result

    def _load(self, step: LoadStep) -> StepResult:
        module = self._module(step.load)
        parameters = " ".join(
            f'{key}="{value}"' if " " in str(value) else f"{key}={_parameter(value)}"
            for key, value in step.parameters.items()
        )
        path = f"/lab/modules/{module.name}.ko"
        words: tuple[str, ...] = ("sysio", "--load", path, parameters, module.name)
        if others := [name for name in module.depends if name not in self._guest.modules]:
            words = script(f"modprobe -a {shlex.join(others)} && {shlex.join(words)}")
        result = self._exec(step, *words)
        if absent := explain_absent(module.name, result.stderr, self._guest.plan.release):
            raise LabError(absent)
        errno = errno_of(result)
        why = "" if errno in (None, step.expect.errno) else self._why_not_loaded(module, errno)
        if errno is None:
            self._course.loaded.append(module.name)
            self._course.code.append(locate_code(module.name, module.code, result.stdout))
            result = replace(result, stdout=b"")  # that was the lab's question
        return _judged(step, result, judge_module(step.expect, errno, result.seconds, why))

    def _why_not_loaded(self, module: BuiltModule, errno: str) -> str:
        """What the kernel and the module say of a load that failed just now."""
        others = self._guest.modules.values()
        loading = Loading(
            errno=errno,
            release=self._guest.plan.release,
            built_for=module.release,
            is_loaded=module.name in self._course.loaded,
            exporters={symbol: other.name for other in others for symbol in other.exports},
        )
        assert self._course.window is not None, "the step has been played"
        return explain_load(loading, _without_markers(self._guest.records(*self._course.window)))

    def _unload(self, step: UnloadStep) -> StepResult:
        name = step.unload.replace("-", "_")
        result = self._exec(step, "sysio", "--unload", name)
        errno = errno_of(result)
        if errno is None and name in self._course.loaded:
            self._course.loaded.remove(name)
        mismatches = judge_module(step.expect, errno, result.seconds)
        if mismatches and errno in _HELD and name not in self._course.held:
            self._course.held.add(name)
            mismatches = (_held_by(mismatches[0], self._holders_of(name)), *mismatches[1:])
        return _judged(step, result, mismatches)

    def _module(self, name: str) -> BuiltModule:
        module = self._guest.modules.get(name.replace("-", "_"))
        if module is None:
            built = ", ".join(sorted(self._guest.modules)) or "none"
            raise LabError(f"no folder of the lab builds a module {name!r}; built: {built}")
        return module

    def _run_command(self, step: RunStep) -> StepResult:
        words = script(step.run)
        result = self._exec(step, *words, user=step.user, stdin=step.stdin.encode())
        return _judged(step, result, judge_run(step.expect, result))

    def _exec_program(self, step: ExecStep) -> StepResult:
        programs = self._guest.plan.programs
        program = next(each for each in programs if each.key == (step.exec, step.make))
        if (said := self._guest.unbuilt.get(program.label)) is not None:
            build = CommandResult(program.build_command, None, None, said, b"", 0.0)
            return _with_tests(_judged(step, build, ()), judge_unbuilt(step.exec, said))
        words = script(program.command(step.program, step.arguments, step.environment))
        result = self._exec(step, *words, user=step.user)
        judged = judge_exec(step, result)
        course = self._course
        if judged.outcome is Outcome.SKIPPED:
            course.skip = (
                course.skip or f"step {len(course.steps) + 1}, {step.title}: {judged.reason}"
            )
        else:
            course.tested = True
        return _with_tests(_judged(step, result, ()), judged)

    def _read(self, step: ReadStep) -> StepResult:
        options = () if step.offset is None else ("--offset", str(step.offset))
        result = self._exec(
            step, "sysio", "--read", "--size", str(step.size), *options, "--", step.read
        )
        if result.status == READ_ENDLESS:
            return _judged(step, result, (Mismatch("content", "the file has no end"),))
        if overrun := _OVERRUN.search(result.stderr):
            message = f"read(2) returned {overrun[1].decode()}"
            return _judged(step, result, (Mismatch("content", message),))
        mismatches = judge_read(step.expect, result.stdout, errno_of(result), result.seconds)
        return _judged(step, result, mismatches)

    def _write(self, step: WriteStep) -> StepResult:
        options = ["--append"] if step.append else []
        options += [] if step.offset is None else ["--offset", str(step.offset)]
        data = step.data_bytes
        result = self._exec(step, "sysio", "--write", *options, "--", step.write, stdin=data)
        errno = errno_of(result)
        text = result.stdout.strip()
        is_count = errno is None and text.isdigit() and len(text) < 20  # int() refuses 5000 digits
        written = int(text) if is_count else None
        mismatches = judge_write(step.expect, len(data), written, errno, result.seconds)
        return _judged(step, result, mismatches)

    def _check_log(self, step: LogStep) -> StepResult:
        assert self._begin is not None
        since = self._course.named[step.log.since] if step.log.since else self._begin
        records = _without_markers(self._guest.records(since))
        ktap = judge_ktap(step.log, records)
        mismatches = (*ktap.mismatches, *judge_log(step.log, records))
        return replace(_judged(step, None, mismatches), tests=ktap.tests)

    def _background(self, step: BackgroundStep) -> StepResult:
        number = len(self._course.steps) + 1
        begin = self._guest.marker(self._cell, f"step-{number}")
        deadline = self._deadline_for(step)
        job = self._guest.start_marked(begin, step.name, step.background, deadline, step.user)
        self._course.jobs[step.name] = job
        self._course.named[step.name] = self._guest.find(begin)
        if step.until is not None and not job.wait_for_output(step.until.encode(), deadline):
            message = f"it did not print {step.until!r} within {deadline.seconds:g} s"
            mismatch = Mismatch("until", message)
            seconds = deadline.elapsed
            if deadline.passed:
                self._ask_hung_guest(step.name, mismatch)
            return replace(_judged(step, None, (mismatch,)), seconds=seconds)
        return _judged(step, None, ())

    def _end(self, step: EndStep) -> StepResult:
        deadline = self._deadline_for(step)
        if step.signal is not None:
            signal = step.signal.removeprefix("SIG")
            session = f"/run/lab/{shlex.quote(step.end)}"
            # It is written when the command starts, which may be a moment after the marker.
            wait = f"while [ ! -s {session} ]; do sleep 0.05; done"
            self._exec(step, *script(f'{wait}; kill -s {signal} -- "-$(cat {session})"'))
        result = self._course.jobs[step.end].wait(deadline)
        del self._course.jobs[step.end]
        if step.signal is None:
            # Markers, so that what it logged is here before the next step.
            self._exec(step, *script(":"))
        return _judged(step, result, judge_run(step.expect, result))

    def _reboot(self, step: RebootStep) -> StepResult:
        seconds = self._guest.plan.timeouts.boot * self._guest.plan.scale
        self._course.loaded.clear()
        self._guest.reboot(Deadline.after(seconds, "the reboot"))
        self._course.names = names_in(self._exec(step, *LIST_NAMES, whole=True))
        return _judged(step, None, ())

    # --- the verdict -----------------------------------------------------------------------

    def _records(self, until: Place | None) -> tuple[Record, ...]:
        if self._begin is None:
            return ()
        return _without_markers(self._guest.records(self._begin, until))

    def _findings(self, until: Place | None) -> tuple[Finding, ...]:
        return find_findings(self._records(until))

    def judge(self, kernel: str, until: Place | None, evidence: Path) -> CellResult:
        """The cell's result, from its steps and from the log up to ``until`` (None: its end)."""
        course = self._course
        hang = self._explain_hang(until)
        expected = self._scenario.expect_kernel
        told = tuple(each.with_gone(course.code) for each in self._findings(until))
        modules = self._guest.modules
        if course.lost is not None:
            told = judge_leaks(told, course.lost, course.code, modules)
        found = decode_findings(told, modules, self._symbols)
        found = mark_allowed(found, self._allow)
        lost = () if "lost-log" in expected else tuple(f for f in found if f.kind == "lost-log")
        others = tuple(finding for finding in found if finding not in lost)
        findings, kernel_mismatches = judge_findings(expected, others)
        reasons = [mismatch.message for mismatch in kernel_mismatches]
        reasons += [step.explain(mismatch) for step in course.steps for mismatch in step.mismatches]
        # A module that broke the kernel cannot go, and that it broke is told already.
        left = tuple(each for each in course.left if not (found and each.is_module))
        reasons += [describe_leftovers(left)] if left else []
        reasons += [course.collected.failure] if course.collected.failure else []
        outcome = Outcome.FAILED if reasons else Outcome.PASSED
        if course.ended_by is not None and not reasons:
            outcome, reasons = self._judge_end(course.ended_by, expected)
        blind = self._why_blind(found, lost)
        if outcome is not Outcome.FAILED and blind:
            outcome, reasons = Outcome.ERROR, [blind]
        if outcome is Outcome.PASSED and course.skip and not course.tested:
            outcome, reasons = Outcome.SKIPPED, [course.skip]  # nothing was tested
        return CellResult(
            kernel=kernel,
            scenario=self._named.name,
            outcome=outcome,
            reason=reasons[0] if reasons else "",
            steps=tuple(map(_as_kept, course.steps)),
            findings=(*findings, *lost),
            left_behind=left,
            taint_before=self._taints[0] if self._taints else None,
            taint_after=self._taints[-1] if len(self._taints) > 1 else None,
            seconds=self._seconds,
            evidence=evidence,
            hang=hang,
            artifacts=course.collected.artifacts,
            collect_notes=course.collected.notes,
        )

    def _explain_hang(self, until: Place | None) -> Hang | None:
        """Why a step did not end, where one did not; its mismatch tells it from now on."""
        hung = self._course.hung
        if hung is None:
            return None
        hang = explain_hang(hung, self._guest, until, self._guest.modules, self._symbols)
        at = hung.number - 1
        step = self._course.steps[at]
        told = hung.explained(hang.explanation)
        self._course.steps[at] = replace(step, mismatches=(told, *step.mismatches[1:]))
        return hang

    def _judge_end(self, end: LabError, expected: tuple[str, ...]) -> tuple[Outcome, list[str]]:
        """What the guest's own end means: wanted, the module's fault, or QEMU's."""
        if isinstance(end, GuestPanickedError):
            return (Outcome.PASSED, []) if "panic" in expected else (Outcome.FAILED, [end.message])
        if isinstance(end, GuestDiedError) and end.by_itself:
            return Outcome.FAILED, [end.message]
        return Outcome.ERROR, [end.message]

    def _why_blind(self, findings: tuple[Finding, ...], lost: tuple[Finding, ...]) -> str:
        """Why a pass could not be trusted, if it could not."""
        if self._course.error:
            return self._course.error
        if lost:
            return f"the kernel lost part of its log: {lost[0].headline}"
        if len(self._taints) > 1 and not findings:
            new = self._taints[-1] & ~self._taints[0]
            names = [name for bit, name in BROKEN_TAINTS.items() if new & (1 << bit)]
            if names:
                return f"the kernel is tainted ({', '.join(names)}), and its log does not say why"
        return ""

    def write_evidence(self, until: Place | None) -> None:
        """Leave the transcript and the cell's part of the kernel log in its folder."""
        self._folder.mkdir(parents=True, exist_ok=True)
        log = "".join(render_record(record) + "\n" for record in self._records(until))
        (self._folder / "kernel.log").write_text(log)
        transcript = "\n".join(render_step(step) for step in self._course.steps)
        (self._folder / "transcript.txt").write_text(transcript)
        if self._course.hung is not None:
            lines = visible_lines(decode(self._course.hung.tasks).replace("\t", " "))
            (self._folder / "tasks.txt").write_text("".join(f"{line}\n" for line in lines))


def _as_kept(step: StepResult) -> StepResult:
    """The step with no more of its output than results hold: a run has very many of them."""
    command = step.command
    if command is None or max(len(command.stdout), len(command.stderr)) <= MAX_STREAM_BYTES:
        return step
    head = replace(
        command,
        stdout=command.stdout[:MAX_STREAM_BYTES],
        stderr=command.stderr[:MAX_STREAM_BYTES],
        truncated=True,
    )
    return replace(step, command=head)


def _parameter(value: str | int | bool) -> str:
    return ("Y" if value else "N") if isinstance(value, bool) else str(value)


def errno_of(result: CommandResult) -> str | None:
    """The error's name that sysio gave; None if the call succeeded.

    Raises ``MachineError`` where it says neither.
    """
    if result.status == 0:
        return None
    found = _ERRNO.search(result.stderr)
    if found is None:
        said = result.stderr.decode(errors="backslashreplace").strip()
        raise MachineError(f"{result.command}: {result.signal or result.status}: {said[-300:]}")
    return found[1].decode()


def _held_by(mismatch: Mismatch, holders: tuple[str, ...]) -> Mismatch:
    """The mismatch of an unload, with who holds the module."""
    if not holders:
        return mismatch
    return Mismatch(
        mismatch.what,
        f"{mismatch.message}; held by {holders[0]}",
        (*mismatch.diff, *(f"held by: {each}" for each in holders)),
    )


def _judged(
    step: Step, result: CommandResult | None, mismatches: tuple[Mismatch, ...]
) -> StepResult:
    return StepResult(
        number=0,
        title=step.title,
        outcome=Outcome.FAILED if mismatches else Outcome.PASSED,
        seconds=result.seconds if result else 0.0,
        mismatches=mismatches,
        command=result,
    )


def _with_tests(step: StepResult, judged: Judged) -> StepResult:
    """The result of a step that has tests of its own."""
    return replace(
        step,
        outcome=judged.outcome,
        mismatches=judged.mismatches,
        tests=judged.tests,
        reason=judged.reason,
    )


def _without_markers(records: tuple[Record, ...]) -> tuple[Record, ...]:
    return tuple(record for record in records if parse_marker(record.text) is None)


def render_record(record: Record) -> str:
    """A line of the kernel log as dmesg shows it."""
    return record.text if record.time is None else f"[{record.time:12.6f}] {record.text}"


def render_step(step: StepResult) -> str:
    """A step of the transcript: what was run, what came back, what was wrong with it."""
    lines = [f"--- {step.number}. {step.title}: {step.outcome.value} ({step.seconds:.2f} s)"]
    if step.reason:
        lines.append(step.reason)
    if step.command is not None:
        lines.append(f"$ {step.command.command}")
        lines.append(f"status: {step.command.signal or step.command.status}")
        for name, data in (("stdout", step.command.stdout), ("stderr", step.command.stderr)):
            if data:
                lines += [f"{name}:", data.decode(errors="backslashreplace").rstrip("\n")]
    lines += [f"{test.outcome.value:8} {test.name}" for test in step.tests]
    for mismatch in step.mismatches:
        lines += [f"MISMATCH {mismatch.what}: {mismatch.message}", *mismatch.diff]
    return "\n".join(lines) + "\n"
