"""Erasure on every store: of a user nothing is left but what was consumed, without the name; others keep everything."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import closing
from dataclasses import replace
from decimal import Decimal

import asyncpg
import pytest

from innkeeper.core.action_changes import ResumeRun
from innkeeper.core.actions import Action, Answer
from innkeeper.core.administration import DeriveChatLogs, SetBalance
from innkeeper.core.changes import CreateSession, DeleteSession, KeepClaim
from innkeeper.core.claims import Claim
from innkeeper.core.control_changes import CreateToken, KeepLogs
from innkeeper.core.credits import ModelUsage
from innkeeper.core.file_changes import ChangeWorkspace, KeepFile, Write
from innkeeper.core.files import Place, StoredFile
from innkeeper.core.identity import Caller, Owner, Role
from innkeeper.core.logs import Level, LogRecord
from innkeeper.core.tokens import Token
from innkeeper.core.usage import CreditRecord, Usage
from innkeeper.services.audit import Audit
from innkeeper.services.erasures import Erasures
from innkeeper.storage.sqlite.scrubbing import scrub
from innkeeper.storage.sqlite.stores import SqliteStore
from innkeeper.vaults.stored import StoredVault
from tests.contracts.test_files import reserved
from tests.contracts.test_journal_actions import pause as pause_of
from tests.support.turns import (
    Store,
    accept,
    accepted_by,
    end,
    events,
    fence,
    inject,
    injected_by,
    new_id,
    new_session,
    now,
)

CANARY = "canary-" + "q9" * 12
EVE = "eve-" + "z7" * 8
OPERATOR = Owner("local", "cli:operator")
AS_EVE = Caller(Owner("acme", EVE))
"""The one who is forgotten."""
SERVICE = Caller(Owner("acme", "service"))
"""Asks on behalf of end users."""
NAMESAKE = Caller(Owner("other", EVE))


async def left_by(store: Store, caller: Caller, mark: str, user_id: str | None = None) -> None:
    """All kinds of rows of somebody, with `mark` in what was said; `user_id` is on whose behalf."""
    whose = caller.owner
    for recorded in (True, False):
        change = accept(f"{mark} said", f"s-{user_id}", caller=caller, user_id=user_id, recorded=recorded)
        accepted = await accepted_by(store, replace(change, run=replace(change.run, metadata={"of": mark})))
        if recorded:  # else it would wait for whatever this caller asks next
            await injected_by(store, inject(f"{mark} injected", caller=caller, run_id=accepted.run.id))
        await store.journal.commit((events(2, f'"{mark} event"'.encode()),), fence(accepted))
        record = CreditRecord(new_id(), Decimal(2), f"{mark} reason", {"of": mark}, now())
        ending = end(accepted, f"{mark} answer", seq=3, usage=Usage(1, 2))
        ending = replace(ending, records=(record,), models=(ModelUsage(Usage(1, 2, "m"), None),))
        await store.journal.commit((ending,), fence(accepted))
        line = LogRecord(
            new_id(), whose, "server", Level.ERROR, "agents", f"{mark} fault", now(), accepted.run.session_id
        )
        await store.journal.commit((KeepLogs((line,)),))
    await left_waiting(store, caller, mark, user_id)
    session = new_session(f"{mark} empty {new_id()}", caller, user_id)
    await store.journal.commit((CreateSession(session),))
    line = LogRecord(new_id(), whose, "client", Level.INFO, "client", f"{mark} line", now(), session.id)
    await store.journal.commit((KeepLogs((line,)),))
    if user_id is None:
        await injected_by(store, inject(f"{mark} later", caller=caller))
        token = Token(f"ik{new_id().replace('-', '')[-16:]}", whose, Role.USER, now(), name=f"{mark} token")
        await store.journal.commit((CreateToken(token, new_id()),))
        await store.journal.commit((KeepClaim(whose, Claim(f"{mark} key", "x"), "run_1", now(), mark.encode()),))
        balance = SetBalance(whose.organization, whose.user, 5, new_id(), "boss", f"{mark} credit", now())
        await store.journal.commit((balance,))


async def left_waiting(store: Store, caller: Caller, mark: str, user_id: str | None) -> None:
    """A run that waits for people, one that has waited, a file, and one in the workspace of a session."""
    whose = caller.owner
    for session_id in ("waits", "goes on"):
        change = accept(f"{mark} said", f"{session_id} {new_id()}", caller=caller, user_id=user_id)
        run = replace(change.run, request={"instructions": mark})
        accepted = await accepted_by(store, replace(change, run=run))
        pause = pause_of(accepted, Action("one", "approval", f"{mark} tool", json.dumps({"text": mark})))
        await store.journal.commit((replace(pause, state=f"{mark} state"),), fence(accepted))
        if session_id == "goes on":
            answer = Answer("one", "deny", message=f"{mark} message")
            await store.journal.commit((ResumeRun(run.id, whose, (answer,), whose.user, "w-2", now()),))
    blob, of_workspace = await reserved(store), await reserved(store)
    kept = StoredFile(f"file-{mark}-{new_id()}", whose, user_id or whose.user, f"{mark}.txt", "user_data",
        "text/plain", blob.size, blob.digest, blob.id, now())  # fmt: skip
    write = Write(f"{mark}.txt", "text/plain", of_workspace)
    place = Place("session", accepted.run.session_key, whose.organization)
    changed = ChangeWorkspace(place, (write,), (), mark, now(), 10, 100, None)
    await store.journal.commit((KeepFile(kept, blob.due_at, None), changed))


async def tables(store: Store) -> Mapping[str, list[str]]:
    """The rows of every table as text."""
    if isinstance(store, SqliteStore):
        with closing(sqlite3.connect(store.database)) as connection:
            names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            return {name: [repr(row) for row in connection.execute(f'SELECT * FROM "{name}"')] for name in names}
    connection = await asyncpg.connect(store._address.url)
    try:
        found = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return {
            name: [repr(tuple(row.values())) for row in await connection.fetch(f'SELECT * FROM "{name}"')]
            for (name,) in found
        }
    finally:
        await connection.close()


def holding(found: Mapping[str, list[str]], text: str) -> dict[str, int]:
    """In how many rows of which tables a text is."""
    counted = {name: sum(text in row for row in rows) for name, rows in found.items()}
    return {name: count for name, count in counted.items() if count}


def erasures_of(store: Store) -> Erasures:
    return Erasures(
        journal=store.journal,
        users=store.users,
        tokens=StoredVault(store.journal, store.tokens),
        audit=Audit(journal=store.journal, now=now, new_id=new_id),
        now=now,
        new_id=lambda: new_id().replace("-", ""),
        scrub=lambda: asyncio.to_thread(store.scrub),
    )


@pytest.fixture(params=[True, False], ids=["derived", "not yet derived"])
async def lived_in(request: pytest.FixtureRequest, store: Store) -> AsyncIterator[Store]:
    """With rows of Eve, of who asks on her behalf and on another's, and of one of her name elsewhere."""
    await left_by(store, AS_EVE, CANARY)
    await left_by(store, SERVICE, CANARY, EVE)
    await left_by(store, AS_EVE, CANARY, "client-of-eve")
    await left_by(store, SERVICE, "innocent", "other-client")
    await left_by(store, NAMESAKE, "innocent")
    if request.param:
        await store.journal.commit((DeriveChatLogs(),))
    yield store


