"""Chat logs on every store: derived once from each run that has ended, found again, counted, and dropped in time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from sqlalchemy import func, select

from innkeeper.core.administration import CopiedChatLogs, DeriveChatLogs, Derived, ForgetChatLogs, ForgetUser, Uncopied
from innkeeper.core.changes import DeleteSession
from innkeeper.core.chat_logs import ChatLog, ChatLogFilter
from innkeeper.core.events import EndStatus
from innkeeper.core.identity import Caller, Owner
from innkeeper.core.logs import id_at
from innkeeper.core.outcomes import Accepted
from innkeeper.core.runs import RunError
from innkeeper.core.times import Instant
from innkeeper.core.usage import Usage
from innkeeper.storage import schema
from innkeeper.storage.statements import Statement
from tests.support.turns import ANN, BOB, Store, accept, accepted_by, end, fence, session_called

START = Instant(1_790_000_000_000_000)
_SECOND = 1_000_000
_DAY = 86_400 * _SECOND
EVERYTHING = ChatLogFilter()
_numbers = count(1)


async def a_run(
    store: Store,
    session_id: str | None = None,
    *,
    caller: Caller = ANN,
    user_id: str | None = None,
    second: int = 0,
    seconds: float = 1,
    status: EndStatus = "completed",
    usage: Usage | None = None,
    recorded: bool = True,
    agent_name: str = "echo",
    said: str = "Hi",
    ends: bool = True,
) -> Accepted:
    """One that was asked for so many seconds after `START`, and took so many."""
    created_at = Instant(START + second * _SECOND)
    change = accept(said, session_id, caller=caller, user_id=user_id, recorded=recorded, agent_name=agent_name)
    run = replace(change.run, id=f"run_{id_at(created_at)}{next(_numbers):020x}", created_at=created_at)
    accepted = await accepted_by(store, replace(change, run=run))
    if ends:
        await has_ended(store, accepted, Instant(created_at + int(seconds * _SECOND)), status, usage)
    return accepted


async def has_ended(
    store: Store, accepted: Accepted, at: Instant, status: EndStatus = "completed", usage: Usage | None = None
) -> None:
    error = None if status == "completed" else RunError("AGENT_FAILED", "It fell over.")
    change = replace(end(accepted, f"answer of {accepted.run.id}", status=status, usage=usage), now=at, error=error)
    await store.journal.commit((change,), fence(accepted))


async def derived(store: Store, limit: int = 500, *, copies: bool = False) -> int:
    (outcome,) = await store.journal.commit((DeriveChatLogs(limit, copies),))
    assert isinstance(outcome, Derived)
    return outcome.count


async def waiting(store: Store) -> int:
    """How many rows the outbox has."""
    counting = Statement(select(func.count()).select_from(schema.outbox), returns=True)
    ((count,),) = await store.chat_logs._fetch(counting, {})
    return int(count)


async def page(
    store: Store, wanted: ChatLogFilter = EVERYTHING, *, caller: Caller = ANN, limit: int = 200, **asked: Any
) -> tuple[Sequence[ChatLog], int]:
    return await store.chat_logs.page(caller, wanted, limit=limit, **asked)


async def run_ids(store: Store, wanted: ChatLogFilter = EVERYTHING, **asked: Any) -> list[str]:
    rows, total = await page(store, wanted, **asked)
    assert total == len(rows)
    return [row.run_id for row in rows]


async def test_a_run_that_has_ended_has_a_row_with_what_is_known_of_it(store: Store) -> None:
    usage = Usage(3, 4, "some-model")
    accepted = await a_run(store, "s", user_id="eve", seconds=2.5, status="failed", usage=usage, said="How are you?")
    assert await store.chat_logs.has_underived()

    assert await derived(store) == 1

    assert not await store.chat_logs.has_underived()
    run = accepted.run
    row = ChatLog(
        id=run.id.removeprefix("run_"),
        owner=ANN.owner,
        user_id="eve",
        run_id=run.id,
        session_id="s",
        agent_name="echo",
        endpoint="/chat",
        status="failed",
        error=RunError("AGENT_FAILED", "It fell over."),
        usage=usage,
        response_time=2_500_000,
        created_at=START,
    )
    assert await page(store) == ([row], 1)
    said = replace(row, input="How are you?", output=f"answer of {run.id}")
    assert await page(store, with_contents=True) == ([said], 1)


async def test_rows_are_derived_once_the_oldest_first_and_no_more_than_asked_for(store: Store) -> None:
    runs = [(await a_run(store, second=second)).run.id for second in range(5)]
    assert [await derived(store, 2) for _ in range(4)] == [2, 2, 1, 0]
    assert await run_ids(store) == runs[::-1]


async def test_a_run_under_way_has_no_row(store: Store) -> None:
    await a_run(store, ends=False)
    assert await derived(store) == 0
    assert await run_ids(store) == []


async def test_a_run_whose_session_was_not_recorded_is_a_row_without_contents(store: Store) -> None:
    accepted = await a_run(store, recorded=False, said="secret")
    assert await derived(store) == 1
    ((row,), _) = await page(store, with_contents=True)
    assert (row.run_id, row.input, row.output) == (accepted.run.id, None, None)


async def test_a_session_that_is_deleted_right_after_its_run_leaves_the_row(store: Store) -> None:
    accepted = await a_run(store, "s")
    await store.journal.commit((DeleteSession((await session_called(store, "s")).key),))
    await derived(store, copies=True)
    ((row,), _) = await page(store, with_contents=True)
    assert (row.run_id, row.input) == (accepted.run.id, None)
    assert [one.run_id for one in await store.chat_logs.uncopied(10)] == [accepted.run.id]
    assert (await store.chat_logs.statistics(ANN, EVERYTHING)).interactions == 1


async def test_what_was_said_at_great_length_is_left_out(store: Store) -> None:
    await a_run(store, said="x" * 70_000)
    await derived(store)
    ((row,), _) = await page(store, with_contents=True)
    assert row.input is None
    assert row.output is not None


async def test_several_who_derive_at_a_time_write_each_row_once(store: Store) -> None:
    runs = {(await a_run(store, second=second)).run.id for second in range(40)}
    assert sum(await asyncio.gather(*(derived(store, 7) for _ in range(8)))) == 40
    assert set(await run_ids(store)) == runs
    assert (await store.admins.statistics(Instant(START + _SECOND))).requests == 40


@pytest.mark.parametrize(
    ("wanted", "seconds"),
    [
        (ChatLogFilter(session_id="s"), [1]),
        (ChatLogFilter(user_id="eve"), [2]),
        (ChatLogFilter(agent_name="other"), [3]),
        (ChatLogFilter(status="failed"), [4]),
        (ChatLogFilter(endpoint="/stream"), []),
        (ChatLogFilter(since=Instant(START + 3 * _SECOND)), [4, 3]),
        (ChatLogFilter(until=Instant(START + 3 * _SECOND)), [2, 1, 0]),
        (ChatLogFilter(since=Instant(START + 1), until=Instant(START + 2 * _SECOND)), [1]),
        (ChatLogFilter(session_id="s", status="failed"), []),
    ],
)
@pytest.mark.parametrize("sees_all", [False, True])
async def test_rows_are_found_by_what_they_are(
    store: Store, wanted: ChatLogFilter, seconds: list[int], sees_all: bool
) -> None:
    made = [
        await a_run(store, second=0),
        await a_run(store, "s", second=1),
        await a_run(store, user_id="eve", session_id="t", second=2),
        await a_run(store, agent_name="other", second=3),
        await a_run(store, status="failed", second=4),
    ]
    await derived(store)
    found = await run_ids(store, wanted, sees_all=sees_all)
    assert found == [made[second].run.id for second in seconds]
    statistics = await store.chat_logs.statistics(ANN, wanted, sees_all=sees_all)
    assert statistics.interactions == len(seconds)


async def test_a_page_tells_how_many_there_are_in_all(store: Store) -> None:
    runs = [(await a_run(store, second=second)).run.id for second in range(5)]
    await derived(store)
    rows, total = await page(store, limit=2, offset=1)
    assert ([row.run_id for row in rows], total) == ([runs[3], runs[2]], 5)
    assert await page(store, limit=2, offset=5) == ([], 5)


async def test_others_rows_are_seen_by_those_who_see_all(store: Store) -> None:
    eve = Caller(Owner("other", "ann"))
    own, *others = [(await a_run(store, "s", caller=who, second=n)).run.id for n, who in enumerate((ANN, BOB, eve))]
    await derived(store)
    for wanted in (EVERYTHING, ChatLogFilter(session_id="s"), ChatLogFilter(user_id="ann")):
        assert await run_ids(store, wanted) == [own]
    assert await run_ids(store, sees_all=True) == [*others[::-1], own]
    assert [one.user_id for one in await store.chat_logs.user_statistics(ANN, EVERYTHING, limit=9)] == ["ann"]


async def test_statistics_count_what_fits(store: Store) -> None:
    await a_run(store, "s", seconds=1, usage=Usage(10, 5))
    await a_run(store, "s", seconds=3, status="failed", second=1)
    await a_run(store, "t", user_id="eve", seconds=2, usage=Usage(1, 1), second=2)
    await a_run(store, "s", caller=BOB, seconds=60, second=3)
    await derived(store)

    own = await store.chat_logs.statistics(ANN, EVERYTHING)
    assert (own.interactions, own.succeeded, own.failed, own.sessions, own.users) == (3, 2, 1, 2, 2)
    assert (own.mean_time, own.least_time, own.most_time, own.tokens) == (2_000_000, 1_000_000, 3_000_000, 17)
    everybody = await store.chat_logs.statistics(ANN, EVERYTHING, sees_all=True)
    assert (everybody.interactions, everybody.sessions, everybody.users) == (4, 3, 3)
    users = await store.chat_logs.user_statistics(ANN, EVERYTHING, limit=2, sees_all=True)
    assert [(one.organization, one.user_id, one.interactions) for one in users] == [
        ("acme", "ann", 2),
        ("acme", "bob", 1),
    ]
    assert users[0].last_at == START + _SECOND

    nothing = await store.chat_logs.statistics(ANN, ChatLogFilter(session_id="nowhere"))
    assert (nothing.interactions, nothing.mean_time, nothing.most_time, nothing.tokens) == (0, None, None, 0)


async def test_days_and_users_are_counted_with_the_rows(store: Store) -> None:
    today = Instant(START - START % _DAY)
    for second in (0, 1):
        await a_run(store, second=second, usage=Usage(2, 3))
        await derived(store)
    await a_run(store, second=-2 * 86_400, caller=BOB, usage=Usage(100, 0))
    await derived(store)
    statistics = await store.admins.statistics(Instant(today + _DAY - 1))
    assert (statistics.requests, statistics.requests_today) == (3, 2)
    assert (statistics.tokens, statistics.tokens_today) == (110, 10)
    assert statistics.users == 2


async def test_what_is_to_be_copied_waits_until_it_is_said_to_have_been(store: Store) -> None:
    runs = [(await a_run(store, second=second, said="hello")).run.id for second in range(3)]
    await derived(store, copies=True)
    first = await store.chat_logs.uncopied(2)
    assert [(row.run_id, row.input) for row in first] == [(runs[0], "hello"), (runs[1], "hello")]
    await store.journal.commit((CopiedChatLogs(tuple(row.run_id for row in first)),))
    assert [row.run_id for row in await store.chat_logs.uncopied(2)] == [runs[2]]
    assert not await store.chat_logs.has_underived()


async def test_of_what_was_erased_while_it_was_copied_the_copier_is_told(store: Store) -> None:
    runs = [(await a_run(store, caller=caller)).run.id for caller in (ANN, BOB)]
    await derived(store, copies=True)
    rows = await store.chat_logs.uncopied(9)
    forgetting = ForgetUser("bob", "acme", "somebody", START)
    while (await store.journal.commit((forgetting,))) != (Derived(0),):
        pass
    copied = CopiedChatLogs(tuple(row.run_id for row in rows))
    assert await store.journal.commit((copied,)) == (Uncopied((runs[1],)),)
    assert await store.journal.commit((CopiedChatLogs((runs[0],)),)) == (Uncopied(),), "as by another process"


async def test_old_rows_are_dropped_the_oldest_first_with_what_waits_to_be_copied_of_them(store: Store) -> None:
    runs = [(await a_run(store, second=second)).run.id for second in range(5)]
    await derived(store, copies=True)
    forgetting = ForgetChatLogs(Instant(START + 3 * _SECOND), limit=2)
    outcomes = [await store.journal.commit((forgetting,)) for _ in range(3)]
    assert outcomes == [(Derived(2),), (Derived(1),), (Derived(0),)]
    assert await run_ids(store) == [runs[4], runs[3]]
    assert [row.run_id for row in await store.chat_logs.uncopied(9)] == runs[3:]
    assert await waiting(store) == 2
