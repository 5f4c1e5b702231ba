"""``lab_guest``: a guest for a test that is written in Python."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import pytest

from orchestrator.doors.pytest_cells import SESSION, raise_for, skip
from orchestrator.foundation.errors import LabError
from orchestrator.plan.model import (
    Data,
    FindingClass,
    LoadStep,
    NamedScenario,
    ReadStep,
    RunStep,
    Scenario,
    Step,
    UnloadStep,
    WriteStep,
    did_you_mean,
)
from orchestrator.plan.outcome import CellResult, CommandResult, KernelResult, Outcome, StepResult
from orchestrator.plan.paths import RunDir
from orchestrator.plan.plan import Cell, KernelPlan, with_known
from orchestrator.plan.version import KernelVersion, VersionRange
from orchestrator.plan.visible import clip, decode, visible
from orchestrator.policy.directed import DirectedPlay, DirectedRun
from orchestrator.policy.play import errno_of

if TYPE_CHECKING:
    from orchestrator.doors.pytest_session import LabSession

MAX_TOLD = 2000
MAX_NAME = 100


class GuestError(Exception):
    """Something that a test asked of its guest did not go well."""


class GuestLostError(GuestError):
    """The guest can do nothing more: a step did not end, the kernel panicked, it is gone."""


class CommandError(GuestError):
    """A command in the guest failed; ``result`` is what it gave."""

    def __init__(self, message: str, result: CommandResult) -> None:
        super().__init__(message)
        self.result = result


class LabGuest:
    """A booted guest of one kernel that no other test sees anything of.

    The lab's modules are in it, built for its kernel, and none is loaded. All timeouts are
    seconds on KVM, and longer where guests are emulated, as in ``lab.yaml``.
    """

    def __init__(self, run: DirectedRun, play: DirectedPlay, test: _Test) -> None:
        self._run = run
        self._play = play
        self._test = test
        self._told: CellResult | None = None

    @property
    def kernel(self) -> KernelVersion:
        """The kernel's version, which compares with others: ``KernelVersion.parse("5.6")``."""
        return self._run.version

    def kernel_in(self, versions: str) -> bool:
        """Whether the kernel is in a range, such as ``>=5.6``. Raises ``ValueError`` for none."""
        return VersionRange.parse(versions).contains(self.kernel)

    @property
    def modules(self) -> tuple[str, ...]:
        """The names of the modules that can be loaded."""
        return self._play.module_names

    def run(
        self,
        command: str,
        *,
        check: bool = True,
        timeout: float | None = None,
        stdin: str | None = None,
    ) -> CommandResult:
        """What a command for ``sh -c`` gives, as root; blocks until it has ended.

        With ``check``, ``CommandError`` is raised where its status is not 0. Raises
        ``GuestLostError`` where it does not end by its timeout, or takes the guest with it.
        """
        __tracebackhide__ = True
        result = self._perform(RunStep(run=command, stdin=stdin or "", timeout=timeout))
        assert result.command is not None, "a command ran"
        if check and result.outcome is Outcome.FAILED:
            raise CommandError(_words(result, result.command), result.command)
        return result.command

    def read(self, path: str) -> bytes:
        """The bytes of a file, as system calls give them. Raises ``OSError`` with its errno."""
        __tracebackhide__ = True
        return self._call(ReadStep(read=path), path).stdout

    def write(self, path: str, data: bytes | str) -> int:
        """The count of bytes that one system call took. Raises ``OSError`` with its errno."""
        __tracebackhide__ = True
        raw = data.encode() if isinstance(data, str) else data
        command = self._call(WriteStep(write=path, data=Data(hex=raw.hex())), path, short=True)
        return int(command.stdout)

    def load(self, module: str, **parameters: str | int | bool) -> None:
        """Load a module of the lab. Raises ``OSError`` with its errno, and why where it is known;
        ``GuestError`` where the lab has no such module, or it does not build.
        """
        __tracebackhide__ = True
        if module.replace("-", "_") not in self.modules:
            names = ", ".join(self.modules) or "none"
            said = "".join(f"\n{visible(note)}" for note in self._run.notes)
            raise GuestError(
                f"no folder of the lab builds a module {module!r}; built: {names}{said}"
            )
        self._call(LoadStep(load=module, parameters=parameters), module)

    def unload(self, module: str) -> None:
        """Unload a module. Raises ``OSError`` with its errno, and who holds it."""
        __tracebackhide__ = True
        self._call(UnloadStep(unload=module), module)

    def kernel_log(self) -> list[str]:
        """The lines of the kernel's log since the test began, without their times.

        It is what the host saw on the console; what is not printable is an escape. All that was
        said until the last step ended is there.
        """
        return [visible(line) for line in self._play.log_lines()]

    def expect_kernel(self, kind: FindingClass) -> None:
        """Want a complaint of this class by the test's end, as ``expect_kernel`` of a scenario.

        Without it the complaint is an error, with it the lack of one. Raises ``ValueError``.
        """
        if kind not in get_args(FindingClass):
            hint = did_you_mean(kind, get_args(FindingClass))
            raise ValueError(f"there is no class of complaints {kind!r}: {hint}".rstrip(": "))
        self._play.expect_kernel(kind)

    def check(self) -> None:
        """Fail the test if the kernel has complained until now; done for it when its body ends."""
        __tracebackhide__ = True
        cell = self._run.judge_so_far()
        if any(not finding.harmless for finding in cell.findings):
            self._told = cell
            self._test.raise_for(cell)

    def close(self) -> None:
        """End the test. Raises ``CellError`` for what went wrong and was not told by ``check``."""
        _, cell = self._run.finish()
        told = self._told
        if cell.outcome is Outcome.SKIPPED:
            return  # interrupted: pytest tells of that itself
        if told is None or (told.reason, len(told.findings)) != (cell.reason, len(cell.findings)):
            self._test.raise_for(cell)

    def _perform(self, step: Step) -> StepResult:
        __tracebackhide__ = True
        try:
            result = self._run.perform(step)
        except LabError as error:
            raise GuestLostError(visible(f"{step.title}: {error.message}")) from None
        if self._play.lost:
            raise GuestLostError(visible(f"{step.title}: {self._play.lost}"))
        return result

    def _call(self, step: Step, what: str, *, short: bool = False) -> CommandResult:
        """The command of a step that is one system call; ``short`` where not all may be taken."""
        __tracebackhide__ = True
        result = self._perform(step)
        assert result.command is not None, "a command ran"
        message = visible("; ".join(mismatch.message for mismatch in result.mismatches))
        name = errno_of(result.command) if result.command.status in (0, 1) else None
        if name is not None:
            told = message.replace(", expected success", "", 1)
            raise OSError(getattr(errno, name, 0), told or name, what)
        if message and not short:
            raise GuestError(f"{step.title}: {message}")
        return result.command


