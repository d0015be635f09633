"""Chat logs over HTTP: what each caller sees of the runs that have ended, and statistics of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx2
import pytest

from tests.support.inns import Inn, Json, running_inn
from tests.support.tokens import a_token

LAG = 30.0
"""Seconds within which the row of a run is there on the slowest machine."""


@pytest.fixture(scope="module")
def forced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inn]:
    """A server where everybody needs a token."""
    with running_inn(tmp_path_factory.mktemp("data"), force_auth=True) as inn:
        yield inn


@pytest.fixture
def a_client() -> Iterator[Callable[..., httpx2.Client]]:
    """Makes clients with tokens of their own."""
    with ExitStack() as stack:

        def make(inn: Inn, user: str, role: str = "user", **fields: Any) -> httpx2.Client:
            token = a_token(inn.app.kernel.settings, user, role, **fields)
            client = httpx2.Client(base_url=inn.url, timeout=20, headers={"x-api-key": token.text}, trust_env=False)
            return stack.enter_context(client)

        yield make


def asked(client: httpx2.Client, said: str, **fields: Any) -> Json:
    answer: Json = client.post("/chat", json={"input": said, **fields}).json()
    return answer


def logs(client: httpx2.Client, count: int, path: str = "/logs", **wanted: Any) -> Json:
    """The answer, once it tells of so many rows."""
    deadline = time.monotonic() + LAG
    while True:
        answer = client.get(path, params=wanted)
        assert answer.status_code == 200, answer.text
        body: Json = answer.json()
        if body["total"] == count:
            return body
        assert time.monotonic() < deadline, body
        time.sleep(0.02)


def test_a_run_is_a_row_with_what_is_known_of_it(http: httpx2.Client) -> None:
    session = asked(http, "Look it up", agent_name="busy", user_id="eve")["session_id"]
    body = logs(http, 1, session_id=session)
    (row,) = body["logs"]
    assert (body["total"], body["limit"], body["offset"]) == (1, 100, 0)
    assert row.pop("response_time_ms") > 0
    assert row.pop("timestamp").endswith("Z")
    assert (
        f"run_{row['id']}" == row["run_id"] == http.get("/runs", params={"session_id": session}).json()["runs"][0]["id"]
    )
    del row["id"], row["run_id"]
    assert row == {
        "agent_name": "busy",
        "session_id": session,
        "user_id": "eve",
        "endpoint": "/chat",
        "input_message": None,
        "output_response": None,
        "model_info": {"model": "a-model"},
        "token_usage": {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15},
        "total_tokens": 15,
        "status": "completed",
        "error_message": None,
    }
    (row,) = logs(http, 1, session_id=session, contents="true")["logs"]
    assert (row["input_message"], row["output_response"]) == ("Look it up", "It is 42.")


def test_a_failure_is_a_row_too_and_tells_no_more_than_its_caller_was_told(http: httpx2.Client) -> None:
    asked(http, "Hi", agent_name="failing", session_id="falls-over")
    (row,) = logs(http, 1, session_id="falls-over", status="failed")["logs"]
    assert row["error_message"] == "The agent failed. The server's log has the reason."
    assert (row["token_usage"], row["total_tokens"], row["model_info"]) == (None, None, None)


def test_every_surface_leaves_rows(http: httpx2.Client) -> None:
    http.post(
        "/v1/chat/completions", json={"model": "echo", "messages": [{"role": "user", "content": "Hi"}], "user": "cy"}
    )
    http.post("/chat/stream", json={"input": "Hi", "user_id": "cy"})
    rows = logs(http, 2, user_id="cy")["logs"]
    assert {row["endpoint"] for row in rows} == {"/v1/chat/completions", "/chat/stream"}
    assert len(logs(http, 1, user_id="cy", endpoint="/chat/stream")["logs"]) == 1


def test_rows_come_in_pages_of_which_each_tells_the_total(http: httpx2.Client) -> None:
    runs = [asked(http, str(number), session_id="paged")["run_id"] for number in range(3)]
    logs(http, 3, session_id="paged")
    second = logs(http, 3, session_id="paged", limit=1, offset=1)
    assert [row["run_id"] for row in second["logs"]] == [runs[1]]
    of_session = logs(http, 3, "/logs/sessions/paged", limit=2)
    assert of_session["session_id"] == "paged"
    assert [row["run_id"] for row in of_session["logs"]] == [runs[2], runs[1]]


def test_a_day_is_asked_for_with_its_end(http: httpx2.Client) -> None:
    asked(http, "Hi", session_id="dated")
    (row,) = logs(http, 1, session_id="dated")["logs"]
    day, moment = row["timestamp"][:10], row["timestamp"]
    assert logs(http, 1, session_id="dated", start_date=day, end_date=day)["total"] == 1
    assert logs(http, 1, session_id="dated", start_date=moment)["total"] == 1
    assert logs(http, 0, session_id="dated", end_date=moment)["total"] == 0
    assert logs(http, 0, session_id="dated", end_date="2020-01-31")["total"] == 0
    assert logs(http, 0, session_id="dated", start_date="2100-01-01")["total"] == 0


_PAGES = {"limit": "201", "offset": "100001", "contents": "some"}
_CRITERIA = {"status": "fine", "start_date": "yesterday", "end_date": "2026-02-30", "session_id": ""}
_CRITERIA |= dict.fromkeys(("user_id", "agent_name", "endpoint"), "nul\0")


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("/logs", _PAGES | _CRITERIA),
        ("/logs/stats", _CRITERIA),
        ("/logs/stats/users", _CRITERIA | {"limit": "0"}),
        ("/logs/sessions/s", _PAGES),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(http: httpx2.Client, path: str, wrong: dict[str, str]) -> None:
    for name, value in wrong.items():
        answer = http.get(path, params={name: value})
        assert (answer.status_code, answer.json()["error"]["param"]) == (422, name)


@pytest.mark.parametrize("wanted", [{"end_date": "9999-12-31"}, {"start_date": "0001-01-01T00:00:00+14:00"}])
def test_the_ends_of_time_may_be_asked_for(http: httpx2.Client, wanted: dict[str, str]) -> None:
    assert http.get("/logs", params=wanted).status_code == 200


def test_statistics_count_what_fits(http: httpx2.Client) -> None:
    for session_id, agent in (("a", "busy"), ("a", "failing"), ("b", "busy")):
        asked(http, "Hi", agent_name=agent, session_id=f"counted-{session_id}", user_id="counted")
    logs(http, 3, user_id="counted")

    body = http.get("/logs/stats", params={"user_id": "counted"}).json()
    assert body["agent_name"] is None
    statistics = body["statistics"]
    times = [statistics.pop(f"{kind}_response_time_ms") for kind in ("min", "avg", "max")]
    assert 0 < times[0] <= times[1] <= times[2]
    assert statistics == {
        "total_interactions": 3,
        "successful_interactions": 2,
        "failed_interactions": 1,
        "unique_sessions": 2,
        "unique_users": 1,
        "total_tokens_sum": 30,
    }
    of_agent = http.get("/logs/stats", params={"user_id": "counted", "agent_name": "failing"}).json()
    assert of_agent["agent_name"] == "failing"
    assert of_agent["statistics"]["successful_interactions"] == 0
    assert of_agent["statistics"]["total_interactions"] == 1

    (user,) = http.get("/logs/stats/users", params={"user_id": "counted"}).json()["user_statistics"]
    assert (user["user_id"], user["total_interactions"]) == ("counted", 3)
    assert user["last_interaction"] >= logs(http, 3, user_id="counted")["logs"][0]["timestamp"]


def test_statistics_of_nothing_are_zeros_and_nulls(http: httpx2.Client) -> None:
    statistics = http.get("/logs/stats", params={"session_id": "nowhere"}).json()["statistics"]
    assert statistics["total_interactions"] == statistics["total_tokens_sum"] == 0
    assert statistics["avg_response_time_ms"] is None


def test_a_session_without_runs_has_no_rows_and_one_that_nobody_has_is_not_found(http: httpx2.Client) -> None:
    assert http.post("/sessions", json={"id": "empty"}).status_code == 201
    assert http.get("/logs/sessions/empty").json() == {"session_id": "empty", "logs": [], "total": 0}
    answer = http.get("/logs/sessions/unheard-of")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "SESSION_NOT_FOUND")


def test_others_rows_are_for_those_who_operate_the_server(forced: Inn, a_client: Callable[..., httpx2.Client]) -> None:
    ann, bob = a_client(forced, "ann", organization="acme"), a_client(forced, "bob", organization="acme")
    watcher, admin = a_client(forced, "watcher", scopes=["observability"]), a_client(forced, "boss", "admin")
    asked(ann, "my-secret-thought", session_id="mine")
    own = logs(ann, 1, session_id="mine", contents="true")

    assert logs(bob, 0)["logs"] == []
    assert logs(bob, 0, contents="true", session_id="mine")["logs"] == []
    assert bob.get("/logs", params={"user_id": "ann"}).status_code == 403
    assert bob.get("/logs/stats").json()["statistics"]["total_interactions"] == 0
    assert bob.get("/logs/stats/users").json() == {"user_statistics": []}
    theirs, unknown = bob.get("/logs/sessions/mine"), bob.get("/logs/sessions/nobody-s")
    assert (theirs.status_code, theirs.json()["error"]["code"]) == (
        unknown.status_code,
        unknown.json()["error"]["code"],
    )
    assert theirs.status_code == 404

    (seen,) = logs(watcher, 1, session_id="mine", contents="true")["logs"]
    assert (seen["input_message"], seen["output_response"]) == (None, None)
    assert logs(watcher, 1, "/logs/sessions/mine")["logs"] == [seen]
    assert logs(admin, 1, session_id="mine", contents="true")["logs"] == own["logs"]
    (user,) = admin.get("/logs/stats/users", params={"user_id": "ann"}).json()["user_statistics"]
    assert (user["user_id"], user["organization"]) == ("ann", "acme")


def test_the_local_user_sees_that_others_asked_and_not_what(
    inn: Inn, http: httpx2.Client, a_client: Callable[..., httpx2.Client]
) -> None:
    asked(a_client(inn, "dora"), "my-secret-thought", session_id="doras")
    (row,) = logs(http, 1, session_id="doras", contents="true")["logs"]
    assert (row["user_id"], row["input_message"], row["output_response"]) == ("dora", None, None)


def test_a_session_that_is_deleted_at_once_leaves_its_row(http: httpx2.Client) -> None:
    asked(http, "Hi", session_id="short-lived")
    assert http.delete("/sessions/short-lived").status_code == 204
    (row,) = logs(http, 1, session_id="short-lived", contents="true")["logs"]
    assert row["input_message"] is None
