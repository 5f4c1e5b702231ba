"""The plan: what a command line selects, what is skipped, and how it reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.adapters.sources import entry_types
from orchestrator.foundation.errors import ConfigError, UsageError
from orchestrator.plan.kernel import ResolvedKernel
from orchestrator.plan.labfile import load_lab
from orchestrator.plan.model import Lab
from orchestrator.plan.paths import shipped_images_dir
from orchestrator.plan.places import folder_places, scenario_places
from orchestrator.plan.plan import (
    Plan,
    render_plan,
    resolve_plan,
    select_kernels,
    select_scenarios,
    with_known,
)
from orchestrator.plan.recipes import load_recipe
from tests.unit.labs import LAB, demo_lab, write_lab

KERNELS = ("5.4", "6.1", "6.1-rt", "7.x")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return demo_lab(tmp_path)


def known_as(release: str, version: str) -> ResolvedKernel:
    return ResolvedKernel(release=release, version=version, origin="here", parts=())


def make_plan(lab: Lab, known: dict[str, ResolvedKernel] | None = None) -> Plan:
    return resolve_plan(
        lab,
        kernels=KERNELS,
        scenarios=lab.scenarios,
        recipes={entry.image: load_recipe(lab, entry.image) for entry in lab.file.kernels.values()},
        known=known or {},
        jobs=2,
    )


# --- kernels ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ((), ("5.4", "6.1")),
        (("6.1",), ("6.1",)),
        (("6.1-rt",), ("6.1-rt",)),
        (("7.x",), ("7.x",)),
        (("quick",), ("5.4", "6.1")),
        (("all",), KERNELS),
        (("bookworm",), ("6.1", "6.1-rt")),
        ((">=6",), ("6.1", "6.1-rt", "7.x")),
        (("<5.6",), ("5.4",)),
        (("6.1.x",), ("6.1", "6.1-rt")),
        (("5.0..6.2",), ("5.4", "6.1", "6.1-rt")),
        (("*",), KERNELS),
        (("7.x", "focal"), ("5.4", "7.x")),
        (("6.1", "6.1", "quick"), ("5.4", "6.1")),
    ],
)
def test_words_select_kernels_in_the_labs_order(
    lab: Lab, words: tuple[str, ...], names: tuple[str, ...]
) -> None:
    assert select_kernels(lab, words, {}) == names


@pytest.mark.parametrize("words", [("4.19",), (">=8",), ("nope",), ("quick", "nope"), (">=",)])
def test_a_word_that_selects_no_kernel_is_told_with_those_there_are(
    lab: Lab, words: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError, match=f"--kernel {words[-1]}: ") as caught:
        select_kernels(lab, words, {})
    assert caught.value.hint == "kernels: 5.4, 6.1, 6.1-rt, 7.x; groups: quick, all"


def test_without_a_quick_group_all_kernels_are_taken(tmp_path: Path) -> None:
    text = LAB.replace("quick: [", "slow: [")
    write_lab(tmp_path, lab=text)
    assert select_kernels(load_lab(tmp_path / "lab.yaml", entry_types()), (), {}) == KERNELS


# --- scenarios -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ((), ["all/loading", "all/loading-twice", "all/uname"]),
        (("load",), ["all/loading", "all/loading-twice"]),
        (("twice",), ["all/loading-twice"]),
        (("all/loading",), ["all/loading", "all/loading-twice"]),
        (("*/loading",), ["all/loading"]),
        (("all/*",), ["all/loading", "all/loading-twice", "all/uname"]),
        (("*uname", "twice"), ["all/loading-twice", "all/uname"]),
        (("all/unam?",), ["all/uname"]),
        (("all/[lu]*[ge]",), ["all/loading", "all/loading-twice", "all/uname"]),
    ],
)
def test_patterns_select_scenarios(lab: Lab, patterns: tuple[str, ...], names: list[str]) -> None:
    assert [scenario.name for scenario in select_scenarios(lab, patterns)] == names


@pytest.mark.parametrize("patterns", [("nope",), ("LOADING",), ("uname", "nop*"), ("loading*",)])
def test_a_pattern_that_fits_nothing_is_told(lab: Lab, patterns: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="no scenario of this lab") as caught:
        select_scenarios(lab, patterns)
    assert f"--scenario {patterns[-1]}" in caught.value.message
    assert "lab list" in caught.value.hint


# --- what is skipped -------------------------------------------------------------------------


def skips(plan: Plan) -> dict[tuple[str, str], str]:
    return {
        (kernel.name, cell.scenario.name.removeprefix("all/")): cell.skip
        for kernel in plan.kernels
        for cell in kernel.cells
        if cell.skip
    }


def test_where_a_kernel_is_not_known_its_series_decides(lab: Lab) -> None:
    plan = make_plan(lab)
    assert skips(plan) == {
        ("5.4", "loading-twice"): "it is for kernels >=5.6, this is 5.4",
        ("7.x", "uname"): "it is for kernels <6.1.100, this is 7.3",
    }
    assert plan.cell_count == 10


def test_where_a_kernel_is_known_its_version_decides(lab: Lab) -> None:
    plan = make_plan(lab, {"6.1": known_as("6.1.0-56-amd64", "6.1.192")})
    assert skips(plan)[("6.1", "uname")] == "it is for kernels <6.1.100, this is 6.1.192"
    assert ("6.1-rt", "uname") not in skips(plan)


def test_what_becomes_known_later_decides_anew(lab: Lab) -> None:
    kernel = make_plan(lab).kernels[1]
    newer = with_known(kernel, known_as("6.1.0-56-amd64", "6.1.192"))
    assert [bool(cell.skip) for cell in newer.cells] == [False, False, True]
    older = with_known(newer, known_as("6.1.0-1-amd64", "6.1.4"))
    assert not any(cell.skip for cell in older.cells)


def test_modules_are_wanted_where_a_scenario_to_be_played_loads_one(lab: Lab) -> None:
    kernel = make_plan(lab).kernels[1]
    assert kernel.modules_wanted
    assert not replace(kernel, cells=kernel.cells[2:]).modules_wanted
    skipped = tuple(replace(cell, skip="why") for cell in kernel.cells)
    assert not replace(kernel, cells=skipped).modules_wanted
    assert not replace(kernel, cells=()).modules_wanted


def test_a_cell_that_may_load_any_module_wants_them_all(lab: Lab) -> None:
    plan = make_plan(lab).kernels[0]
    (cell,) = (each for each in plan.cells if each.scenario.name == "all/uname")
    assert not replace(plan, cells=(cell,)).modules_wanted
    free = replace(plan, cells=(replace(cell, any_module=True),))
    assert with_known(free, free.known).modules_wanted
    assert not replace(free, cells=(replace(free.cells[0], skip="no"),)).modules_wanted


def test_a_series_of_one_number_is_a_series(tmp_path: Path) -> None:
    """As in the lab of this repository: the newest 7 that there is."""
    write_lab(tmp_path, lab=LAB.replace('version: "7.3"', 'version: "7"'))
    lab = load_lab(tmp_path / "lab.yaml", entry_types())
    assert select_kernels(lab, (">=6.2",), {}) == ("7.x",)
    assert skips(make_plan(lab))[("7.x", "uname")]


# --- how it reads ----------------------------------------------------------------------------


def test_a_plan_as_a_person_reads_it(lab: Lab) -> None:
    plan = make_plan(lab, {"6.1": known_as("6.1.0-56-cloud-amd64", "6.1.192")})
    assert render_plan(replace(plan, kernels=plan.kernels[:2])) == (
        f"""\
