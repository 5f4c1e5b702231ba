"""A package archive made on the spot, and a server that can be told to spoil it."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.server
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.contract.openpgp import SigningKey

Fault = Literal["truncate", "lie", "gone", "broken", "cut", "swap"]


@dataclass(frozen=True)
class Deb:
    """A package of the archive; without files only the index knows it."""

    name: str
    version: str = "1"
    depends: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)

    @property
    def file_name(self) -> str:
        return f"pool/{self.name}_{self.version.split(':', 1)[-1]}_amd64.deb"

    @property
    def control(self) -> str:
        depends = f"Depends: {', '.join(self.depends)}\n" if self.depends else ""
        return (
            f"Package: {self.name}\nVersion: {self.version}\nArchitecture: amd64\n"
            f"Maintainer: A Test <test@example.org>\n{depends}"
        )

    def build(self, folder: Path) -> bytes:
        """The package itself, made by dpkg-deb."""
        root = folder / Path(self.file_name).stem
        built = folder / f"{root.name}.deb"
        if built.exists():
            return built.read_bytes()
        for path, text in self.files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
        (root / "DEBIAN").mkdir(parents=True)
        (root / "DEBIAN/control").write_text(f"{self.control}Description: for a test\n")
        argv = ("dpkg-deb", "-Znone", "--root-owner-group", "--build", str(root), str(built))
        subprocess.run(argv, check=True, capture_output=True)
        return built.read_bytes()


class Archive:
    """The files of an archive with one or more suites, by their paths."""

    def __init__(self, folder: Path, key: SigningKey) -> None:
        self.key = key
        self.files: dict[str, bytes] = {}
        self.folder = folder

    def publish(
        self,
        suite: str,
        debs: list[Deb],
        *,
        key: SigningKey | None = None,
        sign: Callable[[bytes], bytes] | None = None,
        below: str = "",
        valid_until: str = "",
    ) -> None:
        """Put a suite's packages and its signed index in place, all ``below`` a folder."""
        packages = "\n".join(self._paragraph(deb, below) for deb in debs).encode()
        dist = f"{below}dists/{suite}"
        index = f"{dist}/main/binary-amd64/Packages"
        members = {index: packages, f"{index}.gz": gzip.compress(packages, mtime=0)}
        self.files |= members
        sums = "".join(
            f" {hashlib.sha256(data).hexdigest()} {len(data)} {name.removeprefix(f'{dist}/')}\n"
            for name, data in members.items()
        )
        until = f"Valid-Until: {valid_until}\n" if valid_until else ""
        release = (
            f"Origin: Test\nLabel: Test\nSuite: {suite}\nCodename: {suite}\n"
            f"Date: {time.strftime('%a, %d %b %Y %H:%M:%S UTC', time.gmtime())}\n{until}"
            f"Architectures: amd64\nComponents: main\nSHA256:\n{sums}"
        ).encode()
        self.files[f"{dist}/Release"] = release
        self.files[f"{dist}/Release.gpg"] = (
            sign(release) if sign else (key or self.key).sign(release)
        )

    def drop(self, path: str) -> None:
        """Take a file out of the pool; what left the index alone stays there."""
        del self.files[path]

    def _paragraph(self, deb: Deb, below: str) -> str:
        data = deb.build(self.folder) if deb.files else deb.file_name.encode()
        self.files[f"{below}{deb.file_name}"] = data
        return (
            f"{deb.control}Filename: {deb.file_name}\nSize: {len(data)}\n"
            f"SHA256: {hashlib.sha256(data).hexdigest()}\nDescription: for a test\n"
        )


class Mirror:
    """Serves an archive on 127.0.0.1; ``faults`` says what happens to which file."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.faults: dict[str, Fault] = {}
        """By the end of a path; ``""`` is every path."""
        self.asked: list[str] = []
        self.together: threading.Barrier | None = None
        """Where set, an answer that is a package waits for as many others as it says."""
        self.slow = ""
        """The end of a path of which half is sent, and the rest when ``go_on`` is set."""
        self.go_on = threading.Event()
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror._answer(self)

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        path = urllib.parse.unquote(request.path.lstrip("/"))
        self.asked.append(path)
        fault = next((fault for end, fault in self.faults.items() if path.endswith(end)), None)
        data = self.archive.files.get(path)
        if self.together is not None and path.endswith(".deb"):
            self.together.wait()
        with contextlib.suppress(OSError):
            if data is None or fault == "gone":
                request.send_error(404)
            elif fault == "broken":
                request.send_error(503)
            elif fault == "cut":
                request.connection.close()
            else:
                self._send(request, data, fault, slow=bool(self.slow) and path.endswith(self.slow))

    def _send(
        self,
        request: http.server.BaseHTTPRequestHandler,
        data: bytes,
        fault: Fault | None,
        *,
        slow: bool,
    ) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if fault == "truncate":
            data = data[: len(data) // 2]
        elif fault == "lie":
            data = data[:-1] + bytes([data[-1] ^ 1])
        if slow:
            request.wfile.write(data[: len(data) // 2])
            request.wfile.flush()
            self.go_on.wait()
            data = data[len(data) // 2 :]
        request.wfile.write(data)


@contextlib.contextmanager
def serve(archive: Archive) -> Iterator[Mirror]:
    """The archive, served while the context is open."""
    mirror = Mirror(archive)
    try:
        yield mirror
    finally:
        mirror.stop()
