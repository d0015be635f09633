"""Tenants over one server: nothing of one is told to another, whatever ids of it are put wherever an id may stand.

The operations are those of `/openapi.json`, the WebSockets those of the app's routes, and the ids those of the other's
answers: a route that is added is tried as well.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.routing import APIWebSocketRoute
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from innkeeper import ServerBase
from innkeeper.config import load_settings
from innkeeper.http.dispatching import Dispatcher
from tests.support.databases import a_copy_of, a_migrated_database
from tests.support.inns import Inn, serve_inn
from tests.support.probes import Document, Operation, Place, shown, unknown_like
from tests.support.sizes import IS_FULL
from tests.support.tenants import Asking, Tenant, fill

Json = dict[str, Any]
SETTINGS: Json = {
    "force_auth": True,
    "code_execution": "monty",
    "rate_limit_user": "off",
    "rate_limit_websocket": "off",
    "rate_limit_failed_auth": "off",
    "max_runs_per_caller": "off",
    "run_seconds": 7200,  # the run under way is so at the end as well
}
_READS = {"POST /{agent}"}
"""What is sent with another method than GET, and changes nothing."""


@dataclass
class House:
    """A server, `ann` and her colleague `amy` of one organization, `bob` of another, and an admin of a third."""

    inn: Inn
    ann: Tenant
    amy: Tenant
    bob: Tenant
    root: Tenant
    spies: Sequence[Tenant] = ()
    share: float = 1.0
    document: Json = field(default_factory=dict)

    def as_seen_by(self, tenant: Tenant) -> Document:
        own = {name: values[0] for name, values in tenant.ids.items()}
        return Document(self.document, {**own, **dict.fromkeys(("agent", "name", "model", "agent_name"), "echo")})


@contextmanager
def _a_house(folder: Path, **settings: Any) -> Iterator[House]:
    loaded = load_settings({"data_dir": folder, **SETTINGS, **settings})
    with serve_inn(ServerBase(settings=loaded)) as inn:
        inn.app.agent("asking")(Asking())
        ann, amy, bob = (
            Tenant.of(inn, loaded, user, organization, scopes=["code"])
            for user, organization in (("ann", "acme"), ("amy", "acme"), ("bob", "other"))
        )
        house = House(inn, ann, amy, bob, Tenant.of(inn, loaded, "root", "house", role="admin"))
        for tenant in (ann, amy, bob):
            fill(tenant)
        with ann.client() as http:
            house.document = http.get("/openapi.json").raise_for_status().json()
        yield house
        for tenant in (ann, amy, bob):
            inn.conduct(f"conduct {tenant.canary}").end()


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    pytest.importorskip("pydantic_monty")
    folder = tmp_path_factory.mktemp("data")
    if request.param == "sqlite":
        with _a_house(folder) as opened:
            opened.spies = (opened.amy, opened.bob) if IS_FULL else (opened.amy,)
            yield opened
        return
    server = request.getfixturevalue("postgres_url")
    with a_copy_of(a_migrated_database(server), server) as url, _a_house(folder, database_url=url) as opened:
        opened.spies, opened.share = ((opened.amy, opened.bob), 1.0) if IS_FULL else ((opened.bob,), 0.3)
        yield opened


def _sockets(house: House) -> list[str]:
    dispatcher = house.inn.app.router.default
    assert isinstance(dispatcher, Dispatcher)
    return [route.path for route in dispatcher.routes if isinstance(route, APIWebSocketRoute)]


def _handshake(url: str, tenant: Tenant) -> tuple[int, Any]:
    """How a WebSocket is refused."""
    try:
        with connect(url, additional_headers=tenant.headers):
            return 101, None
    except InvalidStatus as refused:
        told = json.loads(refused.response.body)
        return refused.response.status_code, told["error"]


@pytest.mark.parametrize("query", ["", "?after=0", "?after=1", "?user_id=ann"])
def test_anothers_websocket_is_refused_as_an_unknown_one(house: House, query: str) -> None:
    paths = [path for path in _sockets(house) if "{session_id}" in path]
    assert paths and all(path.count("{") <= 1 for path in _sockets(house)), "a path with other ids has to be tried too"
    for path in paths:
        for session_id in house.ann.ids["session_id"]:
            for spy in (house.amy, house.bob):
                answers = []
                for name in (session_id, unknown := unknown_like(session_id)):
                    url = f"{house.inn.url.replace('http', 'ws', 1)}{path.format(session_id=name)}{query}"
                    status, error = _handshake(url, spy)
                    answers.append((status, str(error).replace(name, "…")))
                assert answers[0] == answers[1], unknown
                assert answers[0][0] == (403 if "user_id" in query else 404), "who may not name anybody else is told so"


def test_turns_and_frames_on_a_websocket_reach_nothing_of_anothers(house: House) -> None:
    ann = house.ann
    with ann.client() as hers:
        before = ann.everything(hers)
    for organization in ("acme", "other"):  # who uses her names here, so that neither spy knows them afterwards
        spy = Tenant.of(house.inn, house.inn.app.kernel.settings, "eve", organization)
        url = f"{house.inn.url.replace('http', 'ws', 1)}/ws/chat"
        with connect(url, additional_headers=spy.headers) as socket:
            for frame in (
                {"type": "resume", "run_id": ann.ids["action_run_id"][0], "decision": "approve"},
                {"input": "Hello", "session_id": ann.room, "user_id": "ann"},
                {"type": "inject", "message": "Hello", "run_id": ann.running},
                {"type": "inject", "message": "Hello", "session_id": ann.ids["session_id"][-1]},
                {"type": "inject", "message": "Hello", "session_id": ann.room, "user_id": "ann"},
            ):
                socket.send(json.dumps(frame))
                told = json.loads(socket.recv(20))
                assert told["type"] == "error", told
                assert told["error"]["code"] in ("FORBIDDEN", "RUN_NOT_FOUND", "SESSION_NOT_FOUND")
            socket.send(json.dumps({"input": "Hello", "session_id": ann.room}))
            heard = []
            while (event := json.loads(socket.recv(20)))["type"] != "done":
                heard.append(event)
        assert ann.canary not in json.dumps([heard, event])
        assert event["output"] == "You said: Hello ", "it is a session of its own, of the same name"
        with spy.client() as http:
            assert http.delete(f"/sessions/{ann.room}").status_code == 204
    with ann.client() as hers:
        assert ann.everything(hers) == before


def test_anothers_responses_and_conversations_are_unknown_on_the_websocket_of_responses(house: House) -> None:
    ann, told = house.ann, []
    with connect(
        f"{house.inn.url.replace('http', 'ws', 1)}/v1/responses", additional_headers=house.bob.headers
    ) as socket:
        for name in ("previous_response_id", "conversation"):
            for text in (ann.ids[name][0], unknown := unknown_like(ann.ids[name][0])):
                socket.send(json.dumps({"type": "response.create", "model": "echo", "input": "Hello", name: text}))
                error = json.loads(socket.recv(20))
                assert error["type"] == "error", error
                told.append(str(error["error"]).replace(text, "…"))
            assert told[-2] == told[-1], unknown


def test_a_token_that_may_only_read_changes_nothing(house: House) -> None:
    ann, document = house.ann, house.as_seen_by(house.ann)
    reader = Tenant.of(house.inn, house.inn.app.kernel.settings, "ann", "acme", role="read", scopes=["code"])
    done = {}
    with ann.client() as hers, reader.client() as http:
        before = ann.everything(hers)
        for operation in document.operations():
            if operation.method != "GET" or operation.path == "/stream":
                request = document.request(operation)
                request["params"] = {"input": "Hello"} if operation.path == "/stream" else request["params"]
                answer = http.request(**request)
                if answer.status_code not in (401, 403):
                    done[operation.name] = answer.status_code
        assert done.keys() <= _READS, done
        assert ann.everything(hers) == before == ann.everything(http), "but it sees everything"
    with (
        pytest.raises(InvalidStatus),
        connect(f"{house.inn.url.replace('http', 'ws', 1)}/ws/chat", additional_headers=reader.headers),
    ):
        pass


def _names_a_user(place: Place) -> bool:
    """What is kept as it is given names nobody, but the metadata of OpenAI's requests, where our fields may stand."""
    if place.where == "metadata":
        return place.name == "user_id" and place.operation.path.endswith("/chat/completions")
    return place.where in ("query", "body", "form") and place.name in ("user_id", "user")


