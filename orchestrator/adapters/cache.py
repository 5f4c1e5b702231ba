"""The cache: what is worth keeping between runs, filled so that a half-made entry never shows.

An entry is a folder ``<kind>/<key>``. It is made under a temporary name, under a lock
that other processes honour, and appears by one rename. Whoever uses an entry has a shared flock
on its folder until the process ends, however it ends: such an entry is not removed. What is in it
is hashed when it was made, in ``hashes/<kind>/<key>.json``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from orchestrator.adapters.treehash import TreeHash, hash_tree
from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import HostError, SourceError
from orchestrator.plan.visible import visible

LOCK_POLL_SECONDS = 0.2
REMOVE_SECONDS = 5.0
FULL_BYTES = 1 << 20
LOCKS = "locks"
HASHES = "hashes"
# An apt is changed in place; what took how long is written anew after each run; and frozen
# guests have hashes of their own, of memory without its holes.
NOT_HASHED = frozenset({"apt", "durations", "frozen"})
NEW, OLD, GONE = ".new", ".old", ".gone"
"""What names end with that are no entries: being made, making place, being removed."""


def default_cache_dir() -> Path:
    """``$LAB_CACHE``, or ``kmod-lab`` in the user's cache folder (XDG)."""
    if chosen := os.environ.get("LAB_CACHE"):
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "kmod-lab"


