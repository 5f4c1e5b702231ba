"""Kernel configurations as values: what was asked for, what came out, and what is missing.

Kconfig never complains: an option whose dependencies are not there is dropped in silence
(``merge_config.sh`` warns, and ends with 0). So what a tree made of a wish is read back and
compared here. The grammar is Documentation/kbuild/kconfig-language.rst.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

NOT_SET = "n"
"""The value of an option that is off, however that is written."""

_SET = re.compile(r"CONFIG_(?P<name>[A-Za-z0-9_]+)=(?P<value>.*)")
_UNSET = re.compile(r"# CONFIG_(?P<name>[A-Za-z0-9_]+) is not set")
_VALUE = re.compile(r'[ymn]|-?[0-9]+|0[xX][0-9a-fA-F]+|"(?:[^"\\]|\\.)*"')

Options = Mapping[str, str]
"""Values by option, without ``CONFIG_``; texts keep their quotes."""


def parse_config(text: str) -> dict[str, str]:
    """The options of a ``.config`` or a fragment of one; the last of a name counts.

    Raises ``ValueError`` with the number of the line that is neither an option nor a comment.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if match := _UNSET.fullmatch(stripped):
            found[match["name"]] = NOT_SET
        elif not stripped or stripped.startswith("#"):
            continue
        elif (match := _SET.fullmatch(stripped)) and _VALUE.fullmatch(match["value"]):
            found[match["name"]] = match["value"]
        else:
            raise ValueError(
                f"line {number}: {stripped[:60]!r} is no option: write CONFIG_NAME=y, a number, "
                'a "text", or `# CONFIG_NAME is not set`'
            )
    return found


def missing_options(text: str, wanted: Iterable[str]) -> tuple[str, ...]:
    """Those of the options that a kernel's configuration has neither built in nor as a module.

    Lines that are no options are passed over: any kernel may have been brought along.
    """
    on = set(_ON.findall(text))
    return tuple(name for name in wanted if name not in on)


_ON = re.compile(r"^CONFIG_([A-Za-z0-9_]+)=(?!n$)", re.MULTILINE)
_MAY = re.compile(r"# CONFIG_(?P<name>[A-Za-z0-9_]+) may be refused: \S.*")


def parse_optional(text: str) -> frozenset[str]:
    """The options of a fragment that a tree may refuse, as lines of it say, with the reason::

    # CONFIG_VMAP_STACK may be refused: KASAN excluded it before 5.5
    """
    matches = (_MAY.fullmatch(line.strip()) for line in text.splitlines())
    return frozenset(match["name"] for match in matches if match)


def merge_options(*fragments: Options) -> dict[str, str]:
    """One set of options of many; a later fragment wins over an earlier one."""
    merged: dict[str, str] = {}
    for fragment in fragments:
        merged.update(fragment)
    return merged


def render_config(options: Options) -> str:
    """Options as ``make allnoconfig`` reads them through ``KCONFIG_ALLCONFIG``."""
    return "".join(
        f"# CONFIG_{name} is not set\n" if value == NOT_SET else f"CONFIG_{name}={value}\n"
        for name, value in options.items()
    )


# --- what a tree knows -------------------------------------------------------------------

_ENTRY = re.compile(r"(?:menu)?config\s+(?P<name>[A-Za-z0-9_]+)\s*(?:#.*)?")
_DEPENDS = re.compile(r"depends\s+on\s+(?P<what>.*)")
_BLOCK_ENDS = re.compile(r"(menu|endmenu|choice|endchoice|if|endif|source|comment|mainmenu)\b")


def parse_kconfig(text: str) -> dict[str, tuple[str, ...]]:
    """The options that a Kconfig file defines, each with its own ``depends on`` lines.

    What an enclosing ``menu`` or ``if`` demands is not followed.
    """
    found: dict[str, tuple[str, ...]] = {}
    name: str | None = None
    for line in _without_help(text.replace("\\\n", " ").splitlines()):
        if match := _ENTRY.fullmatch(line):
            name = match["name"]
            found.setdefault(name, ())
        elif _BLOCK_ENDS.match(line):
            name = None
        elif name is not None and (match := _DEPENDS.fullmatch(line)):
            found[name] = (*found[name], match["what"].strip())
    return found


def _without_help(lines: Iterable[str]) -> Iterable[str]:
    """The lines of a Kconfig file that are no help text, without their indentation.

    A help text ends before the first line that is indented less than its first line.
    """
    waiting, help_indent = False, 0
    for line in lines:
        stripped = line.strip()
        if not stripped:
            continue
        expanded = line.expandtabs()
        indent = len(expanded) - len(expanded.lstrip())
        if waiting:
            waiting, help_indent = False, indent
        if help_indent and indent >= help_indent:
            continue
        help_indent = 0
        if stripped in ("help", "---help---"):
            waiting = True
        else:
            yield stripped


def merge_known(
    files: Iterable[Mapping[str, tuple[str, ...]]],
) -> dict[str, tuple[str, ...]]:
    """What all Kconfig files of a tree define."""
    known: dict[str, tuple[str, ...]] = {}
    for file in files:
        for name, depends in file.items():
            known[name] = (*known.get(name, ()), *depends)
    return known


# --- what came of it ---------------------------------------------------------------------


@dataclass(frozen=True)
class Unmet:
    """An option that did not come out as it was asked for."""

    name: str
    wanted: str
    got: str
    depends: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"CONFIG_{self.name} is {self.got}, not {self.wanted}"
        return f"{text} (depends on {'; '.join(self.depends)})" if self.depends else text


def find_unmet(
    wanted: Options,
    got: Options,
    known: Mapping[str, tuple[str, ...]],
    optional: frozenset[str] = frozenset(),
) -> tuple[Unmet, ...]:
    """The options of ``wanted`` that the tree knows and that are otherwise in ``got``.

    ``optional`` ones are no wish to insist on.
    """
    return tuple(
        Unmet(name, value, got.get(name, NOT_SET), known[name])
        for name, value in wanted.items()
        if name in known and name not in optional and got.get(name, NOT_SET) != value
    )
