"""What is said: sessions, the branches of their conversations, messages, and each session's own log."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, SmallInteger, String, Table, Text, text

from innkeeper.storage.schema.columns import metadata, owned

sessions = Table(
    "sessions",
    metadata,
    Column("key", String, primary_key=True),
    *owned(),
    Column("id", String, nullable=False),
    Column("agent_name", String),
    Column("title", Text),
    Column("metadata", Text, nullable=False),
    Column("archived", SmallInteger, nullable=False),
    Column("recorded", SmallInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("last_message_at", BigInteger),
    Column("head_position", BigInteger, nullable=False),
    Column("head_branch", Integer, nullable=False),
    Column("head_chain", String, nullable=False),
    Column("message_count", BigInteger, nullable=False),
    Column("last_position", BigInteger, nullable=False),
    Column("last_branch", Integer, nullable=False),
    Column("instructions", String, nullable=False),
    Column("turns", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("last_event_at", BigInteger, nullable=False, server_default="0"),
    Column("token_digest", String),
    Index("sessions_by_token", "token_digest", unique=True, sqlite_where=text("token_digest IS NOT NULL"),
          postgresql_where=text("token_digest IS NOT NULL")),
    Index("sessions_by_name", "id", "organization", "owner", "user_id", unique=True),
    Index("sessions_by_age", "organization", "owner", "recorded", "key"),
    Index("sessions_by_user", "user_id", "organization", "key", sqlite_where=text("user_id <> owner"),
          postgresql_where=text("user_id <> owner")),
)  # fmt: skip

branches = Table(
    "branches",
    metadata,
    Column("session_key", String, primary_key=True),
    Column("branch", Integer, primary_key=True),
    Column("parent_branch", Integer, nullable=False),
    Column("fork_position", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

messages = Table(
    "messages",
    metadata,
    Column("session_key", String, primary_key=True),
    Column("position", BigInteger, primary_key=True),
    Column("branch", Integer, nullable=False),
    Column("depth", BigInteger, nullable=False),
    Column("run_id", String),
    Column("internal", SmallInteger, nullable=False),
    Column("body", Text, nullable=False),
    Column("chain", String, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# A session's own log. `ordinal` numbers the events of one type in one session, without a gap, so that a page of them
# and their count are found by key; `created_at` never goes back within a session, so that an instant is, too.
session_events = Table(
    "session_events",
    metadata,
    Column("session_key", String, primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    Column("event_type", String, nullable=False),
    Column("ordinal", BigInteger, nullable=False),
    Column("run_id", String),
    Column("data", Text, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("source", String, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("session_events_by_type", "session_key", "event_type", "ordinal", unique=True),
    sqlite_with_rowid=False,
)
