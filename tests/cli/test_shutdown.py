"""`POST /api/shutdown`: the server ends as if it had been told to by SIGTERM, however it was started."""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from tests.cli.conftest import Folder
from tests.support.servers import ServerFactory, ServerProcess

SLOW = """
import asyncio, os
from innkeeper import register_agent

async def slow(messages):
    print("began", flush=True)
    await asyncio.sleep(0.8)
    return "the whole answer"

register_agent("slow", slow)
register_agent("process", lambda messages: str(os.getpid()))
"""
INNKEEPER = [sys.executable, "-m", "innkeeper", "serve"]
UVICORN = [sys.executable, "-m", "uvicorn"]
ASGI = {"INNKEEPER_TARGETS": "mine.py"}
MOUNTED = """
import mine
from fastapi import FastAPI
from innkeeper import create_app
app = FastAPI()
app.mount("/inn", create_app())
"""


def an_admin(factory: ServerFactory, env: dict[str, str] | None = None) -> dict[str, str]:
    made = Folder(factory.folder).run("tokens", "create", "--role", "admin", env=env)
    assert made.code == 0, made.error
    return {"authorization": f"Bearer {made.output.strip()}"}


def shut_down(server: ServerProcess, admin: dict[str, str], base: str = "") -> None:
    answer = httpx2.post(f"{server.url}{base}/api/shutdown", headers=admin, timeout=20, trust_env=False)
    assert (answer.status_code, answer.json()) == (202, {"status": "shutting_down"})


def ask(server: ServerProcess, agent: str, base: str = "") -> httpx2.Response:
    body = {"input": "Hello", "agent_name": agent}
    return httpx2.post(f"{server.url}{base}/chat", json=body, timeout=30, trust_env=False)


def processes_of(server: ServerProcess, number: int) -> set[int]:
    found: set[int] = set()
    deadline = time.monotonic() + 40
    while len(found) < number and time.monotonic() < deadline:
        found.add(int(ask(server, "process").json()["output"]))
    assert len(found) == number
    return found


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize(
    ("command", "base"),
    [
        ([*INNKEEPER, "mine.py", "--port", "{port}"], ""),
        ([*INNKEEPER, "mine.py", "--port", "{port}", "--reload"], ""),
        ([*INNKEEPER, "mounted.py", "--port", "{port}"], "/inn"),
        ([*UVICORN, "innkeeper.main:app", "--port", "{port}"], ""),
        ([*UVICORN, "innkeeper.main:app", "--port", "{port}", "--reload"], ""),
    ],
    ids=["serve", "serve --reload", "serve, mounted", "uvicorn", "uvicorn --reload"],
)
def test_the_server_answers_lets_runs_end_and_exits_with_0(
    innkeeper_server: ServerFactory, command: list[str], base: str
) -> None:
    innkeeper_server.write("mine.py", SLOW)
    innkeeper_server.write("mounted.py", MOUNTED)
    server = innkeeper_server.start(command, env=ASGI, readiness=f"{base}/live")
    admin = an_admin(innkeeper_server)
    process = int(ask(server, "process", base).json()["output"])
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(ask, server, "slow", base)
        server.wait_for_log("(began)")
        shut_down(server, admin, base)
        if "--reload" not in command:  # who reloads waits for a second at most
            assert answer.result().json()["output"] == "the whole answer"
    assert server.wait() == 0
    assert is_gone(process)
    assert "Traceback" not in server.log


@pytest.mark.parametrize(
    "command",
    [
        [*INNKEEPER, "mine.py", "--port", "{port}", "--workers", "2"],
        [*UVICORN, "innkeeper.main:app", "--port", "{port}", "--workers", "2"],
    ],
    ids=["serve", "uvicorn"],
)
def test_all_of_several_processes_end(
    innkeeper_server: ServerFactory, postgres_database: str, command: list[str]
) -> None:
    env = {**ASGI, "DATABASE_URL": postgres_database}
    innkeeper_server.write("mine.py", SLOW)
    assert Folder(innkeeper_server.folder).run("migrate", env=env).code == 0
    server = innkeeper_server.start(command, env=env)
    admin = an_admin(innkeeper_server, env)
    processes = processes_of(server, 2)
    shut_down(server, admin)
    assert server.wait() == 0
    assert all(map(is_gone, processes))
    assert "Traceback" not in server.log
