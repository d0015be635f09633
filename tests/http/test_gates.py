"""The gate: who is let near anything, and in which order they are turned away."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from innkeeper import ServerBase
from innkeeper.config import load_settings
from innkeeper.core.errors import SetupError
from innkeeper.http.dispatching import Dispatcher
from innkeeper.http.routes import SurfaceRoute
from tests.support.inns import UNCOUNTED, Inn
from tests.support.servers import serve_app

PROXIED = [
    {"x-forwarded-for": "127.0.0.1"},
    {"X-Forwarded-Host": "localhost"},
    {"x-forwarded-proto": "https"},
    {"x-forwarded-port": "443"},
    {"forwarded": "for=127.0.0.1"},
    {"x-real-ip": "127.0.0.1"},
    {"via": "1.1 proxy"},
]


@pytest.mark.parametrize("headers", PROXIED, ids=lambda headers: next(iter(headers)))
def test_request_that_came_through_a_proxy_is_not_local(http: httpx2.Client, headers: dict[str, str]) -> None:
    answer = http.post("/chat", json={"input": "Hi"}, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "UNAUTHORIZED")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "10.0.0.1", "[::2]", ""]
)
@pytest.mark.parametrize("path", ["/chat", "/live", "/nothing", "/echo"])
def test_foreign_host_is_misdirected_on_every_path(http: httpx2.Client, host: str, path: str) -> None:
    answer = http.post(path, json={"input": "Hi"}, headers={"host": host})
    assert (answer.status_code, answer.json()["error"]["code"]) == (421, "MISDIRECTED_REQUEST")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:80", "[::1]:8000"])
def test_loopback_names_are_ours(http: httpx2.Client, host: str) -> None:
    assert http.post("/chat", json={"input": "Hi"}, headers={"host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1", "file://", ""])
@pytest.mark.parametrize("path", ["/chat", "/live", "/nothing"])
def test_foreign_origin_is_forbidden_on_every_path(http: httpx2.Client, origin: str, path: str) -> None:
    answer = http.post(path, json={"input": "Hi"}, headers={"origin": origin})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "FORBIDDEN")


def test_own_origin_is_welcome(http: httpx2.Client, inn: Inn) -> None:
    assert http.post("/chat", json={"input": "Hi"}, headers={"origin": inn.url}).status_code == 200


def test_gates_stand_in_their_order(http: httpx2.Client) -> None:
    """Each request has every fault from one gate on; taking the first fault away shows the next gate."""
    faults = {
        421: {"host": "evil.example"},
        403: {"origin": "http://evil.example"},
        401: {"via": "1.1 proxy"},
        413: {"content-length": str(11 * 1024 * 1024)},
        415: {"content-type": "text/plain"},
    }
    body = b"{broken"
    while faults:
        headers = {"content-type": "application/json"}
        for fault in faults.values():
            headers |= fault
        expected = next(iter(faults))
        if "content-length" in headers:
            answer = http.post("/chat", content=_endless(body), headers=_chunked(headers))
        else:
            answer = http.post("/chat", content=body, headers=headers)
        assert answer.status_code == expected, answer.text
        del faults[expected]
    assert http.post("/chat", content=body, headers={"content-type": "application/json"}).status_code == 400
    assert http.post("/chat", json={"input": ""}).status_code == 422


def _endless(body: bytes) -> Iterator[bytes]:
    yield body
    for _ in range(11):
        yield b" " * 1024 * 1024


def _chunked(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name != "content-length"}


def test_wrong_method_is_told_only_to_those_who_may_ask(http: httpx2.Client) -> None:
    assert http.delete("/chat").status_code == 405
    assert http.delete("/chat", headers={"via": "1.1 proxy"}).status_code == 401
    assert http.delete("/chat", headers={"host": "evil.example"}).status_code == 421


def test_no_route_but_liveness_answers_without_credentials(tmp_path: Path) -> None:
    app = ServerBase(settings=load_settings({"data_dir": tmp_path, "force_auth": True, **UNCOUNTED}))
    app.agent("echo")(lambda messages: "Hi")
    dispatcher = app.router.default
    assert isinstance(dispatcher, Dispatcher)
    open_paths = set()
    with serve_app(app) as url, httpx2.Client(base_url=url) as http:
        for route in dispatcher.routes:
            if not isinstance(route, SurfaceRoute):
                continue
            path = route.path.replace("{agent}", "echo")
            for method in route.methods or ():
                answer = http.request(method, path, json={"input": "Hi"})
                if answer.status_code != 401:
                    open_paths.add(route.path)
    assert open_paths == {"/live", "/ready", "/health", "/api/health"}


def test_authentication_can_be_switched_off(tmp_path: Path) -> None:
    app = ServerBase(settings=load_settings({"data_dir": tmp_path, "auth_enabled": False}))
    app.agent("echo")(lambda messages: "Hi")
    with serve_app(app) as url:
        assert httpx2.post(f"{url}/chat", json={"input": "Hi"}, headers={"via": "1.1 proxy"}).status_code == 200


def test_allowed_hosts_are_answered_for_but_are_not_local(tmp_path: Path) -> None:
    app = ServerBase(settings=load_settings({"data_dir": tmp_path, "allowed_hosts": "Inn.Example"}))
    app.agent("echo")(lambda messages: "Hi")
    with serve_app(app) as url:
        named = {"host": "inn.example:8000"}
        assert httpx2.get(f"{url}/live", headers=named).status_code == 200
        assert httpx2.post(f"{url}/chat", json={"input": "Hi"}, headers=named).status_code == 401


def test_two_hosts_are_refused(inn: Inn) -> None:
    address = urlsplit(inn.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(
            b"GET /agents HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
        )
        assert connection.recv(100).split(b" ")[1] in (b"400", b"421")


def test_any_origin_is_allowed_only_where_everybody_needs_a_token(tmp_path: Path) -> None:
    for settings in ({}, {"force_auth": True, "auth_enabled": False}):
        with pytest.raises(SetupError, match=r"CORS_ORIGINS is \*.*FORCE_AUTH=true"):
            ServerBase(settings=load_settings({"data_dir": tmp_path, "cors_origins": "*", **settings}))
    app = ServerBase(settings=load_settings({"data_dir": tmp_path, "cors_origins": "*", "force_auth": True}))
    with serve_app(app) as url:
        answer = httpx2.get(f"{url}/health", headers={"origin": "http://page.example"})
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers
        assert httpx2.get(f"{url}/sessions", headers={"origin": "http://page.example"}).status_code == 401


def test_server_without_authentication_says_so_loudly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with serve_app(ServerBase(settings=load_settings({"data_dir": tmp_path, "auth_enabled": False}))):
        pass
    assert "AGENT_AUTH_ENABLED is false: whoever can reach this server runs its agents" in caplog.text
