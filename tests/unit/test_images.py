"""What an image says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.adapters.cache import Cache, write_json
from orchestrator.adapters.images import ensure_image, find_image, image_key, parse_package_list
from orchestrator.foundation.errors import SourceError
from orchestrator.plan.recipe import Keyring, Recipe

RECIPE = Recipe(
    distribution="debian",
    release="testy",
    keyring=Keyring(file="k.gpg", package="k", release="trixie"),
    flavour="amd64",
    packages=("bash",),
)
A, B = (f"{name}=1:2~rc+b1-3 sha256:{name * 64}" for name in "ab")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        (f"Package: a\nVersion: 1:2~rc+b1-3\nSHA256: {'a' * 64}\n", [A]),
        (
            f"Package: b\nVersion: 1:2~rc+b1-3\nSHA256: {'b' * 64}\n"
            f"Package: a\nVersion: 1:2~rc+b1-3\nSHA256: {'a' * 64}\n",
            [A, B],
        ),
        (2 * f"Package: a\nSHA256: {'a' * 64}\nVersion: 1:2~rc+b1-3\n", [A]),
        ("Package: a\nVersion: 1\n", []),
    ],
)
def test_the_fields_of_the_index_are_a_list(text: str, found: list[str]) -> None:
    assert parse_package_list(text) == found


@pytest.fixture
def tool(tmp_path: Path) -> Path:
    return make_tool(tmp_path, "int main;")


def make_tool(parent: Path, text: str) -> Path:
    """The sources of a program."""
    folder = parent / f"tool{len(list(parent.iterdir()))}"
    folder.mkdir()
    (folder / "tool.c").write_text(text)
    return folder


def put(cache: Cache, key: str, *packages: str) -> None:
    write_json(cache.root / "images" / key / "image.json", {"packages": packages})


@pytest.mark.parametrize("locked_name", [True, False])
def test_only_an_image_of_the_locked_packages_is_found(
    tmp_path: Path, tool: Path, locked_name: bool
) -> None:
    cache = Cache(tmp_path / "cache", offline=True)
    plain = image_key(RECIPE, tool)
    own = image_key(RECIPE, tool, (A,))
    assert own.startswith(f"{plain}-")
    put(cache, own if locked_name else plain, A)
    image = find_image(cache, RECIPE, tool, (A,))
    assert image is not None
    assert image.packages == (A,)
    assert find_image(cache, RECIPE, tool, (A, B)) is None
    assert (find_image(cache, RECIPE, tool) is None) is locked_name
    with pytest.raises(SourceError, match=r"the userland of testy is not in the cache|keyring"):
        ensure_image(cache, RECIPE, tool, (A, B))


def test_a_changed_tool_or_recipe_is_another_image(tmp_path: Path) -> None:
    one, other = (make_tool(tmp_path, text) for text in "xy")
    (more_files := make_tool(tmp_path, "x")).joinpath("tool.h").touch()
    more = RECIPE.model_copy(update={"packages": ("bash", "strace")})
    keys = {
        image_key(RECIPE, one),
        image_key(RECIPE, other),
        image_key(RECIPE, more_files),
        image_key(more, one),
        image_key(RECIPE, one, ()),
        image_key(RECIPE, one, (A,)),
    }
    assert len(keys) == 6
    assert image_key(RECIPE, one) == image_key(RECIPE, make_tool(tmp_path, "x"))
