"""Log records on every store: kept once, found again by what they are, invisible to others, and forgotten in time."""

from __future__ import annotations

import time
from itertools import count

import pytest

from innkeeper.core.changes import KeepClaim
from innkeeper.core.claims import Claim
from innkeeper.core.control_changes import ForgetLogs, ForgottenLogs, KeepLogs
from innkeeper.core.identity import Caller, Owner
from innkeeper.core.logs import NOBODY, Level, LogFilter, LogRecord, Source, id_at
from innkeeper.core.outcomes import Done
from innkeeper.core.times import Instant
from innkeeper.storage.log_readers import StoredLogs
from innkeeper.telemetry.retention import LogRetention
from tests.support.sizes import within
from tests.support.turns import ANN, BOB, Store

EVE = Caller(Owner("other", "ann"))
START = Instant(1_790_000_000_000_000)
_SECOND = 1_000_000
_numbers = count(1)


def a_record(
    message: str = "something happened",
    *,
    second: int = 0,
    owner: Owner = NOBODY,
    level: Level = Level.INFO,
    source: Source = "server",
    session_id: str | None = None,
) -> LogRecord:
    """One that was made so many seconds after `START`."""
    created_at = Instant(START + second * _SECOND)
    id = f"{id_at(created_at)}{next(_numbers):020x}"
    return LogRecord(id, owner, source, level, "a.logger", message, created_at, session_id, "req", {"n": [1.5, "ä"]})


async def kept(store: Store, *records: LogRecord) -> list[LogRecord]:
    """The records, stored; newest first."""
    assert await store.journal.commit((KeepLogs(records),)) == (Done(),)
    return sorted(records, key=lambda record: record.id, reverse=True)


async def found(
    store: Store,
    wanted: LogFilter | None = None,
    *,
    caller: Caller = ANN,
    limit: int = 200,
    after: str | None = None,
    sees_all: bool = True,
) -> list[LogRecord]:
    """What a page has, all of which it must have found."""
    page = await store.logs.page(caller, wanted or LogFilter(), limit=limit, after=after, sees_all=sees_all)
    assert page.next is None
    return list(page.records)


def looking_at(store: Store, rows: int) -> StoredLogs:
    """The store's reader, if it looked at so many rows only."""
    return StoredLogs(store.logs._fetch, looked_at=rows)


async def everything(reader: StoredLogs, wanted: LogFilter, *, limit: int, sees_all: bool = True) -> list[str]:
    """The messages of all pages."""
    messages: list[str] = []
    after: str | None = None
    while True:
        page = await reader.page(ANN, wanted, limit=limit, after=after, sees_all=sees_all)
        messages += [record.message for record in page.records]
        if page.next is None:
            return messages
        assert after is None or page.next < after, "each page leads on"
        after = page.next


@pytest.mark.parametrize("number", [1, 3, 64, 200])
async def test_records_are_found_as_they_were_kept_newest_first(store: Store, number: int) -> None:
    records = await kept(store, *(a_record(f"line {second}", second=second) for second in range(number)))
    assert await found(store) == records


async def test_what_no_text_of_a_database_can_hold_is_replaced(store: Store) -> None:
    await kept(store, a_record("nul \0 and half \ud83d"))
    (record,) = await found(store)
    assert record.message == "nul \ufffd and half \ufffd"


async def test_the_same_batch_again_changes_nothing(store: Store) -> None:
    records = await kept(store, *(a_record(second=second) for second in range(70)))
    await kept(store, *reversed(records))
    assert await found(store) == records


async def test_records_of_a_request_that_was_made_before_are_not_kept(store: Store) -> None:
    first, second = a_record("first", owner=ANN.owner), a_record("second", owner=ANN.owner)
    for record in (first, second):
        claiming = KeepClaim(ANN.owner, Claim("key", "digest"), record.id, record.created_at)
        await store.journal.commit((claiming, KeepLogs((record,))))
    assert await found(store) == [first]


async def test_pages_hold_everything_once(store: Store) -> None:
    records = await kept(store, *(a_record(f"line {second}", second=second) for second in range(7)))
    reader = looking_at(store, 1000)
    for limit in (1, 2, 3, 7, 8):
        assert await everything(reader, LogFilter(), limit=limit) == [record.message for record in records]


async def test_a_level_means_at_least_that_level(store: Store) -> None:
    records = await kept(store, *(a_record(second=n, level=list(Level)[n % 5]) for n in range(25)))
    for level in Level:
        for limit in (3, 200):
            page = await store.logs.page(ANN, LogFilter(level=level), limit=limit, sees_all=True)
            fitting = [record for record in records if record.level >= level]
            assert list(page.records) == fitting[:limit]
            assert (page.next is not None) == (len(fitting) > limit)


async def test_times_are_from_since_until_before_until(store: Store) -> None:
    records = await kept(store, *(a_record(second=second) for second in range(6)))
    since, until = Instant(START + 2 * _SECOND), Instant(START + 4 * _SECOND)
    assert await found(store, LogFilter(since=since, until=until)) == records[2:4]
    assert await found(store, LogFilter(since=Instant(since + 1))) == records[:3]
    assert await found(store, LogFilter(until=Instant(until + 1))) == records[1:]
    for far in (Instant(-(10**17)), Instant(3 * 10**17)):
        assert await found(store, LogFilter(since=far)) == (records if far < 0 else [])
        assert await found(store, LogFilter(until=far)) == ([] if far < 0 else records)


