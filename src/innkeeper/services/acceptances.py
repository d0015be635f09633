"""Acceptances: a request becomes a stored run, in one commit, before agent code runs and before anyone is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from innkeeper.core.changes import AcceptRun, Fence, Segment
from innkeeper.core.credits import Terms
from innkeeper.core.errors import StorageUnavailable
from innkeeper.core.events import RunStarted, payload
from innkeeper.core.identity import Caller
from innkeeper.core.outcomes import Outcome
from innkeeper.core.runs import NO_PARAMETERS, Plan, Run, RunStatus, StartRun
from innkeeper.core.sessions import Session
from innkeeper.core.times import Instant
from innkeeper.core.transcripts import sort
from innkeeper.ports.journal import Journal
from innkeeper.ports.readers import RunReader
from innkeeper.services.abilities import check_abilities
from innkeeper.services.agents import AgentRegistry, ServedAgent
from innkeeper.services.credits import Credits
from innkeeper.services.identities import end_user
from innkeeper.services.settlements import Settlements
from innkeeper.services.timings import Timings
from innkeeper.services.webhooks import Webhooks


@dataclass(slots=True)
class Acceptance:
    """What the store answered to a request. `was_called` says that the run's turn has come already."""

    agent: ServedAgent
    change: AcceptRun
    outcome: Outcome
    timings: Timings
    was_called: bool = False


class Acceptances:
    """Accepts requests. `on_end` hears of a run that was ended because nobody learned that it is stored."""

    def __init__(
        self,
        *,
        journal: Journal,
        runs: RunReader,
        agents: AgentRegistry,
        settlements: Settlements,
        webhooks: Webhooks,
        credits: Credits,
        now: Callable[[], int],
        new_id: Callable[[], str],
        worker: str,
        queue_depth: int,
        on_end: Callable[[Outcome], None],
    ) -> None:
        self._journal = journal
        self._runs = runs
        self._agents = agents
        self._settlements = settlements
        self._webhooks = webhooks
        self._credits = credits
        self._now = now
        self._new_id = new_id
        self._worker = worker
        self._queue_depth = queue_depth
        self._on_end = on_end
        self._accepting: dict[str, asyncio.Future[None]] = {}
        self._called: set[str] = set()
        self._disowning: set[asyncio.Task[None]] = set()

    def __contains__(self, run_id: object) -> bool:
        return run_id in self._accepting

    def call(self, run_id: str) -> bool:
        """It is the turn of a run; false if it is not being accepted here."""
        if run_id in self._accepting:
            self._called.add(run_id)
            return True
        return False

    async def settled(self, patience: float) -> None:
        """Return when what is being accepted now has been, or after `patience` seconds."""
        if self._accepting:
            await asyncio.wait(list(self._accepting.values()), timeout=patience)

    async def accept(self, caller: Caller, start: StartRun, *, only_joins: bool = False) -> Acceptance:
        """Check a request and store its run, unless it `only_joins` another: its outcome may be `Missing` then.

        Raises: NoAgents, AgentNotFound, NoDefaultAgent; Forbidden for an end user who is not the caller's;
        Unsupported; InsufficientCredits; RunConflict or TooBusy where the session is busy; IdempotencyMismatch; Invalid
        for a webhook that is not allowed; StorageUnavailable.
        """
        agent = await self._agents.find(start.agent_name)
        user_id = end_user(caller, start.user_id)
        if start.parameters is not NO_PARAMETERS:
            check_abilities(agent.describe(), start.parameters)
        if start.webhook is not None:
            self._webhooks.check(start.webhook)
        organization = caller.owner.organization
        terms = await self._credits.terms(
            organization,
            user_id,
            agent.describe(),
            start.parameters,
            may_be_anothers=(start.session_id or start.follows) is not None and start.user_id is None,
        )
        change = self._change(caller, start, agent, user_id, terms)
        if only_joins:
            change = replace(change, only_joins=True)
        run_id = change.run.id
        accepting = self._accepting[run_id] = asyncio.get_running_loop().create_future()
        try:
            timings = Timings(change.run.created_at)
            outcome = await self._store(change)
            timings.accepted()
            return Acceptance(agent, change, outcome, timings, run_id in self._called)
        finally:
            del self._accepting[run_id]
            self._called.discard(run_id)
            accepting.set_result(None)

    async def _store(self, change: AcceptRun) -> Outcome:
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
        return outcome

    async def _disown(self, run: Run, fence: Fence, accepting: asyncio.Future[tuple[Outcome, ...]]) -> None:
        self._on_end(await self._settlements.disown(self._runs, run, fence, accepting))

    def _change(
        self, caller: Caller, start: StartRun, agent: ServedAgent, user_id: str, terms: Terms | None
    ) -> AcceptRun:
        now, run_id = Instant(self._now()), f"run_{self._new_id()}"
        key = self._new_id()
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
            background=start.background,
            recorded=start.recorded,
            last_seq=1,
            metadata=start.metadata,
            started_at=now,
            own_trace_id=None if start.parent is None else start.parent.trace_id,
            parent_span=None if start.parent is None else start.parent.span_id,
            request=start.request,
            pricing=None if terms is None else terms.pricing,
        )
        return AcceptRun(
            run=run,
            transcript=sort(start.messages),
            history=start.history,
            first=Segment(1, 1, payload(RunStarted(run_id, session.id, agent.name))),
            new_session=session,
            worker=self._worker,
            names_session=start.session_id is not None,
            names_user=start.user_id is not None,
            when_busy=start.when_busy,
            max_queue=self._queue_depth,
            plan=_plan(start),
            webhook=start.webhook,
            claim=start.claim,
            engine_id=start.engine_id,
            terms=terms,
        )


def _plan(start: StartRun) -> Plan | None:
    """How a request was worded, if there is anything to tell; a recording of its run needs it as well."""
    if start.background or start.follows is not None or start.parameters != NO_PARAMETERS:
        return Plan(start.parameters, start.history, start.follows)
    return None


def _done(future: asyncio.Future[Any]) -> asyncio.Future[None]:
    """Done when `future` is. Whoever is cancelled while waiting for it leaves `future` alone; a tenth of a `shield`."""
    waiter: asyncio.Future[None] = future.get_loop().create_future()
    future.add_done_callback(lambda _: None if waiter.done() else waiter.set_result(None))
    return waiter