def test_anothers_name_is_refused_wherever_a_user_may_be_named(house: House) -> None:
    bob, document = house.bob, house.as_seen_by(house.bob)
    places = [one for operation in document.operations() for one in document.places(operation) if _names_a_user(one)]
    assert len(places) > 15
    with bob.client() as http:
        before = bob.everything(http)
        for place in places:
            for name in ("ann", "nobody"):
                request = document.request(place.operation, place, name)
                request["params"] |= {"input": "Hello"} if place.operation.path == "/stream" else {}
                answer = http.request(**request)
                assert answer.status_code == 403, (place.operation.name, place.where, place.name, answer.text)
        assert bob.everything(http) == before
        told = http.post("/chat", json={"input": "Hello", "user_id": "ann"}).json()["error"]
        assert (told["code"], told["param"]) == ("FORBIDDEN", "user_id")


def test_a_token_with_the_scope_names_users_of_its_own_tenant_only(house: House) -> None:
    settings = house.inn.app.kernel.settings
    proxy = Tenant.of(house.inn, settings, "proxy", "acme", scopes=["impersonate"])
    with proxy.client() as http, house.ann.client() as hers:
        before = house.ann.everything(hers)
        http.post("/chat", json={"input": "Hello", "user_id": "ann", "session_id": house.ann.room}).raise_for_status()
        (session,) = http.get("/sessions", params={"user_id": "ann"}).json()["sessions"]
        assert (session["id"], session["user_id"], session["message_count"]) == (house.ann.room, "ann", 2)
        assert house.ann.everything(hers) == before, "that was another ann"
        assert http.delete(f"/sessions/{house.ann.room}", params={"user_id": "ann"}).status_code == 204


