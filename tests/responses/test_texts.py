"""Responses of text: whole and streamed, strict in every field, on the same runs as everything else."""

from __future__ import annotations

from typing import Any

import httpx2
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent

from tests.openai.hosts import Host

LADDER = [
    "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
    "response.output_text.delta", "response.output_text.delta", "response.output_text.delta",
    "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed",
]  # fmt: skip


def response_of(event: ResponseStreamEvent) -> Response:
    response = getattr(event, "response", None)
    assert isinstance(response, Response)
    return response


def test_whole_response_has_what_was_asked_and_can_be_fetched_again(client: openai.OpenAI, host: Host) -> None:
    made = client.responses.create(
        model="echo", input="Hello", instructions="Be kind.", temperature=0.5, metadata={"a": "b"}, truncation="auto",
        max_output_tokens=99, user="ann", service_tier="flex", prompt_cache_key="k", include=[],
        tools=[{"type": "web_search"}], extra_body={"client_metadata": {"x": 1}},
    )  # fmt: skip
    assert (made.status, made.output_text, made.error, made.incomplete_details) == (
        "completed", "You said: Hello ", None, None,
    )  # fmt: skip
    assert (made.instructions, made.temperature, made.metadata, made.truncation) == (
        "Be kind.",
        0.5,
        {"a": "b"},
        "auto",
    )
    assert (made.max_output_tokens, made.user, made.service_tier, made.tools) == (99, "ann", "flex", [])
    assert made.completed_at is not None and made.completed_at >= made.created_at
    assert [message["role"] for message in host.seen[0]] == ["system", "user"]
    assert client.responses.retrieve(made.id) == made
    (item,) = client.responses.input_items.list(made.id).data
    assert item.to_dict()["content"] == [{"type": "input_text", "text": "Hello"}]


def test_metadata_of_other_surfaces_is_told_as_text(client: openai.OpenAI, http: httpx2.Client) -> None:
    metadata = {"plain": "a", "number": 1, "nested": {"b": [None]}}
    begun = http.post("/chat", json={"agent_name": "echo", "input": "Hi", "metadata": metadata}).json()
    told = client.responses.retrieve(begun["run_id"].replace("run_", "resp_")).metadata
    assert told == {"plain": "a", "number": "1", "nested": '{"b":[null]}'}


async def test_stream_has_the_full_ladder_and_ends_with_the_whole(async_client: openai.AsyncOpenAI) -> None:
    stream = await async_client.responses.create(model="echo", input="Hi", stream=True)
    events = [event async for event in stream]
    assert [event.type for event in events] == LADDER
    assert [event.sequence_number for event in events] == list(range(len(LADDER)))
    whole = response_of(events[-1])
    assert whole.output_text == "You said: Hi "
    stored = await async_client.responses.retrieve(whole.id)
    assert stored.output == whole.output
    async with async_client.responses.stream(model="echo", input="Hi") as helped:
        assert (await helped.get_final_response()).output_text == "You said: Hi "


def test_reasoning_is_an_item_of_its_own(client: openai.OpenAI) -> None:
    whole = client.responses.create(model="thinking", input="?")
    reasoning, message = whole.output
    assert reasoning.type == "reasoning" and reasoning.summary[0].text == "Hm. Yes."
    assert message.type == "message" and whole.output_text == "42"


def test_length_makes_it_incomplete_and_usage_is_the_agents_own(client: openai.OpenAI) -> None:
    whole = client.responses.create(model="whole", input="?")
    assert whole.status == "incomplete" and whole.incomplete_details is not None
    assert whole.incomplete_details.reason == "max_output_tokens"
    assert whole.usage is not None and (whole.usage.input_tokens, whole.usage.output_tokens) == (3, 4)
    *_, last = client.responses.create(model="whole", input="?", stream=True)
    assert last.type == "response.incomplete"


def test_failure_in_a_stream_is_told_flat_and_nested_and_then_the_response_fails(http: httpx2.Client) -> None:
    told = http.post("/v1/responses", json={"model": "breaking", "input": "?", "stream": True}).text
    assert told.endswith("data: [DONE]\n\n") and "open-sesame" not in told
    kinds = [line.removeprefix("event: ") for line in told.splitlines() if line.startswith("event: ")]
    assert kinds[-2:] == ["error", "response.failed"]
    error = httpx2.Response(200, text=told.split("event: error\ndata: ")[1].split("\n")[0]).json()
    assert error["message"] == error["error"]["message"] and error["code"] == error["error"]["code"] == "AGENT_FAILED"


