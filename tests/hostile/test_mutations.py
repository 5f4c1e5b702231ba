"""Labs that mean ill, or are broken: each is a plan or a message that says where, soon.

``LAB_HOSTILE_MUTATIONS`` says how many (500, by night as by day), ``LAB_HOSTILE_SEED`` which.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from orchestrator.doors.cli import main

from .faults import REPOSITORY, seeded
from .mutate import MUTATIONS

COUNT = int(os.environ.get("LAB_HOSTILE_MUTATIONS", "500"))
SECONDS = 10.0
"""Of the processor's time, for one plan."""
PATIENCE = 600.0
MEMORY = 1 << 30
LABS = {
    "procfs": (REPOSITORY, ("lab.yaml", "kmod")),
    "verdicts": (REPOSITORY / "tests/vm/labs/verdicts", (".",)),
    "programs": (REPOSITORY / "tests/vm/labs/programs", (".",)),
    "forks": (REPOSITORY / "tests/vm/labs/forks", (".",)),
}
LOCK = """\
schema: 1
kernels: {}
images: {}
"""
RECIPE = (REPOSITORY / "images/bookworm.yaml").read_text()
LOCATED = re.compile(r"[^\n:]*\.(?:yaml|lock):\d+:\d+: ")
# What has no place within a file.
WHOLE = re.compile(r"cannot read |[^\n]* is too large|[^\n]*no .* matches|[^\n]* is no ")


@pytest.fixture
def labs(tmp_path: Path) -> list[Path]:
    """Copies of labs, each with a recipe of its own and a lock."""
    found = []
    for name, (source, parts) in LABS.items():
        target = tmp_path / name
        for part in parts:
            if (source / part).is_dir():
                shutil.copytree(source / part, target / part, dirs_exist_ok=True)
            else:
                target.mkdir(exist_ok=True)
                shutil.copy(source / part, target)
        (target / "recipes").mkdir()
        (target / "recipes/bookworm.yaml").write_text(RECIPE)
        lab = target / "lab.yaml"
        lab.write_text(lab.read_text() + "\nimages: recipes\n")
        found.append(target)
    return found


def files_of(lab: Path) -> list[Path]:
    """Its YAML files: the lab's, scenarios, recipes."""
    return sorted(lab.rglob("*.yaml"))


def check(status: int, told: str, what: str) -> str:
    """Whether a call of the lab ended as it may; what it was."""
    assert "Traceback" not in told, f"{what}\n{told}"
    assert status in (0, 2), f"{what}\n{told}"
    if status == 0:
        return "a plan"
    message = told.removeprefix("lab: ")
    assert LOCATED.match(message) or WHOLE.match(message), f"{what}\n{told}"
    assert len(told) < 5000, f"{what}: {len(told)} characters are told"
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\ufeff]", told), what
    return "a place" if LOCATED.match(message) else "a file"


def test_mutated_files_are_a_plan_or_a_message(
    labs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    chance = seeded("mutations")
    told: Counter[str] = Counter()
    longest = 0.0
    for number in range(COUNT):
        path = chance.choice(files_of(chance.choice(labs)))
        lab = next(each for each in labs if each in path.parents) / "lab.yaml"
        name = chance.choice(list(MUTATIONS))
        before = path.read_bytes()
        path.write_bytes(MUTATIONS[name](before, chance))
        began = time.process_time()
        status = main(["run", "--dry-run", "--lab", str(lab)])
        took = time.process_time() - began
        printed = capsys.readouterr()
        what = f"{number}: {name} in {path}, kept as {keep(path)}"
        told[check(status, printed.err, what)] += 1
        assert took < SECONDS, f"{what}: {took} s"
        longest = max(longest, took)
        path.write_bytes(before)
    with capsys.disabled():
        print(f"\n{COUNT} mutations: {dict(told)}, the longest {longest:.2f} s")


def bound() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (30, 30))


def keep(path: Path) -> Path:
    """Where a mutated file is kept for whoever looks into a failure."""
    kept = path.with_suffix(".kept")
    shutil.copy(path, kept)
    return kept


def test_mutated_files_in_a_process_with_little_memory(labs: list[Path]) -> None:
    """The real command, with a bound on memory: a file of a few KiB must not need more."""
    chance = seeded("mutations in processes")
    for name in list(MUTATIONS) if COUNT >= 500 else ["bombs", "structure"]:
        lab = chance.choice(labs)
        path = chance.choice(files_of(lab))
        before = path.read_bytes()
        path.write_bytes(MUTATIONS[name](before, chance))
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator", "run", "-n", "--lab", str(lab / "lab.yaml")],
            cwd=REPOSITORY,
            capture_output=True,
            timeout=PATIENCE,
            preexec_fn=bound,
            check=False,
        )
        check(done.returncode, done.stderr.decode(), f"{name} in {path}, kept as {keep(path)}")
        path.write_bytes(before)
