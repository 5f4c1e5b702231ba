"""The pytest plugin with real guests: verdicts, fixtures, interruption, several processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.unit.test_pytest_plugin import PLUGIN, write_page_tests

from .conftest import LABS, REPOSITORY, RUN_SECONDS, is_running, processes_below, run_to_end

VERDICTS = LABS / "verdicts/lab.yaml"
OUTCOMES = {
    "quiet": "passed",
    "wrong-output": "failure",
    "oops": "failure",
    "no-such-module": "error",
    "not-for-this-kernel": "skipped",
}
CHOSEN = tuple(f"{VERDICTS}::scenarios/{name}[6.1]" for name in OUTCOMES)
TESTS = """
import pytest
from orchestrator.doors.pytest_guest import CommandError, GuestLostError

@pytest.fixture
def loaded(lab_guest):
    lab_guest.load("misbehave")
    yield lab_guest
    lab_guest.run("true")

def test_passes(loaded):
    assert loaded.kernel_in("6.1")
    assert any("loaded with fault=none" in line for line in loaded.kernel_log())
    with pytest.raises(FileNotFoundError):
        loaded.read("/nowhere")
    with pytest.raises(CommandError, match="exit status 3"):
        loaded.run("exit 3")
    assert loaded.run("exit 3", check=False).status == 3

def test_sees_nothing_of_the_other(lab_guest):
    assert lab_guest.kernel_log() == []
    with pytest.raises(FileNotFoundError):
        lab_guest.unload("misbehave")

def test_oops(lab_guest):
    lab_guest.run("insmod /lab/modules/misbehave.ko fault=oops || true")

def test_expected_panic(lab_guest):
    lab_guest.expect_kernel("panic")
    with pytest.raises(GuestLostError):
        lab_guest.load("misbehave", fault="panic")

def test_expects_what_does_not_come(lab_guest):
    lab_guest.expect_kernel("warning")

def test_litters(lab_guest):
    lab_guest.load("litter", what="proc")

def test_fails(loaded):
    assert loaded.run("echo one").stdout == b"two"

@pytest.mark.kernels("<6.0")
def test_not_for_this_kernel(lab_guest):
    raise AssertionError
"""


@dataclass(frozen=True)
class Played:
    """What a call of pytest gave."""

    status: int
    output: str
    folder: Path

    def outcomes(self) -> dict[str, set[str]]:
        """What the JUnit file says of each test; both, where its call and its teardown differ."""
        found: dict[str, set[str]] = {}
        for case in ElementTree.parse(self.folder / "junit.xml").iter("testcase"):
            name = case.get("name", "").rpartition("/")[2].partition("[")[0]
            told = {each.tag for each in case} & {"failure", "error", "skipped"}
            found.setdefault(name, set()).update(told or {"passed"})
        return found

    def results(self) -> dict[str, Any]:
        """What the lab's own run left."""
        raw = json.loads((self.folder / "results/latest/results.json").read_text())
        assert isinstance(raw, dict)
        return raw


def pytest_argv(folder: Path, *arguments: str | Path) -> list[str]:
    """A call of pytest in ``folder`` with the lab of verdicts, by which nothing else is meant."""
    chosen = ("--rootdir", REPOSITORY, "-c", os.devnull, "-p", "no:cacheprovider", *PLUGIN)
    lab = ("--lab", VERDICTS, "--lab-results", folder / "results")
    words = (*chosen, *lab, "--junitxml", folder / "junit.xml", *arguments)
    return [sys.executable, "-m", "pytest", *map(str, words)]


def play(folder: Path, *arguments: str | Path, env: Mapping[str, str] | None = None) -> Played:
    return Played(*run_to_end(pytest_argv(folder, *arguments), env), folder)


needs_xdist = pytest.mark.skipif(find_spec("xdist") is None, reason="no pytest-xdist here")


