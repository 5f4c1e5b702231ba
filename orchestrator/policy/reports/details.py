"""``report.txt``: scenarios by kernels at a glance, where their outcomes change, then all that
is known of each that did not pass. Plain text, safe to look at in a terminal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orchestrator.plan.execjudge import SKIPPED_ITSELF
from orchestrator.plan.frames import CodeAddress, Frame
from orchestrator.plan.klog import Finding
from orchestrator.plan.leftovers import Leftover, describe_leftover
from orchestrator.plan.outcome import (
    CellResult,
    Hang,
    KernelResult,
    Outcome,
    RunResult,
    StepResult,
    SubResult,
    judge_result,
)
from orchestrator.plan.tap import count_in_words
from orchestrator.plan.visible import visible
from orchestrator.policy.reports.boundaries import render_changes_in_full
from orchestrator.policy.reports.text import cut

MAX_FINDING_LINES = 60
MAX_FINDINGS = 10
MAX_CODE_LINES = 120
"""How many lines of code are told of one finding; a trace of the kernel's has far fewer."""
MAX_LEFT_BEHIND = 50
MAX_TESTS = 100
MAX_ARTIFACTS = 50
MAX_RETRIED = 20
SIGNS = {
    Outcome.PASSED: "ok",
    Outcome.FAILED: "FAIL",
    Outcome.ERROR: "ERR",
    Outcome.SKIPPED: "-",
}
_LEGEND = (
    "ok    passed: the modules and the kernel did what the scenario says",
    "FAIL  failed: they did not",
    "ERR   error: the lab could not do or could not see what a verdict needs",
    "-     skipped: not meant for this kernel, or not reached",
    "What each reason means, and what to do about it: docs/verdicts.md of the lab.",
)


