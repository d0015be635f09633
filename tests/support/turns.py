"""Turns: what a service would write for a conversation, as changes, in as few words as a test wants to spend."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

from uuid_utils import uuid7

from innkeeper.core.changes import (
    AcceptInjection,
    AcceptRun,
    AppendEvents,
    BeginRun,
    CreateSession,
    EndRun,
    Fence,
    Lineage,
    Segment,
    TakeDead,
    TakeQueued,
)
from innkeeper.core.claims import Claim
from innkeeper.core.credits import Terms
from innkeeper.core.events import EndStatus
from innkeeper.core.identity import Caller, Owner, Role
from innkeeper.core.injections import Injection
from innkeeper.core.messages import Message
from innkeeper.core.outcomes import Accepted, Begun, Inherited, Injected, Taken
from innkeeper.core.runs import Plan, Run, RunStatus, WhenBusy
from innkeeper.core.sessions import Session
from innkeeper.core.times import Instant
from innkeeper.core.transcripts import HistoryMode, as_turn, sort
from innkeeper.core.usage import Usage
from innkeeper.storage.postgres.stores import PostgresStore
from innkeeper.storage.sqlite.stores import SqliteStore

Store = SqliteStore | PostgresStore

ANN = Caller(Owner("acme", "ann"))
BOB = Caller(Owner("acme", "bob"))
ROOT = Caller(Owner("house", "root"), Role.ADMIN)
WORKER = "worker-1"


def store_at(url: str) -> Store:
    """The store, not yet open, at `sqlite:///PATH` or `postgresql://…`."""
    return SqliteStore(Path(url.removeprefix("sqlite:///"))) if url.startswith("sqlite") else PostgresStore(url)


_ticks = count(time.time_ns() // 1000)


def now() -> Instant:
    """An instant after every earlier one."""
    return Instant(next(_ticks))


def new_id() -> str:
    return str(uuid7())


def user(text: str) -> Message:
    return Message("user", text)


def assistant(text: str) -> Message:
    return Message("assistant", text)


def system(text: str) -> Message:
    return Message("system", text)


def new_session(session_id: str | None = None, caller: Caller = ANN, user_id: str | None = None) -> Session:
    key, instant = new_id(), now()
    return Session(key, caller.owner, user_id or caller.owner.user, session_id or key, instant, instant)


def create(session_id: str | None = None, caller: Caller = ANN, user_id: str | None = None) -> CreateSession:
    return CreateSession(new_session(session_id, caller, user_id))


async def kept_session(store: Store, session_id: str | None = None, caller: Caller = ANN) -> Session:
    """A session that is stored, and empty."""
    session = new_session(session_id, caller)
    await store.journal.commit((CreateSession(session),))
    return session


def accept(
    messages: str | Sequence[Message] = "Hi",
    session_id: str | None = None,
    *,
    caller: Caller = ANN,
    user_id: str | None = None,
    history: HistoryMode = "auto",
    recorded: bool = True,
    when_busy: WhenBusy = "queue",
    max_queue: int = 10,
    agent_name: str = "echo",
    worker: str = WORKER,
    background: bool = False,
    plan: Plan | None = None,
    webhook: str | None = None,
    claim: Claim | None = None,
    terms: Terms | None = None,
) -> AcceptRun:
    """A request with these messages, in the session that the caller calls `session_id`."""
    sent = (user(messages),) if isinstance(messages, str) else tuple(messages)
    session = new_session(session_id, caller, user_id)
    run = Run(
        id=f"run_{new_id()}",
        owner=caller.owner,
        user_id=session.user_id,
        session_key=session.key,
        session_id=session.id,
        agent_name=agent_name,
        endpoint="/chat",
        status=RunStatus.RUNNING,
        turn=0,
        created_at=session.created_at,
        input=sent,
        background=background,
        recorded=recorded,
    )
    return AcceptRun(
        run=run,
        transcript=sort(sent),
        history=history,
        first=Segment(1, 1, b'{"type":"run"}'),
        new_session=session,
        worker=worker,
        names_session=session_id is not None,
        names_user=user_id is not None,
        when_busy=when_busy,
        max_queue=max_queue,
        plan=plan or (Plan(history=history) if background else None),
        webhook=webhook,
        claim=claim,
        terms=terms,
    )


def inject(
    content: str,
    *,
    caller: Caller = ANN,
    agent_name: str | None = "echo",
    names_agent: bool = False,
    session_key: str | None = None,
    run_id: str | None = None,
    claim: Claim | None = None,
    user_id: str | None = None,
) -> AcceptInjection:
    """A message for a run under way, or for the next one."""
    return AcceptInjection(
        id=f"inj_{new_id()}",
        owner=caller.owner,
        content=content,
        agent_name=agent_name,
        now=now(),
        session_key=session_key,
        run_id=run_id,
        names_agent=names_agent,
        claim=claim,
        user_id=user_id,
    )


def begin(change: AcceptRun, accepted: Accepted) -> BeginRun:
    run = accepted.run
    return BeginRun(run.id, run.session_key, change.transcript, change.history, WORKER, now())


def fence(accepted: Accepted, epoch: int | None = None, worker: str = WORKER) -> Fence:
    return Fence(accepted.run.id, worker, epoch or accepted.epoch)


def events(first: int, *payloads: bytes) -> AppendEvents:
    return AppendEvents(Segment(first, len(payloads), b"\n".join(payloads)), now())


def end(
    accepted: Accepted,
    answer: str | Sequence[Message] = "Hello",
    *,
    seq: int = 2,
    status: EndStatus = "completed",
    visible: Message | None = None,
    usage: Usage | None = None,
) -> EndRun:
    messages = (assistant(answer),) if isinstance(answer, str) else tuple(answer)
    return EndRun(
        run_id=accepted.run.id,
        session_key=accepted.run.session_key,
        status=status,
        segment=Segment(seq, 1, b'{"type":"done"}'),
        now=now(),
        messages=messages,
        visible=visible or (messages[-1] if messages else None),
        output=messages[-1].text if messages else "",
        usage=usage,
    )


async def accepted_by(store: Store, change: AcceptRun) -> Accepted:
    (outcome,) = await store.journal.commit((change,))
    assert isinstance(outcome, Accepted)
    return outcome


async def take_turn(
    store: Store,
    messages: str | Sequence[Message],
    session_id: str | None = None,
    answer: str | Sequence[Message] = "Hello",
    *,
    caller: Caller = ANN,
    user_id: str | None = None,
    history: HistoryMode = "auto",
) -> tuple[Message, ...]:
    """One whole turn; returns the conversation that its agent was given."""
    change = accept(messages, session_id, caller=caller, user_id=user_id, history=history)
    accepted = await accepted_by(store, change)
    assert accepted.lineage is not None
    seen = await given(store, accepted.lineage)
    await store.journal.commit((end(accepted, answer),), fence(accepted))
    return seen


async def given(store: Store, lineage: Lineage) -> tuple[Message, ...]:
    return as_turn(await store.sessions.history(lineage))


async def began_by(store: Store, change: AcceptRun, accepted: Accepted) -> Accepted:
    """The queued run, begun."""
    (outcome,) = await store.journal.commit((begin(change, accepted),))
    assert isinstance(outcome, Begun)
    return replace(accepted, lineage=outcome.lineage, epoch=outcome.epoch)


async def injected_by(store: Store, change: AcceptInjection) -> Injection:
    (outcome,) = await store.journal.commit((change,))
    assert isinstance(outcome, Injected)
    return outcome.injection


async def receipt_of(store: Store, injection_id: str, caller: Caller = ANN) -> Injection:
    injection = await store.injections.find(caller, injection_id)
    assert injection is not None
    return injection


async def taken_by(store: Store, worker: str = WORKER) -> Accepted | None:
    """The background run whose turn has come, begun; `None` if there is none."""
    (outcome,) = await store.journal.commit((TakeQueued(worker, now()),))
    if not isinstance(outcome, Taken):
        return None
    begun = outcome.begun
    return Accepted(outcome.run, begun.lineage, begun.epoch, first=begun.segment)


async def session_called(store: Store, session_id: str, caller: Caller = ANN, user_id: str | None = None) -> Session:
    session = await store.sessions.find(caller, session_id, user_id)
    assert session is not None
    return session


async def spoken(store: Store, session_id: str, caller: Caller = ANN) -> list[str]:
    """The texts of the session's current conversation."""
    session = await session_called(store, session_id, caller)
    return [stored.message.text for stored in await store.sessions.messages(session)]


async def run_of(store: Store, run_id: str, caller: Caller = ANN) -> Run:
    run = await store.runs.find(caller, run_id)
    assert run is not None
    return run


async def log_of(store: Store, run_id: str) -> list[bytes]:
    """The payloads of a run's log; its segments must follow one another."""
    payloads: list[bytes] = []
    while segments := await store.runs.segments(run_id, len(payloads)):
        for segment in segments:
            assert segment.first_seq == len(payloads) + 1
            payloads += segment.payloads()
    return payloads


async def taken_over(store: Store, worker: str = "heir") -> tuple[tuple[Run, Fence], ...]:
    """The runs of workers that are gone, which are `worker`'s from now on."""
    (outcome,) = await store.journal.commit((TakeDead(worker, max_attempts=10),))
    assert isinstance(outcome, Inherited)
    return outcome.runs
