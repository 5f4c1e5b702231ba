"""A lab that is killed, at any moment: nothing of it is left, and the next run is a good one.

``LAB_HOSTILE_KILLS`` says how often (200 by night), ``LAB_HOSTILE_SEED`` when.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.foundation.errors import UsageError
from orchestrator.plan.outcome import Outcome
from orchestrator.policy.reports.reading import load_results

from .faults import (
    VERDICTS,
    Lab,
    adopting,
    damaged,
    descendants,
    kill_after,
    left_behind,
    lend_cache,
    play_once,
    seeded,
    write_lab,
)

pytestmark = pytest.mark.vm
KILLS = int(os.environ.get("LAB_HOSTILE_KILLS", "200"))
OWN_KINDS = ("modules", "frozen", "initramfs", "vmlinux", "durations", "locks", "hashes")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("killed")
    with adopting():
        yield Lab(write_lab(folder / "lab"), lend_cache(folder / "cache"), folder / "results")
    shutil.rmtree(folder)


def judged(run_dir: Path) -> dict[str, str]:
    """What a run that was cut short has judged, as the lab itself reads it. What a polite end kept
    it from is skipped.
    """
    try:
        cells = load_results(run_dir).cells
        return {
            cell.scenario: cell.outcome.value
            for cell in cells
            if cell.outcome is not Outcome.SKIPPED
        }
    except UsageError as error:
        if "no scenario of that run was judged" not in error.message:
            raise
        return {}


def begin(lab: Lab, *arguments: str) -> subprocess.Popen[bytes]:
    return lab.start("run", "-j", "1", *arguments, output=subprocess.DEVNULL)


def killed(lab: Lab, seconds: float, *arguments: str) -> bool:
    """Kill a run at that moment, and look at what it leaves; whether it was still at it."""
    before = descendants()
    process = begin(lab, *arguments)
    still_ran = kill_after(process, seconds)
    if not still_ran:
        assert process.returncode == 1
    assert left_behind(before) == {}
    assert damaged(lab.cache) == []
    return still_ran


def latest(lab: Lab) -> Path | None:
    path = lab.results / "latest"
    return path.resolve() if path.exists() else None


def resume(lab: Lab, run_dir: Path, before: dict[str, str]) -> None:
    """Go on with a run: what was judged stays as it is, and each cell is there once."""
    evidence = {
        path: path.stat().st_mtime_ns
        for name in before
        for path in (run_dir / "6.1/scenarios" / name.replace("/", ".")).rglob("*")
    }
    lab.play("--resume", str(run_dir))
    assert evidence == {path: path.stat().st_mtime_ns for path in evidence}
    lines = (run_dir / "judged.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["scenario"] for line in lines) == sorted(VERDICTS)


def kill_warm(lab: Lab, moments: Callable[[], float], count: int) -> Counter[str]:
    """Kill runs whose guest is frozen in the cache; one in three is resumed, to its end or killed
    again, and one in four is followed by a run without any clean-up.
    """
    told: Counter[str] = Counter()
    while told["killed"] < count:
        before_run = latest(lab)
        told["killed" if killed(lab, moments()) else "ended first"] += 1
        run_dir = latest(lab)
        if run_dir is None or run_dir == before_run:
            told["before there was a folder"] += 1
            continue
        found = judged(run_dir)
        assert found.items() <= VERDICTS.items()
        told["with something judged"] += bool(found)
        if found and len(found) < len(VERDICTS) and told["killed"] % 3:
            if told["killed"] < count and told["killed"] % 2:
                told["killed"] += killed(lab, moments(), "--resume", str(run_dir))
                told["killed while resumed"] += 1
                more = judged(run_dir)
                assert found.items() <= more.items() <= VERDICTS.items()
                found = more
            if len(found) < len(VERDICTS):
                resume(lab, run_dir, found)
                told["resumed to the end"] += 1
        elif told["killed"] % 4 == 0:
            lab.play()
            told["played anew"] += 1
        print(f"warm: {dict(told)}", flush=True)
    return told


def kill_cold(lab: Lab, chance: random.Random, seconds: float, count: int) -> Counter[str]:
    """Kill runs that make modules, initramfs, kernel and frozen guest. What one leaves half made
    is there for the next, until one has played to its end.
    """
    told: Counter[str] = Counter()
    while told["killed"] < count:
        empty(lab.cache)
        for _ in range(min(4, count - told["killed"])):
            if not killed(lab, chance.uniform(0.2, seconds)):
                told["ended first"] += 1
                break
            told["killed"] += 1
        lab.play()
        assert damaged(lab.cache) == []
        told["played anew"] += 1
        print(f"cold: {dict(told)}", flush=True)
    return told


def empty(cache: Path) -> None:
    """Forget all that is the cache's own."""
    for kind in OWN_KINDS:
        shutil.rmtree(cache / kind, ignore_errors=True)


def timed(lab: Lab) -> float:
    began = time.monotonic()
    lab.play()
    return time.monotonic() - began


@pytest.fixture(scope="module")
def took(lab: Lab) -> tuple[float, float]:
    """How long a run takes: that makes all that the cache has of its own, and the next one."""
    play_once(lab)
    warm = timed(lab)
    return 3 * warm, warm  # measured once: a boot and a build are two runs more


def test_some_kills(lab: Lab, took: tuple[float, float]) -> None:
    """A few of what the night plays many of."""
    chance = seeded("some kills")
    told = kill_warm(lab, lambda: chance.uniform(0.2, took[1]), 4)
    print(f"cold {took[0]:.1f} s, warm {took[1]:.1f} s: {dict(told)}")


@pytest.mark.nightly
def test_a_kill_at_any_moment(lab: Lab, took: tuple[float, float]) -> None:
    chance = seeded("kills")
    cold = kill_cold(lab, chance, took[0], KILLS // 8)
    warm = kill_warm(lab, lambda: chance.uniform(0.2, 1.5 * took[1]), KILLS - KILLS // 8)
    assert cold["killed"] + warm["killed"] >= KILLS
    status, text = lab.run("cache", "prune")
    assert status == 0, text
    lab.play()


@pytest.mark.nightly
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_polite_end_at_any_moment(
    lab: Lab, took: tuple[float, float], number: signal.Signals
) -> None:
    chance = seeded(f"{number.name}")
    told: Counter[int] = Counter()
    for _ in range(max(5, KILLS // 20)):
        before = descendants()
        with lab.start("run", "-j", "1") as process:
            try:
                output, _ = process.communicate(timeout=chance.uniform(1.0, took[1]))
            except subprocess.TimeoutExpired:
                process.send_signal(number)
                output, _ = process.communicate(timeout=60)
        text = output.decode(errors="replace")
        assert "Traceback" not in text, text
        told[process.returncode] += 1
        assert left_behind(before) == {}
        if process.returncode == 130:
            run_dir = latest(lab)
            assert run_dir is not None
            assert (run_dir / "results.json").is_file(), text
            assert judged(run_dir).items() <= VERDICTS.items()
        else:  # all was judged when it came, or nothing had begun
            assert process.returncode in (1, -number), text
    print(f"{number.name}: {dict(told)}")
