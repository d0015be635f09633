"""Engines in every store: made with their session, executed by runs, found, listed and removed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from innkeeper.core.changes import AcceptRun, DeleteSession
from innkeeper.core.claims import Claim
from innkeeper.core.control_changes import CreateEngine, DeleteEngine
from innkeeper.core.engines import Engine, EngineStatus
from innkeeper.core.errors import EngineNotFound, IdempotencyMismatch, TooBusy
from innkeeper.core.events import EndStatus
from innkeeper.core.identity import Caller
from innkeeper.core.outcomes import Accepted, Done, Missing, Repeated
from innkeeper.core.sessions import Session
from innkeeper.storage.programs.proofs import proof
from tests.support.turns import ANN, BOB, Store, accept, accepted_by, create, end, fence, new_id, now, session_called


async def a_session(store: Store, session_id: str = "s", caller: Caller = ANN) -> Session:
    await store.journal.commit((create(session_id, caller),))
    return await session_called(store, session_id, caller)


def an_engine(session: Session, engine_type: str = "echo") -> Engine:
    return Engine(new_id(), session.owner, session.user_id, session.key, session.id, engine_type, now())


async def made(store: Store, session: Session) -> Engine:
    engine = an_engine(session)
    assert await store.journal.commit((CreateEngine(engine),)) == (Done(),)
    return engine


def execute(engine: Engine, text: str = "Hi") -> AcceptRun:
    return replace(accept(text, engine.session_id), engine_id=engine.id)


async def executed(store: Store, engine: Engine, text: str = "Hi") -> Accepted:
    return await accepted_by(store, execute(engine, text))


async def found(store: Store, engine: Engine, caller: Caller = ANN) -> Engine:
    one = await store.engines.find(caller, engine.id)
    assert one is not None
    return one


async def listed(store: Store, caller: Caller = ANN, **wanted: object) -> list[str]:
    page, has_more = await store.engines.page(caller, limit=100, **wanted)  # type: ignore[arg-type]  # any filters
    assert not has_more
    return [engine.id for engine in page]


async def test_an_engine_is_found_as_it_was_made(store: Store) -> None:
    configuration = {"temperature": 0.5, "stop": ["a", "\0"], "variables": {"ä": None}}
    session = await a_session(store)
    engine = replace(an_engine(session), model_name="gpt-4", configuration=configuration)
    assert await store.journal.commit((CreateEngine(engine),)) == (Done(),)
    assert await found(store, engine) == engine
    assert engine.status is EngineStatus.INITIALIZED


async def test_an_engine_may_be_made_in_one_call_with_its_session(store: Store) -> None:
    creation = create("new")
    engine = an_engine(creation.session)
    await store.journal.commit((creation, CreateEngine(engine)))
    assert await found(store, engine) == engine


async def test_an_engine_of_a_session_that_is_gone_is_not_made(store: Store) -> None:
    session = await a_session(store)
    engine = an_engine(session)
    await store.journal.commit((DeleteSession(session.key),))
    assert await store.journal.commit((CreateEngine(engine, Claim("key", "digest")),)) == (Missing(),)
    assert await store.engines.find(ANN, engine.id) is None
    other = an_engine(await a_session(store, "t"))
    assert await store.journal.commit((CreateEngine(other, Claim("key", "another")),)) == (Done(),), "the key is free"


async def test_nobody_else_sees_or_removes_an_engine(store: Store) -> None:
    engine = await made(store, await a_session(store))
    assert await store.engines.find(BOB, engine.id) is None
    assert await listed(store, BOB) == await listed(store, BOB, session_key=engine.session_key) == []
    assert await store.journal.commit((DeleteEngine(engine.id, BOB.owner),)) == (Missing(),)
    assert await listed(store) == [engine.id]


async def test_an_engine_that_is_removed_leaves_its_session_and_its_runs(store: Store) -> None:
    engine = await made(store, await a_session(store))
    accepted = await executed(store, engine)
    assert await store.journal.commit((DeleteEngine(engine.id, ANN.owner),)) == (Done(),)
    assert await store.journal.commit((DeleteEngine(engine.id, ANN.owner),)) == (Missing(),)
    assert await store.engines.find(ANN, engine.id) is None
    await store.journal.commit((end(accepted),), fence(accepted))
    run = await store.runs.find(ANN, accepted.run.id)
    assert run is not None
    assert (run.status, run.session_id) == ("completed", "s")


@pytest.mark.parametrize(
    ("status", "expected"),
    [("completed", "idle"), ("cancelled", "idle"), ("interrupted", "idle"), ("failed", "failed")],
)
async def test_its_status_is_that_of_its_last_run(store: Store, status: EndStatus, expected: str) -> None:
    engine = await made(store, await a_session(store))
    accepted = await executed(store, engine)
    running = await found(store, engine)
    assert (running.status, running.last_run_id) == (EngineStatus.ACTIVE, accepted.run.id)
    await store.journal.commit((end(accepted, status=status),), fence(accepted))
    assert (await found(store, engine)).status == expected
    for one in EngineStatus:
        assert await listed(store, status=one) == ([engine.id] if one == expected else [])


async def test_an_engine_is_active_while_its_last_run_waits_for_another(store: Store) -> None:
    engine = await made(store, await a_session(store))
    await executed(store, engine, "first")
    second = await executed(store, engine, "second")
    assert second.run.status == "queued"
    waiting = await found(store, engine)
    assert (waiting.status, waiting.last_run_id) == (EngineStatus.ACTIVE, second.run.id)


async def test_a_run_of_the_session_that_is_not_the_engines_leaves_it_alone(store: Store) -> None:
    engine = await made(store, await a_session(store))
    await accepted_by(store, accept("Hi", "s"))
    assert (await found(store, engine)).status is EngineStatus.INITIALIZED


async def test_engines_are_paged_newest_first(store: Store) -> None:
    here, there = await a_session(store), await a_session(store, "t")
    engines = [await made(store, session) for session in (here, there, here, there, here)]
    ids = [engine.id for engine in reversed(engines)]
    page, has_more = await store.engines.page(ANN, limit=2)
    assert ([engine.id for engine in page], has_more) == (ids[:2], True)
    page, has_more = await store.engines.page(ANN, limit=3, after=ids[1])
    assert ([engine.id for engine in page], has_more) == (ids[2:], False)
    assert await listed(store, session_key=here.key) == ids[::2]
    await executed(store, engines[0])
    assert await listed(store, session_key=here.key, status=EngineStatus.INITIALIZED) == ids[:4:2]
    assert await listed(store, session_key=here.key, status=EngineStatus.ACTIVE) == [engines[0].id]
    assert await listed(store, session_key=there.key, status=EngineStatus.ACTIVE) == []


async def test_a_session_takes_its_engines_along(store: Store) -> None:
    session, other = await a_session(store), await a_session(store, "t")
    await made(store, session)
    stays = await made(store, other)
    await store.journal.commit((DeleteSession(session.key),))
    assert await listed(store) == [stays.id]


def removed(engine: Engine) -> tuple[DeleteEngine]:
    return (DeleteEngine(engine.id, engine.owner),)


def without_its_session(engine: Engine) -> tuple[DeleteSession]:
    return (DeleteSession(engine.session_key),)


@pytest.mark.parametrize("remove", [removed, without_its_session])
async def test_an_engine_that_is_gone_is_not_executed(store: Store, remove: Callable[[Engine], tuple[object]]) -> None:
    engine = await made(store, await a_session(store))
    await store.journal.commit(remove(engine))  # type: ignore[arg-type]  # either is a change
    with pytest.raises(EngineNotFound):
        await executed(store, engine)
    page, _ = await store.runs.page(ANN, limit=10)
    assert page == []


async def test_an_engine_is_not_executed_in_another_session(store: Store) -> None:
    engine = await made(store, await a_session(store))
    await a_session(store, "t")
    with pytest.raises(EngineNotFound):
        await accepted_by(store, replace(accept("Hi", "t"), engine_id=engine.id))
    assert (await found(store, engine)).status is EngineStatus.INITIALIZED


async def test_an_owner_has_so_many_engines_and_no_more(store: Store) -> None:
    session, bobs = await a_session(store), await a_session(store, "b", BOB)
    engines = [an_engine(session) for _ in range(3)]
    for engine in engines[:2]:
        assert await store.journal.commit((CreateEngine(engine, at_most=2),)) == (Done(),)
    refused = CreateEngine(engines[2], Claim("key", "digest"), at_most=2)
    with pytest.raises(TooBusy, match="You have 2 engines already"):
        await store.journal.commit((refused,))
    assert await store.journal.commit((CreateEngine(an_engine(bobs), at_most=2),)) == (Done(),)
    await store.journal.commit((DeleteEngine(engines[0].id, ANN.owner),))
    assert await store.journal.commit((refused,)) == (Done(),)


async def test_the_same_request_again_is_told_which_engine_it_made(store: Store) -> None:
    session, claim = await a_session(store), Claim("key", "the request")
    requests = [an_engine(session) for _ in range(8)]
    answers = await asyncio.gather(*(store.journal.commit((CreateEngine(one, claim),)) for one in requests))
    (engine,) = [one for one, (answer,) in zip(requests, answers, strict=True) if answer == Done()]
    repeated = [answer for (answer,) in answers if isinstance(answer, Repeated)]
    assert len(repeated) == 7
    for one in repeated:
        assert (one.claimed.subject, one.claimed.answer) == (engine.id, b"s")
    assert await listed(store) == [engine.id]
    with pytest.raises(IdempotencyMismatch):
        await store.journal.commit((CreateEngine(an_engine(session), Claim("key", "another request")),))


async def test_the_proof_of_an_engine_is_its_own_row(store: Store) -> None:
    creation = CreateEngine(an_engine(await a_session(store)))
    query = proof((creation,), (Done(),))
    assert query is not None
    assert query.values == {"by_id": creation.engine.id}
    assert proof((creation,), (Missing(),)) is None