async def test_no_byte_of_a_user_is_left_but_the_name_in_the_audit_log(lived_in: Store) -> None:
    before = await tables(lived_in)
    found = {"sessions", "messages", "runs", "injections", "log_records", "credit_records", "actions", "continuations"}
    assert found | {"files", "workspace_files"} <= set(holding(before, CANARY))

    erased = await erasures_of(lived_in).forget(OPERATOR, EVE, "acme")

    assert erased.rows > 0
    after = await tables(lived_in)
    assert holding(after, CANARY) == {}
    theirs = {name: [row for row in rows if "acme" in row or name == "audit_entries"] for name, rows in after.items()}
    assert holding(theirs, EVE) == {"audit_entries": 1}
    assert holding(after, "user.forget") == {"audit_entries": 1}


async def test_what_others_have_stays(lived_in: Store) -> None:
    before = await tables(lived_in)
    await erasures_of(lived_in).forget(OPERATOR, EVE, "acme")
    after = await tables(lived_in)
    for mark in ("innocent", "other-client", "'other'"):
        assert holding(after, mark) == holding(before, mark)


async def test_what_was_consumed_stays_under_one_name_that_tells_nothing(lived_in: Store) -> None:
    before = await tables(lived_in)
    await erasures_of(lived_in).forget(OPERATOR, EVE, "acme")
    after = await tables(lived_in)
    for name in ("credit_records", "model_usage", "balance_entries", "tokens"):
        assert len(after[name]) == len(before[name])
    assert len(holding(after, "'forgotten-")) == 4
    named = {row[row.index("forgotten-") :][:18] for rows in after.values() for row in rows if "forgotten-" in row}
    assert len(named) == 1


