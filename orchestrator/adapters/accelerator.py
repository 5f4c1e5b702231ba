"""Which accelerator works here: found by running a guest, never by looking at ``/dev/kvm``.

A host that is itself a guest can offer a device that opens and still runs no stock
kernel: some die on a model-specific register, some hang in silence.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.adapters.cache import Cache, hash_of, write_json
from orchestrator.adapters.machine import QEMU, BootFiles, probe_boots
from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import LabError, RunInterruptedError
from orchestrator.plan.qemu import Accelerator, Board, GuestSpec

KVM = Path("/dev/kvm")
PROBE_SECONDS = 20.0


@dataclass(frozen=True)
class Verdict:
    """The accelerator to use, and why."""

    accelerator: Accelerator
    reason: str


def qemu_version() -> str:
    """QEMU's version, with its packager's. Raises ``HostError`` if there is none."""
    argv = (process.find_tool(QEMU), "--version")
    done = process.run(argv, deadline=Deadline.after(20, "qemu --version"))
    line = done.stdout.decode(errors="replace").partition("\n")[0]
    return line.removeprefix("QEMU emulator version ").strip()


def without_probing() -> Verdict | None:
    """The answer where the device alone decides: it is absent, or closed to us."""
    if os.environ.get("LAB_ACCEL") == "tcg":
        return Verdict("tcg", "LAB_ACCEL=tcg asks for it")
    if not KVM.exists():
        return Verdict("tcg", f"{KVM} does not exist")
    if not os.access(KVM, os.R_OK | os.W_OK):
        return Verdict("tcg", f"{KVM} is closed to you; `sudo usermod -aG kvm $USER` opens it")
    return None


def cached_verdict(cache: Cache) -> Verdict | None:
    """What the last probe on this host, kernel and QEMU found."""
    try:
        raw = json.loads(_path(cache).read_text())
        accelerator: Accelerator = "kvm" if raw["accelerator"] == "kvm" else "tcg"
        return Verdict(accelerator, str(raw["reason"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def ensure_verdict(cache: Cache, files: BootFiles, board: Board) -> Verdict:
    """Which accelerator to use; boots ``files`` under KVM, once per host, to find out."""
    decided = without_probing()
    if decided is not None:
        return decided
    if known := cached_verdict(cache):  # a cache that can only be read has no locks
        return known
    with cache.lock("accelerator"):
        known = cached_verdict(cache)
        if known is None:
            known = _probe(files, board)
            write_json(_path(cache), asdict(known))
        return known


def _probe(files: BootFiles, board: Board) -> Verdict:
    spec = GuestSpec("kvm", memory_mib=256, cpus=1, network=False, board=board)
    with tempfile.TemporaryDirectory(prefix="lab-probe-") as folder:
        try:
            probe_boots(spec, files, Path(folder), PROBE_SECONDS)
        except RunInterruptedError:
            raise
        except LabError as error:
            said = error.message.splitlines()[0]
            return Verdict("tcg", f"{KVM} is there, but a guest under it did not boot: {said}")
    return Verdict("kvm", "a guest booted under it")


def _path(cache: Cache) -> Path:
    release = os.uname().release
    return cache.root / "accelerator" / f"{hash_of(release, qemu_version())}.json"
