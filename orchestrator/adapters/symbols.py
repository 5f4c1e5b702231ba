"""From the addresses in a kernel's report to lines of a module's sources.

The module's file comes from a guest, so a process of its own reads it (``adapters/dwarf.py``),
within bounds of time and memory. What it answers is text from the guest as well: a path in it
is only ever looked up among the files that the module was built from.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from orchestrator.adapters.kbuild import BuiltModule, Sources
from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import HostError, RunInterruptedError
from orchestrator.plan.frames import CodeAddress, SourceLocation
from orchestrator.plan.paths import PACKAGE_DIR

SECONDS = 90.0
"""How long one module may take. A 300 KiB one takes half a second, most of it Python's start."""
MEMORY_MIB = 1024
MAX_ADDRESSES = 256
"""How many addresses are looked up in one module at once: they travel in one argument."""
MAX_LINE = 1 << 20
MAX_TEXT = 500

Code = tuple[tuple[SourceLocation, ...], str]
"""What is at an address, the innermost function first; or nothing, and why."""


class Symbols:
    """Looks addresses up in modules. Each address of a module is looked up once."""

    def __init__(self, *, seconds: float = SECONDS, memory_mib: int = MEMORY_MIB) -> None:
        self._seconds = seconds
        self._memory_mib = memory_mib
        self._known: dict[tuple[Path, CodeAddress], Code] = {}

    def resolve(
        self, module: BuiltModule, addresses: Iterable[CodeAddress]
    ) -> dict[CodeAddress, Code]:
        """What is at each address; never raises. Of a run that is being ended, nothing is."""
        wanted = list(dict.fromkeys(addresses))[:MAX_ADDRESSES]
        new = [each for each in wanted if (module.path, each) not in self._known]
        if new:
            for address, code in zip(new, self._look_up(module, new), strict=True):
                self._known[module.path, address] = code
        return {each: self._known[module.path, each] for each in wanted}

    def _look_up(self, module: BuiltModule, addresses: Sequence[CodeAddress]) -> list[Code]:
        try:
            answers = self._ask(module.path, addresses)
        except (HostError, RunInterruptedError) as error:
            return [((), f"the module's debug info cannot be read: {error.message}")] * len(
                addresses
            )
        reader = _SourceReader(module.sources)
        return [
            (tuple(reader.locate(*line) for line in answer["lines"]), answer["note"])
            for answer in answers
        ]

    def _ask(self, path: Path, addresses: Sequence[CodeAddress]) -> list[dict[str, Any]]:
        """The answers of the process that reads the file. Raises ``HostError``."""
        rows = [[each.symbol, each.offset, each.size, each.exact] for each in addresses]
        argv = (
            process.find_tool("prlimit"),
            f"--as={self._memory_mib << 20}",
            f"--cpu={max(1, round(self._seconds))}",
            *("--fsize=0", "--core=0", "--"),
            # -P: nothing is imported from the folder that the user happens to be in
            *(sys.executable, "-B", "-P", "-m", "orchestrator.adapters.dwarf"),
            *(str(path.absolute()), json.dumps(rows)),
        )
        done = process.run(
            argv,
            deadline=Deadline.after(self._seconds, f"reading {path.name}"),
            env={"PYTHONPATH": str(PACKAGE_DIR.parent)},
        )
        if done.status != 0:
            lines = done.last_lines().splitlines()
            why = lines[-1][:200] if lines else "nothing was printed"
            raise HostError(f"its reader ended with status {done.status}: {why}")
        try:
            answers: list[dict[str, Any]] = json.loads(done.stdout)
        except ValueError as error:
            raise HostError("its reader gave more than is taken") from error
        return answers


# Where the headers' packages lie; what follows is a path in the kernel's tree.
_KERNEL_TREE = re.compile(r"^(?:/usr/src|/lib/modules)/[^/]+/(?:build/|source/)?")


class _SourceReader:
    """Gives the lines of one module's sources as they were when it was built."""

    def __init__(self, sources: Sources | None) -> None:
        self._sources = sources
        self._lines: dict[str, Sequence[str]] = {}

    def locate(self, function: str, path: str, line: int | None) -> SourceLocation:
        """A line of the debug info as the user knows it: own files from the module's folder."""
        if line is not None and not 0 < line <= MAX_LINE:
            line = None
        inner = self._inner(path)
        if inner is None:
            return SourceLocation(function, _KERNEL_TREE.sub("", path) or "?", line)
        lines = self._read(inner)
        text = lines[line - 1] if line is not None and line <= len(lines) else ""
        return SourceLocation(function, inner, line, " ".join(text[:MAX_TEXT].split()), own=True)

    def _inner(self, path: str) -> str | None:
        """The path from the module's folder, None if it is not below it."""
        if self._sources is None or not path:
            return None
        folder = f"{self._sources.folder}/"
        if path.startswith(folder):
            return path.removeprefix(folder)
        return path if self._read(path) else None

    def _read(self, inner: str) -> Sequence[str]:
        """The lines of a file that was built; none if it was not among them.

        They come from the archive that was built, so no path in a module's debug info reads
        any other file, and a file that was changed since is told as it was.
        """
        if inner not in self._lines:
            known = self._sources and self._sources.lines_of(inner)
            self._lines[inner] = known or ()
        return self._lines[inner]
