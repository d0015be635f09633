"""Credentials over HTTP and WebSocket: where they may stand, which are refused, and what they allow."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from innkeeper import ServerBase
from innkeeper.config import Settings, load_settings
from innkeeper.http.routes import needs, surface
from tests.support.inns import Inn, running_inn, serve_inn
from tests.support.tokens import a_revoked_token, a_token, an_expired_token, with_tokens

UNKNOWN = f"ik{'0' * 16}.{'A' * 43}"
HEADERS = ["api-token", "api_token", "x-api-key", "Authorization", "X-Session-Token"]
TOKEN_HEADERS = HEADERS[:4]


@dataclass
class House:
    """A server, and tokens that it knows."""

    inn: Inn
    is_forced: bool
    tokens: dict[str, str] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        return self.inn.app.kernel.settings

    def ask(self, headers: Mapping[str, str] | list[tuple[str, str]], path: str = "/sessions") -> httpx2.Response:
        return httpx2.get(f"{self.inn.url}{path}", headers=headers, timeout=20, trust_env=False)


@pytest.fixture(scope="module", params=[False, True], ids=["loopback", "FORCE_AUTH"])
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with running_inn(tmp_path_factory.mktemp("data"), force_auth=request.param) as inn:
        house = House(inn, request.param)
        settings = house.settings
        house.tokens = {
            "ann": a_token(settings, "ann").text,
            "bob": a_token(settings, "bob").text,
            "revoked": a_revoked_token(settings),
            "expired": an_expired_token(settings),
        }
        yield house


def sent(header: str, text: str) -> dict[str, str]:
    return {header: f"Bearer {text}".rstrip() if header == "Authorization" else text}


@pytest.mark.parametrize("header", TOKEN_HEADERS)
@pytest.mark.parametrize("text", ["", "null", "undefined"])
def test_what_says_nothing_is_no_credential(house: House, header: str, text: str) -> None:
    expected = 401 if house.is_forced else 200
    assert house.ask(sent(header, text)).status_code == expected
    assert house.ask({}).status_code == expected


@pytest.mark.parametrize("value", ["Basic YW5uOnB3", "Bearer", "Bear er", "Digest x", "Token abc", "Bearer null"])
def test_another_scheme_is_no_credential(house: House, value: str) -> None:
    assert house.ask({"Authorization": value}).status_code == (401 if house.is_forced else 200)


def test_a_token_under_another_scheme_counts_neither_for_nor_against(house: House) -> None:
    other = {"Authorization": f"Basic {house.tokens['revoked']}"}
    assert house.ask(other).status_code == (401 if house.is_forced else 200)
    assert house.ask({**other, "x-api-key": house.tokens["ann"]}).status_code == 200


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("text", ["sk-1234", UNKNOWN, "ik", "A" * 7000, f"{UNKNOWN}=", "' OR 1=1 --", "st_" + "A" * 43])
def test_what_matches_nothing_is_ignored_for_the_local_user_only(house: House, header: str, text: str) -> None:
    answer = house.ask(sent(header, text))
    assert answer.status_code == (401 if house.is_forced else 200)
    if house.is_forced:
        assert answer.json()["error"]["code"] == "UNAUTHORIZED"
        assert answer.headers["www-authenticate"] == "Bearer"
        assert text[:40] not in answer.text


@pytest.mark.parametrize("header", TOKEN_HEADERS)
def test_a_revoked_or_expired_token_is_refused_everywhere(house: House, header: str) -> None:
    for state in ("revoked", "expired"):
        answer = house.ask(sent(header, house.tokens[state]))
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "UNAUTHORIZED")
        assert state in answer.json()["error"]["message"]


@pytest.mark.parametrize("header", TOKEN_HEADERS)
def test_a_token_is_its_users(house: House, header: str) -> None:
    for name in ("ann", "bob"):
        with httpx2.Client(base_url=house.inn.url, headers=sent(header, house.tokens[name])) as client:
            made = client.post("/sessions", json={"id": f"{name}-{header.lower()}"})
            assert made.status_code == 201
            listed = {session["id"] for session in client.get("/sessions").json()["sessions"]} - {"ws"}
        assert made.json()["id"] in listed
        assert {one.partition("-")[0] for one in listed} == {name}


@pytest.mark.parametrize("form", ["Bearer {}", "bearer {}", "BEARER   {}"])
def test_the_name_of_the_scheme_is_of_either_case(house: House, form: str) -> None:
    assert house.ask({"Authorization": form.format(house.tokens["ann"])}).status_code == 200


@pytest.mark.parametrize("first", HEADERS)
@pytest.mark.parametrize("second", HEADERS)
def test_two_credentials_that_differ_are_refused(house: House, first: str, second: str) -> None:
    pairs = [(house.tokens["ann"], house.tokens["bob"]), (house.tokens["ann"], "sk-1"), ("sk-1", "sk-2")]
    for one, two in pairs:
        for texts in ((one, two), (two, one)):
            headers = [*sent(first, texts[0]).items(), *sent(second, texts[1]).items()]
            assert house.ask(headers).status_code == 401, (headers, house.is_forced)


def test_the_same_token_in_several_headers_is_one(house: House) -> None:
    headers = {name: value for header in TOKEN_HEADERS for name, value in sent(header, house.tokens["ann"]).items()}
    assert house.ask({**headers, "X-Session-Token": "null"}).status_code == 200


def test_a_token_in_the_query_is_no_credential(house: House) -> None:
    for name in ("api-token", "api_token", "x-api-key", "token", "access_token", "authorization"):
        answer = house.ask({}, f"/sessions?{name}={house.tokens['revoked']}")
        assert answer.status_code == (401 if house.is_forced else 200)


def test_whoever_asks_for_life_hears_of_it_whatever_it_presents(house: House) -> None:
    odd = [{"x-api-key": text} for text in ("sk-1", UNKNOWN, house.tokens["revoked"], house.tokens["expired"], "null")]
    for headers in [*odd, {"x-api-key": "a", "api-token": "b"}, {}]:
        assert [house.ask(headers, path).status_code for path in ("/live", "/ready", "/health")] == [200] * 3
    assert house.ask(sent("x-api-key", house.tokens["ann"]), "/health").json()["version"]
    assert ("version" in house.ask({}, "/health").json()) is not house.is_forced
    assert "version" not in house.ask(sent("x-api-key", house.tokens["revoked"]), "/health").json()


def test_a_path_that_leads_nowhere_is_told_as_before(house: House) -> None:
    for headers in ({}, sent("x-api-key", house.tokens["ann"]), sent("x-api-key", house.tokens["revoked"])):
        assert house.ask(headers, "/nothing/at/all").status_code == 404


# roles and scopes

GUARDED = ("control:read", "control:write", "code:write", "observability:read", "server:admin")


@pytest.fixture(scope="module", params=[False, True], ids=["loopback", "FORCE_AUTH"])
def guarded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server with a route for each of these permissions, `/guarded/{permission}`."""
    settings = load_settings({"data_dir": tmp_path_factory.mktemp("data"), "force_auth": request.param})
    app = ServerBase(settings=settings)
    router = surface(prefix="/guarded", tags=["Tests"])
    for permission in GUARDED:

        async def hello() -> dict[str, bool]:
            return {"hello": True}

        router.add_api_route(f"/{permission}", hello, openapi_extra=needs(permission))
    app.include_router(router)
    with serve_inn(app) as inn:
        yield House(inn, request.param)


