"""The cache looked after: what is damaged is found, what goes is what nobody uses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.adapters import cache as cache_module
from orchestrator.adapters.cache import Cache, sha256_of
from orchestrator.adapters.treehash import disk_usage, hash_tree
from orchestrator.adapters.upkeep import Check, State, check, clean, list_entries, prune
from orchestrator.doors import caching
from orchestrator.foundation.errors import UsageError
from orchestrator.plan.pruning import DAY, CacheEntry, PruneOrder, Pruning

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_leaks")]

NOW = 1_800_000_000.0


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cache_module, "LOCK_POLL_SECONDS", 0.02)
    return tmp_path / "cache"


def fill(text: str = "whole") -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "sub").mkdir()
        (folder / "sub/file").write_text(text)
        (folder / "link").symlink_to("sub/file")

    return make


def made(root: Path, kind: str, key: str, *, days: float = 0) -> Path:
    """An entry that nobody uses any more, used last so many days before ``NOW``."""
    path = Cache(root).ensure(kind, key, fill())
    used = NOW - days * DAY
    os.utime(path, (used, used))
    return path


def names(root: Path) -> list[str]:
    return [entry.name for entry in list_entries(Cache(root))]


def check_one(root: Path) -> Check:
    cache = Cache(root)
    (entry,) = list_entries(cache)
    return check(cache, entry)


USER = """
import sys
from pathlib import Path
from orchestrator.adapters.cache import Cache
cache = Cache(Path(sys.argv[1]))
assert cache.ensure(sys.argv[2], sys.argv[3], lambda folder: sys.exit("it is made anew"))
print("in use", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def use_elsewhere(root: Path) -> Iterator[Callable[[str, str], subprocess.Popen[bytes]]]:
    """Starts processes that use an entry until they are killed."""
    users: list[subprocess.Popen[bytes]] = []

    def start(kind: str, key: str) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-c", USER, str(root), kind, key]
        user = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        users.append(user)
        assert user.stdout is not None
        assert user.stdout.readline() == b"in use\n"
        return user

    yield start
    for user in users:
        user.kill()
        user.communicate()


# --- hashes ----------------------------------------------------------------------------------


def test_what_was_made_is_whole_and_its_size_is_known(root: Path) -> None:
    path = made(root, "roots", "a")
    assert check_one(root) == Check(State.WHOLE)
    (entry,) = list_entries(Cache(root))
    assert entry.is_hashed
    assert entry.size == hash_tree(path).disk > 0


def flip(path: Path) -> None:
    (path / "sub/file").write_text("whale")


def cut(path: Path) -> None:
    (path / "sub/file").write_text("w")


def lose(path: Path) -> None:
    (path / "sub/file").unlink()


def add(path: Path) -> None:
    (path / "more").write_text("")


def relink(path: Path) -> None:
    (path / "link").unlink()
    (path / "link").symlink_to("sub/fi1e")


def rename(path: Path) -> None:
    (path / "sub/file").rename(path / "sub/filf")


@pytest.mark.parametrize("damage", [flip, cut, lose, add, relink, rename])
def test_damage_is_found(root: Path, damage: Callable[[Path], None]) -> None:
    damage(made(root, "roots", "a"))
    assert check_one(root).state is State.DAMAGED


def test_a_copy_with_other_times_and_permissions_is_whole(root: Path) -> None:
    path = made(root, "roots", "a")
    os.utime(path / "sub/file", (1, 1))
    (path / "sub/file").chmod(0o600)
    assert check_one(root).state is State.WHOLE


def test_what_its_owner_may_not_read_counts_by_name_and_length(root: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "secret").write_text("12345")
        (folder / "secret").chmod(0)
        (folder / "closed").mkdir(mode=0)

    path = Cache(root).ensure("roots", "a", make)
    assert check_one(root).state is State.WHOLE
    (path / "closed").rmdir()
    assert check_one(root).state is State.DAMAGED


def test_what_an_older_lab_made_is_not_hashed(root: Path) -> None:
    made(root, "roots", "a")
    Cache(root).hash_path("roots", "a").unlink()
    assert check_one(root).state is State.NOT_HASHED


def test_what_changes_in_use_is_not_hashed(root: Path) -> None:
    made(root, "apt", "a")
    assert check_one(root).state is State.NOT_HASHED


@pytest.mark.parametrize(
    ("kind", "about", "file"),
    [
        ("images", "image.json", "image.squashfs"),
        ("kernels", "kernel.json", "vmlinuz"),
        ("modules", "built.json", "some.ko"),
    ],
)
def test_an_older_entry_is_held_to_its_own_hashes(
    root: Path, kind: str, about: str, file: str
) -> None:
    folder = root / kind / "a"
    folder.mkdir(parents=True)
    for name in (file, "config", "layer.squashfs"):
        (folder / name).write_text(name)
    digest, config = sha256_of(folder / file), sha256_of(folder / "config")
    hashes = {"sha256": digest, "vmlinuz_sha256": digest, "config_sha256": config}
    (folder / about).write_text(json.dumps({**hashes, "files": {file: digest}}))
    assert check_one(root).state is State.PARTLY
    (folder / file).write_text("other")
    assert check_one(root) == Check(State.DAMAGED, f"not what it was: {file}")
    (folder / about).write_text("{")
    assert check_one(root) == Check(State.DAMAGED, f"its {about} is damaged")


def test_an_older_kernel_without_its_layer_is_damaged(root: Path) -> None:
    folder = root / "kernels/a"
    folder.mkdir(parents=True)
    for name in ("vmlinuz", "config"):
        (folder / name).write_text("x")
    digest = sha256_of(folder / "config")
    hashes = {"vmlinuz_sha256": digest, "config_sha256": digest}
    (folder / "kernel.json").write_text(json.dumps(hashes))
    assert check_one(root) == Check(State.DAMAGED, f"there is no {folder / 'layer.squashfs'}")


def test_an_entry_made_anew_has_a_new_hash(root: Path) -> None:
    made(root, "roots", "a")
    Cache(root).replace("roots", "a", fill("other"))
    assert check_one(root).state is State.WHOLE


def test_an_entry_that_is_being_made_is_not_judged(root: Path) -> None:
    made(root, "roots", "a")
    with Cache(root).lock("roots-a"):
        assert check_one(root).state is State.BUSY


def test_a_file_with_two_names_takes_its_room_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(1 << 20))
    before = disk_usage(tmp_path)
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    assert disk_usage(tmp_path) == before


