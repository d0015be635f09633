"""Webhooks of a whole server: it tells of the ends of runs, also of those that it had no time to tell before."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import sqlite3
from contextlib import closing
from typing import Any

import httpx2

from tests.support.receivers import Receiver, Request, silence, status
from tests.support.servers import ServerFactory, ServerProcess

AGENTS = """
from innkeeper import register_agent

async def echo(messages):
    return "You said: " + messages[-1]["content"]

async def failing(messages):
    raise RuntimeError("the secret is open-sesame")

register_agent("echo", echo)
register_agent("failing", failing)
"""
SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()


async def served(factory: ServerFactory, receiver: Receiver) -> ServerProcess:
    """A server that may tell this receiver, and nobody else."""
    factory.write("inn.py", AGENTS)
    env = {"WEBHOOK_ALLOWED_HOSTS": f"http://{receiver.host}", "WEBHOOK_SECRET": SECRET}
    return await asyncio.to_thread(factory, "inn.py", env=env)


async def post(server: ServerProcess, **body: Any) -> httpx2.Response:
    async with httpx2.AsyncClient(base_url=server.url, timeout=20, trust_env=False) as client:
        return await client.post("/chat", json=body)


def told(request: Request) -> Any:
    """What a genuine request says of its run."""
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    content = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + request.body
    signature = base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()
    assert request.headers["webhook-signature"] == f"v1,{signature}"
    body = json.loads(request.body)
    assert body["type"] == "run.ended"
    return body["data"]


async def test_the_end_of_a_run_is_told_whether_or_not_anybody_waits_for_it(
    innkeeper_server: ServerFactory, receiver: Receiver
) -> None:
    server = await served(innkeeper_server, receiver)
    body = {"input": "Hello", "webhook": receiver.url, "metadata": {"order": 7}}
    for background in (True, False):
        answer = await post(server, **body, background=background)
        assert answer.status_code == (202 if background else 200), answer.text
        data = told(await receiver.next())
        assert data["id"] == answer.json()["run_id"]
        assert (data["status"], data["output"], data["background"]) == ("completed", "You said: Hello", background)
        assert data["metadata"] == {"order": 7}
    await post(server, input="Hello", agent_name="failing", webhook=receiver.url)
    failed = told(await receiver.next())
    assert (failed["status"], failed["error"]["code"]) == ("failed", "AGENT_FAILED")
    assert "open-sesame" not in str(failed)
    assert len(receiver.requests) == 3


async def test_whom_the_operator_has_not_listed_is_refused(innkeeper_server: ServerFactory, receiver: Receiver) -> None:
    server = await served(innkeeper_server, receiver)
    for url in ("https://example.com/hook", receiver.url.replace("127.0.0.1", "localhost"), "ftp://127.0.0.1/"):
        refused = await post(server, input="Hello", webhook=url, background=True)
        error = refused.json()["error"]
        assert (refused.status_code, error["param"]) == (422, "webhook")
        assert "webhook_allowed_hosts" in error["message"] or "http" in error["message"]
    assert not receiver.requests


async def test_a_server_that_is_killed_before_it_could_tell_tells_it_when_it_is_back(
    innkeeper_server: ServerFactory, receiver: Receiver
) -> None:
    server = await served(innkeeper_server, receiver)
    receiver.answers += [silence, status(204)]
    run_id = (await post(server, input="Hello", webhook=receiver.url, background=True)).json()["run_id"]
    first = await receiver.next()
    await asyncio.to_thread(server.kill)
    with closing(sqlite3.connect(innkeeper_server.folder / "data" / "innkeeper.db")) as database, database:
        database.execute("UPDATE deliveries SET due_at = 0")  # a minute has gone by
    await asyncio.to_thread(server.start)
    again = await receiver.next()
    assert told(again) == told(first)
    assert told(again)["id"] == run_id
    assert again.headers["webhook-id"] == first.headers["webhook-id"]
    assert again.body == first.body
