"""Writers: clients of one server who write in every way there is until it dies, and remember what was acknowledged.

What a writer is told is noted in the ledger at once; what it has asked for and was never told is noted as such.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2

WRITERS = 8

AGENTS = '''
import asyncio
import os

from innkeeper import register_agent

begun = os.open("begun.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)


async def counts(messages, context):
    """Counts up to the last word of the last turn, and says what is injected."""
    os.write(begun, f"{context.run_id} {context.attempt}\\n".encode())
    turns = [message["content"] for message in messages if message["content"].startswith("turn ")]
    for number in range(int(turns[-1].split()[-1])):
        yield f"{number} "
        async for message in context.injections():
            yield f"[{message.content}] "
        await asyncio.sleep(0.002)


register_agent("counts", counts)
'''


@dataclass
class Said:
    """A turn, as its client knows it. `run_id` is known once the run was acknowledged; `output` with the answer."""

    text: str
    session_id: str
    surface: str
    run_id: str = ""
    output: str | None = None
    received: bytes = b""


@dataclass
class Injected:
    """An injection that was acknowledged."""

    id: str
    text: str
    session_id: str


@dataclass
class Ledger:
    """What has been said to a server; `appended` maps what was acknowledged without a run to its session."""

    turns: list[Said] = field(default_factory=list)
    appended: dict[str, str] = field(default_factory=dict)
    injected: list[Injected] = field(default_factory=list)
    asked: int = 0
    acknowledged: int = 0

    def next_text(self, kind: str) -> str:
        self.asked += 1
        return f"{kind} {self.asked}"


class Writers:
    """Some clients at once. `sessions` are shared by all, and each has one of its own."""

    def __init__(self, client: httpx2.AsyncClient, ledger: Ledger, sessions: Sequence[str], seed: int) -> None:
        self.ledger = ledger
        self._client = client
        self._shared = sessions
        self._seed = seed
        self._changed = asyncio.Event()
        self._writing: list[asyncio.Task[None]] = []
        self._is_over = False

    def begin(self) -> None:
        self._writing = [asyncio.create_task(self._write(number)) for number in range(WRITERS)]

    async def acknowledged(self, count: int) -> None:
        """Return when that many things more have been acknowledged; the server must be there until then."""
        wanted = self.ledger.acknowledged + count
        while self.ledger.acknowledged < wanted:
            for task in self._writing:
                assert not task.done(), task.exception() or "the server went away by itself"
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), 20)

    async def end(self) -> None:
        """Return when all have been answered for the last time, or have noticed that the server has died."""
        self._is_over = True
        await asyncio.gather(*self._writing)

    def _acknowledge(self) -> None:
        self.ledger.acknowledged += 1
        self._changed.set()

    async def _write(self, number: int) -> None:
        chance = random.Random(self._seed * WRITERS + number)
        own = f"{self._shared[0]}-{number}"
        try:
            await self._client.post("/sessions", json={"id": own})
            while not self._is_over:
                session_id = chance.choice((own, *self._shared))
                write: Callable[[str, random.Random], Awaitable[None]] = chance.choice(
                    (self._chat, self._stream, self._complete, self._append, self._inject, self._background)
                )
                await write(session_id, chance)
        except httpx2.TransportError:
            return

    def _say(self, session_id: str, surface: str, chance: random.Random) -> Said:
        said = Said(self.ledger.next_text("turn") + f" to {chance.randint(1, 12)}", session_id, surface)
        self.ledger.turns.append(said)
        return said

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        """The answer; `None` where a session has too many turns waiting, which is no acknowledgement."""
        answer = await self._client.post(path, json=body)
        if answer.status_code == 429:
            return None
        assert answer.is_success, f"{path}: {answer.status_code} {answer.text}"
        return answer

    async def _chat(self, session_id: str, chance: random.Random) -> None:
        said = self._say(session_id, "chat", chance)
        answer = await self._post("/chat", {"input": said.text, "session_id": session_id})
        if answer is not None:
            said.run_id, said.output = answer.json()["run_id"], answer.json()["output"]
            self._acknowledge()

    async def _background(self, session_id: str, chance: random.Random) -> None:
        said = self._say(session_id, "background", chance)
        answer = await self._post("/chat", {"input": said.text, "session_id": session_id, "background": True})
        if answer is not None:
            said.run_id = answer.json()["run_id"]
            self._acknowledge()

    async def _stream(self, session_id: str, chance: random.Random) -> None:
        said = self._say(session_id, "stream", chance)
        await self._read(said, "/chat/stream", {"input": said.text, "session_id": session_id})

    async def _complete(self, session_id: str, chance: random.Random) -> None:
        said = self._say(session_id, "completions", chance)
        body = {
            "model": "counts",
            "messages": [{"role": "user", "content": said.text}],
            "metadata": {"session_id": session_id},
            "stream": chance.random() < 0.5,
        }
        if body["stream"]:
            await self._read(said, "/v1/chat/completions", body)
            return
        answer = await self._post("/v1/chat/completions", body)
        if answer is not None:
            said.run_id = answer.headers["x-run-id"]
            said.output = answer.json()["choices"][0]["message"]["content"]
            self._acknowledge()

    async def _read(self, said: Said, path: str, body: dict[str, Any]) -> None:
        async with self._client.stream("POST", path, json=body) as answer:
            if answer.status_code == 429:
                return
            assert answer.status_code == 200, answer.status_code
            said.run_id = answer.headers["x-run-id"]
            self._acknowledge()
            async for chunk in answer.aiter_raw():
                said.received += chunk

    async def _append(self, session_id: str, chance: random.Random) -> None:
        text = self.ledger.next_text("note")
        if await self._post(f"/sessions/{session_id}/messages", {"role": "user", "content": text}):
            self.ledger.appended[text] = session_id
            self._acknowledge()

    async def _inject(self, session_id: str, chance: random.Random) -> None:
        text = self.ledger.next_text("hint")
        answer = await self._post("/inject", {"message": text, "session_id": session_id})
        self.ledger.injected.append(Injected(answer.json()["injection_id"], text, session_id))
        self._acknowledge()


@asynccontextmanager
async def writing(url: str, ledger: Ledger, sessions: Sequence[str], seed: int) -> AsyncIterator[Writers]:
    """Writers at work, until you leave or their server is killed."""
    async with httpx2.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
        for session_id in sessions:
            await client.post("/sessions", json={"id": session_id})  # a conflict where it is known already
        writers = Writers(client, ledger, sessions, seed)
        writers.begin()
        yield writers
        await writers.end()
