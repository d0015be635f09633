"""Starting: a request becomes a run that is under way, queued, or left to the background; or it joins one.

Who stands beside decides the rest: `quotas` whether there is a place, `acceptances` what the store says of it, and
`executions`, `waiting` and `background` when its agent is called.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from innkeeper.core.changes import Fence
from innkeeper.core.context import RunContext
from innkeeper.core.errors import RateLimited, RunConflict, ShuttingDown, TooBusy
from innkeeper.core.identity import Caller
from innkeeper.core.outcomes import Accepted, Missing, Outcome, Repeated, Steered
from innkeeper.core.runs import Run, RunStatus, StartRun
from innkeeper.ports.journal import Journal
from innkeeper.ports.readers import InjectionReader
from innkeeper.services.acceptances import Acceptance, Acceptances
from innkeeper.services.background import Background
from innkeeper.services.cancellations import Cancellations
from innkeeper.services.executions import Executions, Job, name_context
from innkeeper.services.live import LiveRun
from innkeeper.services.neighbours import Neighbours
from innkeeper.services.pauses import Pauses, ResumeRequest
from innkeeper.services.quotas import Quotas, uncounted
from innkeeper.services.tails import Tail
from innkeeper.services.waiting import Waiting
from innkeeper.services.wakes import Wakes


@dataclass(slots=True)
class Started:
    """What came of a request: its run, and the run's tail, unless it is in the background.

    `is_repeated` says that the same request was made before, and that this is the run it had started;
    `injection_id` that the message was injected into that run, which was under way. Where the run had been paused and
    goes on, what it tells from then on comes `after` that `seq`; `left` is how many answers it waits for yet.
    """

    run: Run
    tail: Tail | None = None
    is_repeated: bool = False
    injection_id: str | None = None
    after: int = 0
    left: int = 0


class Starting:
    """Starts runs in one process. `get` finds a run, and `tail` what its readers here see of it."""

    def __init__(
        self,
        *,
        journal: Journal,
        injections: InjectionReader,
        acceptances: Acceptances,
        quotas: Quotas,
        executions: Executions,
        waiting: Waiting,
        background: Background,
        cancellations: Cancellations,
        pauses: Pauses,
        wakes: Wakes,
        neighbours: Neighbours,
        worker: str,
        get: Callable[[Caller, str], Awaitable[Run]],
        tail: Callable[[Caller, str], Awaitable[Tail]],
    ) -> None:
        self._journal = journal
        self._injections = injections
        self._acceptances = acceptances
        self._quotas = quotas
        self._executions = executions
        self._waiting = waiting
        self._background = background
        self._cancellations = cancellations
        self._pauses = pauses
        self._wakes = wakes
        self._neighbours = neighbours
        self._worker = worker
        self._get = get
        self._tail = tail
        self.is_draining = False
        """Whether this process takes no new runs any more."""

    async def start(self, caller: Caller, start: StartRun, context: RunContext) -> Started:
        """Accept a run and set it going, or queue it behind its session's current one.

        Raises: ShuttingDown; RateLimited or TooBusy where the caller's runs or the queue are too many; what
        `Acceptances.accept` raises.
        """
        if self.is_draining:
            raise ShuttingDown("The server is shutting down. Try again shortly.")
        if self._neighbours.check_attachments is not None:
            await self._neighbours.check_attachments(caller, start.messages)
        try:
            leave = await self._quotas.queue(caller) if start.background else self._quotas.take(caller)
        except (RateLimited, TooBusy):
            joined = await self._join(caller, start)
            if joined is None:
                raise
            return joined
        try:
            started = await self._start(caller, start, context)
        except BaseException:
            leave(None)
            raise
        if leave is uncounted:
            return started
        if isinstance(started.tail, LiveRun) and not started.is_repeated and started.injection_id is None:
            started.tail.ended.add_done_callback(leave)
        else:
            leave(None)
        return started

    async def repeats(self, caller: Caller, start: StartRun) -> bool:
        """Whether a request with this claim has made a run before. Raises: IdempotencyMismatch."""
        acceptance = await self._acceptances.accept(caller, start, only_joins=True)
        return isinstance(acceptance.outcome, Repeated)

    async def _join(self, caller: Caller, start: StartRun) -> Started | None:
        """What comes of a request that makes no run, for which there may be no place; `None` if it would make one."""
        if start.claim is None and start.when_busy != "steer":
            return None
        acceptance = await self._acceptances.accept(caller, start, only_joins=True)
        return None if isinstance(acceptance.outcome, Missing) else await self._joined(caller, acceptance.outcome)

    async def _start(self, caller: Caller, start: StartRun, context: RunContext) -> Started:
        acceptance = await self._acceptances.accept(caller, start)
        accepted = acceptance.outcome
        if not isinstance(accepted, Accepted):
            return await self._joined(caller, accepted)
        if accepted.run.background:
            self._background.wake()
            self._wakes.work_came()
            started = Started(accepted.run)
        else:
            started = self._set_going(start, acceptance, accepted, context)
        if accepted.interrupts is not None:  # by now it is known here whom to call when the other has made way
            self._cancellations.interrupt(caller, *accepted.interrupts)
        return started

    def _set_going(self, start: StartRun, acceptance: Acceptance, accepted: Accepted, context: RunContext) -> Started:
        run, agent, change = accepted.run, acceptance.agent, acceptance.change
        live = LiveRun(
            run,
            Fence(run.id, self._worker, accepted.epoch),
            context,
            self._journal,
            self._injections,
            first=accepted.first or change.first,
            timings=acceptance.timings,
            on_disconnect=start.on_disconnect,
            grace=start.grace,
        )
        self._executions.add(live)
        name_context(context, run, agent, start.parameters)
        job = Job(agent, change.transcript, start.parameters, start.stream)
        if run.status is RunStatus.QUEUED:
            self._waiting.add(live, job, start.history)
            if acceptance.was_called:
                self._waiting.call(run.id)
        else:
            live.task = asyncio.create_task(self._executions.execute(live, job, accepted))
        return Started(run, live)

    async def _joined(self, caller: Caller, outcome: Outcome) -> Started:
        """The request has no run of its own, but joins one: that which it steers, or which it had started before."""
        if isinstance(outcome, Steered):
            tail = await self._tail(caller, outcome.run_id)
            return Started(tail.run, tail, injection_id=outcome.injection_id)
        assert isinstance(outcome, Repeated), "an accept is answered with a run"
        claimed = outcome.claimed
        run = await self._get(caller, claimed.subject)
        injection_id = None if claimed.answer is None else claimed.answer.decode()
        if run.background and injection_id is None:
            return Started(run, is_repeated=True)
        if run.status.is_terminal and not run.input:
            raise RunConflict(
                "This request has been carried out already, and its answer was not kept, because it said store: false.",
                param="Idempotency-Key",
            )
        return Started(run, await self._tail(caller, run.id), is_repeated=True, injection_id=injection_id)

    async def resume(self, caller: Caller, request: ResumeRequest, context: RunContext) -> Started:
        """Answer what a paused run waits for; once nothing is left to answer, it goes on.

        Raises: ShuttingDown, RateLimited; what `Pauses.resume` raises.
        """
        if self.is_draining:
            raise ShuttingDown("The server is shutting down. Try again shortly.")
        leave = self._quotas.take(caller)
        try:
            resumed = await self._pauses.resume(caller, request, context)
        except BaseException:
            leave(None)
            raise
        if resumed.live is not None:
            resumed.live.ended.add_done_callback(leave)
        else:
            leave(None)
        run = resumed.run
        tail = None if resumed.left else resumed.live or await self._tail(caller, run.id)
        return Started(run, tail, is_repeated=resumed.is_repeated, after=resumed.after, left=resumed.left)