def test_metadata_of_the_control_plane_names_nobody(house: House) -> None:
    with house.bob.client() as http:
        made = http.post("/api/sessions", json={"metadata": {"user_id": "ann"}})
        assert (made.status_code, made.json()["metadata"], made.json()["user_id"]) == (201, {"user_id": "ann"}, "bob")


def test_an_admin_sees_everything_of_everybody_and_whose_it_is(house: House) -> None:
    with house.root.client() as root:
        for tenant in (house.ann, house.bob):
            with tenant.client() as http:
                mine = tenant.everything(http)
            whose = {"organization": tenant.organization, "owner": tenant.user}
            for path in [path for path in mine if path.startswith("/runs/")]:
                assert root.get(path).json() == {**mine[path], **whose}
            for path in [path for path in mine if path.startswith(("/injections/", "/api/sessions/"))]:
                assert root.get(path).json() == mine[path]
            for session in mine["/sessions"]["sessions"]:
                told = root.get(f"/sessions/{session['id']}").json()
                assert told == {**mine[f"/sessions/{session['id']}"], **whose, "key": told["key"]}
            for engine in mine["/api/engines"]["engines"]:
                assert root.get(f"/api/engines/{engine['engine_id']}").json() == {**engine, **whose}


def test_an_admin_pages_through_everybodys_rows(house: House) -> None:
    with house.root.client() as root:
        for path, name, key in (("/sessions", "sessions", "key"), ("/api/sessions", "sessions", "key"),
                                ("/runs", "runs", "id"), ("/api/engines", "engines", "engine_id")):  # fmt: skip
            seen: list[Json] = []
            after: Json = {}
            while True:
                page = root.get(path, params={"limit": 5, **after}).json()
                seen += page[name]
                if not page["has_more"]:
                    break
                after = {"after": page.get("next", seen[-1][key])}
            assert [row[key] for row in seen] == sorted({row[key] for row in seen}, reverse=True)
            assert {("acme", "ann"), ("acme", "amy"), ("other", "bob")} <= {
                (row["organization"], row["owner"]) for row in seen
            }


