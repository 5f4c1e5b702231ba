"""What a Kbuild file or Makefile builds, as far as it can be seen without running make.

Out-of-tree modules are named by ``obj-m`` and its like (Documentation/kbuild/modules.rst,
Linux 6.1). Both branches of a conditional count, because which of them holds depends on the
kernel. What takes more than variables and a few text functions is told, and never guessed.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

MAX_LINES = 20_000
MAX_TEXT = 100_000
_MAX_DEPTH = 20
_MAX_REFERENCES = 100_000
_MAX_COMMAND = 4_000
# What kbuild itself sets to the folder that is built.
_HERE = frozenset({"src", "obj", "M", "PWD", "CURDIR", "KBUILD_EXTMOD", "srctree/$(src)"})


@dataclass(frozen=True)
class Unclear:
    """Something that could not be made out."""

    line: int
    """Counts from 1."""
    message: str


@dataclass(frozen=True)
class BuiltObject:
    """A module that a file names: ``obj-m += name.o``."""

    name: str
    line: int
    parts: tuple[str, ...] = ()
    """The objects that it is linked from; empty where that is ``name.o`` alone."""


@dataclass(frozen=True)
class Rule:
    """A rule with its recipe, variables replaced where they are known."""

    targets: tuple[str, ...]
    needs: tuple[str, ...]
    recipe: tuple[str, ...]
    kernel_variable: str = ""
    """The variable that names the kernel's build tree, where the recipe runs make there."""
    runs_kernel_make: bool = False


@dataclass(frozen=True)
class Makefile:
    """What can be seen in one file."""

    objects: tuple[BuiltObject, ...] = ()
    folders: tuple[str, ...] = ()
    """The folders that it goes on to, as in ``obj-m += sub/``, without the slash."""
    options: tuple[str, ...] = ()
    """``CONFIG_X`` of each ``obj-$(CONFIG_X)`` that names something, unless it is set here for
    kbuild."""
    rules: tuple[Rule, ...] = ()
    unclear: tuple[Unclear, ...] = ()


def parse_makefile(text: str, names: Collection[str] = ()) -> Makefile:
    """What the text of a Kbuild file or Makefile builds.

    ``names`` are the names of the files beside it, for ``$(wildcard …)``. Raises nothing.
    """
    return _Reader(names).read(text[:MAX_TEXT])


