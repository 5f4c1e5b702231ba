"""The cache: whole entries or none, whoever else is at it and whatever goes wrong."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.adapters import cache as cache_module
from orchestrator.adapters.cache import (
    Cache,
    default_cache_dir,
    disk_error,
    hash_of,
    remove_tree,
    sha256_of,
    watch_room,
    write_json,
)
from orchestrator.foundation import process
from orchestrator.foundation.errors import HostError, RunInterruptedError

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_leaks")]

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cache]:
    monkeypatch.setattr(cache_module, "LOCK_POLL_SECONDS", 0.02)
    cache = Cache(tmp_path / "cache")
    yield cache
    cache.close()


def fill(folder: Path) -> None:
    (folder / "file").write_text("whole")


def left_over(cache: Cache) -> list[str]:
    """Everything in the cache that is neither an entry nor a lock."""
    return [
        str(path.relative_to(cache.root))
        for path in cache.root.rglob("*")
        if path.name.startswith(".")
    ]


# --- entries ---------------------------------------------------------------------------------


def test_an_entry_is_made_once_and_found_then(cache: Cache) -> None:
    calls = []

    def make(folder: Path) -> None:
        calls.append(folder)
        assert list(folder.iterdir()) == []
        fill(folder)

    assert cache.find("kind", "key") is None
    path = cache.ensure("kind", "key", make)
    assert path == cache.root / "kind" / "key" == cache.find("kind", "key")
    assert (path / "file").read_text() == "whole"
    assert cache.ensure("kind", "key", make) == path
    assert len(calls) == 1
    assert calls[0] != path
    assert left_over(cache) == []


def test_an_entry_that_failed_does_not_appear_and_can_be_made_later(cache: Cache) -> None:
    def fail(folder: Path) -> None:
        fill(folder)
        raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        cache.ensure("kind", "key", fail)
    assert cache.find("kind", "key") is None
    assert left_over(cache) == []
    assert (cache.ensure("kind", "key", fill) / "file").exists()


def test_an_interrupted_entry_does_not_appear(cache: Cache) -> None:
    def interrupt(folder: Path) -> None:
        fill(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.ensure("kind", "key", interrupt)
    assert cache.find("kind", "key") is None
    assert left_over(cache) == []


def test_an_entry_can_be_made_anew(cache: Cache) -> None:
    cache.ensure("kind", "key", fill)

    def make(folder: Path) -> None:
        (folder / "other").write_text("new")

    path = cache.replace("kind", "key", make)
    assert [child.name for child in path.iterdir()] == ["other"]
    assert left_over(cache) == []


def test_making_an_entry_anew_makes_it_where_there_is_none(cache: Cache) -> None:
    assert (cache.replace("kind", "key", fill) / "file").exists()


def test_a_failure_to_make_it_anew_leaves_the_old_one(cache: Cache) -> None:
    path = cache.ensure("kind", "key", fill)

    def fail(folder: Path) -> None:
        (folder / "file").write_text("half")
        raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        cache.replace("kind", "key", fail)
    assert (path / "file").read_text() == "whole"
    assert left_over(cache) == []


def test_a_new_entry_that_cannot_be_put_in_place_leaves_the_old_one(cache: Cache) -> None:
    path = cache.ensure("kind", "key", fill)
    with pytest.raises(HostError):
        cache.replace("kind", "key", remove_tree)  # then there is nothing to put there
    assert (path / "file").read_text() == "whole"
    assert left_over(cache) == []


def test_rubbish_of_a_killed_run_is_swept_away(cache: Cache) -> None:
    for name in (".key.new", ".key.old"):
        (cache.root / "kind" / name).mkdir(parents=True)
        (cache.root / "kind" / name / "rubbish").touch()
    path = cache.ensure("kind", "key", fill)
    assert [child.name for child in path.iterdir()] == ["file"]
    assert left_over(cache) == []


def test_a_file_in_an_entrys_place_is_no_entry(cache: Cache) -> None:
    (cache.root / "kind").mkdir(parents=True)
    (cache.root / "kind" / "key").write_text("in the way")
    assert cache.find("kind", "key") is None


# --- together --------------------------------------------------------------------------------


def test_threads_make_an_entry_once(cache: Cache) -> None:
    calls = []
    found = []
    together = threading.Barrier(8)

    def make(folder: Path) -> None:
        calls.append(1)
        time.sleep(0.1)
        fill(folder)

    def work() -> None:
        together.wait()
        found.append((cache.ensure("kind", "key", make) / "file").read_text())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert found == ["whole"] * 8


def test_another_entry_is_not_waited_for(cache: Cache) -> None:
    made = threading.Event()

    def slow(_: Path) -> None:
        assert made.wait(10)

    thread = threading.Thread(target=cache.ensure, args=("kind", "slow", slow))
    thread.start()
    cache.ensure("kind", "quick", fill)
    cache.ensure("other", "slow", fill)
    made.set()
    thread.join()


def test_a_thread_takes_over_from_one_that_failed(cache: Cache) -> None:
    begun = threading.Event()

    def fail(_: Path) -> None:
        begun.set()
        time.sleep(0.1)
        raise HostError("no luck")

    def first() -> None:
        with pytest.raises(HostError):
            cache.ensure("kind", "key", fail)

    thread = threading.Thread(target=first)
    thread.start()
    assert begun.wait(10)
    assert (cache.ensure("kind", "key", fill) / "file").exists()
    thread.join()


OTHER_RUN = """
import sys, time
from pathlib import Path
from orchestrator.adapters.cache import Cache

