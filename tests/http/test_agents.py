"""`/agents`: who is served."""

from __future__ import annotations

from pathlib import Path

import httpx2

from innkeeper import Agent, ServerBase
from innkeeper.config import load_settings
from tests.support.inns import bare_app
from tests.support.servers import serve_app


def lookup(key: str) -> str:
    """Looks something up."""
    return key


def test_agents_are_listed_in_order_without_instructions(tmp_path: Path) -> None:
    app = ServerBase(settings=load_settings({"data_dir": tmp_path}))
    told = Agent("told", model="test", instructions="secret-1234", tools=[lookup], max_steps=3, description="Knows.")
    app.agent("told")(told)
    app.agent("plain")(lambda messages: "Hi")
    with serve_app(app) as url:
        listed = httpx2.get(f"{url}/agents")
        one = httpx2.get(f"{url}/agents/told").json()
        unknown = httpx2.get(f"{url}/agents/nobody")
    assert [agent["name"] for agent in listed.json()] == ["told", "plain"]
    assert [agent["is_default"] for agent in listed.json()] == [True, False]
    assert one == listed.json()[0]
    shown = {name: one[name] for name in ("name", "model", "description", "tools", "is_default", "max_steps")}
    assert shown == {
        "name": "told",
        "model": "test",
        "description": "Knows.",
        "tools": ["lookup"],
        "is_default": True,
        "max_steps": 3,
    }
    assert "secret-1234" not in listed.text
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "AGENT_NOT_FOUND")


def test_dynamic_agent_is_found_by_name_and_not_listed(tmp_path: Path) -> None:
    app = ServerBase(settings=load_settings({"data_dir": tmp_path}))
    app.agent(lambda name: {"secret": "open-sesame"} if name.startswith("room-") else None)(lambda messages: "Hi")
    with serve_app(app) as url:
        assert httpx2.get(f"{url}/agents").json() == []
        found = httpx2.get(f"{url}/agents/room-7")
        assert (found.status_code, found.json()["name"]) == (200, "room-7")
        assert "open-sesame" not in found.text
        assert httpx2.get(f"{url}/agents/hall").status_code == 404


def test_server_without_agents_lists_none(tmp_path: Path) -> None:
    with serve_app(bare_app(tmp_path)) as url:
        assert httpx2.get(f"{url}/agents").json() == []
        assert httpx2.get(f"{url}/agents/any").status_code == 503
