"""Open streams end when the credential that opened them opens nothing any more."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from innkeeper.core.errors import InnkeeperError, StorageUnavailable
from innkeeper.core.identity import Caller, Owner, Role
from innkeeper.core.tokens import Refusal
from innkeeper.http import vigils
from innkeeper.http.presenting import CREDENTIAL
from innkeeper.http.vigils import CHANGED, ENDED, Vigils
from tests.support.inns import Inn, frames, running_inn
from tests.support.sizes import within
from tests.support.tokens import a_token, with_tokens


@pytest.fixture(scope="module")
def inn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inn]:
    data_dir: Path = tmp_path_factory.mktemp("data")
    with running_inn(data_dir, force_auth=True) as inn:
        yield inn


def revoke(inn: Inn, token: str) -> None:
    with_tokens(inn.app.kernel.settings, lambda tokens: tokens.revoke(token))


def watching(inn: Inn, token: str, session_id: str) -> ClientConnection:
    url = f"{inn.url.replace('http', 'ws')}/api/sessions/{session_id}/events/stream"
    return connect(url, additional_headers={"x-api-key": token})


def test_an_event_stream_ends_within_a_second_of_its_tokens_revocation(inn: Inn) -> None:
    gone, kept = (a_token(inn.app.kernel.settings, "ann").text for _ in range(2))
    with httpx2.Client(base_url=inn.url, headers={"x-api-key": kept}) as http:
        session_id = http.post("/api/sessions", json={}).json()["session_id"]
        with watching(inn, gone, session_id) as mine, watching(inn, kept, session_id) as others:
            revoke(inn, gone)
            began = time.monotonic()
            with pytest.raises(ConnectionClosed) as closed:
                mine.recv(timeout=10)
            assert time.monotonic() - began < within(2, 8), "a second, and what a busy machine takes"
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 4401
            assert "revoked" in closed.value.rcvd.reason
            http.post(f"/api/sessions/{session_id}/events", json={"event_type": "Still", "data": {}})
            assert "Still" in str(others.recv(timeout=10))


def test_who_follows_a_run_is_told_that_its_token_has_been_revoked_and_the_run_goes_on(inn: Inn) -> None:
    token, other = (a_token(inn.app.kernel.settings, "ann").text for _ in range(2))
    performance = inn.conduct("Follow me.")
    with httpx2.Client(base_url=inn.url, headers={"x-api-key": token}, timeout=20) as http:
        wanted = {"input": "Follow me.", "agent_name": "conducted", "background": True}
        run_id = http.post("/chat", json=wanted).json()["run_id"]
        performance.say("one")
        timer = threading.Timer(0.3, revoke, (inn, token))
        timer.start()
        told = frames(http.get(f"/runs/{run_id}/events").text)
        timer.join()
        assert (told[-1].data["type"], told[-1].data["error"]["code"]) == ("error", "UNAUTHORIZED")
        assert http.get(f"/runs/{run_id}").status_code == 401
    performance.end()
    ended = httpx2.get(f"{inn.url}/runs/{run_id}?wait=10", headers={"x-api-key": other}).json()
    assert (ended["status"], ended["output"]) == ("completed", "one")


def test_a_turn_that_streams_is_told_no_more_once_its_token_was_revoked_and_goes_on(inn: Inn) -> None:
    other = a_token(inn.app.kernel.settings, "ann").text
    asked = {
        "/chat/stream": {"input": "native", "agent_name": "conducted"},
        "/v1/chat/completions": {
            "model": "conducted", "stream": True, "on_disconnect": "continue",
            "messages": [{"role": "user", "content": "openai"}],
        },
    }  # fmt: skip
    for prompt, (path, body) in zip(("native", "openai"), asked.items(), strict=True):
        token, performance = a_token(inn.app.kernel.settings, "ann").text, inn.conduct(prompt)
        asking = httpx2.stream("POST", f"{inn.url}{path}", json=body, headers={"x-api-key": token}, timeout=20)
        with asking as answer:
            performance.say("one")
            revoke(inn, token)
            told = answer.read().decode()
        assert "one" in told and '"UNAUTHORIZED"' in told and told.endswith("data: [DONE]\n\n")
        performance.end()
        run = httpx2.get(f"{inn.url}/runs/{answer.headers['x-run-id']}?wait=10", headers={"x-api-key": other}).json()
        assert (run["status"], run["output"]) == ("completed", "one")


def test_a_websocket_for_chat_ends_within_a_second_of_its_tokens_revocation(inn: Inn) -> None:
    idle, busy, other = (a_token(inn.app.kernel.settings, "ann").text for _ in range(3))
    performance = inn.conduct("On a socket.")
    url = f"{inn.url.replace('http', 'ws')}/ws/chat"
    with (
        connect(url, additional_headers={"x-api-key": idle}) as silent,
        connect(url, additional_headers={"x-api-key": busy}) as talking,
    ):
        talking.send(json.dumps({"input": "On a socket.", "agent_name": "conducted"}))
        run_id = json.loads(talking.recv(timeout=10))["run_id"]
        began = time.monotonic()
        for token, socket in ((idle, silent), (busy, talking)):
            revoke(inn, token)
            assert json.loads(socket.recv(timeout=10))["error"]["code"] == "UNAUTHORIZED"
            with pytest.raises(ConnectionClosed) as closed:
                socket.recv(timeout=10)
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 4401
        assert time.monotonic() - began < 4, "two times a second, and what a busy machine takes"
    performance.say("one")
    performance.end()
    run = httpx2.get(f"{inn.url}/runs/{run_id}?wait=10", headers={"x-api-key": other}).json()
    assert (run["status"], run["output"]) == ("completed", "one")


def test_an_admin_hears_all_of_what_anothers_engine_says(inn: Inn) -> None:
    settings = inn.app.kernel.settings
    ann, root = a_token(settings, "ann").text, a_token(settings, "root", "admin").text
    engines, wanted = f"{inn.url}/api/engines", {"engine_type": "conducted"}
    engine_id = httpx2.post(engines, json=wanted, headers={"x-api-key": ann}).json()["engine_id"]
    performance, asked = inn.conduct("For ann."), {"prompt": "For ann.", "stream": True}
    at = f"{engines}/{engine_id}/execute"
    with httpx2.stream("POST", at, json=asked, headers={"x-api-key": root}, timeout=20) as answer:
        timer = threading.Timer(1.2, performance.end)
        timer.start()
        told = answer.read().decode()
    timer.join()
    assert '"status":"completed"' in told and "UNAUTHORIZED" not in told


ADMIN, USER = Caller(Owner("default", "ann"), Role.ADMIN), Caller(Owner("default", "ann"))


class Desk:
    """Says of every credential what the test says, and what streams were told."""

    def __init__(self) -> None:
        self.found: Caller | Refusal | Exception = ADMIN
        self.told: dict[str, str] = {}
        self.heard = asyncio.Event()
        self.vigils = Vigils(self._started)

    async def _started(self) -> Any:
        return SimpleNamespace(credentials=self)

    async def again(self, text: str) -> Caller | Refusal:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    def watch(self, stack: ExitStack, name: str, caller: Caller) -> None:
        def on_end(error: InnkeeperError) -> None:
            self.told[name] = error.message
            self.heard.set()

        stack.enter_context(self.vigils.over({"headers": [], CREDENTIAL: "a-token"}, caller, on_end))


@pytest.fixture
async def desk(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    monkeypatch.setattr(vigils, "_SECONDS", 0.01)
    yield Desk()


async def test_who_is_an_admin_no_more_watches_as_one_no_longer(desk: Desk) -> None:
    with ExitStack() as streams:
        desk.watch(streams, "as an admin", ADMIN)
        desk.found = USER
        await asyncio.wait_for(desk.heard.wait(), 10)
        assert desk.told == {"as an admin": CHANGED}


async def test_a_stream_that_opens_while_others_are_being_ended_is_ended_too(desk: Desk) -> None:
    """Whoever was let in before the revocation may have waited for the store until after it."""
    with ExitStack() as streams:
        desk.watch(streams, "first", ADMIN)
        desk.found = Refusal.REVOKED
        await asyncio.wait_for(desk.heard.wait(), 10)
        desk.heard.clear()
        desk.watch(streams, "second", ADMIN)
        async with asyncio.timeout(10):
            while "second" not in desk.told:
                await desk.heard.wait()
                desk.heard.clear()
        assert desk.told == {"first": ENDED, "second": ENDED}


async def test_the_store_being_away_ends_nothing_and_what_nobody_understands_ends_all(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    with ExitStack() as streams:
        desk.found = StorageUnavailable("It is away.")
        desk.watch(streams, "one", ADMIN)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(desk.heard.wait(), 0.1)
        desk.found = OverflowError("a fault of ours")
        await asyncio.wait_for(desk.heard.wait(), 10)
        assert desk.told == {"one": ENDED}
    assert "streams could not be found out" in caplog.text
