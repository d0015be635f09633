"""The life of a run in the journal: accepted, queued, begun, ended, refused, forgotten. Over every store."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal

import pytest

from innkeeper.core.changes import DeleteSession, RecordCredits
from innkeeper.core.errors import RunConflict, TooBusy
from innkeeper.core.outcomes import Accepted, Done, Ended, NotYet, Stale
from innkeeper.core.runs import RunError, RunStatus
from innkeeper.core.usage import CreditRecord, Usage
from tests.support.turns import (
    ANN,
    BOB,
    Store,
    accept,
    accepted_by,
    assistant,
    began_by,
    begin,
    end,
    events,
    fence,
    given,
    log_of,
    now,
    run_of,
    session_called,
    spoken,
    take_turn,
    user,
)


async def test_an_accepted_run_is_on_disk_with_its_message_its_first_event_and_its_session(store: Store) -> None:
    change = accept("Hi", "s")
    accepted = await accepted_by(store, change)
    assert accepted.is_new_session
    assert accepted.run == await run_of(store, change.run.id)
    assert (accepted.run.status, accepted.run.turn, accepted.run.last_seq) == (RunStatus.RUNNING, 1, 1)
    assert accepted.run.started_at == change.run.created_at
    assert await log_of(store, change.run.id) == [b'{"type":"run"}']
    assert await spoken(store, "s") == ["Hi"]
    assert accepted.run.session_key == (await session_called(store, "s")).key


async def test_the_end_of_a_run_is_on_disk_in_all_of_its_parts(store: Store) -> None:
    accepted = await accepted_by(store, accept("Hi", "s"))
    change = replace(
        end(accepted, "Hello", status="failed", usage=Usage(3, 4, "m")),
        error=RunError("AGENT_FAILED", "It failed."),
        finish_reason="length",
        steps=2,
        records=(CreditRecord("credit-1", Decimal("0.5"), "pricing", {"a": 1}, now()),),
    )
    assert await store.journal.commit((change,), fence(accepted)) == (Ended(None),)
    run = await run_of(store, accepted.run.id)
    assert (run.status, run.output, run.error) == ("failed", "Hello", RunError("AGENT_FAILED", "It failed."))
    assert (run.usage, run.finish_reason, run.steps) == (Usage(3, 4, "m"), "length", 2)
    assert (run.ended_at, run.last_seq) == (change.now, 2)
    assert (await log_of(store, run.id))[-1] == b'{"type":"done"}'
    session = await session_called(store, "s")
    assert (session.message_count, session.input_tokens, session.output_tokens) == (2, 3, 4)
    assert session.updated_at == change.now


async def test_an_unknown_session_id_makes_a_session_and_a_known_one_is_continued(store: Store) -> None:
    first = await accepted_by(store, accept("one", "s"))
    await store.journal.commit((end(first, "two"),), fence(first))
    second = await accepted_by(store, accept("three", "s"))
    assert (first.is_new_session, second.is_new_session) == (True, False)
    assert second.run.session_key == first.run.session_key
    assert second.lineage is not None
    assert [message.text for message in await given(store, second.lineage)] == ["one", "two", "three"]


async def test_a_run_that_names_no_session_gets_one_of_its_own(store: Store) -> None:
    first, second = await accepted_by(store, accept("one")), await accepted_by(store, accept("two"))
    assert first.run.session_key != second.run.session_key
    assert await spoken(store, first.run.session_id) == ["one"]


async def test_a_session_id_is_its_owners_own(store: Store) -> None:
    await take_turn(store, "Ann's", "s", "to Ann")
    await take_turn(store, "Bob's", "s", "to Bob", caller=BOB)
    assert await spoken(store, "s") == ["Ann's", "to Ann"]
    assert await spoken(store, "s", BOB) == ["Bob's", "to Bob"]


async def test_a_session_id_is_its_end_users_own_where_one_is_named(store: Store) -> None:
    await take_turn(store, "of u1", "s", user_id="u1")
    await take_turn(store, "of u2", "s", user_id="u2")
    seen = await take_turn(store, "again", "s", user_id="u1")
    assert [message.text for message in seen] == ["of u1", "Hello", "again"]


async def test_a_run_without_an_end_user_continues_the_session_of_that_id_whoever_it_is_for(store: Store) -> None:
    await take_turn(store, "of u1", "s", user_id="u1")
    accepted = await accepted_by(store, accept("again", "s"))
    assert accepted.run.user_id == "u1"
    assert not accepted.is_new_session


async def test_a_busy_session_queues_and_begins_in_order(store: Store) -> None:
    first = await accepted_by(store, accept("one", "s"))
    changes = [accept("two", "s"), accept("three", "s")]
    queued = [await accepted_by(store, change) for change in changes]
    assert [accepted.run.status for accepted in queued] == ["queued", "queued"]
    assert [accepted.lineage for accepted in queued] == [None, None]
    assert await spoken(store, "s") == ["one"]
    assert await store.journal.commit((begin(changes[0], queued[0]),)) == (NotYet(),)
    (ended,) = await store.journal.commit((end(first, "1"),), fence(first))
    assert ended == Ended(queued[0].run.id)
    assert await store.journal.commit((begin(changes[1], queued[1]),)) == (NotYet(),)
    second = await began_by(store, changes[0], queued[0])
    assert (await run_of(store, second.run.id)).status == "running"
    (ended,) = await store.journal.commit((end(second, "2"),), fence(second))
    third = await began_by(store, changes[1], queued[1])
    assert third.lineage is not None
    assert [message.text for message in await given(store, third.lineage)] == ["one", "1", "two", "2", "three"]


async def test_nobody_overtakes_a_run_that_is_queued(store: Store) -> None:
    first = await accepted_by(store, accept("one", "s"))
    queued = await accepted_by(store, accept("two", "s"))
    await store.journal.commit((end(first),), fence(first))
    late = await accepted_by(store, accept("three", "s"))
    assert (queued.run.turn, late.run.turn) == (2, 3)
    assert late.run.status == "queued"


async def test_a_queued_run_may_end_without_beginning(store: Store) -> None:
    first = await accepted_by(store, accept("one", "s"))
    queued = await accepted_by(store, accept("two", "s"))
    third = await accepted_by(store, accept("three", "s"))
    change = end(queued, (), status="cancelled")
    assert await store.journal.commit((change,), fence(queued)) == (Ended(None),)
    assert await store.journal.commit((end(first, "1"),), fence(first)) == (Ended(third.run.id),)
    assert await spoken(store, "s") == ["one", "1"]


async def test_a_second_end_is_stale_and_changes_nothing(store: Store) -> None:
    accepted = await accepted_by(store, accept("q", "s"))
    await store.journal.commit((end(accepted, "a"),), fence(accepted))
    again = await store.journal.commit((end(accepted, "b", status="failed"),), fence(accepted))
    assert again == (Stale(),)
    assert (await run_of(store, accepted.run.id)).output == "a"
    assert await spoken(store, "s") == ["q", "a"]


async def test_the_same_end_again_after_its_answer_was_lost_answers_the_same_and_doubles_nothing(store: Store) -> None:
    accepted = await accepted_by(store, accept("q", "s"))
    queued = await accepted_by(store, accept("next", "s"))
    change = replace(end(accepted, "a", usage=Usage(1, 1)), records=(CreditRecord("c", Decimal(1), "x"),))
    for _ in range(2):
        assert await store.journal.commit((change,), fence(accepted)) == (Ended(queued.run.id),)
    assert await spoken(store, "s") == ["q", "a"]
    assert (await session_called(store, "s")).input_tokens == 1


async def test_a_busy_session_refuses_whom_asked_not_to_wait_and_names_the_run(store: Store) -> None:
    first = await accepted_by(store, accept("one", "s"))
    with pytest.raises(RunConflict) as refused:
        await accepted_by(store, accept("two", "s", when_busy="reject"))
    assert refused.value.details == {"run_id": first.run.id}
    assert (await store.runs.page(ANN, limit=10))[0] == [first.run]


async def test_a_queue_has_a_bound_and_beyond_it_the_session_is_too_busy(store: Store) -> None:
    await accepted_by(store, accept("running", "s", max_queue=2))
    for number in range(2):
        await accepted_by(store, accept(f"queued {number}", "s", max_queue=2))
    with pytest.raises(TooBusy) as refused:
        await accepted_by(store, accept("too much", "s", max_queue=2))
    assert refused.value.retry_after == 5
    assert len((await store.runs.page(ANN, limit=10))[0]) == 3


async def test_a_run_that_is_not_recorded_leaves_a_blank_row_and_its_ledger(store: Store) -> None:
    accepted = await accepted_by(store, accept("secret", recorded=False))
    assert accepted.lineage is not None
    assert [message.text for message in await given(store, accepted.lineage)] == ["secret"]
    await store.journal.commit((events(2, b"secret"),), fence(accepted))
    change = replace(
        end(accepted, "secret", seq=3, usage=Usage(1, 2)), records=(CreditRecord("c", Decimal(1), "pricing"),)
    )
    assert await store.journal.commit((change,), fence(accepted)) == (Ended(None),)
    run = await run_of(store, accepted.run.id)
    assert (run.status, run.usage, run.input, run.output, run.metadata) == ("completed", Usage(1, 2), (), None, {})
    assert await log_of(store, run.id) == []
    assert await store.sessions.history(accepted.lineage) == []
    assert await store.sessions.page(ANN, limit=10) == ([], False)


async def test_a_run_that_is_not_recorded_never_touches_a_session_that_is(store: Store) -> None:
    await take_turn(store, "kept", "s", "kept too")
    unrecorded = [await accepted_by(store, accept("secret", "s", recorded=False)) for _ in range(2)]
    assert {accepted.run.status for accepted in unrecorded} == {RunStatus.RUNNING}
    for accepted in unrecorded:
        await store.journal.commit((end(accepted, "secret"),), fence(accepted))
    assert await spoken(store, "s") == ["kept", "kept too"]


async def test_credits_are_booked_after_the_end_too(store: Store) -> None:
    accepted = await accepted_by(store, accept())
    await store.journal.commit((end(accepted),), fence(accepted))
    record = CreditRecord("c-1", Decimal("1.25"), "late", {}, now())
    assert await store.journal.commit((RecordCredits(accepted.run.id, (record,)),)) == (Done(),)


async def test_deleting_a_session_removes_its_runs_and_messages_and_frees_its_id(store: Store) -> None:
    for text in ("one", "two"):
        await take_turn(store, text, "s")
    await take_turn(store, [user("one"), assistant("Hello"), user("another")], "s")
    running = await accepted_by(store, accept("three", "s"))
    key, session = running.run.session_key, await session_called(store, "s")
    assert await store.journal.commit((DeleteSession(key),)) == (Done(),)
    assert await store.sessions.find(ANN, "s") is None
    assert await store.sessions.messages(session) == []
    assert await store.runs.page(ANN, limit=10) == ([], False)
    assert await log_of(store, running.run.id) == []
    assert await store.journal.commit((end(running),), fence(running)) == (Stale(),)
    assert (await accepted_by(store, accept("new", "s"))).is_new_session
    assert await spoken(store, "s") == ["new"]


async def test_many_first_turns_of_one_session_id_make_one_session(store: Store) -> None:
    calls = [store.journal.commit((accept(str(number), "s"),)) for number in range(10)]
    accepted = [outcome for (outcome,) in await asyncio.gather(*calls)]
    assert all(isinstance(outcome, Accepted) for outcome in accepted)
    assert len({outcome.run.session_key for outcome in accepted}) == 1  # type: ignore[union-attr]
    assert [outcome.run.turn for outcome in accepted] == list(range(1, 11))  # type: ignore[union-attr]
