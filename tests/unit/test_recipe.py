"""Where a recipe says that its archive is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.adapters.cache import hash_of
from orchestrator.foundation.errors import ConfigError
from orchestrator.plan.labfile import validate_document
from orchestrator.plan.paths import PACKAGE_DIR, shipped_images_dir
from orchestrator.plan.recipe import Keyring, Recipe
from orchestrator.plan.yamlsource import load_yaml

SERVICE = "http://127.0.0.1:1/"
PLAIN: dict[str, Any] = {
    "distribution": "debian",
    "release": "oldy",
    "components": ("main", "contrib"),
    "keyring": Keyring(file="k.gpg", package="k", release="trixie"),
    "flavour": "amd64",
    "packages": ("bash",),
}
MOMENT = "20240701T000000Z"


@pytest.mark.parametrize(
    ("more", "lines"),
    [
        ({}, ()),
        ({"ended": True}, ()),
        ({"archive": "http://a/debian/"}, ("deb http://a/debian oldy main contrib",)),
        (
            {"archive": "http://a/debian", "security": "oldy/updates"},
            (
                "deb http://a/debian oldy main contrib",
                "deb http://a/debian-security oldy/updates main contrib",
            ),
        ),
        (
            {"snapshot": MOMENT, "security": "oldy-security"},
            (
                f"deb http://127.0.0.1:1/archive/debian/{MOMENT} oldy main contrib",
                f"deb http://127.0.0.1:1/archive/debian-security/{MOMENT} oldy-security main "
                "contrib",
            ),
        ),
    ],
    ids=["mirrors", "ended", "archive", "security", "moment"],
)
def test_the_archive_is_where_the_recipe_says(more: dict[str, Any], lines: tuple[str, ...]) -> None:
    recipe = Recipe.model_validate({**PLAIN, **more})
    assert recipe.sources(SERVICE) == lines


@pytest.mark.parametrize(
    ("more", "past"),
    [
        ({}, False),
        ({"archive": "http://a/b"}, False),
        ({"ended": True}, True),
        ({"snapshot": MOMENT}, True),
    ],
)
def test_what_is_past_need_not_be_fresh(more: dict[str, Any], past: bool) -> None:
    assert Recipe.model_validate({**PLAIN, **more}).past is past


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (f"archive: http://a/b\nsnapshot: {MOMENT}\n", "only one of them"),
        ("security: oldy/updates\n", "goes with `archive` or `snapshot`"),
        ("snapshot: yesterday\n", "a moment in UTC"),
        ("snapshot: 2024-07-01T00:00:00Z\n", "a moment in UTC"),
        ("archive: /srv/debian\n", "an address"),
        ("archive: 'http://a/b [trusted=yes]'\n", "an address"),
        ('archive: "http://a/b\\ndeb http://c"\n', "an address"),
        ("archive: http://a/b\nsecurity: a b\n", "a suite"),
        ("archive: http://a/b\nsecurity: ../x\n", "a suite"),
    ],
)
def test_a_place_that_cannot_be_is_refused(tmp_path: Path, lines: str, said: str) -> None:
    text = (shipped_images_dir() / "bookworm.yaml").read_text()
    (tmp_path / "own.yaml").write_text(text + lines)
    with pytest.raises(ConfigError, match=said):
        validate_document(Recipe, load_yaml(tmp_path / "own.yaml"))


def test_the_snapshot_service_has_debian_alone(tmp_path: Path) -> None:
    text = (shipped_images_dir() / "focal.yaml").read_text()
    (tmp_path / "own.yaml").write_text(f"{text}snapshot: {MOMENT}\n")
    with pytest.raises(ConfigError, match="Debian alone"):
        validate_document(Recipe, load_yaml(tmp_path / "own.yaml"))


def test_a_recipe_without_a_place_keeps_the_name_of_what_was_made_of_it() -> None:
    recipe = Recipe.model_validate(PLAIN)
    assert recipe.whereabouts == ()
    assert not {"archive", "snapshot", "security"} & recipe.key().keys()
    other = Recipe.model_validate({**PLAIN, "snapshot": MOMENT})
    assert hash_of(recipe.key()) != hash_of(other.key())


@pytest.mark.parametrize("host", ["archive.debian.org", "snapshot.debian.org"])
def test_each_service_is_named_in_one_place(host: str) -> None:
    folders = (PACKAGE_DIR, shipped_images_dir())
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    texts = [path.read_bytes() for path in files if "__pycache__" not in path.parts]
    assert sum(text.count(host.encode()) for text in texts) == 1


def test_debian_10_comes_from_debians_archive_and_its_keys_from_those_removed() -> None:
    values = yaml.safe_load((shipped_images_dir() / "buster.yaml").read_text())
    assert values["ended"] is True
    assert values["security"] == "buster/updates"
    assert values["keyring"]["file"] == "debian-archive-removed-keys.gpg"
    assert {"dropbear-bin", "libssl1.1", "libelf1"} <= set(values["packages"])
