"""Every route of the server × everything that is no credential × every spelling of its path: nobody gets in.

The routes are those of the dispatcher, so that a new one is here by itself. What is sent is written by hand on real
connections, because clients tidy paths up.
"""

from __future__ import annotations

import http.client
import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.routing import WebSocketRoute

from innkeeper.http.dispatching import Dispatcher
from innkeeper.http.gates import PERMISSIONS, PUBLIC
from innkeeper.http.routes import SurfaceRoute
from tests.support.inns import running_inn
from tests.support.sizes import sized
from tests.support.tokens import a_revoked_token, a_token, an_expired_token

Headers = list[tuple[str, str]]

LIVENESS = {"/live", "/ready", "/health", "/api/health"}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
HANDSHAKE = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
]


@dataclass
class Stronghold:
    """A server that lets nobody in without a token, what presents none, and a token that it knows."""

    port: int
    routes: Sequence[Any]
    credentials: dict[str, Headers]
    token: str

    def connect(self) -> closing[http.client.HTTPConnection]:
        return closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20))


@pytest.fixture(scope="module")
def stronghold(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stronghold]:
    unlimited = {f"rate_limit_{name}": "off" for name in ("failed_auth", "anonymous", "user", "websocket")}
    with running_inn(tmp_path_factory.mktemp("data"), force_auth=True, **unlimited) as inn:
        settings, dispatcher = inn.app.kernel.settings, inn.app.router.default
        assert isinstance(dispatcher, Dispatcher)
        port = urlsplit(inn.url).port
        assert port is not None
        ann, revoked, expired = (
            a_token(settings, "ann", "admin").text,
            a_revoked_token(settings),
            an_expired_token(settings),
        )
        yield Stronghold(port, dispatcher.routes, credentials_of(ann, revoked, expired), ann)


def credentials_of(token: str, revoked: str, expired: str) -> dict[str, Headers]:
    other = f"{token[:18]}.{'A' * 43}"
    return {
        "no token": [],
        "empty": [("x-api-key", ""), ("Authorization", "Bearer "), ("api-token", " "), ("api_token", "")],
        "null": [("Authorization", "Bearer null")],
        "wrong": [("x-api-key", other)],
        "nonsense": [("api-token", token[:-1])],
        "revoked": [("api_token", revoked)],
        "expired": [("Authorization", f"Bearer {expired}")],
        "another scheme": [("Authorization", f"Basic {token}")],
        "two that differ": [("Authorization", f"Bearer {token}"), ("x-api-key", other)],
        "signed by nobody": [("Authorization", "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbm4ifQ.AAAA")],
    }


def filled(path: str) -> str:
    """A path of the route's, with names that there might be in the place of its parameters."""
    return re.sub(r"\{(\w+)(:\w+)?\}", lambda found: "echo" if "agent" in found[1] else "one", path)


def spellings(path: str) -> Iterator[str]:
    """Ways of writing a path that some server may take for the same."""
    head, _, tail = path.rpartition("/")
    if head:
        yield from (f"{head};/{tail}", f"{head}%2f{tail}", f"{head}%5c{tail}")
    yield from (path.upper(), path.title(), f"/{path}", f"{head}//{tail}", f"{path}/", f"{path}//")
    yield from (f"/.{path}", f"/%2e{path}", f"{head}/./{tail}", f"{head}/%2E/{tail}", f"/one/..{path}", f"{path}/.")
    yield from (f"{path};x", f"{path};x=/live", f"/%2f{path[1:]}", f"/%5c{path[1:]}", f"{path}%2f")
    yield from (f"/%{ord(path[1]):x}{path[2:]}", f"{path}%00", f"{path}%20", f"{path}%0a", f"/live/..{path}")
    yield from (f"{path}?", f"{path}?path=/live", f"{path}%3f", f"{path}.json", f"{path}#x")


def status(connection: http.client.HTTPConnection, method: str, target: str, headers: Headers) -> int:
    connection.putrequest(method, target, skip_accept_encoding=True)
    for name, value in headers:
        connection.putheader(name, value)
    if method in ("POST", "PUT", "PATCH"):
        connection.putheader("Content-Length", "0")
    connection.endheaders()
    answer = connection.getresponse()
    answer.read()
    return answer.status


def guarded(stronghold: Stronghold) -> Iterator[tuple[str, str]]:
    """A method and a path of every route but those of liveness."""
    for route in stronghold.routes:
        if isinstance(route, SurfaceRoute) and route.permission != PUBLIC:
            yield from ((method, filled(route.path)) for method in sorted(route.methods or ()))


