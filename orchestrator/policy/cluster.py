"""A run on the workers of a cluster: each kernel is made ready somewhere, then played in shares.

One thread owns all that is known of the run's shares; Dask's threads only put into its queue. A
verdict is handed on together with its evidence, once both are here, and never for a share that a
worker did not play to its end: such a share goes to another worker, and that is counted.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, cast

from orchestrator.adapters.daskcluster import (
    ANY_LAB,
    KVM,
    LAB,
    MEMORY,
    Cluster,
    ClusterError,
    Credentials,
    Key,
    Lost,
    connect,
)
from orchestrator.adapters.evidence import EvidenceError, unpack_evidence
from orchestrator.adapters.parcel import Part, pack_lab, refuse_unsendable
from orchestrator.adapters.sources import source_of
from orchestrator.foundation import process
from orchestrator.foundation.errors import HostError, LabError, UsageError
from orchestrator.plan.chunks import UNKNOWN_SECONDS, split_evenly
from orchestrator.plan.kernel import ResolvedKernel
from orchestrator.plan.outcome import CellResult, KernelResult, Outcome
from orchestrator.plan.plan import Cell, KernelPlan, with_known
from orchestrator.plan.visible import clip, visible
from orchestrator.policy.capacity import GUESTS_PER_SLOT, QEMU_OVERHEAD_MIB, Slots
from orchestrator.policy.durations import Durations
from orchestrator.policy.events import CellDone, Doing, KernelDone, Note
from orchestrator.policy.resuming import join_kernels
from orchestrator.policy.share import (
    Answer,
    LabParcel,
    Prepared,
    Share,
    code_hash,
    lab_inputs,
    open_parcel,
    play_share,
    prepare_kernel,
    topic_of,
)
from orchestrator.policy.venues import Facts, VenueOrder
from orchestrator.policy.worker import INTERRUPTED, Worker

# A share takes about so long, by what its cells took before. What a worker pays for one that has
# the kernel ready is a second: the frozen guest is read, QEMUs start. What is lost with a worker,
# and what the last worker has to itself at the end of a run, is one share.
SHARE_SECONDS = 30.0
MAX_ATTEMPTS = 3
"""How many workers may fail a share, for a fault of theirs, before the last one's word counts."""
POLL_SECONDS = 0.2
LOOK_SECONDS = 5.0
"""How often the scheduler is asked for its workers, where nothing else happens."""
WAIT_SECONDS = 60.0
"""How long there may be no worker that fits."""


@dataclass
class _Kernel:
    """What is known of one kernel of the run."""

    plan: KernelPlan
    judged: Sequence[CellResult]
    future: Future[KernelResult]
    prepared: Key | None = None
    prepare_attempts: int = 0
    is_ready: bool = False
    """Whether it was made ready somewhere, or nothing is to be played on it."""
    result: KernelResult | None = None
    """What its shares came to by now."""
    open_shares: dict[tuple[str | int, ...], Share] = field(default_factory=dict)
    cells: list[CellResult] = field(default_factory=list)
    retried: list[str] = field(default_factory=list)
    hosts: dict[str, None] = field(default_factory=dict)


@dataclass(frozen=True)
class Tasks:
    """What workers call. Others than these are for tests, and for simulations of a cluster."""

    prepare: Callable[..., Prepared] = prepare_kernel
    play: Callable[..., Answer] = play_share


@dataclass(frozen=True)
class Wishes:
    """How a run is to be spread."""

    with_kvm: bool = False
    """Whether workers without KVM are left alone."""
    sandboxed: bool = False
    """Whether workers that lack a wall of the sandbox are left alone."""
    wait_seconds: float = WAIT_SECONDS
    share_seconds: float = SHARE_SECONDS
    tasks: Tasks = Tasks()

    def needs(self, order: VenueOrder) -> dict[str, float]:
        """What cells ask of a worker, as Dask's resources."""
        memory = order.plan.lab.file.guest.memory_mib + QEMU_OVERHEAD_MIB
        needs: dict[str, float] = {LAB: 1, MEMORY: memory}
        return needs | ({KVM: 1} if self.with_kvm else {})


