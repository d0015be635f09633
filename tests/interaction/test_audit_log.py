"""The audit log is complete: whatever administrators may do leaves one entry, and whoever else tries, one denial."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.sync.client import connect

from innkeeper.core.audit import AuditEntry
from innkeeper.http.dispatching import Dispatcher
from innkeeper.http.refusals import ADMINISTRATIVE
from innkeeper.http.routes import SurfaceRoute
from innkeeper.services.audit_chain import Verdict, verified
from innkeeper.wiring import open_store
from tests.support.databases import a_copy_of, a_migrated_database
from tests.support.inns import Inn, running_inn
from tests.support.tokens import a_token

Json = dict[str, Any]
ACTION = {"POST", "PUT", "PATCH", "DELETE"}


@dataclass(frozen=True)
class Act:
    """A request that a server grants an administrator, and what its entry says. `{made}` is a token's id."""

    path: str
    action: str
    body: Json | None = None
    first: tuple[str, str, Json] | None = None
    """What has to be done before, with its method and its path."""


_CAL = {"workos_id": "user_cal", "email": "cal@example.org"}
_BALANCE = {"user": "ann", "balance": "10"}
ACTS = {
    "POST /api/v1/platform/admins": Act("/api/v1/platform/admins", "admin.add", _CAL),
    "DELETE /api/v1/platform/admins/{email}": Act(
        "/api/v1/platform/admins/dan@example.org",
        "admin.remove",
        first=("POST", "/api/v1/platform/admins", {"workos_id": "user_dan", "email": "dan@example.org"}),
    ),
    "POST /tokens": Act("/tokens", "token.create", {"user": "zoe"}),
    "DELETE /tokens/{token_id}": Act("/tokens/{made}", "token.revoke", first=("POST", "/tokens", {"user": "zoe"})),
    "PUT /credits": Act("/credits", "credits.set", _BALANCE),
    "POST /credits": Act("/credits", "credits.add", {"user": "ann", "credits": "1"}),
    "DELETE /credits": Act(
        "/credits?user=bob", "credits.remove", first=("PUT", "/credits", {"user": "bob", "balance": "1"})
    ),
    "POST /agent/initialize": Act("/agent/initialize", "agent.initialize", {"agent_name": "echo"}),
    "PUT /agents/{name}/workspace/{path:path}": Act("/agents/echo/workspace/a.json", "workspace.write", {}),
    "DELETE /agents/{name}/workspace/{path:path}": Act(
        "/agents/echo/workspace/b.json", "workspace.remove", first=("PUT", "/agents/echo/workspace/b.json", {})
    ),
    "POST /restart": Act("/restart", "server.restart"),
    "POST /kill": Act("/kill", "server.kill"),
    "POST /api/shutdown": Act("/api/shutdown", "server.shutdown"),
}
"""One for each route that only administrators may use and that changes anything."""


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def inn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inn]:
    """A server that says that it ends, and does not."""
    folder: Path = tmp_path_factory.mktemp("data")
    if request.param == "sqlite":
        with running_inn(folder) as running:
            yield _that_stays(running)
        return
    server = request.getfixturevalue("postgres_url")
    with a_copy_of(a_migrated_database(server), server) as url, running_inn(folder, database_url=url) as running:
        yield _that_stays(running)


def _that_stays(inn: Inn) -> Inn:
    house = inn.app.kernel.house
    house.stop = house.restart = house.kill = lambda: None
    return inn


def routes(inn: Inn) -> list[tuple[str, str]]:
    """The method and path of each route that only administrators may use."""
    dispatcher = inn.app.router.default
    assert isinstance(dispatcher, Dispatcher)
    return [
        (method, route.path)
        for route in dispatcher.routes
        if isinstance(route, SurfaceRoute) and route.permission in ADMINISTRATIVE
        for method in sorted(route.methods or ())
    ]


def client(inn: Inn, user: str, role: str) -> httpx2.Client:
    token = a_token(inn.app.kernel.settings, user, role, organization="acme").text
    return httpx2.Client(base_url=inn.url, headers={"x-api-key": token}, timeout=30, trust_env=False)


