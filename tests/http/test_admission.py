"""The gate by itself: what it decides at once, and what it has to look up."""

from __future__ import annotations

import hmac
import inspect
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest

from innkeeper.core.errors import Unauthorized
from innkeeper.core.identity import LOCAL_CALLER, Role
from innkeeper.core.tokens import Refusal
from innkeeper.http.gates import _HOLDERS, PERMISSIONS, PUBLIC, Gate, GateSettings, HasCredentials, Pending
from innkeeper.services.tokens import Digests, Tokens
from tests.support.inns import running_inn
from tests.support.tokens import a_token

FORMED = f"ik{'0' * 16}.{'A' * 43}"


async def _never() -> HasCredentials:
    raise AssertionError("nothing needs to be started, nor looked up")


ENDS: dict[str, tuple[str, int]] = {}


@pytest.fixture(scope="module", autouse=True)
def connection() -> Iterator[None]:
    """A connection from this machine to itself, whose ends `scope` names."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        ENDS.update(client=client.getsockname(), server=listener.getsockname())
        with listener.accept()[0]:
            yield


def scope(*headers: tuple[str, str], **fields: Any) -> dict[str, Any]:
    """A request from this machine."""
    sent = [("host", "127.0.0.1:8000"), *headers]
    return {
        "type": "http",
        "headers": [(name.encode(), value.encode()) for name, value in sent],
        "path": "/chat",
        "query_string": b"",
        **ENDS,
        "http_version": "1.1",
        **fields,
    }


LOOSE, STRICT = Gate(GateSettings(), _never), Gate(GateSettings(is_auth_forced=True), _never)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("authorization", "Bearer sk-proj-1234")],
        [("x-api-key", "null")],
        [("authorization", "Basic YTpi")],
        [("x-session-token", "st_short")],
        [("api-token", f"{FORMED}=")],
    ],
)
async def test_the_local_user_is_let_in_without_waiting_for_anything(headers: list[tuple[str, str]]) -> None:
    assert LOOSE.admit(scope(*headers), "runs:write") is LOCAL_CALLER
    assert STRICT.admit(scope(*headers), PUBLIC) is None
    with pytest.raises(Unauthorized):
        admitted = STRICT.admit(scope(*headers), "runs:write")
        if isinstance(admitted, Pending):  # a failure is counted, which may take a moment
            await admitted


def test_only_what_may_be_a_token_is_looked_up() -> None:
    for name, value in (
        ("authorization", f"Bearer {FORMED}"),
        ("x-api-key", FORMED),
        ("x-session-token", f"st_{'A' * 43}"),
    ):
        for gate in (LOOSE, STRICT):
            assert isinstance(gate.admit(scope((name, value)), "runs:write"), Pending)


def test_deciding_takes_no_coroutine() -> None:
    assert not inspect.iscoroutinefunction(Gate.admit)


def test_whoever_may_more_may_all_that_others_may() -> None:
    assert set(_HOLDERS) == set(PERMISSIONS)
    for permission, least in PERMISSIONS.items():
        assert Role.ADMIN in _HOLDERS[permission]
        assert least in _HOLDERS[permission]
        assert (Role.READ in _HOLDERS[permission]) is (least is Role.READ)


class Counting(Digests):
    """Digests that are counted."""

    def __init__(self) -> None:
        super().__init__("key")
        self.times = 0

    def __call__(self, text: str) -> str:
        self.times += 1
        return super().__call__(text)


class Empty:
    """A store without tokens, whose look-ups are counted."""

    def __init__(self) -> None:
        self.times = 0

    async def find(self, token_id: str) -> None:
        self.times += 1

    page = session_of = find


async def test_a_token_that_nobody_made_costs_what_any_other_does(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[str, str]] = []
    real = hmac.compare_digest

    def compare(one: str, two: str) -> bool:
        compared.append((one, two))
        return bool(real(one, two))

    monkeypatch.setattr("innkeeper.services.tokens.hmac.compare_digest", compare)
    digests, store = Counting(), Empty()
    parts: dict[str, Any] = {"vault": store, "sessions": store, "audit": None}
    tokens = Tokens(**parts, digests=digests, now=lambda: 1, random=bytes)
    assert await tokens.validate(FORMED) is Refusal.UNKNOWN
    assert (digests.times, store.times, len(compared)) == (1, 1, 1)
    assert [len(one) for one in compared[0]] == [64, 64]


def test_where_the_store_does_not_answer_nobody_is_let_in(tmp_path: Path) -> None:
    with running_inn(tmp_path) as inn, httpx2.Client(base_url=inn.url, timeout=20) as client:
        headers = {"x-api-key": a_token(inn.app.kernel.settings, "ann").text}
        with closing(sqlite3.connect(inn.database)) as file:
            file.execute("ALTER TABLE tokens RENAME TO hidden")
            file.commit()
            answer = client.get("/sessions", headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "STORAGE_UNAVAILABLE")
            assert [client.get(path, headers=headers).status_code for path in ("/live", "/health")] == [200, 200]
            assert client.get("/health", headers=headers).json() == {"status": "healthy"}
            assert client.get("/sessions").status_code == 200
            file.execute("ALTER TABLE hidden RENAME TO tokens")
            file.commit()
        assert client.get("/sessions", headers=headers).status_code == 200
