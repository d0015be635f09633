"""Tokens in a Redis. What accompanies a change is committed to the store first, so that nothing is done untold.

A token is a hash of its fields; its id is in sorted sets of one score, which Redis orders by the ids, and those by age.
All keys share a hash tag, because a script may touch several.
Invariant: whatever takes longer than `patience` has failed, and who asks is told that nobody can be known now.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from innkeeper.core.errors import SetupError, StorageUnavailable
from innkeeper.core.identity import Owner, Role
from innkeeper.core.outcomes import Repeated
from innkeeper.core.times import Instant
from innkeeper.core.tokens import Token
from innkeeper.ports.journal import Journal
from innkeeper.ports.tokens import Accompanying

_logger = logging.getLogger(__name__)

T = TypeVar("T")

PREFIX = "innkeeper:{tokens}"
PATIENCE = 1.0
CONNECTIONS = 16
_CREATE = """
local known = redis.call('HGET', KEYS[1], 'digest')
if known then
  return known == ARGV[1] and 1 or 0
end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
for index = 2, #KEYS do
  redis.call('ZADD', KEYS[index], 0, ARGV[2])
end
return 1
"""
_REVOKE = """
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
redis.call('HSETNX', KEYS[1], 'revoked_at', ARGV[1])
return 1
"""
_FORGET = """
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
redis.call('HSETNX', KEYS[1], 'revoked_at', ARGV[1])
redis.call('HSET', KEYS[1], 'user', ARGV[2], 'name', '')
for index = 2, 3 do
  redis.call('ZREM', KEYS[index], ARGV[3])
  redis.call('ZADD', KEYS[index + 2], 0, ARGV[3])
end
return 1
"""
_TOUCH = """
for index = 1, #KEYS do
  local last = redis.call('HGET', KEYS[index], 'last_used_at')
  if redis.call('EXISTS', KEYS[index]) == 1 and (not last or tonumber(last) < tonumber(ARGV[index])) then
    redis.call('HSET', KEYS[index], 'last_used_at', ARGV[index])
  end