def hash_of(*parts: object) -> str:
    """A short stable key of JSON-like values and bytes."""
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:16]


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Cache:
    """A folder of entries, shared by every run of this user.

    It is also what knows whether the network may be asked for what is not in it.
    """

    def __init__(self, root: Path, *, offline: bool = False) -> None:
        self.root = root
        self._offline = offline
        self._thread_locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()
        self._held: dict[tuple[str, str], tuple[int, int]] = {}
        """Inode and descriptor of each entry in use."""
        weakref.finalize(self, _close_all, self._held)

    def close(self) -> None:
        """Let go of the entries in use. A process that ends does the same."""
        with self._guard:
            _close_all(self._held)

    def require_network(self, what: str) -> None:
        """Raise ``SourceError`` if ``what`` would have to come over a network that is off."""
        if self._offline:
            raise SourceError(
                f"{what} is not in the cache, and --offline forbids the network",
                hint="run once without --offline, or bring it from another machine: `lab import`",
            )

    def find(self, kind: str, key: str) -> Path | None:
        """The entry's folder, if there is a whole one. It may be removed at any time: ``use``."""
        path = self.root / kind / key
        return path if path.is_dir() else None

    def use(self, kind: str, key: str) -> Path | None:
        """Like ``find``; and the entry counts as used now, and stays until this process ends,
        or this object does.
        """
        path = self.root / kind / key
        try:
            os.utime(path)
            with self._guard:
                return path if self._hold(kind, key, path) else None
        except FileNotFoundError:
            return None
        except OSError:
            return self.find(kind, key)  # a cache that can be read alone, or without locks

    def _hold(self, kind: str, key: str, path: Path) -> bool:
        """Take a shared lock on the folder that has this name; whether there is one."""
        inode, held = self._held.get((kind, key), (0, -1))
        if path.stat().st_ino == inode:
            return True
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            while not _try_lock(fd, fcntl.LOCK_SH):  # whoever has it renames the entry, no more
                process.check_stopping()
                time.sleep(LOCK_POLL_SECONDS)
            inode = os.fstat(fd).st_ino
            if path.stat().st_ino != inode:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        except BaseException:
            os.close(fd)
            raise
        if held >= 0:  # another has been put in its place
            os.close(held)
        self._held[kind, key] = inode, fd
        return True

    def remove(self, kind: str, key: str) -> bool:
        """Remove an entry that nobody uses, and makes; whether it is gone.

        Raises ``HostError``.
        """
        path = self.root / kind / key
        gone = path.with_name(f".{key}{GONE}")
        with self.try_lock(f"{kind}-{key}") as is_ours:
            if not is_ours:
                return False
            try:
                remove_tree(gone)
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    if not _try_lock(fd):
                        return False
                    self.hash_path(kind, key).unlink(missing_ok=True)
                    path.rename(gone)
                finally:
                    os.close(fd)
                remove_tree(gone)
            except FileNotFoundError:
                return True
            except OSError as error:
                raise disk_error(error, path) from error
        return True

    def hash_path(self, kind: str, key: str) -> Path:
        """The file that says what was in an entry when it was made, if there is one."""
        return self.root / HASHES / kind / f"{key}.json"

    def recorded_hash(self, kind: str, key: str) -> TreeHash | None:
        """What was in an entry when it was made; None where nobody wrote that down."""
        try:
            return TreeHash(**json.loads(self.hash_path(kind, key).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def ensure(self, kind: str, key: str, make: Callable[[Path], None]) -> Path:
        """The entry's folder; ``make`` fills an empty one first where there is none.

        Blocks while another thread or process makes the same entry. If ``make`` raises,
        or the process dies, no entry appears.
        """
        if found := self.use(kind, key):
            return found
        with self.lock(f"{kind}-{key}"):
            if found := self.use(kind, key):
                return found
            made = self._make(kind, key, make)
            return self.use(kind, key) or made

    def replace(self, kind: str, key: str, make: Callable[[Path], None]) -> Path:
        """Like ``ensure``, but make it anew; a failure leaves the old entry as it was."""
        with self.lock(f"{kind}-{key}"):
            return self._make(kind, key, make)

    def _make(self, kind: str, key: str, make: Callable[[Path], None]) -> Path:
        final = self.root / kind / key
        aside = final.with_name(f".{key}{NEW}")
        old = final.with_name(f".{key}{OLD}")
        try:
            remove_tree(aside)
            aside.mkdir(parents=True)
            make(aside)
            found = _hash(kind, aside)
            remove_tree(old)
            # A process that is killed in between leaves an entry without a hash, never with
            # another's.
            self.hash_path(kind, key).unlink(missing_ok=True)
            if final.exists():
                final.rename(old)
            aside.rename(final)
            if found is not None:
                with contextlib.suppress(HostError):  # an entry without a hash is one all the same
                    write_json(self.hash_path(kind, key), asdict(found))
        except OSError as error:
            if old.exists() and not final.exists():
                old.rename(final)
            raise disk_error(error, aside) from error
        finally:
            remove_tree(aside)
            remove_tree(old)
        return final

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold the lock ``name`` against other threads and processes.

        The kernel drops it with the process, so a killed run leaves none behind.
        """
        with self._thread_lock(name):
            while (fd := self._open_lock(name)) is None:
                process.check_stopping()
                time.sleep(LOCK_POLL_SECONDS)
            try:
                yield
            finally:
                os.close(fd)

    @contextlib.contextmanager
    def try_lock(self, name: str, *, forget: bool = False) -> Iterator[bool]:
        """Like ``lock``, without waiting: whether nobody else has it. ``forget`` removes its file
        at the end, where it was ours.
        """
        thread_lock = self._thread_lock(name)
        fd: int | None = None
        if thread_lock.acquire(blocking=False):
            try:
                fd = self._open_lock(name)
                yield fd is not None
            finally:
                if fd is not None:
                    if forget:
                        (self.root / LOCKS / name).unlink(missing_ok=True)
                    os.close(fd)
                thread_lock.release()
        else:
            yield False

    def _thread_lock(self, name: str) -> threading.Lock:
        with self._guard:
            return self._thread_locks.setdefault(name, threading.Lock())

    def _open_lock(self, name: str) -> int | None:
        """The lock's descriptor; None where another process has it."""
        path = self.root / LOCKS / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise disk_error(error, path.parent) from error
        # A file that was removed meanwhile locks nobody out.
        if _try_lock(fd) and _is_named(fd, path):
            return fd
        os.close(fd)
        return None


def _hash(kind: str, folder: Path) -> TreeHash | None:
    """What is in a new entry; None where its kind has no hash, or it cannot be read."""
    if kind in NOT_HASHED:
        return None
    with contextlib.suppress(OSError):
        return hash_tree(folder)
    return None


def _is_named(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _try_lock(fd: int, how: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _close_all(held: dict[tuple[str, str], tuple[int, int]]) -> None:
    while held:
        _, (_, fd) = held.popitem()
        os.close(fd)


def remove_tree(path: Path) -> None:
    """Remove a folder and all below it, if it is there; folders without write permission too.

    Blocks for ``REMOVE_SECONDS`` at most where something still writes there: the processes of a
    box that was killed end a moment after it.
    """
    not_empty: list[str] = []

    def retry(function: Callable[..., object], name: str, _: object) -> None:
        parent = os.path.dirname(name)
        with contextlib.suppress(OSError):
            os.chmod(parent, 0o700)
            os.chmod(name, 0o700)
        try:
            function(name)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                not_empty.append(name)

    deadline = Deadline.after(REMOVE_SECONDS, "removing a folder")
    while path.exists():
        not_empty.clear()
        shutil.rmtree(path, onerror=retry)
        if not not_empty or deadline.passed:
            return
        time.sleep(0.05)


REPAIR = "`lab cache verify --repair` removes what is damaged; the next run makes it anew"


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Read what an entry says of itself. Raises ``HostError`` for what is no more what was
    written: a disk, or somebody, changed it.
    """
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        told = error.strerror if isinstance(error, OSError) else str(error)
        raise HostError(f"{folder} is damaged: {visible(str(told))}", hint=REPAIR) from error


CACHE_ELSEWHERE = "LAB_CACHE=/some/folder puts the cache elsewhere"


def disk_error(error: OSError, path: Path, elsewhere: str = CACHE_ELSEWHERE) -> HostError:
    """An error of the file system in the user's words; ``elsewhere`` is a way around it."""
    hints = {
        errno.ENOSPC: f"make room there; {elsewhere}",
        errno.EDQUOT: f"your quota there is used up; {elsewhere}",
        errno.EACCES: f"the folder must be writable; {elsewhere}",
        errno.EROFS: f"the file system is read-only; {elsewhere}",
        errno.EMFILE: "`ulimit -n` says how many a process may open; `ulimit -n 1024` is enough",
    }
    where = error.filename or path
    return HostError(f"{where}: {error.strerror or error}", hint=hints.get(error.errno or 0, ""))


def watch_room(folder: Path) -> Callable[[], None]:
    """Something to call now and then while a tool writes to ``folder``: raises ``HostError``
    once the disk is full.

    apt 2.6 waits for ever on a full disk, and says nothing.
    """

    def look() -> None:
        with contextlib.suppress(FileNotFoundError):
            if shutil.disk_usage(folder).free < FULL_BYTES:
                full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
                raise disk_error(full, folder)

    return look


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all. Raises ``HostError``."""
    # A name of its own: another thread or run may be writing the same file.
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(text)
        aside.rename(path)
    except IsADirectoryError as error:
        raise HostError(
            f"{path} is damaged: a folder is in the place of a file", hint=f"remove {path}"
        ) from error
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
