"""The manual page: what the parser makes is what is installed, and roff has no word on it."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from orchestrator.doors.cli import build_parser
from orchestrator.doors.manpage import ENVIRONMENT, render

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "man/lab.1"


def test_the_installed_page_is_what_the_parser_makes() -> None:
    made = render(build_parser())
    hint = "the parser has changed: python -m orchestrator.doors.manpage > man/lab.1"
    assert PAGE.read_text("utf-8") == made, f"{hint} (make generated)"


def shown(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed here")
    return subprocess.run(
        [tool, *arguments, str(PAGE)],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", "MANWIDTH": "80", "MANPAGER": "cat", "LC_ALL": "C.UTF-8"},
    )


def test_groff_has_no_warning() -> None:
    done = shown("groff", "-man", "-ww", "-z", "-Tutf8")
    assert (done.stdout, done.stderr) == ("", "")


def test_man_shows_it_in_eighty_columns() -> None:
    done = shown("man", "--warnings", "-l")
    assert done.stderr == ""
    text = re.sub(".\b", "", done.stdout)
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    assert "lab run [--lab FILE] [-k RANGE] [-s PATTERN] [--resume RUN] [-n]" in words
    assert "lab cache prune [--older-than DAYS]" in words
    assert "'>=5.6'" in words  # as it is typed, not as typographers would have it
    assert "130 Interrupted." in words
    assert "--words" not in words


def test_every_command_and_option_is_in_it() -> None:
    page = PAGE.read_text("utf-8").replace("\\-", "-")
    commands = next(
        action
        for action in build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    for name, parser in commands.choices.items():
        section = page.split(f"\n.SS {name}\n")[1].split("\n.S")[0]
        for action in parser._actions:
            hidden = action.help == argparse.SUPPRESS or action.dest == "help"
            assert hidden or all(option in section for option in action.option_strings)


def test_text_that_roff_would_obey_is_shown() -> None:
    parser = argparse.ArgumentParser(prog="lab", description="a", epilog="0 well, 1 not.")
    parser.add_argument("--x", help=".so /etc/passwd \\fB 'a' `b` ~c^ and-dash")
    page = render(parser)
    assert "\n\\&.so /etc/passwd \\efB \\(aqa\\(aq \\(gab\\(ga \\(tic\\(ha and\\-dash.\n" in page


def test_every_variable_that_the_lab_heeds_is_told() -> None:
    sources = (path.read_text() for path in (ROOT / "orchestrator").rglob("*.py"))
    heeded = {name for text in sources for name in re.findall(r'"(LAB_[A-Z_]+)"', text)}
    assert heeded == ENVIRONMENT.keys()
