"""docs/tutorial.md, docs/own-module.md: what a reader is told to play does what the page says."""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path

import pytest

from orchestrator.doors.cli import build_parser
from tests.unit.test_pages import lab_commands, own_lab
from tests.vm.conftest import LABS, REPOSITORY, RUN_SECONDS, lab_argv

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(RUN_SECONDS)]

PLAYED = [
    words
    for page, words in lab_commands()
    if page == "tutorial.md" and words[0] == "run" and len(words) > 1
]


@pytest.mark.parametrize("words", PLAYED, ids=" ".join)
def test_a_command_of_the_tour(words: list[str], tmp_path: Path) -> None:
    parsed: argparse.Namespace = build_parser().parse_args(words)
    done = subprocess.run(
        lab_argv(*words, "--results", tmp_path / "runs", "-j", "1"),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if not parsed.dry_run:
        assert "scenarios passed" in done.stdout or "scenario passed" in done.stdout


@pytest.fixture
def tour(tmp_path: Path) -> Path:
    """This repository's lab without `proc_lseek` in its first module, as the page has one try."""
    shutil.copy(REPOSITORY / "lab.yaml", tmp_path)
    shutil.copytree(REPOSITORY / "kmod", tmp_path / "kmod")
    source = tmp_path / "kmod/procfs1.c"
    line = "\t.proc_lseek = procfs1_lseek,\n"
    assert line in source.read_text()
    source.write_text(source.read_text().replace(line, ""))
    return tmp_path


def test_what_is_seen_without_a_way_to_seek(tour: Path) -> None:
    done = subprocess.run(
        lab_argv("run", "-k", "5.15", "-s", "helloworld/can-be-sought-on-every-kernel"),
        cwd=tour,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    page = (REPOSITORY / "docs/tutorial.md").read_text()
    shown = page.split("    FAILED  ")[1].split("\n\n")[0].splitlines()
    assert len(shown) > 2
    for line in shown:
        assert line.removeprefix("    ") in done.stdout


def test_the_module_of_ones_own(tmp_path: Path) -> None:
    folder = tmp_path / "beep"
    own_lab(folder)
    shutil.copytree(LABS / "beep", folder, dirs_exist_ok=True)
    done = subprocess.run(lab_argv("run"), cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 scenarios passed" in done.stdout