async def _read(inn: Inn) -> tuple[list[AuditEntry], Verdict]:
    store = open_store(inn.app.kernel.settings)
    await store.open(serves=False)
    try:
        return [entry for entry, _ in await store.audit.chain(0, 100_000)], await verified(store.audit)
    finally:
        await store.close()


def log(inn: Inn) -> list[AuditEntry]:
    """All entries, of a chain that holds."""
    entries, verdict = asyncio.run(_read(inn))
    assert (verdict.broken, verdict.count) == (None, len(entries))
    return entries


def test_every_action_of_an_administrator_leaves_one_entry(inn: Inn) -> None:
    actions = {f"{method} {path}" for method, path in routes(inn) if method in ACTION}
    assert actions == set(ACTS), "tell this test how each action is done"
    with client(inn, "root", "admin") as root:
        root.post("/api/v1/platform/admins", json={"workos_id": "user_root", "email": "root@example.org"})
        for name, act in ACTS.items():
            made = "" if act.first is None else _done(root, act.first[0], act.first[1], act.first[2])
            before = len(log(inn))
            _done(root, name.partition(" ")[0], act.path.replace("{made}", made), act.body)
            assert [(one.action, one.actor.user) for one in log(inn)[before:]] == [(act.action, "root")], name


def _done(http: httpx2.Client, method: str, path: str, body: Json | None) -> str:
    """Does it; returns the id of what was made, if that has one."""
    answer = http.request(method, path, json=body)
    assert answer.is_success, (method, path, answer.text)
    return str(answer.json().get("id", "")) if answer.content else ""


def _left(inn: Inn, before: int) -> list[tuple[str, str, str, str | None, object]]:
    """Who did what to what of whose, since there were so many entries."""
    return [
        (one.actor.user, one.action, one.resource, one.resource_id, one.metadata.get("user"))
        for one in log(inn)[before:]
    ]


def test_whatever_an_administrator_changes_of_somebody_elses_is_told(inn: Inn) -> None:
    prompt = "for the audit"
    performance = inn.conduct(prompt)
    with client(inn, "root", "admin") as root, client(inn, "bob", "user") as bob:
        room = bob.post("/api/sessions", json={}).json()["session_id"]
        session, engine = ("session", room), bob.post("/api/engines", json={"engine_type": "DummyEngine"}).json()
        engine_id = engine["engine_id"]
        turn = {"agent_name": "conducted", "input": prompt, "background": True}
        run_id = bob.post("/chat", json=turn).json()["run_id"]
        assert performance.began.wait(20)
        acts: list[tuple[str, str, Json | None, tuple[str, str]]] = [
            ("PATCH", f"/sessions/{room}", {"title": "Seen"}, session),
            ("POST", f"/sessions/{room}/messages", {"role": "user", "content": "Hm"}, session),
            ("POST", f"/api/sessions/{room}/events", {"event_type": "Told", "data": {}}, session),
            ("PUT", f"/sessions/{room}/workspace/a.json", {}, session),
            ("POST", "/api/engines", {"engine_type": "DummyEngine", "session_id": room}, session),
            ("POST", f"/api/engines/{engine_id}/execute", {"prompt": "Hello"}, ("engine", engine_id)),
            ("DELETE", f"/api/engines/{engine_id}", None, ("engine", engine_id)),
            ("POST", "/inject", {"message": "from above", "run_id": run_id}, ("run", run_id)),
            ("POST", f"/runs/{run_id}/cancel", None, ("run", run_id)),
            ("DELETE", f"/sessions/{room}", None, session),
        ]
        for method, path, body, (kind, name) in acts:
            before = len(log(inn))
            _done(root, method, path, body)
            assert ("root", "others.change", kind, name, "bob") in _left(inn, before), (method, path)
            assert {found[0::4] for found in _left(inn, before)} == {("root", "bob")}, (method, path)
        assert log(inn)[-1].metadata == {
            "method": "DELETE",
            "route": "/sessions/{session_id}",
            "address": "127.0.0.1",
            "organization": "acme",
            "user": "bob",
        }


