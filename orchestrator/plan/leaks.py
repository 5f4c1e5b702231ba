"""What kmemleak says that a module lost, on kernels that have it.

kmemleak knows every allocation, and looks for those that no pointer leads to any more. It tells
of them in ``/sys/kernel/debug/kmemleak``, by object: size, task, and who allocated it. That is
read after a module is gone, so its functions have no names there: addresses have to do.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from orchestrator.plan.frames import LoadedCode
from orchestrator.plan.klog import Finding, finding_of
from orchestrator.plan.visible import decode

KMEMLEAK = "/sys/kernel/debug/kmemleak"
"""Among the names of a guest whose kernel has it, and only there."""
MAX_OBJECTS = 500
MAX_LINES = 40
"""Of one object: its head, 32 bytes of it, and 16 callers at most (mm/kmemleak.c, MAX_TRACE)."""

_OBJECT = re.compile(r"unreferenced object 0x[0-9a-f]+ \(size (?P<size>\d{1,19})\):")
# The kernel's own line in the log, which says nothing of whose it is.
_COUNT = re.compile(r"kmemleak: \d+ new suspected memory leaks")


@dataclass(frozen=True)
class Lost:
    """Objects that one place in the code allocated, and nobody can free any more."""

    size: int
    """Bytes of each."""
    count: int
    lines: tuple[str, ...]
    """What kmemleak says of the first."""


def parse_kmemleak(data: bytes) -> tuple[Lost, ...]:
    """What the file says, by who allocated it; whatever stands in it, nothing raises."""
    found: dict[tuple[int, tuple[str, ...]], Lost] = {}
    for size, lines in _objects(decode(data).splitlines()):
        key = size, tuple(_callers(lines))
        known = found.get(key)
        found[key] = replace(known, count=known.count + 1) if known else Lost(size, 1, lines)
    return tuple(found.values())


def _objects(lines: Sequence[str]) -> list[tuple[int, tuple[str, ...]]]:
    heads = [(at, match) for at, line in enumerate(lines) if (match := _OBJECT.match(line))]
    ends = [at for at, _ in heads[1:]] + [len(lines)]
    return [
        (int(match["size"]), tuple(lines[at : min(end, at + MAX_LINES)]))
        for (at, match), end in zip(heads[:MAX_OBJECTS], ends, strict=False)
    ]


def _callers(lines: Sequence[str]) -> Sequence[str]:
    at = next((at for at, line in enumerate(lines) if "backtrace" in line), len(lines))
    return lines[at + 1 :]


def judge_leaks(
    findings: Sequence[Finding],
    told: Sequence[Lost],
    loaded: Sequence[LoadedCode],
    modules: Collection[str],
) -> tuple[Finding, ...]:
    """The findings with what the lab's modules lost, in place of the kernel's count of leaks.

    What code of the kernel lost on its own is left out: it is hardly the module's doing, and
    kmemleak can be wrong about it.
    """
    kept = [each for each in findings if not _COUNT.match(each.headline)]
    counted = next((each for each in findings if _COUNT.match(each.headline)), None)
    place = (counted.first, counted.last) if counted else (0, 0)
    for lost in told:
        finding = finding_of("kmemleak", _headline(lost), lost.lines, *place).with_gone(loaded)
        if any(name in modules for name in finding.modules):
            kept.append(finding)
    return tuple(kept)


def _headline(lost: Lost) -> str:
    times = (
        f"{lost.count} objects of {lost.size} bytes were"
        if lost.count > 1
        else (f"an object of {lost.size} bytes was")
    )
    return f"memory leak: {times} allocated here and never freed"
