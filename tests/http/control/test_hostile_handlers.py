"""Handlers that do what they should not: each ends its own command, at once, and nothing else."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from innkeeper import NamedCommand, ServerBase
from innkeeper.config import load_settings
from innkeeper.core.errors import CommandFailed
from innkeeper.services.control import IN_HAND
from tests.support.databases import a_copy_of, a_migrated_database
from tests.support.servers import serve_app
from tests.support.sizes import within

Json = dict[str, Any]


class Wordless:
    def __str__(self) -> str:
        raise LookupError("no text")


class Crowd:
    """Counts who is at work at a time."""

    def __init__(self, all: int) -> None:
        self.now = self.most = 0
        self.left = all
        self.has_worked = threading.Event()

    async def work(self, command: NamedCommand) -> None:
        self.now, self.left = self.now + 1, self.left - 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.05)
        self.now -= 1
        if not self.left:
            self.has_worked.set()


def _raises(error: BaseException) -> Any:
    async def fail(command: NamedCommand) -> None:
        raise error

    return fail


def _leave(command: NamedCommand) -> None:
    sys.exit(3)


CROWD = Crowd(800)
_CIRCLE: Json = {}
_CIRCLE["circle"] = _CIRCLE
FAILURES: Json = {
    "Exit": (_raises(SystemExit(3)), "The handler raised SystemExit."),
    "ExitInThread": (_leave, "The handler raised SystemExit."),
    "Interrupt": (_raises(KeyboardInterrupt()), "The handler raised KeyboardInterrupt."),
    "Circle": (_raises(CommandFailed("In circles.", details=_CIRCLE)), "In circles."),
    "Wordless": (_raises(CommandFailed("No words.", details={"a": Wordless()})), "No words."),
    "Long": (_raises(CommandFailed("x" * 1_000_000, details={"a": "x" * 1_000_000})), "x" * 4096),
    "Stop": (_raises(StopIteration()), "The handler failed. The server's log has the reason."),
}


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    app = ServerBase(settings=load_settings({"data_dir": tmp_path_factory.mktemp("data")}))
    for name, (function, _) in FAILURES.items():
        app.command(name)(function)
    app.command("Odd")(lambda command: [Wordless(), 10**5000])
    app.command("Work")(CROWD.work)
    with serve_app(app) as url, httpx2.Client(base_url=url, timeout=30) as client:
        client.post("/api/sessions", json={"session_id": "s"}).raise_for_status()
        yield client


def _ask(http: httpx2.Client, command_type: str) -> Json:
    body = {"command_type": command_type}
    told: Json = http.post("/api/sessions/s/commands", json=body, params={"wait": 20}).json()
    return told


@pytest.mark.parametrize("name", FAILURES)
def test_whatever_a_handler_raises_fails_its_command_alone(http: httpx2.Client, name: str) -> None:
    told = _ask(http, name)
    assert (told["status"], told["error"]["code"]) == ("failed", "COMMAND_EXECUTION_FAILED")
    assert told["error"]["message"] == FAILURES[name][1]
    assert len(str(told["error"]["details"])) < 100
    assert http.get("/health").status_code == 200


def test_whatever_a_handler_returns_is_its_result(http: httpx2.Client) -> None:
    told = _ask(http, "Odd")
    assert (told["status"], told["result"]) == ("completed", ["…", "…"])


def test_no_more_are_executed_at_a_time_however_many_ask_at_once(http: httpx2.Client) -> None:
    batch = {"commands": [{"command_type": "Work"}] * 100}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: http.post("/api/sessions/s/commands/batch", json=batch), range(8)))
    assert {answer.status_code for answer in answers} == {201}
    assert CROWD.has_worked.wait(60)
    assert IN_HAND // 2 < CROWD.most <= IN_HAND


def test_a_handler_hears_that_its_session_was_deleted_elsewhere(postgres_url: str, tmp_path: Path) -> None:
    began, was_stopped = threading.Event(), threading.Event()

    async def sleep(command: NamedCommand) -> None:
        began.set()
        try:
            await asyncio.sleep(60)
        finally:
            was_stopped.set()

    with ExitStack() as stack:
        database, clients = stack.enter_context(a_copy_of(a_migrated_database(postgres_url), postgres_url)), []
        for name in ("one", "other"):
            settings = {"data_dir": tmp_path / name, "database_url": database}
            app = ServerBase(settings=load_settings(settings))
            app.command("Sleep")(sleep)
            url = stack.enter_context(serve_app(app))
            clients.append(stack.enter_context(httpx2.Client(base_url=url, timeout=30)))
        one, other = clients
        one.post("/api/sessions", json={"session_id": "s"}).raise_for_status()
        body = {"command_type": "Sleep", "metadata": {"timeout": 60}}
        assert one.post("/api/sessions/s/commands", json=body).json()["status"] == "executing"
        assert began.wait(10)
        asked = time.monotonic()
        assert other.delete("/api/sessions/s").status_code == 204
        assert was_stopped.wait(40)
        assert time.monotonic() - asked < within(10, 30)
