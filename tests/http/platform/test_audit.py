"""The audit log over HTTP: what was done and what was refused, each once, before it is answered."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx2
import pytest

from innkeeper.storage.sqlite import journals
from tests.http.platform.conftest import headers
from tests.support.inns import Inn, running_inn
from tests.support.tokens import a_revoked_token, a_token

AUDIT = "/api/v1/platform/audit"
ADMINS = "/api/v1/platform/admins"
Json = dict[str, Any]


@pytest.fixture
def since(root: httpx2.Client) -> Callable[[], list[Json]]:
    """The entries since the test began, oldest first."""
    before = root.get(AUDIT).json()["count"]

    def entries() -> list[Json]:
        found: list[Json] = root.get(AUDIT, params={"limit": 200}).json()["entries"][::-1]
        return found[-(root.get(AUDIT).json()["count"] - before) :] if found else []

    return entries


def test_an_entry_tells_who_did_what_to_what(root: httpx2.Client) -> None:
    for name in ("cal", "dan"):
        root.post(ADMINS, json={"workos_id": f"user_{name}", "email": f"{name}@example.org", "name": name})
    root.delete(f"{ADMINS}/cal@example.org")
    told = root.get(AUDIT, params={"limit": 2}).json()
    removed, added = told["entries"]
    assert set(removed) == {"id", "timestamp", "user_id", "org_id", "action", "resource", "resource_id", "metadata"}
    assert (removed["user_id"], removed["org_id"]) == ("root", "acme")
    assert (removed["action"], removed["resource"], removed["resource_id"]) == (
        "admin.remove",
        "admin",
        "cal@example.org",
    )
    assert removed["metadata"] == {"workos_id": "user_cal", "name": "cal"}
    assert (added["action"], added["resource_id"]) == ("admin.add", "dan@example.org")
    assert added["timestamp"] < removed["timestamp"]
    assert (told["limit"], told["offset"]) == (2, 0)


def test_pages_have_the_count_of_all_and_an_end(root: httpx2.Client) -> None:
    all_of_them = root.get(AUDIT, params={"limit": 200}).json()
    assert (all_of_them["count"], all_of_them["limit"]) == (len(all_of_them["entries"]), 200)
    page = root.get(AUDIT, params={"limit": 2, "offset": 1}).json()
    assert page["entries"] == all_of_them["entries"][1:3]
    assert root.get(AUDIT, params={"offset": all_of_them["count"]}).json()["entries"] == []
    assert root.get(AUDIT).json()["limit"] == 50
    for wrong in ({"limit": 201}, {"limit": 0}, {"offset": -1}, {"offset": 2**53 + 1}, {"limit": "x"}):
        assert root.get(AUDIT, params=wrong).status_code == 422


def test_a_denial_tells_who_was_refused_what_from_where(inn: Inn, since: Callable[[], list[Json]]) -> None:
    answer = httpx2.delete(f"{inn.url}{ADMINS}/canary@example.org", headers=headers(inn, "ann"), trust_env=False)
    assert answer.status_code == 403
    denial = since()[-1]
    assert (denial["action"], denial["user_id"], denial["org_id"]) == ("access.denied", "ann", "acme")
    assert (denial["resource"], denial["resource_id"]) == ("route", f"DELETE {ADMINS}/{{email}}")
    assert denial["metadata"] == {
        "permission": "platform:admin",
        "method": "DELETE",
        "route": f"{ADMINS}/{{email}}",
        "address": "127.0.0.1",
        "status": 403,
        "reason": "This needs the permission platform:admin: a token with the role admin.",
    }


def test_a_request_of_nobodys_is_told_as_nobodys(inn: Inn, since: Callable[[], list[Json]]) -> None:
    revoked = a_revoked_token(inn.app.kernel.settings)
    before = len(since())
    cases = [
        ({"x-api-key": revoked}, 401, None),
        ({"x-api-key": "one", "api-token": "two"}, 401, None),
        ({"origin": "https://evil.example"}, 403, None),
        ({}, 403, "local"),
    ]
    for sent, status, _ in cases:
        assert httpx2.get(f"{inn.url}{AUDIT}", headers=sent, trust_env=False).status_code == status
    told = since()[before:]
    assert [(one["metadata"]["status"], one["user_id"]) for one in told] == [(status, who) for _, status, who in cases]
    assert revoked[19:] not in str(told)


def test_what_anybody_may_and_what_is_merely_wrong_is_no_denial(
    inn: Inn, root: httpx2.Client, since: Callable[[], list[Json]]
) -> None:
    revoked = {"x-api-key": a_revoked_token(inn.app.kernel.settings)}
    before = len(since())
    assert httpx2.get(f"{inn.url}/sessions", headers=revoked, trust_env=False).status_code == 401
    assert httpx2.get(f"{inn.url}/live", trust_env=False).status_code == 200
    assert root.delete(f"{ADMINS}/none@example.org").status_code == 404
    assert root.post(ADMINS, json={}).status_code == 422
    assert root.put(ADMINS).status_code == 405
    assert root.get(AUDIT).status_code == 200
    assert since()[before:] == []


def test_source_code_that_one_may_not_register_is_a_denial(tmp_path: Path) -> None:
    pytest.importorskip("pydantic_monty")
    with running_inn(tmp_path, code_execution="monty") as inn, httpx2.Client(base_url=inn.url, timeout=20) as http:
        http.post("/api/sessions", json={"session_id": "mine"})
        tools = "/api/sessions/mine/tools"
        body = {"name": "add", "function_code": "def add(): return 1", "parameters": {}}
        refused = http.post(tools, json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "CODE_EXECUTION_DISABLED")
        admin = {"x-api-key": a_token(inn.app.kernel.settings, "root", "admin").text}
        told = http.get(AUDIT, headers=admin).json()["entries"]
        denial = next(one for one in told if one["action"] == "access.denied")
        assert (denial["user_id"], denial["metadata"]["permission"]) == ("local", "code:write")
        assert denial["metadata"]["route"] == "/api/sessions/{session_id}/tools"


def test_where_code_is_executed_for_nobody_nobody_is_denied_it(http: httpx2.Client, root: httpx2.Client) -> None:
    before = root.get(AUDIT).json()["count"]
    http.post("/api/sessions", json={"session_id": "codeless"})
    body = {"name": "add", "function_code": "def add(): return 1"}
    assert http.post("/api/sessions/codeless/tools", json=body).status_code == 403
    assert root.get(AUDIT).json()["count"] == before


def test_who_would_have_an_agent_made_anew_by_a_header_and_may_not_is_told(
    http: httpx2.Client, since: Callable[[], list[Json]]
) -> None:
    answer = http.post("/chat", json={"input": "Hi"}, headers={"AGENT_REINITIALIZE": "true"})
    assert answer.status_code == 403
    assert since()[-1]["metadata"]["permission"] == "server:admin"


def test_what_cannot_be_told_is_neither_done_nor_denied(
    inn: Inn, root: httpx2.Client, since: Callable[[], list[Json]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "LOCK_PATIENCE", 0.3)
    before = len(since())
    with closing(sqlite3.connect(inn.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        done = root.post(ADMINS, json={"workos_id": "user_eve", "email": "eve@example.org"})
        denied = httpx2.get(f"{inn.url}{ADMINS}", trust_env=False)
    for answer in (done, denied):
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "STORAGE_UNAVAILABLE")
    assert "eve@example.org" not in root.get(ADMINS).text
    assert since()[before:] == []


def test_what_was_changed_of_anothers_and_cannot_be_told_is_not_answered_as_done(
    inn: Inn, root: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = "cancelled by who cannot tell it"
    performance, ann = inn.conduct(prompt), headers(inn, "ann")
    turn = {"agent_name": "conducted", "input": prompt, "background": True}
    run_id = httpx2.post(f"{inn.url}/chat", json=turn, headers=ann, trust_env=False).json()["run_id"]
    assert performance.began.wait(20)
    monkeypatch.setattr(journals, "LOCK_PATIENCE", 0.3)
    with closing(sqlite3.connect(inn.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        answer = root.post(f"/runs/{run_id}/cancel")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "STORAGE_UNAVAILABLE")
    ended = httpx2.get(f"{inn.url}/runs/{run_id}", params={"wait": 20}, headers=ann, timeout=30, trust_env=False).json()
    assert ended["status"] == "cancelled", "asked again, it would be answered and told"


def test_source_code_that_comes_and_goes_is_told_with_its_digest(tmp_path: Path) -> None:
    pytest.importorskip("pydantic_monty")
    source = "async def handle(thing): return 1"
    digest = sha256(source.encode()).hexdigest()
    with running_inn(tmp_path, code_execution="monty") as inn, httpx2.Client(base_url=inn.url, timeout=20) as http:
        admin = {"x-api-key": a_token(inn.app.kernel.settings, "root", "admin").text}
        http.post("/api/sessions", json={"session_id": "mine"}, headers=admin)
        before = http.get(AUDIT, headers=admin).json()["count"]
        path = "/api/sessions/mine"
        tool = {"name": "handle", "function_code": source, "parameters": {"thing": {"type": "integer"}}}
        for _ in range(2):  # the second request is the first again
            key = {**admin, "Idempotency-Key": "one"}
            assert http.post(f"{path}/tools", json=tool, headers=key).status_code == 201
        handler = {"event_type": "Said", "handler_function": source}
        made = http.post(f"{path}/handlers/events", json=handler, headers=admin).json()["handler_id"]
        for gone in ("tools/handle", "handlers/events/Said"):
            assert http.delete(f"{path}/{gone}", headers=admin).status_code == 204
            assert http.delete(f"{path}/{gone}", headers=admin).status_code == 404
        told = http.get(AUDIT, headers=admin).json()
    entries = told["entries"][: told["count"] - before][::-1]
    assert [(one["action"], one["resource_id"], one["user_id"]) for one in entries] == [
        ("tool.register", "handle", "root"),
        ("handler.register", made, "root"),
        ("tool.remove", "handle", "root"),
        ("handler.remove", "Said", "root"),
    ]
    assert entries[0]["metadata"] == {"session_id": "mine", "source_sha256": digest}
    about = {"session_id": "mine", "kind": "event", "type": "Said"}
    assert entries[1]["metadata"] == {**about, "source_sha256": digest}
    assert entries[3]["metadata"] == about
