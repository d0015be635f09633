"""The examples for `ServerBase` and `Server`, as their readers would run them: each on a real port."""

from __future__ import annotations

import sys
import time
from typing import Any

import httpx2
import openai
import pytest
from fastapi.responses import StreamingResponse

import innkeeper
from innkeeper import RequestState, Server, ServerBase, pricing
from innkeeper.testing import MockAgent, create_test_client
from tests.support.apps import completion, content, frames, ledger, streamed
from tests.support.openai_upstream import Reply, Upstream
from tests.support.servers import ServerFactory, serve_app

get_context: Any = innkeeper.get_context  # the examples do not ask whether there is a context
pytestmark = pytest.mark.usefixtures("fresh_process")

BASIC_SERVER = """
from innkeeper import ServerBase

app = ServerBase()

@app.agent("assistant")
async def my_assistant(messages, stream=False):
    # Process messages
    response = f"You said: {messages[-1]['content']}"
    return response

# Add lifecycle hooks
@app.agent.before_request
async def log_request(request):
    print(f"Processing request to {request.url}")

@app.agent.finalize_request
async def log_completion(request, response):
    print("Request completed")

if __name__ == "__main__":
    import uvicorn
    uvicorn.run(app, host="0.0.0.0", port=8000)
"""


def test_basic_server_base_usage(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("basic.py", BASIC_SERVER.replace("port=8000", "port=int(__import__('sys').argv[1])"))
    server = innkeeper_server.start([sys.executable, "basic.py", "{port}"])
    with openai.OpenAI(base_url=f"{server.url}/assistant", api_key="any") as client:
        answer = client.chat.completions.create(model="gpt-4", messages=[{"role": "user", "content": "Hello"}])
    assert answer.choices[0].message.content == "You said: Hello"
    server.terminate()
    assert f"Processing request to {server.url}/assistant/chat/completions" in server.log
    assert server.log.count("Request completed") == 1


def test_lifecycle_hooks_time_a_request() -> None:
    app, seen = ServerBase(), []

    @app.agent("echo")
    async def echo(messages: Any, stream: bool = False) -> str:
        return str(messages[-1]["content"])

    @app.agent.before_request
    async def before_handler(request: Any) -> None:
        # Called before agent processing
        context = get_context()
        context.set("start_time", time.time())

    @app.agent.finalize_request
    async def finalize_handler(request: Any, response: Any) -> None:
        # Called after processing completes (including streaming)
        context = get_context()
        duration = time.time() - context.get("start_time", 0)
        seen.append(duration)

    with serve_app(app) as url:
        assert content(httpx2.post(f"{url}/echo/chat/completions", json=completion())) == "Hello"
    assert len(seen) == 1
    assert 0 <= seen[0] < 5


def test_request_state_and_context(tmp_path: Any) -> None:
    app, kept = ServerBase(), []

    @app.agent("my-agent")
    async def my_agent(messages: Any, stream: bool = False) -> str:
        context = get_context()

        # Store data
        context.set("user_id", "123")

        # Track usage
        context.track_usage(credits=10, reason="Agent processing", metadata={"model": "gpt-4"})

        return "Response"

    @app.agent.finalize_request
    async def look(request: Any, response: Any) -> None:
        context = get_context()
        kept.append((context.get("user_id"), context.usage["total_credits"]))

    with serve_app(app) as url:
        assert content(httpx2.post(f"{url}/my-agent/chat/completions", json=completion())) == "Response"
    assert kept == [("123", 10)]
    assert ledger(tmp_path / "data") == [("10", "Agent processing", {"model": "gpt-4"})]


def test_every_agent_has_four_endpoints() -> None:
    app = Server(agents=[MockAgent("my-agent")])
    with serve_app(app) as url, httpx2.Client(base_url=url) as client:
        endpoints = {"info": "/my-agent", "chat": "/my-agent/chat/completions"}
        info = client.get("/my-agent").json()
        assert (info["agent"], info["endpoints"]) == ("my-agent", endpoints)
        control = client.post("/my-agent").json()
        assert (control["agent"], control["endpoints"]) == ("my-agent", endpoints)
        assert "message" in control
        assert client.get("/my-agent/chat/completions").json() == {
            "endpoint": "/my-agent/chat/completions",
            "agent": "my-agent",
            "openai_compatible": True,
            "supports_streaming": True,
        }
        assert content(client.post("/my-agent/chat/completions", json=completion())) == "This is a mock response."


@pytest.mark.parametrize("kind", ["response", "events", "generator"])
def test_a_streaming_agent_returns_any_kind_of_stream(kind: str) -> None:
    app = ServerBase()

    async def words() -> Any:
        for word in ("one ", "two ", "three"):
            yield word

    class Streamed:
        def stream_events(self) -> Any:
            return words()

    @app.agent("streaming-agent")
    async def streaming_agent(messages: Any, stream: bool = False) -> Any:
        if stream:
            return {"response": lambda: StreamingResponse(words()), "events": Streamed, "generator": words}[kind]()
        return "Non-streaming response"

    with serve_app(app) as url, httpx2.Client(base_url=url) as client:
        plain = client.post("/streaming-agent/chat/completions", json=completion())
        chunks = client.post("/streaming-agent/chat/completions", json=completion(stream=True))
    assert content(plain) == "Non-streaming response"
    assert streamed(chunks.text) == "one two three"


def test_pricing_is_charged_when_the_run_ends(tmp_path: Any) -> None:
    app = ServerBase()

    @app.agent("flat")
    @pricing(credits_per_request=10)
    async def my_agent(messages: Any, stream: bool = False) -> str:
        return "Response"

    @app.agent("by-token")
    @pricing(credits_per_token=0.1, max_credits=100)
    async def token_based_agent(messages: Any, stream: bool = False) -> Any:
        usage = {"prompt_tokens": 25, "completion_tokens": 15, "total_tokens": 40}
        return {"choices": [{"message": {"role": "assistant", "content": "Response"}}], "usage": usage}

    with serve_app(app) as url, httpx2.Client(base_url=url) as client:
        assert content(client.post("/flat/chat/completions", json=completion())) == "Response"
        assert content(client.post("/by-token/chat/completions", json=completion())) == "Response"
    assert ledger(tmp_path / "data") == [("10", "pricing", {}), ("1.5", "pricing", {})]


def test_openai_agents_are_detected_and_run_with_their_tools(upstream: Upstream) -> None:
    from agents import Agent, function_tool

    @function_tool
    def get_weather(city: str) -> str:
        """Get the current weather for a city."""
        return f"The weather in {city} is sunny and 72°F"

    # Create OpenAI agents
    weather_agent = Agent(
        name="weather-agent",
        instructions="You are a helpful weather assistant. Always respond in a friendly tone.",
        model="gpt-4o-mini",
        tools=[get_weather],
    )

    assistant_agent = Agent(
        name="assistant",
        instructions="You are a helpful general assistant. Always respond in haiku form.",
        model="gpt-4o-mini",
    )

    # Create server with OpenAI agents
    app = Server(agents=[weather_agent, assistant_agent])

    upstream.script([Reply(calls=(("get_weather", {"city": "Paris"}),)), "Sunny and 72°F in Paris!"])
    with serve_app(app) as url, httpx2.Client(base_url=url, timeout=20) as client:
        answer = client.post("/weather-agent/chat/completions", json=completion("Weather in Paris?"))
        haiku = client.post("/assistant/chat/completions", json=completion("Write"))
    assert content(answer) == "Sunny and 72°F in Paris!"
    assert content(haiku) == "You said: Write"
    assert "The weather in Paris is sunny" in str(upstream.requests[1].body)


def test_enhanced_server_usage() -> None:
    class MyAgent:
        def __init__(self, name: str) -> None:
            self.name = name

        async def run(self, messages: Any) -> str:
            return f"Agent {self.name}: {messages[-1]['content']}"

        async def run_streamed(self, messages: Any) -> None:
            # Return streaming response
            pass

    # Create agents
    agents = [MyAgent("assistant"), MyAgent("translator"), MyAgent("summarizer")]

    # Create server with automatic agent registration
    app = Server(agents=agents)
    printed = []

    # Add global hooks
    @app.agent.finalize_request
    async def track_usage(request: Any, response: Any) -> None:
        context = get_context()
        if context:
            usage_data = context.usage
            printed.append(f"Request used {usage_data.get('total_credits', 0)} credits")

    with serve_app(app) as url, httpx2.Client(base_url=url) as client:
        plain = client.post("/translator/chat/completions", json=completion())
        chunks = client.post("/summarizer/chat/completions", json=completion(stream=True))
        models = client.get("/v1/models").json()["data"]
    assert content(plain) == "Agent translator: Hello"
    assert streamed(chunks.text) == "Agent summarizer: Hello"
    assert [model["id"] for model in models] == ["assistant", "translator", "summarizer"]
    assert printed == ["Request used 0 credits", "Request used 0 credits"]


def test_dynamic_agent_resolution() -> None:
    available_agents, app = {"helper"}, ServerBase()

    def resolve_agent(agent_name: str) -> Any:
        # Return agent data or False if not found
        if agent_name in available_agents:
            return {"config": "...", "model": "gpt-4"}
        return False

    @app.agent(resolve_agent)
    async def dynamic_handler(messages: Any, stream: bool = False, agent_data: Any = None) -> str:
        # agent_data contains the resolved data
        model = agent_data.get("model", "gpt-3.5-turbo")
        # Process with specific model
        return f"Processed with {model}"

    with serve_app(app) as url, httpx2.Client(base_url=url) as client:
        found = client.post("/helper/chat/completions", json=completion())
        missing = client.post("/nobody/chat/completions", json=completion())
        info = client.get("/helper")
    assert content(found) == "Processed with gpt-4"
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "AGENT_NOT_FOUND")
    assert "config" not in info.text
    assert "gpt-4" not in info.text


