"""A whole server, killed in the middle of streams: what it has told is on disk, and everything has an end."""

from __future__ import annotations

import asyncio
import json
import random
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError

from tests.support.inns import frames, said
from tests.support.servers import ServerFactory, ServerProcess

AGENTS = '''
import asyncio
from innkeeper import register_agent

async def counts(messages):
    """Counts up to what it is told, a number every few milliseconds."""
    for number in range(int(messages[-1]["content"].split()[-1])):
        yield f"{number} "
        await asyncio.sleep(0.003)

async def echo(messages):
    return " | ".join(str(message["content"]) for message in messages)

register_agent("counts", counts)
register_agent("echo", echo)
'''
STREAMS = 4
ROUNDS = 5


@pytest.fixture
def server(innkeeper_server: ServerFactory) -> ServerProcess:
    innkeeper_server.write("inn.py", AGENTS)
    return innkeeper_server("inn.py", env={"INNKEEPER_DRAIN_SECONDS": "1"})


@pytest.fixture
def patient_server(innkeeper_server: ServerFactory) -> ServerProcess:
    """Lets runs end that need a while for it on a busy machine."""
    innkeeper_server.write("inn.py", AGENTS)
    return innkeeper_server("inn.py", env={"INNKEEPER_DRAIN_SECONDS": "20"})


class Witness:
    """A client of one stream: what it has received, and whether it was cut off."""

    def __init__(self, session_id: str, count: int) -> None:
        self.session_id = session_id
        self.text = f"Count to {count}"
        self.run_id = ""
        self.received = b""

    async def watch(self, client: httpx2.AsyncClient) -> None:
        body = {"agent_name": "counts", "input": self.text, "session_id": self.session_id}
        try:
            async with client.stream("POST", "/chat/stream", json=body) as answer:
                assert answer.status_code == 200
                self.run_id = answer.headers["x-run-id"]
                async for chunk in answer.aiter_raw():
                    self.received += chunk
        except httpx2.TransportError:
            return

    @property
    def events(self) -> list[tuple[int, object]]:
        """The whole frames that have arrived."""
        whole = self.received[: self.received.rfind(b"\n\n") + 2]
        found = []
        for block in whole.decode().split("\n\n")[:-1]:
            if block.startswith("id: "):
                seq, data = block.split("\n")
                found.append((int(seq[4:]), json.loads(data[6:])))
        return found


async def _kill_in_mid_stream(server: ServerProcess, witnesses: list[Witness], after: float) -> None:
    async with httpx2.AsyncClient(base_url=server.url, timeout=20) as client:
        watching = [asyncio.create_task(witness.watch(client)) for witness in witnesses]
        while not all(witness.received for witness in witnesses):
            await asyncio.sleep(0.005)
        await asyncio.sleep(after)
        server.kill()
        await asyncio.gather(*watching)


def _check(http: httpx2.Client, witness: Witness, spoken: list[str]) -> str:
    """The run that was killed, as it is told after the restart; returns what it had said."""
    run = http.get(f"/runs/{witness.run_id}").json()
    assert run["status"] == "interrupted"
    assert run["error"]["code"] == "INTERRUPTED"
    assert run["input"] == [{"role": "user", "content": witness.text}]
    replay = http.get(f"/runs/{witness.run_id}/events").content
    stored = frames(replay)
    assert [frame.seq for frame in stored] == list(range(1, len(stored) + 1)), "seq has no gap"
    assert [frame.data["type"] for frame in stored][-2:] == ["error", "done"]
    received = witness.events
    assert [(frame.seq, frame.data) for frame in stored[: len(received)]] == received, "all that was told is stored"
    whole = witness.received[: witness.received.rfind(b"\n\n") + 2]
    assert replay.startswith(whole), "the replay continues what was received, byte by byte"
    assert run["output"] == said(stored)
    assert run["output"].split() == [str(number) for number in range(len(run["output"].split()))]
    session = http.get(f"/sessions/{witness.session_id}").json()
    told = [message["content"] for message in session["messages"]]
    assert told == [*spoken, witness.text, *([run["output"]] if run["output"] else [])]
    output: str = run["output"]
    return output


async def test_killed_server_loses_nothing_that_it_has_told(server: ServerProcess) -> None:
    chance = random.Random(20)
    spoken: dict[str, list[str]] = {f"s{number}": [] for number in range(STREAMS)}
    for _ in range(ROUNDS):
        witnesses = [Witness(session_id, 10_000) for session_id in spoken]
        await _kill_in_mid_stream(server, witnesses, chance.uniform(0, 0.5))
        server.restart()
        with httpx2.Client(base_url=server.url, timeout=20) as http:
            for witness in witnesses:
                told = spoken[witness.session_id]
                output = _check(http, witness, told)
                told += [witness.text, *([output] if output else [])]
                following = http.post(
                    "/chat", json={"agent_name": "echo", "input": "What next?", "session_id": witness.session_id}
                ).json()
                assert following["output"] == " | ".join([*told, "What next?"]), "the next turn knows all of it"
                told += ["What next?", following["output"]]
            assert http.get("/runs", params={"status": "running"}).json()["runs"] == []
            assert http.get("/status").json()["active_requests"] == 0
    assert f"of a worker that has died, {STREAMS} runs are ended" in server.log


