"""Finding and reading recipes: a lab's own first, then those that come with the lab."""

from __future__ import annotations

from orchestrator.foundation.errors import ConfigError
from orchestrator.plan.labfile import validate_document
from orchestrator.plan.model import Lab
from orchestrator.plan.paths import shipped_images_dir
from orchestrator.plan.recipe import Recipe
from orchestrator.plan.yamlsource import load_yaml


def load_recipe(lab: Lab, name: str) -> Recipe:
    """The recipe ``name``. Raises ``ConfigError`` if there is none, or it is wrong."""
    folders = [folder for folder in (lab.images_dir, shipped_images_dir()) if folder is not None]
    for folder in folders:
        path = folder / f"{name}.yaml"
        if path.is_file():
            return validate_document(Recipe, load_yaml(path))
    known = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
    raise ConfigError(
        f"no recipe {name!r} for a guest image",
        hint=f"there are {', '.join(known)}; a lab's own lie in the folder that `images:` names",
    )


def load_shipped_recipe(name: str) -> Recipe:
    """A recipe that comes with the lab."""
    return validate_document(Recipe, load_yaml(shipped_images_dir() / f"{name}.yaml"))
