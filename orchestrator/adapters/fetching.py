"""Several files fetched at a time, and how much of them has come.

Every tool that fetches writes to a folder; so what has come is what lies there.
"""

from __future__ import annotations

import concurrent.futures
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from orchestrator.foundation.errors import RunInterruptedError

# How many files come at a time, for all kernels together: the mirrors are others' machines.
MAX_LINES = 4
TELL_SECONDS = 1.0
_lines = threading.BoundedSemaphore(MAX_LINES)

Wanted = TypeVar("Wanted")


class Tell(Protocol):
    """Is told how many bytes of how many have come; None where their number is not known."""

    def __call__(self, done: int, total: int | None, /) -> None:
        """Take it, from any thread."""


def tell_nobody(done: int, total: int | None, /) -> None:
    """Where nobody wants to know."""


class _GivenUpError(Exception):
    """Another file of the same kind cannot be had, so this one is of no use."""


class Tally:
    """How much has come into a folder, told once a second at most."""

    def __init__(self, folder: Path, total: int, tell: Tell) -> None:
        self._folder = folder
        self._total = total
        self._tell = tell
        self._lock = threading.Lock()
        self._told = float("-inf")

    def look(self) -> None:
        """To be called now and then, from any thread."""
        with self._lock:
            now = time.monotonic()
            if now - self._told < TELL_SECONDS:
                return
            self._told = now
        self._tell(min(size_below(self._folder), self._total), self._total)


def size_below(folder: Path) -> int:
    """How many bytes the files below a folder have, while they come and go."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(path, name)).st_size
            except FileNotFoundError:
                continue
    return total


def fetch_all(
    wanted: Sequence[Wanted], fetch: Callable[[Wanted, Callable[[], None]], Path]
) -> tuple[Path, ...]:
    """Fetch several files at a time, all or none; where each is, in the order of ``wanted``.

    ``fetch`` is given, with one of them, what it has to call every now and then: that raises once
    another file cannot be had. Raises what ``fetch`` raised, for the first that could not be had.
    """
    given_up = threading.Event()

    def check() -> None:
        if given_up.is_set():
            raise _GivenUpError

    def fetch_one(one: Wanted) -> Path:
        try:
            with _lines:
                check()
                return fetch(one, check)
        except BaseException:
            given_up.set()
            raise

    with concurrent.futures.ThreadPoolExecutor(MAX_LINES, "fetching") as pool:
        futures = [pool.submit(fetch_one, one) for one in wanted]
        concurrent.futures.wait(futures)
    errors = [error for future in futures if (error := future.exception()) is not None]
    for kind in (RunInterruptedError, Exception, BaseException):
        for error in errors:
            if isinstance(error, kind) and not isinstance(error, _GivenUpError):
                raise error
    return tuple(future.result() for future in futures)
