"""``lab console``: which file is meant, and its lines as they come."""

from __future__ import annotations

import os
import queue
import tempfile
import threading
from pathlib import Path

import pytest

from orchestrator.foundation.errors import UsageError
from orchestrator.plan.paths import SESSION_PREFIX, RunDir
from orchestrator.policy.consoles import find_console, find_session, read_console
from orchestrator.policy.session import session_dir

SECONDS = 30


def write(path: Path, data: bytes, when: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, ns=(when, when))
    return path


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run_dir = RunDir(tmp_path / "run")
    write(run_dir.boot("6.1", 1) / "console.log", b"booted\n", 1000)
    write(run_dir.fork("6.1", "a/one") / "console.log", b"one\n", 3000)
    write(run_dir.fork("6.1", "a/two") / "console.log", b"two\n", 2000)
    write(run_dir.frozen("5.4"), b"frozen\n", 4000)
    write(run_dir.root / "report.txt", b"", 5000)
    (run_dir.root / "empty").mkdir()
    return run_dir


@pytest.mark.parametrize(
    ("kernel", "scenario", "said"),
    [
        ("6.1", "", b"one\n"),  # it spoke last
        ("6.1", "a/two", b"two\n"),
        ("5.4", "", b"frozen\n"),
    ],
)
def test_a_console_is_found(run_dir: RunDir, kernel: str, scenario: str, said: bytes) -> None:
    assert find_console(run_dir, kernel, scenario).read_bytes() == said


@pytest.mark.parametrize(
    ("kernel", "scenario", "what"),
    [
        ("", "", "whose console"),
        ("4.4", "", "no console of 4.4"),
        ("empty", "", "no console of empty"),
        ("6.1", "a/three", "a/three had no guest to itself"),
        ("../run/6.1", "", "no console of"),
        ("6.1", "../../../6.1/boot-1", "had no guest to itself"),
    ],
)
def test_where_there_is_none_it_is_said(
    run_dir: RunDir, kernel: str, scenario: str, what: str
) -> None:
    with pytest.raises(UsageError, match=what):
        find_console(run_dir, kernel, scenario)


def test_the_only_kernel_needs_no_name(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    path = write(run_dir.boot("6.1", 1) / "console.log", b"", 1)
    assert find_console(run_dir, "") == path


def test_a_run_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        find_console(RunDir(tmp_path / "none"), "6.1")


def test_the_session_that_began_last_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(UsageError, match="no guest of yours is up"):
        find_session()
    (tmp_path / f"{SESSION_PREFIX}killed").mkdir()
    (tmp_path / f"{SESSION_PREFIX}link").symlink_to(tmp_path)
    (tmp_path / f"{SESSION_PREFIX}file").write_text("")
    with pytest.raises(UsageError, match="no guest of yours is up"):
        find_session()
    with session_dir() as first, session_dir() as second:
        os.utime(first.root, ns=(2000, 2000))
        os.utime(second.root, ns=(1000, 1000))
        assert find_session() == first
    with pytest.raises(UsageError, match="no guest of yours is up"):
        find_session()


def test_lines_are_safe_to_show(tmp_path: Path) -> None:
    path = write(tmp_path / "log", b"a\r\n\x1b[2Jb\n\xff\nlast \xe2\x80\xae", 1)
    assert list(read_console(path)) == ["a", "\\x1b[2Jb", "\\xff", "last \\u202e"]


def test_a_line_without_an_end_comes_in_pieces(tmp_path: Path) -> None:
    path = write(tmp_path / "log", b"x" * 300_000, 1)
    lines = list(read_console(path))
    assert "".join(lines) == "x" * 300_000
    assert len(lines) > 1


def test_what_comes_later_is_read_until_the_file_is_gone(tmp_path: Path) -> None:
    path = write(tmp_path / "log", b"first\nsec", 1)
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def follow() -> None:
        for line in read_console(path, threading.Event()):
            lines.put(line)
        lines.put(None)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    assert lines.get(timeout=SECONDS) == "first"
    with path.open("ab") as file:
        file.write(b"ond\nthi")
    assert lines.get(timeout=SECONDS) == "second"
    path.unlink()
    assert lines.get(timeout=SECONDS) == "thi"
    assert lines.get(timeout=SECONDS) is None
    thread.join(SECONDS)


def test_following_ends_when_it_is_told_to(tmp_path: Path) -> None:
    path, stop = write(tmp_path / "log", b"first\n", 1), threading.Event()
    stop.set()
    assert list(read_console(path, stop)) == ["first"]
