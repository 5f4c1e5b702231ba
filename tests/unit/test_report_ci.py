"""What CIs are told: at the right line, escaped, and never too much."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.doors.ci import MAX_SUMMARY_BYTES, project_paths, show_summary, tell_github
from orchestrator.doors.cli import main
from orchestrator.plan.outcome import Outcome, RunResult, SourcePlace
from orchestrator.policy.reports import junit, render_junit, write_reports
from orchestrator.policy.reports.github import render_annotations, without_commands
from orchestrator.policy.reports.gitlab import render_code_quality
from orchestrator.policy.reports.markdown import marker, render_markdown
from orchestrator.policy.reports.places import Paths, candidates, find_failures
from tests.unit.test_reports import (
    CHANGES,
    EVERYTHING,
    HOSTILE_RUN,
    HUNG,
    NOT_BUILT,
    cell,
    failed_cell,
    kernel,
    run,
)

PLACES = (SourcePlace("greeting/fail", "scenarios/greeting.yaml", 7),)
FOLDERS = (SourcePlace("old", "src/old"), SourcePlace("other", "src/other"))
FAILED = replace(run(kernel(failed_cell())), scenarios=PLACES, folders=FOLDERS)


def everywhere(result: RunResult) -> Paths:
    return Paths(".", candidates(result))


def paths(*files: str) -> Paths:
    return Paths("labs/one", frozenset(files))


# --- which line ----------------------------------------------------------------------------------


def test_a_failure_is_at_the_line_that_the_kernel_named() -> None:
    (failure,) = find_failures(FAILED, paths("src/other/HelloWorld.c"))
    assert (failure.place.file, failure.place.line) == ("labs/one/src/other/HelloWorld.c", 42)
    assert failure.kind == "oops"


def test_a_file_that_is_not_there_is_not_believed() -> None:
    (failure,) = find_failures(FAILED, paths())
    assert (failure.place.file, failure.place.line) == ("labs/one/scenarios/greeting.yaml", 7)
    (failure,) = find_failures(FAILED, Paths("", frozenset()))
    assert failure.place.file == ""


def test_a_failed_build_and_a_hang_have_their_lines() -> None:
    (failure,) = find_failures(replace(NOT_BUILT, folders=FOLDERS), paths("src/old/old.c"))
    assert (failure.place.file, failure.place.line) == ("labs/one/src/old/old.c", 12)
    assert failure.kind == "build"
    (failure,) = find_failures(replace(HUNG, folders=FOLDERS), paths("src/old/HelloWorld.c"))
    assert (failure.place.file, failure.place.line) == ("labs/one/src/old/HelloWorld.c", 35)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a\nb.c"])
def test_a_guest_names_no_file_outside_of_the_folder(name: str) -> None:
    result = replace(run(kernel(failed_cell(text=name.removesuffix(".c")))), folders=FOLDERS)
    assert not candidates(result)


def test_alike_failures_are_one() -> None:
    alike = [kernel(failed_cell(name), name=name) for name in ("5.4", "6.1")]
    (failure,) = find_failures(run(*alike), paths())
    assert failure.title == "greeting/fail failed on 5.4, 6.1"


def test_the_project_is_looked_for_where_the_ci_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab_dir = tmp_path / "labs/one"
    (lab_dir / "src/other").mkdir(parents=True)
    (lab_dir / "src/other/HelloWorld.c").touch()
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    assert project_paths(FAILED, lab_dir) == paths("src/other/HelloWorld.c")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path / "elsewhere"))
    assert project_paths(FAILED, lab_dir).prefix == ""
    monkeypatch.delenv("GITHUB_WORKSPACE")
    monkeypatch.delenv("CI_PROJECT_DIR", raising=False)
    monkeypatch.chdir(lab_dir)
    assert project_paths(FAILED, Path()).prefix == "."


# --- GitHub --------------------------------------------------------------------------------------


def test_an_annotation_is_a_command_with_its_place() -> None:
    assert render_annotations(FAILED, paths()) == (
        "::error file=labs/one/scenarios/greeting.yaml,line=7,"
        "title=greeting/fail failed on k1::step 2, run HelloWorld: stdout is HelloWorld\n"
    )


@settings(deadline=None, max_examples=100)
@given(st.text(alphabet=st.sampled_from("a:,%\r\n\x1b\u202e:")))
def test_no_text_begins_another_command(text: str) -> None:
    told = render_annotations(
        run(kernel(replace(failed_cell(), reason=text, scenario=text))), paths()
    )
    assert told.count("\n") == 1
    match = re.fullmatch(r"::error title=([^:,]*)::(.*)\n", told)
    assert match is not None
    assert not re.search(r"%(?!25|2C|3A)", match[1] + match[2])


def test_annotations_are_as_many_as_github_shows() -> None:
    cells = [replace(failed_cell(), scenario=f"a/{number}") for number in range(30)]
    cells.insert(0, cell(Outcome.ERROR, "a/error"))
    lines = render_annotations(run(kernel(*cells)), paths()).splitlines()
    assert len(lines) == 10
    assert lines[-1] == "::error::22 more; the summary has them"
    assert "could not be judged" not in "".join(lines)


def test_a_kernel_that_is_not_there_is_annotated() -> None:
    assert "::error::k3: no such package\n" in render_annotations(EVERYTHING, paths())


def test_what_is_printed_is_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    text = without_commands("  ::error::said the guest\n")
    match = re.fullmatch(
        r"::stop-commands::(\w{32})\n  ::error::said the guest\n::(\w{32})::\n", text
    )
    assert match is not None
    assert match[1] == match[2]
    assert without_commands("") != without_commands("")
    show_summary("plain\n")
    assert capsys.readouterr().out == "plain\n"


def test_a_step_gets_annotations_and_a_bounded_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = tmp_path / "summary.md"
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    tell_github(FAILED, tmp_path)
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    summary.write_text("before\n")
    tell_github(FAILED, tmp_path)
    assert "::error title=greeting/fail failed on k1::" in capsys.readouterr().out
    assert summary.read_text().startswith("before\n<!-- kmod-lab: procfs -->\n")
    cells = [replace(failed_cell(), scenario=f"a/{n}", reason="x" * 400) for n in range(5000)]
    tell_github(run(kernel(*cells)), tmp_path)
    assert MAX_SUMMARY_BYTES - 2000 < summary.stat().st_size <= MAX_SUMMARY_BYTES
    tell_github(FAILED, tmp_path)
    assert summary.stat().st_size <= MAX_SUMMARY_BYTES


def test_a_summary_that_cannot_be_written_is_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    tell_github(FAILED, tmp_path)
    assert "summary could not be written" in capsys.readouterr().err


# --- Markdown ------------------------------------------------------------------------------------


def test_the_comment_has_a_table_and_folded_failures() -> None:
    text = render_markdown(EVERYTHING)
    assert text.startswith("<!-- kmod-lab: procfs -->\n### ⚠️ <code>procfs</code> the lab broke")
    assert "| <code>k1</code> | <code>6.1.0-56-cloud-amd64</code> | 1 | 1 | 1 | 1 | 36 s |" in text
    assert "\n<details><summary>3 failures</summary>\n" in text
    assert "- **failed** <code>greeting/fail on k1</code> <code>step 2, run HelloWorld&#58;" in text
    assert "passed up to 5.4.302, failed from 5.10.223" in render_markdown(CHANGES)
    assert "<details>" not in render_markdown(run(kernel(cell(Outcome.PASSED))))


@pytest.mark.parametrize(
    "text", ["@user #1 `x` *b* _i_ ~s~ [l](u) ![i](u) | <b>&amp;\n# h", "--> <script>", "\u202e"]
)
def test_nothing_of_a_guest_is_markdown(text: str) -> None:
    result = run(kernel(replace(failed_cell(), scenario=text, reason=text), name="k|1"))
    plain = run(kernel(replace(failed_cell(), scenario="plain", reason="plain"), name="k1"))
    told = render_markdown(replace(result, lab=text)).partition("\n")[2]  # behind the marker
    signs = r"[@#`*_~\[\]!|<>\n]"
    shape = re.findall(signs, re.sub(r"&#\d+;", "", told))
    expected = re.findall(signs, render_markdown(plain).partition("\n")[2])
    assert shape == expected


def test_the_marker_is_one_comment() -> None:
    assert marker("a--> <b>") == "<!-- kmod-lab: a-b -->"


@pytest.mark.parametrize("limit", [0, 10, 200, 700, 3000])
def test_the_text_is_never_too_long(limit: int) -> None:
    for result in (EVERYTHING, CHANGES, HOSTILE_RUN):
        assert len(render_markdown(result, limit).encode()) <= limit


# --- GitLab --------------------------------------------------------------------------------------


def test_code_quality_has_what_gitlab_reads() -> None:
    (entry,) = json.loads(render_code_quality(FAILED, paths("src/old/HelloWorld.c")))
    assert entry.pop("fingerprint").isalnum()
    assert entry == {
        "description": "greeting/fail failed on k1: step 2, run HelloWorld: stdout is HelloWorld",
        "check_name": "kmod-lab/oops",
        "severity": "critical",
        "location": {"path": "labs/one/src/old/HelloWorld.c", "lines": {"begin": 42}},
    }
    assert json.loads(render_code_quality(FAILED, Paths("", frozenset()))) == []


def test_fingerprints_tell_failures_apart_and_last() -> None:
    cells = [replace(failed_cell(), scenario=f"a/{number}") for number in range(5)]
    places = tuple(SourcePlace(f"a/{number}", "a.yaml", number + 1) for number in range(5))
    told = [replace(each, reason=f"task {number}") for number, each in enumerate(cells)]
    twice = [*told, replace(told[0], kernel="k2", reason="task 0xff")]
    result = replace(run(kernel(*twice)), scenarios=places)
    moved = replace(result, scenarios=tuple(replace(each, line=50) for each in places))
    another = replace(moved, kernels=(kernel(*(replace(c, reason="task 77") for c in twice)),))
    prints = [
        {entry["fingerprint"] for entry in json.loads(render_code_quality(each, paths()))}
        for each in (result, moved, another)
    ]
    assert len(prints[0]) == 6
    assert prints[0] == prints[1] > prints[2]


def test_junit_fits_gitlab(monkeypatch: pytest.MonkeyPatch) -> None:
    root = ElementTree.fromstring(render_junit(replace(EVERYTHING, scenarios=PLACES)))
    case = root.find(".//testcase[@name='greeting/fail']")
    assert case is not None
    assert case.get("file") == "scenarios/greeting.yaml"
    names = [(each.get("classname"), each.get("name")) for each in root.iter("testcase")]
    assert len(set(names)) == len(names)
    assert root.findtext(".//skipped") == "a reason"
    monkeypatch.setattr(junit, "MAX_TEXT_BYTES", 100)
    root = ElementTree.fromstring(render_junit(EVERYTHING))
    assert sum(len(each.text or "") for each in root.iter("failure")) < 200
    assert "too much for this file" in str(root.findtext(".//failure"))


@pytest.mark.parametrize("form", ["markdown", "github", "gitlab"])
def test_past_runs_are_told_to_cis(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    form: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_reports(FAILED, tmp_path)
    assert main(["report", str(tmp_path), "--format", form]) == 0
    assert "greeting/fail" in capsys.readouterr().out
