"""What workers call in tests in place of playing guests: all of a share but the guests.

The lab is opened as it really is, by its hashes, in the worker's own cache; evidence is packed and
sent. ``STANDIN_GATE`` names a file: until it is there, the worker's cells do not end.
"""

from __future__ import annotations

import os
import socket
import tempfile
import time
from dataclasses import replace
from pathlib import Path, PurePosixPath

from orchestrator.adapters.daskcluster import Site
from orchestrator.adapters.evidence import pack_evidence
from orchestrator.foundation import process
from orchestrator.plan.outcome import CellResult, KernelResult, Outcome
from orchestrator.policy import share as real
from orchestrator.policy.cluster import Tasks
from orchestrator.policy.share import Answer, Prepared, Share

GATE = "STANDIN_GATE"
CODE = "STANDIN_CODE"
"""What the client's code is, as this worker is told."""
FROM = "STANDIN_FROM"
"""The gate is for a kernel's shares from this one on; all if absent."""
REAL = "STANDIN_REAL"
"""Set, nothing is a stand-in."""


def prepare(share: Share, *archives: bytes) -> Prepared:
    with real._at_work(share) as site:
        del archives
        return Prepared(share.known, site.address)


def play(share: Share, prepared: Prepared, *archives: bytes) -> Answer:
    try:
        return _play(share, prepared, *archives)
    except real.UnfitError as error:
        return Answer(Site().address, "", None, refusal=error.message, is_unfit=True)


def _play(share: Share, prepared: Prepared, *archives: bytes) -> Answer:
    if CODE in os.environ:
        parcel = replace(share.parcel, code=os.environ[CODE])
        return real.play_share(replace(share, parcel=parcel), prepared, *archives)
    if REAL in os.environ:
        return real.play_share(share, prepared, *archives)
    with real._at_work(share) as site:
        lab, _ = real._open(share, archives)
        site.tell(share.topic, {"kind": "doing", "kernel": share.kernel, "text": f"at {site.name}"})
        is_gated = GATE in os.environ and share.number >= int(os.environ.get(FROM, "0"))
        while is_gated and not Path(os.environ[GATE]).exists():
            if process.stopping():
                Path(f"{os.environ[GATE]}.ended").touch()
            process.check_stopping()
            time.sleep(0.05)
        plan = real._plan_of(lab, share)
        cells = tuple(
            CellResult(
                plan.name,
                cell.scenario.name,
                Outcome.SKIPPED if cell.skip else Outcome.PASSED,
                cell.skip,
                evidence=Path(plan.name, "scenarios", cell.scenario.name.replace("/", ".")),
            )
            for cell in plan.cells
        )
        with tempfile.TemporaryDirectory() as folder:
            for cell in cells:
                path = Path(folder, "scenarios", cell.scenario.replace("/", "."), "transcript.txt")
                path.parent.mkdir(parents=True)
                path.write_text(f"{cell.scenario} at {site.name}\n")
            Path(folder, "boot-1").mkdir()
            Path(folder, "boot-1", "console.log").write_text(f"share {share.number}\n")
            evidence = pack_evidence(Path(folder), _is_wanted)
        return Answer(
            site.address,
            socket.gethostname(),
            KernelResult(plan.name, None, boots=1, cells=cells),
            evidence,
            accelerator="tcg",
            accelerator_reason="a stand-in",
            qemu_version="none",
        )


def _is_wanted(_: PurePosixPath) -> bool:
    return True


TASKS = Tasks(prepare, play)
