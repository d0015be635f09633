"""Alembic's entry: connects to the database that `upgrade` named and runs the scripts in one transaction."""

from __future__ import annotations

import asyncio
from typing import Any

from alembic import context
from sqlalchemy import Connection, create_engine, pool, text

from innkeeper.storage.schema import metadata

_ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(4978530)"


def _run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()


def _migrate_sqlite(url: str) -> None:
    # Without the driver's own transactions, which would not hold CREATE TABLE.
    engine = create_engine(url, poolclass=pool.NullPool, connect_args={"isolation_level": None, "timeout": 5})
    with engine.begin() as connection:
        connection.execute(text("BEGIN IMMEDIATE"))
        _run(connection)
    engine.dispose()


async def _migrate_postgres(url: str) -> None:
    import asyncpg
    from sqlalchemy.ext.asyncio import create_async_engine

    async def connect() -> Any:
        return await asyncpg.connect(url, timeout=5)

    engine = create_async_engine("postgresql+asyncpg://", poolclass=pool.NullPool, async_creator=connect)
    async with engine.begin() as connection:
        await connection.execute(text(_ONE_AT_A_TIME))
        await connection.run_sync(_run)
    await engine.dispose()


def _main(url: str) -> None:
    if url.startswith("sqlite"):
        _migrate_sqlite(url)
    else:
        asyncio.run(_migrate_postgres(url))


_main(context.config.attributes["url"])
