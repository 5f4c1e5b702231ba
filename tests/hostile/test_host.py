"""A host that is short of everything, or whose clock jumps: right verdicts, or a clear error.

``LAB_HOSTILE_FILLS`` says how often a disk gets full (50 by night), ``LAB_HOSTILE_SEED`` when.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .faults import (
    OWN,
    VERDICTS,
    Lab,
    adopting,
    copy_own,
    damaged,
    left_behind,
    lend_cache,
    play_once,
    seeded,
    write_lab,
)

pytestmark = pytest.mark.vm
HERE = Path(__file__).parent
FILLS = int(os.environ.get("LAB_HOSTILE_FILLS", "50"))
AT_ONCE = 10

Mount = Callable[[str], Path]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab that has been played, with a cache of its own."""
    folder = tmp_path_factory.mktemp("host")
    lab = Lab(write_lab(folder / "lab"), lend_cache(folder / "cache"), folder / "results")
    with adopting():
        play_once(lab)
        yield lab
    shutil.rmtree(folder)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts small file systems with options, in memory; root only."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    mounted: list[Path] = []

    def mount_one(options: str) -> Path:
        folder = tmp_path / f"disk-{len(mounted)}"
        folder.mkdir()
        subprocess.run(("mount", "-t", "tmpfs", "-o", options, "tmpfs", folder), check=True)
        mounted.append(folder)
        return folder

    yield mount_one
    for folder in mounted:
        subprocess.run(("umount", "-l", folder), check=True)


@pytest.fixture
def shim(open_dir: Path) -> Callable[[str], dict[str, str]]:
    """An environment with a library between programs and libc, made of C that lies here."""

    def make(name: str) -> dict[str, str]:
        library = open_dir / f"{name}.so"
        argv = ("gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-o", library)
        subprocess.run((*argv, HERE / f"{name}.c", "-ldl"), check=True)
        return {"LD_PRELOAD": str(library)}

    return make


def judge(lab: Lab, status: int, text: str, *clear: str) -> str:
    """What a run came to: the right verdicts, or a status 3 that says one of these words."""
    assert "Traceback" not in text, text
    results = lab.results / "latest/results.json"
    verdicts: dict[str, str] = {}
    with contextlib.suppress(FileNotFoundError):
        json.loads(results.read_text())  # whole, whenever the disk got full
        verdicts = lab.verdicts()
    if status == 1:
        assert verdicts == VERDICTS, text
        return "right verdicts"
    assert status == 3, text
    told = {name: found for name, found in verdicts.items() if found in ("passed", "failed")}
    assert told.items() <= VERDICTS.items(), text
    assert any(word in text for word in clear), text
    return "a clear error"


def with_limit(lab: Lab, *limits: str) -> tuple[int, str]:
    shutil.rmtree(lab.results, ignore_errors=True)
    return lab.run("run", "-j", "1", prefix=("prlimit", *limits))


# --- full disks -----------------------------------------------------------------------------


def fill(disk: Path) -> None:
    """Take all the room that is left, to the last byte."""
    with open(disk / "filler", "wb", buffering=0) as file:
        for piece in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(piece)):
                    pass


def play_while_filled(lab: Lab, disk: Path, seconds: float) -> str:
    """A run whose disk gets full at that moment; the next one has room again."""
    shutil.rmtree(lab.results, ignore_errors=True)
    timer = threading.Timer(seconds, fill, (disk,))
    timer.start()
    try:
        status, text = lab.run("run", "-j", "1")
    finally:
        timer.cancel()
        timer.join()
    told = judge(lab, status, text, "No space left on device")
    (disk / "filler").unlink(missing_ok=True)
    assert damaged(lab.cache) == []
    return told


def lab_on(disk: Path, lab: Lab, *, warm: bool) -> Lab:
    """The same lab, with cache and results on a disk of their own."""
    cache = lend_cache(disk / "cache")
    for kind in OWN:
        shutil.rmtree(cache / kind, ignore_errors=True)
    if warm:
        copy_own(lab.cache, cache)
    return Lab(lab.path, cache, disk / "results")


def play_fills(lab: Lab, disk: Path, chance: random.Random, count: int) -> Counter[str]:
    told: Counter[str] = Counter()
    for number in range(count):
        warm = number % 3 != 0
        there = lab_on(disk, lab, warm=warm)
        told[play_while_filled(there, disk, chance.uniform(0.1, 6.0 if warm else 20.0))] += 1
        if number % 5 == 0:
            there.play()
            told["and played again"] += 1
        print(f"full disks: {dict(told)}", flush=True)
    return told


