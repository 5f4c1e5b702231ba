"""Results as values: of a step, of a cell, of a run.

A red test is a value (``Outcome.FAILED``); a broken lab is an exception, and where
it broke within one cell the cell's outcome is ``Outcome.ERROR`` with the exception's
message as its reason.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from orchestrator.foundation.errors import (
    EXIT_BROKEN,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_PASSED,
)
from orchestrator.plan.buildfailure import BuildFailure
from orchestrator.plan.klog import Finding
from orchestrator.plan.leftovers import Leftover
from orchestrator.plan.stacks import Stack


class Outcome(enum.Enum):
    """What became of a cell or a step."""

    PASSED = "passed"
    FAILED = "failed"
    """The module or the kernel did not do what the scenario says."""
    ERROR = "error"
    """The lab could not see or could not do what a verdict needs."""
    SKIPPED = "skipped"
    """Not meant for this kernel, or not reached; the reason says which."""


@dataclass(frozen=True)
class Mismatch:
    """One expectation that was not met.

    ``what`` names it (``stdout``, ``errno``, ``log``, ``time``...), ``diff`` holds the
    comparison as lines of a unified diff, ready to print, where there is one.
    """

    what: str
    message: str
    diff: tuple[str, ...] = ()


@dataclass(frozen=True)
class CommandResult:
    """What a command in a guest gave. ``status`` is None where a signal ended it."""

    command: str
    status: int | None
    signal: str | None
    stdout: bytes
    stderr: bytes
    seconds: float
    truncated: bool = False


@dataclass(frozen=True)
class SubResult:
    """What a test program, or a module in the kernel's log, said of one of its tests.

    All texts are safe to show, and bounded.
    """

    path: tuple[str, ...]
    """Its name, behind those of the tests that it is a part of."""
    outcome: Outcome
    """An expected failure (``XFAIL``, ``TODO``) is skipped: it is no pass, and fails nothing."""
    directive: str = ""
    """``SKIP``, ``TODO``, ``XFAIL``, ``TIMEOUT`` or ``ERROR``, where it has one."""
    message: str = ""
    """What stands behind the directive or the name; of a failure that says nothing there, the line
    before it.
    """
    details: tuple[str, ...] = ()
    """What was printed around a failure."""

    @property
    def name(self) -> str:
        """The whole name in one line."""
        return ": ".join(self.path)

    @property
    def said(self) -> str:
        """Directive and message in one line; empty where it has neither."""
        return " ".join(part for part in (self.directive, self.message) if part)

    @property
    def line(self) -> str:
        """Its name and what is said of it."""
        return f"{self.name} # {self.said}" if self.said else self.name


@dataclass(frozen=True)
class StepResult:
    """What became of one step. ``command`` is absent for steps that ran none (``log``)."""

    number: int
    title: str
    outcome: Outcome
    seconds: float = 0.0
    mismatches: tuple[Mismatch, ...] = ()
    reason: str = ""
    command: CommandResult | None = None
    tests: tuple[SubResult, ...] = ()
    """What its TAP or KTAP says, where it has any."""

    def explain(self, mismatch: Mismatch) -> str:
        """One of its mismatches in a sentence that says which step it was."""
        return f"step {self.number}, {self.title}: {mismatch.message}"


@dataclass(frozen=True)
class Hang:
    """Where a guest was when a step of it did not end by its deadline."""

    step: int
    """The step's number."""
    explanation: str
    """Why it does not end, in words that are safe to show; empty where nothing tells."""
    stacks: tuple[Stack, ...] = ()
    """Of the tasks that may be why, those to blame first."""


@dataclass(frozen=True)
class Artifact:
    """A file that was brought back from a guest."""

    path: str
    """Where it was in the guest, safe to show."""
    file: str
    """Where it is, from the cell's folder of evidence."""
    size: int
    """In bytes."""
    sha256: str


@dataclass(frozen=True)
class KernelIdentity:
    """Which kernel a cell ran on. ``release`` is what ``uname -r`` says."""

    name: str
    release: str
    version: str
    source: str
    packages: tuple[str, ...] = ()
    kernel_sha256: str = ""


@dataclass(frozen=True)
class CellResult:
    """What became of one scenario on one kernel."""

    kernel: str
    scenario: str
    outcome: Outcome
    reason: str = ""
    """Why, in a line: the first mismatch, the first finding, the error, the skip's cause."""
    steps: tuple[StepResult, ...] = ()
    findings: tuple[Finding, ...] = ()
    """What the kernel complained of within the cell's window, expected, allowed or neither."""
    taint_before: int | None = None
    taint_after: int | None = None
    seconds: float = 0.0
    evidence: Path | None = None
    """The cell's folder, relative to the run's."""
    left_behind: tuple[Leftover, ...] = ()
    """Names that were not there before, without those that the scenario may leave."""
    build: BuildFailure | None = None
    """Why its module does not build, where that is the reason."""
    hang: Hang | None = None
    """What is known of the step that did not end, where one did not."""
    artifacts: tuple[Artifact, ...] = ()
    """What was brought back from its guest."""
    collect_notes: tuple[str, ...] = ()
    """What was not, and why; safe to show."""


BuiltBy = Literal["host", "guest", "cache"]
BootFormat = Literal["vmlinux", "bzImage"]


@dataclass(frozen=True)
class FolderBuild:
    """What became of one folder of modules, for one kernel."""

    name: str
    by: BuiltBy
    """Who built it; ``cache``: nobody, nothing has changed since it was built."""
    seconds: float
    error: str = ""
    """Why it did not build, where it did not."""


