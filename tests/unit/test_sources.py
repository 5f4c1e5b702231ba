"""Sources of kernels: another one is one file, and nothing else."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from orchestrator.adapters import sources
from orchestrator.adapters.cache import Cache
from orchestrator.adapters.kernels import ensure_resolution
from orchestrator.adapters.sources import SourceContext, all_sources, entry_types, source_of
from orchestrator.adapters.sources.distribution import DistributionEntry
from orchestrator.doors.cli import main
from orchestrator.foundation.errors import ConfigError, SourceError
from orchestrator.plan.labfile import load_lab
from orchestrator.plan.model import Lab
from orchestrator.plan.plan import select_kernels
from orchestrator.plan.recipes import load_recipe
from tests.unit.labs import LAB, write_lab

FOURTH = '''
"""Kernels that lie in a folder."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from orchestrator.adapters.sources import SourceContext
from orchestrator.foundation.errors import SourceError
from orchestrator.plan.kernel import Part, ResolvedKernel
from orchestrator.plan.model import KernelEntry, LabPath
from orchestrator.plan.version import KernelVersion


class ShelfEntry(KernelEntry):
    key: ClassVar[str] = "shelf"
    shelf: LabPath = Field(description="the folder")
    size: int = Field(default=1, ge=1, description="how many")
    patches: tuple[LabPath, ...] = Field(default=(), description="what is put on top")

    def version_hint(self) -> KernelVersion | None:
        return None

    def words(self, release: str) -> str:
        return f"the one on {self.shelf}"


class ShelfSource:
    entry: ClassVar[type[KernelEntry]] = ShelfEntry

    def floats(self, entry: KernelEntry) -> bool:
        return False

    def local_inputs(self, context: SourceContext, entry: KernelEntry) -> str:
        return ""

    def resolve(self, context: SourceContext, entry: KernelEntry) -> ResolvedKernel:
        assert isinstance(entry, ShelfEntry)
        path = context.lab_dir / entry.shelf / "release"
        if not path.exists():
            raise SourceError(f"nothing on {entry.shelf}")
        release = path.read_text()
        part = Part(name="shelf", version=release, sha256="0" * 64, size=entry.size)
        return ResolvedKernel(release=release, version=release, origin="a shelf", parts=(part,))

    def fill(
        self, context: SourceContext, entry: KernelEntry, kernel: ResolvedKernel, tree: Path
    ) -> None:
        (tree / "filled").write_text(kernel.release)

    def offers(self, context, entry): return ()
    def lost(self, context, entry, kernel): return ()
    def update(self, context, entry): return None


