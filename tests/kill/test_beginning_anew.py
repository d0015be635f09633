"""A function that runs in the background and whose process is killed begins anew, and lacks nothing."""

from __future__ import annotations

import httpx2

from tests.support.inns import Json, ended, frames, history
from tests.support.servers import ServerFactory, ServerProcess, innkeeper_command

AGENTS = '''
import asyncio

from innkeeper import register_agent


async def listens(messages, context):
    """Hears one message in its first attempt, and tells in the next one what it knows."""
    if context.attempt == 1:
        yield "I listen. "
    while context.attempt == 1:
        async for message in context.injections():
            yield f"I heard {message.content!r}"
        await asyncio.sleep(0.01)
    yield " | ".join(message["content"] for message in messages)


register_agent("listens", listens)
'''


def test_a_function_that_begins_anew_has_what_was_injected_before(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("inn.py", AGENTS)
    server = innkeeper_server.start(innkeeper_command("inn.py"), readiness="/ready")
    with _client(server) as client:
        asked = {"input": "Plan a trip.", "session_id": "trip", "background": True}
        run_id = client.post("/chat", json=asked).json()["run_id"]
        _wait_for(client, run_id, "I listen")
        receipt = client.post("/inject", json={"message": "By train.", "session_id": "trip"}).json()
        _wait_for(client, run_id, "I heard")
        server.restart()
    with _client(server) as client:
        run = ended(client, run_id)
        assert (run["output"], run["attempt"]) == ("Plan a trip. | By train.", 2)
        told = ["Plan a trip.", "By train.", "Plan a trip. | By train."]
        assert history(client, "trip") == list(zip(("user", "user", "assistant"), told, strict=True))
        log = frames(client.get(f"/runs/{run_id}/events").content)
        assert [frame.seq for frame in log if _is_receipt(frame.data)] == [_seq_of(client, receipt["injection_id"])]


def _client(server: ServerProcess) -> httpx2.Client:
    return httpx2.Client(base_url=server.url, timeout=20, trust_env=False)


def _wait_for(client: httpx2.Client, run_id: str, piece: str) -> None:
    with client.stream("GET", f"/runs/{run_id}/events") as events:
        assert any(piece in line for line in events.iter_lines())


def _is_receipt(event: Json) -> bool:
    return bool(event["type"] == "message_injected")


def _seq_of(client: httpx2.Client, injection_id: str) -> int:
    receipt = client.get(f"/injections/{injection_id}").json()
    assert receipt["status"] == "delivered"
    seq: int = receipt["seq"]
    return seq
