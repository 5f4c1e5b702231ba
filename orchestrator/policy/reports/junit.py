"""``junit.xml``: one suite for each kernel, one case for each scenario, and behind it one
for each test that a program of its steps told of.

The shape is what Jenkins, GitLab and pytest's own reports agree on. Everything passes
through ``visible``: XML 1.0 has no way to write most control characters, not even escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

from orchestrator.plan.boundary import describe, find_boundaries
from orchestrator.plan.outcome import (
    CellResult,
    KernelResult,
    Outcome,
    RunResult,
    StepResult,
    SubResult,
)
from orchestrator.plan.visible import visible
from orchestrator.policy.reports.details import render_cell

MAX_TEXT_BYTES = 20 << 20
"""Of all failures together. GitLab takes files of less than 30 MB (its docs, "Unit test
reports", 18.11), and shows the text of `failure` and `skipped`, not the message.
"""
_TAGS = {Outcome.FAILED: "failure", Outcome.ERROR: "error", Outcome.SKIPPED: "skipped"}
_COUNTS = {"failures": Outcome.FAILED, "errors": Outcome.ERROR, "skipped": Outcome.SKIPPED}


def render_junit(result: RunResult) -> str:
    """The file's text."""
    kernels = [(kernel, _cells(kernel)) for kernel in result.kernels]
    cells = [cell for _, some in kernels for cell in some]
    changes = {each.scenario: describe(each) for each in find_boundaries(result)}
    root = _element("testsuites", {"name": result.lab, **_numbers(cells, result.seconds)})
    for kernel, some in kernels:
        root.append(_suite(result, kernel, some, changes))
    _add_files(root, {place.name: place.path for place in result.scenarios})
    _bound(root)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _add_files(root: ElementTree.Element, paths: Mapping[str, str]) -> None:
    """The file of each scenario, from the lab's folder: GitLab shows it."""
    files = {visible(name): visible(path) for name, path in paths.items()}
    for case in root.iter("testcase"):
        if path := files.get(case.get("name", "")):
            case.set("file", path)


def _bound(root: ElementTree.Element) -> None:
    """Cut texts once there are too many; each failure keeps its message."""
    left = MAX_TEXT_BYTES
    for told in root.iter():
        size = len((told.text or "").encode())
        if size > left:
            told.text = f"{told.get('message', '')}\n(too much for this file; see report.txt)"
        left -= min(left, size)


def _cells(kernel: KernelResult) -> Sequence[CellResult]:
    """Its scenarios; for a kernel that has none but an error, a case that shows it."""
    if kernel.cells or not kernel.error:
        return kernel.cells
    return (CellResult(kernel.name, "(kernel)", Outcome.ERROR, kernel.error),)


def _suite(
    result: RunResult,
    kernel: KernelResult,
    cells: Sequence[CellResult],
    changes: Mapping[str, str],
) -> ElementTree.Element:
    seconds = sum(cell.seconds for cell in cells)
    attributes = {"name": kernel.name, "timestamp": result.started, "hostname": kernel.name}
    suite = _element("testsuite", {**attributes, **_numbers(cells, seconds)})
    suite.append(_suite_properties(result, kernel))
    for cell in cells:
        suite.append(_case(result, cell, changes.get(cell.scenario, "")))
        for step in cell.steps:
            suite.extend(_sub_case(result, cell, step, test) for test in step.tests)
    return suite


def _numbers(cells: Sequence[CellResult], seconds: float) -> dict[str, str]:
    tests = [test for cell in cells for step in cell.steps for test in step.tests]
    outcomes = [*(cell.outcome for cell in cells), *(test.outcome for test in tests)]
    counts = {name: str(outcomes.count(outcome)) for name, outcome in _COUNTS.items()}
    return {"tests": str(len(outcomes)), **counts, "time": f"{seconds:.3f}"}


def _suite_properties(result: RunResult, kernel: KernelResult) -> ElementTree.Element:
    values = {"run": result.run_id, "accelerator": result.accelerator, "qemu": result.qemu_version}
    if kernel.identity is not None:
        values |= {"release": kernel.identity.release, "source": kernel.identity.source}
    told = {"error": kernel.error, "hint": kernel.hint, "evidence": kernel.evidence}
    values |= {name: value for name, value in told.items() if value}
    return _properties(values)


def _properties(values: Mapping[str, str]) -> ElementTree.Element:
    properties = _element("properties", {})
    for name, value in values.items():
        properties.append(_element("property", {"name": name, "value": value}))
    return properties


def _case(result: RunResult, cell: CellResult, change: str) -> ElementTree.Element:
    case = _element(
        "testcase",
        {
            "name": cell.scenario,
            "classname": f"{result.lab}.{cell.kernel}",
            "time": f"{cell.seconds:.3f}",
        },
    )
    values = {"boundary": change} if change and cell.outcome is Outcome.FAILED else {}
    if allowed := [each for each in cell.findings if each.allowed and each.harmless]:
        values["allowed"] = "; ".join(f"{each.kind}: {each.headline}" for each in allowed)
    if values:
        case.append(_properties(values))
    if cell.outcome is not Outcome.PASSED:
        told = _element(_TAGS[cell.outcome], {"message": cell.reason})
        told.text = visible(cell.reason)
        if cell.outcome is not Outcome.SKIPPED:
            told.set("type", _type_of(cell))
            told.text = "\n".join(render_cell(cell))
        case.append(told)
    if cell.evidence is not None:
        out = _element("system-out", {})
        out.text = visible(f"evidence: {cell.evidence}")
        case.append(out)
    return case


def _sub_case(
    result: RunResult, cell: CellResult, step: StepResult, test: SubResult
) -> ElementTree.Element:
    """A test of a test program. How long it took is not known."""
    names = {
        "name": f"{step.title}: {test.name}",
        "classname": f"{result.lab}.{cell.kernel}.{cell.scenario}",
    }
    case = _element("testcase", names)
    if test.outcome is not Outcome.PASSED:
        told = _element(_TAGS[test.outcome], {"message": test.said or test.name})
        if test.outcome is Outcome.FAILED:
            told.set("type", "test")
            told.text = "\n".join(visible(line) for line in test.details)
        case.append(told)
    return case


def _type_of(cell: CellResult) -> str:
    """What kind of failure: what was compared, or what the kernel complained of."""
    if cell.outcome is Outcome.ERROR:
        return "error"
    finding = next((each for each in cell.findings if not each.harmless), None)
    if finding is not None:
        return f"kernel.{finding.kind}"
    mismatch = next((each for step in cell.steps for each in step.mismatches), None)
    if mismatch is not None:
        return visible(mismatch.what)
    return "left-behind" if cell.left_behind else "failure"


def _element(tag: str, attributes: dict[str, str]) -> ElementTree.Element:
    return ElementTree.Element(tag, {name: visible(text) for name, text in attributes.items()})
