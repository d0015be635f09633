"""Cancellations: ask a run to end, wherever it is executed, waits or is queued."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from innkeeper.core.changes import RequestCancel
from innkeeper.core.errors import RunNotFound, StorageUnavailable
from innkeeper.core.identity import Caller
from innkeeper.core.outcomes import Cancelling, Missing, Outcome
from innkeeper.core.runs import Run
from innkeeper.core.sessions import Session
from innkeeper.core.times import Instant
from innkeeper.ports.journal import Journal
from innkeeper.ports.readers import RunReader
from innkeeper.services.executions import Executions
from innkeeper.services.following import Following
from innkeeper.services.live import LiveRun
from innkeeper.services.settlements import Settlements
from innkeeper.services.tails import Stop
from innkeeper.services.waiting import Waiting
from innkeeper.services.wakes import Wakes

_logger = logging.getLogger(__name__)

_RETRY_SECONDS = 0.5


class Cancellations:
    """Stops runs of this process at once, and has those of others stopped. `on_end` hears of those ended here."""

    def __init__(
        self,
        *,
        journal: Journal,
        runs: RunReader,
        settlements: Settlements,
        executions: Executions,
        waiting: Waiting,
        following: Following,
        wakes: Wakes,
        worker: str,
        now: Callable[[], int],
        on_end: Callable[[Outcome], None],
    ) -> None:
        self._journal = journal
        self._runs = runs
        self._settlements = settlements
        self._executions = executions
        self._waiting = waiting
        self._following = following
        self._wakes = wakes
        self._worker = worker
        self._now = now
        self._on_end = on_end
        self._ending: set[asyncio.Task[None]] = set()

    def stop(self, live: LiveRun, why: Stop) -> None:
        """End a run of this process from outside."""
        live.is_unwanted |= why is Stop.CANCELLED
        if live.run.id in self._waiting:
            self._waiting.stop(live, why)
        else:
            self._executions.stop(live, why)

    def stop_asked(self, run_id: str) -> bool:
        """Somebody has asked for the end of a run; false if this process does not have it."""
        live = self._executions.find(run_id)
        if live is not None:
            self.stop(live, Stop.CANCELLED)
        return live is not None

    def interrupt(self, caller: Caller, run_id: str, worker: str) -> None:
        """A run of `worker`, or of nobody where it is paused, has been asked, in the store, to make way."""
        if self.stop_asked(run_id):
            return
        if worker:
            self._wakes.look(worker)
            return
        ending = asyncio.create_task(self.insist(caller, run_id))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def insist(self, caller: Caller, run_id: str) -> None:
        """Cancel a run whose end has been acknowledged, however long the store is away."""
        while True:
            try:
                await self.cancel(caller, run_id)
            except StorageUnavailable as error:
                _logger.warning("the end of run %s is asked for again: %s", run_id, error)
                await asyncio.sleep(_RETRY_SECONDS)
            except RunNotFound:
                return
            else:
                return

    async def cancel(self, caller: Caller, run_id: str) -> None:
        """Raises: RunNotFound, StorageUnavailable."""
        live = self._executions.find(run_id)
        if live is not None and caller.may_see(live.run.owner):
            self.stop(live, Stop.CANCELLED)
            return
        owner = caller.owner
        if caller.sees_all and (found := await self._runs.find(caller, run_id)) is not None:
            owner = found.owner
        (outcome,) = await self._journal.commit((RequestCancel(run_id, owner, self._worker, Instant(self._now())),))
        if isinstance(outcome, Missing):
            raise RunNotFound(f"Run {run_id!r} does not exist.", param="run_id")
        if isinstance(outcome, Cancelling):
            await self._carry_out(caller, run_id, outcome)

    async def _carry_out(self, caller: Caller, run_id: str, outcome: Cancelling) -> None:
        """Tell whoever executes the run, or end it, where nobody had it and it is ours now."""
        if outcome.fence is None:
            if not self.stop_asked(run_id):  # it may have been taken from the queue meanwhile, by this process too
                self._wakes.look(outcome.worker)
            return
        run = await self._runs.find(caller, run_id)
        if run is None:
            return
        ended = await self._settlements.end_inherited(self._runs, run, outcome.fence, Stop.CANCELLED)
        self._following.wake((run_id,))
        self._wakes.log_grew(run_id)
        self._on_end(ended)

    async def cancel_all(self, session: Session, patience: float) -> Sequence[Run]:
        """Cancel the runs of a session and wait for those of this process; returns the others."""
        here = [live for live in self._executions.all() if live.run.session_key == session.key]
        for live in reversed(here):
            self.stop(live, Stop.CANCELLED)
        caller, known = Caller(session.owner), {live.run.id for live in here}
        elsewhere = [run for run in await self._runs.open_in(session.key) if run.id not in known]
        for run in reversed(elsewhere):
            await self.cancel(caller, run.id)
        if here:
            await asyncio.wait([live.ended for live in here], timeout=patience)
        return elsewhere
