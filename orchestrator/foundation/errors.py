"""Everything the lab can raise, as one tree.

::

    LabError                     exit status 3: the lab broke
    ├── ConfigError              exit status 2: what the user wrote (file:line:column)
    ├── UsageError               exit status 2: how the command was called
    ├── HostError                something of this machine is absent, denied or unusable
    ├── SourceError              a kernel, a package or a mirror could not be had
    ├── BuildError               a module did not compile (argv, status, last lines)
    ├── MachineError             a guest
    │   ├── LaunchError          QEMU did not start
    │   ├── BootError            the guest did not come up (with how far, and the last lines)
    │   ├── GuestDiedError            the guest powered off, rebooted, or QEMU died
    │   └── GuestPanickedError        the guest's kernel panicked
    ├── RunInterruptedError      exit status 130: the user ended the run
    └── ShellError               the way to run commands in a guest
        ├── ConnectError         no SSH connection
        ├── ConnectionLostError       the connection ended in the middle of a command
        └── CommandTimeoutError       the command did not end by its deadline

A failed test is never an exception: it is an ``Outcome``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

EXIT_PASSED = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_BROKEN = 3
EXIT_INTERRUPTED = 130


class LabError(Exception):
    """The lab could not do its work.

    ``message`` says what and where, ``hint`` the next thing to try (usually a
    command), ``evidence`` names the file that holds the whole story, and ``last_lines`` are
    the last of it, where it was a guest's console; they are safe to show.
    """

    exit_status: ClassVar[int] = EXIT_BROKEN

    def __init__(self, message: str, *, hint: str = "", evidence: Path | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.evidence = evidence
        self.last_lines: tuple[str, ...] = ()

    def explain(self, what: str, *, hint: str, evidence: Path, last_lines: tuple[str, ...]) -> None:
        """Put in front of the message what it means; what it has no word on is filled in."""
        self.message = f"{what}: {self.message}"
        self.args = (self.message,)
        self.hint = self.hint or hint
        self.evidence = self.evidence or evidence
        self.last_lines = last_lines

    def render(self) -> str:
        """The error as the user sees it: message, then all else on lines of their own."""
        lines = [self.message, *(f"  | {line}" for line in self.last_lines)]
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        if self.evidence is not None:
            lines.append(f"  see:  {self.evidence}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Position:
    """A place in a file; line and column count from 1."""

    path: Path
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}"


class ConfigError(LabError):
    """Something in ``lab.yaml``, a scenario file or a recipe is wrong.

    ``where`` is the place in the file, ``dotted`` the path of the value in the
    document (``scenarios.greeting.steps[2].expect``).
    """

    exit_status = EXIT_USAGE

    def __init__(
        self,
        message: str,
        *,
        where: Position | None = None,
        dotted: str = "",
        hint: str = "",
    ) -> None:
        place = f"{where}: " if where else ""
        inside = f" (at {dotted})" if dotted else ""
        super().__init__(f"{place}{message}{inside}", hint=hint)
        self.where = where
        self.dotted = dotted


class UsageError(LabError):
    """The command line asks for something that does not exist or makes no sense."""

    exit_status = EXIT_USAGE


class RunInterruptedError(LabError):
    """The user, or a signal, ended the run; every wait in every thread ends with this."""

    exit_status = EXIT_INTERRUPTED

    def __init__(self, message: str = "interrupted") -> None:
        super().__init__(message)


class HostError(LabError):
    """Something of the host is absent, denied, or in a state that does not work."""


class SourceError(LabError):
    """A kernel, a package or a whole mirror could not be had."""


class BuildError(LabError):
    """A module did not build: carries the command, its status and its output."""

    def __init__(
        self,
        message: str,
        *,
        argv: tuple[str, ...] = (),
        status: int | None = None,
        output: str = "",
        hint: str = "",
        evidence: Path | None = None,
    ) -> None:
        super().__init__(message, hint=hint, evidence=evidence)
        self.argv = argv
        self.status = status
        self.output = output


class MachineError(LabError):
    """A guest could not be started, or did not stay."""


class LaunchError(MachineError):
    """QEMU did not start: carries its command line, status and output."""

    def __init__(
        self,
        message: str,
        *,
        argv: tuple[str, ...] = (),
        status: int | None = None,
        output: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.argv = argv
        self.status = status
        self.output = output


class BootError(MachineError):
    """The guest did not come up by its deadline; the message ends with its last console line."""


class GuestDiedError(MachineError):
    """The guest powered off or rebooted ``by_itself``, or its QEMU died."""

    def __init__(self, message: str, *, by_itself: bool) -> None:
        super().__init__(message)
        self.by_itself = by_itself


class GuestPanickedError(MachineError):
    """The guest's kernel panicked."""


class ShellError(LabError):
    """The way to run commands in a guest is broken."""


class ConnectError(ShellError):
    """No SSH connection to the guest could be made."""


class ConnectionLostError(ShellError):
    """The connection ended while a command was running."""


class CommandTimeoutError(ShellError):
    """A command in the guest did not end by its deadline; carries what it printed so far."""

    def __init__(self, message: str, *, stdout: bytes = b"", stderr: bytes = b"") -> None:
        super().__init__(message)
        self.stdout = stdout
        self.stderr = stderr
