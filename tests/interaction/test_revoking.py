"""A token that is revoked opens nothing after a second, wherever it is presented and wherever tokens are kept."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.databases import a_copy_of, a_migrated_database
from tests.support.inns import Inn, running_inn
from tests.support.tokens import a_token

Pair = tuple[Inn, Inn]


@pytest.fixture(scope="module", params=["postgres", "redis"])
def inns(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres_url: str) -> Iterator[Pair]:
    """Two servers of one store, which keep tokens there, or in Redis."""
    settings: dict[str, Any] = {"force_auth": True, "rate_limit_failed_auth": "off"}
    if request.param == "redis":
        settings |= {"redis_url": request.getfixturevalue("redis_url"), "token_store": "redis"}
    with ExitStack() as stack:
        settings["database_url"] = stack.enter_context(a_copy_of(a_migrated_database(postgres_url), postgres_url))
        folders: list[Path] = [tmp_path_factory.mktemp("data") for _ in range(2)]
        one, two = (stack.enter_context(running_inn(folder, **settings)) for folder in folders)
        yield one, two


def ask(inn: Inn, text: str, path: str = "/agents") -> int:
    return httpx2.get(f"{inn.url}{path}", headers={"x-api-key": text}, timeout=20, trust_env=False).status_code


def test_every_server_heeds_a_revocation_within_a_second(inns: Pair) -> None:
    admin = a_token(inns[0].app.kernel.settings, "zoe", "admin").text
    made = httpx2.post(f"{inns[0].url}/tokens", json={"user": "ann"}, headers={"x-api-key": admin}, timeout=20).json()
    assert [ask(inn, made["token"]) for inn in inns] == [200, 200]
    revoked = httpx2.delete(f"{inns[1].url}/tokens/{made['id']}", headers={"x-api-key": admin}, timeout=20)
    assert revoked.status_code == 204
    last = time.monotonic() + 1
    while time.monotonic() < last:
        for inn in inns:
            ask(inn, made["token"])
    assert [ask(inn, made["token"]) for inn in inns] == [401, 401]
    assert [ask(inn, admin, f"/tokens/{made['id']}") for inn in inns] == [200, 200]


def test_the_same_key_at_two_servers_makes_one_token(inns: Pair) -> None:
    admin = a_token(inns[0].app.kernel.settings, "zoe", "admin").text
    headers = {"x-api-key": admin, "idempotency-key": "one"}
    answers = [httpx2.post(f"{inn.url}/tokens", json={}, headers=headers, timeout=20).json() for inn in inns]
    assert answers[1] == {**answers[0], "token": None}
