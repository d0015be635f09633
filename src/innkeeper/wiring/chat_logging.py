"""Chat logging: what writes, copies, drops and erases chat logs, for a server and for command-line tools."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from innkeeper.config import Settings
from innkeeper.core.errors import MissingDependency
from innkeeper.http.contexts import new_id, now
from innkeeper.ports.chat_logs import ChatLogSink
from innkeeper.services.chat_log_copies import ChatLogCopies
from innkeeper.services.chat_log_retention import ChatLogRetention
from innkeeper.services.chat_log_writer import ChatLogWriter
from innkeeper.services.contents import Rubbish
from innkeeper.services.erasures import Erasures
from innkeeper.wiring.accounting import open_audit
from innkeeper.wiring.openings import Store, open_blobs, open_vault

_PATIENCE = 2.0
"""Seconds that a stop waits for the last rows, and for their copies."""


@dataclass(frozen=True, slots=True)
class ChatLogging:
    """The tasks behind chat logs, of one event loop."""

    writer: ChatLogWriter
    copies: ChatLogCopies | None
    retention: ChatLogRetention | None

    def open(self) -> None:
        self.writer.open()
        if self.copies is not None:
            self.writer.on_rows = self.copies.wake
            self.copies.open()
        if self.retention is not None:
            self.retention.open()

    async def close(self) -> None:
        if self.retention is not None:
            await self.retention.close()
        await self.writer.close(_PATIENCE)
        if self.copies is not None:
            await self.copies.close(_PATIENCE)


def chat_logging(settings: Settings, store: Store) -> ChatLogging:
    """Not yet opened; raises: MissingDependency."""
    sink, days = open_sink(settings), settings.log_retention_days
    copies = None
    if sink is not None:
        copies = ChatLogCopies(store.journal, store.chat_logs, sink, with_contents=settings.logging_db_contents)
    return ChatLogging(
        writer=ChatLogWriter(store.journal, store.chat_logs, copies=sink is not None),
        copies=copies,
        retention=ChatLogRetention(store.journal, now=now, days=days, sink=sink) if days else None,
    )


def open_sink(settings: Settings) -> ChatLogSink | None:
    """The database that chat logs are copied to, not yet reached; none where they are not.

    Raises: MissingDependency.
    """
    if not settings.db_logging_enabled:
        return None
    try:
        from innkeeper.storage.postgres.chat_log_sinks import LoggingDatabase, PostgresChatLogSink
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"DB_LOGGING_ENABLED needs the package {error.name}: pip install 'innkeeper[postgres]'."
        ) from error
    return PostgresChatLogSink(
        LoggingDatabase(
            settings.logging_db_host,
            settings.logging_db_port,
            settings.logging_db_name,
            settings.logging_db_user,
            settings.logging_db_password.get_secret_value(),
        )
    )


@asynccontextmanager
async def open_erasures(settings: Settings, store: Store) -> AsyncIterator[Erasures]:
    """Erasure of users, over an open store. Raises: SetupError, MissingDependency."""
    vault, sink = open_vault(settings, store), open_sink(settings)

    async def scrub() -> bool:
        if not store.is_shared:  # else their contents may be on another machine, whose server removes them
            await _empty_rubbish(settings, store)
        return await asyncio.to_thread(store.scrub)

    try:
        yield Erasures(
            journal=store.journal,
            users=store.users,
            tokens=vault,
            audit=open_audit(store),
            now=now,
            new_id=new_id,
            sink=sink,
            scrub=scrub,
        )
    finally:
        await vault.close()
        if sink is not None:
            await sink.close()


async def _empty_rubbish(settings: Settings, store: Store) -> None:
    """Remove the contents of files that nobody has any more."""
    blobs = open_blobs(settings)
    await blobs.open()
    try:
        await Rubbish(journal=store.journal, blobs=blobs, now=now).empty()
    finally:
        await blobs.close()
