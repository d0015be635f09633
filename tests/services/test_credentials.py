"""Credentials: remembered for a second, never longer, and never where the store is silent."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from innkeeper.core.administration import AddAdmin
from innkeeper.core.admins import Admin
from innkeeper.core.changes import CreateSession, DeleteSession
from innkeeper.core.errors import StorageUnavailable
from innkeeper.core.identity import Caller, Role
from innkeeper.core.sessions import Session
from innkeeper.core.times import Instant
from innkeeper.core.tokens import MAX_JWT, Refusal, Token, guest_of
from innkeeper.ports.issuers import Vouched
from innkeeper.services import credentials
from innkeeper.services.audit import Audit
from innkeeper.services.credentials import TOUCH_EVERY, Credentials
from innkeeper.services.tokens import Digests, Tokens
from innkeeper.storage.sqlite.stores import SqliteStore
from innkeeper.vaults.stored import StoredVault
from tests.support.turns import ANN, new_session


class Asked:
    """A store's tokens, which counts how often it was asked, waits on demand, and can be ill."""

    def __init__(self, store: SqliteStore) -> None:
        self._tokens = store.tokens
        self.times = 0
        self.is_ill = False
        self.open = asyncio.Event()
        self.open.set()

    async def find(self, token_id: str) -> tuple[Token, str] | None:
        await self._ask()
        return await self._tokens.find(token_id)

    async def session_of(self, digest: str) -> Session | None:
        await self._ask()
        return await self._tokens.session_of(digest)

    async def page(
        self, *, limit: int, after: str | None = None, user: str | None = None, organization: str | None = None
    ) -> tuple[Sequence[Token], bool]:
        return await self._tokens.page(limit=limit, after=after, user=user, organization=organization)

    async def _ask(self) -> None:
        self.times += 1
        await self.open.wait()
        if self.is_ill:
            raise StorageUnavailable("The store is ill.")


class Signer:
    """An issuer that vouches for whomever it is told to, and counts how often it was asked."""

    def __init__(self) -> None:
        self.times = 0
        self.said: Vouched | Refusal = Refusal.UNKNOWN

    async def vouch(self, text: str) -> Vouched | Refusal:
        self.times += 1
        return self.said

    async def close(self) -> None:
        pass


class Desk:
    """Credentials over a store of their own, and hands on both clocks."""

    def __init__(self, store: SqliteStore) -> None:
        self.store, self.asked = store, Asked(store)
        self.instant, self.seconds = 1_790_000_000_000_000, 0.0
        self.tokens = Tokens(
            vault=StoredVault(store.journal, self.asked),
            sessions=self.asked,
            audit=Audit(journal=store.journal, now=lambda: self.instant, new_id=lambda: secrets.token_hex(16)),
            digests=Digests("key"),
            now=lambda: self.instant,
            random=secrets.token_bytes,
        )
        self.issuer = Signer()
        self.credentials = Credentials(
            tokens=self.tokens,
            now=lambda: self.instant,
            clock=lambda: self.seconds,
            issuer=self.issuer,
            admins=store.admins,
        )

    async def last_used(self, token_id: str) -> int | None:
        """Once nothing is being written any more."""
        await self.credentials.close()
        pair = await self.store.tokens.find(token_id)
        assert pair is not None
        return pair[0].last_used_at


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    store = SqliteStore(tmp_path / "innkeeper.db")
    await store.open()
    opened = Desk(store)
    yield opened
    await opened.credentials.close()
    await store.close()


async def test_a_token_is_looked_up_once_a_second(desk: Desk) -> None:
    made = await desk.tokens.create("ann")
    for seconds, times in ((0.0, 1), (0.5, 1), (0.999, 1), (1.0, 2), (1.9, 2), (2.0, 3)):
        desk.seconds = seconds
        assert await desk.credentials.caller(made.text) == made.token.caller
        assert desk.asked.times == times, seconds


async def test_a_revocation_is_heeded_within_a_second(desk: Desk) -> None:
    made = await desk.tokens.create("ann")
    await desk.credentials.caller(made.text)
    await desk.tokens.revoke(made.text)
    desk.seconds = 1.0
    assert await desk.credentials.caller(made.text) is Refusal.REVOKED


async def test_an_expiry_is_heeded_at_once(desk: Desk) -> None:
    made = await desk.tokens.create("ann", ttl=0.2)
    assert await desk.credentials.caller(made.text) == made.token.caller
    desk.instant += 200_000
    assert await desk.credentials.caller(made.text) is Refusal.EXPIRED
    assert desk.asked.times == 1


async def test_what_opens_nothing_is_asked_for_each_time_and_nonsense_never(desk: Desk) -> None:
    unknown = f"ik{'0' * 16}.{'A' * 43}"
    for _ in range(3):
        assert await desk.credentials.caller(unknown) is Refusal.UNKNOWN
    assert desk.asked.times == 3
    for text in ("", "sk-1", "st_1", f"{unknown}A", f"st_{'A' * 44}", "\ud800"):
        assert await desk.credentials.caller(text) is Refusal.UNKNOWN
    assert desk.asked.times == 3


