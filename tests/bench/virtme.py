"""virtme-ng (https://github.com/arighi/virtme-ng) from PyPI, on the lab's own kernel.

It is installed in a folder of the bench's, never on the machine. Found with 1.42: it wants the
kernel in ``ROOT/boot`` and its modules in ``ROOT/lib/modules``; it shows what the command prints
only with ``--verbose`` where the guest has no udev, so the kernel's own messages are turned off
again; and its exit status is not the command's.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from orchestrator.adapters.cache import Cache
from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import HostError
from orchestrator.policy.preparing import Ready
from tests.bench.measuring import NotMeasurableError

OLDEST = (1, 42)
INSTALL_SECONDS = 300.0
RUN_SECONDS = 900.0
# Where it looks for virtiofsd, beside PATH (virtme/commands/run.py).
DAEMONS = (
    "/usr/libexec/virtiofsd",
    "/usr/lib/virtiofsd/virtiofsd",
    "/usr/lib/virtiofsd",
    "/usr/lib/qemu/virtiofsd",
)
Way = Literal["virtiofs", "9p"]


def way_into(config: str, daemon: bool) -> Way | None:
    """How a kernel of this configuration can have the machine's own root; None if it cannot.

    Debian's cloud kernels have no 9p, and so need the daemon.
    """
    options = set(re.findall(r"^CONFIG_(\w+)=[ym]$", config, re.MULTILINE))
    if daemon and "VIRTIO_FS" in options:
        return "virtiofs"
    return "9p" if {"NET_9P", "NET_9P_VIRTIO", "9P_FS"} <= options else None


def has_daemon() -> bool:
    """Whether this machine has the virtiofsd that virtme-ng takes: not QEMU's own of 7 and before,
    which names its version otherwise.
    """
    found = shutil.which("virtiofsd")
    for path in (*((found,) if found else ()), *DAEMONS):
        if not os.access(path, os.X_OK) or os.path.isdir(path):
            continue
        done = process.run((path, "--version"), deadline=Deadline.after(10, "virtiofsd"))
        if done.status == 0 and re.match(rb"virtiofsd \d", done.stdout):
            return True
    return False


class Virtme:
    """virtme-ng with one kernel."""

    def __init__(self, folder: Path, cache: Cache, ready: Ready) -> None:
        """``folder`` is kept, and used again; the cache's lock guards it."""
        self._folder = folder
        self._cache = cache
        self._kernel = ready.kernel
        self._busybox_path = ready.image.busybox_path
        self._accelerator = ready.verdict.accelerator
        self._argv: tuple[str, ...] = ()

    def answer(self) -> Mapping[str, float]:
        """The seconds until the answer of ``uname -r`` is on its output.

        It goes on for a while, which is not counted. Raises ``NotMeasurableError`` where it
        cannot be had or does not work here.
        """
        argv = self._argv = self._argv or self._prepare()
        env = {
            **os.environ,
            "PATH": f"{self._venv / 'bin'}:{os.environ.get('PATH', os.defpath)}",
            **{f"XDG_{name}_HOME": str(self._folder / "home") for name in ("CACHE", "CONFIG")},
        }
        started = time.perf_counter()
        child = subprocess.Popen(
            argv,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            answered, said = self._wait_for(child)
        finally:
            _end(child)
        if answered is None:
            end = said[-300:].decode(errors="backslashreplace")
            raise NotMeasurableError(f"virtme-ng did not answer on {self._kernel.release}: {end}")
        return {"virtme": answered - started}

    def _wait_for(self, child: subprocess.Popen[bytes]) -> tuple[float | None, bytes]:
        """When the answer came, and all that was said; waits for the end of what it runs."""
        assert child.stdout is not None, "it is a pipe"
        deadline = Deadline.after(RUN_SECONDS, "virtme-ng")
        wanted = re.compile(rb"^" + re.escape(self._kernel.release.encode()) + rb"\r*$", re.M)
        said, answered = b"", None
        while select.select([child.stdout], [], [], deadline.left)[0]:
            data = os.read(child.stdout.fileno(), 65536)
            if not data:
                break
            said += data
            if answered is None and wanted.search(said):
                answered = time.perf_counter()
        return answered, said

    @property
    def _venv(self) -> Path:
        return self._folder / "venv"

    def _prepare(self) -> tuple[str, ...]:
        config = self._kernel.config_path.read_text(errors="replace")
        way = way_into(config, has_daemon())
        if way is None:
            raise NotMeasurableError(
                f"{self._kernel.release} has no 9p, and there is no virtiofsd (the one in Rust)"
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._cache.lock("bench-virtme"):
            self._install()
            kernel_path = self._unpack()
        return (
            *(str(self._venv / "bin/vng"), "--verbose", "--append", "quiet"),
            *("--append", "loglevel=1", "--run", str(kernel_path), "--cwd", "/"),
            *("--busybox", str(self._busybox_path)),  # a static one; not every machine has it
            *(("--disable-kvm",) if self._accelerator == "tcg" else ()),
            *(("--force-9p",) if way == "9p" else ()),
            *("--", "uname", "-r"),
        )

    def _install(self) -> None:
        vng = self._venv / "bin/vng"
        if not vng.exists():
            wanted = "virtme-ng>=" + ".".join(map(str, OLDEST))
            _run(sys.executable, "-m", "venv", "--clear", str(self._venv))
            _run(str(self._venv / "bin/pip"), "install", "--quiet", wanted)

    def version(self) -> str:
        """What it calls itself; empty where it was not installed."""
        try:
            done = process.run(
                (str(self._venv / "bin/vng"), "--version"),
                deadline=Deadline.after(30, "vng --version"),
            )
        except HostError:
            return ""
        return done.stdout.decode(errors="replace").strip()

    def _unpack(self) -> Path:
        """The kernel and its modules, laid out as in a root file system."""
        release, root = self._kernel.release, self._folder / "kernels" / self._kernel.key
        kernel_path = root / "boot" / f"vmlinuz-{release}"
        if not kernel_path.exists():
            shutil.rmtree(root, ignore_errors=True)
            root.parent.mkdir(exist_ok=True)
            _run(
                *(process.find_tool("unsquashfs"), "-quiet", "-no-progress", "-no-xattrs"),
                *("-d", str(root), str(self._kernel.layer_path), f"usr/lib/modules/{release}"),
            )
            (root / "lib").symlink_to("usr/lib")
            kernel_path.parent.mkdir()
            shutil.copyfile(self._kernel.vmlinuz_path, kernel_path)
        return kernel_path


def _run(*argv: str) -> None:
    """Run something that has to work. Raises ``NotMeasurableError`` with its last line."""
    done = process.run(argv, deadline=Deadline.after(INSTALL_SECONDS, argv[0]))
    if done.status != 0:
        said = (done.last_lines().splitlines() or ["it says nothing"])[-1]
        raise NotMeasurableError(f"{' '.join(argv[:4])}: status {done.status}: {said}")


def _end(child: subprocess.Popen[bytes]) -> None:
    """End it and what it started, and collect it."""
    try:
        child.wait(timeout=5)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    if child.stdout is not None:
        child.stdout.close()
