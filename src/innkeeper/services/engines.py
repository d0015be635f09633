"""Engines: which types there are, and an agent bound to a session, a model and a configuration, to be run again.

An engine's run is a run like any other: `start` words it, and whoever asked hands it to `services.runs`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from innkeeper.core.changes import Change, CreateSession, KeepClaim
from innkeeper.core.claims import Claim, Claimed
from innkeeper.core.control_changes import CreateEngine, DeleteEngine
from innkeeper.core.engines import Engine, EngineStatus, parameters_of
from innkeeper.core.errors import AgentNotFound, EngineNotFound, Invalid, NoAgents, SessionNotFound
from innkeeper.core.identity import Caller
from innkeeper.core.messages import Message
from innkeeper.core.outcomes import Done, Repeated
from innkeeper.core.runs import StartRun
from innkeeper.core.sessions import Session
from innkeeper.core.times import Instant
from innkeeper.ports.journal import Journal
from innkeeper.ports.readers import EngineReader, SessionReader
from innkeeper.services.agents import AgentRegistry, ServedAgent
from innkeeper.services.identities import checked_user, end_user

_ENDPOINT = "/api/engines/{id}/execute"


@dataclass(frozen=True, slots=True)
class EngineType:
    """What an engine can be made of. `models` are the names that its model may have; `None` lets it have any."""

    name: str
    description: str
    model: str | None
    models: tuple[str, ...] | None


class Engines:
    """The use cases of engines. `models` are those that the operator lets engines choose, beside an agent's own."""

    def __init__(
        self,
        *,
        journal: Journal,
        engines: EngineReader,
        sessions: SessionReader,
        agents: AgentRegistry,
        now: Callable[[], int],
        new_id: Callable[[], str],
        models: Sequence[str] = (),
    ) -> None:
        self._journal = journal
        self._engines = engines
        self._sessions = sessions
        self._agents = agents
        self._now = now
        self._new_id = new_id
        self._models = tuple(models)

    def types(self) -> Iterator[EngineType]:
        """What is built in, then one for each registered agent."""
        for agent in (*self._agents.builtins, *self._agents):
            told = agent.describe()
            yield EngineType(agent.name, told.description, told.model, self._models_of(agent))

    async def create(
        self,
        caller: Caller,
        *,
        engine_type: str,
        model_name: str | None = None,
        session_id: str | None = None,
        user_id: str | None = None,
        configuration: Mapping[str, object] | None = None,
        claim: Claim | None = None,
    ) -> tuple[Engine, bool]:
        """The engine as it was made, and whether the same request had made it before, whatever became of it since.

        Without a session it gets one of its own, which is the end user's that is named.

        Raises: AgentNotFound; Invalid for a model that it cannot have; SessionNotFound; Forbidden for another's end
        user; TooBusy where the caller has too many; IdempotencyMismatch.
        """
        self._model(await self._agent(engine_type), model_name)
        now = Instant(self._now())
        if session_id is None:
            session = self._new_session(caller, engine_type, now, end_user(caller, user_id))
        else:
            session = await self._session(caller, session_id, user_id)
        engine = Engine(
            id=self._new_id(),
            owner=session.owner,
            user_id=session.user_id,
            session_key=session.key,
            session_id=session.id,
            engine_type=engine_type,
            created_at=now,
            model_name=model_name,
            configuration=dict(configuration or {}),
        )
        changes = _with(session, engine, claim) if session_id is None else (CreateEngine(engine, claim),)
        outcomes = await self._journal.commit(changes)
        if isinstance(outcomes[-1], Repeated):
            return _as_made(engine, outcomes[-1].claimed), True
        if not isinstance(outcomes[-1], Done):
            raise _no_session(session.id)
        return engine, False

    def _new_session(self, caller: Caller, engine_type: str, now: Instant, user_id: str) -> Session:
        key = self._new_id()
        return Session(key, caller.owner, user_id, key, now, now, agent_name=engine_type)

    async def get(self, caller: Caller, engine_id: str) -> Engine:
        """Raises: EngineNotFound."""
        engine = await self._engines.find(caller, engine_id)
        if engine is None:
            raise _missing(engine_id)
        return engine

    async def page(
        self,
        caller: Caller,
        *,
        limit: int,
        after: str | None = None,
        session_id: str | None = None,
        user_id: str | None = None,
        status: EngineStatus | None = None,
    ) -> tuple[Sequence[Engine], bool]:
        """Newest first, and whether there are more. Of several sessions called `session_id`, `user_id` picks one.

        Raises: SessionNotFound; Forbidden for another's end user; Invalid for one without a session.
        """
        user, session_key = checked_user(caller, user_id), None
        if session_id is not None:
            session_key = (await self._session(caller, session_id, user)).key
        elif user is not None:
            raise Invalid("user_id: name the session_id, too, whose end user this is.", param="user_id")
        return await self._engines.page(caller, limit=limit, after=after, session_key=session_key, status=status)

    async def delete(self, caller: Caller, engine_id: str) -> None:
        """Remove the engine; its session, and what it still runs, stay.

        Raises: EngineNotFound.
        """
        owner = (await self.get(caller, engine_id)).owner if caller.sees_all else caller.owner
        (outcome,) = await self._journal.commit((DeleteEngine(engine_id, owner),))
        if not isinstance(outcome, Done):
            raise _missing(engine_id)

    async def start(
        self, caller: Caller, engine_id: str, prompt: str, wishes: Mapping[str, object], *, stream: bool = False
    ) -> StartRun:
        """The run that executing the engine asks for: its configuration, with the request's `wishes` above it.

        It is a run of the engine's owner, whoever asks for it.

        Raises: EngineNotFound; AgentNotFound where its agent is not served any more; Invalid where its model is not
        allowed any more.
        """
        engine = await self.get(caller, engine_id)
        model = self._model(await self._agent(engine.engine_type), engine.model_name)
        return StartRun(
            agent_name=engine.engine_type,
            messages=(Message("user", prompt),),
            endpoint=_ENDPOINT,
            session_id=engine.session_id,
            user_id=engine.user_id,
            stream=stream,
            parameters=parameters_of(engine.configuration, wishes, model),
            engine_id=engine.id,
        )

    async def _agent(self, engine_type: str) -> ServedAgent:
        try:
            return await self._agents.find(engine_type)
        except (AgentNotFound, NoAgents):
            raise AgentNotFound(
                f"Engine type {engine_type!r} does not exist. GET /api/engine-types lists those that do.",
                param="engine_type",
            ) from None

    def _models_of(self, agent: ServedAgent) -> tuple[str, ...] | None:
        if agent.is_builtin:
            return None
        told = agent.describe()
        own = () if told.model is None else (told.model,)
        return tuple(dict.fromkeys((*own, *(self._models if told.accepts_models else ()))))

    def _model(self, agent: ServedAgent, name: str | None) -> str | None:
        """The model that a run has to be told of, because it is not the agent's own.

        Raises: Invalid for one that the agent cannot have.
        """
        allowed = self._models_of(agent)
        if name is None or allowed is None:
            return None
        if name not in allowed:
            issue = _told(agent, allowed)
            raise Invalid(f"model_name: {issue}", param="model_name", details={"field": "model_name", "issue": issue})
        return None if name == agent.describe().model else name

    async def _session(self, caller: Caller, session_id: str, user_id: str | None) -> Session:
        session = await self._sessions.find(caller, session_id, checked_user(caller, user_id))
        if session is None:
            raise _no_session(session_id)
        return session


