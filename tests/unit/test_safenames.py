"""Names that the host gives to files of a guest: harmless anywhere, and no two the same."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.plan.safenames import MAX_NAME, MAX_PART, safe_names


def one(path: str) -> str:
    return safe_names([path])[path]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/var/log/app.log", "var/log/app.log"),
        ("/proc/1/maps", "proc/1/maps"),
        ("/tmp/a b\n;c", "tmp/a_b_c"),
        ("/tmp/\x1b[31m\u202e", "tmp/_31m_"),
        ("/tmp/../../etc/passwd", "tmp/__/__/etc/passwd"),
        ("/tmp/./x", "tmp/_/x"),
        ("/tmp/.hidden", "tmp/_hidden"),
        ("/tmp/-rf", "tmp/_rf"),
        ("/tmp/ends.", "tmp/ends_"),
        ("/tmp/CON", "tmp/_CON"),
        ("/tmp/nul.txt", "tmp/_nul.txt"),
        ("/tmp/console", "tmp/console"),
        ("/", "_"),
        ("//a//b", "a/b"),
    ],
)
def test_a_name_is_harmless(path: str, name: str) -> None:
    assert one(path) == name


def test_long_names_are_cut_and_stay_apart() -> None:
    names = safe_names([f"/tmp/{'x' * 300}{end}" for end in "ab"])
    assert len(set(names.values())) == 2
    assert all(len(name) <= MAX_PART + 4 for name in names.values())


def test_deep_paths_lose_their_folders() -> None:
    assert re.fullmatch(r"file-[0-9a-f]{8}", one("/d" * 50 + "/file"))


@pytest.mark.parametrize(
    "paths",
    [
        ("/tmp/a?", "/tmp/a*"),
        ("/tmp/Name", "/tmp/name"),
        ("/tmp/a?", "/tmp/a*/inner"),
        ("/tmp/a*/inner", "/tmp/a?"),
        ("/tmp/A/x", "/tmp/a"),
    ],
)
def test_names_do_not_meet(paths: tuple[str, str]) -> None:
    names = safe_names(paths)
    assert sorted(names) == sorted(paths)
    check(list(names.values()))


def check(names: list[str]) -> None:
    """That these can all be files below one folder, wherever that is."""
    folded = [name.casefold() for name in names]
    assert len(set(folded)) == len(folded)
    for name in folded:
        assert len(name) <= MAX_NAME
        assert not any(other.startswith(f"{name}/") for other in folded)
        for part in name.split("/"):
            assert re.fullmatch(r"[a-z0-9_+=@,][a-z0-9._+=@,-]*", part), part
            assert not part.endswith(".")


NASTY = st.text(
    st.sampled_from("aA.-/?*:\\ \n\x00\u202e\u0130\u212a\u017f") | st.characters(), max_size=30
)


@settings(deadline=None)
@given(st.lists(NASTY.map("/".__add__), unique=True, max_size=20))
def test_any_paths_become_names(paths: list[str]) -> None:
    names = safe_names(paths)
    assert list(names) == paths
    check(list(names.values()))
