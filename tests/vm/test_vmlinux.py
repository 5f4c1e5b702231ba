"""Which kernel file guests boot: the unpacked one, and its bzImage where that cannot be."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from orchestrator.adapters.cache import default_cache_dir

from .conftest import Ran, run_lab

LAB = """\
lab: small
kernels:
  "6.1": {image: bookworm, version: "6.1"}
  "4.15": {image: bionic, version: "4.15"}
scenarios: [scenarios.yaml]
"""
# A PVH entry makes up what a boot loader would have said, as protocol 2.12 (init_pvh_bootparams()
# in arch/x86/platform/pvh/enlighten.c); a bzImage of either kernel has its own.
SCENARIOS = """\
scenarios:
  protocol:
    steps: [{run: "cat /sys/kernel/boot_params/version"}]
"""
PVH_PROTOCOL = "0x020c\n"
QEMU_NAME = "qemu-system-x86_64"
QEMU = """\
#!/bin/sh
# A QEMU whose data were not installed: it has no pvh.bin.
case "$*" in "-L help") echo /nowhere; exit 0;; esac
exec {qemu} "$@"
"""


def run_small(tmp_path: Path, kernel: str, **env: str) -> Ran:
    folder = tmp_path / "lab"
    folder.mkdir()
    (folder / "lab.yaml").write_text(LAB)
    (folder / "scenarios.yaml").write_text(SCENARIOS)
    return run_lab(tmp_path / "results", "--lab", folder / "lab.yaml", "--kernel", kernel, env=env)


def protocol(ran: Ran) -> str:
    ((_, cell),) = ran.cells().items()
    assert cell["outcome"] == "passed", cell["reason"]
    return str(cell["steps"][0]["command"]["stdout"]["text"])


def test_a_guest_boots_the_unpacked_kernel(tmp_path: Path) -> None:
    ran = run_small(tmp_path, "6.1")
    (kernel,) = ran.results["kernels"]
    assert (kernel["boot_format"], kernel["boot_note"]) == ("vmlinux", "")
    # What the scenario saw was a fork of the guest that booted so.
    assert (kernel["forks"], kernel["fork_note"]) == (1, "")
    assert protocol(ran) == PVH_PROTOCOL


def test_a_kernel_whose_entry_is_for_xen_boots_its_bzimage(tmp_path: Path) -> None:
    ran = run_small(tmp_path, "4.15")
    (kernel,) = ran.results["kernels"]
    note = "it is built without CONFIG_PVH"
    assert (kernel["boot_format"], kernel["boot_note"]) == ("bzImage", note)
    assert protocol(ran) != PVH_PROTOCOL
    assert note in (ran.run_dir / "report.txt").read_text()


@pytest.fixture
def path_without_rom(open_dir: Path) -> str:
    """A PATH on which QEMU says that it has no firmware for a vmlinux."""
    qemu = shutil.which(QEMU_NAME)
    assert qemu is not None
    (open_dir / QEMU_NAME).write_text(QEMU.format(qemu=qemu))
    (open_dir / QEMU_NAME).chmod(0o755)
    return f"{open_dir}:{os.environ['PATH']}"


def test_without_qemus_firmware_the_bzimage_is_booted(
    tmp_path: Path, path_without_rom: str
) -> None:
    ran = run_small(tmp_path, "6.1", PATH=path_without_rom)
    (kernel,) = ran.results["kernels"]
    assert kernel["boot_format"] == "bzImage"
    assert kernel["boot_note"] == "QEMU has no pvh.bin here"
    assert protocol(ran) != PVH_PROTOCOL


def test_a_vmlinux_that_does_not_start_gives_way_to_the_bzimage(
    tmp_path: Path, open_dir: Path
) -> None:
    warm, cache = default_cache_dir(), open_dir / "cache"
    cache.mkdir()
    for kind in ("images", "kernels", "resolved", "keyrings", "apt", "initramfs", "accelerator"):
        (cache / kind).symlink_to(warm / kind)
    entries = sorted((warm / "vmlinux").glob("6.1.0-*-cloud-amd64-*"))
    if not entries:
        pytest.skip("no vmlinux is cached yet; the first test here makes one")
    for entry in entries:
        (cache / "vmlinux" / entry.name).mkdir(parents=True)
        data = (entry / "vmlinux").read_bytes()
        (cache / "vmlinux" / entry.name / "vmlinux").write_bytes(data[: len(data) // 2])
    ran = run_small(tmp_path, "6.1", LAB_CACHE=str(cache))
    (kernel,) = ran.results["kernels"]
    assert kernel["boot_format"] == "bzImage"
    assert "its vmlinux did not start: no kernel started" in kernel["boot_note"]
    assert "Error while loading elf kernel" in kernel["boot_note"]
    assert (kernel["boots"], kernel["forks"], kernel["fork_note"]) == (2, 1, "")
    assert protocol(ran) != PVH_PROTOCOL
