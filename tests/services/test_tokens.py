"""Tokens as a service: how they look, what is refused, and what they are compared with."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from innkeeper.core.errors import Invalid, TokenNotFound
from innkeeper.core.identity import Caller, Owner, Role
from innkeeper.core.tokens import Refusal, Token
from innkeeper.services.audit import Audit
from innkeeper.services.tokens import Digests, NewToken, Tokens
from innkeeper.storage.sqlite.stores import SqliteStore
from innkeeper.vaults.stored import StoredVault

SECOND = 1_000_000


class Clock:
    def __init__(self) -> None:
        self.instant = 1_790_000_000_000_000

    def __call__(self) -> int:
        self.instant += 1
        return self.instant


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "innkeeper.db")
    await opened.open()
    yield opened
    await opened.close()


def tokens_of(store: SqliteStore, clock: Clock, key: str | None = None) -> Tokens:
    return Tokens(
        vault=StoredVault(store.journal, store.tokens),
        sessions=store.tokens,
        audit=Audit(journal=store.journal, now=clock, new_id=lambda: secrets.token_hex(16)),
        digests=Digests(key),
        now=clock,
        random=secrets.token_bytes,
    )


@pytest.fixture
def tokens(store: SqliteStore, clock: Clock) -> Tokens:
    return tokens_of(store, clock)


async def test_a_token_is_an_id_and_256_random_bits_and_opens_what_it_was_made_for(tokens: Tokens) -> None:
    made = await tokens.create("ann", "read", organization="acme", scopes=["code"], name="for CI")
    assert re.fullmatch(r"ik[a-z0-9]{16}\.[A-Za-z0-9_-]{43}", made.text)
    assert made.text.partition(".")[0] == made.token.id
    assert await tokens.validate(made.text) == made.token
    assert made.token.caller == Caller(Owner("acme", "ann"), Role.READ, frozenset({"code"}))
    assert made.token.name == "for CI"
    assert made.text not in repr(made)


async def test_no_two_tokens_are_alike_and_their_ids_sort_by_age(tokens: Tokens) -> None:
    made = [await tokens.create() for _ in range(50)]
    ids = [one.token.id for one in made]
    assert ids == sorted(set(ids))
    assert len({one.text.partition(".")[2] for one in made}) == 50
    listed, has_more = await tokens.list(limit=50)
    assert ([one.id for one in listed], has_more) == (ids[::-1], False)


async def test_a_token_without_a_user_is_a_user_of_its_own(tokens: Tokens) -> None:
    one, two = (await tokens.create()).token, (await tokens.create()).token
    assert (one.owner, two.owner) == (Owner("default", one.id), Owner("default", two.id))
    assert (one.role, one.scopes, one.expires_at) == (Role.USER, frozenset(), None)


def altered(made: NewToken) -> list[str]:
    """Credentials that are nearly the token."""
    text, (token_id, _, secret) = made.text, made.text.partition(".")
    other = "A" if secret[-1] != "A" else "B"
    return [
        text[:-1],
        text[:-1] + other,
        text + "A",
        token_id,
        f"{token_id}.",
        secret,
        f".{secret}",
        f"{token_id}.{secret.swapcase()}",
        f"ik{'0' * 16}.{secret}",
        f"{token_id.upper()}.{secret}",
        f" {text}",
        f"{text}\n",
        f"{text}\ud800",
        "",
        "null",
        "sk-proj-1234",
        f"{token_id}.{'A' * 43}",
        hashlib.sha256(text.encode()).hexdigest(),
    ]


async def test_nothing_but_the_whole_token_opens_anything(tokens: Tokens) -> None:
    made = await tokens.create("ann")
    for text in altered(made):
        assert await tokens.validate(text) is Refusal.UNKNOWN, text


async def test_a_token_expires_at_its_instant(tokens: Tokens, clock: Clock) -> None:
    made = await tokens.create(ttl=2.5)
    assert made.token.expires_at == made.token.created_at + 2.5 * SECOND
    clock.instant = made.token.expires_at - 2
    assert isinstance(await tokens.validate(made.text), Token)
    assert await tokens.validate(made.text) is Refusal.EXPIRED


async def test_revoking_takes_the_id_or_the_token(tokens: Tokens) -> None:
    for names_id in (True, False):
        made = await tokens.create()
        assert await tokens.revoke(made.token.id if names_id else made.text) == made.token.id
        assert await tokens.validate(made.text) is Refusal.REVOKED


async def test_only_who_has_the_secret_is_told_that_a_token_was_revoked(tokens: Tokens) -> None:
    made = await tokens.create()
    await tokens.revoke(made.text)
    assert await tokens.validate(f"{made.token.id}.{'A' * 43}") is Refusal.UNKNOWN


@pytest.mark.parametrize("named", ["", "ik", "x", "ik" + "9" * 16, "ik" + "9" * 16 + ".secret", "IK" + "0" * 16])
async def test_revoking_what_there_is_not_is_an_error(tokens: Tokens, named: str) -> None:
    with pytest.raises(TokenNotFound):
        await tokens.revoke(named)


@pytest.mark.parametrize(
    ("field", "asked"),
    [
        ("role", {"role": "root"}),
        ("role", {"role": ""}),
        ("scopes", {"scopes": ["cod"]}),
        ("scopes", {"scopes": "code observability"}),
        ("ttl", {"ttl": 0}),
        ("ttl", {"ttl": -1}),
        ("ttl", {"ttl": float("nan")}),
        ("ttl", {"ttl": float("inf")}),
        ("user", {"user": "a\nb"}),
        ("user", {"user": "x" * 201}),
        ("user", {"user": "\ud800"}),
        ("organization", {"organization": "a\0"}),
        ("name", {"name": "x" * 201}),
    ],
)
async def test_what_cannot_be_is_refused_by_name_and_makes_nothing(
    tokens: Tokens, field: str, asked: dict[str, object]
) -> None:
    with pytest.raises(Invalid) as refusal:
        await tokens.create(**asked)  # type: ignore[arg-type]
    assert refusal.value.param == field
    assert refusal.value.message.startswith(f"{field}: ")
    assert await tokens.list() == ([], False)


async def test_a_key_makes_the_digest_an_hmac_and_tokens_of_another_key_worthless(
    store: SqliteStore, clock: Clock, tokens: Tokens
) -> None:
    keyed = tokens_of(store, clock, "key")
    made, plain = await keyed.create(), await tokens.create()
    pair, plain_pair = await store.tokens.find(made.token.id), await store.tokens.find(plain.token.id)
    assert pair is not None
    assert plain_pair is not None
    assert pair[1] == hmac.new(b"key", made.text.encode(), "sha256").hexdigest()
    assert plain_pair[1] == hashlib.sha256(plain.text.encode()).hexdigest()
    assert await keyed.validate(made.text) == made.token
    for others, text in ((tokens, made.text), (tokens_of(store, clock, "kez"), made.text), (keyed, plain.text)):
        assert await others.validate(text) is Refusal.UNKNOWN


async def test_the_first_token_is_an_admins_and_is_made_once(tokens: Tokens) -> None:
    made = await tokens.create_first()
    assert made is not None
    assert (made.token.role, made.token.owner) == (Role.ADMIN, Owner("default", "admin"))
    await tokens.revoke(made.text)
    assert await tokens.create_first() is None
    assert len((await tokens.list())[0]) == 1


async def test_many_that_ask_for_the_first_token_at_a_time_get_one(tokens: Tokens) -> None:
    made = await asyncio.gather(*(tokens.create_first() for _ in range(5)))
    assert len([one for one in made if one is not None]) == 1
    assert len((await tokens.list())[0]) == 1