MAY: dict[tuple[str, tuple[str, ...]], set[str]] = {
    ("read", ()): {"control:read"},
    ("user", ()): {"control:read", "control:write"},
    ("admin", ()): set(GUARDED),
    ("user", ("code",)): {"control:read", "control:write", "code:write"},
    ("read", ("code",)): {"control:read", "code:write"},
    ("user", ("observability",)): {"control:read", "control:write", "observability:read"},
    ("user", ("impersonate",)): {"control:read", "control:write"},
}


@pytest.mark.parametrize(("role", "scopes"), MAY)
def test_roles_and_scopes_allow_what_they_are_for(guarded: House, role: str, scopes: tuple[str, ...]) -> None:
    text = a_token(guarded.settings, "ann", role, scopes=scopes).text
    answers = {one: guarded.ask(sent("Authorization", text), f"/guarded/{one}") for one in GUARDED}
    assert {one for one, answer in answers.items() if answer.status_code == 200} == MAY[role, scopes]
    for one, answer in answers.items():
        if answer.status_code != 200:
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "FORBIDDEN")
            assert one in answer.json()["error"]["message"]


def test_the_local_user_sees_the_servers_figures_and_is_never_an_admin(guarded: House) -> None:
    for headers in ({}, {"x-api-key": "sk-1"}):
        found = {one: guarded.ask(headers, f"/guarded/{one}").status_code for one in GUARDED}
        if guarded.is_forced:
            assert set(found.values()) == {401}
        else:
            assert {one for one, status in found.items() if status == 200} == {
                "control:read", "control:write", "observability:read",
            }  # fmt: skip
            assert {found["code:write"], found["server:admin"]} == {403}


