"""Damaged files, one after another: the right verdict or a clear error, and never a wrong one.

``LAB_HOSTILE_SEED`` says which bits flip, and which files are played by day. By night each file is
damaged once; ``LAB_HOSTILE_DAMAGE=all`` damages each in each way, and a number so many.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.adapters.cache import Cache, default_cache_dir
from orchestrator.adapters.images import image_key
from orchestrator.adapters.kernels import kernel_key
from orchestrator.adapters.sources import entry_types
from orchestrator.doors.cli import main
from orchestrator.doors.planning import make_plan
from orchestrator.plan.labfile import load_lab
from orchestrator.plan.paths import tool_dir

from .faults import KERNEL, VERDICTS, Lab, lend_cache, play_once, seeded, write_lab

FILES = os.environ.get("LAB_HOSTILE_DAMAGE", "")
Damage = Callable[[Path, random.Random], None]
# What a guest boots from, and what is hidden where a guest was frozen before.
BOOTED_FROM = ("images", "kernels", "initramfs", "vmlinux")
DAMAGED_RESULTS = 150 if os.environ.get("LAB_NIGHTLY") == "1" else 30
NOT_DAMAGED = ("locks", "roots", "trees", "apt", "keyrings")


# --- what is done to a file -----------------------------------------------------------------


def flip_bit(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    if data:
        bit = chance.randrange(len(data) * 8)
        data[bit // 8] ^= 1 << bit % 8
    put(path, bytes(data))


def truncate(path: Path, chance: random.Random) -> None:
    data = path.read_bytes()
    put(path, data[: chance.randrange(len(data) or 1)])


def empty(path: Path, _: random.Random) -> None:
    put(path, b"")


def remove(path: Path, _: random.Random) -> None:
    path.unlink()


def make_folder(path: Path, _: random.Random) -> None:
    path.unlink()
    path.mkdir()


def put(path: Path, data: bytes) -> None:
    """Another file in its place: the old one may have a second name."""
    mode = path.stat().st_mode
    path.unlink()
    path.write_bytes(data)
    path.chmod(mode)


DAMAGES: tuple[Damage, ...] = (flip_bit, truncate, empty, remove, make_folder)


# --- the cache ------------------------------------------------------------------------------


def copy_used(lab: Lab) -> None:
    """Put copies of what the lab uses in place of what was lent, but to build modules from."""
    own = Cache(lab.cache)
    plan = make_plan(load_lab(lab.path, entry_types()), own, kernels=[KERNEL])
    own.close()
    (kernel,) = plan.kernels
    assert kernel.known is not None
    used = {
        "images": image_key(kernel.recipe, tool_dir()),
        "kernels": kernel_key(kernel.known),
        "resolved": f"{kernel.recipe.release}-*.json",
        "accelerator": "*.json",
    }
    for kind, pattern in used.items():
        (lab.cache / kind).unlink()
        (lab.cache / kind).mkdir()
        for path in (default_cache_dir() / kind).glob(pattern):
            subprocess.run(("cp", "-a", path, lab.cache / kind), check=True)
        hashes = default_cache_dir() / "hashes" / kind
        for path in hashes.glob(f"{pattern}.json"):
            (lab.cache / "hashes" / kind).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, lab.cache / "hashes" / kind)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab that has been played, with a cache of its own that has all that it needs."""
    folder = tmp_path_factory.mktemp("damage")
    lab = Lab(write_lab(folder / "lab"), lend_cache(folder / "cache"), folder / "results")
    play_once(lab)
    copy_used(lab)
    lab.play("--offline")
    yield lab
    shutil.rmtree(folder)


@pytest.fixture
def whole(lab: Lab) -> Iterator[Path]:
    """The lab's cache as it was, to be put back."""
    kept = lab.cache.with_name("whole")
    lab.cache.rename(kept)
    yield kept
    shutil.rmtree(lab.cache, ignore_errors=True)
    kept.rename(lab.cache)


def put_back(whole: Path, cache: Path) -> None:
    """A copy of a cache; its files are the same ones, under second names."""
    shutil.rmtree(cache, ignore_errors=True)
    subprocess.run(("cp", "-al", whole, cache), check=True)


def files_in(cache: Path) -> list[Path]:
    kinds = [path for path in cache.iterdir() if path.name not in NOT_DAMAGED]
    return sorted(
        path.relative_to(cache)
        for kind in kinds
        if not kind.is_symlink()
        for path in kind.rglob("*")
        if path.is_file() and not path.is_symlink()
    )


def judge(lab: Lab, status: int, text: str) -> str:
    """What a run on a damaged cache came to; a wrong verdict fails the test."""
    assert "Traceback" not in text
    results = lab.results / "latest/results.json"
    verdicts = lab.verdicts() if results.exists() else {}
    if status == 1:
        assert verdicts == VERDICTS, text
        return "right verdicts"
    assert status == 3, text
    right = {name: found for name, found in verdicts.items() if found != "error"}
    assert right.items() <= VERDICTS.items(), text
    assert "damaged" in text, text
    return "a clear error"


