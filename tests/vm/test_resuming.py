"""A run that was killed goes on: each cell is judged once, and all of them are in the reports."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Started, run_lab

Start = Callable[..., Started]

LAB = """\
lab: long
kernels:
  "6.1": {image: bookworm, version: "6.1"}
scenarios: [scenarios.yaml]
"""
NAMES = [f"s{number:02}" for number in range(12)]
FAILING = "s05"


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    folder = tmp_path / "lab"
    folder.mkdir()
    (folder / "lab.yaml").write_text(LAB)
    steps = {name: "false" if name == FAILING else "sleep 1" for name in NAMES}
    lines = [f'  {name}: {{steps: [{{run: "{steps[name]}"}}]}}\n' for name in NAMES]
    (folder / "scenarios.yaml").write_text("scenarios:\n" + "".join(lines))
    return folder / "lab.yaml"


def judged(run_dir: Path) -> list[str]:
    """The cells that are in ``judged.jsonl``, as often as they are."""
    lines = (run_dir / "judged.jsonl").read_text().split("\n")[:-1]
    return [json.loads(line)["scenario"] for line in lines]


def test_a_killed_run_goes_on_where_it_was(lab: Path, start_lab: Start) -> None:
    run = start_lab("--lab", lab, "-j", "1")
    run.wait_for("passed scenarios/")  # any: what took longest the last time comes first
    _, left = run.send(signal.SIGKILL)
    assert left == set()
    run_dir = (run.results_dir / "latest").resolve()
    before = judged(run_dir)
    assert 0 < len(before) < len(NAMES)
    evidence = {
        path: path.stat().st_mtime_ns
        for name in before
        for path in (run_dir / "6.1/scenarios" / name.replace("/", ".")).rglob("*")
    }

    resumed = run_lab(run.results_dir, "--lab", lab, "-j", "1", "--resume", "latest")
    assert resumed.status == 1, resumed.output
    assert resumed.run_dir.resolve() == run_dir
    cells = {scenario: cell["outcome"] for (_, scenario), cell in resumed.cells().items()}
    expected = {f"scenarios/{name}": "passed" for name in NAMES}
    assert cells == {**expected, f"scenarios/{FAILING}": "failed"}
    assert sorted(judged(run_dir)) == sorted(expected)
    assert judged(run_dir)[: len(before)] == before
    assert resumed.results["interrupted"] is False
    assert evidence == {path: path.stat().st_mtime_ns for path in evidence}
    for cell in resumed.cells().values():
        assert any((run_dir / cell["evidence"]).iterdir())
    assert not any(f"passed {name}" in resumed.output for name in before)

    again = run_lab(run.results_dir, "--lab", lab, "--resume", str(run_dir))
    assert again.status == 2
    assert "nothing left to play" in again.output


def test_a_run_that_goes_on_or_is_of_another_lab_is_not_resumed(
    lab: Path, start_lab: Start
) -> None:
    path = lab.with_name("scenarios.yaml")
    path.write_text(path.read_text().replace("sleep 1", "sleep 5"))
    run = start_lab("--lab", lab, "-j", "1")
    run.wait_for("passed scenarios/")
    other = run_lab(run.results_dir, "--lab", lab, "--resume", "latest")
    assert other.status == 2
    assert "still goes on" in other.output
    run.send(signal.SIGINT)
    path.write_text(path.read_text().replace("sleep 5", "sleep 2"))
    changed = run_lab(run.results_dir, "--lab", lab, "--resume", "latest")
    assert changed.status == 2
    assert "scenarios.yaml is not what it was" in changed.output
