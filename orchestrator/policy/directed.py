"""A play whose steps come one by one, from a test that is written in Python.

Everything else is as ever: the kernel is made ready by a ``Worker``, the guest is a fork, and the
verdict is that of ``Play.judge``.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from orchestrator.adapters.cache import Cache
from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import LabError
from orchestrator.plan.model import FindingClass, Lab, Step
from orchestrator.plan.outcome import CellResult, KernelResult, Outcome, StepResult
from orchestrator.plan.paths import RunDir
from orchestrator.plan.plan import KernelPlan
from orchestrator.plan.version import KernelVersion
from orchestrator.policy.capacity import Slots
from orchestrator.policy.events import Event, Note
from orchestrator.policy.play import Play
from orchestrator.policy.worker import INTERRUPTED, Worker

POLL_SECONDS = 0.2


class DirectedPlay(Play):
    """A play that waits for its steps. They are played on the worker's thread, which has the guest.

    A step that fails is told to whoever asked for it, and stops nothing: it is theirs to say
    whether it was meant to.
    """

    def __init__(self, opened: Callable[[DirectedPlay], None], *rest: Any) -> None:
        """``opened`` is told of it once steps can be played; ``rest`` is as in ``Play``."""
        super().__init__(*rest)
        self._opened = opened
        self._orders: queue.SimpleQueue[tuple[Step, Future[StepResult]] | None]
        self._orders = queue.SimpleQueue()
        # However long the test thinks between two steps: each step has a deadline.
        self._deadline = Deadline.after(math.inf, self._deadline.name)

    @property
    def module_names(self) -> tuple[str, ...]:
        """The modules that there are to load."""
        return tuple(sorted(self._guest.modules))

    @property
    def lost(self) -> str:
        """Why the guest can do nothing more, where that is so."""
        return self._course.error or self._course.broken

    def log_lines(self) -> tuple[str, ...]:
        """What the kernel has said since the play began, as the host saw it; not made safe."""
        return tuple(record.text for record in self._records(None))

    def expect_kernel(self, kind: FindingClass) -> None:
        """Want this complaint of the kernel, as ``expect_kernel`` of a scenario does."""
        expected = dict.fromkeys((*self._scenario.expect_kernel, kind))
        self._scenario = self._scenario.model_copy(update={"expect_kernel": tuple(expected)})

    def order(self, step: Step) -> Future[StepResult]:
        """Have a step played; what will have come of it."""
        future: Future[StepResult] = Future()
        self._orders.put((step, future))
        return future

    def end(self) -> None:
        """Have the play go on to its end: no more steps will come."""
        self._orders.put(None)

    def run(self) -> None:
        """Play steps as they come; then as any play ends. Raises ``RunInterruptedError`` alone."""
        if not self._course.given_up:
            self._opened(self)
            while (order := self._orders.get()) is not None:
                self._carry_out(*order)
        self._close()
        self._seconds = time.monotonic() - self._started

    def _carry_out(self, step: Step, future: Future[StepResult]) -> None:
        if self.lost:
            future.set_result(StepResult(0, step.title, Outcome.SKIPPED, reason=self.lost))
            return
        try:
            self._play_step(step)
        except BaseException as error:
            future.set_exception(error)
            raise
        result = self._course.steps[-1]
        if result.outcome is Outcome.FAILED and not self._course.given_up:
            reason = "; ".join(mismatch.message for mismatch in result.mismatches)
            forgiven = replace(result, outcome=Outcome.PASSED, mismatches=(), reason=reason)
            self._course.steps[-1] = forgiven
        future.set_result(result)


class DirectedRun:
    """One cell, made ready and judged by a worker, whose steps come from this end."""

    def __init__(self, lab: Lab, plan: KernelPlan, cache: Cache, run_dir: RunDir) -> None:
        """``plan`` has the one cell."""
        self._plan = plan
        self._run_dir = run_dir
        self._play: DirectedPlay | None = None
        self._news = threading.Event()
        self._done: Future[KernelResult] | None = None
        self.notes: list[str] = []
        """What was noted on the way: modules that did not build, boots that were tried again."""
        self._worker = Worker(
            *(lab, plan, cache, run_dir, self._listen, Slots(1)), new_play=self._new_play
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="directed")

    def begin(self) -> DirectedPlay | None:
        """Get a guest; None where there is none, and ``finish`` says why. Blocks until then."""
        self._done = self._thread.submit(self._worker.run)
        self._done.add_done_callback(lambda _: self._news.set())
        try:
            self._news.wait()
        except BaseException:
            self.give_up()
            raise
        return self._play

    def perform(self, step: Step) -> StepResult:
        """Have a step played, and wait for it. Raises ``LabError`` where no guest is left."""
        assert self._play is not None, "`begin` gave one"
        future = self._play.order(step)
        try:
            return self._wait_for(future)
        except KeyboardInterrupt:
            process.stop_all()  # or its end would wait for the step
            raise

    def _wait_for(self, future: Future[StepResult]) -> StepResult:
        assert self._done is not None, "it has begun"
        while True:
            ended = self._done.done()
            try:
                return future.result(timeout=POLL_SECONDS)
            except TimeoutError:
                if ended:
                    raise LabError("the guest is gone") from None

    def finish(self) -> tuple[KernelResult, CellResult]:
        """End the play; what became of it, and of its kernel. Blocks until it is judged."""
        assert self._done is not None, "it has begun"
        if self._play is not None:
            self._play.end()
        try:
            result = self._done.result()
        except BaseException:
            self.give_up()
            raise
        self._thread.shutdown()
        process.allow_again()
        scenario = self._plan.cells[0].scenario.name
        nothing = CellResult(self._plan.name, scenario, Outcome.SKIPPED, INTERRUPTED)
        return result, next(iter(result.cells), nothing)

    def judge_so_far(self) -> CellResult:
        """What the verdict would be now, with the evidence for it. The play goes on."""
        assert self._play is not None, "`begin` gave one"
        self._play.write_evidence(None)
        scenario = self._plan.cells[0].scenario.name
        folder = self._run_dir.cell(self._plan.name, scenario)
        return self._play.judge(self._plan.name, None, folder.relative_to(self._run_dir.root))

    def give_up(self) -> None:
        """End everything at once, unjudged."""
        process.stop_all()
        if self._play is not None:
            self._play.end()
        self._thread.shutdown()
        process.allow_again()

    def _new_play(self, *arguments: Any) -> Play:
        return DirectedPlay(self._take, *arguments)

    def _take(self, play: DirectedPlay) -> None:
        self._play = play
        self._news.set()

    def _listen(self, event: Event) -> None:
        if isinstance(event, Note):
            self.notes.append(event.text)

    @property
    def version(self) -> KernelVersion:
        """The version of the kernel whose guest this is."""
        return self._worker.version
