"""Clusters for tests: a scheduler and workers as processes of their own, each with its cache."""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
START_SECONDS = 120


@dataclass(frozen=True)
class Papers:
    """Files in PEM: who signs, a certificate, its key."""

    ca: Path
    cert: Path
    key: Path

    @property
    def words(self) -> tuple[str, ...]:
        """As options of the lab."""
        names = ("ca", "cert", "key")
        return tuple(w for n in names for w in (f"--cluster-{n}", str(getattr(self, n))))

    @property
    def dask_words(self) -> tuple[str, ...]:
        """As options of `dask scheduler`."""
        return (
            "--tls-ca-file",
            str(self.ca),
            "--tls-cert",
            str(self.cert),
            "--tls-key",
            str(self.key),
        )


def make_papers(folder: Path, name: str = "lab") -> Papers:
    """A certificate authority of its own, and one certificate that it signed."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.UTC)

    def subject(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def sign(text: str, key: ec.EllipticCurvePrivateKey, by: ec.EllipticCurvePrivateKey) -> bytes:
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject(text))
            .issuer_name(subject("authority"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=key is by, path_length=None), critical=True)
            .sign(by, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)

    authority, own = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    papers = Papers(*(folder / f"{name}-{each}.pem" for each in ("ca", "cert", "key")))
    papers.ca.write_bytes(sign("authority", authority, authority))
    papers.cert.write_bytes(sign("somebody", own, authority))
    papers.key.write_bytes(
        own.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return papers


def free_port() -> int:
    """A port that nobody had a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Machines:
    """Processes, with what each of them says in a file of ``folder``."""

    folder: Path
    papers: Papers | None = None
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    address: str = ""

    def start(
        self, name: str, argv: Sequence[str], env: Mapping[str, str], prefix: Sequence[str] = ()
    ) -> None:
        """Start a process in a session of its own."""
        paths = {"PYTHONPATH": str(REPOSITORY), "LAB_FROZEN_GIB": "0"}
        with self.log(name).open("wb") as output:
            self.processes[name] = subprocess.Popen(
                (*prefix, *argv),
                cwd=self.folder,
                env={**os.environ, **paths, **env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def log(self, name: str) -> Path:
        """What a process said."""
        return self.folder / f"{name}.log"

    def wait_for(self, name: str, text: str) -> None:
        """Wait until a process has said something."""
        end = time.monotonic() + START_SECONDS
        while text not in (said := self.log(name).read_text(errors="replace")):
            assert self.processes[name].poll() is None, said
            assert time.monotonic() < end, f"no {text!r} in:\n{said}"
            time.sleep(0.05)

    def start_scheduler(
        self, host: str = "127.0.0.1", ttl: str = "5 minutes", prefix: Sequence[str] = ()
    ) -> str:
        """A scheduler; its address."""
        port = free_port()
        protocol = "tls" if self.papers else "tcp"
        self.address = f"{protocol}://{host}:{port}"
        papers = self.papers.dask_words if self.papers else ()
        argv = (sys.executable, "-m", "distributed.cli.dask_scheduler", *papers)
        where = (
            "--host",
            f"{protocol}://{host}",
            "--port",
            str(port),
            "--no-dashboard",
            "--no-show",
        )
        env = {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": ttl}
        preload = ("--preload", "orchestrator.policy.share")
        self.start("scheduler", (*argv, *where, *preload), env, prefix)
        self.wait_for("scheduler", "Scheduler at:")
        return self.address

    def start_worker(
        self, name: str, *words: str, env: Mapping[str, str], prefix: Sequence[str] = ()
    ) -> None:
        """A worker of the lab's; back once the scheduler has it."""
        papers = self.papers.words if self.papers else ()
        argv = (sys.executable, "-m", "orchestrator", "worker", self.address, "--name", name)
        self.start(name, (*argv, *papers, *words), env, prefix)
        self.wait_for(name, "Registered to:")

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a process and all that it started in its session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.processes[name].pid, number)


@contextlib.contextmanager
def open_machines(folder: Path, papers: Papers | None = None) -> Iterator[Machines]:
    """Machines that are gone afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    machines = Machines(folder, papers)
    try:
        yield machines
    finally:
        for name in reversed(machines.processes):
            machines.signal(name, signal.SIGKILL)
            machines.processes[name].wait(timeout=30)
