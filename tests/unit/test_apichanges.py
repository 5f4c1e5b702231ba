"""Changes of the kernel's API: real errors lead to the right one, on the right side of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.plan.apichanges import API_CHANGES, ApiChange, find_change
from orchestrator.plan.version import KernelVersion

BUILDS = Path(__file__).parents[1] / "data/builds"
# What modpost said in guests: 5.4.0-216-generic and 6.12.117+deb13-cloud-amd64.
MODPOST = (
    (
        "6.12.117",
        "8651ec01daed",
        "ERROR: modpost: module spaces uses symbol provider_spaced from namespace LABSPACE, "
        "but does not import it.",
    ),
    (
        "6.12.117",
        "0bd476e6c671",
        'ERROR: modpost: "kallsyms_lookup_name" [kallsyms.ko] undefined!',
    ),
    (
        "6.12.117",
        "1d6cd3929360",
        "ERROR: modpost: missing MODULE_LICENSE() in nolicense.o",
    ),
)


def recorded() -> Iterator[tuple[str, str, str, str]]:
    """Each recorded error: the kernel's version, the message, the source, the change's commit."""
    for path in sorted(BUILDS.glob("*-api-*.txt")):
        version = path.stem.rpartition("-")[2]
        lines = path.read_text().splitlines()
        for error, excerpt, change in zip(lines[::3], lines[1::3], lines[2::3], strict=True):
            message, source = error.split(" error: ", 1)[1], excerpt.split(" | ", 1)[1]
            yield version, message, source, change.removeprefix("  change: ")


def found(version: str, message: str, source: str = "") -> ApiChange | None:
    return find_change(message, source, KernelVersion.parse(version))


@pytest.mark.parametrize(("version", "message", "source", "commit"), [*recorded()])
def test_a_recorded_error_is_explained(
    version: str, message: str, source: str, commit: str
) -> None:
    change = found(version, message, source)
    assert (change.commit if change else "none") == commit
    if change is not None:
        side, _, bound = change.bound.partition(" ")
        newer = KernelVersion.parse(version) >= KernelVersion.parse(bound)
        assert newer == (side == "since")


@pytest.mark.parametrize(("version", "commit", "message"), MODPOST)
def test_what_modpost_says_is_explained(version: str, commit: str, message: str) -> None:
    change = found(version, message)
    assert change is not None
    assert change.commit == commit


def test_every_entry_is_what_a_compiler_really_said() -> None:
    seen = {id(found(version, message, source)) for version, message, source, _ in recorded()}
    seen |= {id(found(version, message)) for version, _, message in MODPOST}
    assert [change.advice for change in API_CHANGES if id(change) not in seen] == []


@pytest.mark.parametrize(
    ("message", "older", "newer"),
    [
        ("implicit declaration of function 'from_timer'", "6.12.117+deb13-cloud-amd64", "6.16"),
        ("implicit declaration of function 'del_timer'", "6.14.0-37-generic", "6.15.0-rc1"),
        ("too many arguments to function 'class_create'", "6.3.13", "6.4"),
        ("'no_llseek' undeclared here (not in a function)", "6.11.9", "6.12"),
        ('"kallsyms_lookup_name" [a.ko] undefined!', "5.6.19", "5.7"),
    ],
)
def test_a_change_explains_nothing_on_the_other_side_of_it(
    message: str, older: str, newer: str
) -> None:
    before, after = found(older, message), found(newer, message)
    assert after is not None
    assert before is None or before.bound.startswith("before ")


@pytest.mark.parametrize(
    "message",
    [
        "",
        "implicit declaration of function 'my_del_timer'",
        "implicit declaration of function 'del_timer2'",
        "'struct mine' has no member named 'mmap_sem'",
        "expected ';' before '}' token",
        "too many arguments to function 'my_class_create'",
        "my/linux/genhd.h: No such file or directory",
        'ERROR: modpost: "my_symbol" [a.ko] undefined!',
    ],
)
def test_what_only_looks_like_it_is_not_explained(message: str) -> None:
    assert [found(version, message) for version in ("4.4", "5.4", "6.12", "7.3")] == [None] * 4


def test_the_line_of_source_decides_where_the_message_says_too_little() -> None:
    message = "expected ',' or ';' before 'MINE'"
    assert found("6.17", message, "MODULE_IMPORT_NS(MINE);") is not None
    assert found("6.17", message, "int other(MINE);") is None
    assert found("6.17", message) is None


def test_typographic_quotes_are_quotes() -> None:
    assert found("6.16", "implicit declaration of function \u2018from_timer\u2019") is not None


def test_a_message_without_an_end_costs_little() -> None:
    for message in ("'" * 10**6, "'int (*)(" * 10**5, '"' * 10**6, " \\[" * 10**5):
        assert found("6.17", message) is None


@pytest.mark.parametrize("change", API_CHANGES, ids=lambda change: change.advice[:40])
def test_an_entry_is_whole(change: ApiChange) -> None:
    assert re.fullmatch(r"[0-9a-f]{12}", change.commit)
    assert re.fullmatch(r"(?:since|before) [4-7]\.\d{1,2}", change.bound)
    assert not change.advice.endswith(".")
    assert len(change.explain()) < 160
    for pattern in (*change.patterns, change.source):
        re.compile(pattern)
