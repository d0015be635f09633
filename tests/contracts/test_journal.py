"""The journal's contract: what `ports.journal.Journal` says, over every store."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from innkeeper.core.changes import AppendMessages, Change, DeleteSession, Fence, RecordCredits, UpdateSession
from innkeeper.core.errors import InnkeeperError, RunConflict, StorageUnavailable
from innkeeper.core.outcomes import Appended, Done, Ended, Missing, Stale
from innkeeper.core.sessions import Session
from tests.support.turns import (
    ANN,
    WORKER,
    Store,
    accept,
    accepted_by,
    began_by,
    begin,
    create,
    end,
    events,
    fence,
    log_of,
    now,
    run_of,
    session_called,
    spoken,
    take_turn,
    user,
)


async def _created(store: Store, session_id: str) -> Session:
    change = create(session_id)
    await store.journal.commit((change,))
    return change.session


async def test_the_changes_of_one_call_are_applied_in_order_with_an_outcome_each(store: Store) -> None:
    made = create("s")
    outcomes = await store.journal.commit(
        (
            made,
            UpdateSession(made.session.key, now(), title="first"),
            AppendMessages(made.session.key, (user("a"), user("b")), now()),
            UpdateSession(made.session.key, now(), title="second"),
        )
    )
    assert [type(outcome) for outcome in outcomes] == [Done, Done, Appended, Done]
    assert (await session_called(store, "s")).title == "second"
    assert await spoken(store, "s") == ["a", "b"]


@pytest.mark.parametrize("first", ["update", "append"])
async def test_a_change_that_is_refused_undoes_those_before_it(store: Store, first: str) -> None:
    key = (await _created(store, "s")).key
    before: dict[str, Change] = {
        "update": UpdateSession(key, now(), title="never"),
        "append": AppendMessages(key, (user("never"),), now()),
    }
    with pytest.raises(RunConflict):
        await store.journal.commit((before[first], create("s")))
    assert (await session_called(store, "s")).title is None
    assert await spoken(store, "s") == []


async def test_what_was_answered_is_seen_by_every_later_reader(store: Store) -> None:
    for number in range(20):
        await take_turn(store, f"q{number}", "s", f"a{number}")
        assert (await spoken(store, "s"))[-1] == f"a{number}"


async def test_calls_about_one_session_are_applied_in_the_order_of_the_calls(store: Store) -> None:
    key = (await _created(store, "s")).key
    calls = [store.journal.commit((AppendMessages(key, (user(str(n)),), now()),)) for n in range(50)]
    await asyncio.gather(*calls)
    assert await spoken(store, "s") == [str(n) for n in range(50)]


async def test_a_session_keeps_its_order_whether_it_is_called_by_key_or_by_name(store: Store) -> None:
    first = await accepted_by(store, accept("one", "s"))
    key = first.run.session_key
    calls = [
        store.journal.commit((end(first, "two"),), fence(first)),
        store.journal.commit((accept("three", "s"),)),
        store.journal.commit((AppendMessages(key, (user("four"),), now()),)),
    ]
    await asyncio.gather(*calls)
    assert await spoken(store, "s") == ["one", "two", "three", "four"]


async def test_a_store_opened_anew_keeps_the_order_too_though_it_has_met_nobody(store: Store) -> None:
    key = (await _created(store, "s")).key
    await store.close()
    await store.open()
    calls = [
        store.journal.commit((AppendMessages(key, (user("one"),), now()),)),
        store.journal.commit((accept("two", "s"),)),
        store.journal.commit((AppendMessages(key, (user("three"),), now()),)),
        store.journal.commit((DeleteSession(key),)),
        store.journal.commit((create("s"),)),
    ]
    outcomes = await asyncio.gather(*calls)
    assert [type(outcome).__name__ for (outcome,) in outcomes] == ["Appended", "Accepted", "Appended", "Done", "Done"]
    assert await spoken(store, "s") == []


async def test_calls_about_one_run_are_applied_in_the_order_of_the_calls(store: Store) -> None:
    accepted = await accepted_by(store, accept())
    calls = [store.journal.commit((events(n, b"%d" % n),), fence(accepted)) for n in range(2, 40)]
    last = store.journal.commit((end(accepted, seq=40),), fence(accepted))
    assert {type(outcome) for (outcome,) in await asyncio.gather(*calls)} == {Done}
    assert isinstance((await last)[0], Ended)
    assert (await log_of(store, accepted.run.id))[1:-1] == [b"%d" % n for n in range(2, 40)]


async def test_a_call_that_fails_does_not_fail_its_neighbours(store: Store) -> None:
    key = (await _created(store, "s")).key
    calls = []
    for number in range(20):
        calls.append(store.journal.commit((AppendMessages(key, (user(str(number)),), now()),)))
        calls.append(store.journal.commit((AppendMessages(key, (user("never"),), now()), create("s"))))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(outcome, tuple) for outcome in outcomes[::2])
    assert all(isinstance(outcome, RunConflict) for outcome in outcomes[1::2])
    assert await spoken(store, "s") == [str(number) for number in range(20)]


async def test_a_value_that_no_store_can_hold_fails_alone(store: Store) -> None:
    key = (await _created(store, "s")).key
    good = [store.journal.commit((AppendMessages(key, (user(str(number)),), now()),)) for number in range(3)]
    bad = store.journal.commit((replace(create("t"), session=replace(create("t").session, created_at=2**80)),))  # type: ignore[arg-type]
    good += [store.journal.commit((AppendMessages(key, (user(str(number)),), now()),)) for number in range(3, 6)]
    await asyncio.gather(*good)
    with pytest.raises(StorageUnavailable):
        await bad
    assert await spoken(store, "s") == [str(number) for number in range(6)]
    assert await store.sessions.find(ANN, "t") is None


async def test_behind_a_stale_fence_nothing_is_written(store: Store) -> None:
    accepted = await accepted_by(store, accept("q", "s"))
    key = accepted.run.session_key
    changes = (
        AppendMessages(key, (user("never"),), now()),
        events(2, b"never"),
        UpdateSession(key, now(), title="never"),
        end(accepted, "never"),
    )
    stale = [Fence(accepted.run.id, WORKER, 2), Fence(accepted.run.id, "another", 1), Fence("run_none", WORKER, 1)]
    for behind in stale:
        assert await store.journal.commit(changes, behind) == (Stale(),) * 4
        assert await store.journal.commit(changes[1:2], behind) == (Stale(),)
        assert await store.journal.commit(changes[3:], behind) == (Stale(),)
    assert await spoken(store, "s") == ["q"]
    assert len(await log_of(store, accepted.run.id)) == 1
    assert (await run_of(store, accepted.run.id)).status == "running"


async def test_a_fence_is_behind_once_its_run_has_ended(store: Store) -> None:
    accepted = await accepted_by(store, accept("q", "s"))
    await store.journal.commit((end(accepted, "a"),), fence(accepted))
    late: tuple[Change, ...] = (events(3, b"late"), AppendMessages(accepted.run.session_key, (user("late"),), now()))
    assert await store.journal.commit(late, fence(accepted)) == (Stale(), Stale())
    assert await spoken(store, "s") == ["q", "a"]


async def test_a_run_that_was_queued_has_a_new_epoch_once_it_begins(store: Store) -> None:
    first = await accepted_by(store, accept("one", "s"))
    change = accept("two", "s")
    queued = await accepted_by(store, change)
    await store.journal.commit((end(first),), fence(first))
    begun = await began_by(store, change, queued)
    assert begun.epoch == queued.epoch + 1
    assert await store.journal.commit((events(2, b"x"),), fence(queued)) == (Stale(),)
    assert await store.journal.commit((events(2, b"x"),), fence(begun)) == (Done(),)


async def test_events_appended_twice_are_in_the_log_once(store: Store) -> None:
    accepted = await accepted_by(store, accept())
    change = events(2, b"two", b"three")
    for _ in range(2):
        assert await store.journal.commit((change,), fence(accepted)) == (Done(),)
    assert (await log_of(store, accepted.run.id))[1:] == [b"two", b"three"]


async def test_events_that_would_leave_a_gap_are_refused(store: Store) -> None:
    accepted = await accepted_by(store, accept())
    with pytest.raises(InnkeeperError):
        await store.journal.commit((events(3, b"three"),), fence(accepted))
    assert len(await log_of(store, accepted.run.id)) == 1


async def test_a_change_to_what_does_not_exist_answers_missing(store: Store) -> None:
    accepted = await accepted_by(store, accept("q", "s"))
    unknown = replace(accepted, run=replace(accepted.run, id="run_none", session_key="none"))
    changes: list[Change] = [
        UpdateSession("none", now(), title="x"),
        DeleteSession("none"),
        AppendMessages("none", (user("x"),), now()),
        RecordCredits("run_none", ()),
        begin(accept("q", "s"), unknown),
        begin(accept("q", "s"), accepted),
    ]
    for change in changes:
        assert await store.journal.commit((change,)) == (Missing(),), change


async def test_a_caller_who_goes_away_leaves_the_store_sound(store: Store) -> None:
    key = (await _created(store, "s")).key
    calls = [store.journal.commit((AppendMessages(key, (user(str(n)),), now()),)) for n in range(10)]
    calls[3].cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    kept = [text for text in await spoken(store, "s") if text != "3"]
    assert kept == ["0", "1", "2", "4", "5", "6", "7", "8", "9"]


async def test_a_store_that_is_closed_refuses_and_answers_what_it_took(store: Store) -> None:
    key = (await _created(store, "s")).key
    taken = store.journal.commit((AppendMessages(key, (user("taken"),), now()),))
    journal = store.journal
    await store.close()
    assert isinstance((await taken)[0], Appended)
    with pytest.raises(StorageUnavailable):
        await journal.commit((DeleteSession(key),))
    await store.open()
    assert await spoken(store, "s") == ["taken"]


async def test_64_committers_on_one_session_leave_no_gap_and_no_double(store: Store) -> None:
    changes = [accept(f"q{number}", "s", max_queue=64) for number in range(64)]
    accepted = [outcome for (outcome,) in await asyncio.gather(*(store.journal.commit((c,)) for c in changes))]
    waiting = {outcome.run.id: (change, outcome) for change, outcome in zip(changes, accepted, strict=True)}  # type: ignore[union-attr]
    assert sum(outcome.run.status == "running" for outcome in accepted) == 1  # type: ignore[union-attr]
    current = next(outcome for outcome in accepted if outcome.run.status == "running")  # type: ignore[union-attr]
    done = 0
    while True:
        (ended,) = await store.journal.commit((end(current, f"a{done}"),), fence(current))  # type: ignore[arg-type]
        done += 1
        assert isinstance(ended, Ended)
        if ended.next_run_id is None:
            break
        current = await began_by(store, *waiting[ended.next_run_id])  # type: ignore[arg-type]
    assert done == 64
    session = await session_called(store, "s")
    stored = await store.sessions.messages(session)
    assert [message.position for message in stored] == list(range(1, 129))
    assert sorted(await spoken(store, "s")) == sorted([f"{kind}{n}" for n in range(64) for kind in "qa"])
    assert session.message_count == 128
