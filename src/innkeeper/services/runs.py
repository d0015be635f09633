"""Runs: accept, execute, watch, stop and settle them. Every surface starts and follows runs through here.

Acceptance is one commit, before agent code runs and before anyone is told; settlement is another, exactly
once, without user code. In between the run's own log grows by segments.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from innkeeper.core.agents import AgentDescription
from innkeeper.core.changes import Accepted, AcceptRun, BeginRun, Begun, Fence, Missing, Outcome, RecordCredits, Segment
from innkeeper.core.context import RunContext, reset_context, set_context
from innkeeper.core.errors import (
    InnkeeperError,
    RunNotFound,
    ShuttingDown,
    StorageUnavailable,
)
from innkeeper.core.events import RunStarted, payload
from innkeeper.core.identity import Caller
from innkeeper.core.messages import Message
from innkeeper.core.runs import NO_PARAMETERS, Run, RunStatus, StartRun, Turn
from innkeeper.core.sessions import Session
from innkeeper.core.times import Instant
from innkeeper.core.transcripts import Transcript, as_turn, sort
from innkeeper.core.usage import CreditRecord
from innkeeper.ports.journal import Journal
from innkeeper.ports.readers import RunReader, SessionReader
from innkeeper.services.abilities import check_abilities
from innkeeper.services.agents import AgentRegistry, ServedAgent
from innkeeper.services.identities import end_user
from innkeeper.services.live import Ending, LiveRun, Stop
from innkeeper.services.readings import ReaderGone, RunReading
from innkeeper.services.settlements import Settlements

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunLimits:
    """Bounds on runs; times in seconds."""

    run_seconds: float = 600.0
    queue_depth: int = 10
    queue_seconds: float = 60.0
    stop_seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A queued run of this process and what it needs to begin."""

    live: LiveRun
    agent: ServedAgent
    start: StartRun
    transcript: Transcript
    expiry: asyncio.TimerHandle


