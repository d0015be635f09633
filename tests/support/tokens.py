"""Tokens for tests: made in the store of a server that runs, as `innkeeper tokens` does from another process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from innkeeper.apps.tokens import TokenManager
from innkeeper.config import Settings
from innkeeper.core.changes import CreateSession
from innkeeper.core.identity import Caller
from innkeeper.services.tokens import NewToken
from innkeeper.wiring import open_store, token_parts
from tests.support.turns import ANN, new_session

T = TypeVar("T")


def with_tokens(settings: Settings, work: Callable[[TokenManager], Awaitable[T]]) -> T:
    async def run() -> T:
        async with TokenManager.open(settings) as tokens:
            return await work(tokens)

    return asyncio.run(run())


def a_token(settings: Settings, user: str | None = None, role: str = "user", **fields: Any) -> NewToken:
    return with_tokens(settings, lambda tokens: tokens.create(user, role, **fields))


def a_revoked_token(settings: Settings) -> str:
    async def work(tokens: TokenManager) -> str:
        made = await tokens.create()
        await tokens.revoke(made.text)
        return made.text

    return with_tokens(settings, work)


def an_expired_token(settings: Settings) -> str:
    """One that held for a microsecond."""
    return a_token(settings, ttl=0.000_001).text


def a_session_with_token(settings: Settings, session_id: str, caller: Caller = ANN, user_id: str | None = None) -> str:
    """Makes the session; returns the token that opens it."""

    async def run() -> str:
        store = open_store(settings)
        await store.open(serves=False)
        try:
            text, digest = TokenManager(**token_parts(settings, store)).mint_for_session()
            await store.journal.commit((CreateSession(new_session(session_id, caller, user_id), digest),))
            return text
        finally:
            await store.close()

    return asyncio.run(run())
