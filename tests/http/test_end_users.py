"""End users of one caller: several may call their sessions alike, and each request reaches the one that it means."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.sync.client import connect

from tests.support.inns import Inn, running_inn
from tests.support.tokens import a_token

Json = dict[str, Any]
USERS = ("ada", "cyd")


@pytest.fixture(scope="module")
def inn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inn]:
    folder: Path = tmp_path_factory.mktemp("data")
    with running_inn(folder, code_execution="monty") as inn:
        yield inn


@pytest.fixture
def http(inn: Inn) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=inn.url, timeout=20) as http:
        yield http


def begun(http: httpx2.Client, name: str) -> dict[str, Json]:
    """A session of each end user that both call by this name, the second after the first; their first runs."""
    asked = {user: {"input": f"I am {user}", "session_id": name, "user_id": user} for user in USERS}
    return {user: http.post("/chat", json=body).raise_for_status().json() for user, body in asked.items()}


def test_every_operation_on_a_session_takes_its_end_user(http: httpx2.Client) -> None:
    found = 0
    for path, operations in http.get("/openapi.json").json()["paths"].items():
        if "{session_id}" in path or "{conversation_id}" in path:
            for method, told in operations.items():
                names = {one["name"] for one in told["parameters"] if one["in"] == "query"}
                assert "user_id" in names, f"{method} {path}"
                found += 1
    assert found > 30


def test_runs_are_those_of_the_end_user_that_is_named(http: httpx2.Client) -> None:
    runs = begun(http, "runs")
    for user in USERS:
        for where in ({"session_id": "runs"}, {}):
            told = http.get("/runs", params={"user_id": user, "limit": 1, **where}).json()["runs"]
            assert [one["id"] for one in told] == [runs[user]["run_id"]]
    assert http.get("/runs", params={"user_id": "eve"}).json() == {"runs": [], "has_more": False}


def test_chat_logs_of_a_session_are_those_of_the_end_user_that_is_named(http: httpx2.Client) -> None:
    runs = begun(http, "logs")
    while http.get("/logs/sessions/logs").json()["total"] < 2:
        pass
    for user in USERS:
        told = http.get("/logs/sessions/logs", params={"user_id": user}).json()
        assert (told["total"], told["logs"][0]["run_id"]) == (1, runs[user]["run_id"])
    assert http.get("/logs/sessions/logs", params={"user_id": "eve"}).status_code == 404


def test_the_control_plane_reaches_the_session_of_the_end_user_that_is_named(http: httpx2.Client, inn: Inn) -> None:
    begun(http, "main")
    for user in USERS:
        at, whose = "/api/sessions/main", {"user_id": user}
        assert http.get(at, params=whose).json()["user_id"] == user
        event = {"event_type": "Seen", "data": {"by": user}}
        made = http.post(f"{at}/events", params=whose, json=event).raise_for_status().json()
        listed = http.get(f"{at}/events", params={**whose, "event_type": "Seen"}).json()
        assert [one["data"] for one in listed["events"]] == [{"by": user}]
        assert http.get(f"{at}/events/{made['event_id']}", params=whose).json() == made
        with connect(f"{inn.url.replace('http', 'ws')}{at}/events/stream?after=0&user_id={user}") as stream:
            while (told := json.loads(stream.recv(timeout=10)))["event_type"] != "Seen":
                pass
            assert told["data"] == {"by": user}
        command = {"command_type": "DummyEngineCommand", "parameters": {"prompt": user}}
        done = http.post(f"{at}/commands", params={**whose, "wait": 10}, json=command).json()
        assert done["status"] == "completed"
        assert http.get(f"{at}/commands/{done['command_id']}", params=whose).status_code == 200
        engine = http.post("/api/engines", json={"engine_type": "DummyEngine", "session_id": "main", **whose}).json()
        assert engine["user_id"] == user
        engines = http.get("/api/engines", params={"session_id": "main", **whose}).json()["engines"]
        assert [one["engine_id"] for one in engines] == [engine["engine_id"]]
    assert http.delete("/api/sessions/main", params={"user_id": "ada"}).status_code == 204
    assert http.get("/api/sessions/main", params={"user_id": "ada"}).status_code == 404
    assert http.get("/sessions/main", params={"user_id": "cyd"}).status_code == 200


def test_engines_are_listed_of_an_end_users_session_only(http: httpx2.Client) -> None:
    refused = http.get("/api/engines", params={"user_id": "ada"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, "user_id")


def test_an_engine_may_be_an_end_users_without_a_session(http: httpx2.Client) -> None:
    engine = http.post("/api/engines", json={"engine_type": "DummyEngine", "user_id": "ada"}).json()
    session = http.get(f"/api/sessions/{engine['session_id']}", params={"user_id": "ada"}).json()
    assert (engine["user_id"], session["user_id"]) == ("ada", "ada")
    assert http.post(f"/api/engines/{engine['engine_id']}/execute", json={"prompt": "Hi"}).status_code == 200


def test_a_conversation_is_that_of_the_end_user_that_is_named(http: httpx2.Client) -> None:
    begun(http, "talk")
    for user in USERS:
        at, whose = "/v1/conversations/talk", {"user_id": user}
        for order in ("asc", "desc"):
            items = http.get(f"{at}/items", params={**whose, "order": order}).json()["data"]
            assert f"I am {user}" in json.dumps(items) and len(items) == 2
            assert http.get(f"{at}/items/{items[0]['id']}", params=whose).json() == items[0]
        http.post(at, params=whose, json={"metadata": {"of": user}}).raise_for_status()
        assert http.get(at, params=whose).json()["metadata"] == {"of": user}
        added = [{"type": "message", "role": "user", "content": f"Also {user}"}]
        http.post(f"{at}/items", params=whose, json={"items": added}).raise_for_status()
    told = {user: http.get("/sessions/talk", params={"user_id": user}).json() for user in USERS}
    for user in USERS:
        assert [one["content"] for one in told[user]["messages"]][-1] == f"Also {user}"
        assert told[user]["metadata"] == {"of": user}
    http.delete("/v1/conversations/talk", params={"user_id": "ada"}).raise_for_status()
    assert http.get("/sessions/talk", params={"user_id": "cyd"}).status_code == 200


def test_what_one_end_user_was_told_is_compacted_for_no_other(http: httpx2.Client) -> None:
    made = http.post("/v1/responses", json={"model": "echo", "input": "A secret", "user": "ada"}).json()
    asked = {"model": "echo", "previous_response_id": made["id"]}
    assert http.post("/v1/responses/compact", json={**asked, "user": "ada"}).status_code == 200
    refused = http.post("/v1/responses/compact", json={**asked, "user": "cyd"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "previous_response_not_found")


def test_an_admin_reads_a_conversation_by_its_key_and_says_nothing_in_it(inn: Inn) -> None:
    settings = inn.app.kernel.settings
    ann, root = (
        {"x-api-key": a_token(settings, user, role).text} for user, role in (("ann", "user"), ("root", "admin"))
    )
    with httpx2.Client(base_url=inn.url, timeout=20) as http:
        for headers, said in ((ann, "Ann's"), (root, "Not ann's")):
            http.post("/chat", json={"input": said, "session_id": "shared"}, headers=headers).raise_for_status()
        listed = http.get("/sessions", headers=root).json()["sessions"]
        (key,) = [one["key"] for one in listed if (one["id"], one["owner"]) == ("shared", "ann")]
        items = http.get(f"/v1/conversations/{key}/items", headers=root).json()["data"]
        assert "Not ann's" not in json.dumps(items) and len(items) == 2
        only = http.post("/v1/conversations", json={}, headers=ann).json()["id"]
        refused = http.post("/v1/responses", json={"model": "echo", "input": "Hi", "conversation": only}, headers=root)
        assert (refused.status_code, refused.json()["error"]["param"]) == (404, "conversation")
        assert http.get(f"/v1/conversations/{only}/items", headers=ann).json()["data"] == []
