"""Served apps: a real server on a real port, with a client, for as long as a block lasts."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import openai
import pytest
from fastapi import FastAPI

from innkeeper import Server, attach
from innkeeper.core.errors import SetupError
from innkeeper.testing import MockAgent, create_test_client, served


def test_a_served_app_answers_any_client_on_its_port_until_the_block_ends() -> None:
    with served(Server(agents=[MockAgent("helper", response="Certainly.")])) as server:
        assert server.client.post("/chat", json={"input": "Help!"}).json()["output"] == "Certainly."
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            answer = client.chat.completions.create(model="helper", messages=[{"role": "user", "content": "Help!"}])
        assert answer.choices[0].message.content == "Certainly."
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{server.url}/live")


def test_state_goes_with_the_server_unless_it_is_given_a_folder(tmp_path: Path) -> None:
    app = Server(agents=[MockAgent()])
    for _ in range(2):
        with served(app) as server:
            assert server.client.get("/sessions").json()["sessions"] == []
            server.client.post("/sessions", json={"id": "s"})
    for expected in ([], ["s"]):
        with served(app, data_dir=str(tmp_path)) as server:
            assert [session["id"] for session in server.client.get("/sessions").json()["sessions"]] == expected
            server.client.post("/sessions", json={"id": "s"})


def test_an_app_may_be_served_after_a_test_client_and_the_other_way_round() -> None:
    app = Server(agents=[MockAgent(response="Yes.")])
    client = create_test_client(app)
    assert client.post("/chat", json={"input": "?"}).json()["output"] == "Yes."
    with served(app) as server:
        assert server.client.post("/chat", json={"input": "?"}).json()["output"] == "Yes."
    with create_test_client(app) as another:
        assert another.post("/chat", json={"input": "?"}).json()["output"] == "Yes."


def test_two_apps_are_served_side_by_side() -> None:
    apps = [Server(agents=[MockAgent(response=text)]) for text in ("One.", "Two.")]
    with served(apps[0]) as one, served(apps[1]) as two:
        told = [server.client.post("/chat", json={"input": "?"}).json()["output"] for server in (one, two)]
    assert told == ["One.", "Two."]


def test_what_keeps_an_app_from_starting_is_told() -> None:
    with pytest.raises(SetupError, match="Innkeeper is not in this app"), served(FastAPI()):
        pass

    @asynccontextmanager
    async def failing(app: FastAPI) -> AsyncIterator[None]:
        if app.title:
            raise OSError("no disk")
        yield

    app = FastAPI(lifespan=failing)
    attach(app)
    with pytest.raises(RuntimeError, match="did not start"), served(app):
        pass


def test_a_failing_test_frees_the_port() -> None:
    with pytest.raises(ZeroDivisionError), served(Server(agents=[MockAgent()])) as server:
        raise ZeroDivisionError
    with socket.create_server(("127.0.0.1", int(server.url.rpartition(":")[2]))):
        pass