@dataclass(frozen=True)
class KernelResult:
    """What became of a kernel: its identity once known, its preparation, its cells."""

    name: str
    identity: KernelIdentity | None
    error: str = ""
    """Why nothing could be played on it, where that is so (also in each of its cells)."""
    hint: str = ""
    """The next thing to try, of the error."""
    evidence: str = ""
    """The file that holds the whole story of the error."""
    boot_seconds: float | None = None
    build_seconds: float | None = None
    boots: int = 0
    boot_findings: tuple[Finding, ...] = ()
    """What the kernel complained of before any module was loaded, at its first boot. Some checks
    are silent after their first report, lockdep's among them.
    """
    forks: int = 0
    """How many scenarios had a fork of a booted guest to themselves."""
    fork_note: str = ""
    """Why scenarios shared guests, where the lab would have had it otherwise."""
    cells: tuple[CellResult, ...] = ()
    builds: tuple[FolderBuild, ...] = ()
    """Every folder of the lab, where scenarios need modules."""
    build_note: str = ""
    """Why modules were built in the guest, where the lab would have had it otherwise."""
    last_lines: tuple[str, ...] = ()
    """The last of the console, where it is a guest that did not come up."""
    was_frozen: bool = False
    """Whether its guests go on from one that an earlier run booted and froze."""
    boot_format: BootFormat | None = None
    """What guests boot; None where it did not come to that."""
    boot_note: str = ""
    """Why it is the bzImage, which unpacks itself in the guest, where it is."""


@dataclass(frozen=True)
class AllowUse:
    """What an entry of the lab's ``allow`` was good for in a run."""

    entry: int
    """Its place in the list, from 0."""
    pattern: str
    reason: str
    until: str
    """The last day on which it counts."""
    expired: bool
    count: int
    """How many complaints it speaks of, expired or not."""
    unused: bool
    """Whether all that it is for was played, and passed, without any."""

    def note(self) -> str:
        """What to know of it, in a sentence; nothing where all is well."""
        name = f"allow[{self.entry}] of lab.yaml ({self.pattern})"
        if self.expired:
            return f"{name} expired on {self.until}: it allows nothing any more"
        if self.unused:
            return f"{name} is unused: all that it is for passed without it"
        return ""


@dataclass(frozen=True)
class SourcePlace:
    """Where a part of the lab is written."""

    name: str
    """Of the scenario, or of the folder of modules."""
    path: str
    """Of its file or folder, from the folder of lab.yaml, with slashes."""
    line: int | None = None
    """Counts from 1; None for a folder."""
    sha256: str = ""
    """Of what the scenario does, however it is written; empty for a folder."""


@dataclass(frozen=True)
class Revision:
    """What the lab's git repository was at when a run began."""

    name: str = ""
    """The commit; empty where the lab is in no repository."""
    dirty: bool = False
    """Whether the lab's folder had changes that were not committed."""


@dataclass(frozen=True)
class RunInput:
    """One thing that the verdicts of a run depend on."""

    name: str
    sha256: str
    """A hash of it; empty where it was not known when the run began."""


@dataclass(frozen=True)
class RunResult:
    """One invocation of ``lab run``."""

    lab: str
    run_id: str
    lab_version: str
    started: str
    """UTC, ISO 8601."""
    seconds: float
    accelerator: str
    accelerator_reason: str
    qemu_version: str
    interrupted: bool = False
    kernels: tuple[KernelResult, ...] = field(default=())
    allow: tuple[AllowUse, ...] = ()
    """The lab's allow-list, where it has one."""
    scenarios: tuple[SourcePlace, ...] = ()
    """Where those that were meant to be played are written."""
    folders: tuple[SourcePlace, ...] = ()
    """Where the lab's modules are."""
    revision: Revision = Revision()
    inputs: tuple[RunInput, ...] = ()
    """What has to be the same for the run to be resumed."""
    sandbox: str = ""
    """What stood around QEMU."""

    @property
    def cells(self) -> tuple[CellResult, ...]:
        """Every cell of every kernel."""
        return tuple(cell for kernel in self.kernels for cell in kernel.cells)

    def count(self, outcome: Outcome) -> int:
        """How many cells ended so."""
        return sum(cell.outcome is outcome for cell in self.cells)

    @property
    def errors(self) -> tuple[str, ...]:
        """Why kernels could not be used at all, each with the kernel's name."""
        return tuple(f"{kernel.name}: {kernel.error}" for kernel in self.kernels if kernel.error)


@dataclass(frozen=True)
class Verdict:
    """What a whole run comes to: the exit status, and the sentence that says why."""

    exit_status: int
    message: str


def judge_result(result: RunResult) -> Verdict:
    """The verdict on a run.

    The worst decides, and an error is worse than a failure: where the lab broke, nobody
    knows what else would have failed, and a failure that was seen stays in the report.
    A run that played nothing is an error too, or a misspelt selection would be green.
    """
    played = [cell for cell in result.cells if cell.outcome is not Outcome.SKIPPED]
    errors = result.count(Outcome.ERROR)
    failed = result.count(Outcome.FAILED)
    if result.interrupted:
        return Verdict(EXIT_INTERRUPTED, "interrupted")
    if errors or result.errors:
        return Verdict(EXIT_BROKEN, f"the lab broke: {_errors_in_words(result, errors)}")
    if not played:
        return Verdict(EXIT_BROKEN, "no scenario ran")
    if failed:
        return Verdict(EXIT_FAILED, f"{failed} of {_plural(len(played), 'scenario')} failed")
    return Verdict(EXIT_PASSED, f"{_plural(len(played), 'scenario')} passed")


def _errors_in_words(result: RunResult, errors: int) -> str:
    words = [f"{_plural(errors, 'scenario')} not judged"] if errors else []
    if result.errors:
        words.append(f"{_plural(len(result.errors), 'kernel')} not usable")
    return ", ".join(words)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
