"""Runs that wait for people on a server that is killed: they wait on, go on as was decided, and do nothing twice."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from innkeeper.services.assembling import UNKNOWN
from tests.kill.conftest import Place
from tests.support.inns import Json, frames
from tests.support.inspections import faults_of_log
from tests.support.servers import ServerFactory, ServerProcess, innkeeper_command

AGENTS = '''
import asyncio
import os

from innkeeper import Agent, register_agent, tool

effects = os.open(os.environ["EFFECTS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


@tool(requires_approval=True)
async def delete(path: str, seconds: float = 0) -> str:
    """Deletes a file."""
    os.write(effects, f"{path}\\n".encode())
    await asyncio.sleep(seconds)
    return f"deleted {path}"


register_agent("cleaner", Agent(name="cleaner", model="test", tools=[delete]))
'''


@pytest.fixture
def server(innkeeper_server: ServerFactory, place: Place, tmp_path: Path) -> ServerProcess:
    innkeeper_server.write("inn.py", AGENTS)
    env = {**place.env, "EFFECTS": str(tmp_path / "effects.log")}
    return innkeeper_server.start(innkeeper_command("inn.py"), env=env, readiness="/ready")


@pytest.mark.parametrize("place", ["sqlite", "postgres"], indirect=True)
@pytest.mark.timeout(120)
def test_a_run_that_waits_survives_its_server_and_goes_on_as_was_decided(server: ServerProcess, tmp_path: Path) -> None:
    with httpx2.Client(base_url=server.url, timeout=30, trust_env=False) as client:
        decided = _paused(client, 'call delete {"path": "a"}\ncall delete {"path": "b"}')
        cut_off = _paused(client, 'call delete {"path": "slow", "seconds": 60}')
        server.kill()
        server.start()
        first, second = (action["id"] for action in _run(client, decided)["actions"])
        approval = {"id": first, "decision": "approve", "arguments": {"path": "edited"}}
        answers = [approval, {"id": second, "decision": "deny", "message": "Keep it."}]
        _resume(client, decided, {"answers": answers, "background": True})
        ended = client.get(f"/runs/{decided}", params={"wait": 20}).json()
        assert (ended["status"], ended["error"]) == ("completed", None)
        assert _results(client, ended) == {first: "deleted edited", second: "Keep it."}

        _resume(client, cut_off, {"decision": "approve", "background": True})
        effects = tmp_path / "effects.log"
        _until(lambda: "slow" in effects.read_text())
        server.kill()
        server.start()
        ended = client.get(f"/runs/{cut_off}", params={"wait": 30}).json()
        assert (ended["status"], ended["attempt"]) == ("completed", 2)
        assert list(_results(client, ended).values()) == [UNKNOWN]
        assert sorted(effects.read_text().split()) == ["edited", "slow"]


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_a_run_somebody_waited_for_that_goes_on_as_its_server_dies_is_interrupted(
    server: ServerProcess, tmp_path: Path
) -> None:
    with httpx2.Client(base_url=server.url, timeout=30, trust_env=False) as client:
        asked = {"agent_name": "cleaner", "input": 'call delete {"path": "slow", "seconds": 60}'}
        run_id = client.post("/chat", json=asked).json()["run_id"]
        _resume(client, run_id, {"decision": "approve", "background": True})
        server.kill()
        server.start()
        ended = client.get(f"/runs/{run_id}", params={"wait": 30}).json()
        assert (ended["status"], ended["error"]["code"]) == ("interrupted", "INTERRUPTED")
        again = client.post(f"/runs/{run_id}/resume", json={"decision": "approve"})
        assert (again.status_code, again.json()["error"]["code"]) == (409, "RUN_CONFLICT")


def _paused(client: httpx2.Client, said: str) -> str:
    answer = client.post("/chat", json={"agent_name": "cleaner", "input": said, "background": True})
    assert answer.status_code == 202, answer.text
    run_id = str(answer.json()["run_id"])
    _until(lambda: _run(client, run_id)["status"] == "requires_action")
    return run_id


def _run(client: httpx2.Client, run_id: str) -> Json:
    shown: Json = client.get(f"/runs/{run_id}").json()
    return shown


def _resume(client: httpx2.Client, run_id: str, body: Json) -> None:
    answer = client.post(f"/runs/{run_id}/resume", json=body)
    assert answer.status_code == 202, answer.text


def _results(client: httpx2.Client, run: Json) -> dict[str, Any]:
    """What came of each call; the run's log is whole."""
    found = frames(client.get(f"/runs/{run['id']}/events").content)
    assert faults_of_log(run, found) == []
    told = [frame.data for frame in found if frame.data["type"] == "tool_result"]
    return {one["tool_call_id"]: one["error"] or one["result"] for one in told}


def _until(holds: Any) -> None:
    deadline = time.monotonic() + 40
    while not holds():
        assert time.monotonic() < deadline, "it has not come to that"
        time.sleep(0.05)
