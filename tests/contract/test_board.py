"""The board that guests get, asked of a QEMU that is a shell script, and of the real one."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from orchestrator.adapters.board import ensure_board
from orchestrator.adapters.cache import Cache
from orchestrator.plan.qemu import PC, QUICK_FIRMWARE

pytestmark = pytest.mark.usefixtures("no_leaks")

HELP = "  graphics=<bool>        - graphics emulation\n  sata=<bool>\n"


class Qemu:
    """A stand-in that tells what it is told to, and counts the questions."""

    def __init__(self, root: Path) -> None:
        self.data_dir = root / "data"
        self.data_dir.mkdir()
        self._told = root / "told"
        self._asked = root / "asked"
        self._program = root / "bin" / "qemu-system-x86_64"
        self._program.parent.mkdir()
        self.install(HELP)

    def install(self, told: str, status: int = 0) -> None:
        """Put another one in its place."""
        self._told.write_text(told)
        self._program.unlink(missing_ok=True)
        self._program.write_text(
            f'#!/bin/sh\necho "$*" >>{self._asked}\n'
            f"case $1 in -L) echo {self.data_dir} ;; *) cat {self._told}; exit {status} ;; esac\n"
            f"# {told!r}\n".replace("\\n", " ")
        )
        self._program.chmod(0o755)

    def questions(self) -> list[str]:
        """What it was asked since the last call."""
        lines = self._asked.read_text().splitlines() if self._asked.exists() else []
        self._asked.write_text("")
        return lines


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Qemu:
    standin = Qemu(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return standin


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_each_qemu_is_asked_once(qemu: Qemu, cache: Cache) -> None:
    board = ensure_board(cache)
    assert (board.machine, board.without, board.firmware) == ("q35", ("graphics", "sata"), None)
    assert qemu.questions() == ["-machine q35,help", "-L help"]
    assert ensure_board(cache) == board
    assert qemu.questions() == []
    qemu.install(HELP + "  i8042=<bool>\n")
    assert ensure_board(cache).without == ("graphics", "sata", "i8042")


def test_firmware_that_is_installed_later_is_seen(qemu: Qemu, cache: Cache) -> None:
    assert ensure_board(cache).firmware is None
    (qemu.data_dir / QUICK_FIRMWARE).write_bytes(b"firmware")
    assert ensure_board(cache).firmware == QUICK_FIRMWARE


def test_a_qemu_without_a_q35_gives_a_pc(qemu: Qemu, cache: Cache) -> None:
    qemu.install("  graphics=<bool>\n", status=1)
    assert ensure_board(cache) == PC


@pytest.mark.parametrize("damage", ["", "{}", '{"q35": "", "folders": 3}', "[1"])
def test_a_damaged_answer_is_asked_for_again(qemu: Qemu, cache: Cache, damage: str) -> None:
    board = ensure_board(cache)
    (path,) = (cache.root / "accelerator").iterdir()
    path.write_text(damage)
    qemu.questions()
    assert ensure_board(cache) == board
    assert len(qemu.questions()) == 2
    assert json.loads(path.read_text())["folders"] == [str(qemu.data_dir)]


@pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="no QEMU here")
def test_the_real_qemu_has_a_q35(cache: Cache) -> None:
    board = ensure_board(cache)
    assert board.machine == "q35"
    assert {"graphics", "vmport", "sata", "smbus"} <= set(board.without)
