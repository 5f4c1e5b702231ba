"""Where the cells of a run are played: ``Venue`` is the seam, ``LocalVenue`` this machine."""

from __future__ import annotations

import contextlib
import datetime
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Protocol

from orchestrator.adapters.accelerator import qemu_version
from orchestrator.adapters.cache import Cache
from orchestrator.adapters.machine import describe_wall
from orchestrator.foundation import process
from orchestrator.plan.outcome import CellResult, KernelResult
from orchestrator.plan.paths import RunDir
from orchestrator.plan.plan import KernelPlan, Plan
from orchestrator.policy.capacity import Slots, default_guests
from orchestrator.policy.durations import Durations
from orchestrator.policy.events import Listener
from orchestrator.policy.worker import Worker


@dataclass(frozen=True)
class VenueOrder:
    """What a run asks of the place where it is played."""

    plan: Plan
    cache: Cache
    run_dir: RunDir
    post: Listener
    """Takes events, on any thread."""
    today: datetime.date
    """Which entries of ``allow`` have expired is judged by it."""
    durations: Durations | None = None
    """Lets the longest cells begin first; the plan's order without it."""
    keep: threading.Event | None = None
    """Holds each kernel's last guest until it is set."""
    judged: Mapping[str, Sequence[CellResult]] = field(default_factory=dict)
    """Cells by kernel that were played before, and are not again."""


@dataclass(frozen=True)
class Facts:
    """With what guests were run, in words: with commas where machines differ."""

    accelerator: str = "none"
    accelerator_reason: str = "no guest was started"
    qemu_version: str = ""
    sandbox: str = ""
    """What stood around QEMU."""


class Playing(Protocol):
    """A plan that is being played."""

    @property
    def futures(self) -> Sequence[Future[KernelResult]]:
        """One for each kernel of the plan. Each gives a result, whatever happens to its cells, or
        raises what keeps the whole run from going on.
        """

    def plans(self) -> Iterable[KernelPlan]:
        """The kernels; each is known in it once it was looked up."""

    def facts(self) -> Facts:
        """What is known by now of the machines."""


class Venue(Protocol):
    """A place where cells are played. It heeds ``process.stopping()``: its futures end then."""

    def open(self, order: VenueOrder) -> AbstractContextManager[Playing]:
        """Begin; the context ends when all futures have. Raises ``LabError`` where it cannot."""


class LocalPlaying:
    """See ``Playing``: a worker on a thread for each kernel."""

    def __init__(self, workers: Sequence[Worker], pool: ThreadPoolExecutor, known: Facts) -> None:
        """``known`` is what can be told before any guest was started."""
        self._workers = workers
        self._known = known
        self.futures = [pool.submit(worker.run) for worker in workers]

    def plans(self) -> Iterable[KernelPlan]:
        """See ``Playing``."""
        return tuple(worker.plan for worker in self._workers)

    def facts(self) -> Facts:
        """See ``Playing``."""
        verdict = next((worker.verdict for worker in self._workers if worker.verdict), None)
        if verdict is None:
            return self._known
        return replace(
            self._known, accelerator=verdict.accelerator, accelerator_reason=verdict.reason
        )


class LocalVenue:
    """See ``Venue``: this machine, which has the kernels at work that its slots allow."""

    @contextlib.contextmanager
    def open(self, order: VenueOrder) -> Iterator[LocalPlaying]:
        """See ``Venue``. Raises ``HostError`` where there is no QEMU."""
        plan = order.plan
        known = Facts(qemu_version=qemu_version(), sandbox=describe_wall())
        slots = Slots(plan.jobs, default_guests(plan.jobs, plan.lab.file.guest))
        workers = [_worker(order, kernel, slots) for kernel in plan.kernels]
        # One more than there are slots: it gets ready while the others' cells are played.
        at_once = min(len(workers), plan.jobs + 1)
        with ThreadPoolExecutor(at_once, thread_name_prefix="kernel") as pool:
            try:
                yield LocalPlaying(workers, pool, known)
            except BaseException:
                process.stop_all()  # or leaving the pool would wait for the other kernels
                raise


def _worker(order: VenueOrder, kernel: KernelPlan, slots: Slots) -> Worker:
    return Worker(
        order.plan.lab,
        kernel,
        order.cache,
        order.run_dir,
        order.post,
        slots,
        durations=order.durations,
        keep=order.keep,
        today=order.today,
        judged=order.judged.get(kernel.name, ()),
    )
