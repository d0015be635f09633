"""Commands of several clients at once: whose turn it is, whose handlers are called, and who has left."""

from __future__ import annotations

import http.client as http_client
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from innkeeper import ServerBase
from innkeeper.config import load_settings
from tests.support.handled import Journal, ask, eventually, handle, log, read
from tests.support.scrapes import scrape
from tests.support.servers import serve_app
from tests.support.tokens import a_token


@dataclass
class Served:
    """An app with the handlers of `handle`."""

    app: ServerBase
    url: str
    journal: Journal


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    app = ServerBase(settings=load_settings({"data_dir": tmp_path}))
    journal = handle(app)
    with serve_app(app) as url:
        yield Served(app, url, journal)
        journal.gate.set()


@pytest.fixture
def http(served: Served) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=served.url, timeout=30) as client:
        yield client


@pytest.fixture
def ann(served: Served) -> Iterator[httpx2.Client]:
    """A tenant beside the local user."""
    headers = {"authorization": f"Bearer {a_token(served.app.kernel.settings, 'ann').text}"}
    with httpx2.Client(base_url=served.url, timeout=30, headers=headers) as client:
        yield client


@pytest.fixture
def session(http: httpx2.Client) -> str:
    return str(http.post("/api/sessions", json={}).json()["session_id"])


def test_nobody_waits_for_a_client_that_has_left(served: Served, http: httpx2.Client, session: str) -> None:
    body = json.dumps({"command_type": "Wait"})
    path = f"/api/sessions/{session}/commands"
    asked = (("POST", f"{path}?wait=60", body), ("GET", f"{path}/{{}}?wait=60", None))
    command_id = ""
    for method, target, said in asked:
        before = _left(http)
        connection = http_client.HTTPConnection(served.url.removeprefix("http://"))
        connection.request(method, target.format(command_id), said, {"content-type": "application/json"})
        eventually(lambda: served.journal.began)
        (accepted,) = log(http, session, "command_accepted")
        command_id = accepted["data"]["command_id"]
        connection.close()
        eventually(lambda before=before: _left(http) == before + 1)
    assert read(http, session, {"command_id": command_id}, wait=0)["status"] == "executing"


def _left(http: httpx2.Client) -> float:
    """How many requests were not answered, because whoever asked had gone."""
    return scrape(http).get("innkeeper_requests_total", status="499")


def test_nobody_waits_for_all_that_another_has_asked_for(
    served: Served, http: httpx2.Client, ann: httpx2.Client, session: str
) -> None:
    crowd = [{"command_type": "Wait", "parameters": {"name": "crowd"}} for _ in range(364)]
    http.post(f"/api/sessions/{session}/commands/batch", json={"commands": crowd}).raise_for_status()
    eventually(lambda: len(served.journal.began) == 64)
    her_session = ann.post("/api/sessions", json={}).json()["session_id"]
    told = ask(ann, her_session, "Wait", wait=0, parameters={"name": "ann"}).json()
    assert told["status"] == "queued"
    served.journal.gate.set()
    eventually(lambda: len(served.journal.began) == 365)
    assert 64 <= served.journal.began.index("ann") < 128


def test_a_session_named_in_python_is_one_of_the_local_user(
    served: Served, http: httpx2.Client, ann: httpx2.Client
) -> None:
    app, name = served.app, "named-in-python"
    app.command("Private", session_id=name)(lambda command: "private")
    app.event("Private", session_id=name)(lambda event: served.journal.began.append(f"{event.of}"))
    for client, status in ((ann, 404), (http, 201)):
        client.post("/api/sessions", json={"session_id": name}).raise_for_status()
        answer = ask(client, name, "Private")
        assert answer.status_code == status, answer.text
        event = {"event_type": "Private", "data": {"of": status}}
        client.post(f"/api/sessions/{name}/events", json=event).raise_for_status()
    eventually(lambda: served.journal.began)
    assert served.journal.began == ["201"]
