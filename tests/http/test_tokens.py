"""Tokens over HTTP: an administrator makes, lists and revokes them; each act is in the audit log, and no secret is."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from innkeeper.core.audit import AuditEntry
from innkeeper.wiring import open_store
from tests.support.inns import Inn, running_inn
from tests.support.tokens import a_token, with_tokens

UNKNOWN_ID = "ik" + "0" * 16


@pytest.fixture(scope="module")
def inn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inn]:
    with running_inn(tmp_path_factory.mktemp("data"), force_auth=True) as served:
        yield served


@pytest.fixture(scope="module")
def zoe(inn: Inn) -> Iterator[httpx2.Client]:
    """An administrator."""
    text = a_token(inn.app.kernel.settings, "zoe", "admin", organization="acme").text
    with httpx2.Client(base_url=inn.url, headers={"x-api-key": text}, timeout=20, trust_env=False) as client:
        yield client


def made(zoe: httpx2.Client, **body: Any) -> dict[str, Any]:
    answer = zoe.post("/tokens", json=body)
    assert answer.status_code == 201, answer.text
    told: dict[str, Any] = answer.json()
    return told


def status(inn: Inn, text: str) -> int:
    return httpx2.get(f"{inn.url}/agents", headers={"x-api-key": text}, timeout=20, trust_env=False).status_code


def told(inn: Inn) -> Sequence[AuditEntry]:
    """The audit log, newest first."""

    async def read() -> Sequence[AuditEntry]:
        store = open_store(inn.app.kernel.settings)
        await store.open(serves=False)
        try:
            return (await store.audit.page(limit=200))[0]
        finally:
            await store.close()

    return asyncio.run(read())


def test_a_token_is_told_once_and_opens_what_its_role_allows(inn: Inn, zoe: httpx2.Client) -> None:
    answer = zoe.post(
        "/tokens",
        json={"user": "ann", "organization": "acme", "role": "read", "scopes": ["code"], "ttl": 60, "name": "CI"},
    )
    body = answer.json()
    assert answer.headers["cache-control"] == "no-store"
    assert re.fullmatch(r"ik[a-z0-9]{16}\.[A-Za-z0-9_-]{43}", text := body.pop("token"))
    assert text.startswith(body["id"])
    shown = zoe.get(f"/tokens/{body['id']}").json()
    assert shown == body
    del body["created_at"], body["expires_at"]
    assert body == {
        "id": text[:18], "user": "ann", "organization": "acme", "role": "read", "scopes": ["code"], "name": "CI",
        "revoked_at": None, "last_used_at": None,
    }  # fmt: skip
    assert status(inn, text) == 200
    assert httpx2.post(f"{inn.url}/chat", json={"input": "Hi"}, headers={"x-api-key": text}).status_code == 403
    everything = zoe.get("/tokens", params={"limit": 200}).text + shown["name"]
    assert text.partition(".")[2] not in everything
    assert "digest" not in everything


def test_without_a_word_it_is_a_user_of_its_own_for_good(zoe: httpx2.Client) -> None:
    body = made(zoe)
    assert (body["user"], body["organization"], body["role"]) == (body["id"], "default", "user")
    assert (body["scopes"], body["expires_at"], body["name"]) == ([], None, "")


def test_tokens_are_listed_in_pages_and_by_whose_they_are(zoe: httpx2.Client) -> None:
    organization = uuid4().hex
    ids = [made(zoe, user=user, organization=organization)["id"] for user in ("ann", "bob", "ann")]
    listed: list[str] = []
    has_more = True
    while has_more:
        query = {"organization": organization, "limit": "2", **({"after": listed[-1]} if listed else {})}
        page = zoe.get("/tokens", params=query).json()
        listed += [one["id"] for one in page["tokens"]]
        has_more = page["has_more"]
    assert listed == ids[::-1]
    of_ann = zoe.get("/tokens", params={"organization": organization, "user": "ann"}).json()["tokens"]
    assert [one["id"] for one in of_ann] == [ids[2], ids[0]]


def test_a_revoked_token_opens_nothing_within_a_second_and_stays_listed(inn: Inn, zoe: httpx2.Client) -> None:
    body = made(zoe, user="cat")
    assert status(inn, body["token"]) == 200
    assert zoe.delete(f"/tokens/{body['id']}").status_code == 204
    last = time.monotonic() + 1
    while (is_early := time.monotonic() < last) and status(inn, body["token"]) == 200:
        pass
    assert is_early or status(inn, body["token"]) == 401
    (row,) = zoe.get("/tokens", params={"user": "cat"}).json()["tokens"]
    assert row["revoked_at"] is not None
    assert zoe.delete(f"/tokens/{body['id']}").status_code == 204
    assert zoe.get(f"/tokens/{body['id']}").json()["revoked_at"] == row["revoked_at"]


@pytest.mark.parametrize("named", [UNKNOWN_ID, "ik", "nonsense", f"{UNKNOWN_ID}.{'A' * 43}", "IK" + "0" * 16, "%00"])
def test_a_token_that_there_is_not_is_not_found(zoe: httpx2.Client, named: str) -> None:
    for method in ("GET", "DELETE"):
        answer = zoe.request(method, f"/tokens/{named}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "TOKEN_NOT_FOUND")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"role": "root"}, "role"),
        ({"scopes": ["cod"]}, "scopes[0]"),
        ({"scopes": "code"}, "scopes"),
        ({"scopes": ["code"] * 17}, "scopes"),
        ({"ttl": 0}, "ttl"),
        ({"ttl": -1}, "ttl"),
        ({"ttl": "60"}, "ttl"),
        ({"ttl": 1e300}, "ttl"),
        ({"user": ""}, "user"),
        ({"user": "a\nb"}, "user"),
        ({"user": 7}, "user"),
        ({"user": "x" * 201}, "user"),
        ({"organization": "a\u0000"}, "organization"),
        ({"name": "x" * 201}, "name"),
        ({"owner": "zoe"}, "owner"),
        ({"id": UNKNOWN_ID}, "id"),
        ({"digest": "d" * 64}, "digest"),
    ],
)
def test_what_cannot_be_is_refused_by_name(zoe: httpx2.Client, body: dict[str, Any], field: str) -> None:
    answer = zoe.post("/tokens", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, field)


@pytest.mark.parametrize(
    "query", [{"limit": 0}, {"limit": 201}, {"after": "x"}, {"after": UNKNOWN_ID + "x"}, {"user": ""}]
)
def test_a_page_that_cannot_be_is_refused(zoe: httpx2.Client, query: dict[str, Any]) -> None:
    assert zoe.get("/tokens", params=query).status_code == 422


def test_the_same_request_again_makes_nothing_and_tells_no_secret(inn: Inn, zoe: httpx2.Client) -> None:
    organization, key = uuid4().hex, {"idempotency-key": uuid4().hex}
    body = {"organization": organization}
    first, second = (zoe.post("/tokens", json=body, headers=key) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 201)
    assert second.headers["idempotent-replayed"] == "true"
    assert second.json() == {**first.json(), "token": None}
    assert status(inn, first.json()["token"]) == 200
    assert len(zoe.get("/tokens", params=body).json()["tokens"]) == 1
    other = zoe.post("/tokens", json={**body, "role": "admin"}, headers=key)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "IDEMPOTENCY_MISMATCH")


@pytest.mark.parametrize(("role", "scopes"), [("user", ["code", "observability", "impersonate"]), ("read", [])])
def test_nobody_but_an_administrator_comes_near_tokens(inn: Inn, role: str, scopes: list[str]) -> None:
    text = a_token(inn.app.kernel.settings, "bob", role, scopes=scopes).text
    with httpx2.Client(base_url=inn.url, headers={"x-api-key": text}, timeout=20, trust_env=False) as client:
        own = f"/tokens/{text[:18]}"
        answers = [client.post("/tokens", json={"role": "admin"}), client.get("/tokens"), client.get(own)]
        answers.append(client.delete(own))
        assert {answer.status_code for answer in answers} == {403}
        assert client.get("/agents").status_code == 200


def test_the_local_user_is_no_administrator(tmp_path: Path) -> None:
    with running_inn(tmp_path) as inn, httpx2.Client(base_url=inn.url, timeout=20, trust_env=False) as client:
        assert client.get("/agents").status_code == 200
        assert client.get("/tokens").status_code == client.post("/tokens", json={}).status_code == 403


def test_every_act_is_in_the_audit_log_with_who_acted_and_without_a_secret(inn: Inn, zoe: httpx2.Client) -> None:
    body = made(zoe, user="dan", organization="acme", role="read", scopes=["code"])
    zoe.delete(f"/tokens/{body['id']}")
    by_hand = a_token(inn.app.kernel.settings, "eve")
    with_tokens(inn.app.kernel.settings, lambda tokens: tokens.revoke(by_hand.text))
    entries = told(inn)
    metadata = {"user": "dan", "organization": "acme", "role": "read", "scopes": ["code"]}
    over_http = [one for one in reversed(entries) if one.resource_id == body["id"]]
    assert [(one.action, one.resource, dict(one.metadata)) for one in over_http] == [
        ("token.create", "token", metadata),
        ("token.revoke", "token", metadata),
    ]
    assert {(one.actor.organization, one.actor.user) for one in over_http} == {("acme", "zoe")}
    in_python = [one for one in reversed(entries) if one.resource_id == by_hand.token.id]
    assert [one.action for one in in_python] == ["token.create", "token.revoke"]
    assert {one.actor.user.partition(":")[0] for one in in_python} == {"python"}
    assert not any(body["token"].partition(".")[2] in repr(one) for one in entries)


def test_what_is_refused_makes_no_entry(inn: Inn, zoe: httpx2.Client) -> None:
    before = len(told(inn))
    zoe.delete(f"/tokens/{UNKNOWN_ID}")
    zoe.post("/tokens", json={"role": "root"})
    assert len(told(inn)) == before
