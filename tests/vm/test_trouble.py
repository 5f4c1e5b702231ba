"""What goes wrong around a run: each ends with a clear line and the right exit status."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.adapters.cache import default_cache_dir

from .conftest import Started, run_lab

SMALL = """\
lab: small
kernels:
  "6.1": {{image: bookworm, version: "6.1"}}
scenarios: [scenarios.yaml]
guest: {{arguments: {arguments}}}
timeouts: {{boot: 30}}
"""
SCENARIOS = """\
scenarios:
  first:
    steps: [{run: "true"}]
  second:
    steps: [{run: "sleep 30", timeout: 60}]
"""


def small_lab(folder: Path, arguments: str = "[]") -> Path:
    """A lab without modules: nothing is built, so that trouble comes soon."""
    folder.mkdir(exist_ok=True)
    (folder / "lab.yaml").write_text(SMALL.format(arguments=arguments))
    (folder / "scenarios.yaml").write_text(SCENARIOS)
    return folder / "lab.yaml"


Start = Callable[..., Started]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("moment", ["booting", "passed scenarios/first"])
def test_an_interrupt_ends_in_order(
    tmp_path: Path, start_lab: Start, number: signal.Signals, moment: str
) -> None:
    run = start_lab("--lab", small_lab(tmp_path / "lab"))
    run.wait_for(moment)
    status, left = run.send(number)
    assert status == 130, run.output
    assert left == set()
    assert "interrupted" in run.output
    assert "Traceback" not in run.output
    assert (run.results_dir / "latest/results.json").is_file()


def test_an_interrupt_while_the_cache_is_filled_leaves_nothing_half_made(
    tmp_path: Path, start_lab: Start
) -> None:
    cache = tmp_path / "cache"
    run = start_lab("--lab", small_lab(tmp_path / "lab"), cache=cache)
    run.wait_for("getting the userland")
    status, left = run.send(signal.SIGINT)
    assert status == 130, run.output
    assert left == set()
    assert list(cache.glob("images/*")) == []
    assert list(cache.glob("*/.*")) == []


def test_a_killed_lab_leaves_no_process(tmp_path: Path, start_lab: Start) -> None:
    run = start_lab("--lab", small_lab(tmp_path / "lab"))
    run.wait_for("passed scenarios/first")
    status, left = run.send(signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert left == set()


def test_a_killed_lab_leaves_no_process_of_an_image_in_the_making(
    tmp_path: Path, start_lab: Start
) -> None:
    cache = tmp_path / "cache"
    run = start_lab("--lab", small_lab(tmp_path / "lab"), cache=cache)
    run.wait_for("getting the userland")
    status, left = run.send(signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert left == set()
    assert list(cache.glob("images/[!.]*")) == []


def test_an_unreachable_mirror(tmp_path: Path, without_network: list[str]) -> None:
    ran = run_lab(
        tmp_path / "results",
        "--lab",
        small_lab(tmp_path / "lab"),
        env={"LAB_CACHE": str(tmp_path / "cache")},
        prefix=without_network,
    )
    assert ran.status == 3
    assert "cannot fetch the indexes of bookworm" in ran.output
    assert "Traceback" not in ran.output
    assert list((tmp_path / "cache").glob("apt/*")) == []


def test_a_full_disk_under_the_cache(tmp_path: Path, tiny_disk: Callable[[int], Path]) -> None:
    disk = tiny_disk(1)
    # All but the initramfs is where it was: what comes out of the network is not asked for.
    warm = default_cache_dir()
    for kind in ("images", "kernels", "resolved", "keyrings", "apt"):
        (warm / kind).mkdir(parents=True, exist_ok=True)
        (disk / kind).symlink_to(warm / kind)
    ran = run_lab(
        tmp_path / "results",
        "--lab",
        small_lab(tmp_path / "lab"),
        env={"LAB_CACHE": str(disk)},
    )
    assert ran.status == 3
    assert "No space left on device" in ran.output
    assert "Traceback" not in ran.output


def test_a_full_disk_under_the_results(tmp_path: Path, tiny_disk: Callable[[int], Path]) -> None:
    disk = tiny_disk(1)
    (disk / "full").write_bytes(b"x" * ((1 << 20) - (12 << 10)))
    ran = run_lab(disk / "results", "--lab", small_lab(tmp_path / "lab"), "-s", "first")
    assert ran.status == 3
    assert "No space left on device" in ran.output
    assert "Traceback" not in ran.output


def test_a_kernel_that_does_not_boot(tmp_path: Path) -> None:
    lab = small_lab(tmp_path / "lab", arguments='["rdinit=/nothing"]')
    ran = run_lab(tmp_path / "results", "--lab", lab)
    assert ran.status == 3
    assert "the guest's kernel panicked: Kernel panic - not syncing" in ran.output
    assert {cell["outcome"] for cell in ran.cells().values()} == {"error"}


def test_no_scenario_is_no_success(tmp_path: Path) -> None:
    lab = small_lab(tmp_path / "lab")
    scenarios = lab.with_name("scenarios.yaml")
    scenarios.write_text('scenarios: {old: {kernels: "<5", steps: [{run: "true"}]}}\n')
    ran = run_lab(tmp_path / "results", "--lab", lab)
    assert ran.status == 3
    assert "no scenario ran" in ran.output


def test_a_scenario_that_hangs(tmp_path: Path) -> None:
    lab = small_lab(tmp_path / "lab")
    text = lab.with_name("scenarios.yaml").read_text().replace("timeout: 60", "timeout: 1")
    lab.with_name("scenarios.yaml").write_text(text)
    ran = run_lab(tmp_path / "results", "--lab", lab)
    assert ran.status == 1
    assert "it did not end within" in ran.output
