"""What a terminal is shown of what a guest prints."""

from __future__ import annotations

import pytest

from orchestrator.doors.cli import split_words
from orchestrator.doors.terminal import shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\tb\n", "a\tb\n"),
        ("a\r\nb", "a\nb"),
        ("\x1b[2Jgone\n", "\\x1b[2Jgone\n"),
        ("50 %\rdone", "50 %\\rdone"),
        ("\u202etxt\n\n", "\\u202etxt\n\n"),
        ("", ""),
    ],
)
def test_what_a_terminal_would_obey_is_shown(text: str, expected: str) -> None:
    assert shown(text).decode() == expected


@pytest.mark.parametrize(
    ("argv", "given", "words"),
    [
        (["shell", "6.1"], ["shell", "6.1"], []),
        (["shell", "6.1", "--", "a", "--", "-b"], ["shell", "6.1"], ["a", "--", "-b"]),
        (["shell", "6.1", "--module", "d", "--", "a"], ["shell", "6.1", "--module", "d"], ["a"]),
        (["run", "--", "a"], ["run", "--", "a"], []),
        ([], [], []),
    ],
)
def test_a_command_for_the_guest_stands_behind_two_dashes(
    argv: list[str], given: list[str], words: list[str]
) -> None:
    split = split_words(argv)
    assert (list(split[0]), list(split[1])) == (given, words)
