"""What a person sees while a run goes on: lines, or a table on a terminal."""

from __future__ import annotations

import fcntl
import io
import os
import re
import struct
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.doors.progress import (
    LineProgress,
    Row,
    TableProgress,
    open_progress,
    seconds_left,
)
from orchestrator.plan.outcome import CellResult, KernelResult, Outcome
from orchestrator.plan.plan import Plan, resolve_plan
from orchestrator.plan.recipes import load_recipe
from orchestrator.policy.events import CellDone, Doing, Event, KernelDone, Note
from tests.unit.labs import demo_lab

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    lab = demo_lab(tmp_path)
    return resolve_plan(
        lab,
        kernels=("5.4", "6.1-rt"),
        scenarios=lab.scenarios,
        recipes={name: load_recipe(lab, name) for name in ("focal", "bookworm")},
        known={},
        jobs=1,
    )


def cell(scenario: str, outcome: Outcome, reason: str = "") -> CellResult:
    return CellResult("5.4", f"all/{scenario}", outcome, reason)


PASSED = cell("loading", Outcome.PASSED)
FAILED = cell("uname", Outcome.FAILED, "step 1: stdout differs")
SKIPPED = cell("loading-twice", Outcome.SKIPPED, "it is for kernels >=5.6, this is 5.4")
EVENTS: tuple[Event, ...] = (
    Doing("5.4", "looking the kernel up"),
    CellDone(SKIPPED),
    Doing("6.1-rt", "booting"),
    Note("5.4", "before any module was loaded: \x1b[31mWARNING\x1b[0m"),
    Doing("5.4", "all/loading"),
    CellDone(PASSED),
    CellDone(FAILED),
    KernelDone(KernelResult("5.4", None, cells=(SKIPPED, PASSED, FAILED))),
)


# --- lines -----------------------------------------------------------------------------------


def test_lines_say_what_happens_once(plan: Plan) -> None:
    stream = io.StringIO()
    with LineProgress(plan, stream) as progress:
        for event in EVENTS:
            progress(event)
    lines = [re.sub(r"^ *\d+\.\ds  ", "", line) for line in stream.getvalue().splitlines()]
    assert lines == [
        "5.4     looking the kernel up",
        "6.1-rt  booting",
        r"5.4     before any module was loaded: \x1b[31mWARNING\x1b[0m",
        "5.4     passed all/loading",
        "5.4     failed all/uname: step 1: stdout differs",
        "5.4     done: 1 of 3 passed",
    ]


def test_a_line_is_one_line_whatever_a_guest_said(plan: Plan) -> None:
    stream = io.StringIO()
    with LineProgress(plan, stream) as progress:
        progress(Note("5.4", "one\r\ntwo\x07\u202e"))
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().rstrip("\n").isprintable()


def test_a_line_is_no_command_of_githubs(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its older ones are obeyed wherever they stand in a line, the others at its beginning."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    stream = io.StringIO()
    with LineProgress(plan, stream) as progress:
        progress(Note("5.4", "::error::x ##[error]x ##[add-mask]x"))
    assert "##[" not in stream.getvalue()
    assert re.match(r" *\d+\.\ds ", stream.getvalue())


def test_a_reader_that_has_gone_does_not_end_the_run(plan: Plan) -> None:
    read, write = os.pipe()
    os.close(read)
    stream = os.fdopen(write, "w", buffering=1)
    with LineProgress(plan, stream) as progress:
        progress(EVENTS[0])
        progress(EVENTS[2])
    with pytest.raises(BrokenPipeError):
        stream.close()


# --- which of the two ------------------------------------------------------------------------


class Terminal:
    """A terminal of some size, and what was written to it."""

    def __init__(self, columns: int) -> None:
        self._master, slave = os.openpty()
        size = struct.pack("HHHH", 24, columns, 0, 0)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, size)
        self.stream = os.fdopen(slave, "w")
        self._chunks: list[bytes] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while True:
            try:
                chunk = os.read(self._master, 4096)
            except OSError:
                return
            self._chunks.append(chunk)

    def close(self) -> str:
        """Everything that was written."""
        if not self.stream.closed:
            self.stream.close()
            self._thread.join(timeout=5)
            os.close(self._master)
        return b"".join(self._chunks).decode()


@pytest.fixture
def terminal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    columns = getattr(request, "param", 80)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    terminal = Terminal(columns)
    yield terminal
    terminal.close()


def test_a_terminal_gets_a_table_and_everything_else_lines(plan: Plan, terminal: Terminal) -> None:
    assert isinstance(open_progress(plan, terminal.stream), TableProgress)
    assert isinstance(open_progress(plan, io.StringIO()), LineProgress)


