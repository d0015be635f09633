"""Runs: accept, watch, stop and find them. Every surface starts and follows runs through here.

The rest is done by who stands beside: `starting` begins runs, `executions` runs agents, `waiting` holds turns of busy
sessions, `background` takes from the queue, `following` shows what other processes execute, and `membership` speaks for
this process in the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from innkeeper.core.changes import DeleteRun, RecordCredits
from innkeeper.core.context import RunContext
from innkeeper.core.errors import RunNotFound, ShuttingDown
from innkeeper.core.identity import Caller
from innkeeper.core.outcomes import Ended, Missing, Outcome
from innkeeper.core.runs import UNDER_WAY, Run, RunStatus, StartRun
from innkeeper.core.sessions import Session
from innkeeper.core.usage import CreditRecord
from innkeeper.ports.journal import Journal
from innkeeper.ports.meters import UNMETERED, Meter
from innkeeper.ports.readers import ActionReader, InjectionReader, RunReader, SessionReader
from innkeeper.services.acceptances import Acceptances
from innkeeper.services.agents import AgentRegistry
from innkeeper.services.background import Background
from innkeeper.services.cancellations import Cancellations
from innkeeper.services.credits import Credits
from innkeeper.services.executions import Executions, RunLimits
from innkeeper.services.following import Following
from innkeeper.services.identities import checked_user
from innkeeper.services.live import LiveRun
from innkeeper.services.membership import Membership
from innkeeper.services.neighbours import Neighbours
from innkeeper.services.pauses import Pauses, ResumeRequest
from innkeeper.services.quotas import Quotas
from innkeeper.services.readings import ReaderGone, RunReading
from innkeeper.services.recollections import Recollections
from innkeeper.services.settlements import Settlements
from innkeeper.services.starting import Started, Starting
from innkeeper.services.tails import Ending, Stop, Tail
from innkeeper.services.waiting import Waiting
from innkeeper.services.wakes import Wakes
from innkeeper.services.webhooks import Webhooks

__all__ = ["RunLimits", "Runs", "Started"]


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
        self._membership = membership
        self._wakes = wakes
        self._limits = limits
        self._webhooks = webhooks
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
        self._executions.cancel_elsewhere = self._cancellations.insist
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
        self._starting = Starting(
            journal=journal,
            injections=injections,
            acceptances=self._acceptances,
            quotas=Quotas(runs, at_once=limits.at_once_by_caller, queued=limits.queued),
            executions=self._executions,
            waiting=self._waiting,
            background=self._background,
            cancellations=self._cancellations,
            pauses=self.pauses,
            wakes=wakes,
            neighbours=neighbours,
            worker=worker,
            get=self.get,
            tail=self._tail,
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
        return any(run_id in ours for ours in (self._executions, self._background, self._acceptances, self.pauses))

    # starting

    def start(self, caller: Caller, start: StartRun, context: RunContext) -> Awaitable[Started]:
        """Accept a run and set it going, or queue it behind its session's current one.

        Raises, when it is awaited: what `Starting.start` raises.
        """
        return self._starting.start(caller, start, context)

    def repeats(self, caller: Caller, start: StartRun) -> Awaitable[bool]:
        """Whether a request with this claim has made a run before. Raises: IdempotencyMismatch."""
        return self._starting.repeats(caller, start)

    def resume(self, caller: Caller, request: ResumeRequest, context: RunContext) -> Awaitable[Started]:
        """Answer what a paused run waits for; once nothing is left to answer, it goes on.

        Raises, when it is awaited: what `Starting.resume` raises.
        """
        return self._starting.resume(caller, request, context)

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
        self._starting.is_draining = True
        await self._background.stop()
        await self.pauses.close()
        await self._acceptances.settled(self._limits.stop_seconds)
        await self.pauses.settled(self._limits.stop_seconds)
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
        return self._starting.is_draining

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
        user_id: str | None = None,
        agent_name: str | None = None,
        status: RunStatus | None = None,
    ) -> tuple[Sequence[Run], bool]:
        """Newest first, and whether there are more; those of an end user, where one is named.

        Raises: Forbidden for another's end user.
        """
        user, session_key = checked_user(caller, user_id), None
        if session_id is not None:
            session = await self._sessions.find(caller, session_id, user)
            if session is None:
                return [], False
            session_key = session.key
        return await self._runs.page(
            caller,
            limit=limit,
            after=after,
            session_key=session_key,
            user_id=user,
            agent_name=agent_name,
            status=status,
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
            if run.status not in UNDER_WAY:
                return self.stored(run, after)
            tail = self._following.follow(run)
        return self.watch(tail, after)

    def stored(self, run: Run, after: int = 0) -> RunReading:
        """Read the log beyond `after` of a run that has ended or waits, as far as it went when `run` was read."""
        is_kept = run.recorded or not run.status.is_terminal
        return RunReading(self._runs, run.id, None, after, self._left, until=run.last_seq if is_kept else 0)

    def watch(self, tail: Tail, after: int = 0) -> RunReading:
        """As `follow`, for a run at hand."""
        return RunReading(self._runs, tail.run.id, tail, after, self._left)

    async def result(self, tail: Tail, is_gone: Callable[[], bool]) -> Ending:
        """Wait for the end of a run, as one of its readers.

        Raises: StorageUnavailable if its log cannot be written; ReaderGone once `is_gone()` after a wake-up;
        ShuttingDown if this process leaves first; RunConflict if it has ended and its answer is gone. The run itself
        goes on, or not, as its request said.
        """
        tail.readers += 1
        try:
            while not tail.has_ended:
                if is_gone():
                    raise ReaderGone
                if tail.is_cut or tail.ended.cancelled():
                    raise ShuttingDown("The server is shutting down; the run goes on. Read it with GET /runs/{id}.")
                if tail.trouble is not None:
                    raise tail.trouble
                await tail.changed()
            ending = tail.ended.result()
            if tail.loss is not None and ending.status == "completed":
                raise tail.loss
            return ending
        finally:
            tail.readers -= 1
            self._left(tail)