def test_the_request_state_has_the_documented_methods() -> None:
    state = RequestState(None)
    state.set("key", "value")
    assert state.get("key") == "value"
    assert state.get("missing", "default") == "default"
    record = state.track_usage(5, "embedding", {"model": "small"})
    assert isinstance(record, str)
    assert state.usage["total_credits"] == 5
    assert state.usage["records"] == [
        {"id": record, "credits": 5, "reason": "embedding", "metadata": {"model": "small"}}
    ]
    assert state.get_duration() >= 0


@pytest.mark.parametrize("stream", [False, True])
def test_functions_of_every_documented_signature(stream: bool) -> None:
    app = ServerBase()

    @app.agent("basic")
    async def basic(messages: Any, stream: bool = False) -> str:
        return f"stream={stream}"

    @app.agent("with-context")
    async def with_context(messages: Any, stream: bool = False, context: Any = None) -> str:
        return f"{context is get_context()} {context.agent_name}"

    @app.agent("with-request")
    async def with_request(messages: Any, stream: bool = False, request: Any = None) -> str:
        return str(request.url.path)

    @app.agent(lambda name: {"owner": name} if name == "with-data" else None)
    async def with_data(messages: Any, stream: bool = False, agent_data: Any = None) -> str:
        return str(agent_data)

    @app.agent(lambda name: {"owner": name} if name == "full" else None)
    async def full(
        messages: Any, stream: bool = False, context: Any = None, request: Any = None, agent_data: Any = None
    ) -> str:
        return f"{context.agent_name} {request.method} {agent_data['owner']}"

    expected = {
        "basic": f"stream={stream}",
        "with-context": "True with-context",
        "with-request": "/with-request/chat/completions",
        "with-data": "{'owner': 'with-data'}",
        "full": "full POST full",
    }
    with serve_app(app) as url, httpx2.Client(base_url=url) as client:
        for name, said in expected.items():
            answer = client.post(f"/{name}/chat/completions", json=completion(stream=stream))
            assert (streamed(answer.text) if stream else content(answer)) == said


