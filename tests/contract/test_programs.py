"""Test programs, sent and built by the same commands as in a guest, by this machine's tools."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import cast

import pytest

from orchestrator.adapters import programs
from orchestrator.adapters.programs import (
    Program,
    build_program,
    load_program,
    send_programs,
)
from orchestrator.adapters.ssh import Shell
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import ConfigError, MachineError
from orchestrator.plan.outcome import CommandResult

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")


class LocalShell:
    """What runs a command in a guest, but on this machine."""

    def run(
        self, command: str, deadline: Deadline, *, stdin: bytes = b"", limit: int = 1 << 20
    ) -> CommandResult:
        done = subprocess.run(
            ["sh", "-c", command],
            input=stdin,
            capture_output=True,
            timeout=deadline.left,
            check=False,
        )
        return CommandResult(
            command, done.returncode, None, done.stdout[:limit], done.stderr[:limit], 0.0
        )


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setattr(programs, "PROGRAMS_DIR", str(tmp_path / "guest"))
    return cast(Shell, LocalShell())


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    folder = tmp_path / "lab/suite"
    (folder / "data").mkdir(parents=True)
    (folder / "run.sh").write_text('#!/bin/sh\ncat "data/it\'s"; echo "$TARGET" "$@"\n')
    (folder / "run.sh").chmod(0o755)
    (folder / "data/it's").write_text("data\n")
    (folder / "Makefile").write_text("made:\n\techo made >made\nslow:\n\tsleep 100\n")
    return folder


def soon() -> Deadline:
    return Deadline.after(30, "the test")


def call(program: Program, file: str | None, *arguments: str, **environment: str) -> str:
    command = program.command(file, arguments, environment)
    return LocalShell().run(command, soon()).stdout.decode()


def test_a_folder_comes_with_all_that_is_in_it(guest: Shell, suite: Path) -> None:
    program = load_program("suite", suite, is_made=False)
    send_programs(guest, [program], soon())
    assert call(program, "run.sh", "a b", "$x", "'", "", TARGET="x y") == "data\nx y a b $x ' \n"
    assert program.build_command == ""


def test_programs_of_one_name_stay_apart(guest: Shell, suite: Path, tmp_path: Path) -> None:
    other = tmp_path / "other/suite"
    shutil.copytree(suite, other)
    (other / "data/it's").write_text("other\n")
    both = [load_program("a/suite", suite, False), load_program("b/suite", other, False)]
    send_programs(guest, both, soon())
    assert [call(each, "run.sh").split()[0] for each in both] == ["data", "other"]


@needs_make
def test_a_folder_is_made(guest: Shell, suite: Path, tmp_path: Path) -> None:
    program = load_program("suite", suite, is_made=True)
    send_programs(guest, [program], soon())
    built, said = build_program(guest, program, 30)
    assert (built, b"echo made" in said) == (True, True)
    assert (tmp_path / "guest" / program.label / "made").read_text() == "made\n"
    assert not (suite / "made").exists()


@needs_make
def test_a_build_that_does_not_end_is_ended(guest: Shell, suite: Path) -> None:
    (suite / "Makefile").write_text("slow:\n\techo begun; sleep 100\n")
    program = load_program("suite", suite, is_made=True)
    send_programs(guest, [program], soon())
    built, said = build_program(guest, program, 0.5)
    assert not built
    assert said.endswith(b"it was not built within 0.5 s\n")


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no compiler here")
@pytest.mark.parametrize(("code", "is_good"), [("puts(v[1]);", True), ("nowhere();", False)])
def test_a_c_source_is_compiled(guest: Shell, tmp_path: Path, code: str, is_good: bool) -> None:
    source = tmp_path / "my test.c"
    source.write_text(f"#include <stdio.h>\nint main(int c, char **v) {{ {code} return !c; }}\n")
    program = load_program("x/my test.c", source, is_made=False)
    send_programs(guest, [program], soon())
    built, said = build_program(guest, program, 30)
    assert built == is_good
    if is_good:
        assert call(program, None, "hello") == "hello\n"
    else:
        assert b"nowhere" in said


def test_what_changes_a_program_changes_its_name(suite: Path) -> None:
    labels = {load_program("suite", suite, False).label, load_program("suite", suite, True).label}
    (suite / "data/it's").write_text("changed\n")
    labels.add(load_program("suite", suite, False).label)
    (suite / "run.sh").chmod(0o644)
    labels.add(load_program("suite", suite, False).label)
    assert len(labels) == 4
    assert load_program("suite", suite, False) == load_program("suite", suite, False)


@pytest.mark.parametrize("name", ["../..", "a b/$(id)", "é" * 100, ".", "-x"])
def test_a_name_leads_nowhere(suite: Path, name: str) -> None:
    label = load_program(name, suite, False).label
    assert label.replace("-", "").replace("_", "").replace(".", "").isalnum()
    assert label.isascii()
    assert label[0] not in ".-"


def test_more_than_a_guest_takes_is_refused(suite: Path) -> None:
    with (suite / "disk.img").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigError, match="more than the 32 MiB"):
        load_program("suite", suite, is_made=False)


def test_a_guest_that_does_not_take_it_is_no_verdict(
    guest: Shell, suite: Path, tmp_path: Path
) -> None:
    (tmp_path / "guest").touch()
    program = load_program("suite", suite, is_made=False)
    with pytest.raises(MachineError, match="copying test programs into the guest: status 1"):
        send_programs(guest, [program], soon())
