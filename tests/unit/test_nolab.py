"""Labs without a lab.yaml, and modules that are named on a command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.adapters.sources import entry_types
from orchestrator.foundation.errors import UsageError
from orchestrator.plan.nolab import RECIPE_KERNELS, kernel_word, recipes_lab, with_modules
from orchestrator.plan.paths import shipped_images_dir
from orchestrator.plan.recipes import load_recipe
from tests.unit.labs import demo_lab


def test_every_recipe_that_comes_with_the_lab_gives_a_kernel(tmp_path: Path) -> None:
    lab = recipes_lab(tmp_path, entry_types(), "6.1")
    assert set(lab.file.kernels) == {path.stem for path in shipped_images_dir().glob("*.yaml")}
    for name, entry in lab.file.kernels.items():
        assert load_recipe(lab, entry.image).release == name


@pytest.mark.parametrize("recipe", RECIPE_KERNELS)
def test_the_kernel_is_the_one_that_the_recipe_speaks_of(recipe: str) -> None:
    first = (shipped_images_dir() / f"{recipe}.yaml").read_text().partition("\n")[0]
    assert f": kernel {RECIPE_KERNELS[recipe]}" in first


def test_another_series_of_a_release_can_be_named(tmp_path: Path) -> None:
    lab = recipes_lab(tmp_path, entry_types(), "jammy/6.5")
    (kernel,) = lab.file.kernels.items()
    assert kernel[0] == kernel_word("jammy/6.5") == "jammy-6.5"
    assert (kernel[1].image, str(kernel[1].version_hint())) == ("jammy", "6.5")


@pytest.mark.parametrize("word", ["6.1", "bookworm", "../6.1", "a/b", "jammy/6.5/7"])
def test_other_words_name_kernels_as_ever(word: str) -> None:
    assert kernel_word(word) == word


def module_dir(path: Path, build: str = "Kbuild") -> Path:
    path.mkdir(parents=True)
    (path / build).write_text("obj-m := x.o\n")
    return path


def test_folders_of_modules_come_after_the_labs_own(tmp_path: Path) -> None:
    lab = demo_lab(tmp_path / "lab")
    extra = module_dir(tmp_path / "my driver", "Makefile")
    assert dict(with_modules(lab, [extra]).module_dirs) == {
        "hello": (tmp_path / "lab/src").resolve(),
        "mydriver": extra.resolve(),
    }


def test_a_folder_that_the_lab_has_is_not_taken_twice(tmp_path: Path) -> None:
    lab = demo_lab(tmp_path)
    assert with_modules(lab, [tmp_path / "src"]).module_dirs == lab.module_dirs


def test_two_folders_of_one_name_get_two(tmp_path: Path) -> None:
    lab = demo_lab(tmp_path / "lab")
    folders = [module_dir(tmp_path / f"{number}/hello") for number in range(2)]
    assert list(with_modules(lab, folders).module_dirs) == ["hello", "hello-2", "hello-3"]


@pytest.mark.parametrize(("name", "what"), [("lab", "neither Kbuild"), ("nope", "is no folder")])
def test_a_folder_that_cannot_be_built_is_refused(tmp_path: Path, name: str, what: str) -> None:
    lab = demo_lab(tmp_path / "lab")
    with pytest.raises(UsageError, match=what):
        with_modules(lab, [tmp_path / name])