def test_failure_of_a_whole_response_is_an_error_and_reading_it_is_not(
    client: openai.OpenAI, http: httpx2.Client
) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        client.responses.create(model="failing", input="?")
    read = client.responses.retrieve(caught.value.response.headers["x-run-id"].replace("run_", "resp_"))
    assert read.status == "failed" and read.error is not None and read.error.code == "server_error"


BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "input"),
    ({"input": []}, "input"),
    ({"input": "  "}, "input"),
    ({"input": [{"type": "message", "role": "wizard", "content": "x"}]}, "input[0].role"),
    ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
    ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "input"),
    ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id"),
    ({"input": [{"type": "item_reference", "id": "msg_0_0"}]}, "input[0].id"),
    ({"input": [{"type": "compaction", "encrypted_content": "ik1.AAAA"}]}, "input[0].encrypted_content"),
    ({"input": "x", "previous_response_id": "resp_1", "conversation": "c"}, "previous_response_id"),
    ({"input": "x", "conversation": {"name": "c"}}, "conversation"),
    ({"input": "x", "background": True, "store": False}, "background"),
    ({"input": "x", "text": {"format": {"type": "yaml"}}}, "text.format.type"),
    ({"input": "x", "tools": [{"type": "function"}]}, "tools[0].name"),
    ({"input": "x", "tool_choice": "sometimes"}, "tool_choice"),
    ({"input": "x", "temperature": 3}, "temperature"),
    ({"input": "x", "top_logprobs": 3}, "top_logprobs"),
    ({"input": "x", "prompt": {"id": "p"}}, "prompt"),
]


@pytest.mark.parametrize(("body", "param"), BAD, ids=[param for _, param in BAD])
def test_bad_request_names_its_field(http: httpx2.Client, body: dict[str, Any], param: str) -> None:
    answer = http.post("/v1/responses", json={"model": "echo", **body})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


def test_unknown_agent_and_unknown_response_are_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.create(model="nobody", input="x")
    assert caught.value.param == "model"
    for ask in (client.responses.retrieve, client.responses.cancel, client.responses.delete):
        with pytest.raises(openai.NotFoundError):
            ask("resp_nothing")


def test_deleted_response_is_gone_and_its_conversation_stays(client: openai.OpenAI) -> None:
    made = client.responses.create(model="echo", input="Hello")
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)
    with pytest.raises(openai.BadRequestError):
        client.responses.create(model="echo", input="x", previous_response_id=made.id)
    assert made.conversation is not None
    assert len(client.conversations.items.list(made.conversation.id).data) == 2


def test_tokens_are_not_counted_beforehand(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="cannot be counted"):
        client.responses.input_tokens.count(model="echo", input="Hello")


def test_compacted_conversation_goes_on_as_it_was(client: openai.OpenAI, host: Host) -> None:
    made = client.responses.create(model="echo", input="My name is Ann.")
    compacted = client.responses.compact(model="echo", previous_response_id=made.id)
    (item,) = compacted.output
    assert item.type == "compaction" and compacted.usage.total_tokens == 0
    client.responses.create(model="echo", input=[item.to_dict(), {"role": "user", "content": "Who am I?"}])  # type: ignore[list-item]
    said = [message["content"] for message in host.seen[-1]]
    assert said == ["My name is Ann.", "You said: My name is Ann. ", "Who am I?"]


def test_pictures_and_files_reach_the_agent_as_parts(client: openai.OpenAI, host: Host) -> None:
    picture = "data:image/png;base64,iVBORw0KGgo="
    content: list[Any] = [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": picture, "detail": "auto"},
        {"type": "input_file", "filename": "a.txt", "file_data": "data:text/plain;base64,SGk="},
    ]
    made = client.responses.create(model="telling", input=[{"role": "user", "content": content}])
    shown = client.responses.input_items.list(made.id).data[0].to_dict()["content"]
    assert isinstance(shown, list)
    assert [part["type"] for part in shown] == ["input_text", "input_image", "input_file"]
    assert shown[1]["image_url"] == picture


def test_a_form_that_the_agent_cannot_promise_is_refused_by_the_name_that_it_has_here(client: openai.OpenAI) -> None:
    schema = {"type": "json_schema", "name": "a", "schema": {"type": "object"}}
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/responses", body={"model": "echo", "input": "x", "text": {"format": schema}}, cast_to=object)
    assert caught.value.param == "text.format"
