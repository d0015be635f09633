"""Logs: who sees whose records."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from innkeeper.core.changes import DeleteSession
from innkeeper.core.control_changes import KeepLogs
from innkeeper.core.errors import SessionNotFound
from innkeeper.core.identity import LOCAL_CALLER, Caller, Owner, Role
from innkeeper.core.logs import NOBODY, Level, LogFilter, LogRecord
from innkeeper.core.times import Instant
from innkeeper.http.contexts import new_id, now
from innkeeper.services.logs import Logs
from innkeeper.storage.sqlite.stores import SqliteStore
from tests.support.turns import create

ANN = Caller(Owner("acme", "ann"))
BOB = Caller(Owner("acme", "bob"))
READER = Caller(Owner("acme", "ann"), Role.READ)
OPERATORS = {
    "an administrator": Caller(Owner("acme", "root"), Role.ADMIN),
    "a token with the scope": Caller(Owner("acme", "bob"), Role.READ, frozenset({"observability"})),
    "the local user": LOCAL_CALLER,
}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "innkeeper.db")
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def logs(store: SqliteStore) -> Logs:
    """The logs of a server where ann has said one thing, bob another, and the server two: one of a run of ann's."""
    made = Logs(journal=store.journal, logs=store.logs, sessions=store.sessions, now=now, new_id=new_id)
    await store.journal.commit((create("s", ANN),))
    await made.add(ANN, Level.INFO, "ann's own", session_id="s")
    await made.add(BOB, Level.INFO, "bob's own")
    for message, owner, session_id in (("of ann's run", ANN.owner, "s"), ("of the server", NOBODY, None)):
        at = Instant(now())
        record = LogRecord(new_id(), owner, "server", Level.ERROR, "innkeeper", message, at, session_id)
        await store.journal.commit((KeepLogs((record,)),))
    return made


async def seen_by(logs: Logs, caller: Caller, wanted: LogFilter | None = None) -> list[str]:
    page = await logs.page(caller, wanted or LogFilter(), limit=100)
    return [record.message for record in page.records]


@pytest.mark.parametrize("caller", [ANN, READER])
async def test_everyone_sees_their_own_and_what_the_server_said_of_their_runs(logs: Logs, caller: Caller) -> None:
    assert await seen_by(logs, caller) == ["of ann's run", "ann's own"]
    assert await seen_by(logs, caller, LogFilter(session_id="s")) == ["of ann's run", "ann's own"]


async def test_nobody_sees_what_is_others_or_the_servers_own(logs: Logs) -> None:
    assert await seen_by(logs, BOB) == ["bob's own"]
    assert await seen_by(logs, BOB, LogFilter(session_id="s")) == []
    assert await seen_by(logs, Caller(Owner("other", "ann"))) == []
    assert await seen_by(logs, Caller(Owner("acme", "eve"), scopes=frozenset({"code"}))) == []


@pytest.mark.parametrize("caller", OPERATORS.values(), ids=OPERATORS)
async def test_who_operates_the_server_sees_everything(logs: Logs, caller: Caller) -> None:
    assert await seen_by(logs, caller) == ["of the server", "of ann's run", "bob's own", "ann's own"]


async def test_nobody_but_an_administrator_adds_records_to_others_sessions(logs: Logs) -> None:
    with pytest.raises(SessionNotFound):
        await logs.add(BOB, Level.INFO, "mine now", session_id="s")
    record, _ = await logs.add(OPERATORS["an administrator"], Level.INFO, "seen to", session_id="s")
    assert record.owner == OPERATORS["an administrator"].owner


async def test_records_stay_when_their_session_goes(store: SqliteStore, logs: Logs) -> None:
    session = await store.sessions.find(ANN, "s")
    assert session is not None
    await store.journal.commit((DeleteSession(session.key),))
    assert await seen_by(logs, ANN, LogFilter(session_id="s")) == ["of ann's run", "ann's own"]


async def test_records_are_listed_in_the_order_in_which_they_were_added(store: SqliteStore, logs: Logs) -> None:
    await asyncio.gather(*(logs.add(BOB, Level.DEBUG, f"line {number}") for number in range(100)))
    lines = await seen_by(logs, BOB)
    assert lines == [f"line {number}" for number in reversed(range(100))]
