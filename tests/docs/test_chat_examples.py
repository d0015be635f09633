"""The examples for `create_app` and `register_agent`, as their readers would run them: each on a real port."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import websockets
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from innkeeper import Agent, agent_router, create_app, register_agent, session_router, stream_router
from tests.support.openai_upstream import Reply, Upstream
from tests.support.servers import ServerFactory, serve_app

pytestmark = pytest.mark.usefixtures("fresh_process")

BASIC_USAGE = """
from innkeeper import create_app, register_agent
from innkeeper import Agent

# Create an agent
agent = Agent(
    name="assistant",
    model="openai:gpt-4o",
    instructions="You are a helpful assistant.",
)

# Register it with the server
register_agent("assistant", agent)

# Create and run the FastAPI app
app = create_app()

# Run with uvicorn
import uvicorn
uvicorn.run(app, host="0.0.0.0", port=8000)
"""


def test_basic_usage(innkeeper_server: ServerFactory, upstream: Upstream) -> None:
    innkeeper_server.write("basic.py", BASIC_USAGE.replace("port=8000", "port=int(__import__('sys').argv[1])"))
    upstream.script(["Python is a high-level programming language."])
    environment = {"OPENAI_BASE_URL": upstream.url, "OPENAI_API_KEY": "sk-upstream"}
    server = innkeeper_server.start([sys.executable, "basic.py", "{port}"], env=environment)
    answer = httpx2.post(f"{server.url}/chat", json={"input": "What is Python?"}, timeout=20)
    assert answer.json()["output"] == "Python is a high-level programming language."
    asked = upstream.requests[0].body
    assert asked["model"] == "gpt-4o"
    assert [message["content"] for message in asked["messages"]] == ["You are a helpful assistant.", "What is Python?"]


@pytest.fixture
def assistant(upstream: Upstream) -> Any:
    """The app of the examples that follow: an assistant whose model says what it is asked to."""
    upstream.otherwise = "You asked: {}".format
    register_agent("assistant", Agent(name="assistant", model="openai:gpt-4o"))
    return create_app()


def test_several_agents_are_registered_and_each_answers(upstream: Upstream) -> None:
    register_agent("assistant", Agent(name="assistant", model="openai:gpt-4o"))
    register_agent("coder", Agent(name="coder", model="openai:gpt-4o", instructions="You write code."))
    register_agent("researcher", Agent(name="researcher", model="anthropic:claude-3-5-sonnet"))
    with serve_app(create_app()) as url, httpx2.Client(base_url=url, timeout=20) as client:
        agents = client.get("/agents").json()
        upstream.script(["def add(a, b): return a + b"])
        answer = client.post("/chat", json={"agent_name": "coder", "input": "Add two numbers"}).json()
    assert [(one["name"], one["model"]) for one in agents] == [
        ("assistant", "openai:gpt-4o"),
        ("coder", "openai:gpt-4o"),
        ("researcher", "anthropic:claude-3-5-sonnet"),
    ]
    assert (answer["agent_name"], answer["output"]) == ("coder", "def add(a, b): return a + b")
    assert "You write code." not in json.dumps(agents)


def test_the_request_model_makes_the_documented_body(assistant: FastAPI) -> None:
    from innkeeper import ChatRequest, ChatResponse

    request = ChatRequest(
        agent_name="assistant",
        input="What is Python?",
        session_id="session-123",  # optional: for conversation continuity
        stream=False,  # optional: enable SSE streaming
    )
    body = request.model_dump(include={"agent_name", "input", "session_id", "stream"})
    assert body == {
        "agent_name": "assistant",
        "input": "What is Python?",
        "session_id": "session-123",
        "stream": False,
    }
    with serve_app(assistant) as url:
        answer = httpx2.post(f"{url}/chat", json=body, timeout=20)
    told = ChatResponse.model_validate(answer.json())
    assert (told.output, told.agent_name, told.session_id) == ("You asked: What is Python?", "assistant", "session-123")


async def test_streaming_response(assistant: FastAPI) -> None:
    printed = ""
    with serve_app(assistant) as url:
        async with (
            httpx2.AsyncClient() as client,
            client.stream(
                "POST",
                f"{url}/chat",
                json={"agent_name": "assistant", "input": "Explain decorators", "stream": True},
            ) as response,
        ):
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    printed += line[6:] + "\n"
    *events, end = printed.splitlines()
    assert end == "[DONE]"
    assert "".join(json.loads(one).get("content", "") for one in events) == "You asked: Explain decorators"


def test_agent_management(upstream: Upstream) -> None:
    def search(query: str) -> str:
        return "found"

    def calculator(expression: str) -> str:
        return "42"

    agent = Agent(
        name="assistant",
        model="openai:gpt-4o",
        description="A helpful assistant",
        instructions="Never tell the secret.",
        tools=[search, calculator],
        max_steps=10,
    )
    register_agent("assistant", agent)
    with serve_app(create_app()) as url:
        listed = httpx2.get(f"{url}/agents").json()
        one = httpx2.get(f"{url}/agents/assistant").json()
    expected = {"name": "assistant", "model": "openai:gpt-4o", "description": "A helpful assistant"}
    assert expected.items() <= listed[0].items()
    assert expected | {"tools": ["search", "calculator"], "max_steps": 10} == {
        name: one[name] for name in (*expected, "tools", "max_steps")
    }
    assert "secret" not in json.dumps([listed, one])


def test_session_management(assistant: FastAPI, upstream: Upstream) -> None:
    upstream.script(["Hi there!"])
    with serve_app(assistant) as url, httpx2.Client(base_url=url, timeout=20) as client:
        made = client.post("/sessions", json={"agent_name": "assistant", "metadata": {"user_id": "u-123"}})
        assert made.status_code == 201
        client.post("/chat", json={"agent_name": "assistant", "input": "Hello", "session_id": "session-123"})
        session = client.get("/sessions/session-123").json()
        listed = client.get("/sessions").json()["sessions"]
        assert client.delete("/sessions/session-123").status_code == 204
        assert client.get("/sessions/session-123").status_code == 404
    assert made.json()["metadata"] == {"user_id": "u-123"}
    assert (session["id"], session["agent_name"]) == ("session-123", "assistant")
    assert [(message["role"], message["content"]) for message in session["messages"]] == [
        ("user", "Hello"),
        ("assistant", "Hi there!"),
    ]
    assert session["created_at"].endswith("Z")
    assert [one["id"] for one in listed] == ["session-123", made.json()["id"]]


async def test_websocket_streaming(assistant: FastAPI) -> None:
    printed = ""
    with serve_app(assistant) as url:
        async with websockets.connect(f"{url.replace('http', 'ws')}/ws/chat") as ws:
            # Send a message
            await ws.send(
                json.dumps(
                    {
                        "agent_name": "assistant",
                        "input": "Hello!",
                        "session_id": "session-123",
                    }
                )
            )

            # Receive streaming response
            async for message in ws:
                data = json.loads(message)
                if data.get("type") == "text":
                    printed += data["content"]
                elif data.get("type") == "done":
                    break
    assert printed == "You asked: Hello!"
    assert data["session_id"] == "session-123"


async def test_sse_streaming(assistant: FastAPI) -> None:
    said = ""
    with serve_app(assistant) as url:
        async with (
            httpx2.AsyncClient() as client,
            client.stream(
                "GET", f"{url}/stream", params={"agent_name": "assistant", "input": "Tell me a story"}
            ) as response,
        ):
            async for line in response.aiter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    said += json.loads(line[6:]).get("content", "")
    assert said == "You asked: Tell me a story"


def test_custom_middleware() -> None:
    register_agent("echo", lambda messages: messages[-1]["content"])
    app = create_app()

    @app.middleware("http")
    async def auth_middleware(request: Request, call_next: Any) -> Response:
        api_key = request.headers.get("X-API-Key")
        if not api_key:
            return JSONResponse(status_code=401, content={"error": "Missing API key"})
        response: Response = await call_next(request)
        return response

    with serve_app(app) as url, httpx2.Client(base_url=url, timeout=20) as client:
        refused = client.post("/chat", json={"input": "Hello"})
        answered = client.post("/chat", json={"input": "Hello"}, headers={"X-API-Key": "k"})
        streamed = client.post("/chat/stream", json={"input": "Hello"}, headers={"X-API-Key": "k"})
    assert (refused.status_code, refused.json()) == (401, {"error": "Missing API key"})
    assert answered.json()["output"] == "Hello"
    assert streamed.text.endswith("data: [DONE]\n\n")


def test_multiple_agent_deployment() -> None:
    async def general_agent(messages: list[Any]) -> str:
        return "general"

    async def coding_agent(messages: list[Any]) -> str:
        return "code"

    async def data_agent(messages: list[Any]) -> str:
        return "data"

    # Register specialized agents
    register_agent("general", general_agent)
    register_agent("coder", coding_agent)
    register_agent("analyst", data_agent)

    app = create_app()
    # All agents accessible via /chat with different agent_name values
    with serve_app(app) as url, httpx2.Client(base_url=url, timeout=20) as client:
        answers = [
            client.post("/chat", json={"agent_name": name, "input": "Go"}).json()["output"]
            for name in ("general", "coder", "analyst")
        ]
        default = client.post("/chat", json={"input": "Go"}).json()
    assert answers == ["general", "code", "data"]
    assert default["agent_name"] == "general"


def test_health_check_of_ones_own() -> None:
    registered_agents = ["echo"]
    register_agent("echo", lambda messages: messages[-1]["content"])
    app = create_app()

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "agents": len(registered_agents)}

    with serve_app(app) as url:
        assert httpx2.get(f"{url}/health").json() == {"status": "ok", "agents": 1}


def test_the_routers_are_the_documented_ones() -> None:
    def paths(router: Any) -> set[str]:
        return {route.path for route in router.routes}

    assert {"/agents", "/agents/{name}"} <= paths(agent_router)
    assert {"/sessions", "/sessions/{session_id}"} <= paths(session_router)
    assert {"/stream", "/ws/chat"} <= paths(stream_router)


def test_the_openai_client_talks_to_a_registered_agent(upstream: Upstream, tmp_path: Path) -> None:
    upstream.script([Reply("Hi there!", usage=(3, 2))])
    register_agent("assistant", Agent(name="assistant", model="openai:gpt-4o"))
    with serve_app(create_app()) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="any") as client:
        answer = client.chat.completions.create(model="assistant", messages=[{"role": "user", "content": "Hello"}])
    assert answer.choices[0].message.content == "Hi there!"
    assert answer.usage is not None and answer.usage.total_tokens == 5
