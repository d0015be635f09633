"""Completions: what is asked of the server, and what comes back, whole and streamed."""

from __future__ import annotations

import asyncio
import inspect
import json

import pytest

from innkeeper.client import (
    AsyncChatServerClient,
    ChatServerClient,
    ChatServerError,
    CompletionStream,
    InternalServerError,
    Message,
    MessageRole,
    UsageInfo,
)
from tests.client.conftest import MODEL
from tests.support.inns import Inn
from tests.support.scripted_servers import Told, answer, head, in_turn, scripted_server

WHOLE = {"id": "c", "choices": [{"message": {"role": "assistant", "content": None}, "finish_reason": "tool_calls"}]}


def test_parameters_and_defaults_are_the_documented_ones() -> None:
    with ChatServerClient(base_url="http://127.0.0.1:1") as client:
        parameters = inspect.signature(client.create_completion).parameters
    shown = ", ".join(
        f"{one.name}" if one.default is one.empty else f"{one.name}={one.default!r}" for one in parameters.values()
    )
    assert shown == (
        "model, messages, temperature=0.7, max_tokens=4000, top_p=1.0, stream=False, user=None, system_prompt=None, "
        "session_id=None, metadata=None, organization_id=None, workflow=None, variables=None, allowed_tools=None, "
        "setting_sources=None, mcp_servers=None"
    )


def test_what_is_asked_for_is_sent_and_extras_stand_in_the_metadata() -> None:
    with scripted_server(in_turn(answer(200, WHOLE))) as server, ChatServerClient("key", server.url) as client:
        client.create_completion(
            "m",
            ["Hi", Message(MessageRole.SYSTEM, "Be."), {"role": "user", "content": "Yo"}],
            user="ann",
            system_prompt="Be brief.",
            session_id="s",
            metadata={"project": "p", "grace": 1},
            workflow="w",
            variables={"a": 1},
            allowed_tools=["t"],
        )
    (asked,) = server.seen
    assert (asked.method, asked.target) == ("POST", "/v1/chat/completions")
    assert asked.headers["authorization"] == "Bearer key"
    assert asked.json == {
        "model": "m",
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "system", "content": "Be."},
            {"role": "user", "content": "Yo"},
        ],
        "stream": False,
        "temperature": 0.7,
        "max_tokens": 4000,
        "top_p": 1.0,
        "user": "ann",
        "system_prompt": "Be brief.",
        "metadata": {
            "grace": 1,
            "project": "p",
            "session_id": "s",
            "workflow": "w",
            "variables": {"a": 1},
            "allowed_tools": ["t"],
        },
    }


def test_usage_and_content_are_there_even_where_the_agent_has_none() -> None:
    with scripted_server(in_turn(answer(200, WHOLE))) as server, ChatServerClient(base_url=server.url) as client:
        response = client.create_completion("m", ["Hi"])
    assert response.usage == UsageInfo(0, 0, 0, reported=False)
    assert response.choices[0].message == Message(MessageRole.ASSISTANT, "")
    assert response.choices[0].index == 0


def test_an_answer_and_a_stream_say_the_same(client: ChatServerClient) -> None:
    whole = client.create_completion(MODEL, ["Hi"])
    with client.create_completion(MODEL, ["Hi"], stream=True) as stream:
        pieces = list(stream)
    assert "".join(pieces) == whole.choices[0].message.content == "An old pond, 1 frogs."
    assert stream.metadata["usage"] == whole.usage == UsageInfo(12, 8, 20, reported=True)
    assert (stream.metadata["finish_reason"], whole.choices[0].finish_reason) == ("stop", "stop")
    assert stream.metadata["session_id"] == stream.metadata["system_fingerprint"] != whole.system_fingerprint


async def test_async_clients_answer_and_stream_alike(async_client: AsyncChatServerClient) -> None:
    whole = await async_client.create_completion(MODEL, ["Hi"])
    async with await async_client.create_completion(MODEL, ["Hi"], stream=True) as stream:
        pieces = [piece async for piece in stream]
    assert "".join(pieces) == whole.choices[0].message.content
    assert stream.metadata["usage"] == whole.usage


@pytest.mark.parametrize("streams", [False, True])
def test_whether_to_stream_may_be_decided_late_and_said_by_position(client: ChatServerClient, streams: bool) -> None:
    answered = client.create_completion(MODEL, ["Hi"], 0.7, 4000, 1.0, streams)
    assert isinstance(answered, CompletionStream) is streams
    text = "".join(answered) if isinstance(answered, CompletionStream) else answered.choices[0].message.content
    assert text == "An old pond, 1 frogs."


async def test_completions_can_be_made_as_tasks(async_client: AsyncChatServerClient) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(async_client.create_completion(MODEL, ["Hi"])) for _ in range(3)]
    assert [task.result().choices[0].message.content for task in tasks] == ["An old pond, 1 frogs."] * 3


def test_a_stream_that_is_closed_before_its_end_cancels_its_run(inn: Inn, client: ChatServerClient) -> None:
    performance = inn.conduct("close me")
    performance.say("One ", "two ")
    with client.create_completion("conducted", ["close me"], stream=True) as stream:
        assert next(stream) + next(stream) == "One two "
    assert performance.cancelled.wait(10)
    assert client.runs.wait(stream.metadata["run_id"]).status == "cancelled"


def test_a_stream_raises_what_befell_the_run_after_what_it_had_said(client: ChatServerClient) -> None:
    stream = client.create_completion("breaking", ["Hi"], stream=True)
    said = ""
    with pytest.raises(InternalServerError, match="The agent failed") as caught:
        for piece in stream:
            said += piece
    assert said == "So far so good."
    assert caught.value.code == "AGENT_FAILED"
    assert list(stream) == []


def test_what_is_no_message_is_refused_before_it_is_sent(client: ChatServerClient) -> None:
    with pytest.raises(TypeError, match="messages: a list is expected"):
        client.create_completion(MODEL, "Hi")
    with pytest.raises(TypeError, match="messages: a Message, a dictionary or a string is expected, not int"):
        client.create_completion(MODEL, [1])  # type: ignore[list-item]


def test_an_answer_that_is_not_the_servers_is_told_as_such() -> None:
    page = Told(head(200, {"content-type": "text/html"}) + b"<html>Please log in.</html>")
    script = in_turn(page, answer(200, {"id": 1}), answer(200, {}))
    with scripted_server(script) as server, ChatServerClient(base_url=server.url) as client:
        with pytest.raises(ChatServerError, match="not JSON") as caught:
            client.create_completion("m", ["Hi"])
        with pytest.raises(ChatServerError, match=r"ChatCompletionResponse\.id is of another type"):
            client.create_completion("m", ["Hi"])
        with pytest.raises(ChatServerError, match=r"ChatCompletionResponse\.id is missing"):
            client.create_completion("m", ["Hi"])
    assert caught.value.code == "INVALID_RESPONSE"


def test_a_number_that_json_has_not_is_refused() -> None:
    with ChatServerClient(base_url="http://127.0.0.1:1") as client, pytest.raises(ValueError, match="JSON compliant"):
        client.create_completion("m", ["Hi"], temperature=float("nan"))


def test_unpaired_surrogates_in_messages_arrive_as_they_are() -> None:
    with scripted_server(in_turn(answer(200, WHOLE))) as server, ChatServerClient(base_url=server.url) as client:
        client.create_completion("m", ["\ud83d"])
    assert json.loads(server.seen[0].body)["messages"][0]["content"] == "\ud83d"
