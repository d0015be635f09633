"""A session's token opens that session and nothing else, however a path is spelled."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from starlette.routing import WebSocketRoute
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from innkeeper import ServerBase, load_settings
from innkeeper.core.identity import LOCAL_CALLER
from innkeeper.http.deps import CallerDep, ServicesDep
from innkeeper.http.dispatching import Dispatcher
from innkeeper.http.routes import needs, surface
from tests.support.inns import UNCOUNTED, Inn, serve_inn
from tests.support.tokens import a_session_with_token, a_token

MINE, OTHER = "mine", "other"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")

router = surface(prefix="/api/sessions", tags=["Tests"])


@router.api_route("/{session_id}/look/{name}", methods=["GET", "POST", "DELETE"], openapi_extra=needs("control:write"))
async def look(
    session_id: str, name: str, caller: CallerDep, services: ServicesDep, user_id: str | None = None
) -> dict[str, str]:
    """What a route of a session sees."""
    session = await services.sessions.get(caller, session_id, user_id)
    return {"key": session.key, "user_id": session.user_id, "name": name}


@router.post("/{session_id}/code", openapi_extra=needs("code:write"))
async def register(session_id: str) -> dict[str, str]:
    """Stands for the routes that take source code."""
    return {"session_id": session_id}


@dataclass
class Guest:
    """A client that has the token of the session `mine` of the local user, and sends paths as they are."""

    inn: Inn
    token: str
    secret: str
    """The key of the session `other`, which must never be told."""

    def ask(self, path: str, method: str = "GET", body: str | None = None, **headers: str) -> tuple[int, str]:
        address = urlsplit(self.inn.url)
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=20)
        try:
            sent = {"X-Session-Token": self.token, "content-type": "application/json", **headers}
            connection.request(method, path, body, {name: value for name, value in sent.items() if value})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def socket(self, path: str, **options: Any) -> int:
        """The status with which a WebSocket is answered."""
        try:
            with connect(f"ws{self.inn.url.removeprefix('http')}{path}", **options):
                return 101
        except InvalidStatus as refusal:
            return refusal.response.status_code

    @property
    def offer(self) -> dict[str, Any]:
        return {"subprotocols": [Subprotocol("innkeeper"), Subprotocol(f"innkeeper.token.{self.token}")]}


@pytest.fixture(scope="module", params=[False, True], ids=["loopback", "FORCE_AUTH"])
def guest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    settings = load_settings({"data_dir": tmp_path_factory.mktemp("data"), "force_auth": request.param, **UNCOUNTED})
    app = ServerBase(settings=settings)
    app.include_router(router)
    with serve_inn(app) as inn:
        a_session_with_token(settings, MINE, LOCAL_CALLER, "zoe")
        a_session_with_token(settings, OTHER, LOCAL_CALLER)
        token = a_session_with_token(settings, MINE, LOCAL_CALLER)
        admin = a_token(settings, "local", "admin", organization="local").text
        guest = Guest(inn, token, "")
        headers = {"X-Session-Token": "", "x-api-key": admin}
        status, text = guest.ask(f"/api/sessions/{OTHER}/look/x", **headers)
        assert status == 200
        guest.secret = json.loads(text)["key"]
        yield guest


def test_a_sessions_token_opens_the_session(guest: Guest) -> None:
    for path in (f"/api/sessions/{MINE}/look/x", "/api/sessions/%6d%69%6e%65/look/x"):
        for method in ("GET", "POST", "DELETE"):
            status, text = guest.ask(path, method)
            assert (status, json.loads(text)["user_id"]) == (200, "local")


SPELLINGS = [
    OTHER,
    quote(OTHER, safe="").replace("o", "%6f"),
    "%6F%74%68%65%72",
    OTHER.upper(),
    MINE.upper(),
    f"{MINE}%2f..%2f{OTHER}",
    f"{MINE}/../{OTHER}",
    f"{MINE}/..%2f{OTHER}",
    f"{MINE}%2F..%2F{OTHER}",
    f"{MINE}%252f..%252f{OTHER}",
    f"{OTHER}%2f..%2f{MINE}",
    f"{OTHER}/../{MINE}",
    f"{OTHER};{MINE}",
    f"{MINE};/../{OTHER}",
    f"{MINE}%00",
    f"{MINE}%20",
    f"{MINE}.",
    f"./{OTHER}",
    f"/{OTHER}",
    f"{MINE}//../{OTHER}",
    f"{MINE}\\..\\{OTHER}",
    f"{OTHER}%23{MINE}",
    f"{OTHER}%3f{MINE}",
    f"%2e%2e/sessions/{OTHER}",
    f"..%2fsessions%2f{OTHER}",
    "none",
    "",
]


@pytest.mark.parametrize("spelled", SPELLINGS)
def test_no_spelling_of_another_session_is_let_through(guest: Guest, spelled: str) -> None:
    for method in METHODS:
        for path in (f"/api/sessions/{spelled}/look/x", f"/api/sessions/{spelled}", f"//api/sessions/{spelled}/look/x"):
            status, text = guest.ask(path, method)
            assert status in (403, 404), (method, path, status, text)
            assert guest.secret not in text


@pytest.mark.parametrize("query", ["user_id=zoe", "user_id=nobody", "user_id="])
def test_another_end_users_session_of_the_same_id_is_not_found(guest: Guest, query: str) -> None:
    status, text = guest.ask(f"/api/sessions/{MINE}/look/x?{query}")
    assert (status, json.loads(text)["error"]["code"]) == (404, "SESSION_NOT_FOUND")


def test_a_query_or_a_header_moves_no_session(guest: Guest) -> None:
    for tail in (f"?session_id={MINE}", f"?id={MINE}", f"#{MINE}"):
        assert guest.ask(f"/api/sessions/{OTHER}/look/x{tail}")[0] == 403
    for name in ("X-Original-URL", "X-Rewrite-URL", "X-HTTP-Method-Override"):
        assert guest.ask(f"/api/sessions/{OTHER}/look/x", **{name: f"/api/sessions/{MINE}/look/x"})[0] == 403


def test_every_other_route_is_closed_to_it(guest: Guest) -> None:
    """With the session's own id wherever a path has a place for one."""
    dispatcher = guest.inn.app.router.default
    assert isinstance(dispatcher, Dispatcher)
    refused = 0
    for route in dispatcher.routes:
        if isinstance(route, WebSocketRoute):
            continue
        path, is_public = getattr(route, "path", ""), getattr(route, "permission", "") == "public"
        if is_public:
            continue
        is_within = path == "/api/sessions/{session_id}" or path.startswith("/api/sessions/{session_id}/")
        target = path.replace("{agent}", "echo").replace("{session_id}", OTHER if is_within else MINE)
        target = target.replace("{", "").replace("}", "").replace(":path", "")
        for method in METHODS:
            status, text = guest.ask(target, method, "{}" if method in ("POST", "PUT", "PATCH") else None)
            assert status == 403, (method, target, status, text)
            refused += 1
    assert refused > 150


