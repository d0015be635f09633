"""Who may do what, and what they did: administrators, tokens, and the audit log."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, SmallInteger, String, Table, Text, text

from innkeeper.storage.schema.columns import metadata

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
