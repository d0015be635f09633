"""Agents as tools at `/mcp`, asked by the official client and by hand."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from fastapi import HTTPException
from mcp import MCPError

from innkeeper import Agent, ServerBase
from innkeeper.config import load_settings
from tests.support.inns import UNCOUNTED, Inn, ended, history, running_inn, serve_inn
from tests.support.mcp_clients import ACCEPTED, GENERATIONS, an_mcp_client, call, cancelled
from tests.support.sizes import IS_FULL
from tests.support.tokens import a_token

Json = dict[str, Any]


@pytest.fixture(scope="module")
def inn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inn]:
    with running_inn(tmp_path_factory.mktemp("data")) as running:
        yield running


@pytest.fixture
def http(inn: Inn) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=inn.url, timeout=30, trust_env=False) as client:
        yield client


def logged(http: httpx2.Client, session_id: str) -> list[Json]:
    """The chat log of a session, which is written behind its runs."""
    deadline = time.monotonic() + 20
    while not (rows := http.get("/logs", params={"session_id": session_id}).json()["logs"]):
        assert time.monotonic() < deadline, "no row has been written"
        time.sleep(0.02)
    return list(rows)


@pytest.mark.parametrize("mode", GENERATIONS)
async def test_every_registered_agent_is_a_tool(inn: Inn, mode: str) -> None:
    async with an_mcp_client(inn.url, mode) as client:
        tools = (await client.list_tools()).tools
    assert [tool.name for tool in tools] == [agent.name for agent in inn.app.kernel.agents]
    assert tools[0].description == "Says what it heard."
    assert tools[0].input_schema["required"] == ["message"]
    assert set(tools[0].input_schema["properties"]) == {"message", "session_id"}


@pytest.mark.parametrize("mode", GENERATIONS)
async def test_a_call_is_a_run_like_any_other(inn: Inn, http: httpx2.Client, mode: str) -> None:
    async with an_mcp_client(inn.url, mode) as client:
        answer = await client.call_tool("busy", {"message": "What is it?"})
    assert not answer.is_error
    assert [part.text for part in answer.content if part.type == "text"] == ["It is 42."]
    told = answer.structured_content
    assert told["output"] == "It is 42."
    assert told["usage"] == {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    run = http.get(f"/runs/{told['run_id']}").json()
    assert (run["status"], run["agent_name"], run["session_id"]) == ("completed", "busy", told["session_id"])
    assert [(row["endpoint"], row["run_id"]) for row in logged(http, told["session_id"])] == [("/mcp", told["run_id"])]


@pytest.mark.parametrize("mode", GENERATIONS)
async def test_a_session_goes_on_over_mcp_and_elsewhere(inn: Inn, http: httpx2.Client, mode: str) -> None:
    async with an_mcp_client(inn.url, mode) as client:
        first = (await client.call_tool("echo", {"message": "One"})).structured_content
        again = {"message": "Two", "session_id": first["session_id"]}
        second = (await client.call_tool("echo", again)).structured_content
    assert second["session_id"] == first["session_id"]
    said = http.post("/chat", json={"input": "Three", "agent_name": "echo", "session_id": first["session_id"]})
    assert said.status_code == 200
    asked = [content for role, content in history(http, first["session_id"]) if role == "user"]
    assert asked == ["One", "Two", "Three"]
    assert [message["content"] for message in inn.seen[-1] if message["role"] == "user"] == asked


@pytest.mark.parametrize("mode", GENERATIONS)
async def test_progress_is_told_while_the_agent_speaks(inn: Inn, mode: str) -> None:
    performance = inn.conduct(f"speak to {mode}")
    heard: list[tuple[float, str | None]] = []
    spoken = asyncio.Event()

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, message))
        if message:
            spoken.set()

    async with an_mcp_client(inn.url, mode) as client:
        calling = asyncio.create_task(
            client.call_tool("conducted", {"message": f"speak to {mode}"}, progress_callback=on_progress)
        )
        performance.say("Slowly ")
        await asyncio.wait_for(spoken.wait(), 20)
        assert not calling.done()
        performance.say("does it.")
        performance.end()
        answer = await calling
    assert answer.structured_content["output"] == "Slowly does it."
    assert "Slowly " in "".join(message or "" for _, message in heard)
    assert [progress for progress, _ in heard] == sorted({progress for progress, _ in heard})


@pytest.mark.parametrize("mode", GENERATIONS)
async def test_a_client_that_cancels_its_call_cancels_the_run(inn: Inn, http: httpx2.Client, mode: str) -> None:
    prompt = f"cancel me over {mode}"
    performance = inn.conduct(prompt)
    async with an_mcp_client(inn.url, mode) as client:
        calling = asyncio.create_task(client.call_tool("conducted", {"message": prompt}))
        assert await asyncio.to_thread(performance.began.wait, 20)
        calling.cancel()
        # Well before the grace of clients that only go away is over.
        assert await asyncio.to_thread(performance.cancelled.wait, 4)
        assert (await client.call_tool("echo", {"message": "Still there?"})).structured_content["status"] == "completed"
    newest = http.get("/runs", params={"agent_name": "conducted"}).json()["runs"][0]
    assert ended(http, newest["id"])["status"] == "cancelled"


def test_nobody_cancels_a_call_of_another_client(inn: Inn, http: httpx2.Client) -> None:
    performance = inn.conduct("leave me be")
    head = {**ACCEPTED, "mcp-session-id": "mine"}
    message = call("conducted", {"message": "leave me be"}, 7)
    with ThreadPoolExecutor(1) as pool:
        calling = pool.submit(httpx2.post, f"{inn.url}/mcp", json=message, headers=head, timeout=30, trust_env=False)
        assert performance.began.wait(20)
        for session in ({"mcp-session-id": "theirs"}, {}):
            refused = http.post("/mcp", json=cancelled(7), headers={**ACCEPTED, **session})
            assert (refused.status_code, refused.content) == (202, b"")
        assert http.post("/mcp", json=cancelled("7"), headers=head).status_code == 202
        performance.say("I was.")
        performance.end()
        assert calling.result().json()["result"]["structuredContent"]["output"] == "I was."
    assert not performance.cancelled.is_set()


def test_a_call_is_cancelled_however_many_runs_were_begun_since(
    inn: Inn, http: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("innkeeper.http.mcp.endpoint.MAX_PAGE", 1)
    performances = [inn.conduct(f"one of many: {number}") for number in range(3)]
    head = {**ACCEPTED, "mcp-session-id": "of many"}

    def ask(number: int) -> Json:
        message = call("conducted", {"message": f"one of many: {number}"}, number)
        answer = httpx2.post(f"{inn.url}/mcp", json=message, headers=head, timeout=30, trust_env=False)
        return dict(answer.json()["result"]["structuredContent"])

    with ThreadPoolExecutor(3) as pool:
        calling = []
        for number, performance in enumerate(performances):
            calling.append(pool.submit(ask, number))
            assert performance.began.wait(20)
        http.post("/mcp", json=cancelled(0), headers=head)
        try:
            assert performances[0].cancelled.wait(4)
        finally:
            for performance in performances[1:]:
                performance.end()
        assert [one.result()["status"] for one in calling] == ["cancelled", "completed", "completed"]


@pytest.mark.skipif(not IS_FULL, reason="waits for the grace to be over")
def test_a_client_that_only_goes_away_has_a_while_before_its_run_is_cancelled(inn: Inn) -> None:
    performance = inn.conduct("I shall be gone")
    message = call("conducted", {"message": "I shall be gone"})
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.post(f"{inn.url}/mcp", json=message, headers=ACCEPTED, timeout=1, trust_env=False)
    assert performance.began.is_set()
    assert not performance.cancelled.wait(1)
    assert performance.cancelled.wait(20)


@pytest.mark.parametrize("mode", GENERATIONS)
async def test_what_goes_wrong_is_told_as_a_result(inn: Inn, mode: str) -> None:
    asked: dict[str, tuple[str, Json]] = {
        "AGENT_FAILED": ("failing", {"message": "Hello"}),
        "VALIDATION_ERROR: message: must not be blank": ("echo", {"message": " "}),
        "VALIDATION_ERROR: message: is required": ("echo", {}),
        "VALIDATION_ERROR: mcp_servers: is no argument": ("echo", {"message": "Hello", "mcp_servers": ["http://x"]}),
        "VALIDATION_ERROR: session_id": ("echo", {"message": "Hello", "session_id": "a/b"}),
    }
    async with an_mcp_client(inn.url, mode) as client:
        (schema, *_) = [tool.output_schema for tool in (await client.list_tools()).tools]
        assert schema is not None
        for expected, (tool, arguments) in asked.items():
            answer = await client.call_tool(tool, arguments)
            assert answer.is_error
            # Other clients hold errors to the schema as well, and drop what does not fit.
            assert set(schema["required"]) <= answer.structured_content.keys() <= set(schema["properties"])
            (part,) = answer.content
            assert part.type == "text"
            assert part.text.startswith(expected)
            assert "open-sesame" not in answer.model_dump_json()
            assert answer.structured_content["error"]["code"] == expected.partition(":")[0]
        with pytest.raises(MCPError, match="There is no tool 'nobody'"):
            await client.call_tool("nobody", {"message": "Hello"})


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"jsonrpc": "2.0"', b'{"a": 1, "a": 2}', b"[" * 9000, b"", b"\xff"])
def test_what_is_no_json_is_told_so_in_json_rpc(http: httpx2.Client, body: bytes) -> None:
    answer = http.post("/mcp", content=body, headers=ACCEPTED)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == (-32600 if body == b"[]" else -32700)


@pytest.mark.parametrize(
    "message",
    [
        [call("echo", {"message": "One"}, 1), call("echo", {"message": "Two"}, 2)],
        "tools/call",
        {"method": "tools/list", "id": 1},
        {"jsonrpc": "2.0", "id": 1, "method": 5},
        {"jsonrpc": "2.0", "id": [1], "method": "tools/list"},
        {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": [1]},
        {"jsonrpc": "2.0", "id": 1, "result": {}},
    ],
)
def test_a_batch_and_what_else_is_no_single_message_is_refused(inn: Inn, http: httpx2.Client, message: Any) -> None:
    before = len(inn.seen)
    answer = http.post("/mcp", json=message, headers=ACCEPTED)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == -32600
    assert len(inn.seen) == before


def test_the_gate_and_the_bounds_come_first(http: httpx2.Client) -> None:
    message = json.dumps(call("echo", {"message": "Hello"}))
    refused: dict[int, Json] = {
        421: {"headers": {**ACCEPTED, "host": "evil.example"}, "content": message},
        403: {"headers": {**ACCEPTED, "origin": "https://evil.example"}, "content": message},
        413: {"headers": ACCEPTED, "content": json.dumps(call("echo", {"message": "x" * (11 * 1024 * 1024)}))},
        415: {"headers": {**ACCEPTED, "content-type": "text/plain"}, "content": message},
        406: {"headers": {**ACCEPTED, "accept": "text/html"}, "content": message},
    }
    for status, request in refused.items():
        assert http.post("/mcp", **request).status_code == status, status


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "PATCH"])
def test_there_are_no_sessions_to_listen_to_or_to_end(http: httpx2.Client, method: str) -> None:
    answer = http.request(method, "/mcp", headers={**ACCEPTED, "mcp-session-id": "mine"})
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("mode", GENERATIONS)
async def test_a_long_message_arrives_whole(inn: Inn, mode: str) -> None:
    text = "täglich " * 20_000
    async with an_mcp_client(inn.url, mode) as client:
        answer = await client.call_tool("echo", {"message": text})
    assert answer.structured_content["output"].strip() == f"You said: {text}".strip()


async def test_names_that_no_tool_can_have_are_told_as_others(tmp_path_factory: pytest.TempPathFactory) -> None:
    app = ServerBase(settings=load_settings({"data_dir": tmp_path_factory.mktemp("data"), **UNCOUNTED}))
    for name in ("a.b", "a_b", "team:writer", "team@writer", "x" * 100):

        @app.agent(name)
        async def says(messages: list[Json], name: str = name) -> str:
            return name

    with serve_inn(app) as inn:
        async with an_mcp_client(inn.url) as client:
            tools = (await client.list_tools()).tools
            names = {tool.title: tool.name for tool in tools}
            assert len(set(names.values())) == len(tools)
            assert names["a_b"] == "a_b"
            assert names["x" * 100] == "x" * 64
            for agent, tool in names.items():
                if agent in ("a.b", "a_b", "team:writer", "team@writer"):
                    assert (await client.call_tool(tool, {"message": "Who?"})).structured_content["output"] == agent


async def test_hooks_see_calls_and_may_refuse_them(tmp_path_factory: pytest.TempPathFactory) -> None:
    app = ServerBase(settings=load_settings({"data_dir": tmp_path_factory.mktemp("data"), **UNCOUNTED}))
    seen: list[str] = []

    @app.agent.before_request
    def refuse(request: Any) -> None:
        seen.append(request.url.path)
        if request.headers.get("x-refuse"):
            raise HTTPException(402, "Pay first.")

    @app.agent.finalize_request
    def done(request: Any, response: Any) -> None:
        seen.append(f"done {response.status_code}")

    with serve_inn(app) as inn:
        answer = httpx2.post(
            f"{inn.url}/mcp",
            json=call("echo", {"message": "Hello"}),
            headers={**ACCEPTED, "x-refuse": "yes"},
            trust_env=False,
        )
        assert "Pay first." in answer.text
        assert "You said" not in answer.text
        async with an_mcp_client(inn.url) as client:
            assert not (await client.call_tool("echo", {"message": "Hello"})).is_error
    assert seen == ["/mcp", "done 200", "/mcp", "done 200"]


async def test_a_run_that_waits_for_people_says_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    app = ServerBase(settings=load_settings({"data_dir": tmp_path_factory.mktemp("data"), **UNCOUNTED}))

    def delete(path: str) -> str:
        """Deletes a file."""
        return f"deleted {path}"

    app.agent("careful")(Agent("careful", "test", tools=[delete], requires_approval=["delete"]))
    with serve_inn(app) as inn:
        async with an_mcp_client(inn.url) as client:
            answer = await client.call_tool("careful", {"message": 'call delete {"path": "/a"}'})
    assert not answer.is_error
    told = answer.structured_content
    assert told["status"] == "requires_action"
    (action,) = told["actions"]
    assert (action["name"], action["arguments"]) == ("delete", {"path": "/a"})
    assert f"POST /runs/{told['run_id']}/resume" in answer.content[0].model_dump()["text"]


async def test_who_may_call_and_whose_sessions_they_are(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running_inn(tmp_path_factory.mktemp("data"), force_auth=True) as inn:
        settings = inn.app.kernel.settings
        tokens = [("ann", "user"), ("bob", "user"), ("eve", "read")]
        ann, bob, reader = [(await asyncio.to_thread(a_token, settings, *of)).text for of in tokens]
        body = call("echo", {"message": "Hello"})
        for token, status in ((None, 401), ("null", 401), (reader, 403)):
            headers = {**ACCEPTED, **({"authorization": f"Bearer {token}"} if token else {})}
            refused = httpx2.post(f"{inn.url}/mcp", json=body, headers=headers, trust_env=False)
            assert refused.status_code == status
        async with an_mcp_client(inn.url, token=ann) as hers, an_mcp_client(inn.url, token=bob) as his:
            named = {"message": "My secret is open-sesame.", "session_id": "the-same"}
            await hers.call_tool("echo", named)
            await his.call_tool("echo", {"message": "What is it?", "session_id": "the-same"})
        assert [message["content"] for message in inn.seen[-1]] == ["What is it?"]


def test_modes_without_chat_have_no_tools(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running_inn(tmp_path_factory.mktemp("data"), allowed_modes="health") as inn:
        answer = httpx2.post(f"{inn.url}/mcp", json=call("echo", {}), headers=ACCEPTED, trust_env=False)
        assert answer.status_code == 404
