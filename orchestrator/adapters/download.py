"""Downloads over HTTP that survive a bad line: resumed, bounded, and checked before use."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from orchestrator.adapters.cache import disk_error, hash_of, watch_room, write_json
from orchestrator.adapters.fetching import Tell, tell_nobody
from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import SourceError

if TYPE_CHECKING:
    # Imported where it is used: urllib3 binds a socket when it is, to see whether there is
    # IPv6, and a command that fetches nothing shall touch nothing.
    import requests

CHUNK_BYTES = 1 << 18
WATCH_SECONDS = 1.0
# What a server says when asking once more may help.
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


class MissingError(SourceError):
    """The server has no such file, and says so."""


@dataclass(frozen=True)
class Patience:
    """How long a bad line is borne with."""

    tries: int = 6
    """In a row without a single new byte."""
    pause: float = 1.0
    """Before the second try; doubled for each one after."""
    longest_pause: float = 30.0
    stall: float = 30.0
    """Without a byte, until a connection is given up."""


class _AgainError(Exception):
    """A try failed in a way that another may not."""


class _RestartError(_AgainError):
    """What has come so far belongs to another file, or cannot be gone on from."""


def download(
    url: str,
    path: Path,
    *,
    deadline: Deadline,
    max_bytes: int,
    sha256: str = "",
    patience: Patience | None = None,
    tell: Tell = tell_nobody,
    keep_in: Path | None = None,
) -> Path:
    """Fetch ``url`` to ``path``, whole and as its hash says, or not at all.

    A transfer that breaks off goes on where it was; with ``keep_in``, a folder, also one that an
    earlier call had to leave, if the server names the file's version. Blocks until ``deadline``
    at the longest, and checks it between two reads, each of which may last ``patience.stall``.
    Proxies are taken from the environment. What has come is told once a second; what ``tell``
    raises ends it. Raises ``MissingError`` where the server has no such file, ``SourceError``
    otherwise, ``HostError`` where the disk is full.
    """
    try:
        with _open_part(url, path, keep_in) as part:
            transfer = _Transfer(url, part, deadline, max_bytes, patience or Patience(), tell)
            transfer.run()
            part.is_over = True
            if sha256 and transfer.digest() != sha256.lower():
                raise SourceError(
                    f"{url}: what came is not what was promised: its SHA-256 is "
                    f"{transfer.digest()}, not {sha256.lower()}",
                    hint="a damaged mirror, or a proxy that changes what passes; "
                    "try another mirror",
                )
            part.path.rename(path)
    except OSError as error:
        raise disk_error(error, path) from error
    return path


@dataclass
class _Part:
    """What has come of a file."""

    path: Path
    url: str
    is_kept: bool = False
    """Whether another call may go on from it."""
    validator: str = ""
    """What the server calls this version of the file."""
    is_over: bool = False
    """Whether there is nothing to go on from."""

    @property
    def note_path(self) -> Path:
        """Where it is written down what it is a part of."""
        return self.path.with_suffix(".json")

    def remember(self, validator: str) -> None:
        """Take the validator of the file that comes."""
        if self.is_kept and validator and validator != self.validator:
            write_json(self.note_path, {"url": self.url, "validator": validator})
        self.validator = validator

    def take_up(self) -> None:
        """Go on from what an earlier call left, or begin anew."""
        if self.is_kept:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                note = json.loads(self.note_path.read_text())
                if note["url"] == self.url and isinstance(note["validator"], str):
                    self.validator = note["validator"]
        # Without one nobody could tell that the file has changed since.
        if not self.validator:
            self.path.write_bytes(b"")

    def leave(self) -> None:
        """Remove what nobody can go on from."""
        with contextlib.suppress(OSError):
            if not self.is_kept or self.is_over or not self.validator:
                self.path.unlink(missing_ok=True)
                if self.is_kept:
                    self.note_path.unlink(missing_ok=True)


@contextlib.contextmanager
def _open_part(url: str, path: Path, keep_in: Path | None) -> Iterator[_Part]:
    """Where a file is while it comes: beside its place, or where another call finds it again.

    There it is one process's alone; a second one fetches on its own.
    """
    part = _Part(path.with_name(f".{path.name}.part"), url)
    with contextlib.ExitStack() as stack:
        if keep_in is not None:
            keep_in.mkdir(parents=True, exist_ok=True)
            kept = keep_in / f".{hash_of(url)}.part"
            file = stack.enter_context(kept.open("ab"))
            with contextlib.suppress(BlockingIOError, FileNotFoundError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Another process may have finished it, and so moved it away, just before.
                if os.fstat(file.fileno()).st_ino == kept.stat().st_ino:
                    part = _Part(kept, url, is_kept=True)
        stack.callback(part.leave)
        part.take_up()
        yield part


class _Transfer:
    """One file on its way."""

    def __init__(
        self,
        url: str,
        part: _Part,
        deadline: Deadline,
        max_bytes: int,
        patience: Patience,
        tell: Tell,
    ) -> None:
        self._url = url
        self._part = part
        self._path = part.path
        self._deadline = deadline
        self._max_bytes = max_bytes
        self._patience = patience
        self._total: int | None = None
        self._tell = tell
        self._look = watch_room(part.path.parent)
        self._looked = 0.0

    @property
    def _have(self) -> int:
        return self._path.stat().st_size

    def digest(self) -> str:
        with self._path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def run(self) -> None:
        import requests

        failures = 0
        with requests.Session() as session:
            while True:
                before = self._have
                try:
                    self._try(session)
                    return
                except _AgainError as problem:
                    if isinstance(problem, _RestartError):
                        self._path.write_bytes(b"")
                        self._total, self._part.validator = None, ""
                    failures = 1 if self._have > before else failures + 1
                    if failures >= self._patience.tries:
                        raise self._error(f"{problem}, {failures} times in a row") from problem
                    self._pause(failures, problem)

    def _error(self, what: str) -> SourceError:
        got = f"; {self._have} bytes had come" if self._have else ""
        return SourceError(
            f"cannot fetch {self._url}: {what}{got}",
            hint="is the network there, and does it need a proxy (https_proxy)? "
            "what is cached works without",
        )

    def _pause(self, failures: int, problem: Exception) -> None:
        seconds = min(self._patience.pause * 2.0 ** (failures - 1), self._patience.longest_pause)
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            process.check_stopping()
            self._check_deadline(str(problem))
            time.sleep(min(0.2, left))

    def _check_deadline(self, problem: str = "") -> None:
        if self._deadline.passed:
            why = f" ({problem})" if problem else ""
            raise self._error(f"it did not come by its deadline: {self._deadline}{why}")

    def _try(self, session: requests.Session) -> None:
        process.check_stopping()
        self._check_deadline()
        have = self._have
        headers = {"Accept-Encoding": "identity", "User-Agent": "kmod-lab"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if self._part.validator:
                headers["If-Range"] = self._part.validator
        with _in_words():
            seconds = max(0.1, self._deadline.within(self._patience.stall))
            response = session.get(self._url, headers=headers, stream=True, timeout=seconds)
        with contextlib.closing(response):
            self._check_answer(response, have)
            if response.status_code == 200 and have:
                os.truncate(self._path, 0)  # the server gives ranges to nobody, or it changed
            self._remember(response)
            self._receive(response)
        if self._total is not None and self._have < self._total:
            raise _AgainError(f"it broke off at {self._have} of {self._total} bytes")

    def _check_answer(self, response: requests.Response, have: int) -> None:
        status = response.status_code
        if status in _TRY_AGAIN:
            raise _AgainError(f"the server says {status} {response.reason}")
        if status == 416 and have:
            raise _RestartError("the server has less than what has come")
        if status in (404, 410):
            raise MissingError(f"{self._url} is not there: the server says {status}")
        if status not in (200, 206):
            raise self._error(f"the server says {status} {response.reason}")
        if status == 206 and _range_start(response) != have:
            raise _RestartError("the server sent another part than was asked for")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise self._error("the server compresses what it was asked to send as it is")

    def _remember(self, response: requests.Response) -> None:
        """What the answer says of the whole file."""
        validator = response.headers.get("ETag", "")
        if not validator or validator.startswith("W/"):
            validator = response.headers.get("Last-Modified", "")
        self._part.remember(validator)
        length = response.headers.get("Content-Length", "")
        total = self._have + int(length) if re.fullmatch(r"[0-9]{1,15}", length) else None
        if total is not None and self._total is not None and total != self._total:
            raise _RestartError("the file's size changed on the way")
        self._total = total
        if total is not None and total > self._max_bytes:
            raise self._too_large(f"{total} bytes")

    def _too_large(self, size: str) -> SourceError:
        return SourceError(
            f"{self._url} is larger than it can be: {size}, and {self._max_bytes} are allowed",
            hint="is that the right file?",
        )

    def _receive(self, response: requests.Response) -> None:
        with self._path.open("ab") as file:
            have = self._have
            while True:
                process.check_stopping()
                self._check_deadline()
                self._watch(have)
                with _in_words():
                    chunk = response.raw.read1(CHUNK_BYTES)
                if not chunk:
                    return
                have += len(chunk)
                if have > self._max_bytes:
                    raise self._too_large("it goes on and on")
                file.write(chunk)

    def _watch(self, have: int) -> None:
        now = time.monotonic()
        if now - self._looked >= WATCH_SECONDS:
            self._looked = now
            self._look()
            self._tell(have, self._total)


def _range_start(response: requests.Response) -> int | None:
    match = re.match(r"bytes (\d{1,15})-", response.headers.get("Content-Range", ""))
    return int(match[1]) if match else None


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    """What the libraries raise, as ``_AgainError`` in plain words; a wrong address at once."""
    import requests
    import urllib3

    try:
        yield
    except (
        requests.exceptions.InvalidURL,
        requests.exceptions.MissingSchema,
        requests.exceptions.InvalidSchema,
    ) as error:
        raise SourceError(f"that is no address of a file on the web: {error}") from error
    except requests.exceptions.TooManyRedirects as error:
        raise SourceError(f"the server sends from one address to the next: {error}") from error
    except requests.exceptions.SSLError as error:
        raise _AgainError(f"the server cannot prove who it is: {_root(error)}") from error
    except requests.exceptions.ProxyError as error:
        raise _AgainError(f"the proxy does not answer: {_root(error)}") from error
    except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError) as error:
        raise _AgainError("the server fell silent") from error
    except (urllib3.exceptions.ProtocolError, requests.exceptions.ChunkedEncodingError) as error:
        raise _AgainError("it broke off") from error
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _AgainError(f"the connection failed: {_root(error)}") from error
    except ConnectionError as error:
        raise _AgainError(f"the connection failed: {error}") from error


def _root(error: BaseException) -> str:
    """The innermost reason, without the libraries' own objects in it."""
    reason: object = error
    while True:
        inner = getattr(reason, "reason", None)
        if inner is None and isinstance(reason, BaseException) and reason.args:
            inner = reason.args[-1] if isinstance(reason.args[-1], BaseException) else None
        if inner is None or inner is reason:
            break
        reason = inner
    text = re.sub(r"<[^>]* object at 0x[0-9a-f]+>:?\s*", "", str(reason))
    return text[:200] or type(reason).__name__


def reach(url: str, deadline: Deadline) -> str:
    """Whether a server answers at ``url``, in a few words, without its address.

    Raises nothing and keeps nothing. A server that refuses this very file answers, too.
    Proxies as for ``download``.
    """
    import requests

    try:
        with _in_words():
            answer = requests.get(url, stream=True, timeout=max(0.1, deadline.left))
            answer.close()
    except (_AgainError, SourceError) as error:
        return f"no: {str(error).replace(urlsplit(url).hostname or url, '…')}"
    return f"yes (HTTP {answer.status_code})"