class ClusterVenue:
    """See ``Venue``: the workers of a scheduler of Dask's."""

    def __init__(
        self, address: str, credentials: Credentials | None = None, wishes: Wishes | None = None
    ) -> None:
        self._address = address
        self._credentials = credentials or Credentials()
        self._wishes = wishes or Wishes()

    @contextlib.contextmanager
    def open(self, order: VenueOrder) -> Iterator[ClusterPlaying]:
        """See ``Venue``. Raises ``UsageError`` for a lab that cannot be sent, ``ClusterError``."""
        _refuse_local_kernels(order.plan.kernels)
        parts, parcel = make_parcel(order)
        with connect(self._address, self._credentials) as cluster:
            playing = ClusterPlaying(order, cluster, parts, parcel, self._wishes)
            try:
                playing.start()
                yield playing
            finally:
                playing.end()


def _refuse_local_kernels(kernels: Iterable[KernelPlan]) -> None:
    local = [each.name for each in kernels if not source_of(each.entry).floats(each.entry)]
    if local:
        raise UsageError(
            f"kernels that are files of this machine are not sent to a cluster: "
            f"{visible(', '.join(local))}",
            hint="-k names others; without --cluster this machine plays them",
        )


def make_parcel(order: VenueOrder) -> tuple[tuple[Part, ...], LabParcel]:
    """The lab to be sent, and its description; it was unpacked here once, to see that it is whole.

    Raises ``UsageError`` where it is not.
    """
    lab = order.plan.lab
    parts = pack_lab(lab)
    labels = tuple(part.label for part in parts)
    parcel = LabParcel(lab.path.name, labels, lab_inputs(lab), code_hash())
    try:
        open_parcel(order.cache, parcel, [part.archive for part in parts])
    except LabError as error:
        raise refuse_unsendable(lab, error) from error
    return parts, parcel


