"""The allow-list: which complaints of the kernel are known, until when, and what it is good for.

A detector that is too loud gets switched off, so a known complaint can be allowed; with a
reason, and a last day after which somebody has to look again.
"""

from __future__ import annotations

import datetime
import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.plan.klog import Allowed, Finding
from orchestrator.plan.linear import LinearPattern
from orchestrator.plan.model import AllowEntry, Lab
from orchestrator.plan.outcome import AllowUse, CellResult, Outcome
from orchestrator.plan.version import KernelVersion, VersionRange

MAX_LINES = 200
"""How many lines of a complaint are looked at; the headline always is."""
MAX_TEXT = 500
"""How much of each."""


@dataclass(frozen=True)
class Allowance:
    """An entry of ``allow`` as it is today."""

    number: int
    """Its place in the list, from 0."""
    entry: AllowEntry
    pattern: LinearPattern
    kernels: VersionRange
    expired: bool

    def is_for(self, scenario: str, version: KernelVersion | None) -> bool:
        """Whether that scenario on such a kernel is in its scope; so is one of no known version."""
        return (version is None or self.kernels.contains(version)) and (
            not self.entry.scenarios
            or any(fnmatch.fnmatchcase(scenario, each) for each in self.entry.scenarios)
        )

    def fits(self, finding: Finding) -> bool:
        """Whether it speaks of this complaint, expired or not."""
        if finding.kind in _NEVER or self.entry.kind not in (None, finding.kind):
            return False
        lines = (finding.headline, *finding.lines[:MAX_LINES])
        return any(self.pattern.search(line[:MAX_TEXT]) for line in lines)


# The guest is gone, or the detector could not see.
_NEVER = ("panic", "lost-log")


def allowances(entries: Sequence[AllowEntry], today: datetime.date) -> tuple[Allowance, ...]:
    """The list as it is on a day; an entry is good until the end of its last one."""
    return tuple(
        Allowance(
            number=number,
            entry=entry,
            pattern=LinearPattern(entry.pattern),
            kernels=VersionRange.parse(entry.kernels),
            expired=datetime.date.fromisoformat(entry.until) < today,
        )
        for number, entry in enumerate(entries)
    )


def mark_allowed(
    findings: Sequence[Finding], allowances: Sequence[Allowance]
) -> tuple[Finding, ...]:
    """The findings, each with the entry that allows it; where only an expired one would, that.

    ``allowances`` are those whose scope the cell is in.
    """
    in_order = sorted(allowances, key=lambda each: each.expired)
    return tuple(_marked(finding, in_order) for finding in findings)


def _marked(finding: Finding, allowances: Sequence[Allowance]) -> Finding:
    found = next((each for each in allowances if each.fits(finding)), None)
    if found is None:
        return finding
    entry = found.entry
    return replace(finding, allowed=Allowed(found.number, entry.reason, entry.until, found.expired))


def judge_allowances(
    lab: Lab,
    versions: Mapping[str, KernelVersion],
    cells: Sequence[CellResult],
    today: datetime.date,
) -> tuple[AllowUse, ...]:
    """What each entry was good for in a run.

    ``versions`` are those of the kernels that were played. An entry is ``unused`` only where
    nothing can have hidden what it is for: where each cell in its scope, on every kernel of
    the lab, has passed.
    """
    passed = {(cell.kernel, cell.scenario) for cell in cells if cell.outcome is Outcome.PASSED}
    counts: dict[int, int] = {}
    for finding in (finding for cell in cells for finding in cell.findings):
        if finding.allowed is not None:
            counts[finding.allowed.entry] = counts.get(finding.allowed.entry, 0) + 1
    return tuple(
        AllowUse(
            entry=each.number,
            pattern=each.entry.pattern,
            reason=each.entry.reason,
            until=each.entry.until,
            expired=each.expired,
            count=counts.get(each.number, 0),
            unused=not each.expired
            and each.number not in counts
            and _scope(lab, versions, each) <= passed,
        )
        for each in allowances(lab.file.allow, today)
    )


def _scope(
    lab: Lab, versions: Mapping[str, KernelVersion], allowance: Allowance
) -> set[tuple[str, str]]:
    """The cells that an entry is for; of a kernel without a known version, all that may be."""
    scope = set()
    for name, entry in lab.file.kernels.items():
        version = versions.get(name) or entry.version_hint()
        for scenario in lab.scenarios:
            played = version is None or scenario.kernels.contains(version)
            if played and allowance.is_for(scenario.name, version):
                scope.add((name, scenario.name))
    return scope
