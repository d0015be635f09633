"""What operators look at: chat logs, users, days, and log records."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, SmallInteger, String, Table, Text, text

from innkeeper.storage.schema.columns import metadata, owned

# A row for each run that has ended, derived from it behind. What was said is in the run alone.
chat_logs = Table(
    "chat_logs",
    metadata,
    Column("id", String, primary_key=True),
    *owned(),
    Column("run_id", String, nullable=False),
    Column("session_id", String, nullable=False),
    Column("agent_name", String, nullable=False),
    Column("endpoint", String, nullable=False),
    Column("status", String, nullable=False),
    Column("error", Text),
    Column("model", String),
    Column("input_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("response_time", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("chat_logs_by_owner", "organization", "owner", "id"),
    Index("chat_logs_by_session", "session_id", "id"),
    Index("chat_logs_by_user", "user_id", "id"),
)

# Who has run anything, and how much was run on a day (`day` counts since 1970, UTC); counted with the chat logs.
users = Table(
    "users",
    metadata,
    Column("organization", String, primary_key=True),
    Column("owner", String, primary_key=True),
    Column("user_id", String, primary_key=True),
    Column("first_seen_at", BigInteger, nullable=False),
    Column("last_seen_at", BigInteger, nullable=False),
    Index("users_by_last_seen", "last_seen_at"),
    Index("users_by_name", "user_id"),
    sqlite_with_rowid=False,
)

days = Table(
    "days",
    metadata,
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("requests", BigInteger, nullable=False),
    Column("succeeded", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
)

# What the server logged, and what clients did; `level` is a number as in `logging`. The server's own have no owner.
log_records = Table(
    "log_records",
    metadata,
    Column("id", String, primary_key=True),
    Column("organization", String, nullable=False),
    Column("owner", String, nullable=False),
    Column("source", String, nullable=False),
    Column("level", SmallInteger, nullable=False),
    Column("logger", String, nullable=False),
    Column("message", Text, nullable=False),
    Column("session_id", String),
    Column("request_id", String),
    Column("metadata", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("log_records_by_level", "level", "id"),
    Index("log_records_by_owner", "organization", "owner", "id"),
    Index("log_records_by_session", "session_id", "id", sqlite_where=text("session_id IS NOT NULL"),
          postgresql_where=text("session_id IS NOT NULL")),
)  # fmt: skip
