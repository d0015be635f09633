"""Conversations: sessions under another name, with their messages as items."""

from __future__ import annotations

from typing import Any

import httpx2
import openai
import pytest

from tests.support.inns import Inn


async def test_conversation_is_made_changed_talked_in_and_deleted(
    inn: Inn, sdk: openai.AsyncOpenAI, plain: httpx2.Client
) -> None:
    made = await sdk.conversations.create(
        metadata={"topic": "names"}, items=[{"type": "message", "role": "user", "content": "I am Ann."}]
    )
    assert made.id.startswith("conv_") and made.metadata == {"topic": "names"}
    changed = await sdk.conversations.update(made.id, metadata={"topic": "towns"})
    assert changed.metadata == {"topic": "towns"} == (await sdk.conversations.retrieve(made.id)).metadata
    answer = await sdk.responses.create(model="echo", input="Who am I?", conversation={"id": made.id})
    assert answer.conversation is not None and answer.conversation.id == made.id
    assert [message["content"] for message in inn.seen[-1]] == ["I am Ann.", "Who am I?"]
    assert plain.get(f"/sessions/{made.id}").json()["message_count"] == 3
    assert (await sdk.conversations.delete(made.id)).deleted is True
    with pytest.raises(openai.NotFoundError):
        await sdk.conversations.retrieve(made.id)
    with pytest.raises(openai.NotFoundError):
        await sdk.responses.create(model="echo", input="Still there?", conversation=made.id)


async def test_items_are_paged_in_both_directions(sdk: openai.AsyncOpenAI) -> None:
    made = await sdk.conversations.create()
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    items: list[Any] = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        call,
        {"type": "function_call_output", "call_id": "c1", "output": "d"},
        {"role": "user", "content": [{"type": "input_text", "text": "e"}]},
    ]
    added = (await sdk.conversations.items.create(made.id, items=items)).data
    assert [item.type for item in added] == [
        "message", "message", "function_call", "function_call_output", "message",
    ]  # fmt: skip
    for limit in range(1, 7):
        up = [item async for item in sdk.conversations.items.list(made.id, limit=limit, order="asc")]
        down = [item async for item in sdk.conversations.items.list(made.id, limit=limit)]
        assert up == added == [*reversed(down)]
    for item in added:
        assert item.id is not None
        assert await sdk.conversations.items.retrieve(item.id, conversation_id=made.id) == item


async def test_items_are_found_in_their_own_conversation_only_and_not_removed(
    sdk: openai.AsyncOpenAI, plain: httpx2.Client
) -> None:
    one, two = [
        await sdk.conversations.create(items=[{"type": "message", "role": "user", "content": "x"}]) for _ in range(2)
    ]
    (item,) = (await sdk.conversations.items.list(one.id)).data
    assert item.id is not None
    for named in (item.id, "msg_1", "msg_0_0p0"):
        with pytest.raises(openai.NotFoundError):
            await sdk.conversations.items.retrieve(named, conversation_id=two.id)
        answer = plain.get(f"/v1/conversations/{two.id}/items", params={"after": named})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "after")
    with pytest.raises(openai.BadRequestError, match="one by one"):
        await sdk.conversations.items.delete(item.id, conversation_id=one.id)


async def test_servers_own_tool_traffic_is_no_item(inn: Inn, sdk: openai.AsyncOpenAI) -> None:
    answer = await sdk.responses.create(model="busy", input="What is it?")
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert answer.conversation is not None
    listed = [item async for item in sdk.conversations.items.list(answer.conversation.id, order="asc")]
    assert [item.to_dict()["role"] for item in listed] == ["user", "assistant"]


def test_same_key_makes_one_conversation(plain: httpx2.Client) -> None:
    headers = {"idempotency-key": "one-conversation"}
    body = {"items": [{"role": "user", "content": "Hello"}]}
    first, second = (plain.post("/v1/conversations", json=body, headers=headers).json() for _ in range(2))
    assert first == second
    assert len(plain.get(f"/v1/conversations/{first['id']}/items").json()["data"]) == 1
    listed = plain.post(f"/v1/conversations/{first['id']}/items", json={"items": []})
    assert (listed.status_code, listed.json()["error"]["param"]) == (400, "items")


async def test_items_of_which_nothing_is_kept_are_passed_over(sdk: openai.AsyncOpenAI) -> None:
    made = await sdk.conversations.create()
    reasoning: Any = {"type": "reasoning", "id": "rs_1", "summary": []}
    searched: Any = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}}
    assert (await sdk.conversations.items.create(made.id, items=[reasoning, searched])).data == []
    kept = await sdk.conversations.items.create(made.id, items=[reasoning, {"role": "user", "content": "x"}])
    assert [item.type for item in kept.data] == ["message"]


async def test_speech_is_told_as_a_file(sdk: openai.AsyncOpenAI) -> None:
    speech: Any = {"type": "input_audio", "input_audio": {"data": "eA==", "format": "mp3"}}
    made = await sdk.conversations.create(items=[{"type": "message", "role": "user", "content": [speech]}])
    (item,) = (await sdk.conversations.items.list(made.id)).data
    assert item.to_dict()["content"] == [
        {"type": "input_file", "filename": "audio.mp3", "file_data": "data:audio/mp3;base64,eA=="}
    ]