def test_it_is_nobody_where_anybody_may_ask(guest: Guest) -> None:
    status, text = guest.ask("/health")
    assert (status, json.loads(text)) == (200, {"status": "healthy"})


def test_it_cannot_register_code_in_its_own_session(guest: Guest) -> None:
    status, text = guest.ask(f"/api/sessions/{MINE}/code", "POST")
    assert (status, json.loads(text)["error"]["code"]) == (403, "FORBIDDEN")


def test_it_stands_in_its_own_header_only(guest: Guest) -> None:
    forced = guest.inn.app.kernel.settings.force_auth
    for header, value in (("Authorization", f"Bearer {guest.token}"), ("x-api-key", guest.token)):
        status, _ = guest.ask("/sessions", **{"X-Session-Token": "", header: value})
        assert status == (401 if forced else 200)  # it matches no token, as anything else would
    status, _ = guest.ask(f"/api/sessions/{MINE}/look/x", **{"x-api-key": "sk-1"})
    assert status == 401


def test_websockets_hold_to_the_same(guest: Guest) -> None:
    for options in (guest.offer, {"additional_headers": {"X-Session-Token": guest.token}}):
        assert guest.socket("/ws/chat", **options) == 403
        for spelled in (OTHER, f"{MINE}%2f..%2f{OTHER}", "%6F%74%68%65%72", f"{MINE}/../{OTHER}", "none"):
            assert guest.socket(f"/api/sessions/{spelled}/events/stream", **options) in (403, 404), spelled
        assert guest.socket(f"/api/sessions/{MINE}/events/stream", **options) == 101


def test_a_browser_is_answered_with_the_subprotocol_that_it_offered(guest: Guest) -> None:
    url = f"ws{guest.inn.url.removeprefix('http')}/api/sessions/{MINE}/events/stream"
    with connect(url, **guest.offer) as socket:
        assert socket.subprotocol == "innkeeper"
