"""The tables, in SQLAlchemy Core. Migrations build exactly this; a test compares the two.

Instants are microseconds in BIGINT; JSON is text that `records` encodes, because PostgreSQL's text cannot
hold a NUL that JSON escapes. Owners stand in every table that a caller may read. Each module has the tables
of one subject; whoever writes statements imports them from here, as `schema.runs`.
"""

from __future__ import annotations

from innkeeper.storage.schema.columns import metadata
from innkeeper.storage.schema.contents import files, rubbish, storage_used, workspace_files
from innkeeper.storage.schema.control import commands, engines, handlers, session_state, tools
from innkeeper.storage.schema.conversations import branches, messages, session_events, sessions
from innkeeper.storage.schema.executions import (
    actions,
    continuations,
    deliveries,
    idempotency_keys,
    injections,
    outbox,
    runs,
    segments,
    workers,
)
from innkeeper.storage.schema.ledgers import balance_entries, balances, credit_records, model_usage
from innkeeper.storage.schema.observations import chat_logs, days, log_records, users
from innkeeper.storage.schema.operators import admins, audit_entries, audit_head, tokens

__all__ = [
    "actions",
    "admins",
    "audit_entries",
    "audit_head",
    "balance_entries",
    "balances",
    "branches",
    "chat_logs",
    "commands",
    "continuations",
    "credit_records",
    "days",
    "deliveries",
    "engines",
    "files",
    "handlers",
    "idempotency_keys",
    "injections",
    "log_records",
    "messages",
    "metadata",
    "model_usage",
    "outbox",
    "rubbish",
    "runs",
    "segments",
    "session_events",
    "session_state",
    "sessions",
    "storage_used",
    "tokens",
    "tools",
    "users",
    "workers",
    "workspace_files",
]
