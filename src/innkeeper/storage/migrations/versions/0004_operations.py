"""What operators need: balances and usage, chat logs, administrators, the audit log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.drop_index("sessions_by_name", table_name="sessions")
    op.create_index("sessions_by_name", "sessions", ["id", "organization", "owner", "user_id"], unique=True)
    op.add_column("runs", sa.Column("terms", sa.Text(), nullable=True))
    op.add_column("runs", sa.Column("reserved", sa.BigInteger(), nullable=True))
    op.create_index("credit_records_by_owner", "credit_records", ["organization", "owner", "id"])
    _model_usage()
    _balances()
    _chat_logs()
    _counts()
    _admins()
    _audit()
    _end_users()
    op.execute(sa.text("INSERT INTO outbox (topic, run_id) SELECT 'log', id FROM runs WHERE ended_at IS NOT NULL"))


def _end_users() -> None:
    """What was made for end users other than who asked, to be found when one is forgotten."""
    is_other = sa.text("user_id <> owner")
    for table, key in (("sessions", "key"), ("runs", "id"), ("credit_records", "id"), ("model_usage", "run_id")):
        columns = ["user_id", "organization", key]
        op.create_index(f"{table}_by_user", table, columns, sqlite_where=is_other, postgresql_where=is_other)


def _model_usage() -> None:
    op.create_table(
        "model_usage",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        *_owned(),
        sa.Column("agent_name", sa.String(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cost", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "model"),
        sqlite_with_rowid=False,
    )
    op.create_index("model_usage_by_owner", "model_usage", ["organization", "owner", "run_id"])


def _balances() -> None:
    op.create_table(
        "balances",
        sa.Column("organization", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("available", sa.BigInteger(), nullable=False),
        sa.Column("reserved", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("organization", "owner"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "balance_entries",
        sa.Column("organization", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("balance", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("organization", "owner", "id"),
        sqlite_with_rowid=False,
    )


def _chat_logs() -> None:
    op.create_table(
        "outbox",
        sa.Column("topic", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("topic", "run_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "chat_logs",
        sa.Column("id", sa.String(), nullable=False),
        *_owned(),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("session_id", sa.String(), nullable=False),
        sa.Column("agent_name", sa.String(), nullable=False),
        sa.Column("endpoint", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("model", sa.String(), nullable=True),
        sa.Column("input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("output_tokens", sa.BigInteger(), nullable=True),
        sa.Column("response_time", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("chat_logs_by_owner", "chat_logs", ["organization", "owner", "id"])
    op.create_index("chat_logs_by_session", "chat_logs", ["session_id", "id"])
    op.create_index("chat_logs_by_user", "chat_logs", ["user_id", "id"])


def _counts() -> None:
    op.create_table(
        "users",
        sa.Column("organization", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("first_seen_at", sa.BigInteger(), nullable=False),
        sa.Column("last_seen_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("organization", "owner", "user_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("users_by_last_seen", "users", ["last_seen_at"])
    op.create_index("users_by_name", "users", ["user_id"])
    op.create_table(
        "days",
        sa.Column("day", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("succeeded", sa.BigInteger(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("day"),
    )


def _admins() -> None:
    op.create_table(
        "admins",
        sa.Column("email", sa.String(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("workos_id", sa.String(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("email"),
    )
    op.create_index("admins_by_workos_id", "admins", ["workos_id"], unique=True)
    op.create_index(
        "admin_tokens",
        "tokens",
        ["id"],
        sqlite_where=sa.text("role = 'admin'"),
        postgresql_where=sa.text("role = 'admin'"),
    )


def _audit() -> None:
    op.create_table(
        "audit_entries",
        sa.Column("number", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("organization", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("resource", sa.String(), nullable=False),
        sa.Column("resource_id", sa.Text(), nullable=True),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("previous", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_index("audit_entries_by_id", "audit_entries", ["id"], unique=True)
    head = op.create_table(
        "audit_head",
        sa.Column("id", sa.SmallInteger(), nullable=False, autoincrement=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.bulk_insert(head, [{"id": 1, "number": 0, "digest": ""}])


def _owned() -> list[sa.Column[str]]:
    return [sa.Column(name, sa.String(), nullable=False) for name in ("organization", "owner", "user_id")]
