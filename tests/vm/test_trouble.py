"""What goes wrong around a run: each ends with a clear line and the right exit status."""

from __future__ import annotations

import json
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.adapters.board import ensure_board
from orchestrator.adapters.cache import Cache, default_cache_dir
from orchestrator.adapters.machine import BootFiles, start_machine
from orchestrator.adapters.ssh import generate_key_pair
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import BootError
from orchestrator.plan.qemu import PC, GuestSpec

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
WATCHED = """\
scenarios:
  first:
    steps: [{run: "true"}]
  second:
    settle: 60
    steps: [{run: "true"}]
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


def test_a_guest_that_is_still_watched_when_all_is_ended_has_no_verdict(
    tmp_path: Path, start_lab: Start
) -> None:
    lab = small_lab(tmp_path / "lab")
    (tmp_path / "lab/scenarios.yaml").write_text(WATCHED)
    run = start_lab("--lab", lab)
    run.wait_for("passed scenarios/first")
    status, left = run.send(signal.SIGINT)
    assert status == 130, run.output
    assert left == set()
    results = json.loads((run.results_dir / "latest/results.json").read_text())
    assert results["interrupted"]
    told = {cell["scenario"]: cell["outcome"] for cell in results["kernels"][0]["cells"]}
    assert told == {"scenarios/first": "passed", "scenarios/second": "skipped"}


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


@pytest.mark.parametrize(
    ("argument", "said", "hint", "last"),
    [
        (
            "rdinit=/nothing",
            "before init: the guest's kernel panicked: Kernel panic - not syncing: VFS: Unable",
            "no `init=` or `rdinit=`",
            "Kernel panic - not syncing: VFS: Unable",
        ),
        # What a bzImage's first code says through the firmware, at the second try.
        ("8250.nr_uarts=0", "no console: a kernel runs", "SERIAL_8250_CONSOLE=y", "Probing EDD"),
        (
            "initcall_blacklist=virtio_blk_init",
            "no root: the boot ended in the initramfs",
            "it refused to load virtio_blk.ko",
            "boot failed-no-disk",
        ),
        (
            "initcall_blacklist=virtio_net_driver_init",
            "no network: the guest has no eth0",
            "it refused to load virtio_net.ko",
            "boot failed-no-network",
        ),
    ],
    ids=["panic", "no-console", "no-root", "no-network"],
)
def test_a_kernel_that_does_not_boot(
    tmp_path: Path, argument: str, said: str, hint: str, last: str
) -> None:
    lab = small_lab(tmp_path / "lab", arguments=f'["{argument}"]')
    ran = run_lab(tmp_path / "results", "--lab", lab)
    assert ran.status == 3
    (kernel,) = ran.results["kernels"]
    assert said in kernel["error"]
    assert hint in kernel["hint"]
    assert any(last in line for line in kernel["last_lines"])
    assert {cell["outcome"] for cell in ran.cells().values()} == {"error"}
    assert last in ran.output
    # Long before the boot's own deadline, 150 s where guests are emulated.
    assert "(150 s)" not in kernel["error"]


@pytest.mark.parametrize("quick", [False, True], ids=["pc", "quick"])
def test_a_damaged_kernel_file_is_told_at_once(tmp_path: Path, quick: bool) -> None:
    """Its header is whole, so QEMU starts it; the code that unpacks the rest gives up."""
    kernels = sorted((default_cache_dir() / "kernels").glob("6.1.0-*-cloud-amd64-*/vmlinuz"))
    if not kernels:
        pytest.skip("no kernel is cached yet; the other tests here fetch one")
    data = bytearray(kernels[-1].read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4096] = bytes(4096)
    with tempfile.TemporaryDirectory() as folder:  # where QEMU's user may look
        damaged = Path(folder) / "vmlinuz"
        damaged.write_bytes(data)
        (Path(folder) / "initramfs").write_bytes(b"")
        files = BootFiles(damaged, Path(folder) / "initramfs")
        key = generate_key_pair()
        board = ensure_board(Cache(tmp_path / "cache")) if quick else PC
        spec = GuestSpec("tcg", memory_mib=256, cpus=2, board=board)
        said = "no kernel started: the guest's processor has halted for good"
        with (
            start_machine(spec, files, tmp_path / "boot", user_key=key, host_key=key) as machine,
            pytest.raises(BootError, match=said) as caught,
        ):
            machine.wait_for_boot(Deadline.after(120, "the boot"), key, key)
    assert "a damaged kernel file" in caught.value.hint
    if not board.firmware:  # qboot says nothing
        assert any("Booting from ROM" in line for line in caught.value.last_lines)


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
