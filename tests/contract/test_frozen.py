"""What a frozen guest is known by, and what of it comes back in a later run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.adapters.cache import Cache
from orchestrator.adapters.freezer import Freezer
from orchestrator.adapters.kernels import Kernel
from orchestrator.adapters.machine import QEMU, BootFiles, Frozen, open_memory, seal_memory
from orchestrator.adapters.programs import Program, load_program
from orchestrator.adapters.ssh import generate_key_pair
from orchestrator.plan.kernel import ResolvedKernel
from orchestrator.plan.leftovers import Names
from orchestrator.plan.model import Timeouts
from orchestrator.plan.paths import RunDir
from orchestrator.plan.qemu import GuestSpec
from orchestrator.policy.frozen import bare_key, frozen_key, keep_frozen, take_frozen
from orchestrator.policy.guest import FrozenGuest, GuestPlan

SIZE = 4 << 20
RELEASE = "6.1.0-1-amd64"
needs_qemu = pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"no {QEMU} here")


@pytest.fixture
def plan(tmp_path: Path) -> GuestPlan:
    initramfs = tmp_path / "initramfs/initramfs.cpio"
    initramfs.parent.mkdir()
    initramfs.write_bytes(b"shared")
    return GuestPlan(
        kernel="6.1",
        release=RELEASE,
        spec=GuestSpec("tcg", memory_mib=128, cpus=1),
        files=BootFiles(tmp_path / "vmlinuz", initramfs),
        timeouts=Timeouts(),
        run_dir=RunDir(tmp_path / "run"),
    )


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    resolved = ResolvedKernel(release=RELEASE, version="6.1.1", origin="here", parts=())
    path = tmp_path / "vmlinuz"
    return Kernel("key", resolved, path, path, path, (), "0" * 64, "0" * 64, "gcc-12")


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return load_program("x.sh", script(tmp_path, "exit 0"), is_made=False)


def script(folder: Path, text: str) -> Path:
    (folder / "x.sh").write_text(f"#!/bin/sh\n{text}\n")
    (folder / "x.sh").chmod(0o755)
    return folder / "x.sh"


@pytest.fixture
def memory() -> Iterator[int]:
    with open_memory() as fd:
        os.ftruncate(fd, SIZE)
        seal_memory(fd)
        yield fd


@needs_qemu
def test_a_guest_that_boots_otherwise_is_another(plan: GuestPlan, kernel: Kernel) -> None:
    more = replace(plan, spec=replace(plan.spec, arguments=("quiet",)))
    keys = [
        bare_key(plan, kernel, "image"),
        bare_key(plan, kernel, "x"),
        bare_key(more, kernel, "x"),
    ]
    assert len(set(keys)) == 3


def test_a_guest_with_other_programs_is_another(program: Program, tmp_path: Path) -> None:
    changed = load_program("x.sh", script(tmp_path, "exit 1"), is_made=False)
    keys = [
        frozen_key("bare", {}, programs)
        for programs in ((), (program,), (changed,), (program, changed))
    ]
    assert len(set(keys)) == 4
    assert keys[0] == "bare"
    assert all(key.startswith("bare-") for key in keys[1:])
    assert frozen_key("bare", {}, (changed, program)) == keys[3]


def test_what_did_not_build_is_known_to_later_runs(
    plan: GuestPlan, memory: int, tmp_path: Path
) -> None:
    machine = Frozen(plan.spec, plan.files, "nonce", b"shared and secret", memory, b"devices")
    names = Names(0, frozenset({"/proc/x"}), ())
    unbuilt = {"x.c-0123": b"\xff\x00error: no\n"}
    keys = generate_key_pair(), generate_key_pair()
    frozen = FrozenGuest(machine, *keys, "word", names, unbuilt=unbuilt)
    console = tmp_path / "console.log"
    console.write_bytes(b"")
    freezer = Freezer(Cache(tmp_path / "cache"), 1 << 30)
    keep_frozen(freezer, "key", frozen, console)
    with open_memory() as fd:
        taken = take_frozen(freezer, "key", plan, fd)
        assert taken is not None
        assert (taken.unbuilt, taken.names, taken.machine.state) == (unbuilt, names, b"devices")
