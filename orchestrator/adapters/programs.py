"""Test programs of a lab in a guest: sent as they are, and built there where they have to be.

They are built with the guest's own compiler, because its C library is what they will run with.
"""

from __future__ import annotations

import hashlib
import io
import re
import shlex
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from orchestrator.adapters.archive import files_below, pack_files
from orchestrator.adapters.ssh import Shell, check
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import CommandTimeoutError, ConfigError, MachineError

PROGRAMS_DIR = "/lab/programs"
# A guest has them in its memory.
MAX_PROGRAM_BYTES = 32 << 20
MAX_LOG_BYTES = 1 << 16

Build = Literal["", "cc", "make"]


@dataclass(frozen=True)
class Program:
    """What an ``exec`` step brings, as it was when it was read."""

    name: str
    """What the lab calls it: a path."""
    build: Build
    """How it becomes something that runs; not at all, if it is empty."""
    file: str
    """The one file that it is, as it is called there; empty for a folder."""
    archive: bytes = field(repr=False)

    @cached_property
    def sha256(self) -> str:
        """Of all that makes it what it is in a guest."""
        digest = hashlib.sha256(f"{self.build}\0{self.file}\0".encode())
        digest.update(self.archive)
        return digest.hexdigest()

    @property
    def key(self) -> tuple[str, bool]:
        """By what a step finds it: the path, and whether it is made."""
        return self.name, self.build == "make"

    @property
    def label(self) -> str:
        """A name for its folder and its log that no other program has."""
        plain = re.sub(r"[^A-Za-z0-9._-]+", "_", self.name).strip("._-")[-40:]
        return f"{plain or 'program'}-{self.sha256[:12]}"

    @property
    def folder(self) -> str:
        """Where it is in a guest."""
        return f"{PROGRAMS_DIR}/{self.label}"

    @property
    def build_command(self) -> str:
        """What builds it, by ``sh -c``; empty where nothing has to be built."""
        folder = shlex.quote(self.folder)
        if self.build == "make":
            return f'cd {folder} && make -j"$(nproc)" 2>&1'
        if self.build == "cc":
            source, target = shlex.quote(f"./{self.file}"), shlex.quote(self._target)
            return f"cd {folder} && cc -O2 -Wall -pthread -o {target} {source} 2>&1"
        return ""

    @property
    def _target(self) -> str:
        return f"./{self.file.removesuffix('.c')}"

    def command(
        self, program: str | None, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> str:
        """What runs it, by ``sh -c``, in its own folder; ``program`` is a path in that."""
        path = self._target if self.build == "cc" else f"./{program or self.file}"
        words = [path, *arguments]
        if environment:
            words = ["env", *(f"{name}={value}" for name, value in environment.items()), *words]
        return f"cd {shlex.quote(self.folder)} && exec {shlex.join(words)}"


def load_program(name: str, path: Path, is_made: bool) -> Program:
    """What is at a path of the lab, read once. Raises ``ConfigError`` for more than is brought."""
    too_much = ConfigError(
        f"{name} holds more than the {MAX_PROGRAM_BYTES >> 20} MiB that are brought into a guest",
        hint="name the folder of the test program, not one above it",
    )
    is_folder = path.is_dir()
    files = files_below(path, lambda _: True) if is_folder else [(path.name, path)]
    build: Build = "make" if is_made else "cc" if not is_folder and path.suffix == ".c" else ""
    archive = pack_files(files, limit=MAX_PROGRAM_BYTES, too_much=too_much)
    return Program(name, build, "" if is_folder else path.name, archive)


def send_programs(shell: Shell, programs: Iterable[Program], deadline: Deadline) -> None:
    """Copy programs into a guest, all with one command: without KVM each takes a second.

    Raises ``MachineError`` or ``ShellError``.
    """
    command = f"mkdir -p {PROGRAMS_DIR} && tar -x -m --no-same-owner -C {PROGRAMS_DIR}"
    result = shell.run(command, deadline, stdin=_joined(programs))
    check(result, "copying test programs into the guest", MachineError)


def _joined(programs: Iterable[Program]) -> bytes:
    """The archives of all programs in one, each in a folder of its own."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as joined:
        for program in programs:
            folder = tarfile.TarInfo(program.label)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            joined.addfile(folder)
            with tarfile.open(fileobj=io.BytesIO(program.archive), mode="r:") as tar:
                for member in tar:
                    content = tar.extractfile(member)
                    member.name = f"{program.label}/{member.name}"
                    joined.addfile(member, content)
    return out.getvalue()


def build_program(shell: Shell, program: Program, seconds: float) -> tuple[bool, bytes]:
    """Build a program where it was sent to: whether that went well, and the end of what it said.

    Raises ``ShellError`` where the guest cannot be asked.
    """
    # The guest's own limit, so that nothing of it is left running where it is frozen.
    limited = f"timeout -k 1 {seconds:g} sh -c {shlex.quote(program.build_command)}"
    try:
        deadline = Deadline.after(seconds + 10, f"building {program.name}")
        result = shell.run(limited, deadline)
    except CommandTimeoutError as timeout:
        return False, timeout.stdout[-MAX_LOG_BYTES:] + _late(seconds)
    said = (result.stdout + result.stderr)[-MAX_LOG_BYTES:]
    # timeout(1) gives 124, or 137 where it had to kill.
    if result.status in (124, 137) or result.signal == "SIGKILL":
        said += _late(seconds)
    return result.status == 0, said


def _late(seconds: float) -> bytes:
    return f"\nit was not built within {seconds:g} s\n".encode()
