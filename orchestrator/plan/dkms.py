"""What a ``dkms.conf`` says of the modules that it is for (dkms(8), "dkms.conf").

The file is a script that dkms reads with bash. Assignments of plain text are read here, with the
variables that the file has set before; everything else of it is passed over.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.plan.makefiles import logical_lines


@dataclass(frozen=True)
class DkmsModule:
    """A module that dkms would install."""

    name: str
    location: str
    """The folder that it is built in, relative to that of ``dkms.conf``; empty for that itself."""
    line: int


@dataclass(frozen=True)
class Dkms:
    """What a ``dkms.conf`` says."""

    modules: tuple[DkmsModule, ...] = ()
    make: str = ""
    """The command that builds them, for a shell that has ``kernelver`` and
    ``kernel_source_dir``; empty where dkms would have kbuild build the folder."""
    pre_build: str = ""
    """The command that is to be run before that."""
    unclear: tuple[tuple[int, str], ...] = ()
    """Lines, each with what could not be made out there."""


_MAX_LINE = 4_000
_ASSIGNMENT = re.compile(r"\s*([A-Za-z_]\w*)(?:\[([0-9]{1,9})\])?=(.*)")
_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))")
# These stay in a command: whoever runs it sets them.
_LATER = frozenset({"kernelver", "kernel_source_dir", "arch"})
_TREE = re.compile(r"\$\{?dkms_tree\}?/\S*?/build\b|\$\{?source_tree\}?/[^/\s]+")


def parse_dkms(text: str) -> Dkms:
    """What the text of a ``dkms.conf`` says. Raises nothing."""
    values: dict[str, str] = {}
    lines: dict[str, int] = {}
    unclear = []
    for number, line in logical_lines(text):
        found = _ASSIGNMENT.fullmatch(line)
        if not found:
            continue
        name = found[1] + (f"[{int(found[2])}]" if found[2] else "")
        plain = _plain_text(found[3]) if len(line) <= _MAX_LINE else None
        if plain is None:
            unclear.append((number, f"{name} is more than plain text"))
            continue
        values[name], lines[name] = _replace(plain, values), number
    return _conclude(values, lines, tuple(unclear))


def _plain_text(word: str) -> str | None:
    """The text that a shell would assign; None where that takes more than taking quotes off.

    References stay: what a single-quoted ``$`` means is the same for dkms, which evaluates it.
    """
    try:
        words = shlex.split(word, comments=True)
    except ValueError:
        return None
    return " ".join(words) if "`" not in word and "$(" not in word else None


def _replace(text: str, values: Mapping[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        return found[0] if name in _LATER else values.get(name, found[0])

    return _VARIABLE.sub(value, _TREE.sub("$PWD", text))


def _conclude(
    values: Mapping[str, str], lines: Mapping[str, int], unclear: tuple[tuple[int, str], ...]
) -> Dkms:
    def of(name: str, number: int) -> str:
        first = values.get(name, "") if number == 0 else ""
        return values.get(f"{name}[{number}]", first)

    modules = []
    for number in range(256):
        if module := of("BUILT_MODULE_NAME", number):
            key = f"BUILT_MODULE_NAME[{number}]"
            where = lines.get(key, lines.get("BUILT_MODULE_NAME", 1))
            location = of("BUILT_MODULE_LOCATION", number).strip("/").removeprefix("./")
            modules.append(DkmsModule(module, "" if location == "." else location, where))
    return Dkms(tuple(modules), of("MAKE", 0), values.get("PRE_BUILD", ""), unclear)