def _with(session: Session, engine: Engine, claim: Claim | None) -> tuple[Change, ...]:
    """Both in one commit; the claim comes first, so that neither is made again."""
    made = (CreateSession(session), CreateEngine(engine))
    if claim is None:
        return made
    return (KeepClaim(engine.owner, claim, engine.id, engine.created_at, session.id.encode()), *made)


def _as_made(engine: Engine, claimed: Claimed) -> Engine:
    """The engine as the same request had made it: of the claim are its id, its instant and its session's id."""
    assert claimed.answer is not None, "the claim of an engine keeps its session's id"
    return replace(engine, id=claimed.subject, created_at=claimed.created_at, session_id=claimed.answer.decode())


def _told(agent: ServedAgent, allowed: tuple[str, ...]) -> str:
    told = agent.describe()
    if not allowed and not told.accepts_models:
        return f"Agent {agent.name!r} has no model to choose; leave it out."
    others = " The setting engine_models allows others." if told.accepts_models else ""
    return f"Agent {agent.name!r} may have these models here: {', '.join(allowed) or 'none'}.{others}"


def _missing(engine_id: str) -> EngineNotFound:
    return EngineNotFound(f"Engine {engine_id!r} does not exist.", param="engine_id")


def _no_session(session_id: str) -> SessionNotFound:
    return SessionNotFound(f"Session {session_id!r} does not exist.", param="session_id")
