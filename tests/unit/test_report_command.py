"""`lab report`: past runs shown anew, and shards joined."""

from __future__ import annotations

import json
import os
import stat
import threading
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from orchestrator.doors.cli import main
from orchestrator.foundation.errors import UsageError
from orchestrator.plan.outcome import AllowUse, KernelIdentity, Outcome, RunResult
from orchestrator.policy.reports import render_report, write_reports
from orchestrator.policy.reports.merging import merge_results
from tests.unit.test_reports import EVERYTHING, cell, failed_cell, kernel, run

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of runs below the current one, with one run."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "lab-results"
    keep(EVERYTHING, folder / "one")
    (folder / "latest").symlink_to("one")
    return folder


def keep(result: RunResult, run_dir: Path) -> RunResult:
    run_dir.mkdir(parents=True)
    result = replace(result, run_id=run_dir.name, seconds=round(result.seconds, 3))
    write_reports(result, run_dir)
    return result


def said(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> tuple[str, str]:
    assert main(("report", *arguments)) == status
    captured = capsys.readouterr()
    return captured.out, captured.err


# --- one run -------------------------------------------------------------------------------------


def test_the_latest_run_is_shown(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = (results / "one/report.txt").read_text()
    assert said(capsys) == (expected, "")
    for name in ("one", "latest", "lab-results/one", "lab-results/one/results.json"):
        assert said(capsys, name)[0] == expected
    assert said(capsys, "one", "--results", str(results))[0] == expected


def test_every_form_is_what_the_run_wrote(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    junit = said(capsys, "--format", "junit")[0]
    assert junit == (results / "one/junit.xml").read_text()
    ElementTree.fromstring(junit)
    written = said(capsys, "--format", "json")[0]
    assert written == (results / "one/results.json").read_text()
    assert said(capsys, "--format", "html")[0].startswith("<!doctype html>")


def test_links_lead_from_the_page_to_the_run(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evidence = "cells/k1/greeting/fail/transcript.txt"
    for output, way in (
        (results.parent / "page.html", "./lab-results/one/"),
        (results / "one/page.html", "./"),
        (results / "page.html", "./one/"),
    ):
        assert said(capsys, "--format", "html", "-o", str(output)) == ("", "")
        page = output.read_text("utf-8")
        assert f'href="{way}{evidence}"' in page
        assert f'href="{way}report.txt"' in page


def test_a_killed_run_is_shown_and_called_so(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(replace(EVERYTHING, interrupted=True), results / "killed")
    out, err = said(capsys, "killed")
    assert err == "note: this run was ended before its time, or goes on\n"
    assert "interrupted" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none",), "lab: there is no run lab-results/none"),
        (("one", "two"), "lab: that is more than one run"),
        (("--merge", "one"), "lab: --merge joins two runs or more"),
        (("--merge", "one", "latest"), "lab: the same run is named twice"),
        (("--results", "empty"), "lab: there is no run in empty"),
    ],
)
def test_what_cannot_be_shown_is_told(
    results: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert results.is_dir()
    out, err = said(capsys, *arguments, status=2)
    assert (out, err.split("\n")[0]) == ("", message)


def test_a_file_that_cannot_be_written_is_told(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert results.is_dir()
    assert "none/x cannot be written" in said(capsys, "-o", "none/x", status=3)[1]


# --- several ------------------------------------------------------------------------------------

USE = AllowUse(0, "x", "known", "2026-12-31", expired=False, count=0, unused=True)


def test_what_is_no_plain_file_is_written_to(results: Path, tmp_path: Path) -> None:
    """`-o /dev/stdout`, and for root `-o /dev/null`, which must be there afterwards."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    heard: list[str] = []
    reader = threading.Thread(target=lambda: heard.append(pipe.read_text()))
    reader.start()
    assert main(["report", "--results", str(results), "-o", str(pipe)]) == 0
    reader.join()
    assert heard == [(results / "one/report.txt").read_text()]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def shards() -> tuple[RunResult, RunResult]:
    one = run(kernel(cell(Outcome.PASSED), cell(Outcome.SKIPPED, "a/skip")))
    other = run(kernel(failed_cell(), cell(Outcome.SKIPPED, "a/skip")), kernel(name="k2"))
    return (
        replace(one, run_id="one", allow=(USE,)),
        replace(other, run_id="other", allow=(replace(USE, count=2, unused=False),)),
    )


def test_shards_become_one_run() -> None:
    merged = merge_results(shards())
    assert [each.name for each in merged.kernels] == ["k1", "k2"]
    assert [each.scenario for each in merged.kernels[0].cells] == [
        "greeting/read",
        "a/skip",
        "greeting/fail",
    ]
    assert (merged.run_id, merged.kernels[0].boots) == ("one+other", 2)
    assert merged.seconds == pytest.approx(2 * 123.4567)
    assert merged.qemu_version == "7.2.0"
    (use,) = merged.allow
    assert (use.count, use.unused) == (2, False)
    assert "1 of 2 scenarios failed" in render_report(merged)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (run(kernel(cell(Outcome.FAILED))), "greeting/read on k1 passed in one and failed in two"),
        (run(kernel(cell(Outcome.PASSED))), "greeting/read on k1 passed in one and passed in two"),
        (
            run(replace(kernel(), identity=KernelIdentity("k1", "6.1.0-57", "6.1.193", "debian"))),
            "kernel k1 is 6.1.0-56-cloud-amd64 in one and 6.1.0-57 in two",
        ),
        (replace(run(kernel()), lab="other"), "these are runs of different labs: procfs, other"),
    ],
)
def test_what_does_not_fit_is_named(other: RunResult, message: str) -> None:
    one = replace(run(kernel(cell(Outcome.PASSED))), run_id="one")
    with pytest.raises(UsageError) as caught:
        merge_results((one, replace(other, run_id="two")))
    assert message in caught.value.message


def test_merged_evidence_is_found_from_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, each in zip(("one", "other"), shards(), strict=True):
        keep(each, tmp_path / "shards" / name)
    out, _ = said(capsys, "--merge", "shards/one", "shards/other", "--format", "json")
    cells = json.loads(out)["kernels"][0]["cells"]
    assert cells[2]["evidence"] == "shards/other/cells/k1/greeting/fail"
    said(capsys, "--merge", "shards/one", "shards/other", "--format", "html", "-o", "all.html")
    page = (tmp_path / "all.html").read_text("utf-8")
    assert 'href="./shards/other/cells/k1/greeting/fail/kernel.log"' in page
