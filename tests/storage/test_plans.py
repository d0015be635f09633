"""No statement reads a whole table: how both databases would carry out each of them, over many rows of one owner."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Integer, LargeBinary, SmallInteger
from sqlalchemy.types import TypeEngine

from innkeeper import storage
from innkeeper.storage import migrations, programs, schema
from innkeeper.storage.statements import Statement

ROWS = 20_000
_SMALL = {"workers", "audit_head", "admins", "days", "search", "organizations", "stretch", "CONSTANT"}
"""Tables of a few rows, one a day at most; the last four are what a search, step by step, has found so far."""

_UNFINISHED = {
    "runs_unfinished",
    "runs_one_at_a_time",
    "runs_in_queue",
    "deliveries_due",
    "commands_in_queue",
    "commands_held",
    "admin_tokens",
    "actions_pending",
    "actions_that_expire",
}
"""Indexes of what is under way or waits, or of few, which may be read whole: they are as short as that is."""

_SERIES = {
    "sqlite": "(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {rows}) SELECT n FROM s) AS g",
    "postgres": "generate_series(1, {rows}) AS g(n)",
}
# Of one owner's runs most have ended, twenty are under way, and forty wait, half of them in the background. One in
# two injections is deferred, to sessions and to agents by turns.
_CELLS = {
    "organization": "'acme'",
    "owner": "'ann'",
    "session_key": "'s_' || (n % ({rows} / 10))",
    "runs.id": "'run_' || n",
    "runs.status": "CASE WHEN n > {rows} - 20 THEN 'running' WHEN n > {rows} - 60 THEN 'queued' ELSE 'completed' END",
    "runs.background": "CASE WHEN n > {rows} - 40 THEN 1 ELSE 0 END",
    "runs.worker": "CASE WHEN n > {rows} - 40 AND n <= {rows} - 20 THEN '' ELSE 'w' END",
    "runs.ended_at": "CASE WHEN n > {rows} - 60 THEN NULL ELSE n END",
    "run_id": "'run_' || n",
    "audit_head.id": "n + 1",
    "actions.status": "CASE WHEN n > {rows} - 20 THEN 'pending' ELSE 'approved' END",
    "storage_used.organization": "'o_' || n",
    "balances.owner": "'u_' || n",
    "users.owner": "'u_' || n",
    "injections.session_key": "CASE WHEN n % 4 = 1 THEN NULL ELSE 's_' || (n % ({rows} / 10)) END",
    "injections.agent_name": "'agent-' || (n % 100)",
    "injections.run_id": "CASE WHEN n % 2 = 1 THEN NULL ELSE 'run_' || n END",
    "injections.status": "CASE WHEN n % 2 = 1 THEN 'deferred' ELSE 'delivered' END",
    "log_records.level": "(n % 5 + 1) * 10",
    "commands.status": "CASE WHEN n > {rows} - 20 THEN 'executing' WHEN n > {rows} - 60 THEN 'queued'"
    " ELSE 'completed' END",
    "commands.ended_at": "CASE WHEN n > {rows} - 60 THEN NULL ELSE n END",
    "commands.waits_for": "CASE WHEN n > {rows} - 40 THEN 'x_' || (n - 1) END",
    "session_events.event_type": "'type-' || (n % 10)",
    "deliveries.status": "CASE WHEN n > {rows} - 60 THEN 'pending' ELSE 'delivered' END",
}


def _filling(dialect: str, rows: int = ROWS) -> Iterator[str]:
    """Statements that put so many rows into every table."""
    for table in schema.metadata.sorted_tables:
        cells = [_CELLS.get(f"{table.name}.{one.name}") or _CELLS.get(one.name) or _cell(one.type) for one in table.c]
        names = ", ".join(f'"{one.name}"' for one in table.c)
        yield f"INSERT INTO {table.name} ({names}) SELECT {', '.join(cells)} FROM {_SERIES[dialect]}".format(rows=rows)


def _cell(kind: TypeEngine[Any]) -> str:
    """A value of a type, which is different in each row where that is possible."""
    if isinstance(kind, SmallInteger):
        return "1"
    if isinstance(kind, LargeBinary):
        return "''"
    return "n" if isinstance(kind, Integer) else "'x_' || n"


def _statements() -> Iterator[tuple[str, Statement]]:
    """Every statement of the programs and readers, with its name."""
    modules = [
        importlib.import_module(f"innkeeper.storage.{m.name}")
        for m in pkgutil.iter_modules(storage.__path__)
        if m.name.endswith("readers")
    ]
    modules += [
        importlib.import_module(f"{programs.__name__}.{m.name}") for m in pkgutil.iter_modules(programs.__path__)
    ]
    for module in modules:
        place = module.__name__.removeprefix("innkeeper.storage.")
        for name, value in vars(module).items():
            for index, one in enumerate(value if isinstance(value, tuple) else (value,)):
                if isinstance(one, Statement):
                    yield f"{place}.{name}[{index}]" if isinstance(value, tuple) else f"{place}.{name}", one


STATEMENTS = dict(_statements())


@pytest.mark.parametrize("name", STATEMENTS)
def test_sqlite_reads_no_table_from_one_end_to_the_other(filled_file: sqlite3.Connection, name: str) -> None:
    sql = STATEMENTS[name].sqlite.sql
    plan = filled_file.execute(f"EXPLAIN QUERY PLAN {sql}", (None,) * sql.count("?")).fetchall()
    for *_, step in plan:
        scanned = re.match(r"SCAN (\w+)(?: USING (?:COVERING )?INDEX (\w+))?", step)
        assert scanned is None or scanned[1] in _SMALL or scanned[2] in _UNFINISHED, f"{step}\n{sql}"


@pytest.fixture(scope="module")
def filled_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    database: Path = tmp_path_factory.mktemp("plans") / "a.db"
    migrations.upgrade(f"sqlite:///{database}")
    connection = sqlite3.connect(database)
    for statement in _filling("sqlite"):
        connection.execute(statement)
    connection.commit()
    yield connection
    connection.close()


async def test_postgres_reads_no_table_from_one_end_to_the_other(migrated_database: str) -> None:
    connection = await asyncpg.connect(migrated_database)
    try:
        for statement in _filling("postgres"):
            await connection.execute(statement)
        await connection.execute("ANALYZE")
        # The plan that serves any values is what a connection settles on.
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        wrong = {name: told for name, one in STATEMENTS.items() if (told := await _whole_reads(connection, one))}
    finally:
        await connection.close()
    assert wrong == {}


async def _whole_reads(connection: Any, statement: Statement) -> list[str]:
    """What of a statement's plan reads a whole table that may be large."""
    sql = statement.postgres.sql
    count = max((int(number) for number in re.findall(r"\$(\d+)", sql)), default=0)
    values = f"({', '.join(['NULL'] * count)})" if count else ""
    await connection.execute(f"PREPARE it AS {sql}")
    told = json.loads(await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE it{values}"))
    await connection.execute("DEALLOCATE it")
    return list(_reading_all(told[0]["Plan"]))


def _reading_all(node: dict[str, Any]) -> Iterator[str]:
    table, index, kind = node.get("Relation Name"), node.get("Index Name"), node["Node Type"]
    is_scan = kind == "Seq Scan" or (index is not None and "Index Cond" not in node)
    if is_scan and table not in _SMALL and index not in _UNFINISHED:
        yield f"{kind} on {table} {index}"
    for inner in node.get("Plans", ()):
        yield from _reading_all(inner)