def test_streaming_response_format() -> None:
    with serve_app(Server(agents=[MockAgent("mock")])) as url:
        body = completion(stream=True, stream_options={"include_usage": True})
        first, *middle, finish, usage = frames(httpx2.post(f"{url}/mock/chat/completions", json=body).text)
    assert first["object"] == "chat.completion.chunk"
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in middle)
    assert (finish["choices"][0]["delta"], finish["choices"][0]["finish_reason"]) == ({}, "stop")
    assert usage["usage"] == {"prompt_tokens": 25, "completion_tokens": 15, "total_tokens": 40}
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in [first, *middle, finish, usage]}) == 1


def test_usage_is_never_invented() -> None:
    with serve_app(Server(agents=[MockAgent("mock", usage=None)])) as url:
        plain = httpx2.post(f"{url}/mock/chat/completions", json=completion()).json()
        body = completion(stream=True, stream_options={"include_usage": True})
        chunks = frames(httpx2.post(f"{url}/mock/chat/completions", json=body).text)
    assert plain.get("usage") is None
    assert not any(chunk.get("usage") for chunk in chunks)


def test_streaming_lifecycle() -> None:
    app, printed = Server(agents=[MockAgent("mock")]), []

    @app.agent.finalize_request
    async def handle_streaming_completion(request: Any, response: Any) -> None:
        if hasattr(response, "original_response"):
            printed.append(f"Streaming completed for {request.url.path}")

    with serve_app(app) as url, httpx2.Client(base_url=url) as client:
        client.post("/mock/chat/completions", json=completion(stream=True))
        client.post("/mock/chat/completions", json=completion())
    assert printed == ["Streaming completed for /mock/chat/completions"]


def test_invalid_bodies_and_failing_agents_are_answered_and_the_server_goes_on() -> None:
    app = Server(agents=[MockAgent("mock"), MockAgent("broken", error="secret cause")])

    @app.agent.before_request
    async def careless(request: Any) -> None:
        raise RuntimeError("a hook's own trouble")

    with serve_app(app) as url, httpx2.Client(base_url=url) as client:
        invalid = client.post("/mock/chat/completions", json={"model": "gpt-4"})
        failed = client.post("/broken/chat/completions", json=completion())
        cut = client.post("/broken/chat/completions", json=completion(stream=True))
        fine = client.post("/mock/chat/completions", json=completion())
    assert (invalid.status_code, invalid.json()["error"]["param"]) == (422, "messages")
    assert (failed.status_code, failed.json()["error"]["code"]) == (500, "AGENT_FAILED")
    assert frames(cut.text)[-1]["error"]["code"] == "AGENT_FAILED"
    assert "secret cause" not in failed.text + cut.text
    assert content(fine) == "This is a mock response."


def test_testing_with_the_test_client() -> None:
    my_agent = MockAgent("my-agent")

    app = Server(agents=[my_agent])
    client = create_test_client(app)

    # Test non-streaming
    response = client.post(
        "/my-agent/chat/completions",
        json={"model": "gpt-4", "messages": [{"role": "user", "content": "Hello"}], "stream": False},
    )
    assert content(response) == "This is a mock response."

    # Test streaming
    response = client.post(
        "/my-agent/chat/completions",
        json={"model": "gpt-4", "messages": [{"role": "user", "content": "Hello"}], "stream": True},
    )
    assert streamed(response.text) == "This is a mock response."
