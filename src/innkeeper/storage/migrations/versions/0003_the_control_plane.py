"""What the control plane needs: the sessions' event log, commands, engines, code of clients, tokens and logs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("sessions", sa.Column("last_event_at", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("sessions", sa.Column("token_digest", sa.String(), nullable=True))
    _index("sessions_by_token", "sessions", ["token_digest"], where="token_digest IS NOT NULL", unique=True)
    op.add_column("runs", sa.Column("trace_id", sa.String(), nullable=True))
    op.add_column("runs", sa.Column("parent_span", sa.String(), nullable=True))
    _index("runs_of_traces", "runs", ["trace_id", "organization", "owner", "id"], where="trace_id IS NOT NULL")
    op.drop_table("session_events")  # it has been empty so far
    _session_events()
    _tell_of_earlier_runs()
    _commands()
    _handlers()
    _tools()
    _session_state()
    _engines()
    _tokens()
    _log_records()


def _tell_of_earlier_runs() -> None:
    """Runs had taken their places in their sessions' logs without being written there."""
    quote = "json_quote({})" if op.get_bind().dialect.name == "sqlite" else "to_json({}::text)::text"
    for event_type, place, instant, status in (
        ("run_started", "started_sequence", "started_at", "'running'"),
        ("run_ended", "ended_sequence", "ended_at", "status"),
    ):
        told = (
            "'{\"agent_name\":' || "
            + quote.format("agent_name")
            + " || ',\"status\":' || "
            + quote.format(status)
            + " || '}'"
        )
        op.execute(
            sa.text(
                "INSERT INTO session_events (session_key, sequence, event_type, ordinal, run_id, data, metadata,"  # noqa: S608
                f" source, created_at) SELECT session_key, {place}, '{event_type}',"
                f" row_number() OVER (PARTITION BY session_key ORDER BY {place}), id, {told},"
                f" '{{}}', 'server', {instant} FROM runs WHERE {place} IS NOT NULL AND recorded = 1"
            )
        )
    op.execute(
        sa.text(
            "UPDATE sessions SET last_event_at = coalesce((SELECT max(created_at) FROM session_events"
            " WHERE session_events.session_key = sessions.key), 0)"
        )
    )


def _session_events() -> None:
    op.create_table(
        "session_events",
        sa.Column("session_key", sa.String(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("event_type", sa.String(), nullable=False),
        sa.Column("ordinal", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=True),
        sa.Column("data", sa.Text(), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("session_key", "sequence"),
        sqlite_with_rowid=False,
    )
    op.create_index("session_events_by_type", "session_events", ["session_key", "event_type", "ordinal"], unique=True)


def _commands() -> None:
    op.create_table(
        "commands",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("organization", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("session_key", sa.String(), nullable=False),
        sa.Column("session_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("command_type", sa.String(), nullable=False),
        sa.Column("parameters", sa.Text(), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("handler", sa.String(), nullable=True),
        sa.Column("rank", sa.SmallInteger(), nullable=False),
        sa.Column("timeout", sa.BigInteger(), nullable=False),
        sa.Column("depth", sa.SmallInteger(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("waits_for", sa.String(), nullable=True),
        sa.Column("worker", sa.String(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("cancel_requested", sa.SmallInteger(), nullable=False),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("trace_id", sa.String(), nullable=True),
        sa.Column("parent_span", sa.String(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    _index("commands_in_queue", "commands", ["rank", "id"], where="status = 'queued' AND waits_for IS NULL")
    _index("commands_held", "commands", ["worker"], where="status = 'executing'")
    op.create_index("commands_of_sessions", "commands", ["session_key", "id"])
    _index("commands_of_traces", "commands", ["trace_id", "organization", "owner", "id"], where="trace_id IS NOT NULL")
    _index("commands_that_wait", "commands", ["waits_for"], where="waits_for IS NOT NULL")


def _handlers() -> None:
    op.create_table(
        "handlers",
        sa.Column("session_key", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("function", sa.String(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("session_key", "kind", "type", "number"),
        sqlite_with_rowid=False,
    )


def _tools() -> None:
    op.create_table(
        "tools",
        sa.Column("session_key", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("parameters", sa.Text(), nullable=False),
        sa.Column("function", sa.String(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("session_key", "name"),
        sqlite_with_rowid=False,
    )


def _session_state() -> None:
    op.create_table(
        "session_state",
        sa.Column("session_key", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("session_key", "name"),
        sqlite_with_rowid=False,
    )


def _engines() -> None:
    op.create_table(
        "engines",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("organization", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("session_key", sa.String(), nullable=False),
        sa.Column("session_id", sa.String(), nullable=False),
        sa.Column("engine_type", sa.String(), nullable=False),
        sa.Column("model_name", sa.String(), nullable=True),
        sa.Column("configuration", sa.Text(), nullable=False),
        sa.Column("last_run_id", sa.String(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("engines_of_sessions", "engines", ["session_key", "id"])
    op.create_index("engines_by_age", "engines", ["organization", "owner", "id"])


def _tokens() -> None:
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("organization", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.Column("last_used_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("tokens_by_owner", "tokens", ["organization", "owner", "id"])


def _log_records() -> None:
    op.create_table(
        "log_records",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("organization", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("level", sa.SmallInteger(), nullable=False),
        sa.Column("logger", sa.String(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("session_id", sa.String(), nullable=True),
        sa.Column("request_id", sa.String(), nullable=True),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    _index("log_records_by_session", "log_records", ["session_id", "id"], where="session_id IS NOT NULL")
    op.create_index("log_records_by_owner", "log_records", ["organization", "owner", "id"])
    op.create_index("log_records_by_level", "log_records", ["level", "id"])


def _index(name: str, table: str, columns: list[str], *, where: str, unique: bool = False) -> None:
    op.create_index(name, table, columns, unique=unique, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
