"""What may be read of sessions, over every store."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from innkeeper.core.changes import AppendMessages, Lineage, UpdateSession
from innkeeper.core.sessions import Session
from innkeeper.storage import readers
from tests.support.turns import (
    ANN,
    BOB,
    ROOT,
    Store,
    accept,
    accepted_by,
    assistant,
    create,
    end,
    fence,
    now,
    session_called,
    take_turn,
    user,
)


async def _ids(store: Store, **filters: object) -> list[str]:
    page, _ = await store.sessions.page(ANN, limit=100, **filters)  # type: ignore[arg-type]
    return [session.id for session in page]


async def test_a_session_is_found_as_it_was_stored(store: Store) -> None:
    change = create("s")
    await store.journal.commit((change,))
    assert await store.sessions.find(ANN, "s") == change.session
    assert await store.sessions.find(ANN, "other") is None


async def test_another_owners_session_is_invisible(store: Store) -> None:
    await take_turn(store, "q", "s")
    assert await store.sessions.find(BOB, "s") is None
    assert await store.sessions.page(BOB, limit=10) == ([], False)


async def test_an_end_user_picks_among_sessions_of_one_id(store: Store) -> None:
    for end_user in ("u1", "u2"):
        await store.journal.commit((create("s", user_id=end_user),))
    found = [await session_called(store, "s", user_id=end_user) for end_user in ("u1", "u2")]
    assert [session.user_id for session in found] == ["u1", "u2"]
    assert (await session_called(store, "s")).user_id == "u2"
    assert await store.sessions.find(ANN, "s", "u3") is None
    await store.journal.commit((create("s"),))
    assert (await session_called(store, "s")).user_id == "ann"


async def test_sessions_come_newest_first_page_by_page(store: Store) -> None:
    for number in range(7):
        await store.journal.commit((create(f"s{number}"),))
    first, has_more = await store.sessions.page(ANN, limit=3)
    assert ([session.id for session in first], has_more) == (["s6", "s5", "s4"], True)
    second, has_more = await store.sessions.page(ANN, limit=4, after="s4")
    assert ([session.id for session in second], has_more) == (["s3", "s2", "s1", "s0"], False)
    assert await store.sessions.page(ANN, limit=3, after="s0") == ([], False)
    assert await store.sessions.page(ANN, limit=3, after="unknown") == ([], False)


async def test_pages_neither_repeat_nor_skip_while_sessions_are_added(store: Store) -> None:
    for number in range(10):
        await store.journal.commit((create(f"old{number}"),))
    seen: list[str] = []
    after, has_more = None, True
    while has_more:
        page, has_more = await store.sessions.page(ANN, limit=3, after=after)
        seen += [session.id for session in page]
        after = seen[-1]
        await asyncio.gather(*(store.journal.commit((create(),)) for _ in range(2)))
    assert seen == [f"old{number}" for number in reversed(range(10))]


async def test_pages_of_one_end_user_are_not_confused_by_anothers_ids(store: Store) -> None:
    for session_id in ("a", "b", "c"):
        for end_user in ("u1", "u2"):
            await store.journal.commit((create(session_id, user_id=end_user),))
    page, _ = await store.sessions.page(ANN, limit=10, user_id="u1", after="c")
    assert [(session.user_id, session.id) for session in page] == [("u1", "b"), ("u1", "a")]


async def test_sessions_are_filtered_by_agent_user_and_archive(store: Store) -> None:
    await take_turn(store, "q", "run")
    await store.journal.commit((create("made", user_id="u1"),))
    key = (await session_called(store, "made")).key
    await store.journal.commit((UpdateSession(key, now(), archived=True),))
    assert await _ids(store) == ["made", "run"]
    assert await _ids(store, agent_name="echo") == ["run"]
    assert await _ids(store, user_id="u1") == ["made"]
    assert await _ids(store, archived=True) == ["made"]
    assert await _ids(store, archived=False) == ["run"]
    assert await _ids(store, archived=False, user_id="u1") == []


async def test_a_change_leaves_what_it_does_not_name(store: Store) -> None:
    await store.journal.commit((create("s"),))
    key = (await session_called(store, "s")).key
    await store.journal.commit((UpdateSession(key, now(), title="T"),))
    await store.journal.commit((UpdateSession(key, now(), metadata={"a": 1}),))
    instant = now()
    (outcome,) = await store.journal.commit((UpdateSession(key, instant, archived=True),))
    session = await session_called(store, "s")
    assert outcome.session == session  # type: ignore[union-attr]
    assert (session.title, session.metadata, session.archived, session.updated_at) == ("T", {"a": 1}, True, instant)
    await store.journal.commit((UpdateSession(key, now(), clears_title=True),))
    assert (await session_called(store, "s")).title is None


async def _talk(store: Store) -> Session:
    await store.journal.commit((create("s"),))
    key = (await session_called(store, "s")).key
    await store.journal.commit((AppendMessages(key, tuple(user(str(n)) for n in range(1, 11)), now()),))
    return await session_called(store, "s")


@pytest.mark.parametrize(
    ("limit", "after", "expected"),
    [(None, 0, range(1, 11)), (3, 0, range(8, 11)), (None, 7, range(8, 11)), (2, 7, range(9, 11)), (50, 9, [10])],
)
async def test_messages_come_oldest_first_and_the_last_of_them_where_there_is_a_limit(
    store: Store, limit: int | None, after: int, expected: list[int]
) -> None:
    session = await _talk(store)
    stored = await store.sessions.messages(session, limit=limit, after=after)
    assert [message.position for message in stored] == list(expected)
    assert [message.message.text for message in stored] == [str(number) for number in expected]


async def test_messages_are_paged_forward_from_the_first(store: Store) -> None:
    session = await _talk(store)
    seen: list[str] = []
    while page := await store.sessions.messages(session, limit=4, after=len(seen), oldest_first=True):
        seen += [stored.message.text for stored in page]
    assert seen == [str(number) for number in range(1, 11)]


async def test_messages_know_their_run_and_their_time(store: Store) -> None:
    accepted = await accepted_by(store, accept("q", "s"))
    change = end(accepted, "a")
    await store.journal.commit((change,), fence(accepted))
    question, answer = await store.sessions.messages(await session_called(store, "s"))
    assert (question.run_id, question.created_at) == (accepted.run.id, accepted.run.created_at)
    assert (answer.run_id, answer.created_at) == (accepted.run.id, change.now)
    assert (await session_called(store, "s")).last_message_at == change.now


async def test_a_run_that_ends_without_a_word_moves_no_message_time(store: Store) -> None:
    accepted = await accepted_by(store, accept("q", "s"))
    change = end(accepted, (), status="cancelled")
    await store.journal.commit((change,), fence(accepted))
    session = await session_called(store, "s")
    assert (session.last_message_at, session.updated_at) == (accepted.run.created_at, change.now)


async def test_messages_of_a_branch_leave_out_what_was_left_behind(store: Store) -> None:
    for number in (1, 2, 3):
        await take_turn(store, f"q{number}", "s", f"a{number}")
    await take_turn(store, [user("q1"), assistant("a1"), user("b2")], "s", "c2")
    session = await session_called(store, "s")
    stored = await store.sessions.messages(session, limit=3)
    assert [message.message.text for message in stored] == ["a1", "b2", "c2"]
    assert [message.position for message in stored] == [2, 7, 8]
    stored = await store.sessions.messages(session, limit=3, oldest_first=True)
    assert [message.message.text for message in stored] == ["q1", "a1", "b2"]


async def test_a_history_is_exactly_its_lineage_whatever_was_said_since(store: Store) -> None:
    accepted = await accepted_by(store, accept("q1", "s"))
    await store.journal.commit((end(accepted, "a1"),), fence(accepted))
    await take_turn(store, "q2", "s", "a2")
    assert accepted.lineage is not None
    assert await store.sessions.history(accepted.lineage) == [user("q1")]


async def test_a_history_may_wind_through_any_number_of_branches(store: Store) -> None:
    session = await _talk(store)
    accepted = await accepted_by(store, accept("last", "s"))
    assert accepted.lineage is not None
    winding = tuple((branch, 5) for branch in range(3000, 0, -1)) + accepted.lineage.spans
    history = await store.sessions.history(Lineage(session.key, winding, accepted.lineage.head))
    assert [message.text for message in history] == [*(str(number) for number in range(1, 11)), "last"]


async def test_who_sees_everybodys_finds_its_own_first_then_by_key_then_the_newest(store: Store) -> None:
    for caller in (ANN, BOB):
        await store.journal.commit((create("s", caller),))
    anns, bobs = [await session_called(store, "s", caller) for caller in (ANN, BOB)]
    assert await store.sessions.find(ROOT, "s") == bobs
    assert await store.sessions.find(ROOT, "s", "ann") == anns
    assert await store.sessions.find(ROOT, "s", "zoe") is None
    assert await store.sessions.find(ROOT, anns.key) == anns
    assert await store.sessions.find(ROOT, anns.key, "bob") is None
    await store.journal.commit((create("s", ROOT),))
    assert (await session_called(store, "s", ROOT)).owner == ROOT.owner
    assert await store.sessions.find(BOB, anns.key) is None, "a key opens nothing to others"


async def test_who_is_bound_to_one_session_sees_no_other_whatever_its_role(store: Store) -> None:
    await store.journal.commit((create("s"),))
    await store.journal.commit((create("t"),))
    session = await session_called(store, "s")
    bound = replace(ROOT, session_key=session.key, session_id="s")
    assert await store.sessions.find(bound, "s") == session
    assert await store.sessions.find(bound, "t") is None
    assert not bound.sees_all


async def test_everybodys_sessions_come_newest_first_whoever_made_them(store: Store) -> None:
    made = []
    for number in range(6):
        change = create("s" if number < 2 else None, (ANN, BOB)[number % 2])
        await store.journal.commit((change,))
        made.append(change.session)
    seen: list[Session] = []
    has_more = True
    while has_more:
        page, has_more = await store.sessions.page(ROOT, limit=2, after=seen[-1].key if seen else None)
        seen += page
    assert seen == made[::-1]
    assert await store.sessions.page(ROOT, limit=10, user_id="bob") == (made[5::-2], False)
    assert await store.sessions.page(BOB, limit=10, after=made[4].key) == ([], False)
    assert await store.sessions.page(BOB, limit=10, after=made[5].key) == (made[3::-2], False)


async def test_what_is_rare_among_everybodys_is_found_behind_any_number_of_others(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "STRETCH", 3)
    for number in range(11):
        await store.journal.commit((create(f"s{number}", user_id="rare" if number in (0, 3, 9) else "usual"),))
    found = [session.id for session in (await store.sessions.page(ROOT, limit=10, user_id="rare"))[0]]
    assert found == ["s9", "s3", "s0"]
    page, has_more = await store.sessions.page(
        ROOT, limit=1, user_id="rare", after=(await session_called(store, "s9")).key
    )
    assert ([session.id for session in page], has_more) == (["s3"], True)
