"""Tokens in a Redis that is slow, gone, or back again: nobody is known meanwhile, and nobody waits for long."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from innkeeper.core.administration import WriteAudit
from innkeeper.core.audit import AuditEntry
from innkeeper.core.errors import SetupError, StorageUnavailable
from innkeeper.core.identity import Owner, Role
from innkeeper.core.times import Instant
from innkeeper.core.tokens import Token
from innkeeper.storage.sqlite.stores import SqliteStore
from innkeeper.vaults.redis import RedisVault
from tests.support.doorways import Doorway
from tests.support.sizes import within

DIGEST = "d" * 64
MADE = Token("ik" + "0" * 16, Owner("acme", "ann"), Role.USER, Instant(1))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "innkeeper.db")
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def doorway(redis_url: str) -> AsyncIterator[Doorway]:
    parts = urlsplit(redis_url)
    assert parts.hostname is not None
    assert parts.port is not None
    opened = Doorway(parts.hostname, parts.port)
    await opened.open()
    yield opened
    opened.shut()


@pytest.fixture
async def vault(store: SqliteStore, doorway: Doorway) -> AsyncIterator[RedisVault]:
    """Reached through the doorway, and impatient."""
    opened = RedisVault(
        f"redis://127.0.0.1:{doorway.port}/0", store.journal, prefix=f"test:{{{uuid4().hex}}}", patience=0.6
    )
    yield opened
    await opened.close()


def every_request(vault: RedisVault) -> list[Callable[[], Awaitable[object]]]:
    return [
        lambda: vault.find(MADE.id),
        lambda: vault.page(limit=1),
        lambda: vault.create(MADE, DIGEST),
        lambda: vault.revoke(MADE.id, Instant(2)),
        lambda: vault.touch({MADE.id: Instant(2)}),
    ]


async def fails_soon(vault: RedisVault) -> None:
    for request in every_request(vault):
        began = time.monotonic()
        with pytest.raises(StorageUnavailable):
            await request()
        assert time.monotonic() - began < within(2, 15)


async def test_while_it_hangs_nobody_is_known_and_afterwards_all_are(vault: RedisVault, doorway: Doorway) -> None:
    await vault.create(MADE, DIGEST)
    doorway.freeze()
    await fails_soon(vault)
    doorway.thaw()
    assert await vault.find(MADE.id) is not None


async def test_while_it_is_gone_nobody_is_known_and_afterwards_all_are(vault: RedisVault, doorway: Doorway) -> None:
    await vault.create(MADE, DIGEST)
    doorway.shut()
    await fails_soon(vault)
    await doorway.open()
    assert await vault.find(MADE.id) == (MADE, DIGEST)


async def test_what_is_told_is_told_before_it_is_done(vault: RedisVault, doorway: Doorway, store: SqliteStore) -> None:
    entry = WriteAudit(AuditEntry(uuid4().hex, Owner("local", "cli:zoe"), "token.create", "token", MADE.id, Instant(1)))
    doorway.freeze()
    with pytest.raises(StorageUnavailable):
        await vault.create(MADE, DIGEST, (entry,))
    entries, _ = await store.audit.page(limit=10)
    assert [one.resource_id for one in entries] == [MADE.id]


async def test_what_the_audit_log_cannot_take_is_not_done(vault: RedisVault, store: SqliteStore) -> None:
    entry = WriteAudit(AuditEntry("one", Owner("local", "cli:zoe"), "token.create", "token", MADE.id, Instant(1)))
    await vault.create(MADE, DIGEST, (entry,))
    other = Token("ik" + "1" * 16, Owner("acme", "ann"), Role.USER, Instant(1))
    with pytest.raises(StorageUnavailable):
        await vault.create(other, DIGEST, (entry,))  # an entry of this id is there already
    with pytest.raises(StorageUnavailable):
        await vault.revoke(MADE.id, Instant(2), (entry,))
    assert await vault.find(other.id) is None
    assert await vault.find(MADE.id) == (MADE, DIGEST)


async def test_the_same_creation_once_more_is_the_same_and_another_is_none(vault: RedisVault) -> None:
    assert await vault.create(MADE, DIGEST) is None
    assert await vault.create(MADE, DIGEST) is None
    assert await vault.create(MADE, "e" * 64) == MADE.id
    assert await vault.find(MADE.id) == (MADE, DIGEST)


async def test_a_token_that_redis_has_dropped_is_passed_over(vault: RedisVault) -> None:
    made = [Token(f"ik{number:016}", Owner("acme", "ann"), Role.USER, Instant(number)) for number in range(1, 8)]
    for one in made:
        await vault.create(one, DIGEST)
    for one in made[2:5]:
        await vault._redis.delete(vault._key(one.id))
    assert await vault.page(limit=2) == ([made[6], made[5]], True)
    assert await vault.page(limit=2, after=made[5].id) == ([made[1], made[0]], False)


async def test_nothing_but_digests_is_in_it(vault: RedisVault) -> None:
    await vault.create(MADE, DIGEST)
    kept = await vault._redis.hgetall(vault._key(MADE.id))
    assert set(kept) == {"digest", "organization", "user", "role", "scopes", "name", "created_at"}


@pytest.mark.parametrize("url", ["http://127.0.0.1", "redis://127.0.0.1:port", "nonsense"])
def test_an_address_that_is_none_is_told_without_it(url: str) -> None:
    with pytest.raises(SetupError) as refusal:
        RedisVault(url, None)  # type: ignore[arg-type]
    assert url not in refusal.value.message


async def test_what_listens_there_and_is_no_redis_is_told_as_any_failure(store: SqliteStore) -> None:
    vault = RedisVault("redis://127.0.0.1:1/0", store.journal, patience=0.3)
    await fails_soon(vault)
    await vault.close()
