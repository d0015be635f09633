"""Several processes over one PostgreSQL: to clients they are one server."""

from __future__ import annotations

import os
import signal
import sys
import time

import httpx2

from tests.cli.conftest import Folder
from tests.support.servers import ServerFactory, ServerProcess

COUNTING = """
import os
from innkeeper import register_agent

def counting(messages):
    return f"{os.getpid()} {sum(message['role'] == 'user' for message in messages)}"

register_agent("counting", counting)
"""


def start(factory: ServerFactory, database: str) -> ServerProcess:
    env = {"DATABASE_URL": database}
    assert Folder(factory.folder).run("migrate", env=env).code == 0
    factory.write("mine.py", COUNTING)
    command = [sys.executable, "-m", "innkeeper", "serve", "mine.py", "--port", "{port}", "--workers", "2"]
    server = factory.start(command, env=env)
    server.wait_for_log(r"Workers (2) processes\n")
    return server


def turn(server: ServerProcess, session: str) -> tuple[int, int]:
    """Who answered, on a connection of its own, and the how manieth turn it was to that process."""
    asked = {"input": "Hello", "session_id": session}
    answer = httpx2.post(f"{server.url}/chat", json=asked, timeout=20, trust_env=False)
    assert answer.status_code == 200, answer.text
    process, number = answer.json()["output"].split()
    return int(process), int(number)


def turns_until_both_answered(server: ServerProcess, session: str, begin: int = 1) -> list[int]:
    processes: list[int] = []
    deadline = time.monotonic() + 30
    while len(set(processes)) < 2:
        assert time.monotonic() < deadline, f"one process answers everything:\n{server.log}"
        process, number = turn(server, session)
        processes.append(process)
        assert number == begin + len(processes) - 1
    return processes


def test_a_conversation_goes_on_whichever_process_answers_and_whichever_is_killed(
    innkeeper_server: ServerFactory, postgres_database: str
) -> None:
    server = start(innkeeper_server, postgres_database)
    processes = turns_until_both_answered(server, "s")
    os.kill(processes[0], signal.SIGKILL)
    server.wait_for_log(r"(killed by SIGKILL)")
    after = turns_until_both_answered(server, "s", begin=len(processes) + 1)
    assert processes[0] not in after
    assert server.terminate(timeout=10) == 0
    assert "Traceback" not in server.log
