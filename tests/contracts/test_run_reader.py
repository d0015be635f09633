"""What may be read of runs and their logs, over every store."""

from __future__ import annotations

from dataclasses import replace

import pytest

from innkeeper.core.runs import RunStatus
from tests.support.turns import (
    ANN,
    BOB,
    ROOT,
    Store,
    accept,
    accepted_by,
    end,
    events,
    fence,
    log_of,
    run_of,
    take_turn,
    taken_over,
)


async def test_a_run_is_found_as_it_was_stored(store: Store) -> None:
    change = accept("Hi", "s")
    change = replace(change, run=replace(change.run, metadata={"a": [1, None]}, background=True))
    accepted = await accepted_by(store, change)
    run = await run_of(store, change.run.id)
    assert run == replace(change.run, status=RunStatus.QUEUED, turn=1, last_seq=1, started_at=None)
    assert run == accepted.run
    assert await store.runs.find(ANN, "run_none") is None


async def test_another_owners_run_is_invisible(store: Store) -> None:
    accepted = await accepted_by(store, accept())
    assert await store.runs.find(BOB, accepted.run.id) is None
    assert await store.runs.page(BOB, limit=10) == ([], False)


async def test_runs_come_newest_first_page_by_page(store: Store) -> None:
    made = [(await accepted_by(store, accept())).run for _ in range(7)]
    newest = list(reversed(made))
    assert await store.runs.page(ANN, limit=3) == (newest[:3], True)
    assert await store.runs.page(ANN, limit=4, after=newest[2].id) == (newest[3:], False)
    assert await store.runs.page(ANN, limit=3, after=made[0].id) == ([], False)


async def test_pages_neither_repeat_nor_skip_while_runs_are_added(store: Store) -> None:
    made = [(await accepted_by(store, accept())).run.id for _ in range(10)]
    seen: list[str] = []
    has_more = True
    while has_more:
        page, has_more = await store.runs.page(ANN, limit=3, after=seen[-1] if seen else None)
        seen += [run.id for run in page]
        await accepted_by(store, accept())
    assert seen == made[::-1]


async def test_runs_are_filtered_by_session_agent_and_status(store: Store) -> None:
    await take_turn(store, "q", "s")
    running = (await accepted_by(store, accept("q", "s"))).run
    queued = (await accepted_by(store, accept("q", "s"))).run
    elsewhere = (await accepted_by(store, accept("q", "t"))).run

    async def ids(**filters: object) -> list[str]:
        page, _ = await store.runs.page(ANN, limit=10, **filters)  # type: ignore[arg-type]
        return [run.id for run in page]

    assert len(await ids(session_key=running.session_key)) == 3
    assert await ids(session_key=elsewhere.session_key) == [elsewhere.id]
    assert await ids(status=RunStatus.QUEUED) == [queued.id]
    assert await ids(session_key=running.session_key, status=RunStatus.RUNNING) == [running.id]
    assert len(await ids(agent_name="echo")) == 4
    assert await ids(agent_name="other") == []


@pytest.mark.parametrize(
    ("after", "limit", "expected"),
    [(0, 64, [1, 2, 4, 7]), (1, 64, [2, 4, 7]), (2, 64, [2, 4, 7]), (3, 64, [4, 7]), (4, 2, [4, 7]), (0, 2, [1, 2]),
     (8, 64, [7]), (9, 64, []), (99, 64, [])],
)  # fmt: skip
async def test_segments_are_those_with_events_beyond_and_the_first_may_begin_before(
    store: Store, after: int, limit: int, expected: list[int]
) -> None:
    accepted = await accepted_by(store, accept())
    for first, count in ((2, 2), (4, 3), (7, 3)):
        payloads = (b"%d" % number for number in range(first, first + count))
        await store.journal.commit((events(first, *payloads),), fence(accepted))
    segments = await store.runs.segments(accepted.run.id, after, limit)
    assert [segment.first_seq for segment in segments] == expected
    for segment in segments:
        numbers = [b"%d" % number for number in range(segment.first_seq, segment.last_seq + 1)]
        assert segment.payloads() == numbers or segment.first_seq == 1


async def test_a_log_is_read_byte_for_byte(store: Store) -> None:
    accepted = await accepted_by(store, accept())
    payloads = [bytes(range(11, 256)), b'{"content":"\\u0000"}', "é👩‍👧\u2028".encode(), b"", b"x" * 1_000_000]
    await store.journal.commit((events(2, *payloads),), fence(accepted))
    assert (await log_of(store, accepted.run.id))[1:] == payloads


async def test_runs_of_all_owners_whose_workers_are_gone_are_taken_over_oldest_first(store: Store) -> None:
    await take_turn(store, "ended", "s")
    running = await accepted_by(store, accept("q", "s"))
    queued = await accepted_by(store, accept("q", "s"))
    bobs = await accepted_by(store, accept("q", "s", caller=BOB))
    taken = await taken_over(store)
    assert [run for run, _ in taken] == [running.run, queued.run, bobs.run]
    by_id = {accepted.run.id: accepted for accepted in (running, queued, bobs)}
    for run, held in taken:
        await store.journal.commit((end(by_id[run.id], (), status="interrupted"),), held)
    assert await taken_over(store, worker="another") == ()
    statuses = {run.status for run in (await store.runs.page(ANN, limit=10))[0]}
    assert statuses == {RunStatus.COMPLETED, RunStatus.INTERRUPTED}


async def test_who_sees_everybodys_finds_any_run_and_pages_through_all(store: Store) -> None:
    anns = (await accepted_by(store, accept())).run
    bobs = (await accepted_by(store, accept(caller=BOB))).run
    assert await store.runs.find(ROOT, anns.id) == anns
    assert await store.runs.page(ROOT, limit=1) == ([bobs], True)
    assert await store.runs.page(ROOT, limit=1, after=bobs.id) == ([anns], False)
    assert await store.runs.page(ROOT, limit=9, agent_name="echo") == ([bobs, anns], False)
    assert await store.runs.page(ROOT, limit=9, session_key=anns.session_key) == ([anns], False)
    assert list(await store.runs.of_trace(ROOT, anns.trace_id, 9)) != []
    assert list(await store.runs.of_trace(BOB, anns.trace_id, 9)) == []
