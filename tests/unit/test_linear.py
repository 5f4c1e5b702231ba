"""Regular expressions in linear time: they find what Python's find, and never hang."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.plan.linear import MAX_STATES, LinearPattern

PATTERNS = [
    "",
    "abc",
    "a|b|",
    "^ab*c$",
    "a.c",
    "[a-c]x",
    "[^a-c]x",
    "[]a]",
    "[^]a]b",
    r"[\]\d]",
    r"\d+\.\d+",
    r"\bab\b",
    r"\Bb",
    "(ab)+c",
    "(?:ab|a)(?:c|bc)$",
    "a{2}",
    "a{2,}b",
    "a{,2}b",
    "^a{1,3}$",
    "a{b",
    "a{}",
    "{a}",
    "(a*)*b",
    "(a|ab)(c|bcd)(d*)",
    "a+?b",
    r"\x41\u0042",
    r"\Aab\Z",
    "x*",
    r"WARNING: .* at \S+:\d+ f\+0x",
]
TEXTS = ["", "a", "ab", "abc", "abcd", "aab b", "x", "cx", "]", "12.5", "AB", "a{b", "a{}", "{a}"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_it_finds_what_python_finds(pattern: str) -> None:
    linear = LinearPattern(pattern)
    for text in (*TEXTS, "WARNING: CPU: 0 PID: 1 at a/b.c:12 f+0x1/0x2"):
        assert linear.search(text) == bool(re.search(pattern, text)), text


PIECES = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", r"\b", "^", "$", "(a|b)", "(?:ab)"])
TIMES = st.sampled_from(["", "", "*", "+", "?", "{2}", "{1,2}", "*?"])
SOME = st.lists(st.tuples(PIECES, TIMES), max_size=5)


@settings(deadline=None, max_examples=60)  # the machine may be busy
@given(SOME, st.text("abc ", max_size=8))
@example([("(a|b)", "*"), ("a", "")], "bbba")
def test_it_agrees_with_python(pieces: list[tuple[str, str]], text: str) -> None:
    pattern = "".join(
        piece if piece in (r"\b", "^", "$") else piece + times for piece, times in pieces
    )
    assert LinearPattern(pattern).search(text) == bool(re.search(pattern, text))


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*b", "(a*)*c", "(a?){40}a{40}x"])
def test_it_does_not_hang(pattern: str) -> None:
    started = time.monotonic()
    assert not LinearPattern(pattern).search("a" * 300 + "!")
    assert time.monotonic() - started < 20  # Python's own takes longer than the sun will shine


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (r"(a)\1", r"\\1 is not taken"),
        ("a(?=b)", r"\(\?"),
        ("(?<!a)b", r"\(\?"),
        ("(?P<x>a)", r"\(\?"),
        ("(?i)a", r"\(\?"),
        ("a++b", "with \\+ behind it"),
        (f"a{{{MAX_STATES}}}", "too large"),
        ("(((a{50}){50}){50}){50}", "too large"),
        ("(){100000000}", "too large"),
        (r"\N{BULLET}", "not taken"),
    ],
)
def test_what_would_take_going_back_is_refused(pattern: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LinearPattern(pattern)


def test_what_python_refuses_is_refused() -> None:
    with pytest.raises(re.error):
        LinearPattern("(a")