def test_an_admins_own_session_comes_before_anothers_of_the_same_id(house: House) -> None:
    room = house.ann.room
    with house.root.client() as root, house.ann.client() as hers:
        theirs = root.get(f"/sessions/{room}").json()
        assert theirs["owner"] == "ann"
        mine = root.post("/chat", json={"input": "Hello", "session_id": room}).json()
        assert mine["output"] == "You said: Hello ", "what an admin begins is its own"
        assert hers.get(f"/runs/{mine['run_id']}").status_code == 404
        assert root.get(f"/sessions/{room}").json()["owner"] == "root"
        assert root.get(f"/sessions/{room}", params={"user_id": "ann"}).json() == theirs
        assert root.get(f"/sessions/{theirs['key']}").json() == theirs, "and by its key"
        assert root.delete(f"/sessions/{room}").status_code == 204
        assert root.get(f"/sessions/{room}").json() == theirs


def test_what_an_admin_does_to_anothers_is_its_owners(house: House) -> None:
    bob = house.bob
    with bob.client() as his, house.root.client() as root:
        session_id = his.post("/api/sessions", json={}).json()["session_id"]
        within = f"/api/sessions/{session_id}"
        assert root.patch(f"/sessions/{session_id}", json={"title": "Hers"}).json()["title"] == "Hers"
        asked = {"command_type": "DummyEngineCommand", "parameters": {"prompt": "Hello"}}
        command = root.post(f"{within}/commands", params={"wait": 20}, json=asked).json()
        assert his.get(f"{within}/commands/{command['command_id']}").json() == command
        assert root.post(f"{within}/commands/{command['command_id']}/cancel").status_code == 202
        event = root.post(f"{within}/events", json={"event_type": "Told", "data": {}}).json()
        assert his.get(f"{within}/events/{event['event_id']}").json() == event
        made = root.post("/api/engines", json={"engine_type": "DummyEngine", "session_id": session_id}).json()
        executed = root.post(f"/api/engines/{made['engine_id']}/execute", json={"prompt": "Hello"}).json()
        assert his.get(f"/runs/{executed['run_id']}").json()["session_id"] == session_id
        assert root.get(f"/api/observability/traces/{executed['trace_id']}").status_code == 200
        url = f"{house.inn.url.replace('http', 'ws', 1)}{within}/events/stream"
        with connect(url, additional_headers=house.root.headers) as socket:
            assert json.loads(socket.recv(20))["session_id"] == session_id
        assert root.delete(f"/api/engines/{made['engine_id']}").status_code == 204
        assert his.get(f"/api/engines/{made['engine_id']}").status_code == 404
        assert root.delete(within).status_code == 204
        assert his.get(within).status_code == 404


def test_an_admin_steers_and_cancels_anothers_run(house: House) -> None:
    bob = house.bob
    prompt = f"steered {bob.canary}"
    performance = house.inn.conduct(prompt)
    with bob.client() as his, house.root.client() as root:
        turn = {"agent_name": "conducted", "input": prompt, "background": True}
        run_id = his.post("/chat", json=turn).json()["run_id"]
        assert performance.began.wait(20)
        injected = root.post("/inject", json={"message": "from above", "run_id": run_id}).json()
        assert injected["run_id"] == run_id
        assert his.get(f"/injections/{injected['injection_id']}").json()["content"] == "from above"
        assert root.post(f"/runs/{run_id}/cancel").status_code == 202
        assert performance.cancelled.wait(20)
        assert his.get(f"/runs/{run_id}", params={"wait": 20}).json()["status"] == "cancelled"
        assert root.post("/inject", json={"message": "to nobody", "run_id": unknown_like(run_id)}).status_code == 404