async def test_turns_that_waited_when_the_server_was_killed_have_an_end(server: ServerProcess) -> None:
    async with httpx2.AsyncClient(base_url=server.url, timeout=20) as client:
        witnesses = [Witness("one", 10_000) for _ in range(3)]
        watching = []
        for witness in witnesses:
            watching.append(asyncio.create_task(witness.watch(client)))
            while not witness.received:
                await asyncio.sleep(0.005)
        server.kill()
        await asyncio.gather(*watching)
    server.restart()
    with httpx2.Client(base_url=server.url, timeout=20) as http:
        statuses = [http.get(f"/runs/{witness.run_id}").json()["status"] for witness in witnesses]
        assert statuses == ["interrupted"] * 3
        messages = http.get("/sessions/one").json()["messages"]
        assert [message["role"] for message in messages if message["content"] == witnesses[0].text] == ["user"]
        assert http.post("/chat", json={"agent_name": "echo", "input": "Hi", "session_id": "one"}).status_code == 200


async def test_stopped_server_lets_short_runs_end(patient_server: ServerProcess) -> None:
    witness = Witness("short", 100)
    async with httpx2.AsyncClient(base_url=patient_server.url, timeout=20) as client:
        watching = asyncio.create_task(witness.watch(client))
        while not witness.received:
            await asyncio.sleep(0.005)
        patient_server.send_signal(signal.SIGTERM)
        await watching
    found = frames(witness.received)
    assert found[-1].data["status"] == "completed"
    assert said(found) == "".join(f"{number} " for number in range(100))
    assert await asyncio.to_thread(patient_server.wait) == 0


async def test_stopped_server_tells_long_runs_that_they_were_interrupted(server: ServerProcess) -> None:
    witnesses = [Witness(f"long{number}", 100_000) for number in range(STREAMS)]
    async with httpx2.AsyncClient(base_url=server.url, timeout=20) as client:
        watching = [asyncio.create_task(witness.watch(client)) for witness in witnesses]
        while not all(witness.received for witness in witnesses):
            await asyncio.sleep(0.005)
        server.send_signal(signal.SIGTERM)
        await asyncio.gather(*watching)
    for witness in witnesses:
        *found, error, done, farewell = frames(witness.received)
        assert error.data["error"]["code"] == "INTERRUPTED"
        assert (done.data["type"], done.data["status"], done.data["output"]) == ("done", "interrupted", said(found))
        assert farewell.data == {"type": "shutdown", "run_id": witness.run_id, "cursor": done.seq}
    assert await asyncio.to_thread(server.wait) == 0
    server.start()
    with httpx2.Client(base_url=server.url, timeout=20) as http:
        for witness in witnesses:
            kept = [block for block in witness.received.split(b"\n\n") if b'"type":"shutdown"' not in block]
            assert http.get(f"/runs/{witness.run_id}/events").content == b"\n\n".join(kept)


@pytest.mark.parametrize(
    ("kind", "count", "status"), [("patient_server", 100, "completed"), ("server", 100_000, "interrupted")]
)
async def test_stopped_server_lets_websockets_hear_how_their_runs_end(
    request: pytest.FixtureRequest, kind: str, count: int, status: str
) -> None:
    server: ServerProcess = request.getfixturevalue(kind)
    async with connect(f"{server.url.replace('http', 'ws', 1)}/ws/chat") as socket:
        await socket.send(json.dumps({"agent_name": "counts", "input": f"Count to {count}"}))
        await socket.recv()
        server.send_signal(signal.SIGTERM)
        found = [json.loads(message) async for message in until_closed(socket)]
    done, farewell = found[-2:]
    assert (done["type"], done["status"]) == ("done", status)
    assert done["output"] == "".join(event["content"] for event in found if event["type"] == "text")
    assert farewell == {"type": "shutdown", "run_id": done["run_id"], "cursor": len(found)}
    assert await asyncio.to_thread(server.wait) == 0


async def until_closed(socket: ClientConnection) -> AsyncIterator[str | bytes]:
    with suppress(ConnectionClosedError):
        async for message in socket:
            yield message


def test_stopped_server_starts_again_where_it_was(server: ServerProcess, tmp_path: Path) -> None:
    with httpx2.Client(base_url=server.url, timeout=20) as http:
        for text in ("One", "Two"):
            http.post("/chat", json={"agent_name": "echo", "input": text, "session_id": "kept"})
        before = http.get("/sessions/kept").json()
    assert server.terminate() == 0
    server.start()
    with httpx2.Client(base_url=server.url, timeout=20) as http:
        assert http.get("/sessions/kept").json() == before
        answer = http.post("/chat", json={"agent_name": "echo", "input": "Three", "session_id": "kept"}).json()
    assert answer["output"] == "One | One | Two | One | One | Two | Three"
