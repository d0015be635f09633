"""A server that is killed between a run's end and its chat log has the row after the next start, once."""

from __future__ import annotations

import httpx2
import pytest

from tests.kill.conftest import Place
from tests.support.servers import ServerFactory
from tests.support.sizes import sized

AGENTS = """
from innkeeper import register_agent

register_agent("echo", lambda messages: "You said: " + messages[-1]["content"])
"""
ROUNDS = sized(20, 3)


@pytest.mark.timeout(sized(600, 120))
def test_every_run_that_was_answered_has_one_row_however_often_the_server_is_killed(
    innkeeper_server: ServerFactory, place: Place
) -> None:
    innkeeper_server.write("inn.py", AGENTS)
    server = innkeeper_server("inn.py", env=place.env)
    answered = []
    for _ in range(ROUNDS):
        with httpx2.Client(base_url=server.url, timeout=20, trust_env=False) as client:
            answered += [client.post("/chat", json={"input": "Hi"}).json()["run_id"] for _ in range(3)]
            server.kill()  # the last row would have been written a fifth of a second later
        server.restart()
    with httpx2.Client(base_url=server.url, timeout=20, trust_env=False) as client:
        found: list[str] = []
        while len(found) < len(answered):
            found = [row["run_id"] for row in client.get("/logs", params={"limit": 200}).json()["logs"]]
        assert sorted(found) == sorted(answered)
        assert client.get("/logs/stats").json()["statistics"]["total_interactions"] == len(answered)
