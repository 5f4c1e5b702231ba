"""Playing each cell in a fork of one booted guest: several at a time, none seen by another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from orchestrator.adapters.kbuild import BuiltModule
from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import LabError, RunInterruptedError, ShellError
from orchestrator.plan.outcome import CellResult
from orchestrator.plan.plan import Cell
from orchestrator.policy.capacity import Slots
from orchestrator.policy.events import Doing, Listener
from orchestrator.policy.guest import BootCounter, FrozenGuest, Guest, GuestPlan
from orchestrator.policy.play import Play

# More than there can be guests; each is a thread that waits.
MAX_WATCHERS = 256


@dataclass(frozen=True)
class ForkOrder:
    """What the cells of one kernel are played with."""

    plan: GuestPlan
    frozen: FrozenGuest
    modules: Mapping[str, BuiltModule]
    boots: BootCounter
    new_play: Callable[[Guest, Cell], Play]
    settle: float
    """Seconds for which a guest is watched after its scenario, if that does not say."""


@dataclass(frozen=True)
class _Played:
    """A scenario that is over, in a guest that may still have something to say."""

    play: Play
    guest: Guest
    folder: Path
    settle: float
    is_last: bool


class Forks:
    """Plays cells, each in a guest that nothing was played in before.

    A guest is watched for some seconds after its scenario, while the next ones are played:
    what the kernel complains of then is still that scenario's.
    """

    def __init__(
        self,
        order: ForkOrder,
        slots: Slots,
        listener: Listener,
        done: Callable[[CellResult], None],
        hold: Callable[[Guest], None] | None = None,
    ) -> None:
        """``done`` takes results, on any thread. ``hold`` gets the last cell's guest."""
        self._order = order
        self._frozen = order.frozen
        self._slots = slots
        self._listener = listener
        self._done = done
        self._hold = hold
        self._lock = threading.Lock()
        self._left: list[Cell] = []
        self._watched: list[Future[None]] = []
        self.failure: LabError | None = None
        """Why no more forks are tried, where that is so."""
        self.note = ""
        """What went wrong with one of them, where another did for it."""
        self.count = 0
        """How many cells were played."""

    def play(self, cells: Sequence[Cell]) -> list[Cell]:
        """Play cells; those that could not be, because no guest could be forked any more.

        Raises ``RunInterruptedError``; what was judged before has been told.
        """
        self._left = list(cells)
        lanes = min(self._slots.count, len(cells))
        with ThreadPoolExecutor(MAX_WATCHERS, thread_name_prefix="watch") as watchers:
            with ThreadPoolExecutor(lanes, thread_name_prefix="lane") as pool:
                playing = [pool.submit(self._play_all, watchers) for _ in range(lanes)]
            for future in (*playing, *self._watched):
                future.result()
        return [cell for cell in cells if cell in self._left]  # in their order

    def _play_all(self, watchers: ThreadPoolExecutor) -> None:
        """Play cell after cell, leaving their guests to watchers."""
        while (played := self._play_next()) is not None:
            self._watched.append(watchers.submit(self._watch, played))

    def _play_next(self) -> _Played | None:
        """Play the next cell, when there is room for it; None if there is none."""
        self._slots.enter()
        played = None
        try:
            with self._slots.taken():
                played = self._play_one()
        finally:
            if played is None:
                self._slots.leave()
        return played

    def _play_one(self) -> _Played | None:
        with self._lock:
            if not self._left or self.failure is not None:
                return None
            cell = self._left.pop(0)
            self.count += 1
            is_last = not self._left
        guest = self._fork(cell)
        if guest is None:
            with self._lock:
                self._left.insert(0, cell)
                self.count -= 1
            return None
        try:
            return self._play_in(guest, cell, is_last)
        except BaseException:
            guest.close()
            raise

    def _fork(self, cell: Cell) -> Guest | None:
        """A guest for a cell; None, and ``failure``, where there can be none.

        It can fail for what the host has too little of for a moment, or because the connection
        that was frozen with the guest does not go on; the second try does without that.
        """
        order = self._order
        self._listener(Doing(order.plan.kernel, cell.scenario.name))
        folder = order.plan.run_dir.fork(order.plan.kernel, cell.scenario.name)
        failure = None
        for frozen in (self._frozen, order.frozen.without_connection()):
            guest = Guest(order.plan, order.modules, order.boots)
            try:
                guest.resume(frozen, folder)
            except LabError as error:
                guest.close()
                if isinstance(error, RunInterruptedError):
                    raise
                failure = error
            else:
                if failure is not None:
                    self.note = f"a fork was made once more: {failure.message}"
                if isinstance(failure, ShellError):
                    self._frozen = frozen  # the others would not be answered either
                return guest
        process.check_stopping()
        self.failure = failure
        return None

    def _play_in(self, guest: Guest, cell: Cell, is_last: bool) -> _Played:
        order = self._order
        folder = order.plan.run_dir.cell(order.plan.kernel, cell.scenario.name)
        play = order.new_play(guest, cell)
        play.open()
        play.run()
        settle = cell.scenario.scenario.settle
        return _Played(play, guest, folder, order.settle if settle is None else settle, is_last)

    def _watch(self, played: _Played) -> None:
        """Wait for a late complaint, then judge the cell; its guest is gone afterwards."""
        guest, held = played.guest, None
        try:
            deadline = Deadline.after(played.settle, "what comes late")
            guest.machine.log.wait_for_end(deadline)
            if played.is_last and self._hold is not None:
                held = guest.place()
            else:
                guest.close()
            if process.stopping():
                return  # its end may be the lab's own doing
            played.play.write_evidence(held)
            kernel, run_dir = self._order.plan.kernel, self._order.plan.run_dir
            self._done(played.play.judge(kernel, held, played.folder.relative_to(run_dir.root)))
            if held is not None and self._hold is not None:
                self._hold(guest)
        finally:
            guest.close()
            self._slots.leave()
