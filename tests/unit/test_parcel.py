"""A lab that is sent is the same lab where it is opened, and evidence leads nowhere."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path, PurePosixPath

import pytest

from orchestrator.adapters.cache import Cache
from orchestrator.adapters.evidence import EvidenceError, pack_evidence, unpack_evidence
from orchestrator.adapters.parcel import Part, open_lab, pack_lab, safe_path
from orchestrator.adapters.sources import entry_types
from orchestrator.foundation.errors import HostError
from orchestrator.plan.labfile import load_lab
from orchestrator.plan.model import Lab
from orchestrator.policy.share import lab_inputs

LAB = """\
lab: demo
modules:
  hello: src
  deep: {path: "a/b", folder: inner}
kernels:
  "6.1": {image: mine, version: "6.1"}
images: images
scenarios: ["scenarios/*.yaml"]
"""
SCENARIOS = """\
scenarios:
  one:
    steps:
      - exec: tests/run.sh
      - {exec: tests/folder, program: go}
"""
FILES = {
    "lab.yaml": LAB,
    "lab.lock": "format: 1\nimages: {}\nkernels: {}\n",
    "scenarios/all.yaml": SCENARIOS,
    "images/mine.yaml": "release: bookworm\n",
    "src/Kbuild": "obj-m := hello.o\n",
    "src/hello.c": "/* */\n",
    "a/b/inner/Makefile": "obj-m := deep.o\n",
    "a/b/inner/deep.c": "/* */\n",
    "a/b/common.h": "/* */\n",
    "tests/run.sh": "#!/bin/sh\n",
    "tests/folder/go": "#!/bin/sh\n",
    "other/secret": "not of the lab\n",
}


def write_lab(folder: Path) -> Lab:
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if text.startswith("#!") else 0o644)
    return load_lab(folder / "lab.yaml", entry_types())


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return write_lab(tmp_path / "lab")


def files_of(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        str(path.relative_to(folder)): (path.read_text(), path.stat().st_mode & 0o777)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_it_comes_out_as_it_went_in(lab: Lab, tmp_path: Path) -> None:
    opened = open_lab(Cache(tmp_path / "cache"), pack_lab(lab))
    expected = files_of(lab.path.parent)
    del expected["other/secret"]
    assert files_of(opened) == expected
    assert lab_inputs(load_lab(opened / "lab.yaml", entry_types())) == lab_inputs(lab)


def test_parts_are_named_by_what_is_in_them(lab: Lab) -> None:
    before = {part.label for part in pack_lab(lab)}
    assert {part.label for part in pack_lab(lab)} == before
    (lab.path.parent / "src/hello.c").write_text("/* other */\n")
    changed = {part.label for part in pack_lab(lab)} - before
    assert {place for place, _ in changed} == {"src"}


def test_a_part_that_is_not_what_its_hash_says_is_refused(lab: Lab, tmp_path: Path) -> None:
    first, *others = pack_lab(lab)
    damaged = Part(first.place, first.sha256, first.archive[:-1] + b"x")
    cache = Cache(tmp_path / "cache")
    with pytest.raises(HostError, match="not what its hash says"):
        open_lab(cache, (damaged, *others))
    assert not list((cache.root / "labs").glob("[!.]*"))


@pytest.mark.parametrize("name", ["/etc/passwd", "../up", "a/../../up", "a\0b"])
def test_paths_stay_below(name: str) -> None:
    with pytest.raises(HostError, match="leads out of it"):
        safe_path(name)


# --- evidence ------------------------------------------------------------------------------


def archive(*members: tuple[str, bytes, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind == tarfile.REGTYPE:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content.encode()))
            else:
                info.linkname = content
                tar.addfile(info)
    return out.getvalue()


def same(name: PurePosixPath) -> PurePosixPath:
    return name


def test_evidence_goes_there_and_back(tmp_path: Path) -> None:
    folder = tmp_path / "there"
    (folder / "scenarios/a.one").mkdir(parents=True)
    (folder / "scenarios/a.one/kernel.log").write_bytes(b"\xff\0log")
    (folder / "boot-1").mkdir()
    (folder / "boot-1/console.log").write_text("said\n")
    (folder / "boot-1/link").symlink_to("/etc/passwd")
    (folder / ".box").mkdir()
    (folder / ".box/rest").write_text("no\n")
    packed = pack_evidence(folder, lambda name: ".box" not in name.parts)
    unpack_evidence(packed, tmp_path / "here", same)
    found = {str(p.relative_to(tmp_path / "here")) for p in (tmp_path / "here").rglob("*")}
    assert found == {
        "scenarios",
        "scenarios/a.one",
        "scenarios/a.one/kernel.log",
        "boot-1",
        "boot-1/console.log",
    }
    assert (tmp_path / "here/scenarios/a.one/kernel.log").read_bytes() == b"\xff\0log"


@pytest.mark.parametrize(
    "name", ["../out", "/tmp/out", "a/../../out", "a\x1b[31m/b", "/".join("a" * 40)]
)
def test_names_that_lead_elsewhere_are_refused(name: str, tmp_path: Path) -> None:
    target = tmp_path / "run/6.1"
    with pytest.raises(EvidenceError):
        unpack_evidence(archive((name, tarfile.REGTYPE, "x")), target, same)
    assert not (tmp_path / "out").exists()
    assert not target.exists()


def test_a_link_in_an_archive_is_passed_over(tmp_path: Path) -> None:
    target = tmp_path / "run"
    outside = tmp_path / "outside"
    outside.mkdir()
    packed = archive(
        ("way", tarfile.SYMTYPE, str(outside)),
        ("way/file", tarfile.REGTYPE, "x"),
        ("hard", tarfile.LNKTYPE, "/etc/passwd"),
    )
    unpack_evidence(packed, target, same)
    assert not list(outside.iterdir())
    assert (target / "way/file").read_text() == "x"
    assert not (target / "hard").exists()


def test_a_file_that_is_there_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    target, victim = tmp_path / "run", tmp_path / "victim"
    target.mkdir()
    victim.write_text("mine\n")
    (target / "file").symlink_to(victim)
    unpack_evidence(archive(("file", tarfile.REGTYPE, "theirs\n")), target, same)
    assert victim.read_text() == "mine\n"
    assert (target / "file").read_text() == "theirs\n"


def test_damage_is_told_as_damage(tmp_path: Path) -> None:
    whole = archive(("file", tarfile.REGTYPE, "x" * 2000))
    with pytest.raises(EvidenceError, match="damaged"):
        unpack_evidence(whole[:1000], tmp_path / "run", same)