def _words(result: StepResult, command: CommandResult) -> str:
    lines = [f"{result.title}: {'; '.join(each.message for each in result.mismatches)}"]
    for name, data in (("stdout", command.stdout), ("stderr", command.stderr)):
        if data:
            lines += [f"{name}:", *decode(data[-MAX_TOLD:]).rstrip("\n").split("\n")]
    return "\n".join(visible(line) for line in lines)


# --- the fixture ---------------------------------------------------------------------------


@dataclass(frozen=True)
class GuestChoice:
    """Which kernel of which lab a test is played on."""

    lab: Path
    kernel: KernelPlan


@dataclass(frozen=True)
class _Test:
    """Where a test is, and where its evidence goes."""

    scenario: NamedScenario
    run_dir: RunDir

    def raise_for(self, cell: CellResult) -> None:
        __tracebackhide__ = True
        raise_for(cell, self.run_dir.root, self.scenario.path, self.scenario.line)


OPEN_GUEST = pytest.StashKey[LabGuest]()
"""The guest of the test that is played, in its item's stash."""


@contextlib.contextmanager
def open_guest(request: pytest.FixtureRequest) -> Iterator[LabGuest]:
    """What the fixture gives; after the test it is judged, as a scenario is at its end."""
    session: LabSession | None = request.config.pluginmanager.get_plugin(SESSION)
    choice: GuestChoice | None = getattr(request, "param", None)
    if session is None or choice is None:
        raise pytest.UsageError("lab_guest: no lab is named; --lab FILE does, or `lab` in the ini")
    plan = _plan_of_test(request, session, choice)
    if plan.known is not None and plan.cells[0].skip:
        skip(plan.cells[0].skip)
    base = session.make_run_dir(choice.lab).root / "tests"
    run_dir = RunDir(_free_folder(base, request.node.nodeid))
    run = DirectedRun(session.plan(choice.lab).lab, plan, session.cache, run_dir)
    test = _Test(plan.cells[0].scenario, run_dir)
    play = run.begin()
    if play is None:
        _tell_why_there_is_none(run, test)
        return
    guest = LabGuest(run, play, test)
    request.node.stash[OPEN_GUEST] = guest
    try:
        yield guest
    finally:
        del request.node.stash[OPEN_GUEST]
        guest.close()


def _tell_why_there_is_none(run: DirectedRun, test: _Test) -> None:
    kernel, cell = run.finish()
    if kernel.error:
        raise pytest.fail.Exception(_kernel_words(kernel), pytrace=False)
    test.raise_for(cell)


def _plan_of_test(
    request: pytest.FixtureRequest, session: LabSession, choice: GuestChoice
) -> KernelPlan:
    """The plan of the one cell that the test is."""
    node = request.node
    path, line, _ = node.reportinfo()
    scenario = NamedScenario(
        name=f"{Path(path).stem}/{_safe(node.name)}",
        path=Path(path),
        line=(line or 0) + 1,
        scenario=Scenario(steps=(RunStep(run=":"),)),
        kernels=kernels_of(node),
    )
    cell = Cell(scenario, any_module=bool(session.plan(choice.lab).lab.module_dirs))
    plan = replace(choice.kernel, cells=(cell,))
    return with_known(plan, plan.known)


def kernels_of(node: pytest.Item) -> VersionRange:
    """The kernels that a test is marked for. Raises ``ValueError`` where the mark says nothing."""
    mark = node.get_closest_marker("kernels")
    if mark is None:
        return VersionRange.parse("")
    if len(mark.args) != 1 or mark.kwargs or not isinstance(mark.args[0], str):
        raise ValueError("it takes one range of versions, such as '>=5.6'")
    return VersionRange.parse(mark.args[0])


def _kernel_words(kernel: KernelResult) -> str:
    lines = [kernel.error, *(f"  | {line}" for line in kernel.last_lines)]
    lines += [f"  hint: {kernel.hint}"] if kernel.hint else []
    return "\n".join(visible(line) for line in lines)


def _safe(name: str) -> str:
    """A test's name as a file's name."""
    return clip(re.sub(r"[^A-Za-z0-9._+\[\]-]+", "_", name), MAX_NAME)


def _free_folder(base: Path, node_id: str) -> Path:
    """A folder for what one test leaves, which is there for the first time."""
    number, digest = 1, hashlib.sha256(node_id.encode()).hexdigest()[:8]
    while True:
        path = base / f"{_safe(node_id.rpartition('::')[2])}-{digest}-{number}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return path
