"""Background: runs that go through the queue and survive their process.

The table of runs is the queue: accepting one enqueues it, in the same commit. Any process takes what has waited
longest and may begin. One that was under way when its process died is queued again, and goes on from its log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from innkeeper.core.changes import Fence, TakeQueued
from innkeeper.core.context import RunContext
from innkeeper.core.errors import InnkeeperError
from innkeeper.core.outcomes import Taken
from innkeeper.core.runs import Resumption
from innkeeper.core.times import Instant
from innkeeper.core.transcripts import sort
from innkeeper.ports.journal import Journal
from innkeeper.ports.readers import InjectionReader, RunReader
from innkeeper.services.agents import AgentRegistry
from innkeeper.services.executions import Executions, Job, name_context
from innkeeper.services.live import LiveRun
from innkeeper.services.recollections import Recollections

_logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0


class Background:
    """Takes queued runs, at most `limit` at a time, and executes them."""

    def __init__(
        self,
        *,
        journal: Journal,
        runs: RunReader,
        injections: InjectionReader,
        agents: AgentRegistry,
        executions: Executions,
        recollections: Recollections,
        now: Callable[[], int],
        new_context: Callable[[], RunContext],
        worker: str,
        limit: int,
    ) -> None:
        self._journal = journal
        self._runs = runs
        self._injections = injections
        self._agents = agents
        self._executions = executions
        self._recollections = recollections
        self._now = now
        self._new_context = new_context
        self._worker = worker
        self._limit = limit
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._taking: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._taking = asyncio.create_task(self._take_all())

    def wake(self) -> None:
        """A run may wait to be taken."""
        self._wake.set()

    async def stop(self) -> None:
        """Take no more; what is under way is the executions' to end."""
        taking, self._taking = self._taking, None
        if taking is not None:
            self._limit = 0
            self._wake.set()
            await asyncio.wait([taking])

    async def _take_all(self) -> None:
        """Look when woken, and every second, because a wake-up may be lost."""
        while self._limit:
            try:
                while len(self._under_way) < self._limit and await self._runs.has_queued():
                    if not await self._take():
                        break
            except InnkeeperError as error:
                _logger.warning("the queue of background runs cannot be read: %s", error)
            except Exception:
                _logger.exception("taking a background run failed")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _LOOK_SECONDS)
            self._wake.clear()

    async def _take(self) -> bool:
        (outcome,) = await self._journal.commit((TakeQueued(self._worker, Instant(self._now())),))
        if not isinstance(outcome, Taken):
            return False
        run_id = outcome.run.id
        task = self._under_way[run_id] = asyncio.create_task(self.execute(outcome))
        task.add_done_callback(lambda _: self._done(run_id))
        return True

    def _done(self, run_id: str) -> None:
        del self._under_way[run_id]
        self._wake.set()

    def __contains__(self, run_id: object) -> bool:
        return run_id in self._under_way

    async def execute(self, taken: Taken) -> None:
        """Execute a run that is ours now, from its beginning or from where an earlier attempt was cut off."""
        run, context = taken.run, self._new_context()
        fence = Fence(run.id, self._worker, taken.begun.epoch)
        assembler = await self._recollections.of(run.id, context) if run.attempt > 1 else None
        live = LiveRun(run, fence, context, self._journal, self._injections, assembler=assembler)
        live.has_begun = run.attempt > 1
        live.task = asyncio.current_task()
        self._executions.add(live)
        try:
            agent = await self._agents.find(run.agent_name)
            name_context(context, run, agent, taken.plan.parameters)
            job = Job(agent, sort(run.input), taken.plan.parameters)
            if assembler is not None:
                job = self._resumed(live, job)
        except Exception as error:  # noqa: BLE001 - resolvers and runtimes may raise anything; the run carries it
            await self._executions.settle(live, error)
            return
        await self._executions.execute(live, job, taken.begun)

    @staticmethod
    def _resumed(live: LiveRun, job: Job) -> Job:
        """What is left to do of a run that has been cut off."""
        assembler, attempt = live.assembler, live.run.attempt
        resumes = job.agent.describe().resumes
        is_answered = resumes and assembler.is_answered
        if not is_answered:
            live.tell(assembler.resumed(attempt, resumes=resumes))
        so_far, open_calls = assembler.progress()
        return Job(
            job.agent,
            job.transcript,
            job.parameters,
            resumption=Resumption(attempt, assembler.steps, open_calls),
            so_far=so_far,
            is_answered=is_answered,
        )
