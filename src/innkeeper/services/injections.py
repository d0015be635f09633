"""Injections: a message for a run under way, with a receipt; stored before it is acknowledged."""

from __future__ import annotations

from collections.abc import Callable

from innkeeper.core.changes import AcceptInjection
from innkeeper.core.claims import Claim
from innkeeper.core.errors import InjectionNotFound, RunNotFound, SessionNotFound
from innkeeper.core.identity import Caller, Owner
from innkeeper.core.injections import Injection
from innkeeper.core.outcomes import Injected, Missing, Repeated
from innkeeper.core.times import Instant
from innkeeper.ports.journal import Journal
from innkeeper.ports.readers import InjectionReader, RunReader, SessionReader
from innkeeper.services.agents import AgentRegistry
from innkeeper.services.identities import checked_user


class Injections:
    """The use cases of injections."""

    def __init__(
        self,
        *,
        journal: Journal,
        injections: InjectionReader,
        sessions: SessionReader,
        runs: RunReader,
        agents: AgentRegistry,
        now: Callable[[], int],
        new_id: Callable[[], str],
    ) -> None:
        self._journal = journal
        self._injections = injections
        self._sessions = sessions
        self._runs = runs
        self._agents = agents
        self._now = now
        self._new_id = new_id

    async def accept(
        self,
        caller: Caller,
        content: str,
        *,
        agent_name: str | None = None,
        session_id: str | None = None,
        run_id: str | None = None,
        user_id: str | None = None,
        claim: Claim | None = None,
    ) -> tuple[Injection, bool]:
        """Store a message for the caller's newest run under way that fits, or for the next one.

        Where nothing is named, the default agent is meant. With a `user_id` it is for a run of that end user's, among
        whose sessions `session_id` is looked for. What is injected into another's run or session, by who sees
        everybody's, is that owner's.

        Returns the receipt, and whether the same request had been made before.

        Raises: NoAgents, AgentNotFound; NoDefaultAgent where nothing is named and there is no default;
        SessionNotFound, RunNotFound; Forbidden for another's end user; IdempotencyMismatch; StorageUnavailable.
        """
        user = checked_user(caller, user_id)
        agent = None
        if agent_name is not None or (session_id is None and run_id is None):
            agent = (await self._agents.find(agent_name)).name
        owner, session_key = caller.owner, None
        if run_id is not None and caller.sees_all:
            owner = await self._owner_of(caller, run_id)
        if session_id is not None:
            session = await self._sessions.find(caller.acting_for(owner), session_id, user)
            if session is None:
                raise SessionNotFound(f"Session {session_id!r} does not exist.", param="session_id")
            owner, session_key = session.owner if run_id is None else owner, session.key
        change = AcceptInjection(
            id=f"inj_{self._new_id()}",
            owner=owner,
            content=content,
            agent_name=agent,
            now=Instant(self._now()),
            session_key=session_key,
            run_id=run_id,
            names_agent=agent is not None,
            claim=claim,
            user_id=user,
        )
        (outcome,) = await self._journal.commit((change,))
        if isinstance(outcome, Missing):
            raise _no_run(run_id, user)
        if isinstance(outcome, Repeated):
            return await self.get(caller, outcome.claimed.subject), True
        assert isinstance(outcome, Injected), "an injection is answered with its receipt"
        return outcome.injection, False

    async def _owner_of(self, caller: Caller, run_id: str) -> Owner:
        run = await self._runs.find(caller, run_id)
        if run is None:
            raise RunNotFound(f"Run {run_id!r} does not exist.", param="run_id")
        return run.owner

    async def get(self, caller: Caller, injection_id: str) -> Injection:
        """Raises: InjectionNotFound."""
        injection = await self._injections.find(caller, injection_id)
        if injection is None:
            raise InjectionNotFound(f"Injection {injection_id!r} does not exist.", param="injection_id")
        return injection


def _no_run(run_id: str | None, user_id: str | None) -> RunNotFound:
    if run_id is not None:
        return RunNotFound(f"Run {run_id!r} does not exist.", param="run_id")
    told = f"No run of {user_id!r} is under way. Name the session_id whose next run is to have the message."
    return RunNotFound(told, param="user_id")