async def test_without_an_organization_a_user_goes_everywhere(lived_in: Store) -> None:
    erasures = erasures_of(lived_in)
    assert await erasures.places(EVE) == ["acme", "other"]
    await erasures.forget(OPERATOR, EVE)
    assert set(holding(await tables(lived_in), EVE)) == {"audit_entries"}
    assert await erasures.places(EVE) == []
    assert (await erasures.forget(OPERATOR, EVE)).rows == 0


async def test_what_the_server_said_of_a_session_that_was_deleted_since_goes_too(store: Store) -> None:
    accepted = await accepted_by(store, accept("Hi", "room", caller=SERVICE, user_id=EVE))
    await store.journal.commit((end(accepted, "Hello", seq=2),), fence(accepted))
    line = LogRecord(new_id(), SERVICE.owner, "server", Level.ERROR, "agents", CANARY, now(), "room")
    await store.journal.commit((KeepLogs((line,)),))
    await store.journal.commit((DeleteSession(accepted.run.session_key),))
    await erasures_of(store).forget(OPERATOR, EVE)
    assert holding(await tables(store), CANARY) == {}


async def test_of_whom_nothing_is_stored_but_a_message_for_an_agent_is_found(store: Store) -> None:
    await injected_by(store, inject(CANARY, caller=AS_EVE))
    assert await erasures_of(store).places(EVE) == ["acme"]
    await erasures_of(store).forget(OPERATOR, EVE)
    assert holding(await tables(store), CANARY) == {}


async def test_an_erased_user_s_token_is_revoked(lived_in: Store) -> None:
    ((token, *_), _) = await lived_in.tokens.page(limit=9, user=EVE, organization="acme")
    await erasures_of(lived_in).forget(OPERATOR, EVE, "acme")
    found = await lived_in.tokens.find(token.id)
    assert found is not None
    assert found[0].revoked_at is not None


async def test_rows_that_are_derived_while_their_user_is_forgotten_go_with_the_others(store: Store) -> None:
    for _ in range(30):
        await left_by(store, AS_EVE, CANARY, "client-of-eve")
    deriving = [store.journal.commit((DeriveChatLogs(3),)) for _ in range(20)]
    await asyncio.gather(erasures_of(store).forget(OPERATOR, EVE, "acme"), *deriving)
    assert holding(await tables(store), CANARY) == {}


async def test_no_byte_is_left_in_the_files_of_sqlite_even_beside_a_server(lived_in: Store) -> None:
    if not isinstance(lived_in, SqliteStore):
        pytest.skip("The files of PostgreSQL are its own affair.")
    folder = lived_in.database.parent
    assert any(CANARY.encode() in file.read_bytes() for file in folder.iterdir())
    assert (await erasures_of(lived_in).forget(OPERATOR, EVE, "acme")).is_scrubbed
    for file in folder.iterdir():
        assert CANARY.encode() not in file.read_bytes(), file


async def test_a_large_file_is_not_written_anew_while_it_is_served(lived_in: Store) -> None:
    if not isinstance(lived_in, SqliteStore):
        pytest.skip("The files of PostgreSQL are its own affair.")
    assert not scrub(lived_in.database, largest_served=1024)
    await lived_in.close()
    assert scrub(lived_in.database, largest_served=1024)
    await lived_in.open()