def test_the_route_of_an_admin_is_refused_before_anything_else_is_looked_at(guarded: House) -> None:
    text = a_token(guarded.settings, "ann").text
    answer = httpx2.post(f"{guarded.inn.url}/guarded/server:admin", headers=sent("x-api-key", text), content=b"{")
    assert answer.status_code == 403


# WebSockets


def offers(*texts: str) -> list[Subprotocol]:
    return [Subprotocol("innkeeper"), *(Subprotocol(f"innkeeper.token.{text}") for text in texts)]


def turn(house: House, **options: Any) -> dict[str, Any]:
    """One turn of a chat over a WebSocket: its last frame, and what subprotocol was agreed on."""
    with connect(f"ws{house.inn.url.removeprefix('http')}/ws/chat", **options) as socket:
        socket.send(json.dumps({"input": "Hi", "session_id": "ws"}))
        while True:
            frame: dict[str, Any] = json.loads(socket.recv(timeout=10))
            if frame["type"] in ("done", "error"):
                return {**frame, "subprotocol": socket.subprotocol}


def refused(house: House, **options: Any) -> int:
    with pytest.raises(InvalidStatus) as refusal, connect(f"ws{house.inn.url.removeprefix('http')}/ws/chat", **options):
        pass
    return refusal.value.response.status_code


def test_a_websocket_takes_a_token_as_subprotocol_and_as_header(house: House) -> None:
    by_subprotocol = turn(house, subprotocols=offers(house.tokens["ann"]))
    assert (by_subprotocol["status"], by_subprotocol["subprotocol"]) == ("completed", "innkeeper")
    by_header = turn(house, additional_headers=sent("Authorization", house.tokens["ann"]))
    assert (by_header["status"], by_header["subprotocol"]) == ("completed", None)
    assert by_header["session_id"] == by_subprotocol["session_id"]
    messages = house.ask(sent("x-api-key", house.tokens["ann"]), "/sessions/ws").json()["messages"]
    assert len(messages) >= 4


@pytest.mark.parametrize("state", ["revoked", "expired"])
def test_a_websocket_is_refused_before_it_is_accepted(house: House, state: str) -> None:
    text = house.tokens[state]
    assert refused(house, subprotocols=offers(text)) == 403
    assert refused(house, additional_headers=sent("x-api-key", text)) == 403
    assert refused(house, subprotocols=offers(house.tokens["ann"], house.tokens["bob"])) == 403
    differing = {"subprotocols": offers(house.tokens["ann"]), "additional_headers": {"x-api-key": house.tokens["bob"]}}
    assert refused(house, **differing) == 403


def test_a_websocket_with_nothing_that_matches_is_the_local_users(house: House) -> None:
    for options in ({}, {"subprotocols": offers()}, {"subprotocols": offers("sk-1")}, {"subprotocols": offers("null")}):
        if house.is_forced:
            assert refused(house, **options) == 403
        else:
            assert turn(house, **options)["status"] == "completed"


def test_a_connection_outlives_no_revocation(house: House) -> None:
    made = a_token(house.settings, "cat")
    with connect(f"ws{house.inn.url.removeprefix('http')}/ws/chat", subprotocols=offers(made.text)) as socket:
        with_tokens(house.settings, lambda tokens: tokens.revoke(made.text))
        last = time.monotonic() + 1
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                began = time.monotonic()
                socket.send(json.dumps({"input": "Hi"}))
                while (frame := json.loads(socket.recv(timeout=10)))["type"] not in ("done", "error"):
                    pass
                assert (frame["type"] == "done" and began < last) or frame["error"]["code"] == "UNAUTHORIZED"
                time.sleep(0.03)  # no faster than connections may speak
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 4401


# what is kept


def test_only_digests_are_on_disk(house: House) -> None:
    for text in house.tokens.values():
        house.ask(sent("x-api-key", text))
    secrets = [text.partition(".")[2].encode() for text in house.tokens.values()]
    database = house.inn.database
    files = [path for path in database.parent.iterdir() if path.is_file()]
    assert {database.name, f"{database.name}-wal"} <= {path.name for path in files}
    kept = b"".join(path.read_bytes() for path in files)
    assert house.tokens["ann"].partition(".")[0].encode() in kept
    assert [secret for secret in secrets if secret in kept] == []


def test_when_a_token_was_used_last_is_written_behind(house: House) -> None:
    made = a_token(house.settings, "dan")
    assert house.ask(sent("x-api-key", made.text)).status_code == 200
    with closing(sqlite3.connect(house.inn.database)) as database:
        for _ in range(1000):
            rows = database.execute("SELECT last_used_at FROM tokens WHERE id = ?", (made.token.id,)).fetchall()
            if rows != [(None,)]:
                break
            house.ask({}, "/live")
    assert rows[0][0] >= made.token.created_at