root, seconds = Path(sys.argv[1]), float(sys.argv[2])

def make(folder):
    (folder / "half").write_text("half")
    with (root / "calls").open("a") as calls:
        calls.write("made\\n")
    print("making", flush=True)
    time.sleep(seconds)
    (folder / "whole").write_text("whole")

print((Cache(root / "cache").ensure("kind", "key", make) / "whole").read_text(), flush=True)
"""


def other_run(root: Path, seconds: float) -> subprocess.Popen[bytes]:
    argv = (sys.executable, "-c", OTHER_RUN, str(root), str(seconds))
    return subprocess.Popen(argv, stdout=subprocess.PIPE)


def test_processes_make_an_entry_once(tmp_path: Path) -> None:
    runs = [other_run(tmp_path, 0.3) for _ in range(3)]
    outputs = [run.communicate(timeout=30)[0] for run in runs]
    assert (tmp_path / "calls").read_text() == "made\n"
    assert [output.split()[-1] for output in outputs] == [b"whole"] * 3


def test_a_killed_run_leaves_no_lock_and_no_half_entry(cache: Cache) -> None:
    with other_run(cache.root.parent, 60) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"making\n"
        assert cache.find("kind", "key") is None
        run.kill()
    assert cache.find("kind", "key") is None
    started = time.monotonic()
    path = cache.ensure("kind", "key", fill)
    assert time.monotonic() - started < 5
    assert [child.name for child in path.iterdir()] == ["file"]
    assert left_over(cache) == []


def test_the_end_of_the_run_ends_waiting_for_another_run(cache: Cache) -> None:
    with other_run(cache.root.parent, 60) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"making\n"
        threading.Timer(0.2, process.stop_all).start()
        started = time.monotonic()
        with pytest.raises(RunInterruptedError):
            cache.ensure("kind", "key", fill)
        assert time.monotonic() - started < 5
        run.kill()


# --- disks -----------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "small"
    path.mkdir()
    argv = ("mount", "-t", "tmpfs", "-o", "size=64k", "lab-test", str(path))
    if subprocess.run(argv, check=False, capture_output=True).returncode != 0:
        pytest.skip("nothing can be mounted here")
    yield path
    subprocess.run(("umount", "--lazy", str(path)), check=True)


@root_only
def test_a_full_disk_is_told_with_a_hint_and_leaves_nothing(small_disk: Path) -> None:
    cache = Cache(small_disk)

    def make(folder: Path) -> None:
        (folder / "big").write_bytes(b"x" * (1 << 20))

    with pytest.raises(HostError, match="No space left on device") as caught:
        cache.ensure("kind", "key", make)
    assert "LAB_CACHE=" in caught.value.hint
    assert str(small_disk) in caught.value.message
    assert cache.find("kind", "key") is None
    assert left_over(cache) == []
    assert (cache.ensure("kind", "key", fill) / "file").exists()
    cache.close()  # or its file system would be busy


@root_only
def test_json_on_a_full_disk_leaves_the_old_file(small_disk: Path) -> None:
    write_json(small_disk / "a.json", {"old": 1})
    with pytest.raises(HostError, match="No space left on device"):
        write_json(small_disk / "a.json", {"new": "x" * (1 << 20)})
    assert json.loads((small_disk / "a.json").read_text()) == {"old": 1}
    assert [path.name for path in small_disk.iterdir()] == ["a.json"]


@root_only
def test_a_disk_that_fills_up_is_noticed(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "FULL_BYTES", 16 << 10)
    look = watch_room(small_disk)
    look()
    (small_disk / "big").write_bytes(b"x" * (52 << 10))
    with pytest.raises(HostError, match="No space left on device"):
        look()


@root_only
def test_a_read_only_disk_is_told_with_a_hint(small_disk: Path) -> None:
    subprocess.run(("mount", "-o", "remount,ro", str(small_disk)), check=True)
    with pytest.raises(HostError, match="Read-only file system") as caught:
        Cache(small_disk).ensure("kind", "key", fill)
    assert "LAB_CACHE=" in caught.value.hint
    with pytest.raises(HostError, match="Read-only file system"):
        write_json(small_disk / "a.json", {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_closed_folder_is_told_with_a_hint(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(HostError, match="Permission denied") as caught:
        Cache(tmp_path).ensure("kind", "key", fill)
    tmp_path.chmod(0o755)
    assert "LAB_CACHE=" in caught.value.hint


def test_a_cache_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(HostError, match="cache"):
        Cache(tmp_path / "cache").ensure("kind", "key", fill)


@pytest.mark.parametrize(
    ("number", "hinted"),
    [
        (errno.ENOSPC, True),
        (errno.EDQUOT, True),
        (errno.EACCES, True),
        (errno.EROFS, True),
        (errno.EIO, False),
    ],
)
def test_errors_of_a_disk_say_which_file_and_what_helps(number: int, hinted: bool) -> None:
    error = disk_error(OSError(number, os.strerror(number), "/some/file"), Path("/cache"))
    assert error.message == f"/some/file: {os.strerror(number)}"
    assert ("LAB_CACHE=" in error.hint) == hinted


def test_an_error_that_names_no_file_and_no_reason_still_says_something() -> None:
    assert disk_error(OSError("odd"), Path("/cache")).message == "/cache: odd"
    assert "odd" in disk_error(shutil.Error("odd"), Path("/cache")).message


def test_a_watched_folder_need_not_be_there_yet(tmp_path: Path) -> None:
    watch_room(tmp_path / "none")()


# --- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "path"),
    [
        ({"LAB_CACHE": "/c", "XDG_CACHE_HOME": "/x"}, "/c"),
        ({"LAB_CACHE": "~/c"}, "/home/me/c"),
        ({"LAB_CACHE": "", "XDG_CACHE_HOME": "/x"}, "/x/kmod-lab"),
        ({}, "/home/me/.cache/kmod-lab"),
    ],
)
def test_where_the_cache_is(
    env: dict[str, str], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LAB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert default_cache_dir() == Path(path)


def test_a_relative_cache_is_where_the_lab_was_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAB_CACHE", "here")
    assert default_cache_dir() == tmp_path / "here"


def test_keys_are_stable_and_short() -> None:
    """A key that changes without cause throws everybody's cache away."""
    assert hash_of("focal", ["main"], {"b": 1, "a": None}) == "f564488041785fcc"
    assert hash_of({"a": None, "b": 1}) == hash_of({"b": 1, "a": None})


