"""Regular expressions that cannot hang: the time to search is linear in the text.

Python's ``re`` goes back to try again, and a pattern such as ``(a+)+$`` takes for ever on a
line of forty characters; nothing can stop it once it runs. Here all ways are followed at once
(Thompson, "Regular expression search algorithm", CACM 1968), so what cannot be done so, look
around and back references, is refused. The syntax is Python's; what a single character must be
like is left to ``re``.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

MAX_STATES = 2000
"""Of one pattern: ``{1000}`` counts a thousand times."""
_MAX_CACHE = 4096
_CLASS = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]")
_REPEAT = re.compile(r"\{(\d*)(?:(,)(\d*))?\}")
_ESCAPE = re.compile(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.)", re.DOTALL)
_EDGES = {r"\A": "start", "^": "start", r"\Z": "end", "$": "end", r"\b": "edge", r"\B": "no-edge"}


@dataclass(frozen=True)
class _State:
    """One step of the pattern, with where it goes on: two ways, one, or none at the end."""

    to: tuple[int, ...]
    char: re.Pattern[str] | None = None
    """What the next character must be like."""
    edge: str = ""
    """What the place between two characters must be like."""


# Makes states that lead to a given one; the number of the first.
_Part = Callable[[int], int]
_Places = frozenset[int]


class LinearPattern:
    """A compiled pattern. Raises ``re.error`` for what is none to Python either, ``ValueError``
    for what is not taken here.
    """

    def __init__(self, text: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(text)
            self._text = text
            self._at = 0
            self._states: list[_State] = []
            whole = self._alternatives()
        self._end = self._add(_State(()))
        self._start = whole(self._end)
        self._cache: dict[tuple[_Places, str, str], _Places | None] = {}

    def search(self, text: str) -> bool:
        """Whether the pattern fits anywhere in the text."""
        places: _Places | None = frozenset()
        for at in range(len(text) + 1):
            key = (places or frozenset(), text[at - 1 : at] if at else "", text[at : at + 1])
            if key not in self._cache:
                if len(self._cache) >= _MAX_CACHE:
                    self._cache.clear()
                self._cache[key] = self._advance(*key)
            places = self._cache[key]
            if places is None:
                return True
        return False

    def _advance(self, places: _Places, before: str, char: str) -> _Places | None:
        """Where it stands behind the next character; None if the pattern is at its end."""
        edges = _edges(before, char)
        todo = [self._start, *places]
        seen: set[int] = set()
        after: set[int] = set()
        while todo:
            number = todo.pop()
            if number in seen:
                continue
            seen.add(number)
            state = self._states[number]
            if number == self._end:
                return None
            if state.char is None:
                if not state.edge or state.edge in edges:
                    todo += state.to
            elif char and state.char.match(char):
                after.update(state.to)
        return frozenset(after)

    # --- reading the pattern ---------------------------------------------------------------

    def _add(self, state: _State) -> int:
        if len(self._states) >= MAX_STATES:
            raise ValueError(f"too large: more than {MAX_STATES} steps, repetitions counted")
        self._states.append(state)
        return len(self._states) - 1

    def _refuse(self, what: str) -> NoReturn:
        raise ValueError(f"{what} is not taken here, as it can make the search endless")

    def _take(self, text: str) -> bool:
        """Go on behind ``text`` if it is what comes next."""
        if not self._text.startswith(text, self._at):
            return False
        self._at += len(text)
        return True

    def _alternatives(self) -> _Part:
        parts = [self._sequence()]
        while self._take("|"):
            parts.append(self._sequence())
        if len(parts) == 1:
            return parts[0]
        return lambda to: self._add(_State(tuple(part(to) for part in parts)))

    def _sequence(self) -> _Part:
        parts = []
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            parts.append(self._repeated(self._atom()))

        def build(to: int) -> int:
            for part in reversed(parts):
                to = part(to)
            return to

        return build

    def _atom(self) -> _Part:
        if self._take("("):
            if self._take("?") and not self._take(":"):
                self._refuse("a group that begins with (?, other than (?:,")
            inner = self._alternatives()
            self._take(")")
            return inner
        if match := _CLASS.match(self._text, self._at):
            token = match[0]
        elif match := _ESCAPE.match(self._text, self._at):
            token = match[0]
            if token[1].isdigit() or token[1] in "NU":
                self._refuse(f"{token}")
        else:
            token = self._text[self._at]
        self._at += len(token)
        if token in _EDGES:
            return lambda to: self._add(_State((to,), edge=_EDGES[token]))
        char = re.compile(re.escape(token) if token in "]{}" else token, re.DOTALL)
        return lambda to: self._add(_State((to,), char))

    def _repeated(self, part: _Part) -> _Part:
        """The part as often as what stands behind it says."""
        bounds = self._bounds()
        if bounds is None:
            return part
        if self._take("+"):
            self._refuse("a quantifier with + behind it")
        self._take("?")  # lazy or not is all the same where only one thing is asked
        least, most = bounds

        def build(to: int) -> int:
            if most is None:
                loop = self._add(_State(()))
                self._states[loop] = _State((part(loop), to))
                to = loop
            else:
                end = to
                for _ in range(most - least):
                    to = self._add(_State((part(to), end)))
            for _ in range(least):
                to = part(to)
            return to

        return build

    def _bounds(self) -> tuple[int, int | None] | None:
        for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(sign):
                return bounds
        match = _REPEAT.match(self._text, self._at)
        if match is None or not (match[1] or match[2]):
            return None
        self._at = match.end()
        least = int(match[1] or 0)
        most = int(match[3]) if match[3] else None if match[2] else least
        if max(least, most or 0) > MAX_STATES:
            raise ValueError(f"too large: more than {MAX_STATES} repetitions")
        return least, most


def _edges(before: str, after: str) -> frozenset[str]:
    """What the place between two characters is; empty text stands for the ends."""
    found = {"edge" if _is_word(before) != _is_word(after) else "no-edge"}
    if not before:
        found.add("start")
    if not after:
        found.add("end")
    return frozenset(found)


def _is_word(char: str) -> bool:
    return bool(char) and (char.isalnum() or char == "_")
