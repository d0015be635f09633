"""Administrators in every store: known by one address and one id, never none, and what is counted of users."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace

import asyncpg
import pytest

from innkeeper.core.administration import AddAdmin, RemoveAdmin
from innkeeper.core.admins import Admin, PlatformStatistics
from innkeeper.core.control_changes import CreateToken
from innkeeper.core.errors import AdminConflict, LastAdmin
from innkeeper.core.identity import Owner, Role
from innkeeper.core.outcomes import Done, Missing
from innkeeper.core.times import Instant
from innkeeper.core.tokens import Token
from innkeeper.storage.programs.proofs import proof
from innkeeper.storage.sqlite.stores import SqliteStore
from tests.support.turns import Store, new_id, now

DAY = 86_400 * 1_000_000


def admin(name: str, **fields: object) -> Admin:
    made = Admin(new_id(), f"{name}@example.org", f"user_{name}", name.title(), "root", now())
    return replace(made, **fields)  # type: ignore[arg-type]


async def added(store: Store, *names: str) -> list[Admin]:
    made = [admin(name) for name in names]
    for one in made:
        assert await store.journal.commit((AddAdmin(one),)) == (Done(),)
    return made


async def test_an_administrator_is_found_as_it_was_added_by_address_and_by_id(store: Store) -> None:
    ann, bob = await added(store, "ann", "bob")
    assert await store.admins.all() == [ann, bob]
    assert await store.admins.find(email=ann.email) == ann
    assert await store.admins.find(workos_id=bob.workos_id) == bob
    assert await store.admins.find(email="none@example.org", workos_id=ann.workos_id) == ann
    assert await store.admins.find(email="none@example.org") is None
    assert await store.admins.find() is None


async def test_an_address_or_an_id_that_is_known_is_refused_by_name(store: Store) -> None:
    (ann,) = await added(store, "ann")
    for other, param in (
        (admin("bob", email=ann.email), "email"),
        (admin("bob", workos_id=ann.workos_id), "workos_id"),
    ):
        with pytest.raises(AdminConflict) as refused:
            await store.journal.commit((AddAdmin(other),))
        assert refused.value.param == param
    assert await store.admins.all() == [ann]


async def test_of_many_who_add_one_address_at_once_one_succeeds_and_the_others_hear_of_it(store: Store) -> None:
    commits = (store.journal.commit((AddAdmin(admin("ann", workos_id=f"user_{n}")),)) for n in range(8))
    outcomes = await asyncio.gather(*commits, return_exceptions=True)
    assert outcomes.count((Done(),)) == 1
    assert sum(isinstance(one, AdminConflict) for one in outcomes) == 7
    assert len(await store.admins.all()) == 1


async def test_who_is_removed_is_gone_and_who_is_unknown_is_missing(store: Store) -> None:
    ann, bob = await added(store, "ann", "bob")
    assert await store.journal.commit((RemoveAdmin(ann.email, now()),)) == (Done(),)
    assert await store.journal.commit((RemoveAdmin(ann.email, now()),)) == (Missing(),)
    assert await store.admins.all() == [bob]


async def test_the_last_one_stays(store: Store) -> None:
    (ann,) = await added(store, "ann")
    with pytest.raises(LastAdmin):
        await store.journal.commit((RemoveAdmin(ann.email, now()),))
    assert await store.admins.all() == [ann]


async def test_one_stays_however_many_are_removed_at_once(store: Store) -> None:
    for order in (list, reversed) * 3:
        names = [one.email.partition("@")[0] for one in await store.admins.all()]
        await added(store, *(name for name in ("ann", "bob", "cal", "dan") if name not in names))
        everyone = list(await store.admins.all())
        removals = [store.journal.commit((RemoveAdmin(one.email, now()),)) for one in order(everyone)]
        outcomes = await asyncio.gather(*removals, return_exceptions=True)
        assert [isinstance(one, LastAdmin) for one in outcomes].count(True) == 1, outcomes
        assert outcomes.count((Done(),)) == 3
        assert len(await store.admins.all()) == 1


async def test_with_a_person_goes_the_power_of_their_tokens(store: Store) -> None:
    await added(store, "ann", "bob")
    moment = now()
    gone = revoked = Instant(5)
    cases: list[tuple[str, Role, Instant | None, Instant | None]] = [
        ("ann@example.org", Role.ADMIN, None, moment),
        ("Ann@Example.org", Role.ADMIN, None, moment),
        ("user_ann", Role.ADMIN, None, moment),
        ("ann@example.org", Role.ADMIN, gone, revoked),
        ("ann@example.org", Role.USER, None, None),
        ("bob@example.org", Role.ADMIN, None, None),
        ("ann", Role.ADMIN, None, None),
    ]
    tokens = [
        Token(f"ik{number:016}", Owner(f"org-{number % 2}", user), role, now(), revoked_at=before)
        for number, (user, role, before, _) in enumerate(cases)
    ]
    await store.journal.commit(tuple(CreateToken(token, "d" * 64) for token in tokens))
    await store.journal.commit((RemoveAdmin("ann@example.org", moment),))
    found = [await store.tokens.find(token.id) for token in tokens]
    assert [one[0].revoked_at for one in found if one] == [after for *_, after in cases]


async def test_the_proof_of_an_administrator_is_their_own_row(store: Store) -> None:
    made = admin("ann")
    query = proof((AddAdmin(made),), (Done(),))
    assert query is not None
    assert query.values == {"by_id": made.id, "by_email": made.email}


async def test_what_is_counted_is_told(store: Store) -> None:
    moment = Instant(20_000 * DAY + 5)
    assert await store.admins.statistics(moment) == PlatformStatistics()
    month = 30 * DAY
    await filled(
        store,
        users=[
            ("acme", "ann", "ann", moment),
            ("acme", "ann", "zoe", moment - month),
            ("acme", "bob", "bob", moment - month - 1),
            ("beta", "ann", "ann", moment - 2 * month),
        ],
        days=[(19_999, 4, 3, 100, 10), (20_000, 2, 2, 5, 7), (20_001, 1, 1, 1, 1)],
    )
    assert await store.admins.statistics(moment) == PlatformStatistics(
        users=4, active_users=2, organizations=2, requests=7, requests_today=2, tokens=124, tokens_today=12
    )


async def filled(
    store: Store, users: list[tuple[str, str, str, int]], days: list[tuple[int, int, int, int, int]]
) -> None:
    rows = [f"INSERT INTO users VALUES ('{org}', '{owner}', '{user}', 1, {seen})" for org, owner, user, seen in users]
    rows += [f"INSERT INTO days VALUES {day}" for day in days]
    if isinstance(store, SqliteStore):
        with closing(sqlite3.connect(store.database, timeout=10)) as by_hand, by_hand:
            for row in rows:
                by_hand.execute(row)
        return
    connection = await asyncpg.connect(store._address.url)
    await connection.execute(";".join(rows))
    await connection.close()