SOURCE = ShelfSource()
'''
SHELVED = LAB.replace(
    '  "7.x": {image: trixie, version: "7.3"}\n',
    '  "7.x": {image: trixie, shelf: mine, patches: [a.patch], optional: true}\n',
)


@pytest.fixture
def fourth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The file, where modules of the package are looked for."""
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "shelf.py").write_text(FOURTH)
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(folder)])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    all_sources.cache_clear()
    importlib.invalidate_caches()
    yield importlib.import_module("orchestrator.adapters.sources.shelf")
    all_sources.cache_clear()
    del sys.modules["orchestrator.adapters.sources.shelf"]
    del sources.shelf  # type: ignore[attr-defined]


@pytest.fixture
def lab(fourth: ModuleType, tmp_path: Path) -> Lab:
    assert fourth
    return load_lab(write_lab(tmp_path / "lab", lab=SHELVED), entry_types())


def test_without_it_there_is_no_such_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lab\.yaml:7:10: key 'version' is missing"):
        load_lab(write_lab(tmp_path / "lab", lab=SHELVED), entry_types())


def test_the_distribution_is_meant_where_no_source_is_named() -> None:
    assert entry_types()[0] is DistributionEntry
    assert all(entry.key for entry in entry_types())
    assert len({entry.key for entry in entry_types()}) == len(entry_types())


@pytest.mark.usefixtures("fourth")
def test_a_file_is_a_source() -> None:
    assert "shelf" in [entry.key for entry in entry_types()]
    assert entry_types()[0] is DistributionEntry


def test_its_entries_are_read(lab: Lab, fourth: ModuleType) -> None:
    entry = lab.file.kernels["7.x"]
    assert isinstance(entry, fourth.ShelfEntry)
    assert entry.model_dump() == {
        "image": "trixie",
        "optional": True,
        "shelf": "mine",
        "size": 1,
        "patches": ("a.patch",),
    }
    assert source_of(entry) is fourth.SOURCE
    assert isinstance(lab.file.kernels["6.1"], DistributionEntry)


@pytest.mark.parametrize(
    ("entry", "said", "hint"),
    [
        ("{image: trixie, shelf: mine, shlef: x}", "7:39: unknown key 'shlef'", "shelf, size"),
        ("{image: trixie, shelf: [x]}", "7:33: found a list, where text is wanted", ""),
        ("{shelf: mine}", "7:10: key 'image' is missing", "image: the recipe"),
        ("{image: trixie, shelf: mine, size: 0}", "7:45: the number 0 must be at least 1", ""),
        ("{image: trixie, shelf: mine, size: x}", "7:45: found the text 'x', where a whole", ""),
        ("{image: trixie, shelf: mine, patches: [5, {}]}", "7:52: found a mapping, where text", ""),
        ("{image: trixie, shelf:}", "7:26: nothing is given for 'shelf'", ""),
        ("{image: trixie}", "7:10: key 'version' is missing", "version: the newest"),
        ("{image: trixie, shelf: mine, flavour: x}", "7:39: unknown key 'flavour'", "shelf"),
        ("trixie", "7:10: found the text 'trixie', where a mapping", ""),
        ("[trixie]", "7:10: found a list, where a mapping is wanted", ""),
    ],
)
@pytest.mark.usefixtures("fourth")
def test_its_mistakes_are_told_with_their_place(
    tmp_path: Path, entry: str, said: str, hint: str
) -> None:
    text = SHELVED.replace(
        "{image: trixie, shelf: mine, patches: [a.patch], optional: true}", entry
    )
    with pytest.raises(ConfigError) as caught:
        load_lab(write_lab(tmp_path / "lab", lab=text), entry_types())
    assert f"lab.yaml:{said}" in caught.value.message
    assert "(at kernels['7.x']" in caught.value.message
    assert hint in caught.value.hint


def test_it_resolves_and_fills(lab: Lab, tmp_path: Path) -> None:
    entry = lab.file.kernels["7.x"]
    cache = Cache(tmp_path / "cache", offline=True)
    context = SourceContext(cache, load_recipe(lab, "trixie"), lab.path.parent)
    with pytest.raises(SourceError, match="nothing on mine"):
        ensure_resolution(context, entry)
    shelf = lab.path.parent / "mine"
    shelf.mkdir()
    for release in ("8.0.1-mine", "8.0.2-mine"):
        # It does not float: it is looked at each time.
        (shelf / "release").write_text(release)
        assert ensure_resolution(context, entry).release == release
    assert not cache.root.exists()
    tree = tmp_path / "tree"
    tree.mkdir()
    resolved = ensure_resolution(context, entry)
    source_of(entry).fill(context, entry, resolved, tree)
    assert (tree / "filled").read_text() == "8.0.2-mine"


def test_a_kernel_without_a_version_yet_is_in_no_range_but_has_a_name(lab: Lab) -> None:
    assert select_kernels(lab, ("latest",), {}) == ("6.1",)
    assert select_kernels(lab, (">=5",), {}) == ("5.4", "6.1", "6.1-rt")
    assert select_kernels(lab, ("7.x", "trixie"), {}) == ("7.x",)


def test_the_command_line_shows_it(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(lab.path.parent)
    assert main(["kernels", "-k", "7.x"]) == 0
    out = capsys.readouterr().out
    assert "(the one on mine)" in out
    assert all(len(line) <= 80 for line in out.splitlines())
    assert main(["run", "-n", "-k", "7.x"]) == 0
    assert "kernel 7.x: the one on mine, not looked up yet, in trixie" in capsys.readouterr().out
