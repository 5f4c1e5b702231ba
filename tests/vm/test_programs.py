"""Test programs that are brought into a real guest, and files that are brought back."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from .conftest import LABS, Ran, run_lab

PASSED = (
    "script",
    "script-ends-as-expected",
    "compiled",
    "made",
    "made-and-rebooted",
    "runs-twice",
    "collects",
    "collects-nothing-after-a-panic",
    "collects-what-blocks",
    "logged",
    "has-what-the-reference-says",
)
# A part of the reason of each.
FAILED = {
    "script-fails": "step 1, exec tests/says.sh 3: ended by exit status 3, expected exit status 0",
    "compiled-fails": "1 of 3 tests failed: fail: expected 4, found \\x1b[31m5",
    "compiled-crashes": "ended by signal SIGILL, expected exit status 0",
    "does-not-compile": "exec tests/broken.c: tests/broken.c does not build",
    "collects-after-a-failure": "exit status 3",
    "collects-after-a-hang": "it did not end within ",
    "collects-what-is-required": "nothing to bring back, and it is required: /tmp/none",
    "logged-fails": "1 of 2 tests failed: sums: subtracts: subtracts: expected 1, found 3",
    "logs-none": "there is no result of a test in it",
}
SKIPPED = {"script-skips": "exec tests/says.sh 4: it skipped itself: no such device here"}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    results = tmp_path_factory.mktemp("programs") / "results"
    return run_lab(results, "--lab", LABS / "programs/lab.yaml")


def cell(ran: Ran, name: str) -> dict[str, Any]:
    return ran.cells()["6.1", f"scenarios/{name}"]


def said_by(ran: Ran, name: str, step: int) -> list[tuple[str, str, str]]:
    tests = cell(ran, name)["steps"][step]["tests"]
    return [(test["name"], test["outcome"], test["directive"]) for test in tests]


def brought(ran: Ran, name: str) -> dict[str, Path]:
    """What came back: paths in the guest, and where each is now."""
    folder = ran.run_dir / cell(ran, name)["evidence"]
    return {each["path"]: folder / each["file"] for each in cell(ran, name)["artifacts"]}


def test_every_scenario_is_spoken_of_here(ran: Ran) -> None:
    names = {scenario.removeprefix("scenarios/") for _, scenario in ran.cells()}
    assert names == {*PASSED, *FAILED, *SKIPPED}
    assert ran.status == 1


@pytest.mark.parametrize("name", PASSED)
def test_passed(ran: Ran, name: str) -> None:
    assert (cell(ran, name)["outcome"], cell(ran, name)["reason"]) == ("passed", "")


@pytest.mark.parametrize(("name", "reason"), FAILED.items())
def test_failed(ran: Ran, name: str, reason: str) -> None:
    assert cell(ran, name)["outcome"] == "failed"
    assert reason in cell(ran, name)["reason"]


@pytest.mark.parametrize(("name", "reason"), SKIPPED.items())
def test_skipped(ran: Ran, name: str, reason: str) -> None:
    assert cell(ran, name)["outcome"] == "skipped"
    assert reason in cell(ran, name)["reason"]


def test_a_program_that_skips_itself_lets_the_scenario_go_on(ran: Ran) -> None:
    for name in ("script-skips", "runs-twice"):
        steps = cell(ran, name)["steps"]
        assert {step["outcome"] for step in steps} == {"passed", "skipped"}


def test_tests_of_a_program_are_results(ran: Ran) -> None:
    assert said_by(ran, "compiled", 0) == [("pass", "passed", ""), ("skip", "skipped", "SKIP")]
    assert [outcome for _, outcome, _ in said_by(ran, "compiled-fails", 0)] == [
        *("passed", "failed", "passed")
    ]
    assert said_by(ran, "made", 0) == [
        ("suite: answer", "passed", ""),
        ("suite: later", "skipped", "SKIP"),
    ]
    assert said_by(ran, "logged", 1) == [
        ("sums: adds", "passed", ""),
        ("sums: subtracts", "passed", ""),
    ]


def test_tests_of_a_program_are_in_the_reports(ran: Ran) -> None:
    report = (ran.run_dir / "report.txt").read_text()
    assert "step 1, exec tests/suite/run.sh\n  tests: 1 passed, 1 skipped\n" in report
    assert "  skipped: suite: later # SKIP not yet\n" in report
    assert "       not ok: fail # expected 4, found \\x1b[31m5\n" in report
    suite = ElementTree.parse(ran.run_dir / "junit.xml").getroot()[0]
    failed = suite.find("./testcase[@name='exec tests/steps.c pass fail pass: fail']/failure")
    assert failed is not None
    assert int(suite.attrib["tests"]) == len(suite.findall("testcase"))


def test_one_boot_does_for_all_programs(ran: Ran) -> None:
    """And one more for the scenario that reboots: what it runs is built there anew."""
    assert ran.boots == 2


def test_what_a_build_said_is_shown(ran: Ran) -> None:
    (mismatch,) = cell(ran, "does-not-compile")["steps"][0]["mismatches"]
    assert any("broken_nowhere_declared" in line for line in mismatch["diff"])
    folder = ran.run_dir / cell(ran, "does-not-compile")["evidence"]
    assert "broken_nowhere_declared" in (folder / "transcript.txt").read_text()


def test_files_come_back(ran: Ran) -> None:
    files = brought(ran, "collects")
    assert set(files) == {
        "/proc/modules",
        "/tmp/kept/a b/.x",
        "/tmp/zero.bin",
        "/sys/module/ktaplog/parameters/fails",
    }
    assert "ktaplog " in files["/proc/modules"].read_text()
    assert files["/tmp/kept/a b/.x"].read_text() == "deep\n"
    assert files["/sys/module/ktaplog/parameters/fails"].read_text() == "N\n"
    assert cell(ran, "collects")["collect_notes"] == [
        "/tmp/nothing: there was no file",
        "/dev/null: there was no file",
    ]


def test_what_came_back_is_described(ran: Ran) -> None:
    (zero,) = (each for each in cell(ran, "collects")["artifacts"] if each["size"] == 300000)
    assert zero["sha256"] == hashlib.sha256(bytes(300000)).hexdigest()
    assert zero["file"] == "collected/tmp/zero.bin"
    path = brought(ran, "collects")["/tmp/zero.bin"]
    assert path.read_bytes() == bytes(300000)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    report = (ran.run_dir / "report.txt").read_text()
    assert "brought back: /tmp/zero.bin (300000 bytes): collected/tmp/zero.bin\n" in report


@pytest.mark.parametrize("name", ["collects-after-a-failure", "collects-after-a-hang"])
def test_files_come_back_after_a_step_that_failed(ran: Ran, name: str) -> None:
    assert brought(ran, name)["/tmp/out"].read_text() == "kept\n"


def test_nothing_comes_back_from_a_guest_that_is_gone(ran: Ran) -> None:
    gone = cell(ran, "collects-nothing-after-a-panic")
    assert gone["artifacts"] == []
    assert gone["collect_notes"] == ["nothing was brought back: the guest is gone"]


def test_what_blocks_is_given_up_and_the_rest_comes(ran: Ran) -> None:
    notes = cell(ran, "collects-what-blocks")["collect_notes"]
    assert "/proc/kmsg: reading it did not end within 5 s" in notes
    assert brought(ran, "collects-what-blocks")["/tmp/out"].read_text() == "kept\n"
