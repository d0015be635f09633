"""Stores: the one that the settings name, open while a command works on it, beside a server or without one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from innkeeper.config import Settings, load_settings

if TYPE_CHECKING:
    from innkeeper.wiring import Store

T = TypeVar("T")


def with_store(work: Callable[[Settings, Store], Awaitable[T]]) -> T:
    """What comes of work on the store of the settings, which the command line has been told of before.

    Raises: SetupError, StorageUnavailable.
    """
    from innkeeper.wiring import open_store

    async def run() -> T:
        settings = load_settings()
        store = open_store(settings)
        await store.open(serves=False)
        try:
            return await work(settings, store)
        finally:
            await store.close()

    return asyncio.run(run())