def test_keys_of_different_things_differ() -> None:
    keys = [
        hash_of(),
        hash_of("ab"),
        hash_of("a", "b"),
        hash_of("b", "a"),
        hash_of(["a", "b"]),
        hash_of(b"ab"),
        hash_of(1),
        hash_of("1"),
        hash_of(None),
        hash_of(False),
    ]
    assert len(set(keys)) == len(keys)


def test_the_hash_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of(tmp_path / "file") == digest


# --- files -----------------------------------------------------------------------------------


def test_json_is_written_whole_by_whoever_comes_last(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"

    def work(number: int) -> None:
        for _ in range(50):
            write_json(path, {"who": number, "much": "x" * 10_000})

    failed: list[threading.ExceptHookArgs] = []
    before, threading.excepthook = threading.excepthook, failed.append
    try:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            if path.exists():
                assert len(json.loads(path.read_text())["much"]) == 10_000
        for thread in threads:
            thread.join()
    finally:
        threading.excepthook = before
    assert failed == []
    assert [child.name for child in path.parent.iterdir()] == ["a.json"]


def test_a_tree_is_removed_whatever_its_modes(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "closed" / "inner").mkdir(parents=True)
    (tree / "closed" / "inner" / "file").touch()
    (tree / "link").symlink_to(tmp_path)
    (tree / "closed" / "inner").chmod(0o500)
    (tree / "closed").chmod(0o500)
    remove_tree(tree)
    assert not tree.exists()
    assert tmp_path.exists()
    remove_tree(tree)


def test_a_tree_is_removed_though_somebody_still_writes_there(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    ended = time.monotonic() + 0.5

    def write() -> None:
        number = 0
        with contextlib.suppress(FileNotFoundError):
            while time.monotonic() < ended:
                number += 1
                (tree / f"file-{number}").touch()

    writer = threading.Thread(target=write)
    writer.start()
    remove_tree(tree)
    writer.join()
    assert not tree.exists()


def test_a_tree_that_is_never_left_alone_does_not_hold_up_its_removal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "REMOVE_SECONDS", 0.2)
    tries = []

    def refuse(path: Path, onerror: Callable[..., None]) -> None:
        tries.append(path)
        onerror(os.rmdir, str(path), None)

    monkeypatch.setattr(shutil, "rmtree", refuse)
    (tmp_path / "tree" / "more").mkdir(parents=True)
    remove_tree(tmp_path / "tree")
    assert len(tries) > 1


def test_a_folder_in_the_place_of_a_file_is_told_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    (path / "precious").mkdir(parents=True)
    with pytest.raises(HostError, match=r"a\.json is damaged: a folder") as caught:
        write_json(path, {})
    assert caught.value.hint == f"remove {path}"
    assert [child.name for child in tmp_path.iterdir()] == ["a.json"]
    assert (path / "precious").is_dir()
