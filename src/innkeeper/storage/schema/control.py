"""The control plane: commands, what clients registered for a session, its state, and engines."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, SmallInteger, String, Table, Text, text

from innkeeper.storage.schema.columns import metadata, owned

# What was asked of command handlers, and of event handlers, which are `kind` "reaction". `waits_for` is the command of
# the same batch that must have ended before; the queue is what is queued and waits for none, lowest `rank` first.
commands = Table(
    "commands",
    metadata,
    Column("id", String, primary_key=True),
    *owned(),
    Column("session_key", String, nullable=False),
    Column("session_id", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("command_type", String, nullable=False),
    Column("parameters", Text, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("handler", String),
    Column("rank", SmallInteger, nullable=False),
    Column("timeout", BigInteger, nullable=False),
    Column("depth", SmallInteger, nullable=False),
    Column("status", String, nullable=False),
    Column("waits_for", String),
    Column("worker", String, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("cancel_requested", SmallInteger, nullable=False),
    Column("result", Text),
    Column("error", Text),
    Column("trace_id", String),
    Column("parent_span", String),
    Column("created_at", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("ended_at", BigInteger),
    Index("commands_of_sessions", "session_key", "id"),
    Index("commands_in_queue", "rank", "id", sqlite_where=text("status = 'queued' AND waits_for IS NULL"),
          postgresql_where=text("status = 'queued' AND waits_for IS NULL")),
    Index("commands_held", "worker", sqlite_where=text("status = 'executing'"),
          postgresql_where=text("status = 'executing'")),
    Index("commands_that_wait", "waits_for", sqlite_where=text("waits_for IS NOT NULL"),
          postgresql_where=text("waits_for IS NOT NULL")),
    Index("commands_of_traces", "trace_id", "organization", "owner", "id", sqlite_where=text("trace_id IS NOT NULL"),
          postgresql_where=text("trace_id IS NOT NULL")),
)  # fmt: skip

# Handlers and tools that clients registered as source code, each in one session.
handlers = Table(
    "handlers",
    metadata,
    Column("session_key", String, primary_key=True),
    Column("kind", String, primary_key=True),
    Column("type", String, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("id", String, nullable=False),
    Column("function", String, nullable=False),
    Column("source", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

tools = Table(
    "tools",
    metadata,
    Column("session_key", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("description", Text, nullable=False),
    Column("parameters", Text, nullable=False),
    Column("function", String, nullable=False),
    Column("source", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# What code of a session has put aside with `set_state`.
session_state = Table(
    "session_state",
    metadata,
    Column("session_key", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("value", Text, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

engines = Table(
    "engines",
    metadata,
    Column("id", String, primary_key=True),
    *owned(),
    Column("session_key", String, nullable=False),
    Column("session_id", String, nullable=False),
    Column("engine_type", String, nullable=False),
    Column("model_name", String),
    Column("configuration", Text, nullable=False),
    Column("last_run_id", String),
    Column("created_at", BigInteger, nullable=False),
    Index("engines_by_age", "organization", "owner", "id"),
    Index("engines_of_sessions", "session_key", "id"),
)
