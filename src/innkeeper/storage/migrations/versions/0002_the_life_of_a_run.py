"""What a run needs beyond one process: injections, idempotency keys, workers, the queue and its webhooks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("runs", sa.Column("plan", sa.Text(), nullable=True))
    op.add_column("runs", sa.Column("webhook", sa.Text(), nullable=True))
    op.add_column("runs", sa.Column("injections", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("runs", sa.Column("cancel_requested", sa.SmallInteger(), nullable=False, server_default="0"))
    _index("runs_in_queue", "runs", ["id"], where="status = 'queued' AND background = 1")
    op.create_table(
        "injections",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("organization", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("session_key", sa.String(), nullable=True),
        sa.Column("agent_name", sa.String(), nullable=True),
        sa.Column("first_run_id", sa.String(), nullable=True),
        sa.Column("run_id", sa.String(), nullable=True),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("id"),
    )
    op.create_index("injections_of_runs", "injections", ["run_id"])
    op.create_index("injections_of_sessions", "injections", ["session_key"])
    _index("injections_for_sessions", "injections", ["session_key", "created_at"], where="status = 'deferred'")
    _index(
        "injections_for_agents",
        "injections",
        ["organization", "owner", "agent_name", "created_at"],
        where="status = 'deferred' AND session_key IS NULL",
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("organization", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("answer", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("organization", "owner", "key"),
        sqlite_with_rowid=False,
    )
    op.create_index("idempotency_keys_by_age", "idempotency_keys", ["created_at"])
    op.create_table(
        "workers",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("process", sa.String(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("deliveries_of_runs", "deliveries", ["run_id"])
    _index("deliveries_due", "deliveries", ["due_at"], where="status = 'pending'")


def _index(name: str, table: str, columns: list[str], *, where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