def test_verify_names_the_damaged_and_repair_removes_it(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(root, "roots", "a")
    flip(made(root, "roots", "b"))
    assert caching.verify(Cache(root), repair=False) == 3
    output = capsys.readouterr().out
    assert "damaged: roots/b: it has other bytes than when it was made" in output
    assert "1 whole, 1 damaged" in output
    assert caching.verify(Cache(root), repair=True) == 0
    assert names(root) == ["roots/a"]
    assert not Cache(root).hash_path("roots", "b").exists()
    assert caching.verify(Cache(root), repair=False) == 0


# --- what goes -------------------------------------------------------------------------------


def entry(key: str, size: int, days: float) -> CacheEntry:
    return CacheEntry("kind", key, size, NOW - days * DAY)


THREE = (entry("new", 1, 1), entry("old", 2, 30), entry("middle", 4, 10))


@pytest.mark.parametrize(
    ("order", "going"),
    [
        (PruneOrder(), []),
        (PruneOrder(older_than=10 * DAY), ["old"]),
        (PruneOrder(older_than=9 * DAY), ["old", "middle"]),
        (PruneOrder(keep=7), []),
        (PruneOrder(keep=6), ["old"]),
        (PruneOrder(keep=4), ["old", "middle"]),
        (PruneOrder(keep=0), ["old", "middle", "new"]),
        (PruneOrder(older_than=20 * DAY, keep=1), ["old", "middle"]),
    ],
)
def test_what_was_used_longest_ago_goes_first(order: PruneOrder, going: list[str]) -> None:
    pruning = Pruning(THREE, order, NOW)
    found = []
    for each in pruning.oldest_first:
        if pruning.wants(each):
            pruning.gone(each)
            found.append(each.key)
    assert found == going


def prune_all(root: Path) -> list[tuple[str, bool]]:
    cache = Cache(root)
    pruning = Pruning(list_entries(cache), PruneOrder(keep=0), NOW)
    return [(entry.name, is_gone) for entry, is_gone in prune(cache, pruning)]


def test_what_a_running_lab_uses_stays_until_it_is_killed(
    root: Path, use_elsewhere: Callable[[str, str], subprocess.Popen[bytes]]
) -> None:
    for key in ("a", "b"):
        made(root, "roots", key)
    user = use_elsewhere("roots", "a")
    assert dict(prune_all(root)) == {"roots/b": True, "roots/a": False}
    assert names(root) == ["roots/a"]
    user.kill()
    user.wait()
    assert prune_all(root) == [("roots/a", True)]
    assert list(root.glob("roots/*")) == list(root.glob("roots/.*")) == []


def test_what_this_process_uses_stays_and_counts_as_used_now(root: Path) -> None:
    path = made(root, "roots", "a", days=30)
    cache = Cache(root)
    assert cache.use("roots", "a") == path
    assert path.stat().st_mtime > time.time() - 60
    assert prune_all(root) == [("roots/a", False)]
    del cache
    assert prune_all(root) == [("roots/a", True)]


def test_what_is_being_made_anew_stays(root: Path) -> None:
    made(root, "roots", "a")
    with Cache(root).lock("roots-a"):
        assert prune_all(root) == [("roots/a", False)]


def test_looking_is_no_use(root: Path) -> None:
    path = made(root, "roots", "a", days=3)
    before = path.stat().st_mtime
    cache = Cache(root)
    assert cache.find("roots", "a")
    assert check(cache, next(list_entries(cache))).state is State.WHOLE
    assert path.stat().st_mtime == before
    assert prune_all(root) == [("roots/a", True)]


def test_an_entry_that_was_pruned_is_made_anew(root: Path) -> None:
    made(root, "roots", "a")
    prune_all(root)
    assert Cache(root).use("roots", "a") is None
    Cache(root).ensure("roots", "a", fill("again"))
    assert check_one(root).state is State.WHOLE


PRUNER = """
import sys
from pathlib import Path
from orchestrator.adapters.cache import Cache
root = Path(sys.argv[1])
print("ready", flush=True)
while True:
    Cache(root).remove("roots", "a")
"""


def test_an_entry_that_is_in_use_is_never_lost_to_somebody_who_prunes(root: Path) -> None:
    argv = [sys.executable, "-c", PRUNER, str(root)]
    pruner = subprocess.Popen(argv, stdout=subprocess.PIPE)
    try:
        assert pruner.stdout is not None
        pruner.stdout.readline()
        times, end = 0, time.monotonic() + 30
        while times < 10 and time.monotonic() < end:
            cache = Cache(root)
            was_there = cache.find("roots", "a") is not None
            path = cache.ensure("roots", "a", fill())
            for _ in range(20):
                assert (path / "sub/file").read_text() == "whole"
            times += not was_there
            del cache
            os.sched_yield()
        assert times == 10, "it was never pruned"
        assert pruner.poll() is None
    finally:
        pruner.kill()
        pruner.communicate()


# --- leftovers -------------------------------------------------------------------------------


def leave(root: Path, *names: str) -> None:
    for name in names:
        (root / "roots" / name).mkdir(parents=True)
        (root / "roots" / name / "file").write_text("half")


def test_what_killed_processes_left_is_cleaned(root: Path) -> None:
    made(root, "roots", "a")
    leave(root, ".b.new", ".a.old", ".c.gone", ".6.1.0-1-x.new")
    assert len(list(clean(Cache(root), dry_run=True))) == 4
    assert len(list(clean(Cache(root)))) == 4
    assert sorted(path.name for path in (root / "roots").iterdir()) == ["a"]
    assert check_one(root).state is State.WHOLE


def test_what_is_being_made_is_no_leftover(root: Path) -> None:
    cache = Cache(root)

    def make(folder: Path) -> None:
        assert list(clean(Cache(root))) == []
        assert folder.is_dir()

    cache.ensure("roots", "a", make)


def test_an_entry_whose_successor_never_came_is_back(root: Path) -> None:
    leave(root, ".a.old")
    list(clean(Cache(root)))
    assert names(root) == ["roots/a"]


def test_locks_and_hashes_of_what_is_gone_go(root: Path) -> None:
    made(root, "roots", "a")
    made(root, "roots", "b")
    cache = Cache(root)
    cache.remove("roots", "b")
    cache.hash_path("roots", "lost").write_text("{}")
    with cache.lock("held"):
        list(clean(Cache(root)))
        assert sorted(path.name for path in (root / "locks").iterdir()) == ["held", "roots-a"]
    assert [path.name for path in root.glob("hashes/*/*")] == ["a.json"]
    list(clean(cache))
    with cache.lock("held"), Cache(root).try_lock("held") as is_ours:
        assert not is_ours


def test_a_half_written_file_goes_after_a_day(root: Path) -> None:
    (root / "resolved").mkdir(parents=True)
    old, new = root / "resolved/.a.json.0123", root / "resolved/.b.json.0123"
    for path in (old, new):
        path.write_text("{")
    os.utime(old, (NOW - 400 * DAY, NOW - 400 * DAY))
    list(clean(Cache(root)))
    assert (old.exists(), new.exists()) == (False, True)


# --- the command -----------------------------------------------------------------------------


def test_a_dry_run_removes_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(root, "roots", "a", days=9)
    leave(root, ".b.new")
    before = sorted(root.rglob("*"))
    assert caching.prune_by_hand(Cache(root), days=None, gib=0, dry_run=True) == 0
    output = capsys.readouterr().out
    assert "would remove roots/a" in output
    assert "would remove roots/.b.new: left half made" in output
    assert set(before) <= set(root.rglob("*"))
    assert names(root) == ["roots/a"]


def test_without_a_bound_only_leftovers_go(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAB_CACHE_GIB", raising=False)
    made(root, "roots", "a", days=900)
    leave(root, ".b.new")
    caching.prune_by_hand(Cache(root), days=None, gib=None, dry_run=False)
    assert [path.name for path in (root / "roots").iterdir()] == ["a"]


def test_the_bound_of_the_environment_holds_after_a_run(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made(root, "roots", "a")
    made(root, "roots", "b")
    cache = Cache(root)
    cache.use("roots", "b")
    monkeypatch.setenv("LAB_CACHE_GIB", "0")
    caching.keep_bound(cache, caching.cache_bound())
    told = capsys.readouterr()
    assert names(root) == ["roots/b"]
    assert "removed 1 entries of the cache" in told.out
    assert "what runs use is more" in told.err


@pytest.mark.parametrize("text", ["much", "-1", "nan", "inf"])
def test_a_bound_that_is_no_number_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_CACHE_GIB", text)
    with pytest.raises(UsageError, match="is no number"):
        caching.cache_bound()


def test_kinds_are_shown_with_number_and_size(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(root, "roots", "a")
    made(root, "roots", "b")
    (root / "resolved").mkdir()
    (root / "resolved/x.json").write_text("{}")
    leave(root, ".c.new")
    assert caching.show(Cache(root)) == 0
    rows = {line.split()[0]: line.split()[1] for line in capsys.readouterr().out.splitlines()}
    assert rows["roots"] == "2"
    assert rows["resolved"] == "1"
    assert rows["and"] == "1"
    assert "hashes" not in rows
    assert "locks" not in rows
