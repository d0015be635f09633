"""Servers that execute clients' code, and clients with a token that may register it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from innkeeper import Agent, Server, ServerBase
from innkeeper.config import Settings, load_settings
from tests.support.databases import a_copy_of, a_migrated_database
from tests.support.servers import serve_app
from tests.support.tokens import a_token

Json = dict[str, Any]


@dataclass
class Coded:
    """A server with the agents `scripted` (the scripted model) and `deaf` (a function without a model)."""

    app: ServerBase
    settings: Settings
    url: str
    tokens: list[str] = field(default_factory=list)

    @contextmanager
    def client(self, **token: Any) -> Iterator[httpx2.Client]:
        """A client with a fresh token; without one where nothing is said of it: the local user."""
        headers = {}
        if token:
            self.tokens.append(a_token(self.settings, **token).text)
            headers["authorization"] = f"Bearer {self.tokens[-1]}"
        with httpx2.Client(base_url=self.url, headers=headers, timeout=90) as client:
            yield client


@contextmanager
def limited(coded: Coded, **limits: float) -> Iterator[None]:
    """Calls of clients' code have these limits meanwhile, in the place of those that they always have."""
    services = coded.app.kernel.house.services
    assert services is not None, "the server is running"
    code = services.control.code
    code._limits, before = replace(code._limits, **limits), code._limits  # type: ignore[arg-type]  # numbers, all of them
    try:
        yield
    finally:
        code._limits = before


def coded_servers(kind: str, folder: Path, postgres: Callable[[], str], **settings: Any) -> Iterator[Coded]:
    """One server over the store of that kind; `postgres()` is the URL of a server with databases."""
    pytest.importorskip("pydantic_monty")
    if kind == "sqlite":
        with running_coded(folder, **settings) as coded:
            yield coded
        return
    server = postgres()
    with (
        a_copy_of(a_migrated_database(server), server) as url,
        running_coded(folder, database_url=url, **settings) as coded,
    ):
        yield coded


@contextmanager
def running_coded(folder: Path, **settings: Any) -> Iterator[Coded]:
    loaded = load_settings({"data_dir": folder, "code_execution": "monty", **settings})
    app = Server(agents=[Agent(name="scripted", model="test", tools=[own])], settings=loaded)

    @app.agent("deaf")
    async def deaf(messages: list[Json]) -> str:
        """Has no model."""
        return "nothing"

    @app.command("Greet")
    async def greet(command: Any) -> str:
        """The application's own."""
        return "the application"

    with serve_app(app) as url:
        yield Coded(app, loaded, url)


def own() -> str:
    """The agent's own tool."""
    return "mine"


@dataclass
class Room:
    """One session, seen by one client."""

    http: httpx2.Client
    id: str

    @classmethod
    def made(cls, http: httpx2.Client, **fields: Any) -> Room:
        answer = http.post("/api/sessions", json=fields)
        answer.raise_for_status()
        return cls(http, answer.json()["session_id"])

    def ask(self, method: str, path: str, **options: Any) -> httpx2.Response:
        return self.http.request(method, f"/api/sessions/{self.id}{path}", **options)

    def register(
        self, source: str, name: str = "tool", parameters: Json | None = None, **fields: Any
    ) -> httpx2.Response:
        body = {"name": name, "parameters": parameters or {}, "function_code": source, **fields}
        return self.ask("POST", "/tools", json=body)

    def execute(self, name: str = "tool", **arguments: Any) -> httpx2.Response:
        return self.ask("POST", f"/tools/{name}/execute", json={"arguments": arguments})

    def handle(self, kind: str, type: str, source: str) -> httpx2.Response:
        return self.ask("POST", f"/handlers/{kind}s", json={f"{kind}_type": type, "handler_function": source})

    def command(self, command_type: str, **parameters: Any) -> Json:
        """A command, once it has ended."""
        body = {"command_type": command_type, "parameters": parameters}
        answer = self.ask("POST", "/commands", params={"wait": 30}, json=body)
        answer.raise_for_status()
        told: Json = answer.json()
        return told

    def publish(self, event_type: str, **data: Any) -> Json:
        answer = self.ask("POST", "/events", json={"event_type": event_type, "data": data})
        answer.raise_for_status()
        told: Json = answer.json()
        return told

    def events(self, event_type: str | None = None) -> list[Json]:
        wanted = {"limit": 200} | ({} if event_type is None else {"event_type": event_type})
        told: list[Json] = self.ask("GET", "/events", params=wanted).json()["events"]
        return told

    def eventually(self, event_type: str, count: int = 1, seconds: float = 20) -> list[Json]:
        """The events of a type, once there are so many."""
        deadline = time.monotonic() + seconds
        while len(found := self.events(event_type)) < count:
            assert time.monotonic() < deadline, self.events()
            time.sleep(0.02)
        return found


def error(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]
