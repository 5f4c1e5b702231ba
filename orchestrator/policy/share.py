"""A share of a run on a worker of a cluster: a value that is sent there, played, and answered.

What runs here has the worker's cache, the worker's slots, and nothing of the client's but the value
and the parts of the lab that it names. It is judged by the same ``Worker`` as at home.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from orchestrator import __version__
from orchestrator.adapters.accelerator import qemu_version
from orchestrator.adapters.cache import Cache, default_cache_dir, disk_error, hash_of
from orchestrator.adapters.daskcluster import POLL_SECONDS, Site
from orchestrator.adapters.evidence import pack_evidence
from orchestrator.adapters.machine import describe_wall
from orchestrator.adapters.parcel import Part, open_lab
from orchestrator.adapters.sandbox import require_sandbox, sandbox_is_required
from orchestrator.adapters.sources import entry_types
from orchestrator.adapters.treehash import hash_tree
from orchestrator.foundation import process
from orchestrator.foundation.errors import HostError, LabError, SourceError
from orchestrator.plan.kernel import ResolvedKernel
from orchestrator.plan.labfile import load_lab
from orchestrator.plan.lock import load_lock
from orchestrator.plan.model import Lab
from orchestrator.plan.outcome import KernelResult, RunInput
from orchestrator.plan.paths import PACKAGE_DIR, RunDir, shipped_images_dir
from orchestrator.plan.plan import KernelPlan, resolve_plan
from orchestrator.plan.recipes import load_recipe
from orchestrator.policy.capacity import Slots, default_guests, default_jobs
from orchestrator.policy.events import Doing, Event, Note
from orchestrator.policy.preparing import prepare, resolve
from orchestrator.policy.resuming import find_inputs
from orchestrator.policy.worker import Worker

JOBS_VARIABLE = "LAB_WORKER_JOBS"
MAX_TEXT = 500
ENDED = "it was ended before it was done"


@dataclass(frozen=True)
class LabParcel:
    """A lab that was sent: which files, by their hashes, and what they have to come to."""

    file: str
    """The plain name of its ``lab.yaml``."""
    parts: tuple[tuple[str, str], ...]
    """``Part.label`` of each; the bytes come beside it, in this order."""
    inputs: tuple[RunInput, ...]
    """What the client found, without kernels; the worker has to find the same."""
    code: str
    """``code_hash`` of the client."""


@dataclass(frozen=True)
class Share:
    """Cells of one kernel, to be played on one worker."""

    run_id: str
    kernel: str
    number: int
    """Which of the kernel's shares it is, from 0; the first one brings back the kernel's own
    evidence, as its modules.
    """
    scenarios: tuple[str, ...]
    today: datetime.date
    parcel: LabParcel = field(repr=False)
    known: str = ""
    """The exact kernel, as JSON; empty where the worker is to look it up."""
    sandboxed: bool = False
    """Whether a worker has to have each wall of the sandbox that can be required."""
    attempt: int = 0

    @property
    def topic(self) -> str:
        """Where what happens is told meanwhile."""
        return topic_of(self.run_id)

    @property
    def key(self) -> tuple[str | int, ...]:
        """What Dask calls it."""
        return "lab-play", self.run_id, self.kernel, self.number, self.attempt


def topic_of(run_id: str) -> str:
    """Dask's topic for what a run's shares tell."""
    return f"lab-{run_id}"


@dataclass(frozen=True)
class Prepared:
    """A kernel that is ready on a worker."""

    known: str
    """The exact kernel, as JSON; empty where it could not be had."""
    worker: str
    refusal: str = ""
    """Why it is no use on this worker, where another may do."""


@dataclass(frozen=True)
class Answer:
    """What came of a share."""

    worker: str
    host: str
    kernel: KernelResult | None
    """None where there is only a refusal."""
    evidence: bytes = field(default=b"", repr=False)
    refusal: str = ""
    """Why this worker could not play it, for a fault of the machine and not of the lab."""
    is_unfit: bool = False
    """Whether that holds for all that it could be sent."""
    accelerator: str = ""
    accelerator_reason: str = ""
    qemu_version: str = ""
    sandbox: str = ""


class UnfitError(HostError):
    """A worker is of no use for the run: its lab is another one, or it lacks a wall."""


@functools.cache
def code_hash() -> str:
    """What this lab is, whatever version it says it has: a hash of its code, recipes and programs.

    Two labs that differ by a line can come to different verdicts.
    """
    code = {
        str(path.relative_to(PACKAGE_DIR)): path.read_bytes().hex()
        for path in sorted(PACKAGE_DIR.rglob("*.py"))
    }

    return hash_of(code, hash_tree(shipped_images_dir()).sha256)


# --- what Dask calls -----------------------------------------------------------------------


def prepare_kernel(share: Share, *archives: bytes) -> Prepared:
    """Have a kernel ready in this worker's cache: looked up, fetched or built, and unpacked."""
    with _at_work(share) as site:
        try:
            lab, cache = _open(share, archives)
            plan = _plan_of(lab, share)
            tell = functools.partial(_tell, site, share)
            plan = resolve(lab, plan, cache, tell)
            assert plan.known is not None, "resolve gives one"
            prepare(lab, plan, cache, tell, site.scratch)
        except UnfitError as error:
            return Prepared("", site.address, error.message)
        except (LabError, OSError):
            return Prepared(
                share.known, site.address
            )  # the share itself says why, as it would at home
        return Prepared(plan.known.model_dump_json(), site.address)


