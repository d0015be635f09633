"""Isolated agents, declared in every way in which an agent can be."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from innkeeper import Agent, Server, ServerBase, create_app, register_agent
from innkeeper.apps.declarations import read_agent
from innkeeper.apps.loading import load_app
from innkeeper.apps.targets import locate
from innkeeper.core.errors import SetupError
from innkeeper.testing import create_test_client

Messages = list[dict[str, Any]]
ASKED = "call where {}"


async def where(messages: Messages) -> str:
    """On which thread it runs."""
    return threading.current_thread().name


async def where_tool() -> str:
    """On which thread it runs."""
    return threading.current_thread().name


where_tool.__name__ = "where"


def told(app: Any, agent: str) -> str:
    with create_test_client(app) as client:
        answer = client.post("/chat", json={"agent_name": agent, "input": ASKED})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["output"])


def test_agents_share_the_servers_loop_unless_they_are_isolated() -> None:
    register_agent("shared", where)
    register_agent("own", where, isolated=True)
    app = create_app()
    assert told(app, "own") == "innkeeper-own-loop"
    assert told(app, "shared") != "innkeeper-own-loop"


def test_an_agent_that_is_registered_after_the_app_is_made_is_isolated_too() -> None:
    app = create_app()
    register_agent("late", where, isolated=True)
    assert told(app, "late") == "innkeeper-late-loop"


def test_the_decorator_isolates() -> None:
    app = ServerBase()
    app.agent("own", isolated=True)(where)
    app.agent(lambda name: name == "found", isolated=True)(where)
    assert told(app, "own") == "innkeeper-own-loop"
    assert told(app, "found") == "innkeeper-where-loop"


def test_an_agent_with_a_model_says_so_itself_and_so_may_any_object() -> None:
    class Host:
        name = "host"
        isolated = True

        async def run(self, messages: Messages) -> str:
            return threading.current_thread().name

    app = Server(agents=[Agent("model", model="test", tools=[where_tool], isolated=True), Host()])
    assert told(app, "model") == "where returned innkeeper-model-loop."
    assert told(app, "host") == "innkeeper-host-loop"


def test_a_declaration_isolates(tmp_path: Path) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "tools.py").write_text(
        "import threading\n\n\nasync def where() -> str:\n    return threading.current_thread().name\n"
    )
    (tmp_path / "agents" / "own.yaml").write_text("model: test\ntools: [tools:where]\nisolated: true\n")
    assert told(load_app(locate([], tmp_path), tmp_path), "own") == "where returned innkeeper-own-loop."
    (tmp_path / "agents" / "own.yaml").write_text("model: test\nisolated: sometimes\n")
    with pytest.raises(SetupError, match="isolated"):
        read_agent(tmp_path / "agents" / "own.yaml")


def test_a_file_that_is_served_isolates_what_it_registers(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import threading\nfrom innkeeper import register_agent\n\n\n"
        "async def where(messages):\n    return threading.current_thread().name\n\n\n"
        "register_agent('mine', where, isolated=True)\n"
    )
    assert told(load_app(locate(["mine.py"], tmp_path), tmp_path), "mine") == "innkeeper-mine-loop"