@pytest.mark.parametrize("kind", ["dumb", None])
def test_a_terminal_that_can_do_nothing_gets_lines(
    plan: Plan, terminal: Terminal, monkeypatch: pytest.MonkeyPatch, kind: str | None
) -> None:
    if kind is None:
        monkeypatch.delenv("TERM")
    else:
        monkeypatch.setenv("TERM", kind)
    assert isinstance(open_progress(plan, terminal.stream), LineProgress)


# --- the table -------------------------------------------------------------------------------

ESCAPE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])")


def shown(plan: Plan, terminal: Terminal) -> str:
    with TableProgress(plan, terminal.stream) as progress:
        for event in EVENTS:
            progress(event)
    return terminal.close()


@pytest.mark.parametrize("terminal", [80, 40], indirect=True)
def test_nothing_is_wider_than_the_terminal(
    plan: Plan, terminal: Terminal, request: pytest.FixtureRequest
) -> None:
    columns = request.node.callspec.params["terminal"]
    text = ESCAPE.sub("", shown(plan, terminal)).replace("\r", "\n")
    widths = [len(line) for line in text.split("\n")]
    assert max(widths) <= columns
    assert max(widths) > columns - 10  # the table takes what there is


@pytest.mark.parametrize("terminal", [80, 40], indirect=True)
def test_the_counts_of_every_kernel_are_seen(plan: Plan, terminal: Terminal) -> None:
    text = ESCAPE.sub("", shown(plan, terminal))
    last = [line.split() for line in text.replace("\r", "\n").split("\n") if line.strip()]
    rows = {line[0]: line for line in last if line[0] in ("5.4", "6.1-rt")}
    assert rows["5.4"][1:4] == ["3/3", "1", "1"]
    assert rows["6.1-rt"][1:3] == ["0/3", "0"]


def test_what_failed_is_printed_and_stays(plan: Plan, terminal: Terminal) -> None:
    text = ESCAPE.sub("", shown(plan, terminal))
    assert "failed 5.4 all/uname: step 1: stdout differs" in text
    assert r"\x1b[31mWARNING\x1b[0m" in text
    assert "it is for kernels" not in text


def test_without_colour_there_is_none(plan: Plan, terminal: Terminal) -> None:
    text = shown(plan, terminal)
    styles = {style for style, kind in ESCAPE.findall(text) if kind == "m"}
    numbers = {int(part or 0) for style in styles for part in style.split(";")}
    assert not {number for number in numbers if 30 <= number <= 49 or 90 <= number <= 107}


def test_a_guests_own_colours_do_not_reach_the_terminal(
    plan: Plan, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR")
    text = shown(plan, terminal)
    assert "\x1b[31mWARNING" not in text


def test_the_terminal_is_left_as_it_was(plan: Plan, terminal: Terminal) -> None:
    text = shown(plan, terminal)
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h")  # the cursor


def test_markup_in_a_name_is_only_text(plan: Plan, terminal: Terminal) -> None:
    with TableProgress(plan, terminal.stream) as progress:
        progress(Note("5.4", "[bold]not bold[/bold] [/nope]"))
        progress(Doing("5.4", "[red]all/loading[/nope]"))
    assert "[bold]not bold[/bold] [/nope]" in ESCAPE.sub("", terminal.close())


@pytest.mark.parametrize(
    ("rows", "left"),
    [
        ((Row(60), Row(40)), None),
        ((Row(60, passed=4), Row(40)), None),
        ((Row(60, passed=5), Row(40)), 95 * 10 / 4),  # four more in ten seconds, since the first
        ((Row(60, passed=3, failed=1, errors=1), Row(40, skipped=30)), 65 * 10 / 4),
        ((Row(60, passed=60), Row(40, skipped=40)), None),
    ],
)
def test_how_long_the_rest_takes(rows: tuple[Row, ...], left: float | None) -> None:
    assert seconds_left(rows, 10.0) == left


@pytest.mark.parametrize(("judged", "told"), [(4, False), (5, True), (6, False)])
def test_the_rest_is_told_while_there_is_one(
    plan: Plan, terminal: Terminal, judged: int, told: bool
) -> None:
    with open_progress(plan, terminal.stream) as progress:
        for number in range(judged):
            kernel = ("5.4", "6.1-rt")[number % 2]
            progress(CellDone(CellResult(kernel, f"all/{number}", Outcome.PASSED)))
    assert (" left)" in terminal.close()) is told
