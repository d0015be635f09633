"""Tokens for programs: `TokenManager` works on the store that the settings name, beside a server or without one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from innkeeper.config import Settings, load_settings
from innkeeper.services.tokens import NewToken, Tokens
from innkeeper.wiring import open_store, token_parts

__all__ = ["NewToken", "TokenManager"]


class TokenManager(Tokens):
    """Creates, validates, lists and revokes the tokens of a store.

    `async with TokenManager.open() as tokens:` opens it; `await tokens.create(user="ann", role="user")` makes a token,
    whose `text` is the credential and is never shown again.
    """

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings | None = None) -> AsyncIterator[Self]:
        """The tokens of the store of these settings, or of those of the environment.

        On SQLite the tables are made if they are missing; a server may be serving the same file.
        Raises: SetupError.
        """
        settings = settings or load_settings()
        store = open_store(settings)
        await store.open(serves=False)
        try:
            yield cls(**token_parts(settings, store))
        finally:
            await store.close()
