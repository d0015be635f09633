"""What runs consumed, and what may still be spent."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, String, Table, Text, text

from innkeeper.storage.schema.columns import metadata, owned

# What runs consumed: what agents tracked and what their prices came to (`credits`, a decimal), and tokens by model,
# with what those cost the operator. `cost` is in billionths and null where no price is known.
credit_records = Table(
    "credit_records",
    metadata,
    Column("id", String, primary_key=True),
    *owned(),
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
    *owned(),
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