def play_damaged(lab: Lab, whole: Path, name: Path, damage: Damage, chance: random.Random) -> str:
    put_back(whole, lab.cache)
    shutil.rmtree(lab.results, ignore_errors=True)
    damage(lab.cache / name, chance)
    frozen = "0" if name.parts[0] in BOOTED_FROM else "4"
    told = Lab(lab.path, lab.cache, lab.results, env={"LAB_FROZEN_GIB": frozen})
    status, text = told.run("run", "-j", "1", "--offline")
    try:
        return judge(told, status, text)
    except AssertionError:
        print(f"{damage.__name__} {name}: status {status}\n{text}")
        raise


@pytest.mark.vm
def test_some_damaged_files(lab: Lab, whole: Path) -> None:
    chance = seeded("some damage")
    booted = [name for name in files_in(whole) if name.parts[0] in BOOTED_FROM]
    others = [name for name in files_in(whole) if name.parts[0] not in BOOTED_FROM]
    for name in (chance.choice(booted), *chance.sample(others, 2)):
        damage = chance.choice(DAMAGES)
        told = play_damaged(lab, whole, name, damage, chance)
        print(f"{damage.__name__} {name}: {told}")


def some_of_each_kind(
    pairs: list[tuple[Path, Damage]], count: int, chance: random.Random
) -> list[tuple[Path, Damage]]:
    kinds = sorted({name.parts[0] for name, _ in pairs})
    of_kind = {kind: [pair for pair in pairs if pair[0].parts[0] == kind] for kind in kinds}
    return [chance.choice(of_kind[kinds[number % len(kinds)]]) for number in range(count)]


@pytest.mark.vm
@pytest.mark.nightly
def test_every_file_of_the_cache_damaged(lab: Lab, whole: Path) -> None:
    chance = seeded("damage")
    told: Counter[str] = Counter()
    wrong = []
    pairs = [(name, damage) for name in files_in(whole) for damage in DAMAGES]
    if not FILES:
        pairs = [(name, chance.choice(DAMAGES)) for name in files_in(whole)]
    elif FILES != "all":
        pairs = some_of_each_kind(pairs, int(FILES), chance)
    for name, damage in pairs:
        try:
            came_to = play_damaged(lab, whole, name, damage, chance)
        except AssertionError as error:
            came_to = "WRONG"
            wrong.append(f"{damage.__name__} {name}: {str(error)[:2000]}")
        told[came_to] += 1
        print(f"{damage.__name__} {name}: {came_to}", flush=True)
    print(f"{len(pairs)} damages: {dict(told)}")
    assert wrong == []


# --- results --------------------------------------------------------------------------------


@pytest.fixture
def results(lab: Lab, tmp_path: Path) -> Path:
    """Results of two runs: one that ended, and one that was killed after some cells."""
    copied = tmp_path / "results"
    shutil.copytree(lab.results, copied, symlinks=True)
    run = (copied / "latest").resolve()
    cut = copied / "20200101-000000-cut0"
    shutil.copytree(run, cut)
    told = json.loads((cut / "results.json").read_text())
    told |= {"interrupted": True, "run_id": cut.name}
    del told["kernels"][0]["cells"][2:]
    (cut / "results.json").write_text(json.dumps(told))
    return copied


COMMANDS = (
    ("report", "latest"),
    ("report", "20200101-000000-cut0", "--format", "junit"),
    ("report", "20200101-000000-cut0", "--format", "html", "--output", "page.html"),
    ("history",),
    ("history", "--json"),
    ("history", "--import"),
    ("run", "--resume", "latest"),
)


@pytest.mark.vm
def test_damaged_results_are_told_of(
    lab: Lab, results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reports, the history, and a run that has nothing left to play. No guest is started."""
    monkeypatch.setenv("LAB_CACHE", str(lab.cache))
    chance = seeded("damaged results")
    told: Counter[int] = Counter()
    cut = "20200101-000000-cut0"
    files = [
        f"{run}/{name}" for run in ("latest", cut) for name in ("results.json", "judged.jsonl")
    ]
    names = (*files, "history.sqlite")
    for number in range(DAMAGED_RESULTS):
        copied = results.with_name(f"copy-{number}")
        shutil.copytree(results, copied, symlinks=True)
        name, damage = chance.choice(names), chance.choice(DAMAGES)
        damage(copied / name, chance)
        monkeypatch.chdir(copied)  # where a page is written
        for command in COMMANDS:
            words = [*command, "--results", str(copied), "--lab", str(lab.path)]
            if command[-1] == "--import":
                words.insert(2, str(copied))
            status = main(words)
            printed = capsys.readouterr()
            what = f"{number}: {damage.__name__} {name}: {' '.join(command)}: {printed.err}"
            assert status in (0, 1, 2, 3, 130), what
            assert "Traceback" not in printed.err, what
            assert printed.err if status in (2, 3) else True, what
            told[status] += 1
        monkeypatch.chdir(results)
        shutil.rmtree(copied)
    with capsys.disabled():
        print(f"\n{DAMAGED_RESULTS} damages, {len(COMMANDS)} commands each: {dict(told)}")
