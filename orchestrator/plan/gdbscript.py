"""What gdb is told of a guest: symbols, where modules were loaded, where their sources are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.foundation.errors import UsageError
from orchestrator.plan.visible import visible

_ADDRESS = re.compile(
    r"/sys/module/(?P<module>[\w-]{1,64})/sections/(?P<section>[\w.]{1,64}):"
    r"0x(?P<address>[0-9a-f]{1,16})",
    re.ASCII,
)
# They are gone once a module is loaded, or nothing that a debugger asks for.
_UNWANTED = (".init", ".note", ".symtab", ".strtab")


@dataclass(frozen=True)
class LoadedModule:
    """A module in a guest."""

    name: str
    path: Path
    """The file with its symbols and its debug info."""
    sections: Mapping[str, int]
    """Where each section is."""


def parse_sections(listed: bytes) -> dict[str, dict[str, int]]:
    """Where the sections of modules are, by module, from ``grep -r ""`` over those of /sys/module.

    Without those that are of no use. An address of 0 is what a kernel shows that hides them.
    """
    found: dict[str, dict[str, int]] = {}
    for line in listed.decode(errors="replace").splitlines():
        match = _ADDRESS.fullmatch(line)
        if match is None or match["section"].startswith(_UNWANTED):
            continue
        if address := int(match["address"], 16):
            found.setdefault(match["module"], {})[match["section"]] = address
    return found


def render_script(
    *,
    kernel: Path | None,
    modules: Iterable[LoadedModule],
    sources: Mapping[str, Path],
    socket: Path,
) -> str:
    """A script for gdb 8.3 or later, which takes a Unix socket for a remote target.

    ``kernel`` is a file with the kernel's symbols, ``sources`` where the folders are now that
    modules were built from. Raises ``UsageError`` for a path that no line of it can hold.
    """
    lines = ["set confirm off", "set architecture i386:x86-64"]
    if kernel is not None:
        lines.append(f"symbol-file {_quoted(kernel)}")
    for built, folder in sources.items():
        lines.append(f"set substitute-path {_quoted(built)} {_quoted(folder)}")
    for module in modules:
        places = dict(module.sections)
        text = places.pop(".text", None)
        words = [] if text is None else [f"{text:#x}"]
        words += [f"-s {name} {address:#x}" for name, address in places.items()]
        lines.append(" ".join((f"add-symbol-file {_quoted(module.path)}", *words)))
    lines.append(target_line(socket))
    return "".join(f"{line}\n" for line in lines)


def target_line(socket: Path) -> str:
    """The command that connects gdb to a guest. gdb takes the rest of the line as it is."""
    return f"target remote {_plain(socket)}"


def _plain(path: Path | str) -> str:
    text = str(path)
    if not text.isprintable():
        raise UsageError(f"gdb takes no such path: {visible(text)}", hint="give it another name")
    return text


def _quoted(path: Path | str) -> str:
    """A path as one word for gdb, which takes a backslash for an escape between quotes."""
    text = _plain(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
