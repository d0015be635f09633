"""Membership: this process among those that serve one store, and what it does for those that have died.

A worker keeps itself alive in the store, looks after what it was asked to do while a wake-up was lost, and takes
over the runs of the dead: those whose clients waited end as interrupted, those in the background are queued again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection

from innkeeper.core.changes import Fence, ForgetClaims, KeepWorker, ReleaseRun, RetireWorkers, TakeDead
from innkeeper.core.errors import InnkeeperError
from innkeeper.core.outcomes import Ended, Inherited
from innkeeper.core.runs import Run
from innkeeper.core.times import Instant
from innkeeper.ports.journal import Journal
from innkeeper.ports.readers import RunReader, WorkerReader
from innkeeper.services.settlements import Settlements
from innkeeper.services.tails import Stop
from innkeeper.services.wakes import Wakes

_logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_BEATS = 2
_ORPHANS_EVERY = 5
_CLAIMS_EVERY = 600
_TAKEN_AT_ONCE = 100


class Membership:
    """One worker of a store. `is_shared` says that others may serve it at the same time."""

    def __init__(
        self,
        *,
        journal: Journal,
        runs: RunReader,
        workers: WorkerReader,
        settlements: Settlements,
        wakes: Wakes,
        worker: str,
        process: str,
        now: Callable[[], int],
        is_shared: bool,
        max_attempts: int,
        is_gone: Callable[[str], bool],
    ) -> None:
        """`process` tells this process to others; `is_gone` whether one that was told so has certainly died."""
        self._journal = journal
        self._runs = runs
        self._workers = workers
        self._settlements = settlements
        self._wakes = wakes
        self._worker = worker
        self._process = process
        self._now = now
        self._is_shared = is_shared
        self._max_attempts = max_attempts
        self._is_gone = is_gone
        self._looking: asyncio.Task[None] | None = None
        self._looked = 0
        self._attended = -1
        self._suspects: frozenset[str] = frozenset()
        self._ending: set[asyncio.Task[None]] = set()
        self._sooner = asyncio.Event()

    async def enter(self) -> None:
        """Become one of the store's workers, and take over what the dead have left.

        Raises: StorageUnavailable.
        """
        if self._is_shared:
            await self._journal.commit((KeepWorker(self._worker, self._process),))
            await self._bury()
            self._wakes.came()
        inherited = await self._inherit()
        if inherited and not self._is_shared:
            await asyncio.wait(inherited)

    def watch(
        self,
        *,
        on_cancel: Callable[[str], object],
        on_turn: Callable[[str], object],
        on_work: Callable[[], None],
        knows: Callable[[str], bool],
        waiting: Callable[[], Collection[str]],
    ) -> None:
        """From now on, look after what this worker holds.

        `knows` says which runs it has under way, and `waiting` which of them wait for their turn.
        """
        self._on_cancel, self._on_turn, self._on_work = on_cancel, on_turn, on_work
        self._knows, self._waiting = knows, waiting
        self._looking = asyncio.create_task(self._look_after())

    def look(self) -> None:
        """Somebody has asked for something: look now."""
        self._sooner.set()

    async def leave(self) -> None:
        """Nothing of this worker's is under way any more."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        if self._ending:
            await asyncio.wait(self._ending, timeout=2.0)
        if self._is_shared:
            try:
                await self._journal.commit((RetireWorkers((self._worker,)),))
            except InnkeeperError as error:
                _logger.warning("this worker could not sign off and will be missed for a while: %s", error)

    async def _look_after(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + _LOOK_SECONDS
        while True:
            try:
                await self._look()
            except InnkeeperError as error:
                _logger.warning("the store could not be asked what there is to do: %s", error)
            except Exception:
                _logger.exception("looking after the runs of this worker failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._sooner.wait()
            self._sooner.clear()
            if loop.time() >= due:
                self._looked, due = self._looked + 1, loop.time() + _LOOK_SECONDS

    async def _look(self) -> None:
        for run_id in await self._runs.cancelled(self._worker):
            self._on_cancel(run_id)
        if self._is_shared:
            for run_id in await self._runs.ready(self._worker):
                self._on_turn(run_id)
        if self._looked != self._attended:
            await self._attend()
            self._attended = self._looked

    async def _attend(self) -> None:
        """What is due from time to time, and not sooner for being woken."""
        if self._is_shared and self._looked % _BEATS == 0:
            await self._journal.commit((KeepWorker(self._worker, self._process),))
            await self._bury()
            await self._inherit()
        if self._looked % _ORPHANS_EVERY == 0:
            await self._find_orphans()
        if self._looked % _CLAIMS_EVERY == 0:
            await self._journal.commit((ForgetClaims(Instant(self._now())),))

    async def _bury(self) -> None:
        """Retire workers whose processes are known to be gone, without waiting for them to be missed."""
        others = [(worker, process) for worker, process in await self._workers.processes() if worker != self._worker]
        gone = tuple(worker for worker, process in others if self._is_gone(process))
        self._wakes.is_alone = len(others) == len(gone)
        if gone:
            await self._journal.commit((RetireWorkers(gone),))

    async def _inherit(self) -> list[asyncio.Task[None]]:
        """Take over runs of the dead until there are none; returns what is ending them."""
        ending: list[asyncio.Task[None]] = []
        while True:
            change = TakeDead(self._worker, self._max_attempts, limit=_TAKEN_AT_ONCE)
            (outcome,) = await self._journal.commit((change,))
            assert isinstance(outcome, Inherited), "taking over is answered with what was taken"
            ending += [self._end(run, fence) for run, fence in outcome.runs]
            if outcome.queued:
                self._wakes.work_came()
                if self._looking is not None:
                    self._on_work()
            if outcome.runs or outcome.queued:
                _logger.warning(
                    "of a worker that has died, %d runs are ended and %d are queued again",
                    len(outcome.runs),
                    outcome.queued,
                )
            if len(outcome.runs) + outcome.queued < _TAKEN_AT_ONCE:
                return ending

    async def _find_orphans(self) -> None:
        """End what the store says this worker holds and it knows nothing of, now and the last time it looked.

        What is in the background goes back into the queue. There are such runs when a commit's outcome was never
        learned. Turns that wait here and that the store does not know any more, because their session was deleted
        elsewhere, are told to look.
        """
        waiting = set(self._waiting())
        held = {run.id: (run, fence) for run, fence in await self._runs.owned(self._worker)}
        for run_id in waiting - held.keys():
            self._on_turn(run_id)
        unknown = {run_id: one for run_id, one in held.items() if not self._knows(run_id)}
        for run_id in self._suspects & unknown.keys():
            run, fence = unknown.pop(run_id)
            if run.background and not run.is_cancelling and run.attempt < self._max_attempts:
                await self._give_back(fence)
            else:
                self._end(run, fence)
        self._suspects = frozenset(unknown)

    async def _give_back(self, fence: Fence) -> None:
        await self._journal.commit((ReleaseRun(fence.run_id),), fence)
        self._wakes.work_came()
        self._on_work()

    def _end(self, run: Run, fence: Fence) -> asyncio.Task[None]:
        task = asyncio.create_task(self._end_one(run, fence))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task

    async def _end_one(self, run: Run, fence: Fence) -> None:
        why = Stop.EXHAUSTED if run.background and run.attempt >= self._max_attempts else Stop.INTERRUPTED
        if run.is_cancelling:
            why = Stop.CANCELLED
        outcome = await self._settlements.end_inherited(self._runs, run, fence, why)
        self._wakes.log_grew(run.id)
        if isinstance(outcome, Ended) and outcome.next_run_id is not None:
            self._wakes.turn_came(outcome.next_run_id)
            if self._looking is not None:
                self._on_turn(outcome.next_run_id)
                self._on_work()