class Runs:
    """The use cases of runs in one process."""

    def __init__(
        self,
        *,
        journal: Journal,
        sessions: SessionReader,
        runs: RunReader,
        agents: AgentRegistry,
        now: Callable[[], int],
        new_id: Callable[[], str],
        worker: str,
        limits: RunLimits,
        shows_errors: bool = False,
    ) -> None:
        self._journal = journal
        self._sessions = sessions
        self._runs = runs
        self._agents = agents
        self._now = now
        self._new_id = new_id
        self._worker = worker
        self._limits = limits
        self._live: dict[str, LiveRun] = {}
        self._waiting: dict[str, _Waiting] = {}
        self._beginning: dict[str, asyncio.Task[None]] = {}
        self._accepting: dict[str, asyncio.Future[None]] = {}
        self._called: set[str] = set()
        self._is_draining = False
        self._disowning: set[asyncio.Task[None]] = set()
        self._settlements = Settlements(journal, now, new_id, shows_errors=shows_errors)

    # starting

    async def start(self, caller: Caller, start: StartRun, context: RunContext) -> LiveRun:
        """Accept a run and set it going, or queue it behind its session's current one.

        Raises: ShuttingDown; NoAgents, AgentNotFound, NoDefaultAgent; Forbidden for an end user who is not
        the caller's; Unsupported; RunConflict or TooBusy where the session is busy; StorageUnavailable.
        """
        if self._is_draining:
            raise ShuttingDown("The server is shutting down. Try again shortly.")
        agent = await self._agents.find(start.agent_name)
        if start.parameters is not NO_PARAMETERS:
            check_abilities(agent.describe(), start.parameters)
        change = self._acceptance(caller, start, agent)
        accepting = self._accepting[change.run.id] = asyncio.get_running_loop().create_future()
        try:
            outcome = await self._accept(change)
            live = LiveRun(
                outcome.run,
                Fence(outcome.run.id, self._worker, outcome.epoch),
                context,
                self._journal,
                first=change.first,
                on_disconnect=start.on_disconnect,
                grace=start.grace,
            )
            self._live[outcome.run.id] = live
            _name(context, outcome.run, agent, start)
            if outcome.run.status is RunStatus.QUEUED:
                self._wait(live, agent, start, change.transcript)
            else:
                execution = self._execute(live, agent, start, change.transcript, outcome)
                live.task = asyncio.create_task(execution)
        finally:
            del self._accepting[change.run.id]
            self._called.discard(change.run.id)
            accepting.set_result(None)
        return live

    async def _accept(self, change: AcceptRun) -> Accepted:
        """Store the run. If nobody learns whether that succeeded, it is ended, so that it never blocks its session."""
        accepting = self._journal.commit((change,))
        try:
            await _done(accepting)
            (outcome,) = accepting.result()
        except (asyncio.CancelledError, StorageUnavailable):
            fence = Fence(change.run.id, self._worker, 1)
            disowning = asyncio.create_task(self._disown(change.run, fence, accepting))
            self._disowning.add(disowning)
            disowning.add_done_callback(self._disowning.discard)
            raise
        assert isinstance(outcome, Accepted), "an accept is answered with its run"
        return outcome

    async def _disown(self, run: Run, fence: Fence, accepting: asyncio.Future[tuple[Outcome, ...]]) -> None:
        next_run_id = await self._settlements.disown(self._runs, run, fence, accepting)
        if next_run_id is not None:
            self._call(next_run_id)

    def _acceptance(self, caller: Caller, start: StartRun, agent: ServedAgent) -> AcceptRun:
        now, run_id = Instant(self._now()), f"run_{self._new_id()}"
        key = self._new_id()
        user_id = end_user(caller, start.user_id)
        session = Session(
            key=key,
            owner=caller.owner,
            user_id=user_id,
            id=(start.session_id if start.recorded else None) or key,
            created_at=now,
            updated_at=now,
            agent_name=agent.name,
        )
        run = Run(
            id=run_id,
            owner=caller.owner,
            user_id=user_id,
            session_key=key,
            session_id=session.id,
            agent_name=agent.name,
            endpoint=start.endpoint,
            status=RunStatus.RUNNING,
            turn=1,
            created_at=now,
            input=start.messages,
            last_seq=1,
            metadata=start.metadata,
            started_at=now,
        )
        return AcceptRun(
            run=run,
            transcript=sort(start.messages),
            history=start.history,
            first=Segment(1, 1, payload(RunStarted(run_id, session.id, agent.name))),
            new_session=session,
            worker=self._worker,
            recorded=start.recorded,
            names_session=start.session_id is not None,
            names_user=start.user_id is not None,
            when_busy=start.when_busy,
            max_queue=self._limits.queue_depth,
        )

    # executing

    async def _execute(
        self,
        live: LiveRun,
        agent: ServedAgent,
        start: StartRun,
        transcript: Transcript,
        placed: Accepted | Begun,
    ) -> None:
        """The run loop: hand the conversation to the agent, emit what it yields, settle."""
        loop = asyncio.get_running_loop()
        expiry = loop.call_later(self._limits.run_seconds, self.stop, live, Stop.TIMED_OUT)
        token = set_context(live.context)
        failure: BaseException | None = None
        try:
            messages = await self._conversation(transcript, placed)
            if messages:
                turn = Turn(messages, start.parameters, start.stream)
                await _pump(live, agent.runtime.run(turn, live.context))
            else:  # the session has been deleted meanwhile
                live.stop = live.stop or Stop.CANCELLED
        except asyncio.CancelledError:
            live.stop = live.stop or Stop.INTERRUPTED
        except Exception as error:  # noqa: BLE001 - agent code may raise anything; the run carries it
            failure = error
            self._log_failure(live, error)
        finally:
            reset_context(token)
            expiry.cancel()
        await self._settle(live, agent.describe(), failure)

    async def _conversation(self, transcript: Transcript, placed: Accepted | Begun) -> tuple[Message, ...]:
        if isinstance(placed, Accepted) and placed.is_new_session:
            return (*transcript.instructions, *transcript.before, *transcript.new)
        assert placed.lineage is not None, "a run that runs has a lineage"
        return as_turn(await self._sessions.history(placed.lineage))

    @staticmethod
    def _log_failure(live: LiveRun, error: BaseException) -> None:
        expected = isinstance(error, InnkeeperError)
        _logger.error(
            "run %s of agent %s failed: %s: %s",
            live.run.id,
            live.run.agent_name,
            type(error).__name__,
            error,
            exc_info=None if expected else error,
        )

    async def _settle(self, live: LiveRun, description: AgentDescription | None, failure: BaseException | None) -> None:
        if live.is_settling:
            return
        next_run_id = await self._settlements.settle(live, description, failure)
        self._live.pop(live.run.id, None)
        if next_run_id is not None:
            self._call(next_run_id)

    # queueing

    def _wait(self, live: LiveRun, agent: ServedAgent, start: StartRun, transcript: Transcript) -> None:
        loop = asyncio.get_running_loop()
        expiry = loop.call_later(self._limits.queue_seconds, self.stop, live, Stop.NEVER_BEGAN)
        self._waiting[live.run.id] = _Waiting(live, agent, start, transcript, expiry)
        if live.run.id in self._called:
            self._call(live.run.id)

    def _call(self, run_id: str) -> None:
        """It is the turn of a queued run, of which this process may not have been told yet that it is stored."""
        if (waiting := self._waiting.pop(run_id, None)) is not None:
            waiting.expiry.cancel()
            self._beginning[run_id] = asyncio.create_task(self._begin(waiting))
        elif run_id in self._accepting:
            self._called.add(run_id)

    async def _begin(self, waiting: _Waiting) -> None:
        """The run's turn has come. Whoever stops it meanwhile leaves its end to us, who will know its fence."""
        live, start = waiting.live, waiting.start
        change = BeginRun(
            live.run.id,
            live.run.session_key,
            waiting.transcript,
            start.history,
            self._worker,
            Instant(self._now()),
        )
        outcome: Outcome | None = None
        try:
            (outcome,) = await self._journal.commit((change,))
        except InnkeeperError as error:
            live.report_trouble(error)
        finally:
            live.task = self._beginning.pop(live.run.id)
        if isinstance(outcome, Begun):
            live.fence = Fence(live.run.id, self._worker, outcome.epoch)
        elif live.stop is None:
            live.stop = Stop.CANCELLED if isinstance(outcome, Missing) else Stop.INTERRUPTED
        if live.stop is not None:
            await self._settle(live, None, None)
            return
        assert isinstance(outcome, Begun), "else it has been stopped"
        await self._execute(live, waiting.agent, start, waiting.transcript, outcome)

    # stopping

    def stop(self, live: LiveRun, why: Stop) -> None:
        """End a run from outside; its code gets a moment to react, then the run ends without it."""
        if not live.halt(why) or live.run.id in self._beginning:
            return
        waiting = self._waiting.pop(live.run.id, None)
        if waiting is not None:
            waiting.expiry.cancel()
            live.task = asyncio.create_task(self._settle(live, None, None))
            return
        loop = asyncio.get_running_loop()
        loop.call_later(self._limits.stop_seconds, self._abandon, live)

    def _abandon(self, live: LiveRun) -> None:
        if not live.is_settling:
            _logger.warning("run %s did not react to being stopped and is ended without it", live.run.id)
            live.task = asyncio.create_task(self._settle(live, None, None))

    def left(self, live: LiveRun) -> None:
        """A reader has gone; the last one's leaving may cancel the run, as its request said."""
        if live.readers or live.on_disconnect != "cancel" or live.ended.done():
            return

        def cancel_if_alone() -> None:
            if not live.readers:
                self.stop(live, Stop.CANCELLED)

        asyncio.get_running_loop().call_later(live.grace, cancel_if_alone)

    async def cancel(self, caller: Caller, run_id: str) -> Run:
        """Ask a run to end, if it has not; returns it as it is now.

        Raises: RunNotFound.
        """
        live = self.find_live(caller, run_id)
        if live is not None:
            self.stop(live, Stop.CANCELLED)
        return await self.get(caller, run_id)

    async def cancel_session(self, session: Session) -> None:
        """Cancel what runs or waits in a session or is just being accepted, and wait until it has ended."""
        if self._accepting:
            await asyncio.wait(list(self._accepting.values()), timeout=self._limits.stop_seconds)
        found = [live for live in self._live.values() if live.run.session_key == session.key]
        for live in reversed(found):
            self.stop(live, Stop.CANCELLED)
        if found:
            await asyncio.wait([live.ended for live in found], timeout=self._limits.stop_seconds + 2.0)

    async def wait(self, caller: Caller, run_id: str, seconds: float) -> None:
        """Return when the run has ended, or after so many seconds."""
        live = self.find_live(caller, run_id)
        if live is not None:
            await asyncio.wait([live.ended], timeout=seconds)

    async def close(self, patience: float) -> None:
        """Take no new runs; let those under way end within `patience` seconds, then interrupt them."""
        self._is_draining = True
        pending = [live.ended for live in self._live.values()]
        if pending and patience > 0:
            await asyncio.wait(pending, timeout=patience)
        for live in list(self._live.values()):
            self.stop(live, Stop.INTERRUPTED)
        pending = [live.ended for live in self._live.values()]
        if pending:
            await asyncio.wait(pending, timeout=self._limits.stop_seconds + 2.0)

    async def record_credits(self, run_id: str, records: Sequence[CreditRecord]) -> None:
        """Book what was tracked after the run had been settled."""
        await self._journal.commit((RecordCredits(run_id, tuple(records)),))

    # reading

    @property
    def active(self) -> int:
        """How many runs this process has under way or queued."""
        return len(self._live)

    @property
    def is_draining(self) -> bool:
        return self._is_draining

    def find_live(self, caller: Caller, run_id: str) -> LiveRun | None:
        """The run if this process executes it and the caller may see it."""
        live = self._live.get(run_id)
        return live if live is not None and live.run.owner == caller.owner else None

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

    async def follow(self, caller: Caller, run_id: str, after: int = 0) -> RunReading:
        """Read the run's log beyond `after`: what is stored, then live, to its end.

        Raises: RunNotFound.
        """
        live = self.find_live(caller, run_id)
        if live is None:
            await self.get(caller, run_id)
        return RunReading(self._runs, run_id, live, after, self.left)

    def watch(self, live: LiveRun, after: int = 0) -> RunReading:
        """As `follow`, for a run at hand."""
        return RunReading(self._runs, live.run.id, live, after, self.left)

    async def result(self, live: LiveRun, is_gone: Callable[[], bool]) -> Ending:
        """Wait for the end of a run, as one of its readers.

        Raises: StorageUnavailable if its log cannot be written; ReaderGone once `is_gone()` after a wake-up.
        The run itself goes on, or not, as its request said.
        """
        live.readers += 1
        try:
            while not live.ended.done():
                if is_gone():
                    raise ReaderGone
                if live.trouble is not None:
                    raise live.trouble
                await live.changed()
            return live.ended.result()
        finally:
            live.readers -= 1
            self.left(live)


def _done(future: asyncio.Future[Any]) -> asyncio.Future[None]:
    """Done when `future` is. Whoever is cancelled while waiting for it leaves `future` alone; a tenth of a `shield`."""
    waiter: asyncio.Future[None] = future.get_loop().create_future()
    future.add_done_callback(lambda _: None if waiter.done() else waiter.set_result(None))
    return waiter


async def _pump(live: LiveRun, events: AsyncIterator[object]) -> None:
    emit, since = live.emit, 0
    async with contextlib.aclosing(events):  # type: ignore[type-var]
        async for event in events:
            if live.stop is not None:
                return
            emit(event)  # type: ignore[arg-type]
            since += 1
            if since >= 128:
                since = 0
                await asyncio.sleep(0)
                if live.is_backlogged:
                    await live.drained()


def _name(context: RunContext, run: Run, agent: ServedAgent, start: StartRun) -> None:
    """Tell the context which run it belongs to."""
    context.run_id, context.session_id, context.user_id = run.id, run.session_id, run.user_id
    context.agent_name, context.agent_data = run.agent_name, agent.data
    context.metadata = start.metadata
    context.workflow = start.parameters.workflow
    context.variables = start.parameters.variables or {}