@pytest.fixture(
    scope="module",
    params=[(), pytest.param(("-n", "2", "--dist", "loadgroup"), marks=needs_xdist)],
    ids=["one-process", "xdist"],
)
def played(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """Scenarios of all outcomes, in one call."""
    return play(tmp_path_factory.mktemp("pytest"), *CHOSEN, *request.param)


def test_outcomes_are_those_of_the_run(played: Played) -> None:
    assert played.status == 1
    assert played.outcomes() == {name: {told} for name, told in OUTCOMES.items()}
    (kernel,) = played.results()["kernels"]
    words = {"passed": "passed", "failed": "failure", "error": "error", "skipped": "skipped"}
    told = {cell["scenario"].partition("/")[2]: words[cell["outcome"]] for cell in kernel["cells"]}
    assert told == OUTCOMES
    assert [cell["scenario"] for cell in kernel["cells"]] == [
        f"scenarios/{name}" for name in OUTCOMES
    ]
    assert kernel["boots"] - played.output.count("trying once more") <= 1


def test_a_failure_shows_its_step_its_difference_and_where_its_evidence_is(played: Played) -> None:
    shown = played.output.partition("scenarios/wrong-output on 6.1 ___")[2].partition("\n____")[0]
    lines = shown.splitlines()
    for line in ("       -2", "       +two", "MISMATCH stdout: stdout is not what is expected"):
        assert any(each.startswith(line) for each in lines), line
    assert any(each.strip("-") == " transcript " for each in lines)
    place = played.folder / "results" / played.results()["run_id"] / "6.1/scenarios"
    assert str(place / "scenarios.wrong-output") in lines
    assert (place / "scenarios.wrong-output/transcript.txt").exists()


def test_a_complaint_shows_the_line_to_blame_and_the_kernels_log(played: Played) -> None:
    shown = played.output.partition("scenarios/oops on 6.1 ___")[2]
    assert "misbehave_oops at misbehave.c:28: *nowhere = 1;" in shown
    assert any(line.strip("-") == " kernel log " for line in shown.splitlines())
    summary = played.output.rpartition("short test summary info")[2]
    assert "::scenarios/oops[6.1] - unexpected oops" in summary


MODES = pytest.mark.parametrize(
    "mode", [(), pytest.param(("-n", "2"), marks=needs_xdist)], ids=["one-process", "xdist"]
)


@MODES
def test_the_first_failure_ends_the_run(tmp_path: Path, mode: tuple[str, ...]) -> None:
    names = ("wrong-output", "hangs", "quiet", "never-ends-its-unload")
    chosen = (f"{VERDICTS}::scenarios/{name}" for name in names)
    ran = play(tmp_path, "-x", "--lab-jobs", "1", *mode, *chosen)
    assert ran.status == (2 if mode else 1)  # as pytest-xdist has it
    outcomes = ran.outcomes()
    assert outcomes.pop("wrong-output") == {"failure"}
    assert set().union(*outcomes.values()) <= ({"skipped"} if mode else set())
    results = ran.results()
    assert results["interrupted"]
    assert results["counts"]["skipped"] >= 1


def test_a_timeout_of_pytests_ends_the_wait_for_a_scenario(tmp_path: Path) -> None:
    ran = play(tmp_path, "--timeout", "0.2", f"{VERDICTS}::scenarios/quiet")
    assert (ran.status, ran.outcomes()) == (1, {"quiet": {"error"}})
    shown = ran.output.partition("ERROR at setup of scenarios/quiet on 6.1 ___")[2].splitlines()
    assert shown[1] == "Timeout (>0.2s) from pytest-timeout."
    assert ran.results()["interrupted"]


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    chosen = [f"{VERDICTS}::scenarios/{name}" for name in ("quiet", "hangs")]
    output_path = tmp_path / "output"
    with output_path.open("wb") as output:
        process = subprocess.Popen(
            pytest_argv(tmp_path, "-v", *chosen), cwd=REPOSITORY, stdout=output
        )
    end = time.monotonic() + RUN_SECONDS
    while b"PASSED" not in output_path.read_bytes():
        assert process.poll() is None, output_path.read_text()
        assert time.monotonic() < end
        time.sleep(0.1)
    below = processes_below(process.pid)
    assert below
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 2
    end = time.monotonic() + 10
    while left := {pid for pid in below if is_running(pid)}:
        assert time.monotonic() < end, left
        time.sleep(0.1)
    results = json.loads((tmp_path / "results/latest/results.json").read_text())
    assert results["interrupted"]


def test_tests_in_python(tmp_path: Path) -> None:
    path = tmp_path / "test_guests.py"
    path.write_text(TESTS)
    ran = play(tmp_path, path, env={"LAB_FROZEN_GIB": "4"})
    assert ran.status == 1
    assert ran.outcomes() == {
        "test_passes": {"passed"},
        "test_sees_nothing_of_the_other": {"passed"},
        "test_oops": {"failure"},
        "test_expected_panic": {"passed"},
        "test_expects_what_does_not_come": {"error"},
        "test_litters": {"error"},
        "test_fails": {"failure"},
        "test_not_for_this_kernel": {"skipped"},
    }
    assert "misbehave_oops at misbehave.c:28: *nowhere = 1;" in ran.output
    assert "left behind: /proc/litter" in ran.output
    assert "expected warning" in ran.output
    assert "AssertionError: assert b'one\\n' == b'two'" in ran.output
    (log,) = tmp_path.glob("results/latest/tests/test_oops*/6.1/scenarios/*/kernel.log")
    assert "NULL pointer dereference" in log.read_text()


def test_the_tests_of_the_page(tmp_path: Path) -> None:
    path = write_page_tests(tmp_path)
    lab = ("--lab", REPOSITORY / "lab.yaml", "--lab-kernel", "6.1")
    argv = [each for each in pytest_argv(tmp_path) if each != str(VERDICTS)]
    argv.remove("--lab")
    done = subprocess.run(
        [*argv, *map(str, lab), str(path)],
        cwd=REPOSITORY,
        env={**os.environ, "LAB_FROZEN_GIB": "4"},
        stdin=subprocess.DEVNULL,
        timeout=RUN_SECONDS,
        check=False,
    )
    assert done.returncode == 0
    assert set().union(*Played(0, "", tmp_path).outcomes().values()) == {"passed"}
