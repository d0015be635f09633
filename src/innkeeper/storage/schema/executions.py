"""What is run: runs with their logs, what they wait for, who executes them, and what is owed when they end."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, SmallInteger, String, Table, Text, text

from innkeeper.storage.schema.columns import metadata, owned

runs = Table(
    "runs",
    metadata,
    Column("id", String, primary_key=True),
    *owned(),
    Column("session_key", String, nullable=False),
    Column("session_id", String, nullable=False),
    Column("agent_name", String, nullable=False),
    Column("endpoint", String, nullable=False),
    Column("status", String, nullable=False),
    Column("turn", BigInteger, nullable=False),
    Column("background", SmallInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("worker", String, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("recorded", SmallInteger, nullable=False),
    Column("input", Text, nullable=False),
    Column("output", Text),
    Column("error", Text),
    Column("finish_reason", String),
    Column("input_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("model", String),
    Column("steps", Integer, nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("started_sequence", BigInteger),
    Column("ended_sequence", BigInteger),
    Column("opening", LargeBinary),
    Column("closing", LargeBinary),
    Column("closing_seq", BigInteger),
    Column("plan", Text),
    Column("webhook", Text),
    Column("injections", BigInteger, nullable=False, server_default="0"),
    Column("cancel_requested", SmallInteger, nullable=False, server_default="0"),
    Column("trace_id", String),
    Column("parent_span", String),
    Column("terms", Text),
    Column("reserved", BigInteger),
    Column("request", Text),
    Index("runs_of_traces", "trace_id", "organization", "owner", "id", sqlite_where=text("trace_id IS NOT NULL"),
          postgresql_where=text("trace_id IS NOT NULL")),
    Index("runs_by_age", "organization", "owner", "id"),
    Index("runs_by_user", "user_id", "organization", "id", sqlite_where=text("user_id <> owner"),
          postgresql_where=text("user_id <> owner")),
    Index("runs_by_session", "session_key", "id"),
    Index("runs_unfinished", "session_key", "status", sqlite_where=text("ended_at IS NULL"),
          postgresql_where=text("ended_at IS NULL")),
    Index("runs_one_at_a_time", "session_key", unique=True, sqlite_where=text("status = 'running'"),
          postgresql_where=text("status = 'running'")),
    Index("runs_in_queue", "id", sqlite_where=text("status = 'queued' AND background = 1"),
          postgresql_where=text("status = 'queued' AND background = 1")),
)  # fmt: skip

# `terms` is what its agent costs, and `reserved` what is set aside for it of its caller's balances; null for nothing.
# `request` is what the surface that it came through needs to know of its request when it tells of the run later.
# A run's log is its `opening` (the first event), its segments, and its `closing`: the last segment, which begins
# at `closing_seq`. A short run has no rows in `segments` at all. The two sequences are the run's places in its
# session's log.
segments = Table(
    "segments",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("first_seq", BigInteger, primary_key=True),
    Column("last_seq", BigInteger, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# What runs wait for people to do, and what they decided. A run is paused while one of its actions is pending; `number`
# is their order. What its runtime goes on with is in `continuations`, from the pause until it goes on.
actions = Table(
    "actions",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("number", Integer, primary_key=True),
    *owned(),
    Column("session_key", String, nullable=False),
    Column("session_id", String, nullable=False),
    Column("agent_name", String, nullable=False),
    Column("id", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("name", String, nullable=False),
    Column("arguments", Text, nullable=False),
    Column("status", String, nullable=False),
    Column("answer", Text),
    Column("decided_by", String),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("decided_at", BigInteger),
    Index("actions_by_owner", "organization", "owner", "run_id", "number"),
    Index("actions_of_sessions", "session_key"),
    Index("actions_by_user", "user_id", "organization", "run_id", sqlite_where=text("user_id <> owner"),
          postgresql_where=text("user_id <> owner")),
    Index("actions_pending", "organization", "owner", "run_id", "number", sqlite_where=text("status = 'pending'"),
          postgresql_where=text("status = 'pending'")),
    Index("actions_that_expire", "expires_at", sqlite_where=text("status = 'pending'"),
          postgresql_where=text("status = 'pending'")),
    sqlite_with_rowid=False,
)  # fmt: skip

continuations = Table(
    "continuations",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("session_key", String, nullable=False),
    Column("state", Text, nullable=False),
    Index("continuations_of_sessions", "session_key"),
)

# `number` is the order of arrival. `run_id` is the run that has the message or is to have it: none while it waits
# for the next one, of its session or, where `session_key` is null, of its owner with that agent.
injections = Table(
    "injections",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("organization", String, nullable=False),
    Column("owner", String, nullable=False),
    Column("session_key", String),
    Column("agent_name", String),
    Column("first_run_id", String),
    Column("run_id", String),
    Column("content", Text, nullable=False),
    Column("status", String, nullable=False),
    Column("seq", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Index("injections_of_runs", "run_id"),
    Index("injections_of_sessions", "session_key"),
    Index("injections_for_sessions", "session_key", "created_at", sqlite_where=text("status = 'deferred'"),
          postgresql_where=text("status = 'deferred'")),
    Index("injections_for_agents", "organization", "owner", "agent_name", "created_at",
          sqlite_where=text("status = 'deferred' AND session_key IS NULL"),
          postgresql_where=text("status = 'deferred' AND session_key IS NULL")),
)  # fmt: skip

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("organization", String, primary_key=True),
    Column("owner", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("fingerprint", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("answer", LargeBinary),
    Column("created_at", BigInteger, nullable=False),
    Index("idempotency_keys_by_age", "created_at"),
    sqlite_with_rowid=False,
)

# Processes that serve this store; on SQLite there is one, which the store's lock names, and no rows.
workers = Table(
    "workers",
    metadata,
    Column("id", String, primary_key=True),
    Column("process", String, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
)

# Runs that have ended and whose `topic` ("log", "copy") has not been seen to yet.
outbox = Table(
    "outbox",
    metadata,
    Column("topic", String, primary_key=True),
    Column("run_id", String, primary_key=True),
    sqlite_with_rowid=False,
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", String, primary_key=True),
    Column("run_id", String, nullable=False),
    Column("url", Text, nullable=False),
    Column("status", String, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("deliveries_of_runs", "run_id"),
    Index("deliveries_due", "due_at", sqlite_where=text("status = 'pending'"),
          postgresql_where=text("status = 'pending'")),
)  # fmt: skip
