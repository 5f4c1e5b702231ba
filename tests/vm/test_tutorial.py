"""docs/tutorial.md: what a reader is told to play is played, and passes as the page says."""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

import pytest

from orchestrator.doors.cli import build_parser
from tests.unit.test_pages import lab_commands
from tests.vm.conftest import REPOSITORY, RUN_SECONDS, lab_argv

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
