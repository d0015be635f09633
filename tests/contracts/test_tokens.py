"""Tokens in every store: kept as digests, found by id, listed by age; and sessions that a token opens."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from innkeeper.core.changes import CreateSession, DeleteSession, Done, KeepClaim, Missing, Repeated
from innkeeper.core.claims import Claim
from innkeeper.core.control_changes import CreateToken, RevokeToken, TouchTokens
from innkeeper.core.identity import Caller, Owner, Role
from innkeeper.core.times import Instant
from innkeeper.core.tokens import Token, guest_of
from innkeeper.storage.programs.proofs import proof
from tests.support.turns import ANN, Store, new_session, now

DIGEST = "d" * 64


def token(number: int = 1, **fields: object) -> Token:
    made = Token(f"ik{number:016}", Owner("acme", "ann"), Role.USER, now())
    return replace(made, **fields)  # type: ignore[arg-type]


async def kept(store: Store, *tokens: Token) -> None:
    for one in tokens:
        assert await store.journal.commit((CreateToken(one, DIGEST),)) == (Done(),)


async def found(store: Store, token_id: str) -> Token:
    pair = await store.tokens.find(token_id)
    assert pair is not None
    return pair[0]


async def test_a_token_is_found_as_it_was_made_with_its_digest(store: Store) -> None:
    made = token(
        role=Role.ADMIN,
        scopes=frozenset({"code", "observability"}),
        name="für \N{SNOWMAN}",
        expires_at=Instant(now() + 5),
    )
    await kept(store, made)
    assert await store.tokens.find(made.id) == (made, DIGEST)
    assert await store.tokens.find("ik" + "9" * 16) is None
    assert await store.tokens.find(made.id.upper()) is None


async def test_a_revoked_token_is_found_and_keeps_the_moment_of_its_first_revocation(store: Store) -> None:
    made = token()
    await kept(store, made)
    first = now()
    assert await store.journal.commit((RevokeToken(made.id, first),)) == (Done(),)
    assert await store.journal.commit((RevokeToken(made.id, now()),)) == (Done(),)
    assert (await found(store, made.id)).revoked_at == first


async def test_revoking_what_there_is_not_says_so(store: Store) -> None:
    assert await store.journal.commit((RevokeToken("ik" + "9" * 16, now()),)) == (Missing(),)


async def test_a_token_is_never_used_earlier_than_before(store: Store) -> None:
    one, two = token(1), token(2)
    await kept(store, one, two)
    later, earlier = Instant(2_000), Instant(1_000)
    for used in ({one.id: later, two.id: earlier}, {one.id: earlier, two.id: later, "ik" + "9" * 16: later}):
        assert await store.journal.commit((TouchTokens(used),)) == (Done(),)
    assert [(await found(store, id)).last_used_at for id in (one.id, two.id)] == [later, later]


async def test_many_that_touch_the_same_tokens_do_not_stand_in_each_others_way(store: Store) -> None:
    made = [token(number) for number in range(10)]
    await kept(store, *made)
    uses = [{one.id: Instant(number) for one in made[:: -1 if number % 2 else 1]} for number in range(1, 21)]
    outcomes = await asyncio.gather(*(store.journal.commit((TouchTokens(used),)) for used in uses))
    assert set(outcomes) == {(Done(),)}
    assert {(await found(store, one.id)).last_used_at for one in made} == {20}


async def test_tokens_are_listed_newest_first_in_pages(store: Store) -> None:
    made = [token(number) for number in range(5)]
    await kept(store, *made)
    first, has_more = await store.tokens.page(limit=3)
    assert ([one.id for one in first], has_more) == ([one.id for one in made[:1:-1]], True)
    rest, has_more = await store.tokens.page(limit=3, after=first[-1].id)
    assert ([one.id for one in rest], has_more) == ([made[1].id, made[0].id], False)


async def test_a_token_that_shares_a_claim_is_made_once(store: Store) -> None:
    def first(number: int) -> tuple[KeepClaim, CreateToken]:
        made = token(number)
        return KeepClaim(Owner("", ""), Claim("first", "first"), made.id, made.created_at), CreateToken(made, DIGEST)

    outcomes = await asyncio.gather(*(store.journal.commit(first(number)) for number in range(4)))
    assert sorted(isinstance(outcome[1], Repeated) for outcome in outcomes) == [False, True, True, True]
    assert len((await store.tokens.page(limit=10))[0]) == 1


async def test_the_proof_of_a_token_is_its_own_row(store: Store) -> None:
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
