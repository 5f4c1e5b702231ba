"""Why a module does not build: the first error, where it is, and what may be behind it.

What a compiler prints is hostile text: the guest made it. A line of source is shown only if
it is the module's own on the host, and the compiler showed the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import PurePosixPath

from orchestrator.plan.apichanges import ApiChange, find_change
from orchestrator.plan.version import KernelVersion
from orchestrator.plan.visible import clip, visible

MAX_MESSAGE = 300
MAX_SOURCE_LINE = 200
# gcc gives tabs this width, in its columns since gcc 11 and in what it shows of the source.
_TAB = 8
# How far behind an error its notes and its excerpt of the source are looked for.
_NEAR = 60

SourceLines = Callable[[str], Sequence[str] | None]
"""Gives the lines of one of the module's own files by its path inside the module's folder;
None for every other path, whatever it looks like."""


@dataclass(frozen=True)
class BuildFailure:
    """The first error of a module's build."""

    module: str
    """The module's name in the lab."""
    message: str
    """What the compiler, modpost or make said, without the place."""
    file: str = ""
    """Relative to the module's folder if it is in there, else as the compiler named it; empty
    where the error has no place."""
    line: int | None = None
    """Counts from 1."""
    column: int | None = None
    """Counts from 1, as the compiler counts: gcc before 11 in bytes, later in columns."""
    source: str = ""
    """The line, with spaces for tabs; empty where it is not one of the module's own."""
    caret: int | None = None
    """Where in ``source`` the column is, from 0."""
    change: ApiChange | None = None
    """The change of the kernel's API that is likely behind it."""
    advice: str = ""
    """What to do about it, where it is the kernel that lacks something."""

    @property
    def place(self) -> str:
        """``hello.c:12:9``, or as much of it as is known."""
        known = (self.file, self.line, self.column)
        return ":".join(str(part) for part in known if part not in (None, ""))

    def explain(self) -> str:
        """The whole in one line."""
        message = clip(self.message, MAX_MESSAGE)
        told = f"{self.place}: error: {message}" if self.file else message
        likely = f"; {self.change.explain()}" if self.change else ""
        advice = f": {self.advice}" if self.advice else ""
        return f"{self.module} does not build: {told}{likely}{advice}"

    def excerpt(self) -> tuple[str, ...]:
        """The line of source with its number, and below it the caret; safe to show."""
        shown = self.source.strip()
        if not shown:
            return ()
        number = f"{self.line:5} | "
        lines = [number + clip(visible(shown), MAX_SOURCE_LINE)]
        if self.caret is not None:
            indent = len(self.source) - len(self.source.lstrip())
            before = len(visible(self.source[indent : self.caret]))
            if before < MAX_SOURCE_LINE:
                lines.append(f"{'| ':>{len(number)}}{' ' * before}^")
        return tuple(lines)


# --- the first error -------------------------------------------------------------------------

_LOCATED = re.compile(
    r"^(?P<file>[^\s:][^:\n]{0,300}):(?P<line>\d{1,9}):(?:(?P<column>\d{1,9}):)?"
    r" (?:fatal )?error: (?P<message>.*)$",
    re.MULTILINE,
)
_EXPANSION = re.compile(
    r"(?P<file>[^\s:][^:\n]{0,300}):(?P<line>\d{1,9}):(?P<column>\d{1,9}): "
    r"note: in expansion of macro "
)
_TELLING = (
    re.compile(r"^.*\berror: .*$", re.MULTILINE),
    re.compile(r"^ERROR: .*$", re.MULTILINE),
    re.compile(r"^make(?:\[\d+\])?: \*\*\* .*$", re.MULTILINE),
)


def first_error(output: str) -> str:
    """The first line of a build's output that says what is wrong, cut where it is too long."""
    found = _LOCATED.search(output)
    return (found[0].strip() if found else _unlocated(output))[:MAX_MESSAGE]


def _unlocated(output: str) -> str:
    for pattern in _TELLING:
        if match := pattern.search(output):
            return match[0].strip()
    lines = [line for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


def parse_failure(
    module: str, output: str, folder: str, version: KernelVersion | None, sources: SourceLines
) -> BuildFailure:
    """What the output of a build that failed says.

    ``folder`` is where the module was built, and goes from all paths; ``version`` the
    kernel's, None where it is not known: then no change of the API is looked for.
    """
    located = _LOCATED.search(output)
    if located is None:
        failure = BuildFailure(module, _without(folder, _unlocated(output)))
    else:
        failure = _locate(module, located, output[located.end() :], folder, sources)
    if version is None:
        return failure
    return replace(failure, change=find_change(failure.message, failure.source, version))


def _locate(
    module: str, located: re.Match[str], rest: str, folder: str, sources: SourceLines
) -> BuildFailure:
    """The error with its place in the module.

    An error within a macro of the kernel's is where the module uses the macro: gcc says it in
    a note below.
    """
    place, near = located, _near(rest)
    own = sources(_relative(located["file"], folder))
    if own is None:
        for number, text in enumerate(near):
            note = _EXPANSION.match(text)
            lines = sources(_relative(note["file"], folder)) if note else None
            if note and lines is not None:
                place, own, near = note, lines, near[number + 1 :]
                break
    line, column = int(place["line"]), int(place["column"] or 0)
    source, caret = _source(own or (), line, column, near)
    return BuildFailure(
        module=module,
        message=_without(folder, located["message"].strip()),
        file=_relative(place["file"], folder),
        line=line,
        column=column or None,
        source=source,
        caret=caret,
    )


def _near(rest: str) -> list[str]:
    """The lines below an error that can belong to it: up to the next error."""
    found: list[str] = []
    for match in islice(re.finditer(r"[^\n]+", rest), _NEAR):
        if _LOCATED.match(match[0]):
            break
        found.append(match[0])
    return found


def _relative(file: str, folder: str) -> str:
    """A path inside the folder if it is in there, else as it is."""
    path = PurePosixPath(file)
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def _without(folder: str, text: str) -> str:
    return text.replace(f"{folder}/", "")


# --- the line of source ----------------------------------------------------------------------


def _source(
    lines: Sequence[str], line: int, column: int, near: Sequence[str]
) -> tuple[str, int | None]:
    """The line with spaces for tabs, and where in it the column is."""
    if not 0 < line <= len(lines):
        return "", None
    text = lines[line - 1].removesuffix("\r")
    expanded, shown = text.expandtabs(_TAB), _shown(line, near)
    if shown is not None and shown.split() != text.split():
        return "", None  # what was compiled is not what is here
    if not column:
        return expanded, None
    # Where gcc shows tabs as wide as they are, it counts them so in its columns too.
    if shown == expanded:
        return expanded, min(column - 1, len(expanded))
    before = text.encode()[: column - 1].decode(errors="replace")
    return expanded, len(before.expandtabs(_TAB))


def _shown(line: int, near: Sequence[str]) -> str | None:
    """The line of source that gcc showed below the error, if it did."""
    for told, below in pairwise(near):
        # gcc 9 and later: "   12 |         code();", gcc 8 and earlier: " code();"
        if match := re.match(r" *(\d{1,9}) \| ?(.*)", told):
            return match[2] if int(match[1]) == line else None
        if told.startswith(" ") and below.strip() and not below.strip(" ^~"):
            return told[1:]
    return None