end
"""
_MOMENTS = ("created_at", "expires_at", "revoked_at", "last_used_at")


class RedisVault:
    """Implements `ports.tokens.TokenVault` at `redis://user:password@host:port/0`; belongs to one event loop.

    Raises: SetupError for a URL that is none.
    """

    def __init__(self, url: str, journal: Journal, *, prefix: str = PREFIX, patience: float = PATIENCE) -> None:
        self._journal = journal
        self._prefix = prefix
        self._patience = patience
        self._is_away = False
        try:
            pool = BlockingConnectionPool.from_url(
                url,
                max_connections=CONNECTIONS,
                timeout=patience,
                protocol=2,
                client_name="innkeeper-tokens",
                decode_responses=True,
                socket_connect_timeout=patience,
                socket_timeout=patience,
                retry=Retry(NoBackoff(), 1),
            )
        except (ValueError, TypeError, exceptions.RedisError):  # their text may quote a piece of the URL
            raise SetupError("REDIS_URL is not an address; it should read redis://user:password@host:port/0.") from None
        self._redis: Any = Redis.from_pool(pool)

    async def create(self, token: Token, digest: str, accompanying: Accompanying = ()) -> str | None:
        if accompanying:
            outcomes = await self._journal.commit(accompanying)
            if isinstance(outcomes[0], Repeated):
                return outcomes[0].claimed.subject
        keys = (self._key(token.id), *self._indexes(token.owner))
        fields = [cell for pair in {"digest": digest, **_cells(token)}.items() for cell in pair]
        is_made = await self._ask(self._redis.eval(_CREATE, len(keys), *keys, digest, token.id, *fields))
        return None if is_made else token.id

    async def revoke(self, token_id: str, now: Instant, accompanying: Accompanying = ()) -> bool:
        if await self.find(token_id) is None:
            return False
        if accompanying:
            await self._journal.commit(accompanying)
        return bool(await self._ask(self._redis.eval(_REVOKE, 1, self._key(token_id), now)))

    async def forget(self, token_id: str, stand_in: str, now: Instant) -> bool:
        found = await self.find(token_id)
        if found is None:
            return False
        organization = found[0].owner.organization
        places = ((name, where) for name in (found[0].owner.user, stand_in) for where in (None, organization))
        keys = (self._key(token_id), *(self._index(*place) for place in places))
        return bool(await self._ask(self._redis.eval(_FORGET, len(keys), *keys, now, stand_in, token_id)))

    async def find(self, token_id: str) -> tuple[Token, str] | None:
        cells = await self._ask(self._redis.hgetall(self._key(token_id)))
        return (_token_of(token_id, cells), cells["digest"]) if cells else None

    async def page(
        self, *, limit: int, after: str | None = None, user: str | None = None, organization: str | None = None
    ) -> tuple[Sequence[Token], bool]:
        index, found = self._index(user, organization), list[Token]()
        while len(found) <= limit:
            before = "+" if after is None else f"({after}"
            ids = await self._ask(self._redis.zrevrangebylex(index, before, "-", start=0, num=limit + 1))
            if not ids:
                break
            after = ids[-1]
            reads = self._redis.pipeline(transaction=False)
            for one in ids:
                reads.hgetall(self._key(one))
            rows = await self._ask(reads.execute())
            found += [_token_of(one, cells) for one, cells in zip(ids, rows, strict=True) if cells]
        return found[:limit], len(found) > limit

    async def touch(self, used: Mapping[str, Instant]) -> None:
        keys = [self._key(one) for one in used]
        await self._ask(self._redis.eval(_TOUCH, len(keys), *keys, *used.values()))

    async def close(self) -> None:
        with suppress(Exception):
            async with asyncio.timeout(self._patience):
                await self._redis.aclose()

    async def _ask(self, answer: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._patience):
                answered = await answer
        except (exceptions.RedisError, OSError, TimeoutError) as error:
            if not self._is_away:  # its text is not ours, and some servers repeat a command in it
                _logger.warning("the Redis that keeps tokens does not answer (%s)", type(error).__name__)
            self._is_away = True
            raise StorageUnavailable("The Redis that keeps tokens does not answer. Try again.") from None
        if self._is_away:
            _logger.info("the Redis that keeps tokens answers again")
        self._is_away = False
        return answered

    def _key(self, token_id: str) -> str:
        return f"{self._prefix}:token:{token_id}"

    def _indexes(self, owner: Owner) -> list[str]:
        """The sets that a token of this owner is in."""
        user, organization = owner.user, owner.organization
        choices = ((None, None), (user, None), (None, organization), (user, organization))
        return [self._index(*choice) for choice in choices]

    def _index(self, user: str | None, organization: str | None) -> str:
        if user is None:
            return f"{self._prefix}:all" if organization is None else f"{self._prefix}:organization:{organization}"
        if organization is None:
            return f"{self._prefix}:user:{user}"
        return f"{self._prefix}:owner:{len(organization)}:{organization}:{user}"


def _cells(token: Token) -> dict[str, str | int]:
    """What is kept of it beside the digest; what it does not have is left out."""
    moments = {name: getattr(token, name) for name in _MOMENTS}
    return {
        "organization": token.owner.organization,
        "user": token.owner.user,
        "role": token.role.value,
        "scopes": " ".join(sorted(token.scopes)),
        "name": token.name,
        **{name: moment for name, moment in moments.items() if moment is not None},
    }


def _token_of(token_id: str, cells: Mapping[str, str]) -> Token:
    moments = {name: Instant(int(cells[name])) for name in _MOMENTS[1:] if name in cells}
    return Token(
        id=token_id,
        owner=Owner(cells["organization"], cells["user"]),
        role=Role(cells["role"]),
        created_at=Instant(int(cells["created_at"])),
        scopes=frozenset(cells["scopes"].split()),
        name=cells["name"],
        **moments,
    )
