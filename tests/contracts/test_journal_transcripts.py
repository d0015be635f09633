"""How a client's messages join the stored conversation, over every store: no loss, no doubling."""

from __future__ import annotations

import pytest

from innkeeper.core.changes import UpdateSession
from innkeeper.core.messages import Message, ToolUse
from tests.support.turns import (
    ANN,
    Store,
    accept,
    accepted_by,
    assistant,
    began_by,
    end,
    fence,
    given,
    new_id,
    now,
    run_of,
    session_called,
    spoken,
    system,
    take_turn,
    user,
)

ODD = "NUL \0, line \u2028 and paragraph \u2029, \x1f, 👩‍👩‍👧‍👦, \ufeff, \u202e, ё, e\u0301, \U0010ffff, \\u0000"


def _texts(messages: tuple[Message, ...]) -> list[str]:
    return [message.text for message in messages]


async def test_only_the_new_turn_continues_the_conversation(store: Store) -> None:
    await take_turn(store, "q1", "s", "a1")
    assert _texts(await take_turn(store, "q2", "s", "a2")) == ["q1", "a1", "q2"]
    assert await spoken(store, "s") == ["q1", "a1", "q2", "a2"]


async def test_the_whole_transcript_continues_it_too_without_doubling(store: Store) -> None:
    await take_turn(store, "q1", "s", "a1")
    await take_turn(store, [user("q1"), assistant("a1"), user("q2")], "s", "a2")
    sent = [user("q1"), assistant("a1"), user("q2"), assistant("a2"), user("q3")]
    assert _texts(await take_turn(store, sent, "s", "a3")) == ["q1", "a1", "q2", "a2", "q3"]
    assert await spoken(store, "s") == ["q1", "a1", "q2", "a2", "q3", "a3"]


async def test_a_client_that_has_more_than_the_store_brings_it_along(store: Store) -> None:
    await take_turn(store, "q1", "s", "a1")
    sent = [user("q1"), assistant("a1"), user("elsewhere"), assistant("there"), user("q2")]
    await take_turn(store, sent, "s", "a2")
    assert await spoken(store, "s") == ["q1", "a1", "elsewhere", "there", "q2", "a2"]


async def test_a_transcript_that_ends_inside_the_conversation_branches_from_there(store: Store) -> None:
    for number in (1, 2, 3):
        await take_turn(store, f"q{number}", "s", f"a{number}")
    sent = [user("q1"), assistant("a1"), user("other")]
    assert _texts(await take_turn(store, sent, "s", "b2")) == ["q1", "a1", "other"]
    assert await spoken(store, "s") == ["q1", "a1", "other", "b2"]
    assert (await session_called(store, "s")).message_count == 4


async def test_the_first_question_asked_again_differently_starts_from_the_root(store: Store) -> None:
    await take_turn(store, "q1", "s", "a1")
    await take_turn(store, [user("x"), assistant("y"), user("q2")], "s", "a2")
    assert await spoken(store, "s") == ["x", "y", "q2", "a2"]


async def test_branches_of_branches_keep_their_lineage_and_their_parents(store: Store) -> None:
    path = [user("q0"), assistant("a0")]
    await take_turn(store, "q0", "s", "a0")
    for level in range(1, 9):
        await take_turn(store, [*path, user(f"dead end {level}")], "s", "…")
        sent = [*path, user(f"q{level}")]
        assert await take_turn(store, sent, "s", f"a{level}") == tuple(sent)
        path = [*sent, assistant(f"a{level}")]
    assert await spoken(store, "s") == [message.text for message in path]
    older = [*path[:4], user("back")]
    assert await take_turn(store, older, "s", "there") == tuple(older)
    sent = [*path, user("and forth")]
    assert await take_turn(store, sent, "s", "here") == tuple(sent)


async def test_append_takes_the_new_turn_only_whatever_else_was_sent(store: Store) -> None:
    await take_turn(store, "q1", "s", "a1")
    sent = [user("unheard of"), assistant("never said"), user("q2")]
    assert _texts(await take_turn(store, sent, "s", "a2", history="append")) == ["q1", "a1", "q2"]
    assert await spoken(store, "s") == ["q1", "a1", "q2", "a2"]


async def test_replace_begins_anew_with_what_was_sent(store: Store) -> None:
    await take_turn(store, "q1", "s", "a1")
    sent = [user("q1"), assistant("a1, edited"), user("q2")]
    assert _texts(await take_turn(store, sent, "s", "a2", history="replace")) == ["q1", "a1, edited", "q2"]
    assert await spoken(store, "s") == ["q1", "a1, edited", "q2", "a2"]


@pytest.mark.parametrize("history", ["auto", "append", "replace"])
async def test_a_new_session_takes_all_that_was_sent_in_every_mode(store: Store, history: str) -> None:
    sent = [system("Be brief."), user("q1"), assistant("a1"), user("q2")]
    seen = await take_turn(store, sent, "s", "a2", history=history)  # type: ignore[arg-type]
    assert seen == tuple(sent)
    assert await spoken(store, "s") == ["Be brief.", "q1", "a1", "q2", "a2"]


