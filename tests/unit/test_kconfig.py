"""Configurations: what was asked for, what a tree knows, what came out."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.plan.kconfig import (
    Unmet,
    find_unmet,
    merge_known,
    merge_options,
    missing_options,
    parse_config,
    parse_kconfig,
    parse_optional,
    render_config,
)
from orchestrator.plan.paths import shipped_images_dir

CONFIGS = sorted((shipped_images_dir() / "config").glob("*.config"))


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("", {}),
        ("# a comment\n\n", {}),
        ("CONFIG_A=y", {"A": "y"}),
        ("  CONFIG_A=m  \r\n", {"A": "m"}),
        ("# CONFIG_A is not set", {"A": "n"}),
        ("CONFIG_A=n", {"A": "n"}),
        ("CONFIG_HZ=250\nCONFIG_X=0xffff\nCONFIG_N=-1", {"HZ": "250", "X": "0xffff", "N": "-1"}),
        ('CONFIG_S="a \\"b\\" # c"', {"S": '"a \\"b\\" # c"'}),
        ("CONFIG_A=y\nCONFIG_A=m", {"A": "m"}),
        ("CONFIG_A=y\n# CONFIG_A is not set", {"A": "n"}),
        ("# CONFIG_A=y was tried", {}),
    ],
)
def test_options_are_read(text: str, options: dict[str, str]) -> None:
    assert parse_config(text) == options


@pytest.mark.parametrize(
    "line",
    ["A=y", "CONFIG_A", "CONFIG_A=", "CONFIG_A=yes", 'CONFIG_A="x', "CONFIG_A = y", "CONFIG-A=y"],
)
def test_what_is_no_option_is_named_with_its_line(line: str) -> None:
    with pytest.raises(ValueError, match=r"^line 2: "):
        parse_config(f"# first\n{line}\n")


NAMES = st.from_regex(r"[A-Z][A-Z0-9_]{0,8}", fullmatch=True)
VALUES = st.sampled_from(["y", "m", "n", "17", "0x1f", '"text"', '""'])


@given(st.dictionaries(NAMES, VALUES))
def test_what_is_rendered_reads_back(options: dict[str, str]) -> None:
    assert parse_config(render_config(options)) == options


def test_a_later_fragment_wins() -> None:
    assert merge_options({"A": "y", "B": "y"}, {"A": "n"}) == {"A": "n", "B": "y"}


KCONFIG = """\
# SPDX
menu "Things"
\tdepends on OUTER

config A
\tbool "A" if EXPERT
\tdepends on B && \\
\t\tC
\tdepends on !D
\tdefault y
\thelp
\t  Text about
\t    config FAKE
\t  depends on your taste.

\t  config FAKE2

menuconfig B2
\ttristate
\t---help---
\tIndented like the word itself.
\tdepends on nothing

if A
config C # with a comment
\tint
endif
choice
\tdepends on CHOICE
config D
\tbool
endchoice
config A
\tdepends on AGAIN
endmenu
"""


def test_what_a_file_defines() -> None:
    assert parse_kconfig(KCONFIG) == {
        "A": ("B &&  \t\tC", "!D", "AGAIN"),
        "B2": (),
        "C": (),
        "D": (),
    }


def test_what_many_files_define() -> None:
    files = ({"A": ("B",)}, {"A": ("C",), "D": ()})
    assert merge_known(files) == {"A": ("B", "C"), "D": ()}


@pytest.mark.parametrize("text", ["", "help\n", "config", "\n\n  help\n\nconfig A\n", "\\\n\\\n"])
def test_odd_files_do_no_harm(text: str) -> None:
    assert set(parse_kconfig(text)) <= {"A"}


def test_only_what_a_tree_knows_must_come_out() -> None:
    wanted = {"A": "y", "B": "n", "C": "y", "NEW": "y", "GONE": "n"}
    got = {"A": "y", "B": "y", "OTHER": "y"}
    known: dict[str, tuple[str, ...]] = {"A": (), "B": (), "C": ("X", "Y || Z")}
    unmet = find_unmet(wanted, got, known)
    assert unmet == (Unmet("B", "n", "y"), Unmet("C", "y", "n", ("X", "Y || Z")))
    assert [str(each) for each in unmet] == [
        "CONFIG_B is y, not n",
        "CONFIG_C is n, not y (depends on X; Y || Z)",
    ]


def test_what_may_be_refused_is_no_error() -> None:
    text = "# CONFIG_A may be refused: old\nCONFIG_A=y\nCONFIG_B=y\n# CONFIG_B may be refused:\n"
    optional = parse_optional(text)
    assert optional == {"A"}
    known: dict[str, tuple[str, ...]] = {"A": (), "B": ()}
    assert find_unmet(parse_config(text), {}, known, optional) == (Unmet("B", "y", "n"),)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_labs_own_fragments_can_be_read(path: Path) -> None:
    assert len(parse_config(path.read_text())) > 5


def test_there_are_fragments() -> None:
    assert [path.stem for path in CONFIGS] == ["debug", "default", "kcsan"]


def test_what_a_kernel_is_built_without_is_told_in_the_order_of_the_question() -> None:
    text = (
        "# a comment\nno option at all\nCONFIG_IN=y\nCONFIG_MODULE=m\nCONFIG_OFF=n\n"
        "# CONFIG_UNSET is not set\nCONFIG_NUMBER=0\nCONFIG_INSIDE_ONE=y\n"
    )
    wanted = ("UNSET", "IN", "MODULE", "OFF", "NUMBER", "INSIDE", "ABSENT")
    assert missing_options(text, wanted) == ("UNSET", "OFF", "INSIDE", "ABSENT")
    assert missing_options(text, ()) == ()
