"""Ids in paths that no client of good will sends: nothing is found, and nothing breaks, over every store."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.support.databases import a_copy_of, a_migrated_database
from tests.support.inns import Inn, running_inn

IDS = (
    "%00",
    "a%00b",
    "%FF%FE",
    "%ED%A0%80",
    "%F0%9F%92%A9",
    "x" * 8000,
    "%2F",
    "..%2F..",
    "%27%20OR%201%3D1",
    "%0A",
    "*",
)
ERROR = {"code", "type", "message", "param", "details"}


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def inn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inn]:
    """With a sandbox, as else tools and handlers are not even looked for."""
    folder = tmp_path_factory.mktemp("data")
    if request.param == "sqlite":
        with running_inn(folder, code_execution="monty") as running:
            yield running
        return
    server = request.getfixturevalue("postgres_url")
    with (
        a_copy_of(a_migrated_database(server), server) as url,
        running_inn(folder, database_url=url, code_execution="monty") as running,
    ):
        yield running


@pytest.fixture
def http(inn: Inn) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=inn.url, timeout=20, trust_env=False) as client:
        yield client


@pytest.mark.parametrize("hostile", IDS, ids=range(len(IDS)))
def test_any_id_is_answered_with_the_one_body(http: httpx2.Client, hostile: str) -> None:
    document: dict[str, Any] = http.get("/openapi.json").json()
    known = http.post("/api/sessions", json={}).json()["session_id"]
    for path, operations in document["paths"].items():
        if not path.startswith("/api/") or "{" not in path:
            continue
        for url in {_filled(path, hostile, hostile), _filled(path, known, hostile)}:
            for method in operations:
                if url != _filled(path, known, known):
                    _ask(http, method, url)


def _filled(path: str, session_id: str, other: str) -> str:
    return re.sub(r"\{(\w+)\}", lambda found: session_id if found[1] == "session_id" else other, path)


def _ask(http: httpx2.Client, method: str, url: str) -> None:
    answer = http.request(method, url, json={} if method in ("post", "patch") else None)
    told = f"{method} {url[:200]}: {answer.status_code} {answer.text[:500]}"
    assert answer.status_code in (403, 404, 405, 414, 422), told
    assert answer.json()["error"].keys() == ERROR
