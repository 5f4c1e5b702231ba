"""The manual page ``lab.1``, made from the parser.

``python -m orchestrator.doors.manpage > man/lab.1`` makes the file that is installed; a test
compares the two.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping

from orchestrator import __version__

ENVIRONMENT: Mapping[str, str] = {
    "LAB_ACCEL": "tcg has guests emulated, whatever /dev/kvm is.",
    "LAB_CACHE": "The folder of the cache, in place of ~/.cache/kmod-lab.",
    "LAB_CACHE_GIB": "How much the cache may take, in GiB: a run ends with a lab cache prune.",
    "LAB_FROZEN_GIB": "How much of the cache frozen guests may take, in GiB; 4 if not set, "
    "0 keeps none.",
    "LAB_KERNEL_ORG": "The address of a mirror of kernel.org's releases.",
    "LAB_PATHS": "Folders, with colons between, that labs may take kernels from beside their own.",
    "LAB_REQUIRE_SANDBOX": "1 refuses to build or boot where a wall of the sandbox is missing.",
    "LAB_SNAPSHOT": "The address of a mirror of Debian's snapshot service.",
    "LAB_WORKER_JOBS": "How many guests a worker of a cluster has at a time; as `-j` says.",
}
"""What of the environment the lab heeds; proxies are taken from the usual variables."""

FILES: Mapping[str, str] = {
    "lab.yaml": "The lab: modules, kernels, guests, and which files are scenarios.",
    "lab.lock": "Which kernels and userlands exactly it is played on.",
    "lab-results/": "A folder for each run, with all evidence; latest is the last.",
    "~/.cache/kmod-lab/": "Kernels, userlands, modules and frozen guests.",
}


def render(parser: argparse.ArgumentParser) -> str:
    """The page, in the macros of man(7); it says the same for the same parser and version."""
    return "\n".join(_lines(parser)) + "\n"


def _lines(parser: argparse.ArgumentParser) -> Iterator[str]:
    name = parser.prog
    yield '.\\" Made by `python -m orchestrator.doors.manpage`; changes here are lost.'
    yield f'.TH {name.upper()} 1 "" "kmod\\-lab {_text(__version__)}" "User Commands"'
    yield ".SH NAME"
    yield f"{name} \\- {_text((parser.description or '').rstrip('.'))}"
    yield ".SH SYNOPSIS"
    yield f"\\fB{name}\\fR [\\fIOPTIONS\\fR] \\fICOMMAND\\fR [\\fIARGUMENTS\\fR]"
    yield ".SH DESCRIPTION"
    yield (
        "Builds kernel modules for each kernel of a lab, boots guests on them, plays scenarios, "
        "and judges them from the kernel's log. The lab is described by"
    )
    yield ".I lab.yaml\nand by scenario files beside it."
    yield ".SH OPTIONS"
    yield from _arguments(parser)
    yield ".SH COMMANDS"
    for command, about, sub in _commands(parser):
        yield f".SS {_text(command)}"
        yield f"{_text(_sentence(about))}"
        yield ".PP"
        yield f"{_usage(sub)}"
        yield from _arguments(sub)
    yield ".SH EXIT STATUS"
    for status, meaning in re.findall(r"(\d+) ([^,]+)(?:, |\.)", parser.epilog or ""):
        yield f".TP\n.B {status}\n{_text(_sentence(meaning))}"
    for title, table in (("ENVIRONMENT", ENVIRONMENT), ("FILES", FILES)):
        yield f".SH {title}"
        for what, about in table.items():
            yield f".TP\n.B {_text(what)}\n{_text(about)}"
    yield ".SH SEE ALSO"
    yield "\\fBqemu\\-system\\-x86_64\\fR(1), \\fBmmdebstrap\\fR(1), \\fBbwrap\\fR(1)"


def _commands(
    parser: argparse.ArgumentParser,
) -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """Each command with what it does and its own parser, in the order of the help; the commands of
    a command behind it.
    """
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for choice in action._choices_actions:
                sub = action.choices[choice.dest]
                yield choice.dest, choice.help or "", sub
                for name, about, below in _commands(sub):
                    yield f"{choice.dest} {name}", about, below


def _shown(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """What stands in the page: --help once, and not for each command."""
    for action in parser._actions:
        again = action.dest == "help" and " " in parser.prog
        hidden = action.help == argparse.SUPPRESS
        if not (again or hidden or isinstance(action, argparse._SubParsersAction)):
            yield action


def _arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    """What a parser takes, one paragraph each."""
    for action in _shown(parser):
        value = _value(action)
        if action.option_strings:
            names = ", ".join(f"\\fB{_text(name)}\\fR" for name in action.option_strings)
            head = f"{names} {value}".rstrip()
        else:
            head = value
        about = _text(_sentence(action.help or ""))
        yield f".TP\n{head}\n{about or '.br'}"


def _value(action: argparse.Action) -> str:
    """The words for what an argument takes, in italics; choices as they are typed."""
    if action.nargs == 0:
        return ""
    if action.choices is not None:
        return "|".join(f"\\fB{_text(str(choice))}\\fR" for choice in action.choices)
    metavar = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
    count = action.nargs if isinstance(action.nargs, int) else 1
    words = metavar if isinstance(metavar, tuple) else (metavar,) * count
    dots = "..." if action.nargs in ("*", "+") else ""
    return " ".join(f"\\fI{_text(word)}\\fR" for word in words) + dots


def _usage(parser: argparse.ArgumentParser) -> str:
    """How a command is called; ours, for argparse's own differs between versions of Python."""
    words = [f"\\fB{_text(parser.prog)}\\fR"]
    for action in _shown(parser):
        value = _value(action)
        if action.option_strings:
            word = f"\\fB{_text(action.option_strings[0])}\\fR {value}".rstrip()
            words.append(word if action.required else f"[{word}]")
        else:
            words.append(f"[{value}]" if action.nargs in ("?", "*") else value)
    return " ".join(words)


def _sentence(text: str) -> str:
    """The text with a capital and a full stop, on one line."""
    words = " ".join(text.split())
    return f"{words[:1].upper()}{words[1:]}{'' if words.endswith('.') else '.'}" if words else ""


def _text(text: str) -> str:
    """Text as roff shows it: no escape, no macro, and hyphens that can be copied."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("~", "\\(ti")
    escaped = escaped.replace("'", "\\(aq").replace("`", "\\(ga").replace("^", "\\(ha")
    return f"\\&{escaped}" if escaped.startswith(".") else escaped


def main() -> None:
    """Print the page."""
    from orchestrator.doors.cli import build_parser

    sys.stdout.write(render(build_parser()))


if __name__ == "__main__":
    main()
