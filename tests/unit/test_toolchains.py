"""Toolchains: images of their own, and how an image is unpacked to run things in."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from orchestrator.adapters import images
from orchestrator.adapters.cache import Cache
from orchestrator.adapters.images import Image, ensure_root, ensure_toolchain, image_key
from orchestrator.foundation.errors import SourceError
from orchestrator.plan.labfile import validate_document
from orchestrator.plan.paths import shipped_images_dir, tool_dir
from orchestrator.plan.recipe import Recipe
from orchestrator.plan.yamlsource import load_yaml

RECIPES = sorted(shipped_images_dir().glob("*.yaml"))


def load(path: Path) -> Recipe:
    return validate_document(Recipe, load_yaml(path))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_toolchain_does_not_change_its_image(path: Path) -> None:
    recipe = load(path)
    assert recipe.kernel_packages
    without = recipe.model_copy(update={"kernel_packages": ()})
    assert image_key(recipe, tool_dir()) == image_key(without, tool_dir())
    more = recipe.model_copy(update={"packages": (*recipe.packages, "more")})
    assert image_key(more, tool_dir()) != image_key(recipe, tool_dir())


def test_a_toolchain_is_an_image_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load(RECIPES[0])
    asked: list[Recipe] = []

    def ensure(_cache: Cache, whole: Recipe, _source: Path) -> Image:
        asked.append(whole)
        return Image("key", whole.release, tmp_path, tmp_path, ())

    monkeypatch.setattr(images, "ensure_image", ensure)
    ensure_toolchain(Cache(tmp_path), recipe, tmp_path)
    assert asked[0].packages == (*recipe.packages, *recipe.kernel_packages)
    assert image_key(asked[0], tool_dir()) != image_key(recipe, tool_dir())


def test_a_recipe_without_a_toolchain(tmp_path: Path) -> None:
    recipe = load(RECIPES[0]).model_copy(update={"kernel_packages": ()})
    with pytest.raises(SourceError, match="says not what building a kernel takes"):
        ensure_toolchain(Cache(tmp_path), recipe, tmp_path)


def image_of(folder: Path, tmp_path: Path) -> Image:
    squashfs = tmp_path / "image.squashfs"
    argv = ("mksquashfs", str(folder), str(squashfs), "-quiet", "-no-progress", "-comp", "lz4")
    # A device in it, as in every real image: not for an ordinary user to make.
    pseudo = ("-p", "dev/null c 666 0 0 1 3")
    subprocess.run((*argv, *pseudo), check=True, capture_output=True)
    return Image("testy-1", "testy", squashfs, tmp_path / "busybox", ())


needs_squashfs = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("mksquashfs", "unsquashfs")),
    reason="needs squashfs-tools",
)


@needs_squashfs
def test_an_image_is_unpacked_without_its_devices(tmp_path: Path) -> None:
    (tmp_path / "root/usr/bin").mkdir(parents=True)
    (tmp_path / "root/dev").mkdir()
    (tmp_path / "root/usr/bin/cc").write_text("x")
    (tmp_path / "root/bin").symlink_to("usr/bin")
    cache = Cache(tmp_path / "cache")
    image = image_of(tmp_path / "root", tmp_path)
    root = ensure_root(cache, image)
    assert (root / "bin/cc").read_text() == "x"
    assert list((root / "dev").iterdir()) == []
    assert root.stat().st_mode & 0o777 == 0o755
    image.squashfs_path.unlink()
    assert ensure_root(cache, image) == root


@needs_squashfs
@pytest.mark.parametrize("damage", [b"", b"hsqs", b"\0" * 4096, None])
def test_a_damaged_image(tmp_path: Path, damage: bytes | None) -> None:
    path = tmp_path / "image.squashfs"
    if damage is not None:
        path.write_bytes(damage)
    cache = Cache(tmp_path / "cache")
    with pytest.raises(SourceError, match="cannot unpack the image of testy"):
        ensure_root(cache, Image("testy-1", "testy", path, path, ()))
    assert list((tmp_path / "cache/roots").iterdir()) == []
