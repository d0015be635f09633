"""Administrators over HTTP: who they are, how they come and go, and what they see counted."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests.http.platform.conftest import headers
from tests.support.inns import Inn, running_inn

ADMINS = "/api/v1/platform/admins"
ANN = {"workos_id": "user_ann", "email": "ann@example.org", "name": "Ann"}
BOB = {"workos_id": "user_bob", "email": "bob@example.org"}


@pytest.fixture(autouse=True)
def nobody_yet(inn: Inn, root: httpx2.Client) -> None:
    with closing(sqlite3.connect(inn.database, timeout=10)) as by_hand, by_hand:
        by_hand.execute("DELETE FROM admins")


def emails(root: httpx2.Client) -> list[str]:
    told = root.get(ADMINS).json()
    assert told["count"] == len(told["admins"])
    return [one["email"] for one in told["admins"]]


def error(answer: httpx2.Response) -> tuple[int, str, str | None]:
    told = answer.json()["error"]
    return answer.status_code, told["code"], told["param"]


def test_administrators_are_added_listed_and_removed(root: httpx2.Client) -> None:
    assert root.get(ADMINS).json() == {"admins": [], "count": 0}
    added = root.post(ADMINS, json={**ANN, "email": "Ann@Example.ORG"})
    assert (added.status_code, added.json()) == (201, {"status": "added", "email": "ann@example.org"})
    root.post(ADMINS, json=BOB)
    ann, bob = root.get(ADMINS).json()["admins"]
    assert set(ann) == {"id", "email", "name", "created_at", "created_by"}
    assert (ann["email"], ann["name"], ann["created_by"]) == ("ann@example.org", "Ann", "root")
    assert ann["created_at"].endswith("Z")
    assert bob["name"] == ""
    removed = root.delete(f"{ADMINS}/ANN@example.org")
    assert (removed.status_code, removed.json()) == (200, {"status": "removed", "email": "ann@example.org"})
    assert emails(root) == ["bob@example.org"]


def test_who_is_unknown_cannot_be_removed_and_the_last_one_stays(root: httpx2.Client) -> None:
    root.post(ADMINS, json=ANN)
    for unknown in ("none@example.org", "nonsense", "%00", "a" * 2000):
        assert error(root.delete(f"{ADMINS}/{unknown}")) == (404, "ADMIN_NOT_FOUND", "email")
    assert error(root.delete(f"{ADMINS}/ann@example.org")) == (409, "LAST_ADMIN", "email")
    assert emails(root) == ["ann@example.org"]


def test_an_address_or_an_id_that_is_known_is_a_conflict(root: httpx2.Client) -> None:
    root.post(ADMINS, json=ANN)
    same_email = root.post(ADMINS, json={**BOB, "email": "ANN@example.org"})
    assert error(same_email) == (409, "ADMIN_CONFLICT", "email")
    assert error(root.post(ADMINS, json={**BOB, "workos_id": "user_ann"})) == (409, "ADMIN_CONFLICT", "workos_id")
    assert emails(root) == ["ann@example.org"]


def test_one_idempotency_key_adds_once_and_answers_alike(root: httpx2.Client) -> None:
    key = {"Idempotency-Key": "add-ann"}
    first, again = (root.post(ADMINS, json=ANN, headers=key) for _ in range(2))
    assert (first.status_code, first.json()) == (again.status_code, again.json())
    assert (first.headers.get("idempotent-replayed"), again.headers["idempotent-replayed"]) == (None, "true")
    assert error(root.post(ADMINS, json=BOB, headers=key)) == (422, "IDEMPOTENCY_MISMATCH", "Idempotency-Key")
    entries = root.get("/api/v1/platform/audit").json()["entries"]
    assert [one["resource_id"] for one in entries if one["action"] == "admin.add"][:1] == ["ann@example.org"]
    assert emails(root) == ["ann@example.org"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"email": "ann"}, "email"),
        ({"email": ""}, "email"),
        ({"email": "ann@"}, "email"),
        ({"email": "@example.org"}, "email"),
        ({"email": "ann@exa mple.org"}, "email"),
        ({"email": "a/b@example.org"}, "email"),
        ({"email": "ann@example..org"}, "email"),
        ({"email": "ann@example.org\n"}, "email"),
        ({"email": "änn@example.org"}, "email"),
        ({"email": f"{'a' * 65}@example.org"}, "email"),
        ({"email": f"a@{'b.' * 130}org"}, "email"),
        ({"email": "İ@example.org"}, "email"),
        ({"email": 5}, "email"),
        ({"email": None}, "email"),
        ({"workos_id": ""}, "workos_id"),
        ({"workos_id": "a b"}, "workos_id"),
        ({"workos_id": "u" * 201}, "workos_id"),
        ({"name": "a\u0000b"}, "name"),
        ({"name": "n" * 201}, "name"),
        ({"role": "root"}, "role"),
    ],
)
def test_what_names_nobody_is_refused_with_its_field(root: httpx2.Client, change: dict[str, Any], param: str) -> None:
    assert error(root.post(ADMINS, json={**ANN, **change})) == (422, "VALIDATION_ERROR", param)
    assert emails(root) == []


def test_what_is_left_out_is_named(root: httpx2.Client) -> None:
    for left_out in ("workos_id", "email"):
        body = {name: value for name, value in ANN.items() if name != left_out}
        assert error(root.post(ADMINS, json=body)) == (422, "VALIDATION_ERROR", left_out)


def test_with_a_person_goes_the_power_of_their_tokens_within_a_second(inn: Inn, root: httpx2.Client) -> None:
    for body in (ANN, BOB):
        root.post(ADMINS, json=body)
    of_ann = [headers(inn, user, "admin") for user in ("ann@example.org", "user_ann")]
    others = [headers(inn, "ann@example.org", "user"), headers(inn, "bob@example.org", "admin")]

    def statuses(keys: list[dict[str, str]]) -> list[int]:
        return [httpx2.get(f"{inn.url}/sessions", headers=key, trust_env=False).status_code for key in keys]

    assert statuses(of_ann + others) == [200] * 4
    assert root.delete(f"{ADMINS}/ann@example.org").status_code == 200
    deadline = time.monotonic() + 1.5
    while statuses(of_ann) != [401, 401]:
        assert time.monotonic() < deadline
    assert statuses(others) == [200, 200]


def test_so_it_does_where_tokens_are_kept_in_a_redis(tmp_path: Path, redis_url: str) -> None:
    with running_inn(tmp_path, redis_url=redis_url, token_store="redis") as inn:
        user = f"ann{uuid4().hex}@example.org"
        admin, plain = (headers(inn, user, role) for role in ("admin", "user"))
        with httpx2.Client(base_url=inn.url, headers=headers(inn, "root", "admin"), timeout=20) as root:
            root.post(ADMINS, json={**ANN, "email": user})
            assert error(root.delete(f"{ADMINS}/{user}")) == (409, "LAST_ADMIN", "email")
            root.post(ADMINS, json=BOB)
            assert httpx2.get(f"{inn.url}/tokens", headers=admin, trust_env=False).status_code == 200
            assert root.delete(f"{ADMINS}/{user}").status_code == 200
            told = [one["action"] for one in root.get("/api/v1/platform/audit", params={"limit": 2}).json()["entries"]]
        assert told == ["admin.remove", "token.revoke"]
        deadline = time.monotonic() + 1.5
        while httpx2.get(f"{inn.url}/sessions", headers=admin, trust_env=False).status_code != 401:
            assert time.monotonic() < deadline
        assert httpx2.get(f"{inn.url}/sessions", headers=plain, trust_env=False).status_code == 200


def test_what_is_counted_is_told_with_the_health_of_the_server(inn: Inn, root: httpx2.Client) -> None:
    before = root.get("/api/v1/platform/stats").json()
    today, moment = int(time.time()) // 86_400, int(time.time() * 1_000_000)
    with closing(sqlite3.connect(inn.database, timeout=10)) as by_hand, by_hand:
        by_hand.execute(f"INSERT INTO users VALUES ('counted', 'x', 'x', 1, {moment}), ('counted', 'y', 'y', 1, 2)")
        by_hand.execute("INSERT INTO days VALUES (1, 10, 9, 100, 50)")
        by_hand.execute(
            f"INSERT INTO days VALUES ({today}, 2, 2, 3, 4) ON CONFLICT (day) DO UPDATE SET"
            " requests = requests + 2, input_tokens = input_tokens + 3, output_tokens = output_tokens + 4"
        )
    after = root.get("/api/v1/platform/stats").json()
    assert {name: after[name] - before[name] for name in before if name != "system_health"} == {
        "total_users": 2,
        "active_users": 1,
        "total_organizations": 1,
        "total_requests": 12,
        "requests_today": 2,
        "total_tokens": 157,
        "tokens_today": 7,
    }
    assert after["system_health"] == "healthy"


def test_a_store_that_takes_no_write_in_time_degrades_the_health(inn: Inn, root: httpx2.Client) -> None:
    with closing(sqlite3.connect(inn.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert root.get("/api/v1/platform/stats").json()["system_health"] == "degraded"
    assert root.get("/api/v1/platform/stats").json()["system_health"] == "healthy"
