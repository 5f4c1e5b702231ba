"""What the lab said of the zoo's modules, compared with what is wrong with them.

    python -m tests.faulty.zoo RUN

``RUN`` is the folder of a run of ``tests/faulty/lab.yaml``. Prints a table, writes it as
``zoo.json`` into that folder, and ends with status 1 if the lab missed or misnamed anything, or
called something faulty that is not, 2 if there is nothing to compare.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.plan.version import KernelVersion
from orchestrator.plan.visible import clip, visible
from tests.faulty.table import TABLE, Fault, Flavour, Seen

MODULES = Path(__file__).parent / "modules"
MARK = "/* fault */"
MAX_SAID = 100


@dataclass(frozen=True)
class Verdict:
    """What the lab made of one scenario on one kernel."""

    scenario: str
    kernel: str
    found: bool
    """Whether it failed where it must, and did not where nothing shows."""
    kind_right: bool
    """Whether the lab called it what it is."""
    line_right: bool | None
    """Whether the line to blame is the marked one; None where none is asked for."""
    seconds: float
    wanted: str
    said: str
    """What the lab called it, and its reason, safe to show."""

    @property
    def good(self) -> bool:
        """Whether nothing is missed and nothing misnamed."""
        return self.found and self.kind_right and self.line_right is not False


def marked_line(module: str, modules: Path = MODULES) -> tuple[str, int]:
    """The file and the number of its line that has the mark. Raises ``ValueError`` unless one
    line has it.
    """
    path = modules / f"{module}.c"
    lines = path.read_text().splitlines()
    found = [number for number, line in enumerate(lines, 1) if MARK in line]
    if len(found) != 1:
        raise ValueError(f"{path}: {len(found)} lines have {MARK!r}, one must")
    return path.name, found[0]


# --- what the lab said ---------------------------------------------------------------------


def kinds_of(cell: Mapping[str, Any]) -> Iterator[str]:
    """All that a cell of ``results.json`` failed by, as ``table.KINDS`` names it; what its
    reason tells comes first.
    """
    findings = [each for each in cell["findings"] if not each["expected"]]
    yield from (each["kind"] for each in findings)
    for step in cell["steps"]:
        for mismatch in step["mismatches"]:
            yield _sort_of(step["title"].split(" ")[0], mismatch)
    if cell["left_behind"]:
        yield "left"
    if "powered off or rebooted" in cell["reason"]:
        yield "died"


def _sort_of(verb: str, mismatch: Mapping[str, Any]) -> str:
    if mismatch["what"] == "time":
        return "hang"
    return verb if verb in ("load", "unload") else "mismatch"


def flavour_of(release: str) -> Flavour:
    """The flavour of a kernel that the lab built, by its name; all others are default ones."""
    if release.endswith("-lab-debug"):
        return "debug"
    return "kcsan" if release.endswith("-lab-kcsan") else "default"


# --- comparing -----------------------------------------------------------------------------


def compare(
    results: Mapping[str, Any], table: Mapping[str, Fault] = TABLE, modules: Path = MODULES
) -> Iterator[Verdict]:
    """A verdict for each scenario that was played, in the order of the results; but for those of
    which the table says nothing on such a kernel.

    Raises ``KeyError`` for a scenario that is not in the table.
    """
    for kernel in results["kernels"]:
        for cell in kernel["cells"]:
            fault = table[cell["scenario"]]
            if _is_told_of(kernel, fault):
                yield _compare_cell(kernel, cell, fault, modules)


def _is_told_of(kernel: Mapping[str, Any], fault: Fault) -> bool:
    """Whether the table knows what such a kernel sees. Of those with the kernel's own checks it
    knows only what takes them, and what is healthy.
    """
    identity = kernel["identity"]
    flavour = "default" if identity is None else flavour_of(identity["release"])
    known = {each for seen in fault.seen for each in seen.flavours} or {flavour}
    return flavour == "default" or flavour in known


def _compare_cell(
    kernel: Mapping[str, Any], cell: Mapping[str, Any], fault: Fault, modules: Path
) -> Verdict:
    kinds = tuple(kinds_of(cell))
    seen = _seen_on(kernel, fault)
    if seen is None:
        # What is healthy is for every kernel: a scenario that was not played shows nothing.
        silent = ("passed", "skipped") if fault.seen else ("passed",)
        found, kind_right, line_right = cell["outcome"] in silent, not kinds, None
    else:
        found = _is_found(cell, kinds)
        kind_right = found and _is_named(cell, kinds, seen)
        line_right = _is_line_right(cell, seen, fault, modules) if seen.line else None
    return Verdict(
        scenario=cell["scenario"],
        kernel=kernel["name"],
        found=found,
        kind_right=kind_right,
        line_right=line_right,
        seconds=cell["seconds"],
        wanted=" or ".join(seen.kinds) if seen else "nothing",
        said=_said(cell, kinds),
    )


def _seen_on(kernel: Mapping[str, Any], fault: Fault) -> Seen | None:
    """How the fault must be seen there; a kernel that nothing is known of sees all."""
    identity = kernel["identity"]
    if identity is None:
        return next(iter(fault.seen), None)
    version = KernelVersion.parse(identity["version"])
    flavour = flavour_of(identity["release"])
    return next((seen for seen in fault.seen if seen.fits(version, flavour)), None)


def _is_found(cell: Mapping[str, Any], kinds: Sequence[str]) -> bool:
    """Whether the scenario failed for a reason that is known; a log that lost lines is an error
    of the cell's, and is what was found.
    """
    return bool(kinds) and (
        cell["outcome"] == "failed" or (cell["outcome"] == "error" and kinds[0] == "lost-log")
    )


def _is_named(cell: Mapping[str, Any], kinds: Sequence[str], seen: Seen) -> bool:
    return (
        kinds[0] in seen.kinds
        and kinds.count(kinds[0]) >= seen.times
        and seen.says in cell["reason"]
    )


def _is_line_right(cell: Mapping[str, Any], seen: Seen, fault: Fault, modules: Path) -> bool:
    """Whether the first complaint of a right class blames the marked line."""
    culprit = next(
        (each["culprit"] for each in cell["findings"] if each["kind"] in seen.kinds), None
    )
    module = fault.module or cell["scenario"].partition("/")[2]
    return culprit is not None and (culprit["file"], culprit["line"]) == marked_line(
        module, modules
    )


def _said(cell: Mapping[str, Any], kinds: Sequence[str]) -> str:
    called = ", ".join(dict.fromkeys(kinds)) or cell["outcome"]
    return clip(visible(f"{called}: {cell['reason']}" if cell["reason"] else called), MAX_SAID)


# --- telling -------------------------------------------------------------------------------

_MARKS = {True: "yes", False: "NO", None: "-"}


def render(verdicts: Sequence[Verdict]) -> str:
    """The table: a line for each verdict, what is wrong once more below it, and the sum."""
    rows = [("module", "kernel", "found", "class", "line", "seconds", "what the lab said")]
    rows += [
        (
            each.scenario,
            each.kernel,
            _MARKS[each.found],
            _MARKS[each.kind_right],
            _MARKS[each.line_right],
            f"{each.seconds:.1f}",
            each.said,
        )
        for each in verdicts
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    lines = ["  ".join((*map(str.ljust, row[:6], widths), row[6])) for row in rows]
    bad = [each for each in verdicts if not each.good]
    lines += ["", *(f"WRONG  {_wrong(each)}" for each in bad)]
    right = len(verdicts) - len(bad)
    return "\n".join([*lines, f"{right} of {len(verdicts)} as they should be"]) + "\n"


def _wrong(verdict: Verdict) -> str:
    parts = (
        (verdict.found, "not found" if verdict.wanted != "nothing" else "it does not pass"),
        (verdict.kind_right, "not named right"),
        (verdict.line_right, "not the marked line"),
    )
    what = next(text for part, text in parts if part is False)
    wanted = f"wanted {verdict.wanted}"
    return f"{verdict.scenario} on {verdict.kernel}: {what}: {wanted}, the lab said {verdict.said}"


def main(argv: Sequence[str]) -> int:
    """Compare a run; its exit status."""
    run_dir = Path(argv[0]) if argv else Path("lab-results/latest")
    results_path = run_dir / "results.json"
    if not results_path.exists():
        print(f"{results_path} is not there: has the lab run?", file=sys.stderr)
        return 2
    verdicts = list(compare(json.loads(results_path.read_text())))
    raw = [{**dataclasses.asdict(each), "good": each.good} for each in verdicts]
    (run_dir / "zoo.json").write_text(json.dumps(raw, indent=2) + "\n")
    print(render(verdicts), end="")
    if not verdicts:
        print("nothing was played", file=sys.stderr)
        return 2
    return 0 if all(each.good for each in verdicts) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