def _texts(victim: Tenant, place: Place, chance: random.Random) -> Sequence[str]:
    """What is put in a place: everything, or something that fits, or else anything."""
    everything = sorted({text for values in victim.ids.values() for text in values})
    if IS_FULL:
        return everything
    fitting = victim.ids.get(place.name.replace("-", "_"), [])
    if place.where == "path" and fitting:
        return chance.sample(fitting, min(len(fitting), 8))
    return [chance.choice(fitting or everything)]


@dataclass
class Spy:
    """One tenant that puts another's ids wherever it can; `found` is what it got to see that it should not.

    Each has one `unknown` text beside it, so that both have been used for the same before.
    """

    http: httpx2.Client
    organization: str
    document: Document
    victim: Tenant
    chance: random.Random
    share: float = 1.0
    unknown: dict[str, str] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)
    asked: int = 0

    def probe(self, operation: Operation) -> None:
        is_removal = operation.method == "DELETE"  # its own things are needed still
        if not is_removal:
            self._look(self._asked(operation.name, self.document.request(operation)), operation.name)
        for place in self.document.places(operation):
            if (is_removal and place.where != "path") or self.chance.random() > self.share:
                continue
            for text in _texts(self.victim, place, self.chance):
                if place.name == "organization" and text == self.organization:
                    continue  # which is its own as well
                self._compare(place, text, {})
                self.victim.inn.seen.clear()  # else as many whole conversations are kept as there are turns in them
                if place.where == "path" and operation.path.count("{") > 1:
                    self._compare(place, text, {name: values[0] for name, values in self.victim.ids.items()})

    def _compare(self, place: Place, text: str, other: dict[str, str]) -> None:
        operation, unknown = place.operation, self.unknown.setdefault(text, unknown_like(text))
        told = f"{operation.name}, {place.where} {place.name} = {text}, with {other}"
        theirs = self._asked(told, self.document.request(operation, place, text, **other))
        self._look(theirs, told)
        nobodys = self._asked(told, self.document.request(operation, place, unknown, **other))
        answers = [shown(one, text, unknown) for one in (theirs, nobodys)]  # the other places may have it, too
        if answers[0] != answers[1]:
            self.found.append(f"{told}: {answers[0]} is not {answers[1]}")
        if theirs.is_success and place.where in ("body", "query", "metadata"):
            for made in (text, unknown):
                self.http.delete(f"/sessions/{made}")  # its own one of that name

    def _asked(self, told: str, request: Json) -> httpx2.Response:
        try:
            return self.http.request(**request)
        except httpx2.TimeoutException as error:
            raise AssertionError(f"{told}: no answer to {request}") from error

    def _look(self, answer: httpx2.Response, told: str) -> None:
        self.asked += 1
        if self.victim.canary.encode() in answer.content or self.victim.canary in str(answer.headers):
            self.found.append(f"{told}: {answer.status_code} {answer.text[:500]}")


@pytest.mark.timeout(7200 if IS_FULL else 120)
def test_no_operation_tells_one_tenant_of_another_whatever_ids_it_is_given(house: House) -> None:
    for spy in house.spies:
        _spied_on_by(spy, house)


def _spied_on_by(spy: Tenant, house: House) -> None:
    with house.ann.client() as hers, spy.client() as http:
        before = house.ann.everything(hers)
        prober = Spy(http, spy.organization, house.as_seen_by(spy), house.ann, random.Random(spy.user), house.share)
        for operation in prober.document.operations():
            prober.probe(operation)
        after = house.ann.everything(hers)
    assert not prober.found, "\n".join(prober.found)
    assert prober.asked > len(list(prober.document.operations()))
    assert after == before, "nor has anything of hers been changed"
