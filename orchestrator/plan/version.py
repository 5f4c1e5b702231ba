"""Kernel versions and ranges of them, as values that compare.

A version is what ``uname -r`` or a package's name says: numbers, perhaps a release
candidate, perhaps the distribution's suffix. A range is what a scenario says it is
for. Both are places on one line: every series (``5.4``) is a stretch of it, so that
a range is a list of stretches, and "impossible" means that none is left.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from typing import TypeAlias

MAX_TEXT = 200
"""Longest version or range that is looked at."""

_NUMBERS = 4  # 2.6.32.71 had four; no kernel had more

_VERSION = re.compile(
    r"""
    (?P<numbers> [0-9]{1,9} (?: \.[0-9]{1,9} ){0,3} )
    (?: [-~]rc (?P<rc> [0-9]{1,9} ) (?= [-+~._] | \Z ) )?
    (?P<suffix>
        (?! [-~]rc )                        # a release candidate without a number is a slip
        (?: [-+~_] | (?(rc) \. | (?!) ) )   # Fedora has 6.12.0-rc0.20240924git…
        [A-Za-z0-9+~._-]*
    )?
    """,
    re.VERBOSE,
)
_TOKEN = re.compile(r"(?P<tilde>~)|(?P<number>[0-9]+)|(?P<word>[^~0-9]+)")

_VERSION_ALLOWED = (
    "allowed are two to four numbers, then perhaps a release candidate and the distribution's "
    "suffix, as in '5.4', '6.13-rc2' or '5.4.0-216-generic'"
)
_RANGE_ALLOWED = (
    "allowed are '>=5.6', '>5.12', '<=5.12', '<6.0', '5.x', '5.4', '==5.4.12', '!=5.9', "
    "'4.19..6.1' and '*'; a blank between two means 'and', a comma means 'or'"
)

# One part of a suffix: its kind, then the number or the word; the kinds keep numbers
# and words from being compared with each other.
_Part: TypeAlias = tuple[int, int, str]
_TILDE, _END, _WORD, _NUMBER = range(4)

# A place on the line of versions. `rc` is _BEFORE_RC for the place below all release
# candidates and _RELEASE for a release; `side` tells a version from just below (-1)
# and just above (+1) it.
_Key: TypeAlias = tuple[tuple[int, ...], int, tuple[_Part, ...]]
_Cut: TypeAlias = tuple[tuple[int, ...], int, tuple[_Part, ...], int]
_Stretch: TypeAlias = tuple[_Cut, _Cut]
_BEFORE_RC = -1
_RELEASE = 10**9

_BOTTOM: _Cut = ((0,) * _NUMBERS, _BEFORE_RC, (), 0)
_TOP: _Cut = ((10**9 + 1,) * _NUMBERS, _BEFORE_RC, (), 0)


@functools.total_ordering
@dataclass(frozen=True, eq=False)
class KernelVersion:
    """A version of the kernel, as ``uname -r`` prints it.

    Equal and ordered by meaning: ``5.4`` equals ``5.4.0``, a release candidate comes
    before its release, and the numbers in a suffix count as numbers (``-9`` before
    ``-56``). A ``~`` in a suffix comes before its absence, as in Debian's packages.
    """

    text: str
    numbers: tuple[int, ...]
    rc: int | None = None
    suffix: str = ""
    _key: _Key = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rc = _RELEASE if self.rc is None else self.rc
        object.__setattr__(self, "_key", (_padded(self.numbers), rc, _suffix_parts(self.suffix)))

    @classmethod
    def parse(cls, text: str) -> KernelVersion:
        """The version that ``text`` writes; ``ValueError`` says what is allowed."""
        version = _parse_bound(text)
        if version is None or len(version.numbers) < 2:
            raise ValueError(f"{_shown(text)} is not a kernel version: {_VERSION_ALLOWED}")
        return version

    def __eq__(self, other: object) -> bool:
        return self._key == other._key if isinstance(other, KernelVersion) else NotImplemented

    def __lt__(self, other: KernelVersion) -> bool:
        return self._key < other._key if isinstance(other, KernelVersion) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key)

    def __str__(self) -> str:
        return self.text


def _padded(numbers: tuple[int, ...]) -> tuple[int, ...]:
    return numbers + (0,) * (_NUMBERS - len(numbers))


def _suffix_parts(suffix: str) -> tuple[_Part, ...]:
    """A suffix as parts that compare; the end is a part too, so that ``~`` can sort below it."""
    parts: list[_Part] = []
    for match in _TOKEN.finditer(suffix):
        if match["tilde"]:
            parts.append((_TILDE, 0, ""))
        elif match["number"]:
            parts.append((_NUMBER, int(match["number"]), ""))
        else:
            parts.append((_WORD, 0, match["word"]))
    return (*parts, (_END, 0, ""))


def _parse_bound(text: str) -> KernelVersion | None:
    """A version that may also be a single number (``6``), or None if it is none."""
    match = _VERSION.fullmatch(text) if len(text) <= MAX_TEXT else None
    if match is None:
        return None
    return KernelVersion(
        text=text,
        numbers=tuple(int(number) for number in match["numbers"].split(".")),
        rc=None if match["rc"] is None else int(match["rc"]),
        suffix=match["suffix"] or "",
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:59]}…")


@dataclass(frozen=True)
class VersionRange:
    """A set of kernel versions, written as comparisons.

    A bound stands for as many numbers as it names: ``<=5.12`` holds 5.12.19, ``>5.12``
    begins at 5.13, ``5.4`` is the whole series with its release candidates. A bound
    with a release candidate or a suffix is that one version. Two ranges are equal when
    they hold the same versions.
    """

    text: str = field(compare=False)
    _stretches: tuple[_Stretch, ...] = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> VersionRange:
        """The range that ``text`` writes, everything if it is empty or ``*``.

        Raises ``ValueError`` where the text is not understood, or where it is but no
        version could ever be inside.
        """
        if len(text) > MAX_TEXT:
            raise ValueError(f"the range is longer than {MAX_TEXT} characters")
        written = text.strip()
        if written in ("", "*"):
            return cls(written, ((_BOTTOM, _TOP),))
        found: list[_Stretch] = []
        for alternative in written.split(","):
            found += _parse_alternative(alternative, written)
        return cls(written, _merged(found))

    def contains(self, version: KernelVersion) -> bool:
        """Whether ``version`` is inside."""
        place = (*version._key, 0)
        return any(low <= place < high for low, high in self._stretches)

    def __str__(self) -> str:
        return self.text or "*"


_COMPARISON = re.compile(r"(?P<operator>>=|<=|==|!=|>|<|)(?P<bound>[^\s<>=!]+)")
_BLANKS_AFTER_OPERATOR = re.compile(r"([<>=!])\s+(?=[0-9])")


def _parse_alternative(text: str, whole: str) -> list[_Stretch]:
    """The stretches of comparisons that must all hold; ``ValueError`` if nothing is left."""
    words = _BLANKS_AFTER_OPERATOR.sub(r"\1", text).split()
    if not words:
        raise ValueError(f"a comma in {_shown(whole)} has nothing on one side: {_RANGE_ALLOWED}")
    left: list[_Stretch] = [(_BOTTOM, _TOP)]
    for word in words:
        left = _both(left, _parse_comparison(word))
    if not left:
        reason = ": its parts exclude each other" if len(words) > 1 else ""
        raise ValueError(f"no version can be in {_shown(text.strip())}{reason}")
    return left


def _parse_comparison(word: str) -> list[_Stretch]:
    if ".." in word:
        return [_parse_span(word)]
    match = _COMPARISON.fullmatch(word)
    if match is None:
        raise _not_understood(word)
    operator, bound = match["operator"], match["bound"]
    if bound.endswith(".x"):
        if operator:
            raise ValueError(
                f"{_shown(word)}: a series with '.x' stands alone, without {operator!r}"
            )
        bound = bound.removesuffix(".x")
        if re.fullmatch(r"[0-9.]+", bound) is None:
            raise _not_understood(word)
    low, high = _stretch_of(bound, word)
    return {
        "": [(low, high)],
        "==": [(low, high)],
        "!=": [(_BOTTOM, low), (high, _TOP)],
        ">=": [(low, _TOP)],
        ">": [(high, _TOP)],
        "<=": [(_BOTTOM, high)],
        "<": [(_BOTTOM, low)],
    }[operator]


def _parse_span(word: str) -> _Stretch:
    """``4.19..6.1``: from the first of its first series to the last of its last."""
    first, _, last = word.partition("..")
    if not first or not last:
        raise ValueError(
            f"{_shown(word)} lacks an end: write '>={first}' for an open end"
            if first
            else f"{_shown(word)} lacks its beginning: write '<={last}' for an open beginning"
        )
    low, high = _stretch_of(first, word)[0], _stretch_of(last, word)[1]
    if low >= high:
        raise ValueError(f"{_shown(word)} runs backwards: the lower version comes first")
    return low, high


def _stretch_of(bound: str, word: str) -> _Stretch:
    """The versions that a bound stands for: a series, or one version if it says so much."""
    version = _parse_bound(bound)
    if version is None:
        raise _not_understood(word)
    if version.rc is not None or version.suffix:
        return (*version._key, -1), (*version._key, 1)
    *front, last = version.numbers
    return _series_start(version.numbers), _series_start((*front, last + 1))


def _series_start(numbers: tuple[int, ...]) -> _Cut:
    return _padded(numbers), _BEFORE_RC, (), 0


def _not_understood(word: str) -> ValueError:
    return ValueError(f"{_shown(word)} is not understood: {_RANGE_ALLOWED}")


def _both(ones: list[_Stretch], others: list[_Stretch]) -> list[_Stretch]:
    """What is in a stretch of ``ones`` and in one of ``others``."""
    overlaps = ((max(a, c), min(b, d)) for a, b in ones for c, d in others)
    return [(low, high) for low, high in overlaps if low < high]


def _merged(stretches: list[_Stretch]) -> tuple[_Stretch, ...]:
    """The same versions in the fewest stretches, so that equal ranges compare equal."""
    merged: list[_Stretch] = []
    for low, high in sorted(stretches):
        if merged and low <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)