async def test_who_comes_while_a_token_is_looked_up_waits_for_that_answer(desk: Desk) -> None:
    made = await desk.tokens.create("ann")
    desk.asked.open.clear()
    first, *others = [asyncio.create_task(desk.credentials.caller(made.text)) for _ in range(10)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    desk.asked.open.set()
    assert await asyncio.gather(*others) == [made.token.caller] * 9
    assert desk.asked.times == 1


async def test_nobody_is_known_where_the_store_does_not_answer(desk: Desk) -> None:
    made = await desk.tokens.create("ann")
    assert await desk.credentials.caller(made.text) == made.token.caller
    desk.asked.is_ill, desk.seconds = True, 1.0
    with pytest.raises(StorageUnavailable):
        await desk.credentials.caller(made.text)
    desk.asked.is_ill = False
    assert await desk.credentials.caller(made.text) == made.token.caller


async def test_that_a_token_was_used_is_written_once_a_minute(desk: Desk) -> None:
    made = await desk.tokens.create("ann")
    began = desk.instant
    for passed, written in ((0, 0), (TOUCH_EVERY - 1, 0), (TOUCH_EVERY, TOUCH_EVERY), (TOUCH_EVERY + 1, TOUCH_EVERY)):
        desk.instant, desk.seconds = began + passed, passed / 1_000_000
        await desk.credentials.caller(made.text)
        assert await desk.last_used(made.token.id) == began + written


async def test_another_process_that_wrote_lately_is_enough(desk: Desk) -> None:
    made = await desk.tokens.create("ann")
    await desk.credentials.caller(made.text)
    first = await desk.last_used(made.token.id)
    other = Desk(desk.store)
    other.instant = desk.instant + 5
    await other.credentials.caller(made.text)
    assert await other.last_used(made.token.id) == first


async def test_a_refused_token_counts_as_no_use(desk: Desk) -> None:
    made = await desk.tokens.create("ann")
    await desk.tokens.revoke(made.text)
    assert await desk.credentials.caller(made.text) is Refusal.REVOKED
    assert await desk.last_used(made.token.id) is None


async def test_a_sessions_token_is_its_owners_in_that_session_only(desk: Desk) -> None:
    text, digest = desk.tokens.mint_for_session()
    session = new_session("mine")
    await desk.store.journal.commit((CreateSession(session, digest),))
    for _ in range(2):
        assert await desk.credentials.caller(text) == guest_of(session)
    assert desk.asked.times == 1
    await desk.store.journal.commit((DeleteSession(session.key),))
    desk.seconds = 1.0
    assert await desk.credentials.caller(text) is Refusal.UNKNOWN


async def test_so_many_are_remembered_and_no_more(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "MAX_KNOWN", 2)
    made = [await desk.tokens.create(name) for name in ("a", "b", "c")]
    callers: list[Caller | Refusal] = [await desk.credentials.caller(one.text) for one in made]
    assert callers == [one.token.caller for one in made]
    await desk.credentials.caller(made[2].text)
    assert desk.asked.times == 3
    await desk.credentials.caller(made[0].text)
    assert desk.asked.times == 4


# what an identity provider signed

SIGNED = "eyJhbGciOiJFUzI1NiJ9.e30.AAAA"


def vouched(desk: Desk, *, seconds: float = 60, email: str | None = None) -> Vouched:
    return Vouched(ANN, "user_1", Instant(desk.instant + int(seconds * 1_000_000)), email)


async def test_what_is_signed_is_judged_once_a_second_and_no_longer_than_it_holds(desk: Desk) -> None:
    desk.issuer.said = vouched(desk, seconds=0.2)
    for _ in range(3):
        assert await desk.credentials.caller(SIGNED) == ANN
    assert (desk.issuer.times, desk.asked.times) == (1, 0)
    desk.instant += 200_000
    assert await desk.credentials.caller(SIGNED) is Refusal.EXPIRED
    desk.issuer.said, desk.seconds = Refusal.UNKNOWN, 1.0
    assert await desk.credentials.caller(SIGNED) is Refusal.UNKNOWN
    assert desk.issuer.times == 2


async def test_what_looks_like_nothing_signed_is_not_asked_for(desk: Desk) -> None:
    for text in (
        "a.b.c",
        f"{SIGNED}.AA",
        f"{SIGNED[:-5]}.",
        f"{SIGNED} ",
        "eyJ" + "A" * MAX_JWT + ".AA.AA",
        "eyJh.e30",
    ):
        assert await desk.credentials.caller(text) is Refusal.UNKNOWN
    assert (desk.issuer.times, desk.asked.times) == (0, 0)


@pytest.mark.parametrize(
    ("workos_id", "email", "role"),
    [
        ("user_1", None, Role.ADMIN),
        ("user_2", None, Role.USER),
        ("user_2", "ann@acme.example", Role.ADMIN),
        ("user_2", "zoe@acme.example", Role.USER),
    ],
)
async def test_whoever_is_in_the_list_of_administrators_is_one(
    desk: Desk, workos_id: str, email: str | None, role: Role
) -> None:
    listed = Admin("adm_1", "ann@acme.example", workos_id, "Ann", "cli:zoe", Instant(1))
    await desk.store.journal.commit((AddAdmin(listed),))
    desk.issuer.said = vouched(desk, email=email)
    caller = await desk.credentials.caller(SIGNED)
    assert isinstance(caller, Caller)
    assert (caller.role, caller.owner) == (role, ANN.owner)
