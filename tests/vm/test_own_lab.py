"""The promise: this repository's own lab, on kernels from both sides of 5.6."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from orchestrator.adapters.cache import default_cache_dir
from orchestrator.adapters.history import load_runs
from orchestrator.policy.reports import render_report
from orchestrator.policy.reports.reading import load_results

from .conftest import REPOSITORY, Ran, run_lab

KERNELS = {"5.4": "5.4.", "5.10": "5.10.", "6.1": "6.1.", "6.12": "6.12."}
CHECKPATCH_FILES = ("checkpatch.pl", "spelling.txt", "const_structs.checkpatch")
MODULES = ("procfs1", "procfs2", "procfs3", "procfs4")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return run_lab(tmp_path_factory.mktemp("own") / "results")


def test_every_scenario_passes_on_every_kernel(ran: Ran) -> None:
    assert ran.status == 0
    outcomes = {key: cell["outcome"] for key, cell in ran.cells().items()}
    assert {kernel for kernel, _ in outcomes} == set(KERNELS)
    assert {
        key for key, outcome in outcomes.items() if outcome not in ("passed", "skipped")
    } == set()
    passed = [key for key, outcome in outcomes.items() if outcome == "passed"]
    assert len(passed) >= 40 * len(KERNELS)


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_scenario_had_a_fork_of_its_own(ran: Ran, kernel: str) -> None:
    result = next(k for k in ran.results["kernels"] if k["name"] == kernel)
    played = [cell for cell in result["cells"] if cell["outcome"] != "skipped"]
    assert (result["fork_note"], result["forks"]) == ("", len(played))


def test_scenarios_are_skipped_for_their_range_alone(ran: Ran) -> None:
    skipped = [cell for cell in ran.cells().values() if cell["outcome"] == "skipped"]
    assert all(cell["reason"].startswith("it is for kernels ") for cell in skipped)
    scenarios = {scenario for _, scenario in ran.cells()}
    played = {key[1] for key, cell in ran.cells().items() if cell["outcome"] == "passed"}
    # What is for kernels outside the quick group alone is named here, so that a range
    # that excludes everything by mistake does not pass unseen.
    assert scenarios - played == {
        "loading/is-hidden-by-its-old-file-before-5.0",
        "loading/is-refused-where-signatures-are-enforced-before-5.4",
    }


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_kernel_is_the_one_asked_for(ran: Ran, kernel: str) -> None:
    identity = next(k for k in ran.results["kernels"] if k["name"] == kernel)["identity"]
    assert identity["release"].startswith(KERNELS[kernel])
    console = (ran.run_dir / kernel / "boot-1/console.log").read_text(errors="replace")
    assert f"Linux version {identity['release']} " in console


@pytest.mark.parametrize("kernel", KERNELS)
def test_both_sides_of_5_6_use_their_own_struct(ran: Ran, kernel: str) -> None:
    """What the source chose shows in the module: proc_create takes one struct or the other."""
    for module in MODULES:
        path = ran.run_dir / kernel / "modules/procfs" / f"{module}.ko"
        dump = subprocess.run(
            ["readelf", "--debug-dump=info", str(path)], capture_output=True, text=True, check=False
        ).stdout
        objects = subprocess.run(
            ["readelf", "--syms", "--wide", str(path)], capture_output=True, text=True, check=True
        ).stdout
        sizes = {
            match[2]: int(match[1])
            for match in re.finditer(
                r"\s(\d+) OBJECT\s+LOCAL\s+DEFAULT\s+\d+ (\S*_ops\S*)", objects
            )
        }
        assert sizes or dump, f"{module}: no operations found"
        # struct file_operations of 5.4 has 264 bytes on x86_64, struct proc_ops 80 to 104.
        largest = max(sizes.values())
        assert (largest > 200) == (kernel == "5.4"), (module, sizes)


@pytest.mark.parametrize("kernel", KERNELS)
def test_nothing_warns_while_modules_are_built(ran: Ran, kernel: str) -> None:
    log = (ran.run_dir / kernel / "modules/procfs/build.log").read_text()
    assert "warning:" not in log.lower().replace("warning: the compiler differs", "")
    assert "Skipping BTF" in log or kernel == "5.4" or "BTF [M]" in log or "LD [M]" in log


def test_each_cell_has_its_evidence(ran: Ran) -> None:
    for (kernel, scenario), cell in ran.cells().items():
        if cell["outcome"] == "skipped":
            continue
        folder = ran.run_dir / cell["evidence"]
        assert folder.is_dir(), (kernel, scenario)
        assert "--- 1. " in (folder / "transcript.txt").read_text()
        assert (folder / "kernel.log").is_file()


def test_reports_agree(ran: Ran) -> None:
    suites = ElementTree.parse(ran.run_dir / "junit.xml").getroot()
    cases = suites.findall(".//testcase")
    assert len(cases) == len(ran.cells())
    assert not suites.findall(".//failure")
    assert not suites.findall(".//error")
    report = (ran.run_dir / "report.txt").read_text()
    page = (ran.run_dir / "report.html").read_text()
    for _, scenario in ran.cells():
        assert scenario in report
        assert scenario in page


def test_the_run_is_shown_again_and_recorded(ran: Ran) -> None:
    (run,) = load_runs(ran.results_dir / "history.sqlite")
    assert run.run_id == ran.results["run_id"]
    assert set(run.cells) == set(ran.cells())
    assert len(run.revision.name) in (0, 40)  # a source archive is no repository
    again = load_results(ran.run_dir)
    assert render_report(again) == (ran.run_dir / "report.txt").read_text()
    places = {place.name: REPOSITORY / place.path for place in again.scenarios}
    assert places.keys() == {scenario for _, scenario in ran.cells()}
    assert all(path.is_file() for path in places.values())


def test_no_keys_are_left(ran: Ran) -> None:
    found = [path for path in ran.run_dir.rglob("*") if path.is_file() and _holds_key(path)]
    assert found == []


def _holds_key(path: Path) -> bool:
    return b"PRIVATE KEY" in path.read_bytes()


def test_it_repeats_without_the_network(
    tmp_path: Path, without_network: list[str], ran: Ran
) -> None:
    """Warm caches need nobody: one kernel, one scenario, nothing but the loopback."""
    assert ran.status == 0
    again = run_lab(tmp_path / "results", "-k", "5.4", "-s", "helloworld/*", prefix=without_network)
    assert again.status == 0
    assert again.results["counts"]["passed"] > 0


def test_the_sources_are_clean_by_the_kernels_own_rules(tmp_path: Path, ran: Ran) -> None:
    """checkpatch --strict, as the 5.4 kernel's build tree brings it."""
    assert ran.status == 0
    if shutil.which("perl") is None:
        pytest.skip("checkpatch needs perl")
    layer = next((default_cache_dir() / "kernels").glob("5.4.*/layer.squashfs"))
    wanted = [f"usr/src/*/scripts/{name}" for name in CHECKPATCH_FILES]
    tree = tmp_path / "tree"
    subprocess.run(
        ["unsquashfs", "-quiet", "-no-progress", "-d", str(tree), str(layer), *wanted], check=True
    )
    script = next(path for path in tree.rglob("checkpatch.pl") if path.is_file())
    done = subprocess.run(
        ["make", "-s", "-C", str(REPOSITORY / "kmod"), "check", f"CHECKPATCH=perl {script}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("has no obvious style problems") >= len(MODULES), done.stdout
