"""Kernel versions and ranges: what is read, how it compares, what is refused."""

from __future__ import annotations

import contextlib
import random
import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from orchestrator.plan.version import KernelVersion, VersionRange

# No deadline: the machine may be busy with guests.
UNHURRIED = settings(deadline=None)

parse = KernelVersion.parse

VERSION_ALLOWED = (
    "allowed are two to four numbers, then perhaps a release candidate and the distribution's "
    "suffix, as in '5.4', '6.13-rc2' or '5.4.0-216-generic'"
)
RANGE_ALLOWED = (
    "allowed are '>=5.6', '>5.12', '<=5.12', '<6.0', '5.x', '5.4', '==5.4.12', '!=5.9', "
    "'4.19..6.1' and '*'; a blank between two means 'and', a comma means 'or'"
)


@pytest.mark.parametrize(
    ("text", "numbers", "rc", "suffix"),
    [
        ("5.4.0-216-generic", (5, 4, 0), None, "-216-generic"),
        ("6.13-rc2", (6, 13), 2, ""),
        ("6.1.192", (6, 1, 192), None, ""),
        ("6.12.117+deb12-cloud-amd64", (6, 12, 117), None, "+deb12-cloud-amd64"),
        ("4.15.0-213", (4, 15, 0), None, "-213"),
        ("5.10.0-46-cloud-amd64", (5, 10, 0), None, "-46-cloud-amd64"),
        ("7.3.4+deb13-amd64", (7, 3, 4), None, "+deb13-amd64"),
        ("6.8.0-rc3+", (6, 8, 0), 3, "+"),
        ("6.12~rc6-amd64", (6, 12), 6, "-amd64"),
        ("6.12.0-rc10.20240924git.fc42", (6, 12, 0), 10, ".20240924git.fc42"),
        ("2.6.32.71", (2, 6, 32, 71), None, ""),
        ("6.1.55_1", (6, 1, 55), None, "_1"),
        ("4.18.0-553.el8_10.x86_64", (4, 18, 0), None, "-553.el8_10.x86_64"),
    ],
)
def test_parses(text: str, numbers: tuple[int, ...], rc: int | None, suffix: str) -> None:
    version = parse(text)
    assert (version.numbers, version.rc, version.suffix) == (numbers, rc, suffix)
    assert str(version) == version.text == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "6",
        "six",
        "v6.1",
        " 6.1",
        "6.1 ",
        "6.1\n",
        "6.",
        ".6",
        "6..1",
        "6.1.x",
        "5.x.1",
        "1.2.3.4.5",
        "-6.1",
        "6.-1",
        "6.1 -generic",
        "6.1-a/b",
        "5.4.0-rc",
        "6.8-rc3generic",
        "5.4-rc1x",
        "5.4-rc1-rc",
        "\u0666.\u0661",
        "6.1234567890",
        "6.1-" + "9" * 300,
    ],
)
def test_refuses_what_is_no_version(text: str) -> None:
    with pytest.raises(ValueError, match="is not a kernel version") as caught:
        parse(text)
    assert str(caught.value).endswith(f" is not a kernel version: {VERSION_ALLOWED}")


ASCENDING = [
    "2.6.32",
    "4.15.0-213",
    "4.19",
    "5.4-rc1",
    "5.4-rc2",
    "5.4.0-rc2+",
    "5.4.0-rc10",
    "5.4~rc11-amd64",
    "5.4.0",
    "5.4.0+",
    "5.4.0-9",
    "5.4.0-9-generic",
    "5.4.0-56",
    "5.4.0-56-generic",
    "5.4.0-56-lowlatency",
    "5.4.0-216-generic",
    "5.4.1~bpo",
    "5.4.1",
    "5.4.10",
    "5.10.0-46-cloud-amd64",
    "6.1.192",
    "6.10-rc1",
    "6.10",
    "6.12.57+deb12-amd64",
    "6.12.57+deb13-amd64",
    "6.12.117+deb12-amd64",
]


def test_order() -> None:
    versions = [parse(text) for text in ASCENDING]
    assert sorted(random.Random(1).sample(versions, len(versions))) == versions
    assert len(set(versions)) == len(versions)


@pytest.mark.parametrize(
    ("one", "other"),
    [("5.4", "5.4.0"), ("5.4-rc1", "5.4.0~rc1"), ("5.4.0-09", "5.4.0-9"), ("05.4", "5.4")],
)
def test_equal_by_meaning(one: str, other: str) -> None:
    assert parse(one) == parse(other)
    assert hash(parse(one)) == hash(parse(other))


