"""The cache: what is worth keeping between runs, filled so that a half-made entry never shows.

An entry is a folder ``<kind>/<key>``. It is made under a temporary name, under a lock
that other processes honour, and appears by one rename.
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
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator.foundation import process
from orchestrator.foundation.errors import HostError, SourceError

LOCK_POLL_SECONDS = 0.2
FULL_BYTES = 1 << 20


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

    def require_network(self, what: str) -> None:
        """Raise ``SourceError`` if ``what`` would have to come over a network that is off."""
        if self._offline:
            raise SourceError(
                f"{what} is not in the cache, and --offline forbids the network",
                hint="run once without --offline, or bring it from another machine: `lab import`",
            )

    def find(self, kind: str, key: str) -> Path | None:
        """The entry's folder, if there is a whole one."""
        path = self.root / kind / key
        return path if path.is_dir() else None

    def ensure(self, kind: str, key: str, make: Callable[[Path], None]) -> Path:
        """The entry's folder; ``make`` fills an empty one first where there is none.

        Blocks while another thread or process makes the same entry. If ``make`` raises,
        or the process dies, no entry appears.
        """
        if found := self.find(kind, key):
            return found
        with self.lock(f"{kind}-{key}"):
            if found := self.find(kind, key):
                return found
            return self._make(kind, key, make)

    def replace(self, kind: str, key: str, make: Callable[[Path], None]) -> Path:
        """Like ``ensure``, but make it anew; a failure leaves the old entry as it was."""
        with self.lock(f"{kind}-{key}"):
            return self._make(kind, key, make)

    def _make(self, kind: str, key: str, make: Callable[[Path], None]) -> Path:
        final = self.root / kind / key
        aside = final.with_name(f".{key}.new")
        old = final.with_name(f".{key}.old")
        try:
            remove_tree(aside)
            aside.mkdir(parents=True)
            make(aside)
            remove_tree(old)
            if final.exists():
                final.rename(old)
            aside.rename(final)
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
        with self._guard:
            thread_lock = self._thread_locks.setdefault(name, threading.Lock())
        folder = self.root / "locks"
        with thread_lock:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                fd = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise disk_error(error, folder) from error
            try:
                while not _try_lock(fd):
                    process.check_stopping()
                    time.sleep(LOCK_POLL_SECONDS)
                yield
            finally:
                os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def remove_tree(path: Path) -> None:
    """Remove a folder and all below it, if it is there; folders without write permission too."""

    def retry(function: Callable[..., object], name: str, _: object) -> None:
        parent = os.path.dirname(name)
        with contextlib.suppress(OSError):
            os.chmod(parent, 0o700)
            os.chmod(name, 0o700)
            function(name)

    shutil.rmtree(path, onerror=retry) if path.exists() else None


CACHE_ELSEWHERE = "LAB_CACHE=/some/folder puts the cache elsewhere"


def disk_error(error: OSError, path: Path, elsewhere: str = CACHE_ELSEWHERE) -> HostError:
    """An error of the file system in the user's words; ``elsewhere`` is a way around it."""
    hints = {
        errno.ENOSPC: f"make room there; {elsewhere}",
        errno.EDQUOT: f"your quota there is used up; {elsewhere}",
        errno.EACCES: f"the folder must be writable; {elsewhere}",
        errno.EROFS: f"the file system is read-only; {elsewhere}",
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
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
