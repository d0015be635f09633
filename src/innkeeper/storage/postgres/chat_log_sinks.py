"""The logging database: a PostgreSQL of its own to which chat logs are copied, in one table, for others to read.

It is no store: nothing is read back, its table is made where it is missing, and it may be away for as long as it likes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import asyncpg

from innkeeper.core.chat_logs import ChatLog
from innkeeper.core.errors import StorageUnavailable
from innkeeper.core.logs import id_at
from innkeeper.core.times import Instant
from innkeeper.storage.postgres.connections import Connection, drop

_PATIENCE = 5.0
"""Seconds after which the database counts as away."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CREATE = """
CREATE TABLE IF NOT EXISTS chat_logs (
    id text PRIMARY KEY,
    "timestamp" timestamptz NOT NULL,
    agent_name text NOT NULL,
    session_id text NOT NULL,
    organization text NOT NULL,
    owner text NOT NULL,
    user_id text NOT NULL,
    endpoint text NOT NULL,
    input_message text,
    output_response text,
    model_info jsonb,
    token_usage jsonb,
    total_tokens bigint,
    response_time_ms double precision NOT NULL,
    status text NOT NULL,
    error_message text,
    run_id text NOT NULL
);
CREATE INDEX IF NOT EXISTS chat_logs_session ON chat_logs (session_id, id);
CREATE INDEX IF NOT EXISTS chat_logs_user ON chat_logs (user_id, id);
CREATE INDEX IF NOT EXISTS chat_logs_owner ON chat_logs (owner, id);
"""
_HAS_TABLE = "SELECT to_regclass('chat_logs') IS NOT NULL"
_NAMES = (
    "id", "timestamp", "agent_name", "session_id", "organization", "owner", "user_id", "endpoint", "input_message",
    "output_response", "model_info", "token_usage", "total_tokens", "response_time_ms", "status", "error_message",
    "run_id",
)  # fmt: skip
_PLACES = ", ".join(f"${number}" for number in range(1, len(_NAMES) + 1))
_INSERT = f"INSERT INTO chat_logs ({', '.join(_NAMES)}) VALUES ({_PLACES}) ON CONFLICT (id) DO NOTHING"  # noqa: S608 - names of ours
_FORGET_RUNS = "DELETE FROM chat_logs WHERE id = ANY($1::text[])"
_FORGET_BEFORE = (
    "WITH gone AS (DELETE FROM chat_logs WHERE id IN (SELECT id FROM chat_logs WHERE id < $1 ORDER BY id LIMIT $2)"
    " RETURNING id) SELECT count(*) FROM gone"
)
_FORGET_USER = (
    "WITH gone AS (DELETE FROM chat_logs WHERE id IN (SELECT id FROM chat_logs WHERE (user_id = $1 OR owner = $1)"
    " AND ($2::text IS NULL OR organization = $2) LIMIT $3) RETURNING id) SELECT count(*) FROM gone"
)

_OF_ONE_ROW = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    asyncpg.RaiseError,
)
"""What a table, or a trigger of whoever owns it, says to a row and not to all of them."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LoggingDatabase:
    """Where it is, and who goes there."""

    host: str
    port: int
    name: str
    user: str
    password: str

    def __str__(self) -> str:
        return f"The logging database {self.name} at {self.host}:{self.port}"

    def __repr__(self) -> str:
        return str(self)


class PostgresChatLogSink:
    """Implements `ports.chat_logs.ChatLogSink`, over one connection, which is made again where it was lost."""

    def __init__(self, place: LoggingDatabase, *, patience: float = _PATIENCE) -> None:
        self._place = place
        self._patience = patience
        self._connection: Connection | None = None
        self._one_at_a_time = asyncio.Lock()

    async def write(self, rows: Sequence[ChatLog]) -> Mapping[str, str]:
        values = [_values(row) for row in rows]
        return await self._patiently(lambda connection: _write(connection, values))

    async def forget_runs(self, run_ids: Sequence[str]) -> None:
        ids = [run_id.removeprefix("run_") for run_id in run_ids]
        await self._patiently(lambda connection: connection.execute(_FORGET_RUNS, ids))

    async def forget_before(self, before: Instant, limit: int) -> int:
        return await self._patiently(lambda connection: connection.fetchval(_FORGET_BEFORE, id_at(before), limit))

    async def forget_user(self, user: str, organization: str | None, limit: int) -> int:
        return await self._patiently(lambda connection: connection.fetchval(_FORGET_USER, user, organization, limit))

    async def close(self) -> None:
        if self._connection is not None:
            drop(self._connection)
            self._connection = None

    async def _patiently(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        async with self._one_at_a_time:
            try:
                async with asyncio.timeout(self._patience):
                    if self._connection is None:
                        self._connection = await self._connect()
                    return await work(self._connection)
            except BaseException as error:
                await self.close()
                if isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError | OSError | ValueError):
                    raise StorageUnavailable(f"{self._place} {_told(error)}.") from error
                raise

    async def _connect(self) -> Connection:
        place = self._place
        connection = await asyncpg.connect(
            host=place.host,
            port=place.port,
            database=place.name,
            user=place.user,
            password=place.password,
            timeout=self._patience,
            server_settings={"application_name": "innkeeper, chat logs"},
        )
        try:
            if not await connection.fetchval(_HAS_TABLE):
                await connection.execute(_CREATE)
        except BaseException:
            drop(connection)
            raise
        return connection


async def _write(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> Mapping[str, str]:
    """All at once, or, where one of them is refused for what it holds, each by itself."""
    with suppress(*_OF_ONE_ROW):
        await connection.executemany(_INSERT, rows)
        return {}
    refused: dict[str, str] = {}
    for row in rows:
        try:
            await connection.execute(_INSERT, *row)
        except _OF_ONE_ROW as error:
            refused[row[-1]] = str(error)
    return refused


def _told(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "does not answer"
    if isinstance(error, asyncpg.PostgresError):
        return f"refused ({error})"
    return f"cannot be reached ({error})"


def _values(row: ChatLog) -> tuple[Any, ...]:
    usage = row.usage
    tokens = None if usage is None else {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
    return (
        row.id,
        _EPOCH + timedelta(microseconds=row.created_at),
        *map(_text, (row.agent_name, row.session_id, row.owner.organization, row.owner.user, row.user_id)),
        *map(_text, (row.endpoint, row.input, row.output)),
        None if usage is None or usage.model is None else json.dumps({"model": _text(usage.model)}),
        None if tokens is None else json.dumps({**tokens, "total_tokens": sum(tokens.values())}),
        None if usage is None else usage.total_tokens,
        row.response_time / 1000,
        row.status,
        None if row.error is None else _text(row.error.message),
        row.run_id,
    )


def _text(value: str | None) -> str | None:
    """Without what PostgreSQL's text cannot hold."""
    if value is None:
        return None
    return value.replace("\0", "\ufffd").encode(errors="replace").decode()
