"""A lab without a ``lab.yaml``: the recipes' own kernels, and modules named on a command line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.foundation.errors import UsageError
from orchestrator.plan.model import KernelEntry, Lab, ModuleEntry, lab_file_model
from orchestrator.plan.yamlsource import shown_path

# The kernel that each release came with, as the first line of its recipe in images/ says.
RECIPE_KERNELS: Mapping[str, str] = {
    "xenial": "4.4",
    "bionic": "4.15",
    "buster": "4.19",
    "focal": "5.4",
    "bullseye": "5.10",
    "jammy": "5.15",
    "bookworm": "6.1",
    "noble": "6.8",
    "trixie": "6.12",
}
_EXACT = re.compile(r"([a-z]{1,40})/(\d{1,9}(?:\.\d{1,9}){0,3})")
_NO_NAME = re.compile(r"[^A-Za-z0-9._+-]+|^[^A-Za-z0-9]+")


def recipes_lab(folder: Path, entries: tuple[type[KernelEntry], ...], kernel: str) -> Lab:
    """A lab with a kernel for each recipe, called as the recipe, and no modules.

    ``folder`` is where its ``lab.yaml`` would be, ``entries`` are the kinds of kernels.
    ``kernel`` is the word that the user names one by; ``jammy/6.5``, another series of a
    release, becomes a kernel too.
    """
    kernels = {name: {"image": name, "version": series} for name, series in RECIPE_KERNELS.items()}
    if match := _EXACT.fullmatch(kernel):
        kernels = {exact_name(*match.groups()): {"image": match[1], "version": match[2]}}
    raw = {"lab": "no-lab", "kernels": kernels, "scenarios": ("none",)}
    return Lab(
        path=folder / "lab.yaml",
        file=lab_file_model(entries).model_validate(raw),
        module_dirs={},
        scenarios=(),
        images_dir=None,
    )


def exact_name(recipe: str, series: str) -> str:
    """What a kernel that is named as ``jammy/6.5`` is called: safe as a file name."""
    return f"{recipe}-{series}"


def kernel_word(kernel: str) -> str:
    """The word for a kernel of ``recipes_lab`` that the user named so."""
    match = _EXACT.fullmatch(kernel)
    return exact_name(*match.groups()) if match else kernel


def with_modules(lab: Lab, folders: Sequence[Path]) -> Lab:
    """The lab with these folders of modules beside its own, built after them.

    A folder that the lab has is not taken twice. Raises ``UsageError`` for one that Kbuild
    cannot build.
    """
    dirs, entries = dict(lab.module_dirs), dict(lab.file.modules)
    for given in folders:
        folder = given.resolve()
        if not any((folder / build).is_file() for build in ("Kbuild", "Makefile")):
            what = "has neither Kbuild nor Makefile" if folder.is_dir() else "is no folder"
            raise UsageError(
                f"--module {shown_path(given)}: it {what}",
                hint="name the folder that Kbuild is to build (`make M=…`)",
            )
        if folder not in dirs.values():
            name = _free_name(folder, dirs)
            dirs[name], entries[name] = folder, ModuleEntry(path=".")
    file = lab.file.model_copy(update={"modules": entries})
    return lab.model_copy(update={"module_dirs": dirs, "file": file})


def _free_name(folder: Path, taken: Mapping[str, Path]) -> str:
    """A name for a folder that the lab has not given to another."""
    name = plain = _NO_NAME.sub("", folder.name)[:70] or "module"
    number = 2
    while name in taken:
        name, number = f"{plain}-{number}", number + 1
    return name
