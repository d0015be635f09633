"""The bus in Python: handlers and events of this process, and the two columns of the migration guide."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import BaseModel

from innkeeper import (
    Command,
    DummyEngineCommand,
    DummyEngineStatusUpdate,
    Event,
    NamedCommand,
    NamedEvent,
    ServerBase,
    bus,
    get_context,
)
from innkeeper.config import load_settings
from innkeeper.core.errors import CommandFailed, HandlerConflict, HandlerNotFound, Invalid, SessionNotFound, SetupError
from innkeeper.testing import create_test_client


@dataclass
class Greet(Command):
    name: str


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[ServerBase]:
    """An app that is served on this event loop."""
    app = ServerBase(settings=load_settings({"data_dir": tmp_path}))
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def http(app: ServerBase) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app=app, client=("testclient", 1))
    async with httpx2.AsyncClient(transport=transport, base_url="http://testserver") as client:
        yield client


async def test_a_command_goes_to_its_handler_and_back(app: ServerBase) -> None:
    @app.command(Greet)
    async def greet(command: Greet) -> dict[str, str]:
        return {"hello": command.name, "in": command.session_id}

    assert await bus.execute(Greet("Ann")) == {"hello": "Ann", "in": "bus"}
    assert await bus.execute(NamedCommand("Greet", {"name": "Bob"})) == {"hello": "Bob", "in": "bus"}


async def test_the_column_before_runs_as_it_is_written(app: ServerBase, http: httpx2.AsyncClient) -> None:
    session_id = (await http.post("/api/sessions", json={})).json()["session_id"]
    heard: list[str] = []

    async def handle_command(command: DummyEngineCommand) -> str:
        return f"mine: {command.prompt}"

    async def handle_update(event: DummyEngineStatusUpdate) -> None:
        heard.append(event.status)

    bus.register_command_handler(DummyEngineCommand, handle_command, session_id)
    bus.register_event_handler(DummyEngineStatusUpdate, handle_update, session_id)
    try:
        assert await bus.execute(DummyEngineCommand(prompt="Hello"), session_id) == "mine: Hello"
        result = await bus.execute(DummyEngineCommand(prompt="Hello"))
        assert result == "Dummy response to: Hello"  # in another session nobody has taken its place
        await bus.publish(DummyEngineStatusUpdate(status="processing"), session_id)
        told = await http.get(f"/api/sessions/{session_id}/events", params={"event_type": "DummyEngineStatusUpdate"})
        assert [event["data"] for event in told.json()["events"]] == [{"status": "processing"}]
    finally:
        assert bus.unregister_command_handler(DummyEngineCommand, session_id)
        assert bus.unregister_event_handlers(DummyEngineStatusUpdate, session_id)
    assert not bus.unregister_command_handler(DummyEngineCommand, session_id)


async def test_a_handler_of_the_session_comes_before_that_of_the_application(app: ServerBase) -> None:
    app.command("Who")(lambda command: "application")
    app.command("Who", session_id="bus")(lambda command: "session")
    assert await bus.execute(NamedCommand("Who")) == "session"
    with pytest.raises(HandlerConflict, match="There is a handler for Who in this application already"):
        app.command("Who")(lambda command: "another")
    with pytest.raises(HandlerConflict, match="in session 'bus' already"):
        app.command("Who", session_id="bus")(lambda command: "another")


async def test_what_goes_wrong_is_raised(app: ServerBase) -> None:
    @app.command("Fail")
    async def fail(command: NamedCommand) -> None:
        raise RuntimeError("a secret")

    with pytest.raises(CommandFailed, match="Fail: The handler failed") as failed:
        await bus.execute(NamedCommand("Fail"))
    assert failed.value.details["status"] == "failed"
    with pytest.raises(HandlerNotFound, match="Nope"):
        await bus.execute(NamedCommand("Nope"))
    with pytest.raises(SessionNotFound):
        await bus.execute(NamedCommand("Fail"), "no-session")
    with pytest.raises(Invalid, match="Make a subclass"):
        await bus.publish(Event())
    with pytest.raises(Invalid, match="1 to 128 letters"):
        app.command("no type")(lambda command: None)


async def test_code_that_names_its_session_means_that_of_its_end_user(
    app: ServerBase, http: httpx2.AsyncClient
) -> None:
    @app.agent("namer")
    async def namer(messages: list[dict[str, Any]]) -> str:
        context = get_context()
        assert context is not None
        await bus.publish(NamedEvent("Thought", {"of": context.user_id}), context.session_id)
        return "published"

    for user in ("ada", "cyd", "ada"):
        (await http.post("/chat", json={"input": "it", "session_id": "same", "user_id": user})).raise_for_status()
    for user, times in (("ada", 2), ("cyd", 1)):
        asked = {"event_type": "Thought", "user_id": user}
        told = (await http.get("/api/sessions/same/events", params=asked)).json()["events"]
        assert [event["data"] for event in told] == [{"of": user}] * times


async def test_an_agent_publishes_into_the_session_of_its_run(app: ServerBase, http: httpx2.AsyncClient) -> None:
    @app.agent("teller")
    async def teller(messages: list[dict[str, Any]]) -> str:
        await bus.publish(NamedEvent("Thought", {"of": messages[-1]["content"]}))
        return str(await bus.execute(DummyEngineCommand("x")))

    answer = await http.post("/chat", json={"input": "it", "session_id": "told"})
    assert answer.json()["output"] == "Dummy response to: x"
    events = (await http.get("/api/sessions/told/events")).json()["events"]
    assert [event["event_type"] for event in events] == [
        "run_started",
        "Thought",
        "command_accepted",
        "DummyEngineStatusUpdate",
        "DummyEngineStatusUpdate",
        "command_ended",
        "run_ended",
    ]


async def test_without_an_app_the_bus_says_what_is_missing() -> None:
    with pytest.raises(SetupError, match="No app of Innkeeper is served on this event loop"):
        await bus.publish(NamedEvent("T"))


def test_handlers_of_the_process_serve_every_app(tmp_path: Path) -> None:
    async def handle(command: NamedCommand) -> str:
        return "here"

    bus.register_command_handler("Everywhere", handle)
    try:
        for name in ("a", "b"):
            with create_test_client(ServerBase(settings=load_settings({"data_dir": tmp_path / name}))) as client:
                session = client.post("/api/sessions", json={}).json()["session_id"]
                told = client.post(
                    f"/api/sessions/{session}/commands?wait=5", json={"command_type": "Everywhere"}
                ).json()
                assert told["result"] == "here"
    finally:
        bus.unregister_command_handler("Everywhere")


@pytest.mark.parametrize("timeout", [0, 0.5, -1.0, 601, float("nan"), float("inf")])
async def test_a_timeout_out_of_range_is_named(app: ServerBase, timeout: float) -> None:
    with pytest.raises(Invalid, match="timeout: must be 1 to 600 seconds") as refused:
        await bus.execute(DummyEngineCommand("x"), timeout=timeout)
    assert refused.value.param == "timeout"


@dataclass
class Labelled(Command):
    metadata: str = ""  # type: ignore[assignment]  # as a program without a type checker may have it
    session_id: str = ""


async def test_a_field_that_is_called_as_a_fact_is_keeps_what_was_said(app: ServerBase) -> None:
    app.command(Labelled)(lambda command: [command.metadata, command.session_id, bool(command.command_id)])
    assert await bus.execute(Labelled("mine", "theirs")) == ["mine", "theirs", True]


async def test_a_handler_is_given_its_own_copy_as_json_has_it(app: ServerBase) -> None:
    said = {"list": [1], "set": {1}, "tuple": (1, 2)}

    @app.command("Change")
    async def change(command: NamedCommand) -> list[Any]:
        command.parameters["list"].append(2)
        return [command.parameters["set"], command.parameters["tuple"]]

    assert await bus.execute(NamedCommand("Change", said)) == ["{1}", [1, 2]]
    assert said["list"] == [1]


@dataclass
class Greeting:
    text: str
    to: list[Greet]


async def test_dataclasses_and_models_are_told_as_what_is_in_them(app: ServerBase) -> None:
    class Model(BaseModel):
        at: int

    heard: list[Any] = []

    @app.command("Nested")
    async def nested(command: NamedCommand) -> list[Any]:
        heard.append(command.said)
        return [Greeting("Hi", [Greet("Ann")]), Model(at=1)]

    told = [{"text": "Hi", "to": [{"name": "Ann"}]}, {"at": 1}]
    assert await bus.execute(NamedCommand("Nested", {"said": {"x": Greet("Bob")}})) == told
    assert heard == [{"x": {"name": "Bob"}}]


async def test_a_handler_sees_nothing_of_the_run_that_asked(app: ServerBase, http: httpx2.AsyncClient) -> None:
    app.command("Where")(lambda command: [command.session_id, get_context() is None])

    @app.agent("asking")
    async def asking(messages: list[dict[str, Any]]) -> str:
        return str(await bus.execute(NamedCommand("Where")))

    answer = await http.post("/chat", json={"input": "it", "session_id": "seen"})
    assert answer.json()["output"] == "['seen', True]"


async def test_what_is_under_way_when_the_server_stops_may_ask_for_more(
    app: ServerBase, http: httpx2.AsyncClient
) -> None:
    began, gate = asyncio.Semaphore(0), asyncio.Event()

    @app.command("Outer")
    async def outer(command: NamedCommand) -> Any:
        began.release()
        await gate.wait()
        return await bus.execute(DummyEngineCommand("of a handler"))

    @app.agent("asking")
    async def asking(messages: list[dict[str, Any]]) -> str:
        began.release()
        await gate.wait()
        return str(await bus.execute(DummyEngineCommand("of a run")))

    executing = asyncio.create_task(bus.execute(NamedCommand("Outer")))
    chatting = asyncio.create_task(http.post("/chat", json={"input": "it"}))
    await began.acquire()
    await began.acquire()
    draining = asyncio.create_task(app.kernel.drain())
    while (await http.get("/status")).json()["status"] != "draining":
        await asyncio.sleep(0)
    answer = await http.post("/api/sessions/bus/commands", json={"command_type": "Outer"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "SHUTTING_DOWN")
    gate.set()
    assert await executing == "Dummy response to: of a handler"
    assert (await chatting).json()["output"] == "Dummy response to: of a run"
    await draining


async def test_an_isolated_agent_and_a_thread_reach_the_app_from_their_own_loops(
    app: ServerBase, http: httpx2.AsyncClient
) -> None:
    app.command("Where")(lambda command: command.session_id)
    app.command("InThread")(lambda command: asyncio.run(bus.execute(NamedCommand("Where"))))

    @app.agent("apart", isolated=True)
    async def apart(messages: list[dict[str, Any]]) -> str:
        await bus.publish(NamedEvent("Thought"))
        return str(await bus.execute(NamedCommand("InThread")))

    answer = await http.post("/chat", json={"input": "it", "session_id": "far"})
    assert answer.json()["output"] == "far"
    events = (await http.get("/api/sessions/far/events", params={"event_type": "Thought"})).json()
    assert (events["total"], events["events"][0]["source"]) == (1, "handler")


async def test_what_was_asked_is_done_even_if_whoever_asked_goes_away(
    app: ServerBase, http: httpx2.AsyncClient
) -> None:
    heard: list[str] = []
    app.command("Do")(lambda command: heard.append(f"command {command.number}"))
    app.event("Done")(lambda event: heard.append(f"event {event.number}"))
    await bus.publish(NamedEvent("Warm"))
    for number in range(20):
        for asking in (
            bus.execute(NamedCommand("Do", {"number": number})),
            bus.publish(NamedEvent("Done", {"number": number})),
        ):
            task = asyncio.ensure_future(asking)
            for _ in range(number):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
    async with asyncio.timeout(30):
        while True:
            events = (await http.get("/api/sessions/bus/events", params={"limit": 200})).json()["events"]
            accepted = [one for one in events if one["event_type"] in ("command_accepted", "Done")]
            if accepted and len(heard) == len(accepted):
                return
            await asyncio.sleep(0.05)