# --- lines ---------------------------------------------------------------------------------


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Each line with its number, those that end in a backslash joined, comments left out."""
    start, joined = 0, ""
    for number, line in enumerate(text.split("\n")[:MAX_LINES], 1):
        start = start or number
        if line.endswith("\\"):
            joined += line[:-1] + " "
            continue
        yield start, re.sub(r"(?<!\\)#.*", "", joined + line).rstrip()
        start, joined = 0, ""
    if joined:
        yield start, joined.rstrip()


# What may stand before a variable that is set.
_BEFORE = frozenset({"export", "override"})
_OPERATORS = frozenset({"=", ":=", "::=", ":::=", "+=", "?=", "!="})
_CONDITIONAL = re.compile(r"\s*(ifeq|ifneq|ifdef|ifndef|else|endif|include|-include)\b")
_OBJ = re.compile(r"obj-(m|y|\$[({](CONFIG_\w+)[)}])$")
_KERNEL_MAKE = re.compile(r"(?:^|\s)-C\s*\S+.*\b(?:M|SUBDIRS|KBUILD_EXTMOD)=|\bM=.*\s-C\s*\S+")
_KERNEL_VARIABLE = re.compile(r"-C\s*[\"']?\$[({](\w+)[)}]")


@dataclass
class _RawRule:
    targets: str
    needs: str
    recipe: list[str] = field(default_factory=list)


class _UnknownError(Exception):
    """Something in a text that cannot be replaced."""


@dataclass(frozen=True)
class _Named:
    """Words that an ``obj-`` line gives, as they stand there."""

    line: int
    kind: str
    option: str
    text: str


class _Reader:
    """Reads one file from top to bottom."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._values: dict[str, str] = {}
        self._written: dict[str, str] = {}
        self._exported: set[str] = set()
        self._named: list[_Named] = []
        self._rules: list[_RawRule] = []
        self._unclear: list[Unclear] = []
        self._defining = False
        self._references = 0

    def read(self, text: str) -> Makefile:
        rule: _RawRule | None = None
        for number, line in logical_lines(text):
            if self._is_in_define(line):
                continue
            if line.startswith("\t") and rule is not None:
                rule.recipe.append(line.strip())
            elif not line.strip() or _CONDITIONAL.match(line):
                continue
            else:
                rule = self._read_line(number, line)
        return self._conclude()

    def _is_in_define(self, line: str) -> bool:
        if re.match(r"\s*(override\s+)?define\b", line):
            self._defining = True
        inside = self._defining
        if re.match(r"\s*endef\b", line):
            self._defining = False
        return inside

    def _read_line(self, number: int, line: str) -> _RawRule | None:
        if (assignment := _split_assignment(line)) is not None:
            self._assign(number, *assignment)
            return None
        targets, colon, rest = line.partition(":")
        if not colon or "=" in targets:
            return None
        needs, _, recipe = rest.removeprefix(":").partition(";")
        if "=" not in needs:  # else it is a variable for these targets alone
            rule = _RawRule(targets, needs, [recipe.strip()] if recipe else [])
            self._rules.append(rule)
            return rule
        return None

    def _assign(self, number: int, words: str, name: str, operator: str, value: str) -> None:
        if "export" in words:
            self._exported.add(name)
        if kind := _OBJ.fullmatch(name):
            self._named.append(_Named(number, kind[1], kind[2] or "", value))
            return
        name = self._expand_known(name)
        self._written[name] = f"{self._written.get(name, '')} {value}"[:MAX_TEXT]
        if operator == "?=" and name in self._values:
            return
        if operator in (":=", "::=", "+=", ":::="):
            value = self._expand_known(value)
        if operator == "+=" and (before := self._values.get(name)):
            value = f"{before} {value}"
        if operator == "!=":
            value = "$(shell)"
        self._values[name] = value[:MAX_TEXT]

    # --- what it comes to --------------------------------------------------------------------

    def _conclude(self) -> Makefile:
        objects: dict[str, BuiltObject] = {}
        folders: dict[str, None] = {}
        options: dict[str, None] = {}
        for named in self._named:
            try:
                words = self._expand(named.text).split()
            except _UnknownError as unknown:
                what = f"obj-{named.kind}: {unknown}"
                self._unclear.append(Unclear(named.line, what))
                continue
            if named.option and words and self._is_from_outside(named.option):
                options[named.option] = None
            for word in words:
                if word.endswith("/"):
                    folders[word.strip("/")] = None
                elif word.endswith(".o") and named.kind != "y":
                    one = self._object(word[:-2], named)
                    objects.setdefault(one.name, one)
        rules = tuple(self._rule(rule) for rule in self._rules)
        return Makefile(
            tuple(objects.values()), tuple(folders), tuple(options), rules, tuple(self._unclear)
        )

    def _is_from_outside(self, option: str) -> bool:
        """Whether kbuild must be told an option: what a file exports is meant for the make that
        it starts, and often set only where kbuild does not read it.
        """
        return option not in self._values or option in self._exported

    def _object(self, name: str, named: _Named) -> BuiltObject:
        parts: list[str] = []
        for ending in ("-objs", "-y", "-m"):
            text = self._values.get(name + ending, "")
            parts += self._expand_known(text).split()
        for key, text in self._values.items():
            if key.startswith(f"{name}-$(CONFIG_"):
                parts += self._expand_known(text).split()
        known = tuple(dict.fromkeys(part[:-2] for part in parts if part.endswith(".o")))
        return BuiltObject(name, named.line, known)

    def _rule(self, rule: _RawRule) -> Rule:
        recipe = [self._expand_known(line) for line in rule.recipe]
        at_work = zip(rule.recipe, recipe, strict=True)
        kernel = next(
            (raw for raw, line in at_work if _KERNEL_MAKE.search(line[:_MAX_COMMAND])), ""
        )
        variable = _KERNEL_VARIABLE.search(f"{kernel} {self._values_in(kernel)}")
        return Rule(
            tuple(self._expand_known(rule.targets).split()),
            tuple(word for word in self._expand_known(rule.needs).split() if word != "|"),
            tuple(recipe),
            variable[1] if variable else "",
            bool(kernel),
        )

    def _values_in(self, text: str) -> str:
        """What the variables that a text refers to hold, as it stands in the file."""
        names = re.findall(r"\$[({](\w+)[)}]", text)
        return " ".join(self._written.get(name, "") for name in names)

    # --- variables and functions -------------------------------------------------------------

    def _expand_known(self, text: str) -> str:
        """The text with references in it only where they are not known."""
        try:
            return self._expand(text, lenient=True)
        except _UnknownError:
            return text

    def _expand(self, text: str, depth: int = 0, *, lenient: bool = False) -> str:
        if depth > _MAX_DEPTH:
            raise _UnknownError("it refers to itself")
        out: list[str] = []
        place = size = 0
        while (dollar := text.find("$", place)) >= 0:
            out.append(text[place:dollar])
            inner, after = _reference(text, dollar)
            try:
                out.append(self._value(inner, depth + 1, lenient))
            except _UnknownError:
                if not lenient:
                    raise
                out.append(text[dollar:after])
            place = after
            size += len(out[-1])
            if size > MAX_TEXT:
                raise _UnknownError("it is too long")
        out.append(text[place:])
        return "".join(out)

    def _value(self, inner: str, depth: int, lenient: bool) -> str:
        self._references += 1
        if self._references > _MAX_REFERENCES:
            raise _UnknownError("it refers to too much")
        if inner == "$":
            return "$"
        function, _, rest = inner.partition(" ")
        if function in _FUNCTIONS:
            arguments = [self._expand(each, depth).strip() for each in _arguments(rest)]
            return _FUNCTIONS[function](arguments, self._names)
        name, colon, pattern = inner.partition(":")
        name = self._expand(name, depth)
        if name in self._values:
            value = self._expand(self._values[name], depth, lenient=lenient)
            return _replace_endings(value, pattern) if colon else value
        if name in _HERE:
            return "."
        if re.fullmatch(r"[\w.-]+", name):
            raise _UnknownError(f"$({name}) is not set in this file")
        raise _UnknownError(f"$({inner[:60]}) is not known without running make")