lab demo: 4 cells, 2 at a time
  guests: 512 MiB, 2 processors
  modules hello: {lab.module_dirs["hello"]}

kernel 5.4: the newest 5.4 of focal, not looked up yet, in focal
  all/loading
  all/loading-twice  (skipped: it is for kernels >=5.6, this is 5.4)
  all/uname

kernel 6.1: 6.1.0-56-cloud-amd64 (version 6.1.192), in bookworm
  all/loading
  all/loading-twice
  all/uname  (skipped: it is for kernels <6.1.100, this is 6.1.192)
"""
    )


def test_one_is_one(lab: Lab) -> None:
    plan = make_plan(lab)
    kernel = replace(plan.kernels[0], cells=plan.kernels[0].cells[:1])
    assert render_plan(replace(plan, kernels=(kernel,), jobs=1)).startswith(
        "lab demo: 1 cell, 1 at a time\n"
    )


# --- recipes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(path.stem for path in shipped_images_dir().glob("*.yaml")))
def test_the_recipes_that_come_with_the_lab_are_whole(lab: Lab, name: str) -> None:
    recipe = load_recipe(lab, name)
    assert recipe.release == name
    # What init, the builder and the way in need.
    assert {"busybox-static", "dropbear-bin", "gcc", "make", "kmod"} <= set(recipe.packages)


def test_a_recipe_that_is_not_there_is_told_with_those_that_are(lab: Lab) -> None:
    with pytest.raises(ConfigError, match="no recipe 'sarge'") as caught:
        load_recipe(lab, "sarge")
    assert "there are bionic, bookworm, bullseye, buster, focal, " in caught.value.hint


def test_a_labs_own_recipe_comes_first(tmp_path: Path) -> None:
    own = tmp_path / "images"
    own.mkdir()
    text = (shipped_images_dir() / "bookworm.yaml").read_text()
    (own / "bookworm.yaml").write_text(text.replace("flavour: cloud-amd64", "flavour: mine"))
    write_lab(tmp_path, lab=LAB + "images: images\n")
    lab = load_lab(tmp_path / "lab.yaml", entry_types())
    assert load_recipe(lab, "bookworm").flavour == "mine"
    assert load_recipe(lab, "focal").release == "focal"
    (own / "bookworm.yaml").write_text("distribution: debian\nrelease: [")
    with pytest.raises(ConfigError, match=r"bookworm\.yaml:\d"):
        load_recipe(lab, "bookworm")


# --- kernels that are known ------------------------------------------------------------------

KNOWN = {
    "5.4": known_as("5.4.0-216-generic", "5.4.0"),
    "6.1": known_as("6.1.0-56-amd64", "6.1.192"),
    "6.1-rt": known_as("6.1.0-57-rt-amd64", "6.1.193"),
    "7.x": known_as("7.3.4+deb13-cloud-amd64", "7.3.4"),
}


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("latest",), ("7.x",)),
        (("latest", "5.4"), ("5.4", "7.x")),
        (("6.1.0-56-amd64",), ("6.1",)),
        (("7.3.4+deb13-cloud-amd64",), ("7.x",)),
        (("6.1.0-56-amd64", "5.4.0-216-generic"), ("5.4", "6.1")),
        ((">=6.1.193",), ("6.1-rt", "7.x")),
        ((">=6.1.192 <7",), ("6.1", "6.1-rt")),
        (("==6.1.192",), ("6.1",)),
        (("<=6.1.192",), ("5.4", "6.1")),
        (("6.1.100..7.3",), ("6.1", "6.1-rt", "7.x")),
        (("bookworm",), ("6.1", "6.1-rt")),
    ],
)
def test_words_select_by_what_kernels_are_known_to_be(
    lab: Lab, words: tuple[str, ...], names: tuple[str, ...]
) -> None:
    assert select_kernels(lab, words, KNOWN) == names


@pytest.mark.parametrize("word", ["6.1.0-55-amd64", "6.1.0-56", ">=7.3.5", "==6.1.0", "5.4.0-216"])
def test_a_word_that_no_known_kernel_is_selects_none(lab: Lab, word: str) -> None:
    with pytest.raises(UsageError, match=r"no kernel of this lab is that"):
        select_kernels(lab, (word,), KNOWN)


def test_the_latest_is_by_version_and_not_by_name(lab: Lab) -> None:
    assert select_kernels(lab, ("latest",), {}) == ("7.x",)
    newest = {**KNOWN, "5.4": known_as("9.10.0-1-generic", "9.10")}
    assert select_kernels(lab, ("latest",), newest) == ("5.4",)
    older = {**KNOWN, "7.x": known_as("5.10.9-amd64", "5.10.9")}
    assert select_kernels(lab, ("latest",), older) == ("6.1-rt",)
    rc = {**KNOWN, "5.4": known_as("7.4.0-rc1", "7.4-rc1"), "7.x": known_as("7.4", "7.4")}
    assert select_kernels(lab, ("latest",), rc) == ("7.x",)


def test_an_exact_bound_tells_kernels_of_one_series_apart(lab: Lab) -> None:
    known = {"6.1": known_as("6.1.0-9-amd64", "6.1.99"), "6.1-rt": known_as("6.1.0-10", "6.1.100")}
    assert select_kernels(lab, (">=6.1.100 <7",), known) == ("6.1-rt",)
    assert select_kernels(lab, ("<6.1.100 >=6",), known) == ("6.1",)


def test_a_kernel_called_latest_is_that_kernel(tmp_path: Path) -> None:
    kernels, groups = LAB.replace('"5.4": {', "latest: {").split("groups:")
    write_lab(
        tmp_path, lab=f"{kernels}groups:{groups.replace(chr(34) + '5.4' + chr(34), 'latest')}"
    )
    lab = load_lab(tmp_path / "lab.yaml", entry_types())
    assert select_kernels(lab, ("latest",), {}) == ("latest",)


# --- where it is written -----------------------------------------------------------------------


def test_scenarios_and_folders_are_found_from_the_labs_folder(lab: Lab) -> None:
    plan = make_plan(lab)
    assert [(each.name, each.path, each.line) for each in scenario_places(plan)] == [
        ("all/loading", "scenarios/all.yaml", 2),
        ("all/loading-twice", "scenarios/all.yaml", 7),
        ("all/uname", "scenarios/all.yaml", 12),
    ]
    assert [(each.name, each.path, each.line) for each in folder_places(plan)] == [
        ("hello", "src", None)
    ]