class ClusterPlaying:
    """See ``Playing``."""

    def __init__(
        self,
        order: VenueOrder,
        cluster: Cluster,
        parts: Sequence[Part],
        parcel: LabParcel,
        wishes: Wishes,
    ) -> None:
        self._order = order
        self._cluster = cluster
        self._parts = parts
        self._parcel = parcel
        self._needs = wishes.needs(order)
        self._sandboxed = wishes.sandboxed
        self._wait_seconds = wishes.wait_seconds
        self._share_seconds = wishes.share_seconds
        self._tasks = wishes.tasks
        self._run_id = order.run_dir.root.name
        self._durations = order.durations or Durations(order.cache, order.plan.lab.file.lab)
        self._said: queue.SimpleQueue[tuple[str, Any, Any]] = queue.SimpleQueue()
        self._facts: dict[Facts, None] = {}
        self._unfit: dict[str, str] = {}
        """Workers that are not sent anything any more, with the reason."""
        self._present: frozenset[str] = frozenset()
        """The workers that have what is needed, unfit ones too."""
        self._others: tuple[str, ...] = ()
        """What is known of workers that do not, in words."""
        self._placed: dict[tuple[str | int, ...], frozenset[str]] = {}
        """The workers that a call was to be sent to, where not any will do."""
        self._held: list[Callable[[], None]] = []
        """What is to be submitted once there is a worker for it."""
        self._began: dict[tuple[str, int, int], str] = {}
        """The worker that each share was begun on last."""
        self._refs: tuple[object, ...] = ()
        self._fit_at = time.monotonic()
        self._looked_at = 0.0
        self._thread = threading.Thread(target=self._run, name="cluster")
        self._kernels = {
            kernel.name: _Kernel(kernel, order.judged.get(kernel.name, ()), Future())
            for kernel in order.plan.kernels
        }
        self.futures = [kernel.future for kernel in self._kernels.values()]

    def start(self) -> None:
        """Begin. Raises ``ClusterError`` where the scheduler cannot be asked."""
        self._cluster.listen(topic_of(self._run_id), self._hear)
        self._look()
        self._refs = tuple(self._cluster.carry(part.label, part.archive) for part in self._parts)
        self._thread.start()

    def end(self) -> None:
        """Have everything end; blocks until it has."""
        self._said.put(("end", None, None))
        if self._thread.is_alive():
            self._thread.join()
        self._cluster.cancel_all()

    def plans(self) -> Iterable[KernelPlan]:
        """See ``Playing``."""
        return tuple(kernel.plan for kernel in self._kernels.values())

    def facts(self) -> Facts:
        """See ``Playing``."""
        known = tuple(each for each in self._facts if each.accelerator) or tuple(self._facts)
        words = [
            ", ".join(dict.fromkeys(word for each in known if (word := getattr(each, name))))
            for name in ("accelerator", "accelerator_reason", "qemu_version", "sandbox")
        ]
        nothing = Facts()
        return Facts(
            words[0] or nothing.accelerator, words[1] or nothing.accelerator_reason, *words[2:]
        )

    # --- the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            for kernel in self._kernels.values():
                self._begin(kernel)
            while any(not kernel.future.done() for kernel in self._kernels.values()):
                if not self._step():
                    return
        except BaseException as error:  # it must not leave the run waiting
            self._fail(error)

    def _step(self) -> bool:
        """Take what was said, if anything was, and look around; whether to go on."""
        kind, what, answer = "", cast("Any", None), cast("Any", None)
        with contextlib.suppress(queue.Empty):
            kind, what, answer = self._said.get(timeout=POLL_SECONDS)
        if kind == "end" or process.stopping():
            self._give_up(process.stopping())
            return False
        if kind == "told":
            self._take_told(what)
        elif kind == "prepared":
            self._take_prepared(what, answer)
        elif kind == "answer":
            self._take_answer(what, answer)
        self._look()
        return True

    def _hear(self, message: Mapping[str, Any]) -> None:
        self._said.put(("told", dict(message), None))

    def _fail(self, error: BaseException) -> None:
        for kernel in self._kernels.values():
            if not kernel.future.done():
                kernel.future.set_exception(error)

    def _give_up(self, is_interrupted: bool) -> None:
        """What is not judged is not any more."""
        self._cluster.cancel_all()
        for kernel in self._kernels.values():
            if kernel.future.done():
                continue
            if is_interrupted:
                self._give(kernel, self._unjudged(kernel), Outcome.SKIPPED, INTERRUPTED)
            self._finish(kernel)

    def _look(self) -> None:
        """See which workers there are, and whether any is of use. Raises ``ClusterError``."""
        self._require_scheduler()
        if time.monotonic() - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = time.monotonic()
        present, others = [], []
        for each in self._cluster.workers():
            if lacking := self._lacking(each.resources):
                others.append(f"{each.address}: {lacking}")
            else:
                present.append(each.address)
        self._present, self._others = frozenset(present), tuple(others)
        if self._present - self._unfit.keys():
            self._fit_at = time.monotonic()
        elif time.monotonic() - self._fit_at > self._wait_seconds:
            raise self._nobody()
        self._send_anew()
        held, self._held = self._held, []
        for submit in held:
            submit()

    def _lacking(self, resources: Mapping[str, float]) -> str:
        """What a worker lacks of what is needed, in words; nothing where it has all."""
        for name, needed in self._needs.items():
            if resources.get(name, 0) >= needed:
                continue
            if name == LAB:
                labs = ", ".join(each for each in resources if each.startswith(ANY_LAB))
                return f"it has {labs or 'no lab'}, needed is {LAB}"
            return f"it has {name} {resources.get(name, 0):g}, needed is {needed:g}"
        return ""

    def _nobody(self) -> ClusterError:
        unfit = (f"{address}: {reason}" for address, reason in self._unfit.items())
        told = "".join(f"\n  {clip(visible(each), 300)}" for each in (*self._others, *unfit))
        return ClusterError(
            f"no worker of {visible(self._cluster.address)} could play this lab, for "
            f"{self._wait_seconds:g} s{told or ': there is none'}",
            hint="`lab worker ADDRESS` brings one, of the same lab; what was judged is kept: "
            "`lab run --resume latest`",
        )

    def _note_unfit(self, name: str, address: str, reason: str) -> None:
        if address not in self._unfit:
            self._unfit[address] = reason
            self._order.post(Note(name, f"worker {address} is not used any more: {reason}"))

    def _allowed(self, without: str = "") -> frozenset[str] | None:
        """The workers to choose from; None where any that fits will do.

        Dask asks for those that are wanted, not for those that are not.
        """
        if not self._unfit and not without:
            return None
        others = self._present - self._unfit.keys()
        return others - {without} or others

    def _submit_to(
        self,
        key: tuple[str | int, ...],
        without: str,
        submit: Callable[[tuple[str, ...]], None],
    ) -> None:
        """Submit a call to workers that may have it, once there is one."""
        allowed = self._allowed(without)
        if allowed is None:
            submit(())
        elif allowed:
            self._placed[key] = allowed
            submit(tuple(sorted(allowed)))
        else:
            self._held.append(partial(self._submit_to, key, without, submit))

    def _send_anew(self) -> None:
        """Dask waits for ever for workers that were named and are gone: name others."""
        gone = {key for key, named in self._placed.items() if not named & self._present}
        for key in gone:
            del self._placed[key]
        for kernel in self._kernels.values():
            if kernel.prepared and kernel.prepared.key in gone:
                self._cluster.forget(kernel.prepared.key)
                self._prepare(kernel)
            for share in [each for key, each in kernel.open_shares.items() if key in gone]:
                del kernel.open_shares[share.key]
                self._cluster.forget(share.key)
                begun = self._began.get((share.kernel, share.number, share.attempt))
                if begun:
                    what = _counted(len(share.scenarios))
                    self._retry(kernel, what, "its worker was lost", begun)
                self._submit(kernel, replace(share, attempt=share.attempt + 1))

    # --- a kernel --------------------------------------------------------------------------

    def _begin(self, kernel: _Kernel) -> None:
        todo = [cell for cell in kernel.plan.cells if not cell.skip]
        judged = {cell.scenario for cell in kernel.judged}
        done = all(cell.scenario.name in judged for cell in todo)
        if kernel.plan.left_out or (kernel.plan.known and done):
            self._settle_here(kernel)
            return
        self._prepare(kernel)

    def _settle_here(self, kernel: _Kernel) -> None:
        """Of a kernel of which nothing is to be played, this machine knows all."""
        order = self._order
        worker = Worker(
            *(order.plan.lab, kernel.plan, order.cache, order.run_dir, order.post, Slots(1)),
            today=order.today,
            judged=kernel.judged,
        )
        kernel.is_ready = True
        kernel.future.set_result(worker.run())

    def _share(self, kernel: _Kernel, number: int, cells: Sequence[Cell]) -> Share:
        known = kernel.plan.known
        return Share(
            self._run_id,
            kernel.plan.name,
            number,
            tuple(cell.scenario.name for cell in cells),
            self._order.today,
            self._parcel,
            known.model_dump_json() if known else "",
            sandboxed=self._sandboxed,
        )

    def _prepare(self, kernel: _Kernel, without: str = "") -> None:
        attempt = kernel.prepare_attempts
        share = replace(self._share(kernel, -1, kernel.plan.cells), attempt=attempt)
        key = ("lab-prepare", self._run_id, kernel.plan.name, attempt)
        kernel.prepare_attempts += 1
        kernel.prepared = Key(key)
        self._order.post(Doing(kernel.plan.name, "waiting for a worker"))

        def submit(workers: tuple[str, ...]) -> None:
            self._cluster.submit(
                key,
                self._tasks.prepare,
                share,
                *self._refs,
                resources=self._needs,
                workers=workers,
                done=lambda answer: self._said.put(("prepared", share, answer)),
            )

        self._submit_to(key, without, submit)

    def _take_prepared(self, share: Share, answer: Prepared | Lost) -> None:
        kernel = self._kernels[share.kernel]
        if kernel.future.done() or share.attempt + 1 != kernel.prepare_attempts:
            return
        assert kernel.prepared is not None, "it is what was answered"
        self._placed.pop(kernel.prepared.key, None)
        if isinstance(answer, Prepared) and not answer.refusal:
            if answer.known and kernel.plan.known is None:
                known = ResolvedKernel.model_validate_json(answer.known)
                kernel.plan = with_known(kernel.plan, known)
            self._play(kernel, answer.worker)
            return
        worker = self._began.get((share.kernel, share.number, share.attempt), "")
        reason = answer.reason if isinstance(answer, Lost) else answer.refusal
        self._require_scheduler()
        if isinstance(answer, Prepared):
            self._note_unfit(share.kernel, answer.worker, reason)
        elif kernel.prepare_attempts >= MAX_ATTEMPTS or answer.by_workers:
            self._break(kernel, f"it could not be got ready on any worker: {reason}")
            return
        self._retry(kernel, "its preparation", reason, worker)
        self._prepare(kernel, worker)

    def _require_scheduler(self) -> None:
        """Raise ``ClusterError`` where all is lost because the scheduler is."""
        if not self._cluster.alive:
            raise self._cluster.gone()

    def _play(self, kernel: _Kernel, worker: str) -> None:
        """Send a kernel's shares: to the ``worker`` that has it ready while others have kernels
        of their own to make ready, and to whoever has nothing else to do at the end of the run.

        Dask would have idle workers steal at any time: it takes what a share depends on for what
        moving it costs, and that is a few bytes here and a kernel's boot there.
        """
        kernel.is_ready = True
        waiting = sum(not each.is_ready for each in self._kernels.values())
        only = worker if waiting >= len(self._present - self._unfit.keys()) else ""
        judged = {cell.scenario for cell in kernel.judged}
        cells = [cell for cell in kernel.plan.cells if cell.scenario.name not in judged]
        skipped = [cell for cell in cells if cell.skip]
        todo = [cell for cell in cells if not cell.skip]
        seconds = partial(self._seconds, kernel.plan.name)
        # Where it is not known what kernel it is, one worker says what is wrong, once.
        most = self._share_seconds if kernel.plan.known else float("inf")
        chunks = [list(chunk) for chunk in split_evenly(todo, seconds, most)] or [[]]
        chunks[0] += skipped
        for number, chunk in enumerate(chunks):
            self._submit(kernel, self._share(kernel, number, chunk), only=only)

    def _seconds(self, kernel: str, cell: Cell) -> float:
        """What a cell takes of a share: it is watched for a while, but beside others."""
        known = self._durations.seconds_of(kernel, cell.scenario.name)
        if known is None:
            return UNKNOWN_SECONDS
        return known + self._order.plan.lab.file.settle / GUESTS_PER_SLOT

    def _submit(self, kernel: _Kernel, share: Share, without: str = "", *, only: str = "") -> None:
        kernel.open_shares[share.key] = share
        prepared = kernel.prepared
        assert prepared is not None, "it was made ready first"

        def submit(workers: tuple[str, ...]) -> None:
            self._cluster.submit(
                share.key,
                self._tasks.play,
                share,
                prepared,
                *self._refs,
                resources=self._needs,
                workers=workers,
                priority=1,  # what is ready is played before another kernel is made ready
                done=lambda answer: self._said.put(("answer", share, answer)),
            )

        if only and only not in self._unfit:
            self._placed[share.key] = frozenset({only})
            submit((only,))
        else:
            self._submit_to(share.key, without, submit)

    # --- answers ---------------------------------------------------------------------------

    def _take_told(self, message: Mapping[str, Any]) -> None:
        kernel = self._kernels.get(str(message.get("kernel")))
        if kernel is None:
            return
        name, text = kernel.plan.name, str(message.get("text", ""))
        match message.get("kind"):
            case "doing":
                self._order.post(Doing(name, text))
            case "note":
                self._order.post(Note(name, text))
            case "began":
                self._take_began(kernel, message)

    def _take_began(self, kernel: _Kernel, message: Mapping[str, Any]) -> None:
        """What is begun again was lost with its worker; Dask gave it to another."""
        number, attempt = message.get("number"), message.get("attempt")
        if not isinstance(number, int) or not isinstance(attempt, int):
            return
        name, worker = kernel.plan.name, str(message.get("worker"))
        before = self._began.get((name, number, attempt), worker)
        self._began[name, number, attempt] = worker
        if before == worker:
            return
        share = kernel.open_shares.get(("lab-play", self._run_id, name, number, attempt))
        if share is not None:
            self._retry(kernel, _counted(len(share.scenarios)), "its worker was lost", before)
        elif number < 0:
            self._retry(kernel, "its preparation", "its worker was lost", before)

    def _retry(self, kernel: _Kernel, what: str, reason: str, worker: str) -> None:
        """Count what is played once more for no fault of the lab."""
        where = f" (worker {worker})" if worker else ""
        text = f"{what} once more elsewhere: {clip(visible(reason), 200)}{where}"
        kernel.retried.append(visible(text))
        self._order.post(Note(kernel.plan.name, text))

    def _take_answer(self, share: Share, answer: Answer | Lost) -> None:
        kernel = self._kernels[share.kernel]
        if kernel.open_shares.pop(share.key, None) is None or kernel.future.done():
            return
        self._placed.pop(share.key, None)
        self._cluster.forget(share.key)
        if isinstance(answer, Lost):
            self._require_scheduler()
            self._take_lost(kernel, share, answer)
            return
        if not answer.refusal:
            self._take_result(kernel, share, answer)
            return
        if answer.is_unfit:
            self._note_unfit(share.kernel, answer.worker, answer.refusal)
        elif share.attempt + 1 >= MAX_ATTEMPTS or self._allowed(answer.worker) == frozenset(
            {answer.worker}
        ):
            # There is nobody else to ask: it is as it would be at home.
            if answer.kernel is not None:
                self._take_result(kernel, share, answer)
            else:
                self._give_error(kernel, share.scenarios, answer.refusal)
            return
        self._retry(kernel, _counted(len(share.scenarios)), answer.refusal, answer.worker)
        self._submit(kernel, replace(share, attempt=share.attempt + 1), answer.worker)

    def _take_lost(self, kernel: _Kernel, share: Share, lost: Lost) -> None:
        if lost.by_workers or share.attempt + 1 >= MAX_ATTEMPTS:
            self._give_error(kernel, share.scenarios, lost.reason)
            return
        self._retry(kernel, _counted(len(share.scenarios)), lost.reason, "")
        self._submit(kernel, replace(share, attempt=share.attempt + 1))

    def _take_result(self, kernel: _Kernel, share: Share, answer: Answer) -> None:
        result = answer.kernel
        assert result is not None, "an answer without one is a refusal"
        aside = f"share-{share.number}"
        target = self._order.run_dir.kernel(kernel.plan.name)
        try:
            unpack_evidence(answer.evidence, target, partial(_placed, share.number, aside))
        except EvidenceError as error:
            self._take_lost(kernel, share, Lost(error.message, by_workers=False))
            return
        except HostError as error:
            self._fail(error)  # this machine's disk: the whole run ends, as it does at home
            return
        kernel.hosts[visible(answer.host)] = None
        facts = Facts(
            answer.accelerator, answer.accelerator_reason, answer.qemu_version, answer.sandbox
        )
        self._facts[facts] = None
        if share.number and result.evidence:
            inner = Path(result.evidence).relative_to(kernel.plan.name)
            result = replace(result, evidence=str(Path(kernel.plan.name, aside, inner)))
        before = kernel.result
        kernel.result = _join_shares(before, result) if before else result
        wanted = set(share.scenarios)
        for cell in result.cells:
            if cell.kernel == kernel.plan.name and cell.scenario in wanted:
                wanted.discard(cell.scenario)
                kernel.cells.append(cell)
                self._order.post(CellDone(cell))
        if wanted:  # whatever the worker is, the run must come to an end
            self._give_error(kernel, wanted, "one did not say what became of it")
        else:
            self._finish_if_done(kernel)

    def _give_error(self, kernel: _Kernel, names: Collection[str], reason: str) -> None:
        cells = [cell for cell in kernel.plan.cells if cell.scenario.name in names]
        self._give(kernel, cells, Outcome.ERROR, f"no worker could play it: {reason}")
        self._finish_if_done(kernel)

    def _break(self, kernel: _Kernel, reason: str) -> None:
        kernel.is_ready = True
        self._give(kernel, self._unjudged(kernel), Outcome.ERROR, reason)
        kernel.result = replace(kernel.result or KernelResult(kernel.plan.name, None), error=reason)
        self._finish(kernel)

    def _give(self, kernel: _Kernel, cells: Iterable[Cell], outcome: Outcome, reason: str) -> None:
        for cell in cells:
            what, why = (Outcome.SKIPPED, cell.skip) if cell.skip else (outcome, reason)
            result = CellResult(kernel.plan.name, cell.scenario.name, what, why)
            kernel.cells.append(result)
            self._order.post(CellDone(result))

    def _unjudged(self, kernel: _Kernel) -> list[Cell]:
        judged = {cell.scenario for cell in (*kernel.judged, *kernel.cells)}
        return [cell for cell in kernel.plan.cells if cell.scenario.name not in judged]

    def _finish_if_done(self, kernel: _Kernel) -> None:
        if not kernel.open_shares and not self._unjudged(kernel):
            self._finish(kernel)

    def _finish(self, kernel: _Kernel) -> None:
        order = {cell.scenario.name: number for number, cell in enumerate(kernel.plan.cells)}
        cells = sorted((*kernel.judged, *kernel.cells), key=lambda each: order[each.scenario])
        result = replace(
            kernel.result or KernelResult(kernel.plan.name, None),
            cells=tuple(cells),
            retried=tuple(kernel.retried),
            hosts=tuple(kernel.hosts),
        )
        if kernel.prepared is not None:
            self._cluster.forget(kernel.prepared.key)
        self._order.post(KernelDone(result))
        kernel.future.set_result(result)


def _placed(number: int, aside: str, name: PurePosixPath) -> PurePosixPath:
    """Where a file of evidence goes in the kernel's folder: what several shares have, as the
    console of a boot, is the first one's there, and the others' in a folder of their own.
    """
    return name if not number or name.parts[0] == "scenarios" else PurePosixPath(aside, name)


def _join_shares(before: KernelResult, now: KernelResult) -> KernelResult:
    joined = join_kernels(before, now)
    broken = now if now.error else before
    return replace(
        joined,
        error=broken.error,
        hint=broken.hint,
        evidence=broken.evidence,
        last_lines=broken.last_lines,
        build_note=before.build_note or now.build_note,
        fork_note=before.fork_note or now.fork_note,
        boot_note=before.boot_note or now.boot_note,
        was_frozen=before.was_frozen and now.was_frozen,
    )


def _counted(number: int) -> str:
    return f"{number} scenario{'s' if number != 1 else ''}"