async def test_text_is_found_whatever_its_case_and_is_no_pattern(store: Store) -> None:
    texts = ["The Disk is full", "the disk is 100% full", "a_b", "axb", r"c:\disk", "'; DROP TABLE log_records; --"]
    await kept(store, *(a_record(text, second=n) for n, text in enumerate(texts)))
    for text, expected in {
        "DISK": [texts[4], texts[1], texts[0]],
        "100%": [texts[1]],
        "%": [texts[1]],
        "A_B": [texts[2]],
        "\\": [texts[4]],
        "'; drop": [texts[5]],
        "nowhere": [],
    }.items():
        assert [one.message for one in await found(store, LogFilter(text=text))] == expected


async def test_filters_are_joined(store: Store) -> None:
    await kept(store, a_record("disk", session_id="s"), a_record("disk", level=Level.ERROR))
    wanted = a_record("The disk", session_id="s", level=Level.ERROR, source="client", owner=BOB.owner, second=1)
    await kept(store, wanted, a_record("The disk", session_id="t", level=Level.ERROR, source="client"))
    filters = LogFilter(Level.WARNING, "s", START, Instant(START + 2 * _SECOND), "disk", "client")
    assert await found(store, filters) == [wanted]
    assert await found(store, filters, caller=BOB, sees_all=False) == [wanted]


async def test_who_does_not_see_all_sees_its_own_records_only(store: Store) -> None:
    own = await kept(
        store,
        a_record("by the client", owner=ANN.owner, source="client"),
        a_record("of its run", owner=ANN.owner, session_id="s", second=1),
    )
    for other in (BOB.owner, EVE.owner, NOBODY):
        await kept(store, a_record("of others", owner=other, session_id="s", level=Level.ERROR, second=2))
    assert await found(store, sees_all=False) == own
    assert await found(store, LogFilter(session_id="s"), sees_all=False) == own[:1]
    assert await found(store, LogFilter(level=Level.ERROR), sees_all=False) == []
    assert await found(store, LogFilter(text="others"), sees_all=False) == []
    assert len(await found(store)) == 5


async def test_others_records_do_not_move_the_cursor_of_who_does_not_see_them(store: Store) -> None:
    own = await kept(store, a_record("own", owner=ANN.owner, session_id="s"))
    await kept(store, *(a_record("of others", owner=BOB.owner, session_id="s", second=n) for n in range(1, 20)))
    page = await looking_at(store, 5).page(ANN, LogFilter(session_id="s", text="own"), limit=10)
    assert (list(page.records), page.next) == (own, None)


@pytest.mark.parametrize("sees_all", [True, False])
@pytest.mark.parametrize(
    "wanted",
    [
        LogFilter(text="rare"),
        LogFilter(text="rare", level=Level.WARNING),
        LogFilter(source="client"),
        LogFilter(level=Level.ERROR),
        LogFilter(session_id="s", level=Level.ERROR),
    ],
    ids=str,
)
async def test_what_is_rare_is_found_by_going_on_however_little_a_request_looks_at(
    store: Store, wanted: LogFilter, sees_all: bool
) -> None:
    frequent = [a_record("often", second=n, owner=ANN.owner, session_id="s", level=Level.WARNING) for n in range(60)]
    rare = [
        a_record("rare", second=n, owner=ANN.owner, session_id="s", level=Level.ERROR, source="client")
        for n in (7, 33, 34, 59)
    ]
    await kept(store, *frequent, *rare)
    for rows in (1, 4, 10, 64):
        assert await everything(looking_at(store, rows), wanted, limit=2, sees_all=sees_all) == ["rare"] * 4


async def test_a_search_in_vain_looks_at_so_many_rows_and_says_where_it_stopped(store: Store) -> None:
    records = await kept(store, *(a_record("often", second=n) for n in range(30)))
    page = await looking_at(store, 10).page(ANN, LogFilter(text="rare"), limit=5, sees_all=True)
    assert (page.records, page.next) == ((), records[9].id)


async def test_old_records_are_forgotten_in_steps_the_oldest_first(store: Store) -> None:
    records = await kept(store, *(a_record(second=second) for second in range(10)))
    change = ForgetLogs(Instant(START + 5 * _SECOND), limit=3)
    assert await store.journal.commit((change,)) == (ForgottenLogs(3),)
    assert await found(store) == records[:7]
    assert await store.journal.commit((change,)) == (ForgottenLogs(2),)
    assert await store.journal.commit((change,)) == (ForgottenLogs(0),)
    assert await found(store) == records[:5]


async def test_retention_keeps_so_many_days_and_so_many_records(store: Store) -> None:
    today = START + 10 * 86_400 * _SECOND
    records = await kept(store, *(a_record(second=day * 86_400 + 1) for day in range(10)))
    retention = LogRetention(store.journal, store.logs, now=lambda: today, days=6, at_once=2)
    assert await retention.forget() == 4
    assert await found(store) == records[:6]
    assert await LogRetention(store.journal, store.logs, now=lambda: today, days=6, most=4).forget() == 1
    assert await found(store) == records[:5], "what is as old as the newest that is too much goes with the next"


async def test_a_page_of_a_long_log_is_quick(store: Store) -> None:
    for start in range(0, 20_000, 1000):
        levels = [Level.ERROR if n == 500 else Level.INFO for n in range(1000)]
        await kept(store, *(a_record("often", second=start + n, level=level) for n, level in enumerate(levels)))
    began = time.perf_counter()
    assert len(await found(store, LogFilter(level=Level.ERROR))) == 20
    assert time.perf_counter() - began < within(1, 8)
    assert await found(store, LogFilter(text="rare")) == []
    assert time.perf_counter() - began < within(5, 25)