def render_report(result: RunResult) -> str:
    """The file's text."""
    blocks = [
        "\n".join(_head(result)),
        "\n".join(_matrix(result)),
        "\n".join(_LEGEND),
        "\n".join(render_changes_in_full(result)),
        "\n".join(_allow(result)),
        "\n".join(_brought(result)),
        *("\n".join(_told(cell)) for cell in result.cells if cell.outcome is not Outcome.PASSED),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _head(result: RunResult) -> Iterator[str]:
    verdict = judge_result(result)
    yield visible(f"lab {result.lab}, run {result.run_id}: {verdict.message}")
    yield visible(
        f"started {result.started}, took {result.seconds:.1f} s, lab {result.lab_version}"
    )
    yield visible(
        f"accelerator {result.accelerator} ({result.accelerator_reason}), "
        f"QEMU {result.qemu_version}"
    )
    if result.sandbox:
        yield visible(f"sandbox: {result.sandbox}")


def _matrix(result: RunResult) -> Iterator[str]:
    """One row for each scenario, one column for each kernel, the kernels by number."""
    for number, kernel in enumerate(result.kernels, 1):
        release = kernel.identity.release if kernel.identity else "not found"
        error = f": {kernel.error}" if kernel.error else ""
        yield visible(f"[{number}] {kernel.name}, {release}{error}")
        if kernel.hint:
            yield visible(f"    hint: {kernel.hint}")
        if kernel.evidence:
            yield visible(f"    see:  {kernel.evidence}")
        yield from (cut(f"    | {line}") for line in kernel.last_lines)
        yield from _builds(kernel)
        yield from _guests(kernel)
    yield ""
    signs = {(cell.scenario, cell.kernel): SIGNS[cell.outcome] for cell in result.cells}
    names = dict.fromkeys(cell.scenario for cell in result.cells)
    width = max((len(visible(name)) for name in names), default=0)
    numbers = range(1, len(result.kernels) + 1)
    yield f"{'':{width}}" + "".join(f"{f'[{number}]':>6}" for number in numbers)
    for name in names:
        row = [signs.get((name, kernel.name), "") for kernel in result.kernels]
        yield (f"{visible(name):{width}}" + "".join(f"{sign:>6}" for sign in row)).rstrip()


def _guests(kernel: KernelResult) -> Iterator[str]:
    if kernel.was_frozen:
        forks = f"{kernel.forks} scenarios in forks"
        yield f"    {forks} of a guest that an earlier run booted and froze"
    elif kernel.boots:
        times = "once" if kernel.boots == 1 else f"{kernel.boots} times"
        forks = f", {kernel.forks} scenarios in forks" if kernel.forks else ""
        yield f"    booted {times}{forks}"
    if kernel.boot_note:
        yield cut(f"    guests unpack the kernel themselves: {kernel.boot_note}")
    for finding in kernel.boot_findings[:MAX_FINDINGS]:
        yield cut(f"    before any module was loaded: {finding.kind}: {finding.headline}")
    if kernel.fork_note:
        yield cut(f"    {kernel.fork_note}")
    if kernel.hosts:
        yield cut(f"    played on {', '.join(kernel.hosts)}")
    if kernel.retried:
        yield f"    retried for the infrastructure: {len(kernel.retried)}"
    yield from (cut(f"      {line}") for line in kernel.retried[:MAX_RETRIED])


def _allow(result: RunResult) -> Iterator[str]:
    """What was allowed, and what is to be known of the allow-list."""
    for cell in result.cells:
        for finding in cell.findings:
            if finding.allowed is not None and not finding.allowed.expired:
                yield cut(f"allowed in {cell.scenario} on {cell.kernel}: {_as_allowed(finding)}")
                yield cut(f"  until {finding.allowed.until}: {finding.allowed.reason}")
    yield from (cut(f"note: {note}") for use in result.allow if (note := use.note()))


def _as_allowed(finding: Finding) -> str:
    return f"{finding.kind}: {finding.headline}"


_BUILT = {"host": "built on the host", "guest": "built in the guest", "cache": "cached"}


def _builds(kernel: KernelResult) -> Iterator[str]:
    """Who built its modules; those that nobody built were in the cache."""
    told = [
        f"{build.name} {_BUILT[build.by]}"
        + (f" ({build.seconds:.1f} s)" if build.by != "cache" else "")
        + (": it failed" if build.error else "")
        for build in kernel.builds
    ]
    if told:
        yield cut(f"    modules: {', '.join(told)}")
    if kernel.build_note:
        yield cut(f"    {kernel.build_note}")


def _told(cell: CellResult) -> Iterator[str]:
    title = visible(f"{cell.outcome.value.upper()}  {cell.scenario} on {cell.kernel}")
    yield title
    if cell.outcome is Outcome.SKIPPED:
        yield f"  {visible(cell.reason)}"
        return
    yield "=" * min(len(title), 80)
    yield from render_cell(cell)


def render_cell(cell: CellResult) -> Iterator[str]:
    """All that is known of one scenario on one kernel, as safe lines."""
    if cell.reason:
        yield visible(cell.reason)
    if cell.build is not None:
        yield from cell.build.excerpt()
    for step in cell.steps:
        yield from _step(step)
    yield from _findings(cell.findings)
    if cell.hang is not None:
        yield from _hang(cell.hang)
    yield from _left_behind(cell.left_behind)
    yield from map(cut, _artifacts(cell))
    if cell.taint_before is not None or cell.taint_after is not None:
        yield f"taint before: {cell.taint_before}, after: {cell.taint_after}"
    if cell.evidence is not None:
        yield visible(f"evidence: {cell.evidence}")


def _findings(findings: Sequence[Finding]) -> Iterator[str]:
    unexpected = [finding for finding in findings if not finding.harmless]
    for finding in unexpected[:MAX_FINDINGS]:
        yield from _finding(finding)
    if len(unexpected) > MAX_FINDINGS:
        yield f"… and {len(unexpected) - MAX_FINDINGS} more complaints of the kernel"
    for finding in findings:
        if finding.allowed is not None and finding.harmless:
            yield cut(f"the kernel complained, and may: {_as_allowed(finding)}")
            yield cut(f"  until {finding.allowed.until}: {finding.allowed.reason}")
        if finding.expected:
            yield cut(f"the kernel complained as expected: {finding.kind}: {finding.headline}")
            if finding.culprit is not None:
                yield cut(f"  first in a module: {finding.culprit}")


def _hang(hang: Hang) -> Iterator[str]:
    for stack in hang.stacks:
        whose = ", of the step" if stack.of_step else ""
        seen = "" if stack.cpu is None else f", on processor {stack.cpu}"
        state = f", state {stack.state}" if stack.state else ""
        yield cut(f"when step {hang.step} was given up: {stack.name}{whose}{state}{seen}")
        if stack.culprit is not None:
            yield cut(f"  first in a module: {stack.culprit}")
        yield from _excerpt(stack.lines, stack.frames)


def _brought(result: RunResult) -> Iterator[str]:
    """What test programs said, and what was brought back, where a scenario passed or skipped
    itself.
    """
    for cell in result.cells:
        if cell.outcome not in (Outcome.PASSED, Outcome.SKIPPED):
            continue
        if told := list(_artifacts(cell)):
            yield cut(f"{cell.scenario} on {cell.kernel}")
            yield from (cut(f"  {line}") for line in told)
        for step in cell.steps:
            told = list(_tests(step.tests))
            if step.reason.startswith(SKIPPED_ITSELF):
                told.insert(0, step.reason)
            if told:
                yield cut(f"{cell.scenario} on {cell.kernel}, step {step.number}, {step.title}")
                yield from (cut(f"  {line}") for line in told)


def _artifacts(cell: CellResult) -> Iterator[str]:
    """What was brought back from its guest, and what was not."""
    for artifact in cell.artifacts[:MAX_ARTIFACTS]:
        yield f"brought back: {artifact.path} ({artifact.size} bytes): {artifact.file}"
    if len(cell.artifacts) > MAX_ARTIFACTS:
        yield f"… and {len(cell.artifacts) - MAX_ARTIFACTS} more files brought back"
    yield from (f"not brought back: {note}" for note in cell.collect_notes)


def _tests(tests: Sequence[SubResult]) -> Iterator[str]:
    """How many tests of a step came to what, and by name those that were skipped; mismatches tell
    of those that failed.
    """
    if not tests:
        return
    yield count_in_words(tests)
    skipped = [test for test in tests if test.outcome is Outcome.SKIPPED]
    for test in skipped[:MAX_TESTS]:
        yield f"skipped: {test.line}"
    if len(skipped) > MAX_TESTS:
        yield f"… and {len(skipped) - MAX_TESTS} more"


def _left_behind(leftovers: Sequence[Leftover]) -> Iterator[str]:
    for leftover in leftovers[:MAX_LEFT_BEHIND]:
        yield cut(f"left behind: {describe_leftover(leftover)}")
    if len(leftovers) > MAX_LEFT_BEHIND:
        yield f"… and {len(leftovers) - MAX_LEFT_BEHIND} more names left behind"


def _step(step: StepResult) -> Iterator[str]:
    yield cut(f"{step.number:3}. {step.outcome.value:8} {step.seconds:7.2f} s  {step.title}")
    if step.reason:
        yield cut(f"     {step.reason}")
    for mismatch in step.mismatches:
        yield f"     {visible(mismatch.what)}: {visible(mismatch.message)}"
        yield from (cut(f"       {line}") for line in mismatch.diff)
    yield from (cut(f"     {line}") for line in _tests(step.tests))


def _finding(finding: Finding) -> Iterator[str]:
    yield cut(f"the kernel complained: {finding.kind}: {finding.headline}")
    if finding.modules:
        yield visible(f"  in its traces: {', '.join(finding.modules)}")
    if finding.culprit is not None:
        yield cut(f"  first in a module: {finding.culprit}")
    yield from _excerpt(finding.lines, finding.frames)


def _excerpt(lines: Sequence[str], frames: Sequence[Frame]) -> Iterator[str]:
    """The lines as the kernel wrote them; below each the code that it names, told once."""
    code = code_below(frames)
    for number, line in enumerate(lines[:MAX_FINDING_LINES]):
        yield cut(f"  | {line}")
        yield from code.get(number, ())
    if len(lines) > MAX_FINDING_LINES:
        yield f"  … and {len(lines) - MAX_FINDING_LINES} more lines"


def code_below(frames: Sequence[Frame]) -> dict[int, list[str]]:
    """What stands below each line of a report: the code at its addresses, or why there is none.

    Each address is told once, and so is each reason.
    """
    found: dict[int, list[str]] = {}
    told: set[CodeAddress | str] = set()
    left = MAX_CODE_LINES
    for frame in frames:
        what = frame.note or frame.address
        if what in told:
            continue
        told.add(what)
        lines = [f"no line: {frame.note}"] if frame.note else list(_functions(frame))
        found.setdefault(frame.line, []).extend(cut(f"      {line}") for line in lines[:left])
        left -= min(left, len(lines))
    return found


def _functions(frame: Frame) -> Iterator[str]:
    """The functions of a frame, the innermost first, each with its line of source."""
    for number, location in enumerate(frame.code):
        inlined = " (inlined)" if number < len(frame.code) - 1 else ""
        yield f"{location}{inlined}" + (f": {location.text}" if location.text else "")