def test_a_disk_that_gets_full(lab: Lab, mount: Mount) -> None:
    play_fills(lab, mount("size=700m"), seeded("some full disks"), 2)


@pytest.mark.nightly
def test_a_disk_that_gets_full_at_any_moment(lab: Lab, mount: Mount) -> None:
    told = play_fills(lab, mount("size=700m"), seeded("full disks"), FILLS)
    assert told["right verdicts"] + told["a clear error"] == FILLS


@pytest.mark.nightly
@pytest.mark.parametrize("inodes", [24, 40, 60, 80, 100, 120, 150])
def test_a_disk_without_inodes(lab: Lab, mount: Mount, inodes: int) -> None:
    there = lab_on(mount(f"size=700m,nr_inodes={inodes}"), lab, warm=False)
    status, text = there.run("run", "-j", "1")
    print(judge(there, status, text, "No space left on device"))
    assert damaged(there.cache) == []


@pytest.mark.nightly
@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
def test_a_cache_that_can_only_be_read(lab: Lab, mount: Mount, tmp_path: Path, warm: bool) -> None:
    disk = mount("size=700m")
    there = lab_on(disk, lab, warm=warm)
    subprocess.run(("mount", "-o", "remount,ro", disk), check=True)
    there = Lab(there.path, there.cache, tmp_path / "results")
    status, text = there.run("run", "-j", "1")
    assert judge(there, status, text, "not writable") == "a clear error"
    assert "LAB_CACHE=" in text


# --- too little of something ----------------------------------------------------------------


@pytest.mark.nightly
@pytest.mark.parametrize("mib", [64, 128, 300, 800])
def test_too_little_memory(lab: Lab, mib: int) -> None:
    status, text = with_limit(lab, f"--as={mib << 20}")
    told = judge(lab, status, text, "memory", "Cannot allocate", "MemoryError", "cannot start")
    print(f"{mib} MiB: {told}: {text}")


@pytest.mark.parametrize("files", [12, 24, 40])
def test_too_few_open_files(lab: Lab, files: int) -> None:
    status, text = with_limit(lab, f"--nofile={files}:{files}")
    print(f"{files} files: {judge(lab, status, text, 'Too many open files')}: {text}")


@pytest.mark.nightly
def test_a_guest_larger_than_any_machine(lab: Lab, tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    path = write_lab(folder)
    path.write_text(path.read_text() + "guest: {memory_mib: 1000000}\n")
    there = Lab(path, lab.cache, tmp_path / "results")
    status, text = there.run("run", "-j", "1")
    assert status in (2, 3), text
    assert "memory" in text, text
    print(text)


# --- clocks, slow disks, company ------------------------------------------------------------


@pytest.mark.nightly
@pytest.mark.parametrize("frozen", ["0", "4"], ids=["booted", "frozen"])
def test_a_clock_that_jumps_by_years(
    lab: Lab, tmp_path: Path, shim: Callable[[str], dict[str, str]], frozen: str
) -> None:
    env = {**shim("clock"), "LAB_FROZEN_GIB": frozen}
    for number in range(3):
        Lab(lab.path, lab.cache, tmp_path / f"results-{number}", env).play()


@pytest.mark.nightly
def test_a_slow_disk(lab: Lab, tmp_path: Path, shim: Callable[[str], dict[str, str]]) -> None:
    cache = lend_cache(tmp_path / "cache")
    there = Lab(lab.path, cache, tmp_path / "results", shim("slow"))
    there.play()
    there.play()
    assert damaged(cache) == []


@pytest.mark.nightly
@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
def test_ten_labs_at_once_on_one_cache(lab: Lab, tmp_path: Path, warm: bool) -> None:
    cache = lab.cache if warm else lend_cache(tmp_path / "cache")
    labs = [Lab(lab.path, cache, tmp_path / f"results-{number}") for number in range(AT_ONCE)]
    before: set[int] = set()
    with contextlib.ExitStack() as stack:
        runs = [stack.enter_context(each.start("run", "-j", "1")) for each in labs]
        texts = [run.communicate(timeout=3600)[0].decode(errors="replace") for run in runs]
    for each, run, text in zip(labs, runs, texts, strict=True):
        assert "Traceback" not in text, text
        assert run.returncode == 1, text
        assert each.verdicts() == VERDICTS, text
    assert left_behind(before) == {}
    assert damaged(cache) == []