def test_an_administrators_messages_on_a_websocket_are_told_too(inn: Inn) -> None:
    prompt = "for the audit, on a socket"
    performance = inn.conduct(prompt)
    with client(inn, "root", "admin") as root, client(inn, "bob", "user") as bob:
        turn = {"agent_name": "conducted", "input": prompt, "background": True}
        run_id = bob.post("/chat", json=turn).json()["run_id"]
        assert performance.began.wait(20)
        before = len(log(inn))
        url, key = f"{inn.url.replace('http', 'ws', 1)}/ws/chat", {"x-api-key": root.headers["x-api-key"]}
        with connect(url, additional_headers=key, proxy=None) as socket:
            socket.send(json.dumps({"type": "inject", "message": "from above", "run_id": run_id}))
            assert json.loads(socket.recv(20))["type"] == "injected"
            assert _left(inn, before) == [("root", "others.change", "run", run_id, "bob")]
        performance.end()


def test_what_an_administrator_does_with_its_own_or_in_vain_is_not_told(inn: Inn) -> None:
    with client(inn, "root", "admin") as root, client(inn, "bob", "user") as bob:
        room = bob.post("/sessions", json={}).json()["id"]
        before = len(log(inn))
        mine = root.post("/sessions", json={}).json()["id"]
        _done(root, "PATCH", f"/sessions/{mine}", {"title": "Mine"})
        for session_id in (mine, room):  # what an administrator begins is its own
            _done(root, "POST", "/chat", {"input": "Hello", "session_id": session_id})
            form = {"message": (None, "Hello"), "session_id": (None, session_id)}
            assert root.post("/chat/with-files", files=form).status_code == 200
        line = {"level": "info", "message": "Hm", "session_id": room}
        _done(root, "POST", "/api/observability/logs", line)
        assert root.get(f"/sessions/{room}").status_code == 200
        assert root.patch(f"/sessions/{room}", json={"title": 7}).status_code == 422
        assert root.post(f"/api/sessions/{room}/commands/none/cancel").status_code == 404
        _done(bob, "PATCH", f"/sessions/{room}", {"title": "His"})
        assert _left(inn, before) == []


def test_reading_leaves_none(inn: Inn) -> None:
    with client(inn, "root", "admin") as root:
        before = len(log(inn))
        for method, path in routes(inn):
            if method == "GET":
                assert root.get(path.replace("{token_id}", "ik" + "0" * 16)).status_code in (200, 404), path
        assert len(log(inn)) == before


def test_whoever_else_tries_leaves_one_denial(inn: Inn) -> None:
    with client(inn, "ann", "user") as ann, client(inn, "eve", "read") as eve:
        before = len(log(inn))
        asked = []
        for number, (method, path) in enumerate(routes(inn)):
            user, http = (("ann", ann), ("eve", eve))[number % 2]
            answer = http.request(
                method, path.replace("{email}", "x@example.org"), json={} if method in ACTION else None
            )
            assert answer.status_code == 403, (path, answer.text)
            asked.append((user, "access.denied", f"{method} {path}"))
    assert [(one.actor.user, one.action, one.resource_id) for one in log(inn)[before:]] == asked


def test_fifty_actions_at_once_leave_fifty_entries_in_one_chain(inn: Inn) -> None:
    with client(inn, "root", "admin") as root, ThreadPoolExecutor(25) as pool:
        before = len(log(inn))
        bodies = [{"workos_id": f"many_{number}", "email": f"many{number}@example.org"} for number in range(50)]
        answers = list(pool.map(lambda body: root.post("/api/v1/platform/admins", json=body), bodies))
    assert {answer.status_code for answer in answers} == {201}
    told = log(inn)[before:]
    assert sorted(str(one.resource_id) for one in told) == sorted(body["email"] for body in bodies)
