"""The sessions of an end user by number, with their true total, over every store."""

from __future__ import annotations

from dataclasses import replace

import pytest

from innkeeper.core.changes import DeleteSession
from innkeeper.core.identity import Caller, Owner
from innkeeper.core.usage import Usage
from innkeeper.storage import history_readers
from tests.support.turns import (
    ANN,
    BOB,
    ROOT,
    Store,
    accept,
    accepted_by,
    create,
    end,
    fence,
    new_session,
    session_called,
)

ELSEWHERE = Caller(Owner("globex", "ann"))


async def numbered(store: Store, caller: Caller, user: str, limit: int = 100, offset: int = 0) -> tuple[list[str], int]:
    found, total = await store.sessions.numbered(caller, user, limit=limit, offset=offset)
    return [session.id for session in found], total


@pytest.mark.parametrize("stretch", [1, 3, 4, 20_000])
async def test_every_page_has_its_sessions_and_the_true_total(
    store: Store, monkeypatch: pytest.MonkeyPatch, stretch: int
) -> None:
    monkeypatch.setattr(history_readers, "STRETCH", stretch)
    for number in range(7):
        await store.journal.commit((create(f"own-{number}"), create(f"her-{number}", user_id="her")))
    for user, prefix in (("ann", "own"), ("her", "her")):
        everything = [f"{prefix}-{number}" for number in reversed(range(7))]
        for limit in (1, 2, 3, 7, 10):
            for offset in range(9):
                assert await numbered(store, ANN, user, limit, offset) == (everything[offset : offset + limit], 7)


async def test_what_is_deleted_or_not_recorded_is_not_counted(store: Store) -> None:
    for name in ("a", "b", "c"):
        await store.journal.commit((create(name),))
    await store.journal.commit((DeleteSession((await session_called(store, "b")).key),))
    await accepted_by(store, accept("not kept", "d", recorded=False))
    assert await numbered(store, ANN, "ann") == (["c", "a"], 2)


async def test_nobody_sees_or_counts_what_is_anothers(store: Store) -> None:
    await store.journal.commit((create("ann's"), create("his", user_id="him"), create("ann's too", ELSEWHERE)))
    await store.journal.commit((create("bob's", BOB), create("also his", BOB, user_id="him")))
    assert await numbered(store, ANN, "ann") == (["ann's"], 1)
    assert await numbered(store, ANN, "him") == (["his"], 1)
    assert await numbered(store, BOB, "him") == (["also his"], 1)
    assert await numbered(store, ANN, "bob") == ([], 0)


async def test_an_admin_sees_a_users_sessions_one_tenants_after_another(store: Store) -> None:
    await store.journal.commit((create("1"), create("2", ELSEWHERE), create("3"), create("4", BOB, user_id="ann")))
    assert await numbered(store, ROOT, "ann") == (["3", "1", "2", "4"], 4)
    assert await numbered(store, ROOT, "ann", limit=2, offset=1) == (["1", "2"], 4)
    assert await numbered(store, ROOT, "nobody") == ([], 0)


async def test_the_tokens_that_runs_put_out_are_told_by_run(store: Store) -> None:
    for usage in (Usage(3, 5), None):
        accepted = await accepted_by(store, accept("q", "s"))
        await store.journal.commit((end(accepted, usage=usage),), fence(accepted))
    session = await session_called(store, "s")
    first, _ = [message.run_id for message in await store.sessions.messages(session) if message.message.role == "user"]
    assert await store.sessions.outputs(session) == {first: 5}
    assert await store.sessions.outputs(replace(new_session("other"), key="none")) == {}


async def test_no_name_is_too_odd_to_ask_for(store: Store) -> None:
    for name in ("\x00", "x" * 256, "%", "'"):
        assert await numbered(store, ROOT, name) == ([], 0)