def _split_assignment(line: str) -> tuple[str, str, str, str] | None:
    """What stands before a variable's name, the name, the operator and the value."""
    left, equals, value = line.partition("=")
    bare = left.rstrip(":+?!")
    operator = left[len(bare) :] + equals
    *before, name = bare.split() or [""]
    if operator not in _OPERATORS or not name or ":" in name or set(before) - _BEFORE:
        return None
    return " ".join(before), name, operator, value.strip()


def _reference(text: str, dollar: int) -> tuple[str, int]:
    """What a reference that begins there says, and where the text goes on."""
    opening = text[dollar + 1 : dollar + 2]
    closing = {"(": ")", "{": "}"}.get(opening)
    if closing is None:
        return opening, dollar + 2
    depth = 0
    for place in range(dollar + 1, len(text)):
        depth += (text[place] == opening) - (text[place] == closing)
        if depth == 0:
            return text[dollar + 2 : place], place + 1
    raise _UnknownError("a bracket is not closed")


def _arguments(text: str) -> list[str]:
    """Split at commas that are in no brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "({") - (character in ")}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _replace_endings(value: str, pattern: str) -> str:
    """``$(A:.c=.o)``, and with ``%``, ``$(A:%.c=%.o)``."""
    old, _, new = pattern.partition("=")
    if "%" not in old:
        old, new = f"%{old}", f"%{new}"
    return _patsubst(old, new, value)


def _patsubst(old: str, new: str, value: str) -> str:
    before, _, after = old.partition("%")
    words = []
    for word in value.split():
        long_enough = len(word) >= len(before) + len(after)
        if long_enough and word.startswith(before) and word.endswith(after):
            stem = word[len(before) : len(word) - len(after)]
            word = new.replace("%", stem, 1)
        words.append(word)
    return " ".join(words)


def _wildcard(patterns: str, names: Collection[str]) -> str:
    plain = [pattern.removeprefix("./") for pattern in patterns.split()]
    return " ".join(
        name for pattern in plain for name in sorted(names) if fnmatch.fnmatchcase(name, pattern)
    )


_Function = Callable[[list[str], Collection[str]], str]


def _each(change: Callable[[str, str], str]) -> _Function:
    """A function that changes every word of its second argument by its first."""
    return lambda said, _: " ".join(change(said[0], word) for word in said[-1].split())


_FUNCTIONS: Mapping[str, _Function] = {
    "addprefix": _each(lambda prefix, word: prefix + word),
    "addsuffix": _each(lambda suffix, word: word + suffix),
    "basename": lambda said, _: re.sub(r"\.[^./\s]*(?=\s|$)", "", said[0]),
    "notdir": lambda said, _: " ".join(word.rpartition("/")[2] for word in said[0].split()),
    "patsubst": lambda said, _: _patsubst(*said) if len(said) == 3 else "",
    "sort": lambda said, _: " ".join(sorted(set(said[0].split()))),
    "strip": lambda said, _: " ".join(said[0].split()),
    "wildcard": lambda said, names: _wildcard(said[0], names),
}
