"""Tokens for programs: `TokenManager` works on the store that the settings name, beside a server or without one."""

from __future__ import annotations

import getpass
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from innkeeper.config import Settings, load_settings
from innkeeper.core.identity import LOCAL_OWNER, Owner
from innkeeper.services.tokens import NewToken, Tokens
from innkeeper.wiring import keeps_tokens_in_redis, open_store, token_parts

__all__ = ["NewToken", "TokenManager"]


class TokenManager(Tokens):
    """Creates, validates, lists and revokes the tokens of a store, or of the Redis that keeps them.

    `async with TokenManager.open() as tokens:` opens it; `await tokens.create(user="ann", role="user")` makes a token,
    whose `text` is the credential and is never shown again.
    """

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings | None = None, *, through: str = "python") -> AsyncIterator[Self]:
        """The tokens of the store of these settings, or of those of the environment.

        On SQLite the tables are made if they are missing; a server may be serving the same file. The audit log names
        `through` and the user who runs this program as who acted.
        Raises: SetupError.
        """
        settings = settings or load_settings()
        store = open_store(settings)
        await store.open(serves=False)
        try:
            tokens = cls(**token_parts(settings, store), actor=_actor(through))
            try:
                yield tokens
            finally:
                await tokens.close()
        finally:
            await store.close()

    @classmethod
    async def are_elsewhere(cls, settings: Settings | None = None) -> bool:
        """Whether the database has tokens that no server heeds, because tokens are kept in Redis.

        Raises: SetupError, StorageUnavailable.
        """
        settings = settings or load_settings()
        if not keeps_tokens_in_redis(settings):
            return False
        async with cls.open(settings.model_copy(update={"token_store": "database"})) as tokens:
            return bool((await tokens.list(limit=1))[0])


def _actor(through: str) -> Owner:
    try:
        name = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container may run as a user who has no name
        name = "unknown"
    return Owner(LOCAL_OWNER.organization, f"{through}:{name}")
