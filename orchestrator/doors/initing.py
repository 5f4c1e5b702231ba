"""``lab init``: a first lab for the modules of a folder, and what was found there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from orchestrator.adapters.archive import SKIPPED_FOLDERS
from orchestrator.adapters.sources import entry_types
from orchestrator.doors import schema
from orchestrator.foundation.errors import EXIT_PASSED, HostError, UsageError
from orchestrator.plan.labfile import load_lab
from orchestrator.plan.starting import (
    DKMS_NAME,
    MAKEFILE_NAMES,
    SCHEMAS_DIR,
    SOURCE_ENDINGS,
    FoundFolder,
    Survey,
    lab_name_of,
    render_files,
    survey,
)
from orchestrator.plan.visible import visible
from orchestrator.plan.yamlsource import shown_path

LAB_FILE = "lab.yaml"
# The second is for where the first is somebody else's already.
_SCENARIO_DIRS = ("scenarios", "lab-scenarios")
_MAX_FILES = 20_000
_MAX_FILE_BYTES = 4 << 20
_MAX_BYTES = 256 << 20
_MAX_TOLD = 20


def start(folder: Path) -> int:
    """Write a lab for what is in a folder, and say so. The exit status.

    Raises ``UsageError`` where there is nothing to write a lab for, or one already.
    """
    root = folder.resolve()
    if not root.is_dir():
        raise UsageError(f"{shown_path(folder)} is no folder")
    if os.path.lexists(root / LAB_FILE):
        raise UsageError(
            f"{shown_path(folder / LAB_FILE)} is there already, and is not written over",
            hint=f"`lab run --lab {shown_path(folder / LAB_FILE)}` plays it",
        )
    name = lab_name_of(PurePosixPath(root))
    found = survey(read_tree(root), name)
    if not found.modules:
        _refuse(found, folder)
    files = dict(render_files(found, name, _scenarios_dir(root)))
    for kind in ("lab", "scenario"):
        path = f"{SCHEMAS_DIR}/{kind}.schema.json"
        if not (root / path).exists():
            files[path] = schema.render(kind)
    _write(root, files)
    load_lab(root / LAB_FILE, entry_types())  # what is written must be what is read
    print("\n".join(_report(found, files, folder)))
    return EXIT_PASSED


def _refuse(found: Survey, folder: Path) -> None:
    lines = [f"no module was found in {shown_path(folder)}"]
    lines += [f"  {place}" for place in found.unclear[:_MAX_TOLD]]
    raise UsageError(
        "\n".join(lines),
        hint="a module's folder has a Kbuild or Makefile with a line `obj-m += NAME.o`; "
        "docs/language.md says how to write lab.yaml by hand",
    )


# --- the folder ----------------------------------------------------------------------------


def read_tree(root: Path) -> dict[str, str]:
    """The text of what says how modules are built, and of C sources, by path.

    Raises ``UsageError`` if there is more than a module's repository has.
    """
    tree: dict[str, str] = {}
    size = 0
    for path in _files(root):
        try:
            data = path.read_bytes() if path.stat().st_size <= _MAX_FILE_BYTES else b""
        except OSError:
            continue  # what cannot be read here cannot be built either, and that is told then
        size += len(data)
        if size > _MAX_BYTES or len(tree) >= _MAX_FILES:
            raise UsageError(
                f"{shown_path(root)} has more sources than a module's repository",
                hint="name the folder of the module: lab init DIR",
            )
        tree[path.relative_to(root).as_posix()] = data.decode(errors="replace")
    return tree


def _files(root: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in SKIPPED_FOLDERS)
        for name in sorted(names):
            path = Path(where, name)
            wanted = name in (*MAKEFILE_NAMES, DKMS_NAME) or name.endswith(SOURCE_ENDINGS)
            # A link's target is packed if it is inside; a module's own text is what counts here.
            if wanted and not name.endswith(".mod.c") and path.is_file():
                yield path


def _scenarios_dir(root: Path) -> str:
    """The folder for scenarios: one without YAML files of others, which the lab would read."""
    for name in _SCENARIO_DIRS:
        if not any((root / name).glob("*.yaml")) and not (root / name).is_file():
            return name
    raise UsageError(
        f"{' and '.join(_SCENARIO_DIRS)} have YAML files in them already",
        hint="move those away that are left of an earlier `lab init`",
    )


def _write(root: Path, files: Mapping[str, str]) -> None:
    """Write what is not there yet. Raises ``HostError``, after removing what it wrote."""
    written: list[Path] = []
    try:
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                written.append(path)
                file.write(text)
    except OSError as error:
        for path in written:
            path.unlink(missing_ok=True)
        raise HostError(f"cannot write {shown_path(path)}: {error.strerror}") from error


# --- what is said --------------------------------------------------------------------------


def _report(found: Survey, files: Mapping[str, str], folder: Path) -> Iterator[str]:
    yield "found:"
    for each in found.folders:
        yield from _folder(each)
    for driver in found.drivers:
        yield visible(
            f"  {driver.file}:{driver.line}: uses <{driver.header}>, which small kernels are "
            "without: those with all drivers are taken"
        )
    if found.unclear:
        yield "not made out:"
        yield from (f"  {place}" for place in found.unclear[:_MAX_TOLD])
        if more := len(found.unclear) - _MAX_TOLD:
            yield from [f"  and {more} more"] if more > 0 else []
    yield "written:"
    yield from _listed(str(shown_path(folder / name)) for name in files if name[0] != ".")
    yield f"  {shown_path(folder / SCHEMAS_DIR)}, for editors"
    yield "results go to lab-results/ beside lab.yaml, which git does not see"
    where = "" if folder.resolve() == Path.cwd() else f" --lab {shown_path(folder / LAB_FILE)}"
    yield f"next: lab run{where} -k 6.1      one kernel; without -k, five"


def _folder(folder: FoundFolder) -> Iterator[str]:
    for module in folder.modules[:_MAX_TOLD]:
        needs = f", after {', '.join(module.first)}" if module.first else ""
        yield visible(f"  {module.file}:{module.line}: {module.name}{needs}")
    if len(folder.modules) > _MAX_TOLD:
        yield f"  and {len(folder.modules) - _MAX_TOLD} more modules"
    if folder.why:
        how = folder.make or f"kbuild, in {folder.folder} of {folder.path}"
        yield visible(f"    built with: {how} ({folder.why})")


def _listed(names: Iterable[str]) -> list[str]:
    shown = list(names)
    more = [f"  and {len(shown) - _MAX_TOLD} more"] if len(shown) > _MAX_TOLD else []
    return [f"  {name}" for name in shown[:_MAX_TOLD]] + more