def test_compares_with_versions_only() -> None:
    assert parse("5.4") != "5.4"
    with pytest.raises(TypeError):
        _ = parse("5.4") < "5.5"  # type: ignore[operator]


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("", "2.6.32 5.4-rc1 7.3.4+deb13-amd64", ""),
        (" * ", "2.6.32 7.3", ""),
        (">=5.6", "5.6-rc1 5.6 5.6.0-9 5.10 6.0", "5.5.19 5.5.0-99"),
        (">5.12", "5.13-rc1 5.13 6.0", "5.12 5.12.19 5.11"),
        (">5.12.3", "5.12.4 5.13", "5.12.3 5.12.3-9 5.12"),
        ("<=5.12", "5.12.19 5.12-rc1 5.12.0-46-amd64 4.19", "5.13-rc1 5.13"),
        ("<6.0", "5.19.17 5.19-rc1", "6.0-rc1 6.0 6.1"),
        ("5.x", "5.0-rc1 5.0 5.19.17", "4.20 6.0-rc1"),
        ("5.10.x", "5.10.0-46-amd64 5.10", "5.1 5.11"),
        ("6", "6.0-rc1 6.19.2", "5.19 7.0"),
        ("5.4", "5.4-rc1 5.4 5.4.302 5.4.0-216-generic", "5.3.18 5.40 5.5-rc1"),
        ("==5.4", "5.4.302", "5.5"),
        ("==5.4.12", "5.4.12 5.4.12-3-generic", "5.4.120 5.4.1 5.4"),
        ("5.4.0", "5.4 5.4-rc1 5.4.0-216", "5.4.1"),
        ("!=5.9", "5.8.18 5.10", "5.9 5.9-rc1 5.9.16"),
        ("4.19..6.1", "4.19-rc1 4.19 5.10.0-46-amd64 6.1.192", "4.18.20 6.2-rc1"),
        ("5.4..5.4", "5.4.302", "5.3 5.5"),
        (">=5.6 <6.0", "5.6 5.19", "5.5 6.0"),
        (">= 5.6   < 6.0", "5.6 5.19", "5.5 6.0"),
        ("4.19..6.1 !=5.9", "5.8 5.10", "5.9.3 6.2"),
        ("5.4, 5.10, >=6.6", "5.4.1 5.10.1 6.6 7.0", "5.5 5.11 6.5"),
        (">=6.13-rc2", "6.13-rc2 6.13-rc2+ 6.13-rc3 6.13", "6.13-rc1 6.12.9"),
        ("<6.13-rc2", "6.13-rc1 6.12", "6.13-rc2 6.13"),
        ("<=6.13-rc2", "6.13-rc2", "6.13-rc2+ 6.13-rc3"),
        (">6.13-rc2", "6.13-rc2+ 6.13", "6.13-rc2"),
        (">=5.4.0-56", "5.4.0-56 5.4.0-56-generic 5.4.0-216-generic", "5.4.0-9-generic"),
        ("==5.4.0-56", "5.4.0-56", "5.4.0-56-generic 5.4.0"),
        ("!=5.4.0-56", "5.4.0-56-generic 5.4.0", "5.4.0-56"),
    ],
)
def test_range(text: str, inside: str, outside: str) -> None:
    versions = VersionRange.parse(text)
    assert [v for v in inside.split() if not versions.contains(parse(v))] == []
    assert [v for v in outside.split() if versions.contains(parse(v))] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("6.1..5.4", "'6.1..5.4' runs backwards: the lower version comes first"),
        (">6.0 <5.0", "no version can be in '>6.0 <5.0': its parts exclude each other"),
        (">=5.6 <5.6", "no version can be in '>=5.6 <5.6': its parts exclude each other"),
        (">=5.12 <5.12.0", "no version can be in '>=5.12 <5.12.0': its parts exclude each other"),
        (">5.12 <=5.12.9", "no version can be in '>5.12 <=5.12.9': its parts exclude each other"),
        ("5.4 !=5.4", "no version can be in '5.4 !=5.4': its parts exclude each other"),
        ("==5.4.1 !=5.4", "no version can be in '==5.4.1 !=5.4': its parts exclude each other"),
        ("5.4 5.10", "no version can be in '5.4 5.10': its parts exclude each other"),
        ("<0", "no version can be in '<0'"),
        ("5.4, >6 <5", "no version can be in '>6 <5': its parts exclude each other"),
        (
            ">6.13-rc2 <6.13-rc2",
            "no version can be in '>6.13-rc2 <6.13-rc2': its parts exclude each other",
        ),
        ("5.4,", f"a comma in '5.4,' has nothing on one side: {RANGE_ALLOWED}"),
        (",", f"a comma in ',' has nothing on one side: {RANGE_ALLOWED}"),
        ("5.4..", "'5.4..' lacks an end: write '>=5.4' for an open end"),
        ("..5.4", "'..5.4' lacks its beginning: write '<=5.4' for an open beginning"),
        (">5.x", "'>5.x': a series with '.x' stands alone, without '>'"),
        ("x", f"'x' is not understood: {RANGE_ALLOWED}"),
        (".x", f"'.x' is not understood: {RANGE_ALLOWED}"),
        ("5.4.0-1.x", f"'5.4.0-1.x' is not understood: {RANGE_ALLOWED}"),
        ("=5.4", f"'=5.4' is not understood: {RANGE_ALLOWED}"),
        ("=>5.4", f"'=>5.4' is not understood: {RANGE_ALLOWED}"),
        ("~5.4", f"'~5.4' is not understood: {RANGE_ALLOWED}"),
        (">=", f"'>=' is not understood: {RANGE_ALLOWED}"),
        ("* 5.4", f"'*' is not understood: {RANGE_ALLOWED}"),
        ("5.4, *", f"'*' is not understood: {RANGE_ALLOWED}"),
        ("5.4-6.1x/", f"'5.4-6.1x/' is not understood: {RANGE_ALLOWED}"),
        (">=4.19..6.1", f"'>=4.19..6.1' is not understood: {RANGE_ALLOWED}"),
        ("4.19..5.4..6.1", f"'4.19..5.4..6.1' is not understood: {RANGE_ALLOWED}"),
        ("5.4 and 5.5", f"'and' is not understood: {RANGE_ALLOWED}"),
        ("1.2.3.4.5", f"'1.2.3.4.5' is not understood: {RANGE_ALLOWED}"),
        ("5.4" + " " * 200, "the range is longer than 200 characters"),
    ],
)
def test_refuses_ranges(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        VersionRange.parse(text)


def test_range_as_value() -> None:
    assert str(VersionRange.parse("")) == "*"
    assert VersionRange.parse("").text == ""
    assert str(VersionRange.parse(" >=5.6 ")) == ">=5.6"
    assert VersionRange.parse("5.4") == VersionRange.parse(">=5.4 <5.5")
    assert VersionRange.parse("5.4, 5.5") == VersionRange.parse("5.4..5.5")
    assert VersionRange.parse("5.9, !=5.9") == VersionRange.parse("*")
    assert hash(VersionRange.parse("5.4")) == hash(VersionRange.parse("==5.4"))
    assert VersionRange.parse("5.4") != VersionRange.parse("5.4.0")


numbers = st.lists(st.integers(0, 30), min_size=2, max_size=4)
suffixes = st.sampled_from(["", "+", "-9", "-56", "-9-generic", "-9~bpo", "+deb12-amd64", "-09"])
rcs = st.sampled_from(["", "-rc1", "-rc2", "~rc10"])
versions = st.builds(
    lambda n, rc, suffix: parse(".".join(map(str, n)) + rc + suffix), numbers, rcs, suffixes
)
bounds = st.one_of(
    st.lists(st.integers(0, 30), min_size=1, max_size=4).map(lambda n: ".".join(map(str, n))),
    versions.map(str),
)


@given(versions, versions, versions)
@UNHURRIED
def test_total_order(a: KernelVersion, b: KernelVersion, c: KernelVersion) -> None:
    assert [a < b, a == b, a > b].count(True) == 1
    assert (a <= b) == (not b < a)
    assert a != b or hash(a) == hash(b)
    if a <= b <= c:
        assert a <= c


@given(versions)
@UNHURRIED
def test_text_is_read_back(version: KernelVersion) -> None:
    assert parse(str(version)) == version


def _contains(text: str, version: KernelVersion) -> bool:
    """Whether the range holds the version; a range that can hold none holds none."""
    try:
        return VersionRange.parse(text).contains(version)
    except ValueError as error:
        if not str(error).startswith("no version can be in"):
            raise
        return False


@given(bounds, versions)
@UNHURRIED
def test_comparisons_share_out_all_versions(bound: str, version: KernelVersion) -> None:
    below, equal, above = (_contains(f"{op}{bound}", version) for op in ("<", "==", ">"))
    assert [below, equal, above].count(True) == 1
    assert _contains(f"<={bound}", version) == (below or equal)
    assert _contains(f">={bound}", version) == (above or equal)
    assert _contains(f"!={bound}", version) == (not equal)
    assert _contains(bound, version) == equal


@given(bounds, bounds, versions)
@UNHURRIED
def test_and_or_span(one: str, other: str, version: KernelVersion) -> None:
    first, second = _contains(f">={one}", version), _contains(f"<={other}", version)
    assert _contains(f">={one} <={other}", version) == (first and second)
    try:
        assert VersionRange.parse(f"{one}..{other}").contains(version) == (first and second)
    except ValueError:
        assert not (first and second)
    assume(not (one == "0" or other == "0"))
    assert _contains(f"=={one}, =={other}", version) == (
        _contains(one, version) or _contains(other, version)
    )


@given(versions, bounds)
@UNHURRIED
def test_ranges_agree_with_the_order(version: KernelVersion, bound: str) -> None:
    assume("." in bound)
    limit = parse(bound)
    if _contains(f"<{bound}", version):
        assert version < limit
    if version >= limit:
        assert _contains(f">={bound}", version)


@given(st.text(alphabet="0123456789.<>=!*x, -rc+~a\n\0é", max_size=30))
@UNHURRIED
def test_any_text_gives_a_value_or_a_value_error(text: str) -> None:
    for read in (VersionRange.parse, KernelVersion.parse):
        with contextlib.suppress(ValueError):
            read(text)
