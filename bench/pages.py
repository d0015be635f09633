"""Measures pages of a session's log: what one costs among 1,000,000 events, against the same page among 1,000.

`python -m bench.pages [--quick]`; PostgreSQL is measured where it can be had. The events are written with SQL, the
pages are read as the server reads them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from statistics import median

import asyncpg

from bench.events import stores
from bench.reports import Figure, with_section
from bench.servers import ROOT
from innkeeper.core.changes import CreateSession
from innkeeper.core.identity import LOCAL_OWNER
from innkeeper.core.session_events import EventFilter
from innkeeper.core.sessions import Session
from innkeeper.core.times import Instant
from innkeeper.storage.postgres.stores import PostgresStore
from innkeeper.storage.sqlite.stores import SqliteStore

SECTION = "Pages of a session's log"
_SMALL = 1_000
_TYPES = 10
_ROWS = (
    "INSERT INTO session_events (session_key, sequence, event_type, ordinal, data, metadata, source, created_at)"
    " SELECT '{key}', n, 'type-' || (n % {types}), (n - 1) / {types} + 1, '{{\"status\":\"processing\"}}', '{{}}',"
    " 'client', n * 1000 FROM {series}"
)
_SERIES = {
    True: "(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {count}) SELECT n FROM s)",
    False: "generate_series(1, {count}) AS g(n)",
}
Store = SqliteStore | PostgresStore


def _filling(session: Session, count: int, *, is_sqlite: bool) -> tuple[str, str]:
    series = _SERIES[is_sqlite].format(count=count)
    length = f"UPDATE sessions SET sequence = {count}, last_event_at = {count * 1000} WHERE key = '{session.key}'"
    return _ROWS.format(key=session.key, types=_TYPES, series=series), length


async def filled(store: Store, url: str | None, count: int) -> Session:
    """A session with so many events of ten types, a millisecond apart."""
    session = Session(f"key-{count}", LOCAL_OWNER, "local", f"events-{count}", Instant(1), Instant(1))
    await store.journal.commit((CreateSession(session),))
    if isinstance(store, SqliteStore):
        with sqlite3.connect(store.database) as database:
            for statement in _filling(session, count, is_sqlite=True):
                database.execute(statement)
    else:
        connection = await asyncpg.connect(url)
        for statement in (*_filling(session, count, is_sqlite=False), "ANALYZE session_events"):
            await connection.execute(statement)
        await connection.close()
    return session


def _pages(count: int) -> dict[str, tuple[EventFilter, int]]:
    """What is asked for: a filter and an offset."""
    deep = count - 100
    return {
        "the first page": (EventFilter(), 0),
        "`after` the last but 100": (EventFilter(after=deep), 0),
        "`offset` of all but 100": (EventFilter(), deep),
        "of a type": (EventFilter("type-3"), 0),
        "of a type, `offset` of all but 10": (EventFilter("type-3"), count // _TYPES - 10),
        "of a type, `after` the middle": (EventFilter("type-3", after=count // 2), 0),
        "`since` the last tenth": (EventFilter(since=Instant(count * 900)), 0),
        "of a type, `until` the middle": (EventFilter("type-3", until=Instant(count * 500)), 0),
    }


async def _cost(read: Callable[[], Awaitable[object]], rounds: int) -> float:
    """Milliseconds, the median."""
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        await read()
        taken.append((time.perf_counter() - began) * 1e3)
    return median(taken)


async def measured(store: Store, url: str | None, name: str, count: int, rounds: int) -> list[Figure]:
    await store.open()
    try:
        small, large = await filled(store, url, _SMALL), await filled(store, url, count)
        figures = []
        for label, (wanted, offset) in _pages(count).items():
            at_small, small_offset = _pages(_SMALL)[label]
            read_few = partial(store.events.page, small, at_small, limit=50, offset=small_offset)
            read_many = partial(store.events.page, large, wanted, limit=50, offset=offset)
            few, many = [], []
            for _ in range(5):  # by turns, so that both meet the same moments of the machine
                few.append(await _cost(read_few, rounds))
                many.append(await _cost(read_many, rounds))
            ratio = median(many) / median(few)
            figures.append(Figure(f"{name}: {label}, {median(many):.2f} ms", "×", None, ratio, at_most=1.5))
        return figures
    finally:
        await store.close()


def measure(count: int, rounds: int, scratch: Path) -> list[Figure]:
    figures = []
    with stores() as found:
        for name, environment in found:
            print(f"{count:,} events, {name} ...", flush=True)
            url = environment.get("DATABASE_URL")
            store = SqliteStore(scratch / "pages.db") if url is None else PostgresStore(url)
            figures += asyncio.run(measured(store, url, name, count, rounds))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.pages", description="Measure pages of a session's log.")
    parser.add_argument("--quick", action="store_true", help="RESULTS.md is left as it is")
    options = parser.parse_args()
    (ROOT / ".data").mkdir(exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="bench-", dir=ROOT / ".data"))
    count = 20_000 if options.quick else 1_000_000
    try:
        figures = measure(count, 40, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    told = [
        f"- `python -m bench.pages`: what pages of 50 with their `total` cost among {count:,} events, against the same"
        f" among {_SMALL:,}; a load of {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores at the end"
    ]
    results = ROOT / "bench" / "RESULTS.md"
    text = with_section(results.read_text(), SECTION, figures, told)
    print(text[text.index(f"## {SECTION}") :])
    if not options.quick:
        results.write_text(text)


if __name__ == "__main__":
    main()
