"""The tables, in SQLAlchemy Core. Migrations build exactly this; a test compares the two.

Instants are microseconds in BIGINT; JSON is text that `records` encodes, because PostgreSQL's text cannot
hold a NUL that JSON escapes. Owners stand in every table that a caller may read.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    text,
)

metadata = MetaData()


def _owned() -> list[Column[str]]:
    return [
        Column("organization", String, nullable=False),
        Column("owner", String, nullable=False),
        Column("user_id", String, nullable=False),
    ]


sessions = Table(
    "sessions",
    metadata,
    Column("key", String, primary_key=True),
    *_owned(),
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

runs = Table(
    "runs",
    metadata,
    Column("id", String, primary_key=True),
    *_owned(),
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
    *_owned(),
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

# Files that clients uploaded, and files of workspaces, by version: the highest is the current one. A workspace is a
# session's or an agent's ("session", its key; "agent", its name). Contents are blobs, behind a port; a blob that no
# row names is rubbish, and is in `rubbish` from before it is written until a row names it.
files = Table(
    "files",
    metadata,
    Column("id", String, primary_key=True),
    *_owned(),
    Column("name", Text, nullable=False),
    Column("purpose", String, nullable=False),
    Column("media_type", String, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("digest", String, nullable=False),
    Column("blob", String, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Index("files_by_owner", "organization", "owner", "id"),
    Index("files_by_user", "user_id", "organization", "id", sqlite_where=text("user_id <> owner"),
          postgresql_where=text("user_id <> owner")),
    Index("files_that_expire", "expires_at", sqlite_where=text("expires_at IS NOT NULL"),
          postgresql_where=text("expires_at IS NOT NULL")),
)  # fmt: skip

workspace_files = Table(
    "workspace_files",
    metadata,
    Column("kind", String, primary_key=True),
    Column("place", String, primary_key=True),
    Column("path", String, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("organization", String, nullable=False),
    Column("is_current", SmallInteger, nullable=False),
    Column("media_type", String, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("digest", String, nullable=False),
    Column("blob", String, nullable=False),
    Column("author", String, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("workspace_files_now", "kind", "place", "path", unique=True, sqlite_where=text("is_current = 1"),
          postgresql_where=text("is_current = 1")),
    sqlite_with_rowid=False,
)  # fmt: skip

rubbish = Table(
    "rubbish",
    metadata,
    Column("blob", String, primary_key=True),
    Column("due_at", BigInteger, nullable=False),
    Index("rubbish_by_due", "due_at"),
)

# How many bytes of files each tenant keeps, old versions included.
storage_used = Table(
    "storage_used",
    metadata,
    Column("organization", String, primary_key=True),
    Column("bytes", BigInteger, nullable=False),
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

# What runs consumed: what agents tracked and what their prices came to (`credits`, a decimal), and tokens by model,
# with what those cost the operator. `cost` is in billionths and null where no price is known.
credit_records = Table(
    "credit_records",
    metadata,
    Column("id", String, primary_key=True),
    *_owned(),
    Column("run_id", String, nullable=False),
    Column("agent_name", String, nullable=False),
    Column("credits", String, nullable=False),
    Column("reason", Text, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("credit_records_by_run", "run_id"),
    Index("credit_records_by_owner", "organization", "owner", "id"),
    Index("credit_records_by_user", "user_id", "organization", "id", sqlite_where=text("user_id <> owner"),
          postgresql_where=text("user_id <> owner")),
)  # fmt: skip

model_usage = Table(
    "model_usage",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("model", String, primary_key=True),
    *_owned(),
    Column("agent_name", String, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cost", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Index("model_usage_by_owner", "organization", "owner", "run_id"),
    Index("model_usage_by_user", "user_id", "organization", "run_id", sqlite_where=text("user_id <> owner"),
          postgresql_where=text("user_id <> owner")),
    sqlite_with_rowid=False,
)  # fmt: skip

# What may still be spent, in billionths of a credit: by a user, or, where `owner` is empty, by an organization. Of
# what is there, `reserved` is set aside for runs under way. Each movement is an entry, and they sum up to the balance.
balances = Table(
    "balances",
    metadata,
    Column("organization", String, primary_key=True),
    Column("owner", String, primary_key=True),
    Column("available", BigInteger, nullable=False),
    Column("reserved", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

balance_entries = Table(
    "balance_entries",
    metadata,
    Column("organization", String, primary_key=True),
    Column("owner", String, primary_key=True),
    Column("id", String, primary_key=True),
    Column("kind", String, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("balance", BigInteger, nullable=False),
    Column("run_id", String),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# Runs that have ended and whose `topic` ("log", "copy") has not been seen to yet.
outbox = Table(
    "outbox",
    metadata,
    Column("topic", String, primary_key=True),
    Column("run_id", String, primary_key=True),
    sqlite_with_rowid=False,
)

# A row for each run that has ended, derived from it behind. What was said is in the run alone.
chat_logs = Table(
    "chat_logs",
    metadata,
    Column("id", String, primary_key=True),
    *_owned(),
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

admins = Table(
    "admins",
    metadata,
    Column("email", String, primary_key=True),
    Column("id", String, nullable=False),
    Column("workos_id", String, nullable=False),
    Column("name", Text, nullable=False),
    Column("created_by", String, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("admins_by_workos_id", "workos_id", unique=True),
)

# The audit log: `digest` is that of the entry and of `previous`, the digest of the entry before. The head is one row.
audit_entries = Table(
    "audit_entries",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("id", String, nullable=False),
    Column("organization", String, nullable=False),
    Column("owner", String, nullable=False),
    Column("action", String, nullable=False),
    Column("resource", String, nullable=False),
    Column("resource_id", Text),
    Column("metadata", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("previous", String, nullable=False),
    Column("digest", String, nullable=False),
    Index("audit_entries_by_id", "id", unique=True),
)

audit_head = Table(
    "audit_head",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("number", BigInteger, nullable=False),
    Column("digest", String, nullable=False),
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

# What was asked of command handlers, and of event handlers, which are `kind` "reaction". `waits_for` is the command of
# the same batch that must have ended before; the queue is what is queued and waits for none, lowest `rank` first.
commands = Table(
    "commands",
    metadata,
    Column("id", String, primary_key=True),
    *_owned(),
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
    *_owned(),
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

# Credentials, of which only digests are kept. `scopes` are separated by spaces; `expires_at` is null for good.
tokens = Table(
    "tokens",
    metadata,
    Column("id", String, primary_key=True),
    Column("digest", String, nullable=False),
    Column("organization", String, nullable=False),
    Column("owner", String, nullable=False),
    Column("role", String, nullable=False),
    Column("scopes", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("last_used_at", BigInteger),
    Index("tokens_by_owner", "organization", "owner", "id"),
    Index("admin_tokens", "id", sqlite_where=text("role = 'admin'"),
          postgresql_where=text("role = 'admin'")),
)  # fmt: skip

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