async def test_instructions_are_stored_once_and_again_when_they_change(store: Store) -> None:
    await take_turn(store, [system("Be brief."), user("q1")], "s", "a1")
    await take_turn(store, [system("Be brief."), user("q2")], "s", "a2")
    assert await spoken(store, "s") == ["Be brief.", "q1", "a1", "q2", "a2"]
    seen = await take_turn(store, [system("Be long."), user("q3")], "s", "a3")
    assert _texts(seen) == ["Be long.", "q1", "a1", "q2", "a2", "q3"]
    seen = await take_turn(store, "q4", "s", "a4")
    assert _texts(seen)[0] == "Be long."
    assert [text for text in await spoken(store, "s") if text.startswith("Be")] == ["Be brief.", "Be long."]


async def test_instructions_do_not_hinder_a_transcript_from_matching(store: Store) -> None:
    await take_turn(store, [system("Be brief."), user("q1")], "s", "a1")
    sent = [system("Be brief."), user("q1"), assistant("a1"), user("q2")]
    assert await take_turn(store, sent, "s", "a2") == tuple(sent)
    branch = [system("Be odd."), user("q1"), assistant("a1"), user("q2, again")]
    assert await take_turn(store, branch, "s", "b2") == tuple(branch)


async def test_a_transcript_matches_though_the_agent_used_tools_that_clients_never_saw(store: Store) -> None:
    call = Message("assistant", "Let me see. ", (ToolUse("c1", "look", "{}"),), is_internal=True)
    result = Message("tool", "42", tool_call_id="c1", is_internal=True)
    accepted = await accepted_by(store, accept("q1", "s"))
    last = assistant("It is 42.")
    change = end(accepted, (call, result, last), visible=assistant("Let me see. It is 42."))
    await store.journal.commit((change,), fence(accepted))
    sent = [user("q1"), assistant("Let me see. It is 42."), user("q2")]
    assert await take_turn(store, sent, "s") == (user("q1"), call, result, last, user("q2"))


async def test_the_results_of_client_side_tools_are_the_new_turn(store: Store) -> None:
    asked = Message("assistant", None, (ToolUse("c1", "look", '{"at": "it"}'),))
    result = Message("tool", "seen", tool_call_id="c1")
    await take_turn(store, "q1", "s", (asked,))
    assert await take_turn(store, [user("q1"), asked, result], "s") == (user("q1"), asked, result)


async def test_a_queued_turn_joins_the_conversation_as_it_is_when_the_turn_comes(store: Store) -> None:
    await take_turn(store, "q1", "s", "a1")
    first = await accepted_by(store, accept("q2", "s"))
    change = accept([user("q1"), assistant("a1"), user("q2"), assistant("a2"), user("q3")], "s")
    queued = await accepted_by(store, change)
    await store.journal.commit((end(first, "a2"),), fence(first))
    begun = await began_by(store, change, queued)
    assert begun.lineage is not None
    assert _texts(await given(store, begun.lineage)) == ["q1", "a1", "q2", "a2", "q3"]


async def test_odd_characters_come_back_as_they_went(store: Store) -> None:
    session_id = new_id()
    parts = Message("user", ({"type": "text", "text": ODD}, {"type": "image_url", "image_url": {"url": ODD}}))
    await take_turn(store, [parts], session_id, ODD)
    session = await session_called(store, session_id)
    stored = [message.message for message in await store.sessions.messages(session)]
    assert stored == [parts, assistant(ODD)]
    metadata = {ODD: [ODD, {"deep": ODD}], "number": 2**53, "none": None}
    await store.journal.commit((UpdateSession(session.key, now(), metadata=metadata),))
    assert (await session_called(store, session_id)).metadata == metadata
    (run,), _ = await store.runs.page(ANN, limit=1)
    assert (await run_of(store, run.id)).output == ODD


async def test_what_no_encoding_can_hold_is_replaced_and_never_blocks_a_run(store: Store) -> None:
    accepted = await accepted_by(store, accept("q", "s"))
    await store.journal.commit((end(accepted, "half \ud83d of a pair"),), fence(accepted))
    assert await spoken(store, "s") == ["q", "half \ufffd of a pair"]


async def test_an_id_that_no_store_can_hold_is_simply_unknown(store: Store) -> None:
    await take_turn(store, "q", "s")
    assert await store.sessions.find(ANN, "s\0") is None
    assert await store.runs.find(ANN, "\0") is None


async def test_messages_of_a_megabyte_come_back_whole(store: Store) -> None:
    large = "0123456789abcdé" * 70_000
    seen = await take_turn(store, large, "s", large)
    assert seen == (user(large),)
    assert await spoken(store, "s") == [large, large]
