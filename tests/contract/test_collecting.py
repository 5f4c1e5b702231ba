"""Files brought back: the guest's script by this machine's tools, and what the host makes of it."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.plan.model import CollectEntry
from orchestrator.policy import collecting
from orchestrator.policy.collecting import Collected, as_entries, collect_words, keep_collected

UNHURRIED = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150
)


@pytest.fixture
def guest(tmp_path: Path) -> Path:
    """A folder with what a guest may have."""
    root = tmp_path / "guest"
    (root / "logs/deep").mkdir(parents=True)
    (root / "logs/a.log").write_text("A\n")
    (root / "logs/deep/b c.log").write_text("B\n")
    (root / "logs/link").symlink_to("/etc/passwd")
    os.mkfifo(root / "logs/pipe")
    (root / "one.bin").write_bytes(bytes(range(256)))
    (root / "two.bin").write_bytes(b"")
    (root / "named").symlink_to("logs")
    (root / "[odd] name").write_text("odd")
    return root


def bring(tmp_path: Path, *wanted: str | CollectEntry) -> Collected:
    """What is brought back of this machine, by the words that a guest gets."""
    stage = tmp_path / "stage"
    entries = as_entries(wanted)
    words = collect_words(entries, str(stage))
    done = subprocess.run(words, capture_output=True, timeout=60, check=False)
    assert not stage.exists()
    notes = done.stderr.decode().splitlines()
    return keep_collected(done.stdout, entries, tmp_path / "collected", notes)


def test_files_and_folders_come_by_name_and_by_pattern(tmp_path: Path, guest: Path) -> None:
    brought = bring(tmp_path, f"{guest}/logs", f"{guest}/*.bin")
    below = str(guest).lstrip("/")
    assert {artifact.path: artifact.size for artifact in brought.artifacts} == {
        f"{guest}/logs/a.log": 2,
        f"{guest}/logs/deep/b c.log": 2,
        f"{guest}/one.bin": 256,
        f"{guest}/two.bin": 0,
    }
    places = {artifact.path: artifact.file for artifact in brought.artifacts}
    assert places[f"{guest}/logs/deep/b c.log"] == f"collected/{below}/logs/deep/b_c.log"
    for artifact in brought.artifacts:
        place = tmp_path / artifact.file
        assert hashlib.sha256(place.read_bytes()).hexdigest() == artifact.sha256
        assert place.read_bytes() == Path(artifact.path).read_bytes()
    assert (brought.notes, brought.failure) == ((), "")


def test_what_is_named_is_found_through_a_link_and_with_signs_in_it(
    tmp_path: Path, guest: Path
) -> None:
    brought = bring(tmp_path, f"{guest}/named", f"{guest}/[odd] name", f"{guest}/[o]ne.bin")
    assert {Path(artifact.path).name for artifact in brought.artifacts} == {
        *("a.log", "b c.log", "[odd] name", "one.bin")
    }


def test_files_of_proc_come_whole_though_they_claim_no_size(tmp_path: Path) -> None:
    (artifact,) = bring(tmp_path, "/proc/version").artifacts
    assert Path("/proc/version").stat().st_size == 0
    assert (tmp_path / artifact.file).read_text() == Path("/proc/version").read_text()


def test_files_are_for_their_owner_alone(tmp_path: Path, guest: Path) -> None:
    (artifact,) = bring(tmp_path, f"{guest}/one.bin").artifacts
    assert stat.S_IMODE((tmp_path / artifact.file).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "collected").stat().st_mode) == 0o700


def test_what_is_not_there_is_noted_and_missed_where_it_is_required(
    tmp_path: Path, guest: Path
) -> None:
    wanted: list[str | CollectEntry] = [
        f"{guest}/none",
        CollectEntry(path=f"{guest}/x*"),
        f"{guest}/logs/pipe",
    ]
    brought = bring(tmp_path, *wanted)
    assert brought.notes == (
        f"{guest}/none: there was no file",
        f"{guest}/x*: there was no file",
        f"{guest}/logs/pipe: there was no file",
    )
    assert (brought.artifacts, brought.failure) == ((), "")
    assert not (tmp_path / "collected").exists()
    required = CollectEntry(path=f"{guest}/none", required=True)
    failure = bring(tmp_path, required, f"{guest}/one.bin").failure
    assert failure == f"nothing to bring back, and it is required: {guest}/none"


def test_more_than_is_taken_is_cut_and_noted(
    tmp_path: Path, guest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "MAX_BYTES", 100)
    brought = bring(tmp_path, f"{guest}/one.bin", f"{guest}/logs/a.log")
    assert [artifact.size for artifact in brought.artifacts] == [100]
    assert brought.notes[:2] == (
        f"{guest}/one.bin: cut after 100 bytes",
        f"there was more than is brought back: from {guest}/logs/a.log on",
    )
    monkeypatch.setattr(collecting, "MAX_BYTES", 1 << 20)
    monkeypatch.setattr(collecting, "MAX_FILES", 1)
    assert len(bring(tmp_path, f"{guest}/logs").artifacts) == 1


def test_what_cannot_be_read_is_noted(tmp_path: Path) -> None:
    """The memory of the shell itself begins with an address that nothing is at."""
    brought = bring(tmp_path, "/proc/self/mem")
    assert brought.artifacts == ()
    assert brought.notes[0].endswith("Input/output error")


# --- what a guest may send instead -----------------------------------------------------------

WANTED = as_entries(["/a", CollectEntry(path="/b", required=True)])


def archive_of(*members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(data), kind, "/etc/passwd"
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("./1/a", "a"),
        ("1/../../../etc/passwd", "__/__/__/etc/passwd"),
        ("1//etc/shadow", "etc/shadow"),
        ("2/\x1b[2J", "_2J"),
    ],
)
def test_names_lead_nowhere_else(tmp_path: Path, name: str, file: str) -> None:
    brought = keep_collected(archive_of((name, b"x")), WANTED, tmp_path / "in/collected")
    assert files_in(tmp_path) == [f"in/collected/{file}"]
    assert brought.artifacts[0].path.isprintable()


@pytest.mark.parametrize(
    "name", ["a", "0/a", "3/a", "x/a", "-1/a", "1", "²/a", "/1/a", "9" * 99 + "/a"]
)
def test_what_nobody_asked_for_is_left(tmp_path: Path, name: str) -> None:
    brought = keep_collected(archive_of((name, b"x")), WANTED, tmp_path / "collected")
    assert brought.artifacts == ()
    assert brought.failure == "nothing to bring back, and it is required: /b"
    assert files_in(tmp_path) == []


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
)
def test_only_plain_files_are_taken(tmp_path: Path, kind: bytes) -> None:
    archive = archive_of(("1/a", b""), kind=kind)
    assert keep_collected(archive, WANTED, tmp_path / "collected").artifacts == ()
    assert files_in(tmp_path) == []


def test_the_first_of_one_name_counts(tmp_path: Path) -> None:
    archive = archive_of(("1/a", b"first"), ("1/a", b"second"))
    (artifact,) = keep_collected(archive, WANTED, tmp_path / "collected").artifacts
    assert (tmp_path / artifact.file).read_bytes() == b"first"


def test_no_more_files_are_taken_than_were_asked_for(tmp_path: Path) -> None:
    archive = archive_of(*((f"1/{number}", b"") for number in range(1100)))
    assert len(keep_collected(archive, WANTED, tmp_path / "collected").artifacts) == 1000


@pytest.mark.parametrize("size", [0, 100, 700, 1200])
def test_a_damaged_archive_gives_what_it_has(tmp_path: Path, size: int) -> None:
    archive = archive_of(("1/a", b"A" * 500), ("1/b", b"B" * 500))[:size]
    brought = keep_collected(archive, WANTED, tmp_path / "collected")
    assert len(brought.artifacts) == (size == 1200)
    assert size == 1200 or any("archive of files is damaged" in note for note in brought.notes)


GOOD = archive_of(("1/a", b"A" * 600), ("2/b", b"B"))


@UNHURRIED
@given(changes=st.lists(st.tuples(st.integers(0, 2047), st.integers(0, 255)), max_size=8))
def test_a_spoilt_archive_harms_nothing(tmp_path: Path, changes: list[tuple[int, int]]) -> None:
    data = bytearray(GOOD)
    for at, byte in changes:
        data[at] = byte
    brought = keep_collected(bytes(data), WANTED, tmp_path / "in/collected")
    assert [path.name for path in tmp_path.iterdir()] in ([], ["in"])
    assert len(files_in(tmp_path)) == len(brought.artifacts)
    assert all(note.isprintable() for note in brought.notes)