def play_share(share: Share, prepared: Prepared, *archives: bytes) -> Answer:
    """Play cells; what came of them, with all evidence."""
    del prepared  # that it is here is what it is for; what it knows is in the share
    with _at_work(share) as site:
        host = socket.gethostname()
        try:
            lab, cache = _open(share, archives)
            with tempfile.TemporaryDirectory(prefix="lab-share-", dir=site.scratch) as folder:
                answer = _play(share, lab, cache, Path(folder), site)
        except UnfitError as error:
            return Answer(site.address, host, None, refusal=error.message, is_unfit=True)
        except LabError as error:
            return Answer(site.address, host, None, refusal=error.message)
        except OSError as error:
            message = disk_error(error, site.scratch).message
            return Answer(site.address, host, None, refusal=message)
        if process.stopping():
            return Answer(site.address, host, None, refusal=ENDED)
        return answer


def _play(share: Share, lab: Lab, cache: Cache, folder: Path, site: Site) -> Answer:
    folder.chmod(0o755)  # QEMU runs as another user
    run_dir = RunDir(folder)
    jobs = int(os.environ.get(JOBS_VARIABLE, 0)) or default_jobs(lab.file.guest)
    worker = Worker(
        lab,
        _plan_of(lab, share),
        cache,
        run_dir,
        functools.partial(_tell, site, share),
        Slots(jobs, default_guests(jobs, lab.file.guest)),
        today=share.today,
    )
    kernel = worker.run()
    # Its disk, its tools, its network: another worker may have better ones.
    is_ours = isinstance(worker.failure, HostError | SourceError)
    evidence = pack_evidence(run_dir.kernel(share.kernel), functools.partial(_is_kept, share))
    return Answer(
        worker=site.address,
        host=socket.gethostname(),
        kernel=kernel,
        evidence=evidence,
        refusal=worker.failure.message if worker.failure and is_ours else "",
        accelerator=worker.verdict.accelerator if worker.verdict else "",
        accelerator_reason=worker.verdict.reason if worker.verdict else "",
        qemu_version=qemu_version(),
        sandbox=describe_wall(),
    )


def _is_kept(share: Share, name: PurePosixPath) -> bool:
    """Whether a file goes back: modules are the same from every share."""
    return ".box" not in name.parts and (not share.number or name.parts[0] != "modules")


# --- parts of both -------------------------------------------------------------------------


@contextlib.contextmanager
def _at_work(share: Share) -> Iterator[Site]:
    """The worker, told to be at the share; everything ends once nobody wants it any more."""
    site = Site()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(POLL_SECONDS):
            if not site.wanted:
                process.stop_all()
                return

    told = {"kind": "began", "kernel": share.kernel, "number": share.number}
    site.tell(share.topic, told | {"attempt": share.attempt, "worker": site.address})
    watcher = threading.Thread(target=watch, name="wanted", daemon=True)
    watcher.start()
    try:
        yield site
    finally:
        done.set()
        watcher.join()
        process.allow_again()


def _tell(site: Site, share: Share, event: Event) -> None:
    """Pass on what is worth a line meanwhile; results go with the answer."""
    if isinstance(event, Doing):
        message: Mapping[str, str] = {"kind": "doing", "text": event.what[:MAX_TEXT]}
    elif isinstance(event, Note):
        message = {"kind": "note", "text": event.text[:MAX_TEXT]}
    else:
        return
    site.tell(share.topic, {**message, "kernel": share.kernel})


def _open(share: Share, archives: Sequence[bytes]) -> tuple[Lab, Cache]:
    """The lab that was sent, and this worker's cache.

    Raises ``UnfitError`` where this worker's own lab, or what it makes of what was sent, is
    another than the client's, and where a wall is missing that the client, or whoever started the
    worker, requires.
    """
    if share.parcel.code != code_hash():
        raise UnfitError(f"its lab ({__version__}) is another one than the client's")
    cache = Cache(default_cache_dir())
    if share.sandboxed or sandbox_is_required():
        try:
            require_sandbox(cache)
        except HostError as error:
            raise UnfitError(error.message, hint=error.hint) from error
    return open_parcel(cache, share.parcel, archives), cache


def open_parcel(cache: Cache, parcel: LabParcel, archives: Sequence[bytes]) -> Lab:
    """The lab of a parcel, unpacked into a cache. Raises ``UnfitError`` where it is not the one
    that was packed, ``LabError`` where it is none.
    """
    labels = parcel.parts
    parts = [Part(*label, data) for label, data in zip(labels, archives, strict=True)]
    lab = _load(open_lab(cache, parts) / parcel.file)
    if _inputs(lab) != parcel.inputs:
        raise UnfitError("the lab that was sent is another one when it is unpacked")
    return lab


@functools.lru_cache(maxsize=4)
def _load(path: Path) -> Lab:
    return load_lab(path, entry_types())


@functools.lru_cache(maxsize=4)
def _inputs_at(path: Path) -> tuple[RunInput, ...]:
    return lab_inputs(_load(path))


def _inputs(lab: Lab) -> tuple[RunInput, ...]:
    return _inputs_at(lab.path)


def lab_inputs(lab: Lab) -> tuple[RunInput, ...]:
    """The hashes of all that verdicts depend on, without kernels."""
    return find_inputs(resolve_plan(lab, kernels=(), scenarios=(), recipes={}, known={}, jobs=1))


def _plan_of(lab: Lab, share: Share) -> KernelPlan:
    """What the client planned of the kernel, with the share's cells alone."""
    by_name = {scenario.name: scenario for scenario in lab.scenarios}
    entry = lab.file.kernels[share.kernel]
    known = ResolvedKernel.model_validate_json(share.known) if share.known else None
    plan = resolve_plan(
        lab,
        kernels=(share.kernel,),
        scenarios=[by_name[name] for name in share.scenarios],
        recipes={entry.image: load_recipe(lab, entry.image)},
        known={share.kernel: known} if known else {},
        jobs=1,
        lock=load_lock(lab),
    )
    return plan.kernels[0]
