"""Waiting: turns of busy sessions whose clients wait for them in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from innkeeper.core.changes import BeginRun, Fence
from innkeeper.core.errors import InnkeeperError
from innkeeper.core.outcomes import Begun, Missing, NotYet, Outcome
from innkeeper.core.times import Instant
from innkeeper.core.transcripts import HistoryMode
from innkeeper.ports.journal import Journal
from innkeeper.ports.meters import UNMETERED, Meter
from innkeeper.services.executions import Executions, Job
from innkeeper.services.live import LiveRun
from innkeeper.services.tails import Stop


@dataclass(slots=True)
class _Turn:
    """A queued run of this process and what it needs to begin."""

    live: LiveRun
    job: Job
    history: HistoryMode
    expiry: asyncio.TimerHandle | None = None
    is_beginning: bool = False
    is_called_again: bool = False


class Waiting:
    """Begins each turn when it has come, and ends those that wait for too long or are stopped."""

    def __init__(
        self,
        journal: Journal,
        executions: Executions,
        now: Callable[[], int],
        worker: str,
        *,
        patience: float,
        meter: Meter = UNMETERED,
    ) -> None:
        self._journal = journal
        self._executions = executions
        self._now = now
        self._worker = worker
        self._patience = patience
        self._meter = meter
        self._turns: dict[str, _Turn] = {}

    def __contains__(self, run_id: object) -> bool:
        return run_id in self._turns

    def ids(self) -> list[str]:
        """The runs that wait here."""
        return list(self._turns)

    def add(self, live: LiveRun, job: Job, history: HistoryMode) -> None:
        turn = self._turns[live.run.id] = _Turn(live, job, history)
        loop = asyncio.get_running_loop()
        self._meter.waiting(len(self._turns))
        turn.expiry = loop.call_later(self._patience, self.stop, live, Stop.NEVER_BEGAN)

    def call(self, run_id: str) -> bool:
        """It is this run's turn, or may be: the store decides. False if it does not wait here."""
        turn = self._turns.get(run_id)
        if turn is None:
            return False
        if turn.is_beginning:
            turn.is_called_again = True
        else:
            turn.is_beginning = True
            turn.live.task = asyncio.create_task(self._begin(turn))
        return True

    async def _begin(self, turn: _Turn) -> None:
        """Whoever stops the run meanwhile leaves its end to us, who will know its fence."""
        live = turn.live
        outcome = await self._began(turn)
        while isinstance(outcome, NotYet) and turn.is_called_again and live.stop is None:
            turn.is_called_again = False
            outcome = await self._began(turn)
        turn.is_beginning = turn.is_called_again = False
        if isinstance(outcome, NotYet) and live.stop is None:
            live.task = None
            return
        self._drop(live.run.id)
        if isinstance(outcome, Begun):
            live.fence = Fence(live.run.id, self._worker, outcome.epoch)
            if outcome.segment is not None:
                live.continue_from(outcome.segment)
        elif live.stop is None:
            live.stop = Stop.CANCELLED if isinstance(outcome, Missing) else Stop.INTERRUPTED
        if live.stop is not None:
            await self._executions.settle(live, None)
            return
        assert isinstance(outcome, Begun), "else it has been stopped"
        await self._executions.execute(live, turn.job, outcome)

    async def _began(self, turn: _Turn) -> Outcome | None:
        run = turn.live.run
        change = BeginRun(
            run.id, run.session_key, turn.job.transcript, turn.history, self._worker, Instant(self._now())
        )
        try:
            (outcome,) = await self._journal.commit((change,))
        except InnkeeperError as error:
            turn.live.report_trouble(error)
            return None
        return outcome

    def stop(self, live: LiveRun, why: Stop) -> None:
        """End a turn that has not begun."""
        turn = self._turns[live.run.id]
        if live.stop is not None:
            return
        live.stop = why
        if not turn.is_beginning:
            self._drop(live.run.id)
            live.task = asyncio.create_task(self._executions.settle(live, None))

    def _drop(self, run_id: str) -> None:
        turn = self._turns.pop(run_id, None)
        self._meter.waiting(len(self._turns))
        if turn is not None and turn.expiry is not None:
            turn.expiry.cancel()
