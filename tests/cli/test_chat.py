"""`innkeeper chat`: one message or a conversation, at a real terminal, with a real server."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import Folder
from tests.support.servers import ServerFactory, ServerProcess, clean_environment
from tests.support.terminals import CTRL_C, CTRL_D, Terminal, terminal

AGENTS = """
import asyncio
from innkeeper import Agent, register_agent

def roll(sides: int) -> str:
    return "four"

async def count(messages):
    said = [message["content"] for message in messages if message["role"] == "user"]
    return f"{len(said)}: {said[-1]}"

async def endless(messages):
    yield "on and "
    print("began", flush=True)
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        print("cancelled", flush=True)
        raise

def broken(messages):
    yield "so far"
    raise ValueError("no further")

def steering(messages):
    return "red \\x1b[31malert\\x07"

for agent in (count, endless, broken, steering):
    register_agent(agent.__name__, agent)
register_agent("dice", Agent(name="dice", model="test", tools=[roll]))
"""


@pytest.fixture
def server(innkeeper_server: ServerFactory) -> ServerProcess:
    innkeeper_server.write("mine.py", AGENTS)
    return innkeeper_server("mine.py")


@contextmanager
def chat(server: ServerProcess, *words: str) -> Iterator[Terminal]:
    command = [sys.executable, "-m", "innkeeper", "chat", "--url", server.url, *words]
    environment = clean_environment(server.folder / "data")
    with terminal(command, folder=server.folder, environment=environment) as person:
        yield person


def test_one_message_prints_the_answer_and_nothing_else(server: ServerProcess) -> None:
    folder = Folder(server.folder)
    result = folder.run("chat", "--url", server.url, "--session", "s", "--message", "Hello")
    assert (result.code, result.output, result.error) == (0, "1: Hello\n", "")
    result = folder.run("chat", "count", "--session", "s", given="And again", env={"INNKEEPER_URL": server.url})
    assert (result.code, result.output, result.error) == (0, "2: And again\n", "")


def test_one_message_to_an_agent_that_fails_exits_with_1(server: ServerProcess) -> None:
    result = Folder(server.folder).run("chat", "broken", "--url", server.url, "--message", "Hello")
    assert (result.code, result.output) == (1, "so far\n")
    assert result.error.startswith("Error: ") and "no further" not in result.error


def test_what_an_agent_says_cannot_steer_the_terminal(server: ServerProcess) -> None:
    result = Folder(server.folder).run("chat", "steering", "--url", server.url, "--message", "Hello")
    assert result.output == "red [31malert\n"


def test_a_conversation_goes_on_in_its_session_and_is_resumed_with_its_history(server: ServerProcess) -> None:
    with chat(server) as person:
        person.wait_for(f"Talking to count at {server.url}.")
        person.wait_for("> ")
        person.enter("Hello")
        person.wait_for("1: Hello")
        person.wait_for("> ")
        person.enter("And again")
        person.wait_for("2: And again")
        person.wait_for("> ")
        person.type(CTRL_D)
        person.wait_for("Go on with:\n")
        command = person.wait_for(server.url)
        assert person.wait() == 0
    found = re.fullmatch(r"  innkeeper chat --session (\S+) --url \S+", command)
    assert found is not None
    with chat(server, "--session", found[1]) as person:
        assert "> Hello\n1: Hello\n\n> And again\n2: And again\n" in person.wait_for("2: And again\n")
        person.wait_for("> ")
        person.enter("A third")
        person.wait_for("3: A third")
        person.enter("/new")
        person.wait_for("A new session begins")
        person.enter("First")
        person.wait_for("1: First")
        person.enter("/history")
        person.wait_for("> First\n1: First\n")
        person.enter("/exit")
        person.wait_for("Go on with:")
        assert person.wait() == 0


def test_ctrl_c_cancels_the_run_and_the_conversation_goes_on(server: ServerProcess) -> None:
    with chat(server, "endless") as person:
        person.wait_for("> ")
        person.enter("Hello")
        person.wait_for("on and ")
        person.type(CTRL_C)
        person.wait_for("(cancelled)")
        server.wait_for_log("(cancelled)")
        person.wait_for("> ")
        person.type(CTRL_C)
        person.wait_for("> ")
        person.enter("/exit")
        assert person.wait() == 0


def test_tool_calls_are_shown_as_they_happen(server: ServerProcess) -> None:
    with chat(server, "dice") as person:
        person.wait_for("> ")
        person.enter('call roll {"sides": 6}')
        person.wait_for('· roll {"sides": 6}')
        person.wait_for("roll returned four")


def test_an_agent_that_does_not_exist_is_told_and_the_conversation_goes_on(server: ServerProcess) -> None:
    with chat(server, "nobody") as person:
        person.wait_for("> ")
        person.enter("Hello")
        person.wait_for("Error: Agent 'nobody' does not exist.")
        person.wait_for("> ")


def test_a_server_that_does_not_answer_is_told_with_its_url_and_the_remedy(tmp_path: Path) -> None:
    message = Folder(tmp_path).error("chat", "--url", "http://127.0.0.1:9", "--message", "Hello")
    assert message == (
        "No server answers at http://127.0.0.1:9. Start one with `innkeeper serve`, or name another with --url."
    )
    message = Folder(tmp_path).error("chat", "--url", "127.0.0.1:8000", "--message", "Hello")
    assert message == "'127.0.0.1:8000' is not the URL of a server; write for example http://127.0.0.1:8000."


def test_a_server_of_another_kind_is_told(tmp_path: Path, innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("other.py", "from fastapi import FastAPI\napp = FastAPI()\n")
    other = innkeeper_server.uvicorn("other:app", readiness="/docs")
    message = Folder(tmp_path).error("chat", "--url", other.url, "--message", "Hello")
    assert message == f"{other.url} answered with status 404."
