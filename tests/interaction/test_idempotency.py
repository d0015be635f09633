"""Crowds of identical requests, at every process at once: one effect a key, and answers equal byte for byte."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack

import httpx2
import pytest

from tests.support.replicas import STORES, Json, Replicas, client_of, ended, running_replicas
from tests.support.sizes import sized

AGENTS = '''
import asyncio
from innkeeper import register_agent

async def notes(messages):
    """Tells the server's log that it ran, and takes its time."""
    print("ran for", messages[-1]["content"], flush=True)
    yield "Noted: "
    await asyncio.sleep(0.02)
    yield messages[-1]["content"]

register_agent("notes", notes)
'''
KEYS = sized(50, 4)
REQUESTS = sized(64, 16)


def native(text: str, **extra: object) -> Json:
    return {"input": text, **extra}


def openai(text: str, **extra: object) -> Json:
    return {"model": "notes", "messages": [{"role": "user", "content": text}], **extra}


RUNS: Mapping[str, tuple[str, Json]] = {
    "plain": ("/chat", native("TEXT")),
    "stream": ("/chat/stream", native("TEXT")),
    "completion": ("/v1/chat/completions", openai("TEXT")),
    "chunks": ("/notes/chat/completions", openai("TEXT", stream=True)),
    "background": ("/chat", native("TEXT", background=True)),
}


@pytest.fixture(scope="module", params=STORES)
def replicas(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    with running_replicas(request.param, tmp_path_factory.mktemp("inn"), request, AGENTS) as running:
        yield running


class Crowd:
    """Clients of every process, who all ask the same."""

    def __init__(self, clients: list[httpx2.AsyncClient]) -> None:
        self._clients = clients

    async def ask(self, path: str, body: Json, key: str) -> list[httpx2.Response]:
        headers = {"idempotency-key": key}
        return await asyncio.gather(
            *(
                self._clients[number % len(self._clients)].post(path, json=body, headers=headers)
                for number in range(REQUESTS)
            )
        )

    async def ask_all(self, path: str, body: Json, name: str) -> list[list[httpx2.Response]]:
        """The answers to each key; `TEXT` in the body is the key's own."""
        found: list[list[httpx2.Response]] = []
        for number in range(KEYS):
            key = f"{name} {number}"
            found.append(await self.ask(path, _filled(body, key), key))
        return found


def _filled(body: object, text: str) -> Json:
    def fill(value: object) -> object:
        if isinstance(value, dict):
            return {name: fill(item) for name, item in value.items()}
        if isinstance(value, list):
            return [fill(item) for item in value]
        return text if value == "TEXT" else value

    filled = fill(body)
    assert isinstance(filled, dict)
    return filled


def _assert_one_answer_a_key(answers: list[list[httpx2.Response]], status: int) -> None:
    for one in answers:
        assert {answer.status_code for answer in one} == {status}, [answer.text for answer in one]
        assert len({answer.content for answer in one}) == 1
        assert sum("idempotent-replayed" not in answer.headers for answer in one) == 1
    assert len({one[0].content for one in answers}) == KEYS


@pytest.mark.parametrize("kind", RUNS)
async def test_a_crowd_of_identical_turns_is_one_run_a_key(replicas: Replicas, kind: str) -> None:
    path, body = RUNS[kind]
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client_of(server)) for server in replicas.servers]
        answers = await Crowd(clients).ask_all(path, body, kind)
        _assert_one_answer_a_key(answers, 202 if kind == "background" else 200)
        runs = {one[0].headers["x-run-id"] for one in answers}
        assert len(runs) == KEYS
        for run_id in runs:
            assert (await ended(clients[0], run_id))["output"].startswith("Noted: ")
    told = Counter(line for server in replicas.servers for line in server.log.splitlines() if line.startswith("ran"))
    assert {told[f"ran for {kind} {number}"] for number in range(KEYS)} == {1}, "each agent ran once"


async def test_a_crowd_of_identical_injections_is_one_message_a_key(replicas: Replicas) -> None:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client_of(server)) for server in replicas.servers]
        await clients[0].post("/sessions", json={"id": "injected"})
        answers = await Crowd(clients).ask_all("/inject", {"message": "TEXT", "session_id": "injected"}, "inject")
        _assert_one_answer_a_key(answers, 200)
        await clients[-1].post("/chat", json={"input": "Go", "session_id": "injected"})
        session = (await clients[0].get("/sessions/injected")).json()
    said = [message["content"] for message in session["messages"]]
    assert said == [*(f"inject {number}" for number in range(KEYS)), "Go", "Noted: Go"]


async def test_a_crowd_of_identical_sessions_and_messages_is_one_a_key(replicas: Replicas) -> None:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client_of(server)) for server in replicas.servers]
        made = await Crowd(clients).ask_all("/sessions", {"title": "TEXT", "id": "TEXT"}, "session")
        _assert_one_answer_a_key(made, 201)
        added = await Crowd(clients).ask_all(
            "/sessions/session 0/messages", {"role": "user", "content": "TEXT"}, "message"
        )
        _assert_one_answer_a_key(added, 201)
        messages = (await clients[0].get("/sessions/session 0/messages", params={"limit": 200})).json()["messages"]
    assert [one["content"] for one in messages] == [f"message {number}" for number in range(KEYS)]
    assert [one["position"] for one in messages] == list(range(1, KEYS + 1))
