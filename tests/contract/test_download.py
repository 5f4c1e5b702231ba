"""Downloads from a server that does all that servers do."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.server
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.adapters import cache as cache_module
from orchestrator.adapters.download import MissingError, Patience, download
from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import HostError, RunInterruptedError, SourceError

pytestmark = pytest.mark.timeout(60)

DATA = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(DATA).hexdigest()
QUICK = Patience(tries=3, pause=0.01, longest_pause=0.05, stall=1.0)


class Server:
    """Serves ``DATA`` at every path, each answer spoilt as the next word of ``script`` says."""

    def __init__(self) -> None:
        self.script: list[str] = []
        """One word an answer; the last stays."""
        self.asked: list[str | None] = []
        """The Range of each request."""
        self.data = DATA
        self.etag = '"one"'
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with contextlib.suppress(OSError):
                    server._answer(self)

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.stopping = threading.Event()
        self.url = f"http://127.0.0.1:{self._server.server_port}/linux.tar.xz"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _word(self) -> str:
        if len(self.script) > 1:
            return self.script.pop(0)
        return self.script[0] if self.script else "well"

    def _answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range")
        self.asked.append(asked)
        word = self._word()
        if word.isdigit():
            return request.send_error(int(word))
        if word == "redirect":
            request.send_response(302)
            request.send_header("Location", request.path)
            return request.end_headers()
        if word == "hang-up":
            request.connection.close()
            return None
        data, etag = self.data, self.etag
        if word == "changed":
            data, etag = self.data[::-1], '"two"'
        match = re.fullmatch(r"bytes=(\d+)-", asked or "")
        start = int(match[1]) if match and word != "no-ranges" else 0
        if request.headers.get("If-Range", etag) != etag:
            start = 0
        self._send(request, word, data, start, etag)
        return None

    def _send(
        self,
        request: http.server.BaseHTTPRequestHandler,
        word: str,
        data: bytes,
        start: int,
        etag: str,
    ) -> None:
        shown = start + 1 if word == "wrong-part" and start else start
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {shown}-{len(data) - 1}/{len(data)}")
        request.send_header("ETag", etag)
        if word == "compressed":
            request.send_header("Content-Encoding", "gzip")
        body = data[start:]
        if word == "huge":
            request.send_header("Content-Length", str(1 << 40))
        elif word != "endless":
            request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        self._send_body(request, word, body)

    def _send_body(
        self, request: http.server.BaseHTTPRequestHandler, word: str, body: bytes
    ) -> None:
        if word in ("truncated", "stalls"):
            request.wfile.write(body[: len(body) // 2])
            request.wfile.flush()
            self.stopping.wait(10 if word == "stalls" else 0)
        elif word == "trickles":
            for byte in body:
                request.wfile.write(bytes([byte]))
                request.wfile.flush()
                if self.stopping.wait(0.05):
                    return
        elif word == "lies":
            request.wfile.write(body[:-1] + bytes([body[-1] ^ 1]))
        elif word == "endless":
            while not self.stopping.is_set():
                request.wfile.write(body)
        elif word != "nothing":
            request.wfile.write(body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Server()
    yield made
    made.stop()


def fetch(server: Server, path: Path, *, seconds: float = 30, sha256: str = SHA256) -> bytes:
    deadline = Deadline.after(seconds, "a test's download")
    download(server.url, path, deadline=deadline, max_bytes=8 << 20, sha256=sha256, patience=QUICK)
    return path.read_bytes()


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("script", "requests"),
    [
        (["well"], 1),
        (["truncated", "well"], 2),
        (["truncated", "truncated", "truncated", "truncated", "truncated", "well"], 6),
        (["truncated", "no-ranges"], 2),
        (["truncated", "wrong-part", "well"], 3),
        (["truncated", "416", "well"], 3),
        (["hang-up", "hang-up", "well"], 3),
        (["503", "429", "well"], 3),
        (["nothing", "nothing", "well"], 3),
        (["stalls", "well"], 2),
    ],
)
def test_a_bad_line_is_borne_with(
    server: Server, tmp_path: Path, script: list[str], requests: int
) -> None:
    server.script = list(script)
    assert fetch(server, tmp_path / "x") == DATA
    assert len(server.asked) == requests
    assert left(tmp_path) == ["x"]


def test_how_much_has_come_is_told(server: Server, tmp_path: Path) -> None:
    """Between two pieces, a second apart at least; what is told can end it."""
    server.script = ["trickles"]
    told: list[tuple[int, int | None]] = []

    def tell(done: int, total: int | None) -> None:
        told.append((done, total))
        if len(told) == 2:
            raise SourceError("that is enough")

    with pytest.raises(SourceError, match="that is enough"):
        download(
            *(server.url, tmp_path / "x"),
            deadline=Deadline.after(30, "a test's download"),
            max_bytes=8 << 20,
            patience=QUICK,
            tell=tell,
        )
    (first, first_total), (second, second_total) = told
    assert 0 <= first < second < len(DATA)
    assert first_total == second_total == len(DATA)
    assert left(tmp_path) == []


def test_what_has_come_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    server.script = ["truncated", "well"]
    fetch(server, tmp_path / "x")
    assert server.asked == [None, f"bytes={len(DATA) // 2}-"]


# --- what an earlier call had to leave -----------------------------------------------------


def fetch_kept(server: Server, path: Path, *, sha256: str = SHA256) -> bytes:
    download(
        *(server.url, path),
        deadline=Deadline.after(30, "a test's download"),
        max_bytes=8 << 20,
        sha256=sha256,
        patience=QUICK,
        keep_in=path.parent / "kept",
    )
    return path.read_bytes()


def leave_half(server: Server, path: Path) -> Path:
    """Have a call end mid-way; the part that it left, if it did."""
    server.script = ["truncated", "404"]
    with pytest.raises(MissingError):
        fetch_kept(server, path)
    assert not path.exists()
    server.script, server.asked = ["well"], []
    return path.parent / "kept"


def test_the_next_call_goes_on_from_what_was_left(server: Server, tmp_path: Path) -> None:
    kept = leave_half(server, tmp_path / "x")
    assert len(left(kept)) == 2
    assert fetch_kept(server, tmp_path / "x") == DATA
    assert server.asked == [f"bytes={len(DATA) // 2}-"]
    assert left(kept) == []


def test_what_changed_since_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    kept = leave_half(server, tmp_path / "x")
    server.data, server.etag = DATA[::-1], '"two"'
    changed = hashlib.sha256(DATA[::-1]).hexdigest()
    assert fetch_kept(server, tmp_path / "x", sha256=changed) == DATA[::-1]
    assert server.asked == [f"bytes={len(DATA) // 2}-"]
    assert left(kept) == []


def test_a_part_of_a_file_without_a_version_is_not_left(server: Server, tmp_path: Path) -> None:
    server.etag = ""
    assert left(leave_half(server, tmp_path / "x")) == []
    assert fetch_kept(server, tmp_path / "x") == DATA
    assert server.asked == [None]


def test_a_part_that_is_not_what_was_promised_is_not_gone_on_from_again(
    server: Server, tmp_path: Path
) -> None:
    kept = leave_half(server, tmp_path / "x")
    (part,) = kept.glob(".*.part")
    part.write_bytes(bytes(len(DATA) // 2))
    with pytest.raises(SourceError, match="not what was promised"):
        fetch_kept(server, tmp_path / "x")
    assert left(kept) == []
    assert fetch_kept(server, tmp_path / "x") == DATA


@pytest.mark.parametrize("note", ["", "[]", "{}", '{"url": "http://other/", "validator": "x"}'])
def test_a_part_of_which_nothing_is_known_is_fetched_anew(
    server: Server, tmp_path: Path, note: str
) -> None:
    (about,) = leave_half(server, tmp_path / "x").glob(".*.json")
    about.write_text(note)
    assert fetch_kept(server, tmp_path / "x") == DATA
    assert server.asked == [None]


def test_a_part_that_another_process_is_at_is_left_alone(server: Server, tmp_path: Path) -> None:
    kept = leave_half(server, tmp_path / "x")
    (part,) = kept.glob(".*.part")
    with part.open("rb") as theirs:
        fcntl.flock(theirs, fcntl.LOCK_EX)
        assert fetch_kept(server, tmp_path / "x") == DATA
    assert server.asked == [None]
    assert part.stat().st_size == len(DATA) // 2
    assert left(tmp_path) == ["kept", "x"]


def test_a_file_that_changed_on_the_way_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    server.script = ["truncated", "changed"]
    changed = hashlib.sha256(DATA[::-1]).hexdigest()
    assert fetch(server, tmp_path / "x", sha256=changed) == DATA[::-1]


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (["lies"], "not what was promised"),
        (["404"], "is not there"),
        (["truncated", "404"], "is not there"),
        (["410"], "is not there"),
        (["403"], "403"),
        (["500"], "500 .* 3 times in a row"),
        (["hang-up"], "3 times in a row"),
        (["stalls", "nothing"], "broke off, 3 times in a row; .* bytes had come"),
        (["huge"], "larger than it can be: 1099511627776"),
        (["endless"], "goes on and on"),
        (["compressed"], "compresses"),
        (["redirect"], "from one address to the next"),
    ],
)
def test_what_cannot_be_had_is_said(
    server: Server, tmp_path: Path, script: list[str], says: str
) -> None:
    server.script = list(script)
    (tmp_path / "x").write_text("what was there before")
    with pytest.raises(SourceError, match=says) as caught:
        fetch(server, tmp_path / "x")
    assert "object at 0x" not in caught.value.message
    assert (tmp_path / "x").read_text() == "what was there before"
    assert left(tmp_path) == ["x"]


def test_absence_is_an_error_of_its_own(server: Server, tmp_path: Path) -> None:
    server.script = ["404"]
    with pytest.raises(MissingError):
        fetch(server, tmp_path / "x")


@pytest.mark.parametrize("script", [["trickles"], ["503"]])
def test_the_deadline_holds(server: Server, tmp_path: Path, script: list[str]) -> None:
    server.script = script
    patient = Patience(tries=1000, pause=0.1, stall=1.0)
    started = time.monotonic()
    with pytest.raises(SourceError, match="deadline"):
        download(
            server.url,
            tmp_path / "x",
            deadline=Deadline.after(1.0, "a short one"),
            max_bytes=8 << 20,
            patience=patient,
        )
    assert time.monotonic() - started < 5


def test_a_server_that_is_gone(server: Server, tmp_path: Path) -> None:
    server.stop()
    with pytest.raises(SourceError, match=r"refused, 3 times in a row") as caught:
        fetch(server, tmp_path / "x")
    assert "proxy" in caught.value.hint
    server.stopping.clear()


def test_a_server_that_goes_away_on_the_way(server: Server, tmp_path: Path) -> None:
    server.script = ["truncated", "hang-up"]
    with pytest.raises(SourceError, match="bytes had come"):
        fetch(server, tmp_path / "x")


def test_something_that_speaks_no_http(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = listening.accept()
                    peer.sendall(b"SSH-2.0-nonsense\r\n" * 3)
                    peer.close()

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with pytest.raises(SourceError, match="3 times in a row"):
            download(
                f"http://127.0.0.1:{port}/x",
                tmp_path / "x",
                deadline=Deadline.after(20, "x"),
                max_bytes=100,
                patience=QUICK,
            )
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize("url", ["", "linux.tar.xz", "ftp://127.0.0.1/x", "file:///etc/passwd"])
def test_what_is_no_address(tmp_path: Path, url: str) -> None:
    with pytest.raises(SourceError, match="no address"):
        download(url, tmp_path / "x", deadline=Deadline.after(5, "x"), max_bytes=100)


def test_a_full_disk(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "FULL_BYTES", 1 << 62)
    with pytest.raises(HostError, match="No space left"):
        fetch(server, tmp_path / "x")
    assert left(tmp_path) == []


def test_a_folder_that_is_not_there(server: Server, tmp_path: Path) -> None:
    with pytest.raises(HostError):
        fetch(server, tmp_path / "none/x")


def test_the_end_of_the_run_ends_it(server: Server, tmp_path: Path) -> None:
    server.script = ["trickles"]
    timer = threading.Timer(0.5, process.stop_all)
    timer.start()
    with pytest.raises(RunInterruptedError):
        fetch(server, tmp_path / "x")
    timer.join()
    assert left(tmp_path) == []
