"""The tree of errors: exit statuses, and how each is shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.foundation import errors
from orchestrator.foundation.errors import (
    BuildError,
    CommandTimeoutError,
    ConfigError,
    GuestDiedError,
    HostError,
    LabError,
    LaunchError,
    MachineError,
    Position,
    RunInterruptedError,
    ShellError,
    SourceError,
    UsageError,
)


def all_errors() -> list[type[LabError]]:
    return [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, LabError)
    ]


def test_exit_statuses() -> None:
    special = {ConfigError: 2, UsageError: 2, RunInterruptedError: 130}
    for error in all_errors():
        assert error.exit_status == special.get(error, 3), error


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    """Each class, at the depth at which it is drawn, below the class that it extends."""
    assert errors.__doc__ is not None
    drawn = re.findall(r"^(?:    )([│├└─ ]*)(\w+Error)\b", errors.__doc__, re.MULTILINE)
    above: dict[int, str] = {}
    tree = {}
    for indent, name in drawn:
        depth = len(indent) // 4
        above[depth] = name
        tree[name] = above.get(depth - 1, "Exception")
    assert tree == {error.__name__: error.__bases__[0].__name__ for error in all_errors()}


def test_an_error_is_shown_with_hint_and_evidence_on_lines_of_their_own() -> None:
    error = LabError("it broke", hint="mend it", evidence=Path("/run/log"))
    assert error.render() == "it broke\n  hint: mend it\n  see:  /run/log"
    assert LabError("it broke").render() == "it broke"
    assert str(error) == error.message == "it broke"


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (ConfigError("wrong"), "wrong"),
        (ConfigError("wrong", where=Position(Path("lab.yaml"), 3, 7)), "lab.yaml:3:7: wrong"),
        (ConfigError("wrong", dotted="a.b[2]"), "wrong (at a.b[2])"),
        (
            ConfigError("wrong", where=Position(Path("x"), 1, 1), dotted="a", hint="so"),
            "x:1:1: wrong (at a)\n  hint: so",
        ),
    ],
)
def test_a_config_error_says_where(error: ConfigError, shown: str) -> None:
    assert error.render() == shown


def test_errors_carry_what_is_known() -> None:
    build = BuildError("no", argv=("make",), status=2, output="text", evidence=Path("log"))
    assert (build.argv, build.status, build.output, build.evidence) == (
        *(("make",), 2, "text"),
        Path("log"),
    )
    launch = LaunchError("no", argv=("qemu",), status=1, output="text")
    assert (launch.argv, launch.status, launch.output) == (("qemu",), 1, "text")
    timeout = CommandTimeoutError("late", stdout=b"out", stderr=b"err")
    assert (timeout.stdout, timeout.stderr) == (b"out", b"err")
    assert GuestDiedError("gone", by_itself=True).by_itself
    assert str(RunInterruptedError()) == "interrupted"


def test_a_lost_guest_and_a_lost_shell_are_different_things() -> None:
    assert not issubclass(ShellError, MachineError)
    assert not issubclass(MachineError, ShellError)
    assert not issubclass(HostError, SourceError)
