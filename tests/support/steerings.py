"""Steerings: clients that talk in one session and inject into it from all sides, and what became of all of it.

What was acknowledged is checked against three witnesses: the receipts, the logs of the session's runs, and its
messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from typing import Any, NamedTuple

import httpx2
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.support.inns import frames
from tests.support.replicas import Replicas

Json = dict[str, Any]

LOST = (OSError, httpx2.TransportError, ConnectionClosed, InvalidHandshake)
"""What a client sees of a server that has been killed."""

_AT_ONCE = 10
_numbers = count()


@dataclass
class Sent:
    """An injection as its client knows it; `id` is empty where nobody learned what became of it."""

    content: str
    sent_at: float
    id: str = ""
    acknowledged_at: float = 0.0


class Delivery(NamedTuple):
    """A `message_injected` in a run's log; `place` orders all of those of a session."""

    place: tuple[int, int]
    run_id: str
    seq: int
    injection_id: str
    content: str
    was_deferred: bool


@dataclass
class Talk:
    """One session. `clients` are those of the replicas, in their order."""

    replicas: Replicas
    clients: Sequence[httpx2.AsyncClient]
    session_id: str
    agent: str
    chance: random.Random
    is_socket: bool
    sent: list[Sent] = field(default_factory=list)
    run_id: str = ""
    ends: asyncio.Event = field(default_factory=asyncio.Event)
    _socket: ClientConnection | None = None
    _unanswered: deque[asyncio.Future[str]] = field(default_factory=deque)
    _is_over: bool = False

    async def hold(self, injections: int) -> None:
        """Take turns one after the other, until so many have been injected, most of them at the very end of a run."""
        talking = asyncio.create_task(self._talk())
        at_ends = injections * 3 // 4
        await asyncio.gather(self._inject_anytime(injections - at_ends), self._inject_at_ends(at_ends))
        self._is_over = True
        await talking

    # talking

    async def _talk(self) -> None:
        while not self._is_over:
            with contextlib.suppress(*LOST):
                await (self._talk_on_socket() if self.is_socket else self._take_turn())
            await asyncio.sleep(self.chance.uniform(0, 0.03))

    def _wish(self) -> Json:
        wish = {"turn": next(_numbers), "loops": self.chance.randint(2, 5), "pace": 0.02, "last": self._last_pause()}
        return {"agent_name": self.agent, "session_id": self.session_id, "input": f"work {json.dumps(wish)}"}

    def _last_pause(self) -> float:
        return self.chance.uniform(0, 0.015)

    def _any_client(self) -> httpx2.AsyncClient:
        return self.chance.choice(self.clients)

    async def _take_turn(self) -> None:
        async with self._any_client().stream("POST", "/chat/stream", json=self._wish()) as answer:
            assert answer.status_code == 200, await answer.aread()
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    self._see(json.loads(line[6:]))

    async def _talk_on_socket(self) -> None:
        url = self.replicas.any(self.chance).url.replace("http", "ws", 1)
        async with connect(f"{url}/ws/chat") as socket:
            try:
                while not self._is_over:
                    await socket.send(json.dumps(self._wish()))
                    await self._hear_turn(socket)
            finally:
                self._socket = None
                while self._unanswered:
                    self._unanswered.popleft().cancel()

    async def _hear_turn(self, socket: ClientConnection) -> None:
        while True:
            event = json.loads(await socket.recv())
            if event["type"] == "injected":
                self._unanswered.popleft().set_result(event["injection_id"])
                continue
            self._see(event)
            self._socket = socket
            if event["type"] == "done":
                return

    def _see(self, event: Json) -> None:
        if event["type"] == "run":
            self.run_id = event["run_id"]
        elif event["type"] == "text" and event["content"].endswith("closing"):
            self.ends.set()

    # injecting

    async def _inject_anytime(self, injections: int) -> None:
        for _ in range(injections):
            await asyncio.sleep(self.chance.uniform(0, 0.06))
            await self._inject()

    async def _inject_at_ends(self, injections: int) -> None:
        """A few at once, as close as can be to the end of a run: one that says that it is closing, or is cancelled."""
        while injections > 0:
            together = min(injections, _AT_ONCE)
            injections -= together
            self.ends.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.ends.wait(), 20)
            if self.chance.random() < 0.6:
                await asyncio.sleep(0.05)  # into the next run
                ending = self._cancel()
            else:
                ending = asyncio.sleep(0)
            await asyncio.gather(ending, *(self._inject_after(at * 0.003) for at in range(together)))

    async def _cancel(self) -> None:
        with contextlib.suppress(*LOST):
            answer = await self._any_client().post(f"/runs/{self.run_id}/cancel")
            assert answer.status_code == 202, answer.text

    async def _inject_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._inject()

    async def _inject(self) -> None:
        sent = Sent(f"said {next(_numbers)} in {self.session_id}", time.monotonic())
        self.sent.append(sent)
        with contextlib.suppress(*LOST, asyncio.CancelledError):
            sent.id = await (self._by_socket(sent.content) if self._socket else self._by_request(sent.content))
            sent.acknowledged_at = time.monotonic()

    async def _by_request(self, content: str) -> str:
        has_begun = bool(self.run_id)
        to = {"run_id": self.run_id} if has_begun and self.chance.random() < 0.5 else {"session_id": self.session_id}
        answer = await self._any_client().post("/inject", json={"message": content, **to})
        if answer.status_code == 404 and not has_begun:
            raise ConnectionError("the session has not begun")
        assert answer.status_code == 200, answer.text
        assert answer.json()["status"] == "injected"
        return str(answer.json()["injection_id"])

    async def _by_socket(self, content: str) -> str:
        assert self._socket is not None
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._unanswered.append(answer)
        await self._socket.send(json.dumps({"type": "inject", "message": content}))
        return await answer

    # looking back

    @property
    def acknowledged(self) -> list[Sent]:
        return [sent for sent in self.sent if sent.id]

    async def close(self) -> None:
        """One turn more, which is given whatever still waits."""
        answer = await self.clients[0].post("/chat", json=self._wish())
        assert answer.status_code == 200, answer.text

    async def deliveries(self) -> list[Delivery]:
        """What all runs of the session were given, in order."""
        client = self.clients[-1]
        runs = (await client.get("/runs", params={"session_id": self.session_id, "limit": 200})).json()["runs"]
        found = []
        for number, run in enumerate(reversed(runs)):
            assert run["ended_at"] is not None, run
            log = frames((await client.get(f"/runs/{run['id']}/events")).content)
            assert [frame.seq for frame in log] == list(range(1, len(log) + 1))
            for frame in log:
                if frame.seq is not None and frame.data["type"] == "message_injected":
                    told = frame.data
                    where = (number, frame.seq), run["id"], frame.seq
                    found.append(
                        Delivery(*where, told["injection_id"], told["content"], told.get("was_deferred", False))
                    )
        return found

    async def near_ends(self) -> int:
        """How many were stored within 5 ms of the end of a run."""
        client = self.clients[-1]
        runs = (await client.get("/runs", params={"session_id": self.session_id, "limit": 200})).json()["runs"]
        ends = [datetime.fromisoformat(run["ended_at"]).timestamp() for run in runs]
        receipts = [(await client.get(f"/injections/{sent.id}")).json() for sent in self.acknowledged]
        stored = [datetime.fromisoformat(receipt["created_at"]).timestamp() for receipt in receipts]
        return sum(any(abs(one - end) <= 0.005 for end in ends) for one in stored)

    async def check(self) -> None:
        """Each exactly once, in order, with the right receipt."""
        deliveries = await self.deliveries()
        by_id = {delivery.injection_id: delivery for delivery in deliveries}
        assert len(by_id) == len(deliveries), "none is in two logs, or twice in one"
        said = await self._said()
        for sent in self.acknowledged:
            delivery = by_id[sent.id]
            receipt = (await self.clients[0].get(f"/injections/{sent.id}")).json()
            told = receipt["status"], receipt["run_id"], receipt["seq"], receipt["content"]
            assert told == ("delivered", delivery.run_id, delivery.seq, sent.content)
            assert said.count(sent.content) == 1
        for sent in self.sent:
            assert said.count(sent.content) <= 1, "what was not acknowledged is there once or not at all"
        self._check_order(by_id, said)
        assert [content for content in said if content.startswith("said ")] == [one.content for one in deliveries]

    async def _said(self) -> list[str]:
        session = (await self.clients[-1].get(f"/sessions/{self.session_id}")).json()
        return [message["content"] for message in session["messages"] if message["role"] == "user"]

    def _check_order(self, by_id: dict[str, Delivery], said: list[str]) -> None:
        known = self.acknowledged
        for first in known:
            for second in known:
                if first.acknowledged_at < second.sent_at:
                    assert by_id[first.id].place < by_id[second.id].place, (first, second, by_id)
                    assert said.index(first.content) < said.index(second.content)
