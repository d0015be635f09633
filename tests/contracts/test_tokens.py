"""Tokens wherever they are kept: as digests, found by id, listed by age, told of in the audit log; and of sessions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import pytest

from innkeeper.core.administration import WriteAudit
from innkeeper.core.audit import AuditEntry
from innkeeper.core.changes import CreateSession, DeleteSession, KeepClaim
from innkeeper.core.claims import Claim
from innkeeper.core.control_changes import CreateToken
from innkeeper.core.errors import IdempotencyMismatch
from innkeeper.core.identity import Caller, Owner, Role
from innkeeper.core.outcomes import Done
from innkeeper.core.times import Instant
from innkeeper.core.tokens import Token, guest_of
from innkeeper.ports.tokens import TokenVault
from innkeeper.storage.postgres.stores import PostgresStore
from innkeeper.storage.programs.proofs import proof
from innkeeper.storage.sqlite.stores import SqliteStore
from innkeeper.vaults.redis import RedisVault
from innkeeper.vaults.stored import StoredVault
from tests.support.databases import a_copy_of
from tests.support.turns import ANN, Store, new_session, now

DIGEST = "d" * 64


@dataclass
class Place:
    """Somewhere that tokens are kept, and the store with the audit log."""

    vault: TokenVault
    store: Store

    async def keep(self, *tokens: Token) -> None:
        for one in tokens:
            assert await self.vault.create(one, DIGEST, (entry(one),)) is None

    async def found(self, token_id: str) -> Token:
        pair = await self.vault.find(token_id)
        assert pair is not None
        return pair[0]

    async def told(self) -> list[tuple[str, str | None]]:
        """What the audit log says, the oldest first."""
        entries, _ = await self.store.audit.page(limit=200)
        return [(one.action, one.resource_id) for one in reversed(entries)]


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def unopened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Store, str | None]]:
    """A store, not yet open, and the URL of the Redis that keeps tokens beside it."""
    if request.param == "postgres":
        server, template = request.getfixturevalue("postgres_url"), request.getfixturevalue("postgres_template")
        with a_copy_of(template, server) as url:
            yield PostgresStore(url), None
    else:
        redis = request.getfixturevalue("redis_url") if request.param == "redis" else None
        yield SqliteStore(tmp_path / "innkeeper.db"), redis


@pytest.fixture
async def place(unopened: tuple[Store, str | None]) -> AsyncIterator[Place]:
    store, redis = unopened
    await store.open()
    vault: TokenVault = StoredVault(store.journal, store.tokens)
    if redis is not None:
        vault = RedisVault(redis, store.journal, prefix=f"test:{{{uuid4().hex}}}")
    yield Place(vault, store)
    await vault.close()
    await store.close()


def token(number: int = 1, **fields: object) -> Token:
    made = Token(f"ik{number:016}", Owner("acme", "ann"), Role.USER, now())
    return replace(made, **fields)  # type: ignore[arg-type]


def entry(told: Token, action: str = "token.create") -> WriteAudit:
    return WriteAudit(AuditEntry(uuid4().hex, Owner("local", "cli:zoe"), action, "token", told.id, now()))


NOBODY = "ik" + "9" * 16


async def test_a_token_is_found_as_it_was_made_with_its_digest(place: Place) -> None:
    made = token(
        role=Role.ADMIN,
        scopes=frozenset({"code", "observability"}),
        name="für \N{SNOWMAN}",
        expires_at=Instant(now() + 5),
    )
    await place.keep(made)
    assert await place.vault.find(made.id) == (made, DIGEST)
    assert await place.vault.find(NOBODY) is None
    assert await place.vault.find(made.id.upper()) is None


async def test_what_is_done_is_in_the_audit_log_and_what_is_not_is_not(place: Place) -> None:
    made = token()
    await place.keep(made)
    assert await place.vault.revoke(made.id, now(), (entry(made, "token.revoke"),))
    assert not await place.vault.revoke(NOBODY, now(), (entry(token(2), "token.revoke"),))
    assert await place.told() == [("token.create", made.id), ("token.revoke", made.id)]


async def test_a_token_that_is_forgotten_is_revoked_and_names_nobody_any_more(place: Place) -> None:
    forgotten, others = token(name="of ann"), token(2, owner=Owner("acme", "bob"), name="of bob")
    await place.keep(forgotten, others)
    moment = now()
    assert await place.vault.forget(forgotten.id, "forgotten-1", moment)
    assert not await place.vault.forget(NOBODY, "forgotten-1", moment)
    nameless = replace(forgotten, owner=Owner("acme", "forgotten-1"), name="", revoked_at=moment)
    assert await place.found(forgotten.id) == nameless and await place.found(others.id) == others
    for user, organization in (("ann", None), ("ann", "acme")):
        assert await place.vault.page(limit=9, user=user, organization=organization) == ([], False)
    for user, organization in (("forgotten-1", None), ("forgotten-1", "acme")):
        assert await place.vault.page(limit=9, user=user, organization=organization) == ([nameless], False)
    assert await place.vault.page(limit=9) == ([others, nameless], False)
    assert await place.vault.forget(forgotten.id, "forgotten-1", now()), "again"
    assert await place.found(forgotten.id) == nameless


async def test_a_revoked_token_is_found_and_keeps_the_moment_of_its_first_revocation(place: Place) -> None:
    made = token()
    await place.keep(made)
    first = now()
    assert await place.vault.revoke(made.id, first)
    assert await place.vault.revoke(made.id, now())
    assert await place.found(made.id) == replace(made, revoked_at=first)


async def test_a_token_is_never_used_earlier_than_before(place: Place) -> None:
    one, two = token(1), token(2)
    await place.keep(one, two)
    later, earlier = Instant(2_000), Instant(1_000)
    for used in ({one.id: later, two.id: earlier}, {one.id: earlier, two.id: later, NOBODY: later}):
        await place.vault.touch(used)
    assert [(await place.found(id)).last_used_at for id in (one.id, two.id)] == [later, later]
    assert await place.vault.find(NOBODY) is None


async def test_many_that_touch_the_same_tokens_do_not_stand_in_each_others_way(place: Place) -> None:
    made = [token(number) for number in range(10)]
    await place.keep(*made)
    uses = [{one.id: Instant(number) for one in made[:: -1 if number % 2 else 1]} for number in range(1, 21)]
    await asyncio.gather(*(place.vault.touch(used) for used in uses))
    assert {(await place.found(one.id)).last_used_at for one in made} == {20}


async def test_tokens_are_listed_newest_first_in_pages(place: Place) -> None:
    made = [token(number) for number in range(5)]
    await place.keep(*made)
    first, has_more = await place.vault.page(limit=3)
    assert ([one.id for one in first], has_more) == ([one.id for one in made[:1:-1]], True)
    rest, has_more = await place.vault.page(limit=3, after=first[-1].id)
    assert ([one.id for one in rest], has_more) == ([made[1].id, made[0].id], False)
    assert await place.vault.page(limit=3, after=made[0].id) == ([], False)


async def test_tokens_of_a_user_or_an_organization_are_listed_alone(place: Place) -> None:
    owners = [
        Owner("acme", "ann"),
        Owner("acme", "bob"),
        Owner("inc", "ann"),
        Owner("acme:ann", "x"),
        Owner("a", "ann"),
    ]
    await place.keep(*(token(number, owner=owner) for number, owner in enumerate(owners)))

    async def listed(**wanted: str) -> list[Owner]:
        found, has_more = await place.vault.page(limit=10, **wanted)
        assert not has_more
        return [one.owner for one in reversed(found)]

    assert await listed(user="ann") == [owners[0], owners[2], owners[4]]
    assert await listed(organization="acme") == owners[:2]
    assert await listed(organization="acme", user="ann") == owners[:1]
    assert await listed(organization="acme:ann", user="x") == [owners[3]]
    assert await listed(organization="acme", user="zoe") == await listed(user="%") == []
    assert (await place.vault.page(limit=1, user="ann"))[1]


async def test_a_token_that_shares_a_claim_is_made_and_told_of_once(place: Place) -> None:
    async def first(number: int) -> str | None:
        made = token(number)
        claim = KeepClaim(Owner("", ""), Claim("first", "first"), made.id, made.created_at)
        return await place.vault.create(made, DIGEST, (claim, entry(made)))

    answers = await asyncio.gather(*(first(number) for number in range(4)))
    (made,), _ = await place.vault.page(limit=10)
    assert sorted(answers, key=str) == sorted([None, *[made.id] * 3], key=str)
    assert await place.told() == [("token.create", made.id)]


async def test_a_claim_for_another_request_makes_nothing_and_tells_nothing(place: Place) -> None:
    one, two = token(1), token(2)
    await place.vault.create(one, DIGEST, (KeepClaim(ANN.owner, Claim("k", "a"), one.id, one.created_at), entry(one)))
    with pytest.raises(IdempotencyMismatch):
        await place.vault.create(
            two, DIGEST, (KeepClaim(ANN.owner, Claim("k", "b"), two.id, two.created_at), entry(two))
        )
    assert await place.vault.find(two.id) is None
    assert await place.told() == [("token.create", one.id)]


async def test_the_proof_of_a_token_is_its_own_row() -> None:
    made = token()
    query = proof((CreateToken(made, DIGEST),), (Done(),))
    assert query is not None
    assert query.values == {"by_id": made.id, "by_digest": DIGEST}


async def test_a_sessions_token_finds_that_session_as_long_as_it_is_there(store: Store) -> None:
    session = new_session("mine")
    await store.journal.commit((CreateSession(session, DIGEST), CreateSession(new_session("other"))))
    assert await store.tokens.session_of(DIGEST) == session
    assert await store.tokens.session_of("e" * 64) is None
    await store.journal.commit((DeleteSession(session.key),))
    assert await store.tokens.session_of(DIGEST) is None


async def test_a_caller_that_is_bound_to_a_session_finds_no_other(store: Store) -> None:
    mine, other, namesake = new_session("mine"), new_session("other"), new_session("mine", user_id="zoe")
    await store.journal.commit(tuple(CreateSession(one) for one in (mine, other, namesake)))
    guest = guest_of(namesake)
    assert (guest.owner, guest.role, guest.session_id) == (ANN.owner, Role.USER, "mine")
    assert await store.sessions.find(guest, "mine") == namesake
    assert await store.sessions.find(guest, "mine", "zoe") == namesake
    assert await store.sessions.find(guest, "mine", "ann") is None
    assert await store.sessions.find(guest, "other") is None
    assert await store.sessions.find(guest, mine.key) is None
    gone = Caller(ANN.owner, session_key="none", session_id="mine")
    assert await store.sessions.find(gone, "mine") is None
