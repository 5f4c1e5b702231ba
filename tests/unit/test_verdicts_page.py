"""docs/verdicts.md: every class of complaint has a section, and an example that is one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from orchestrator.plan.bootfailure import BootEnd
from orchestrator.plan.klog import find_findings, parse_log
from orchestrator.plan.model import FindingClass

PAGE = (Path(__file__).parents[2] / "docs/verdicts.md").read_text()
# What stands between the heading of a class and the next heading.
SECTIONS = dict(re.findall(r"^### `([a-z-]+)`\n(.*?)(?=^##)", PAGE, re.MULTILINE | re.DOTALL))
EXAMPLE = re.compile(r"^```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_class_has_a_section() -> None:
    assert set(SECTIONS) == set(get_args(FindingClass))


@pytest.mark.parametrize("kind", get_args(FindingClass))
def test_an_example_is_what_the_detector_takes_for_it(kind: str) -> None:
    examples = EXAMPLE.findall(SECTIONS[kind])
    assert examples
    for example in examples:
        findings = find_findings(parse_log(example.encode()))
        assert [finding.kind for finding in findings] == [kind], example


def test_links_to_headings_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^a-z -]", "", each.lower()).replace(" ", "-") for each in headings}
    assert set(re.findall(r"\]\(#([^)]*)\)", PAGE)) <= anchors


@pytest.mark.parametrize("kind", get_args(FindingClass))
def test_a_section_says_who_prints_it(kind: str) -> None:
    assert "\nPrinted by: " in SECTIONS[kind]


@pytest.mark.parametrize("end", BootEnd)
def test_every_end_of_a_boot_is_told(end: BootEnd) -> None:
    assert f"| `{end.value.split(', before the guest', maxsplit=1)[0]}" in PAGE
