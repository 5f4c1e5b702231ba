"""The pages: every command in them parses, and names what there is; links lead somewhere."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.adapters.sources import entry_types
from orchestrator.doors.cli import build_parser, split_words
from orchestrator.doors.completion import answer
from orchestrator.plan.labfile import load_lab
from orchestrator.plan.model import Lab
from orchestrator.plan.plan import select_kernels, select_scenarios

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {path.name: path.read_text() for path in sorted(DOCS.glob("*.md"))}
MINE = (
    "README.md",
    "tutorial.md",
    "own-module.md",
    "sandbox.md",
    "ci.md",
    "workplace.md",
    "looking.md",
)
# Pages whose commands are for a lab of their own, which they show.
OWN_LAB = ("own-module.md",)
KNOWN = {line.split("\t")[0] for line in answer(build_parser(), [""]).splitlines()}

pytestmark = pytest.mark.skipif(not (ROOT / "lab.yaml").exists(), reason="no checkout")


def commands(text: str) -> Iterator[str]:
    """What a reader would type: lines of console blocks, and indented lines that begin so."""
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield from re.findall(r"^\$ (.*)$", block, re.MULTILINE)
    yield from re.findall(r"^    ((?:lab|make|source) .*)$", text, re.MULTILINE)


def lab_commands() -> list[tuple[str, list[str]]]:
    """Each call of lab, without what a shell does with its output."""
    found = []
    for page in MINE:
        for line in commands(PAGES[page]):
            inner = re.search(r"<\((lab .*)\)", line)
            text = inner[1] if inner else re.split(r"\s(?:#|\||>|&&)\s?", line)[0]
            words = shlex.split(text)
            if words[0] == "lab":
                found.append((page, words[1:]))
    return found


@pytest.fixture(scope="module")
def lab() -> Lab:
    return load_lab(ROOT / "lab.yaml", entry_types())


def own_lab(folder: Path) -> Lab:
    """The lab that docs/own-module.md shows, written down as it says."""
    text = PAGES["own-module.md"]
    blocks = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (folder / "scenarios").mkdir(parents=True)
    (folder / "Kbuild").write_text("obj-m := beep.o\n")
    (folder / "lab.yaml").write_text(blocks[0])
    (folder / "scenarios/beep.yaml").write_text(blocks[1])
    (folder / "scenarios/more.yaml").write_text(blocks[2])
    return load_lab(folder / "lab.yaml", entry_types())


def test_there_are_commands() -> None:
    pages = [page for page, _ in lab_commands()]
    assert pages.count("tutorial.md") > 15
    assert pages.count("own-module.md") > 8
    assert "workplace.md" in pages


@pytest.mark.parametrize(("page", "words"), lab_commands())
def test_a_command_is_taken_and_names_what_there_is(
    page: str, words: list[str], lab: Lab, tmp_path: Path
) -> None:
    if words == ["init"] and "init" not in KNOWN:
        pytest.skip("this lab has no `lab init`")
    parsed = vars(build_parser().parse_args(split_words(words)[0]))
    used = own_lab(tmp_path / "lab") if page in OWN_LAB else lab
    kernels = parsed.get("kernel") or []
    wanted = [kernels] if isinstance(kernels, str) else list(kernels)
    assert select_kernels(used, wanted, {})
    for end in parsed.get("between") or ():
        assert end in used.file.kernels
    scenarios = parsed.get("scenario") or []
    chosen = select_scenarios(used, [scenarios] if isinstance(scenarios, str) else scenarios)
    assert chosen
    # What a page has a reader play is played on at least one of these kernels.
    if wanted and scenarios:
        entries = (used.file.kernels[name] for name in select_kernels(used, wanted, {}))
        versions = [version for entry in entries if (version := entry.version_hint())]
        for scenario in chosen:
            if scenario.scenario.kernels and "*" not in "".join(scenarios):
                assert any(scenario.kernels.contains(version) for version in versions)


def test_the_debug_lab_of_the_page_is_taken(tmp_path: Path) -> None:
    own_lab(tmp_path / "lab")
    blocks = re.findall(r"^```yaml\n(.*?)^```$", PAGES["own-module.md"], re.MULTILINE | re.DOTALL)
    (tmp_path / "lab/lab.yaml").write_text(blocks[3])
    assert "debug" in load_lab(tmp_path / "lab/lab.yaml", entry_types()).file.kernels


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = {name for page in MINE for name in re.findall(r"`make\s([a-z-]+)", PAGES[page])}
    assert used
    assert used <= targets


@pytest.mark.parametrize("page", MINE)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", PAGES[page]):
        name, _, anchor = target.partition("#")
        path = DOCS / name if name else DOCS / page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}
            assert anchor in anchors, target


@pytest.mark.parametrize("page", MINE)
def test_files_that_are_named_exist(page: str) -> None:
    """Paths of this repository, in backquotes; what ends in a star or a slash too."""
    text = re.sub(r"^```.*?^```$", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    for name in re.findall(
        r"`((?:kmod|ci|orchestrator|plan|adapters|docs|man|tests|\.github)/[\w./-]+)`", text
    ):
        places = (ROOT / name, ROOT / "orchestrator" / name)
        assert any(place.exists() for place in places), name


def test_every_page_is_in_the_index() -> None:
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", PAGES["README.md"]))
    assert linked == PAGES.keys() - {"README.md"}, "docs/README.md lists every page"


def test_what_the_tutorial_says_of_the_code_is_there() -> None:
    """Lines of the log, and the names that a reader is sent to look for."""
    text = PAGES["tutorial.md"]
    head = (ROOT / "kmod/procfs1.c").read_text()
    for line in re.findall(r"^    (procfs1: .*)$", text, re.MULTILINE):
        assert f" *\t{line}\n" in head
    for word, path in ((".proc_lseek", "kmod/procfs1.c"), ("ENOSPC", "kmod/store.h")):
        assert word in text
        assert word in (ROOT / path).read_text()
