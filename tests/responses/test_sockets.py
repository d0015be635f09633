"""The WebSocket of responses: through OpenAI's own connection, and frame by frame."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from websockets import ConnectionClosed
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from innkeeper.services.tokens import NewToken
from tests.support.inns import Inn, running_inn
from tests.support.tokens import a_token

TERMINAL = {"response.completed", "response.failed", "response.incomplete", "error"}


@pytest.fixture
async def socket(inn: Inn) -> AsyncIterator[ClientConnection]:
    async with connect(inn.url.replace("http", "ws", 1) + "/v1/responses") as made:
        yield made


async def ask(socket: ClientConnection, **fields: Any) -> list[Any]:
    """The events that answer a `response.create`."""
    await socket.send(json.dumps({"type": "response.create", "model": "echo", **fields}))
    events: list[Any] = []
    while not events or events[-1]["type"] not in TERMINAL:
        events.append(json.loads(await socket.recv()))
    return events


async def test_openais_own_connection_reads_every_event(sdk: openai.AsyncOpenAI) -> None:
    async with sdk.responses.connect() as connection:
        for text in ("One", "Two"):
            await connection.send({"type": "response.create", "model": "echo", "input": text})
            events: list[Any] = []
            while not events or events[-1].type not in TERMINAL:
                events.append(await connection.recv())
            assert [event.sequence_number for event in events] == list(range(len(events)))
            assert events[-1].response.output_text == f"You said: {text} "


async def test_events_are_those_of_the_stream(socket: ClientConnection, sdk: openai.AsyncOpenAI) -> None:
    events = await ask(socket, input="Hi", stream_id="s1")
    assert {event["stream_id"] for event in events} == {"s1"}
    replay = await sdk.responses.retrieve(events[-1]["response"]["id"], stream=True)
    assert [event.type async for event in replay] == [event["type"] for event in events]


async def test_what_is_not_stored_can_be_followed_on_this_connection_alone(inn: Inn, socket: ClientConnection) -> None:
    warm = (await ask(socket, input="I am Ann.", generate=False, store=False))[-1]["response"]
    assert (warm["output"], inn.seen) == ([], [])
    first = (await ask(socket, input="Who?", previous_response_id=warm["id"], store=False))[-1]["response"]
    assert first["previous_response_id"] == warm["id"]
    second = (await ask(socket, input="Sure?", previous_response_id=first["id"], store=False))[-1]["response"]
    assert [message["content"] for message in inn.seen[-1]] == ["I am Ann.", "Who?", "You said: Who? ", "Sure?"]
    async with connect(inn.url.replace("http", "ws", 1) + "/v1/responses") as other:
        (error,) = await ask(other, input="And me?", previous_response_id=second["id"])
    assert (error["type"], error["status"]) == ("error", 400)
    assert error["error"]["code"] == "previous_response_not_found"


async def test_stored_responses_are_followed_from_anywhere(
    inn: Inn, socket: ClientConnection, sdk: openai.AsyncOpenAI
) -> None:
    first = await sdk.responses.create(model="echo", input="One")
    second = (await ask(socket, input="Two", previous_response_id=first.id))[-1]["response"]
    await sdk.responses.create(model="echo", input="Three", previous_response_id=second["id"])
    said = [message["content"] for message in inn.seen[-1]]
    assert said == ["One", "You said: One ", "Two", "You said: Two ", "Three"]


BAD: list[tuple[str, str | None]] = [
    ("{", None),
    ("[]", "type"),
    ('{"type": "response.steer"}', "type"),
    ('{"type": "response.create"}', "input"),
    ('{"type": "response.create", "input": 1}', "input"),
    ('{"type": "response.create", "input": "x", "background": true}', "background"),
    ('{"type": "response.create", "input": "x", "model": "nobody"}', "model"),
    (
        '{"type": "response.create", "input": "x", "model": "echo",'
        ' "text": {"format": {"type": "json_schema", "name": "a", "schema": {}}}}',
        "text.format",
    ),
]


async def test_what_cannot_be_understood_is_an_error_and_the_connection_stays(socket: ClientConnection) -> None:
    for text, param in BAD:
        await socket.send(text)
        error = json.loads(await socket.recv())
        assert error["type"] == "error" and 400 <= error["status"] < 500, error
        assert param is None or error["error"]["param"] == param, error
    assert (await ask(socket, input="Still here?"))[-1]["type"] == "response.completed"


async def test_failure_is_told_and_the_connection_stays(socket: ClientConnection) -> None:
    events = await ask(socket, model="breaking", input="?")
    assert events[-1]["type"] == "error" and "open-sesame" not in json.dumps(events)
    failed = json.loads(await socket.recv())
    assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
    assert (await ask(socket, input="Still here?"))[-1]["type"] == "response.completed"


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[Inn, NewToken, str]]:
    """A server that wants tokens, ann's and an admin's."""
    with running_inn(tmp_path, force_auth=True) as inn:
        settings = inn.app.kernel.settings
        yield inn, a_token(settings, "ann"), a_token(settings, "zoe", "admin").text


async def test_revoked_token_ends_what_is_under_way(guarded: tuple[Inn, NewToken, str]) -> None:
    inn, ann, admin = guarded
    url = inn.url.replace("http", "ws", 1) + "/v1/responses"
    with pytest.raises(InvalidStatus, match="403"):
        await connect(url)
    async with connect(url, additional_headers={"authorization": f"Bearer {ann.text}"}) as socket:
        await socket.send(json.dumps({"type": "response.create", "model": "conducted", "input": "watch", "grace": 0}))
        inn.conduct("watch").say("One ")
        while json.loads(await socket.recv())["type"] != "response.output_text.delta":
            pass
        async with httpx2.AsyncClient(base_url=inn.url, headers={"x-api-key": admin}) as operator:
            assert (await operator.delete(f"/tokens/{ann.token.id}")).status_code == 204
        refusal = json.loads(await socket.recv())
        assert (refusal["type"], refusal["status"]) == ("error", 401)
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 4401


async def test_what_waits_when_its_client_leaves_is_not_run(inn: Inn) -> None:
    performance = inn.conduct("slowly")
    async with connect(inn.url.replace("http", "ws", 1) + "/v1/responses") as socket:
        asked = {"type": "response.create", "model": "conducted", "input": "slowly", "grace": 0}
        await socket.send(json.dumps(asked))
        for _ in range(3):
            await socket.send(json.dumps({**asked, "model": "echo", "input": "Unheard"}))
        await socket.send(b"A pong of what was read before.")
        while json.loads(await socket.recv())["type"] != "error":
            pass
    await asyncio.to_thread(performance.cancelled.wait, 10)
    async with connect(inn.url.replace("http", "ws", 1) + "/v1/responses") as socket:
        await ask(socket, input="Heard")
    assert [seen[-1]["content"] for seen in inn.seen if seen[-1]["content"] != "slowly"] == ["Heard"]


async def test_what_is_remembered_of_one_end_user_is_not_told_to_another(inn: Inn, socket: ClientConnection) -> None:
    warm = (await ask(socket, input="I am Bob.", generate=False, user="bob"))[-1]["response"]
    of_bob = (await ask(socket, input="Hm.", store=False, user="bob", previous_response_id=warm["id"]))[-1]["response"]
    for known in (warm["id"], of_bob["id"]):
        (error,) = await ask(socket, input="Who?", previous_response_id=known, user="alice")
        assert error["error"]["code"] == "previous_response_not_found"
    await ask(socket, input="Who?", previous_response_id=of_bob["id"], user="bob")
    assert [message["content"] for message in inn.seen[-1]] == ["I am Bob.", "Hm.", "You said: Hm. ", "Who?"]


async def test_what_is_remembered_and_a_conversation_are_not_followed_both(socket: ClientConnection) -> None:
    warm = (await ask(socket, input="I am Ann.", generate=False))[-1]["response"]
    (error,) = await ask(socket, input="Who?", previous_response_id=warm["id"], conversation="conv_1")
    assert (error["status"], error["error"]["param"]) == (400, "previous_response_id")