def test_what_is_tried_would_let_somebody_in(stronghold: Stronghold) -> None:
    assert len(list(guarded(stronghold))) > 50
    for headers in ([("x-api-key", stronghold.token)], [("Authorization", f"Bearer {stronghold.token}")]):
        with stronghold.connect() as connection:
            assert status(connection, "GET", "/agents", headers) == 200


def test_only_liveness_is_public(stronghold: Stronghold) -> None:
    public = {route.path for route in stronghold.routes if getattr(route, "permission", None) == PUBLIC}
    assert public == LIVENESS


def test_no_route_answers_anything_that_is_no_credential(stronghold: Stronghold) -> None:
    wrong = []
    with stronghold.connect() as connection:
        for method, path in guarded(stronghold):
            for name, headers in stronghold.credentials.items():
                if (found := status(connection, method, path, headers)) != 401:
                    wrong.append((method, path, name, found))
    assert wrong == []


def test_no_method_that_a_route_does_not_take_is_told_to_strangers(stronghold: Stronghold) -> None:
    wrong = []
    with stronghold.connect() as connection:
        for path in sorted({path for _, path in guarded(stronghold)}):
            for method in METHODS:
                if (found := status(connection, method, path, stronghold.credentials["wrong"])) != 401:
                    wrong.append((method, path, found))
    assert wrong == []


def test_no_spelling_of_a_path_leads_in(stronghold: Stronghold) -> None:
    """Each spelling with three of what is no credential, by turns; INNKEEPER_TEST_FULL=1 has it tried with all."""
    wrong, turn = [], itertools.cycle(stronghold.credentials.items())
    count = sized(len(stronghold.credentials), 3)
    with stronghold.connect() as connection:
        for method, path in guarded(stronghold):
            for spelling in spellings(path):
                for name, headers in itertools.islice(turn, count):
                    if (found := status(connection, method, spelling, headers)) not in (401, 404):
                        wrong.append((method, spelling, name, found))
    assert wrong == []


def test_a_token_in_the_query_leads_nowhere(stronghold: Stronghold) -> None:
    wrong = []
    names = ("token", "access_token", "api_key", "api-token", "x-api-key", "ticket", "authorization")
    query = "&".join(f"{name}={stronghold.token}" for name in names)
    with stronghold.connect() as connection:
        for method, path in guarded(stronghold):
            if (found := status(connection, method, f"{path}?{query}", [])) != 401:
                wrong.append((method, path, found))
    assert wrong == []


# WebSockets


def sockets(stronghold: Stronghold) -> list[str]:
    return [filled(route.path) for route in stronghold.routes if isinstance(route, WebSocketRoute)]


def test_every_websocket_declares_who_may_open_it(stronghold: Stronghold) -> None:
    routes = [route for route in stronghold.routes if not isinstance(route, SurfaceRoute)]
    assert routes
    for route in routes:
        assert isinstance(route, WebSocketRoute), f"{route} is neither a route of ours nor a WebSocket"
        declared = getattr(sys.modules[route.endpoint.__module__], "PERMISSION", None)
        assert declared in PERMISSIONS, f"the module of {route.path} declares no PERMISSION"


def test_no_websocket_is_opened_by_anything_that_is_no_credential(stronghold: Stronghold) -> None:
    token, wrong = stronghold.token, []
    offers = {
        name: [("Sec-WebSocket-Protocol", f"innkeeper, innkeeper.token.{text}")]
        for name, text in {"offers nonsense": token[:-1], "offers null": "null", "offers nothing": ""}.items()
    }
    offers["offers two"] = [
        ("Sec-WebSocket-Protocol", f"innkeeper.token.{token}, innkeeper.token.{token[:18]}.{'A' * 43}")
    ]
    for path in sockets(stronghold):
        for target in (path, *spellings(path), f"{path}?token={token}"):
            for name, headers in (stronghold.credentials | offers).items():
                with stronghold.connect() as connection:
                    found = status(connection, "GET", target, [*HANDSHAKE, *headers])
                if found not in (401, 403, 404):
                    wrong.append((target, name, found))
    assert wrong == []


def test_the_same_handshake_with_a_token_opens_it(stronghold: Stronghold) -> None:
    headers = [*HANDSHAKE, ("Sec-WebSocket-Protocol", f"innkeeper, innkeeper.token.{stronghold.token}")]
    with stronghold.connect() as connection:
        connection.putrequest("GET", "/ws/chat")
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders()
        with connection.getresponse() as answer:
            assert answer.status == 101
