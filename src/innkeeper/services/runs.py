"""Runs: accept, watch, stop and find them. Every surface starts and follows runs through here.

Acceptance is one commit, before agent code runs and before anyone is told. What follows is done by who stands
beside: `executions` runs agents, `waiting` holds turns of busy sessions, `background` takes from the queue,
`following` shows what other processes execute, `membership` speaks for this process in the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from innkeeper.core.changes import DeleteRun, Fence, RecordCredits
from innkeeper.core.context import RunContext
from innkeeper.core.errors import RateLimited, RunConflict, RunNotFound, ShuttingDown, TooBusy
from innkeeper.core.identity import Caller
from innkeeper.core.outcomes import Accepted, Ended, Missing, Outcome, Repeated, Steered
from innkeeper.core.runs import UNDER_WAY, Run, RunStatus, StartRun
from innkeeper.core.sessions import Session
from innkeeper.core.usage import CreditRecord
from innkeeper.ports.journal import Journal
from innkeeper.ports.meters import UNMETERED, Meter
from innkeeper.ports.readers import ActionReader, InjectionReader, RunReader, SessionReader
from innkeeper.services.acceptances import Acceptance, Acceptances
from innkeeper.services.agents import AgentRegistry
from innkeeper.services.background import Background
from innkeeper.services.cancellations import Cancellations
from innkeeper.services.credits import Credits
from innkeeper.services.executions import Executions, Job, RunLimits, name_context
from innkeeper.services.following import Following
from innkeeper.services.live import LiveRun
from innkeeper.services.membership import Membership
from innkeeper.services.neighbours import Neighbours
from innkeeper.services.pauses import Pauses, ResumeRequest
from innkeeper.services.quotas import Quotas
from innkeeper.services.readings import ReaderGone, RunReading
from innkeeper.services.recollections import Recollections
from innkeeper.services.settlements import Settlements
from innkeeper.services.tails import Ending, Stop, Tail
from innkeeper.services.waiting import Waiting
from innkeeper.services.wakes import Wakes
from innkeeper.services.webhooks import Webhooks

__all__ = ["RunLimits", "Runs", "Started"]


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


class Runs:
    """The use cases of runs in one process."""

    def __init__(
        self,
        *,
        journal: Journal,
        sessions: SessionReader,
        runs: RunReader,
        injections: InjectionReader,
        actions: ActionReader,
        agents: AgentRegistry,
        settlements: Settlements,
        membership: Membership,
        wakes: Wakes,
        now: Callable[[], int],
        new_id: Callable[[], str],
        new_context: Callable[[], RunContext],
        worker: str,
        limits: RunLimits,
        webhooks: Webhooks,
        credits: Credits,
        neighbours: Neighbours,
        meter: Meter = UNMETERED,
    ) -> None:
        self._journal = journal
        self._sessions = sessions
        self._runs = runs
        self._injections = injections
        self._membership = membership
        self._wakes = wakes
        self._worker = worker
        self._limits = limits
        self._webhooks = webhooks
        self._is_draining = False
        self._neighbours = neighbours
        self.closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when this process sends its readers away."""
        self._following = Following(runs)
        self._executions = Executions(
            sessions=sessions,
            settlements=settlements,
            following=self._following,
            wakes=wakes,
            limits=limits,
            on_end=self._ended,
            neighbours=neighbours,
            meter=meter,
        )
        patience = limits.queue_seconds
        self._waiting = Waiting(journal, self._executions, now, worker, patience=patience, meter=meter)
        self._cancellations = Cancellations(
            journal=journal,
            runs=runs,
            settlements=settlements,
            executions=self._executions,
            waiting=self._waiting,
            following=self._following,
            wakes=wakes,
            worker=worker,
            now=now,
            on_end=self._ended,
        )
        self._quotas = Quotas(runs, at_once=limits.at_once_by_caller, queued=limits.queued)
        self._acceptances = Acceptances(
            journal=journal,
            runs=runs,
            agents=agents,
            settlements=settlements,
            webhooks=webhooks,
            credits=credits,
            now=now,
            new_id=new_id,
            worker=worker,
            queue_depth=limits.queue_depth,
            on_end=self._ended,
        )
        recollections = Recollections(runs, credits)
        self._executions.cancel_paused = self._cancellations.cancel
        self.pauses = Pauses(
            journal=journal,
            runs=runs,
            actions=actions,
            injections=injections,
            agents=agents,
            executions=self._executions,
            settlements=settlements,
            following=self._following,
            recollections=recollections,
            wakes=wakes,
            now=now,
            worker=worker,
            on_end=self._ended,
        )
        self._background = Background(
            journal=journal,
            runs=runs,
            injections=injections,
            agents=agents,
            executions=self._executions,
            recollections=recollections,
            now=now,
            new_context=new_context,
            worker=worker,
            limit=limits.in_background,
        )

    async def open(self) -> None:
        """Listen to other processes, take over what the dead have left, and take from the queue.

        Raises: SetupError, StorageUnavailable.
        """
        await self._wakes.listen(
            on_log=self._following.wake,
            on_turn=self._waiting.call,
            on_work=self._work_came,
            on_look=self._look,
        )
        await self._membership.enter()
        self._background.start()
        self.pauses.open()
        self._webhooks.start()
        self._membership.watch(
            on_cancel=self._cancellations.stop_asked,
            on_turn=self._waiting.call,
            on_work=self._work_came,
            knows=self._knows,
            waiting=self._waiting.ids,
        )

    def _work_came(self) -> None:
        self._background.wake()
        self._neighbours.on_work()

    def _look(self) -> None:
        self._membership.look()
        self._neighbours.on_look()

    def _knows(self, run_id: str) -> bool:
        return run_id in self._executions or run_id in self._background or run_id in self._acceptances

    # starting

    async def start(self, caller: Caller, start: StartRun, context: RunContext) -> Started:
        """Accept a run and set it going, or queue it behind its session's current one.

        Raises: ShuttingDown; RateLimited or TooBusy where the caller's runs or the queue are too many; what
        `Acceptances.accept` raises.
        """
        if self._is_draining:
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
        run = await self.get(caller, claimed.subject)
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
        if self._is_draining:
            raise ShuttingDown("The server is shutting down. Try again shortly.")
        leave = self._quotas.take(caller)
        try:
            resumed = await self.pauses.resume(caller, request, context)
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

    # whose turn it is

    def _call(self, run_id: str) -> None:
        """It is the turn of a queued run: of this process, of which it may not know yet, or of another."""
        if self._waiting.call(run_id) or self._acceptances.call(run_id):
            return
        self._background.wake()
        self._wakes.turn_came(run_id)

    def _ended(self, outcome: Outcome) -> None:
        """A run has ended: whoever waited for that is called."""
        if not isinstance(outcome, Ended):
            return
        if outcome.next_run_id is not None:
            self._call(outcome.next_run_id)
        if outcome.is_awaited:
            self._webhooks.wake()

    # stopping

    def _left(self, tail: Tail) -> None:
        """A reader has gone; the last one's leaving may cancel the run, as its request said."""
        if not isinstance(tail, LiveRun) or tail.run.id not in self._executions:
            self._following.left(tail)
            return
        if tail.readers or tail.on_disconnect != "cancel" or tail.ended.done():
            return

        def cancel_if_alone() -> None:
            if not tail.readers:
                self._cancellations.stop(tail, Stop.CANCELLED)

        asyncio.get_running_loop().call_later(tail.grace, cancel_if_alone)

    async def cancel(self, caller: Caller, run_id: str) -> Run:
        """Ask a run to end, if it has not, wherever it is executed; returns it as it is now.

        Raises: RunNotFound, StorageUnavailable.
        """
        await self._cancellations.cancel(caller, run_id)
        return await self.get(caller, run_id)

    async def delete(self, caller: Caller, run_id: str) -> None:
        """Forget what a run was asked and has said; what is under way is cancelled first. Its conversation stays.

        Raises: RunNotFound, RunConflict while it does not end.
        """
        run = await self.get(caller, run_id)
        if not run.status.is_terminal:
            await self._cancellations.cancel(caller, run_id)
            await self.wait(caller, run_id, self._limits.stop_seconds + 2.0)
        (outcome,) = await self._journal.commit((DeleteRun(run_id, run.owner),))
        if isinstance(outcome, Missing):
            raise RunNotFound(f"Run {run_id!r} does not exist.", param="run_id")

    async def cancel_session(self, session: Session) -> None:
        """Cancel what runs or waits in a session or is just being accepted, and wait until it has ended."""
        await self._acceptances.settled(self._limits.stop_seconds)
        patience = self._limits.stop_seconds + 2.0
        for run in await self._cancellations.cancel_all(session, patience):
            await self.wait(Caller(session.owner), run.id, patience)
            self._wakes.turn_came(run.id)  # should it wait there yet, it learns that there is nothing to wait for

    async def drain(self, patience: float) -> None:
        """Take no new runs; let those under way end within `patience` seconds, then send everybody away.

        What has not ended by then ends as interrupted; in the background it is left to another process.
        """
        self._is_draining = True
        await self._background.stop()
        await self.pauses.close()
        await self._executions.emptied(patience)
        if not self.closing.done():
            self.closing.set_result(None)
        for live in self._executions.all():
            live.is_leaving = True
            self._cancellations.stop(live, Stop.RELEASED if live.run.background else Stop.INTERRUPTED)
        await self._executions.emptied(self._limits.stop_seconds + 2.0)
        self._following.cut()

    async def close(self, patience: float) -> None:
        """Drain, and leave the store to others; idempotent."""
        await self.drain(patience)
        await self._webhooks.stop()
        await self._membership.leave()
        await self._wakes.close()

    async def record_credits(self, run_id: str, records: Sequence[CreditRecord]) -> None:
        """Book what was tracked after the run had been settled."""
        await self._journal.commit((RecordCredits(run_id, tuple(records)),))

    # reading

    @property
    def active(self) -> int:
        """How many runs this process has under way or queued."""
        return len(self._executions)

    @property
    def is_draining(self) -> bool:
        return self._is_draining

    def _find_live(self, caller: Caller, run_id: str) -> LiveRun | None:
        """The run if this process executes it and the caller may see it."""
        live = self._executions.find(run_id)
        return live if live is not None and caller.may_see(live.run.owner) else None

    async def get(self, caller: Caller, run_id: str) -> Run:
        """Raises: RunNotFound."""
        run = await self._runs.find(caller, run_id)
        if run is None:
            raise RunNotFound(f"Run {run_id!r} does not exist.", param="run_id")
        return run

    async def page(
        self,
        caller: Caller,
        *,
        limit: int,
        after: str | None = None,
        session_id: str | None = None,
        agent_name: str | None = None,
        status: RunStatus | None = None,
    ) -> tuple[Sequence[Run], bool]:
        """Newest first, and whether there are more."""
        session_key = None
        if session_id is not None:
            session = await self._sessions.find(caller, session_id)
            if session is None:
                return [], False
            session_key = session.key
        return await self._runs.page(
            caller, limit=limit, after=after, session_key=session_key, agent_name=agent_name, status=status
        )

    async def _tail(self, caller: Caller, run_id: str) -> Tail:
        """The run as its readers here see it, wherever it is or was executed.

        Raises: RunNotFound.
        """
        return self._find_live(caller, run_id) or self._following.follow(await self.get(caller, run_id))

    async def wait(self, caller: Caller, run_id: str, seconds: float) -> None:
        """Return when the run has ended or is paused, or after so many seconds. Raises: RunNotFound."""
        live = self._find_live(caller, run_id)
        if live is None and (await self.get(caller, run_id)).status not in UNDER_WAY:
            return
        if live is not None:  # whoever only asks for the end does not keep it alive
            await asyncio.wait([live.ended], timeout=seconds)
            return
        tail = await self._tail(caller, run_id)
        tail.readers += 1
        try:
            await asyncio.wait([tail.ended], timeout=seconds)
        finally:
            tail.readers -= 1
            self._following.left(tail)

    async def follow(self, caller: Caller, run_id: str, after: int = 0) -> RunReading:
        """Read the run's log beyond `after`: what is stored, then live, to its end.

        Raises: RunNotFound.
        """
        tail: Tail | None = self._find_live(caller, run_id)
        if tail is None:
            run = await self.get(caller, run_id)
            tail = self._following.follow(run) if run.status in UNDER_WAY else None
        return RunReading(self._runs, run_id, tail, after, self._left)

    def watch(self, tail: Tail, after: int = 0) -> RunReading:
        """As `follow`, for a run at hand."""
        return RunReading(self._runs, tail.run.id, tail, after, self._left)

    async def result(self, tail: Tail, is_gone: Callable[[], bool]) -> Ending:
        """Wait for the end of a run, as one of its readers.

        Raises: StorageUnavailable if its log cannot be written; ReaderGone once `is_gone()` after a wake-up;
        ShuttingDown if this process leaves first. The run itself goes on, or not, as its request said.
        """
        tail.readers += 1
        try:
            while not tail.ended.done():
                if is_gone():
                    raise ReaderGone
                if tail.is_cut:
                    raise ShuttingDown("The server is shutting down; the run goes on. Read it with GET /runs/{id}.")
                if tail.trouble is not None:
                    raise tail.trouble
                await tail.changed()
            return tail.ended.result()
        finally:
            tail.readers -= 1
            self._left(tail)
