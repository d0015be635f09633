"""Rates: who is counted as whom, what the headers say, and who is never turned away."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from innkeeper.config import Settings
from tests.support.inns import Inn, running_inn
from tests.support.tokens import a_revoked_token, a_token

RATES = {
    "rate_limit_anonymous": "3/minute",
    "rate_limit_user": "4/minute",
    "rate_limit_websocket": "2/minute",
    "rate_limit_failed_auth": "2/minute",
    "rate_limits": ["health=2/minute", "read/chat=1/hour", "admin=off"],
}
addresses = iter(f"127.0.{number // 250 + 1}.{number % 250 + 1}" for number in range(10_000))
"""Of this machine, one for each test, so that none finds what others have used up."""


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inn]:
    with running_inn(tmp_path_factory.mktemp("data"), force_auth=True, **RATES) as inn:
        yield inn


@pytest.fixture
def address() -> str:
    return next(addresses)


@pytest.fixture
def http(counting: Inn, address: str) -> Iterator[httpx2.Client]:
    with client(counting, address) as http:
        yield http


def client(inn: Inn, address: str) -> httpx2.Client:
    """One that comes from there."""
    return httpx2.Client(base_url=inn.url, timeout=20, transport=httpx2.HTTPTransport(local_address=address))


def of(inn: Inn) -> Settings:
    return inn.app.kernel.settings


def bearer(inn: Inn, user: str | None = None, role: str = "user") -> dict[str, str]:
    """The token of somebody whom no other test knows."""
    return {"authorization": f"Bearer {a_token(of(inn), user or uuid4().hex, role).text}"}


def wrong() -> dict[str, str]:
    return {"x-api-key": f"ik{uuid4().hex[:16]}.{'A' * 43}"}


def told(answer: httpx2.Response) -> tuple[int, str | None, str | None]:
    """The status, and the limit and what is left of it."""
    return answer.status_code, answer.headers.get("x-ratelimit-limit"), answer.headers.get("x-ratelimit-remaining")


def codes(answers: Any) -> list[int]:
    return [answer.status_code for answer in answers]


def test_without_a_token_an_address_is_counted_and_then_refused(http: httpx2.Client) -> None:
    assert [told(http.get("/agents")) for _ in range(3)] == [(401, "3", "2"), (401, "3", "1"), (401, "3", "0")]
    refused = http.get("/agents")
    assert told(refused) == (429, "3", "0")
    assert refused.json()["error"]["code"] == "RATE_LIMITED"
    assert refused.headers["x-should-retry"] == "true"
    assert 0 < int(refused.headers["x-ratelimit-reset"]) <= 60
    assert refused.headers["retry-after"] == refused.headers["x-ratelimit-reset"]
    assert re.search(rf"again in {refused.headers['retry-after']} s", refused.json()["detail"])


def test_addresses_are_counted_apart(http: httpx2.Client, counting: Inn) -> None:
    assert codes(http.get("/agents") for _ in range(4))[-1] == 429
    with client(counting, next(addresses)) as neighbour:
        assert told(neighbour.get("/agents")) == (401, "3", "2")


def test_a_user_is_counted_wherever_it_comes_from_and_with_whichever_token(
    http: httpx2.Client, counting: Inn, address: str
) -> None:
    first, second = bearer(counting, user=address), bearer(counting, user=address)
    assert [told(http.get("/agents", headers=one)) for one in (first, second)] == [(200, "4", "3"), (200, "4", "2")]
    with client(counting, next(addresses)) as elsewhere:
        assert codes(elsewhere.get("/agents", headers=first) for _ in range(3)) == [200, 200, 429]
    assert told(http.get("/agents", headers=bearer(counting))) == (200, "4", "3"), "somebody else is not concerned"
    assert told(http.get("/agents")) == (401, "3", "2"), "nor is who has no token"


def test_users_of_two_organizations_are_two(http: httpx2.Client, counting: Inn, address: str) -> None:
    for organization in ("acme", "globex"):
        token = a_token(of(counting), address, organization=organization).text
        assert told(http.get("/agents", headers={"x-api-key": token})) == (200, "4", "3")


def test_every_answer_that_is_counted_says_so_whatever_it_is(http: httpx2.Client, counting: Inn) -> None:
    headers = bearer(counting)
    assert told(http.get("/nothing/here", headers=headers)) == (404, "4", "3")
    assert told(http.post("/chat", content=b"{broken", headers=headers)) == (415, "4", "2")
    assert told(http.post("/tokens", json={}, headers=headers)) == (403, "4", "1"), "the rate comes before permissions"
    streamed = http.post("/chat", json={"input": "Hi", "stream": True}, headers=headers)
    assert told(streamed) == (200, "4", "0")
    assert told(http.post("/tokens", json={}, headers=headers)) == (429, "4", "0")
    assert told(http.get("/nothing/here", headers=headers)) == (429, "4", "0")


def test_a_foreign_host_or_origin_is_not_counted(http: httpx2.Client) -> None:
    for headers in ({"host": "evil.example"}, {"origin": "http://evil.example"}):
        assert told(http.get("/agents", headers=headers))[1:] == (None, None)
    assert told(http.get("/agents")) == (401, "3", "2")


def test_liveness_is_never_refused(http: httpx2.Client) -> None:
    assert codes(http.get("/agents") for _ in range(4))[-1] == 429
    for path in ("/live", "/ready"):
        assert {told(http.get(path)) for _ in range(10)} == {(200, None, None)}


def test_rates_of_a_group_and_of_a_role_in_a_group_hold_before_others(http: httpx2.Client, counting: Inn) -> None:
    reader = bearer(counting, role="read")
    assert told(http.get("/agents", headers=reader)) == (200, "1", "0")
    refused = http.get("/agents", headers=reader)
    assert told(refused) == (429, "1", "0")
    assert 60 < int(refused.headers["retry-after"]) <= 3600
    assert told(http.get("/health", headers=reader)) == (200, "2", "1")
    assert told(http.get("/api/sessions", headers=reader)) == (200, "4", "3")
    assert [told(http.get("/health")) for _ in range(3)] == [(200, "2", "1"), (200, "2", "0"), (429, "2", "0")]


def test_off_counts_nothing(http: httpx2.Client, counting: Inn) -> None:
    headers = bearer(counting, role="admin")
    assert {told(http.get("/agents", headers=headers)) for _ in range(10)} == {(200, None, None)}


def test_the_local_user_is_outside(tmp_path: Path) -> None:
    with running_inn(tmp_path, **RATES) as inn, httpx2.Client(base_url=inn.url, timeout=20) as http:
        assert {told(http.get("/agents")) for _ in range(10)} == {(200, None, None)}
        assert {told(http.get("/agents", headers=wrong())) for _ in range(10)} == {(200, None, None)}


# credentials that open nothing


@pytest.mark.parametrize(
    "headers",
    [wrong(), {"authorization": "Bearer sk-proj-none"}, {"x-api-key": "one", "api-token": "two"}],
    ids=["unknown", "ill-formed", "several"],
)
def test_wrong_credentials_are_counted_by_themselves(http: httpx2.Client, headers: dict[str, str]) -> None:
    assert [told(http.get("/agents", headers=headers)) for _ in range(3)] == [
        (401, "2", "1"),
        (401, "2", "0"),
        (429, "2", "0"),
    ]
    assert told(http.get("/agents")) == (401, "3", "2")


def test_a_right_token_works_from_where_too_many_wrong_ones_came(http: httpx2.Client, counting: Inn) -> None:
    revoked = {"x-api-key": a_revoked_token(of(counting))}
    assert codes(http.get("/agents", headers=revoked) for _ in range(4)) == [401, 401, 429, 429]
    assert told(http.get("/agents", headers=bearer(counting))) == (200, "4", "3")


def test_guesses_at_a_public_route_are_counted_and_answered_all_the_same(http: httpx2.Client) -> None:
    for _ in range(2):
        answer = http.get("/health", headers=wrong())
        assert (told(answer)[0], answer.json()) == (200, {"status": "healthy"})
    assert http.get("/agents", headers=wrong()).status_code == 429


# WebSockets


def handshake(inn: Inn, headers: dict[str, str], path: str = "/ws/chat") -> Any:
    return connect(f"ws{inn.url[4:]}{path}", additional_headers=headers, proxy=None)


def test_new_websockets_of_a_user_are_counted_and_refused_with_429(counting: Inn) -> None:
    headers = bearer(counting)
    for _ in range(2):
        handshake(counting, headers).close()
    for path in ("/ws/chat", "/api/sessions/s/events/stream"):
        with pytest.raises(InvalidStatus) as refused:
            handshake(counting, headers, path)
        response = refused.value.response
        assert response.status_code == 429
        assert (response.headers["x-ratelimit-limit"], response.headers["x-ratelimit-remaining"]) == ("2", "0")
        assert 0 < int(response.headers["retry-after"]) <= 60
        assert json.loads(response.body)["error"]["code"] == "RATE_LIMITED"
    handshake(counting, bearer(counting)).close()


def test_a_sessions_token_is_counted_where_it_opens_nothing(http: httpx2.Client, counting: Inn) -> None:
    made = http.post("/api/sessions", json={}, headers=bearer(counting))
    guest = {"x-session-token": made.json()["session_token"]}
    assert told(made)[0] == 201
    assert [http.get("/sessions", headers=guest).status_code for _ in range(4)] == [403, 403, 403, 429]


def test_turns_on_a_websocket_are_counted_as_requests(counting: Inn) -> None:
    ends = []
    with handshake(counting, bearer(counting)) as connection:
        for _ in range(5):
            connection.send(json.dumps({"input": "Hi"}))
            while (frame := json.loads(connection.recv(timeout=10)))["type"] not in ("done", "error"):
                pass
            ends.append(frame["type"])
    assert ends == ["done"] * 4 + ["error"]
    assert frame["error"]["code"] == "RATE_LIMITED"


# together


def test_servers_that_share_a_redis_allow_exactly_as_many_in_all(tmp_path: Path, redis_url: str) -> None:
    user, rates = uuid4().hex, {"rate_limit_user": "40/minute", "redis_url": redis_url}
    with ExitStack() as stack:
        inns = [stack.enter_context(running_inn(tmp_path / name, force_auth=True, **rates)) for name in "ab"]
        asks = [(inn, bearer(inn, user=user)) for inn in inns]

        def ask(number: int) -> list[tuple[int, str | None, str | None]]:
            inn, headers = asks[number % 2]
            with httpx2.Client(base_url=inn.url, timeout=20, headers=headers) as http:
                return [told(http.get("/agents")) for _ in range(2)]

        with ThreadPoolExecutor(50) as pool:
            answers = [one for both in pool.map(ask, range(50)) for one in both]
    allowed = [remaining for status, _, remaining in answers if status == 200]
    assert sorted(map(int, filter(None, allowed))) == list(range(40))
    assert {one for one in answers if one[0] != 200} == {(429, "40", "0")}
