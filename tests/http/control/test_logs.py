"""The log over HTTP: clients add to it, and find in it what the server and they themselves have said."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from itertools import count
from typing import Any

import httpx2
import pytest

from innkeeper.core.context import RunContext
from tests.support.inns import Inn, Json

LOGS = "/api/observability/logs"
_numbers = count(1)


def a_word() -> str:
    """One that no other test says."""
    return f"word-{next(_numbers)}."


def add(http: httpx2.Client, message: str, level: str = "info", **more: Any) -> Json:
    answer = http.post(LOGS, json={"level": level, "message": message, **more})
    assert answer.status_code == 201, answer.text
    record: Json = answer.json()
    return record


def listed(http: httpx2.Client, **query: Any) -> list[Json]:
    answer = http.get(LOGS, params=query)
    assert answer.status_code == 200, answer.text
    assert answer.json()["has_more"] == (answer.json()["next"] is not None)
    logs: list[Json] = answer.json()["logs"]
    return logs


def heard(http: httpx2.Client, **query: Any) -> list[Json]:
    """What is listed, once there is something: the server writes its own records after a while."""
    deadline = time.monotonic() + 30
    while not (found := listed(http, **query)):
        assert time.monotonic() < deadline, "the server never wrote it"
        time.sleep(0.05)
    return found


def test_a_record_is_listed_as_it_was_answered(http: httpx2.Client) -> None:
    http.post("/sessions", json={"id": "a-session"})
    metadata = {"user_id": "user123", "nested": {"n": [1, 1.5, None, "ä"]}}
    answer = http.post(
        LOGS,
        json={"level": "WARNING", "message": "User action completed", "metadata": metadata, "session_id": "a-session"},
        headers={"x-request-id": "req-17"},
    )
    assert answer.status_code == 201
    record = answer.json()
    assert record["created_at"].endswith("Z")
    assert record == {
        "id": record["id"],
        "created_at": record["created_at"],
        "level": "warning",
        "source": "client",
        "logger": "client",
        "message": "User action completed",
        "session_id": "a-session",
        "request_id": "req-17",
        "user_id": "local",
        "metadata": metadata,
    }
    assert listed(http, session_id="a-session") == [record]


def test_what_the_server_says_of_a_run_is_found_by_its_session(http: httpx2.Client) -> None:
    failed = http.post("/chat", json={"input": "Hi", "agent_name": "failing", "session_id": "a-failure"})
    (record,) = heard(http, session_id="a-failure", level="error")
    assert (record["source"], record["level"], record["user_id"]) == ("server", "error", "local")
    assert record["request_id"] == failed.headers["x-request-id"]
    assert record["metadata"] == {"run_id": failed.headers["x-run-id"], "exception": "RuntimeError"}
    assert "open-sesame" not in http.get(LOGS).text, "the text of an exception is for who runs the server"


def test_what_an_agent_logs_while_it_runs_is_its_sessions(inn: Inn, http: httpx2.Client) -> None:
    word = a_word()

    @inn.app.agent(word.strip("."))
    async def talking(messages: list[Json], context: RunContext) -> str:
        logging.getLogger("my.agent").error("%s thinks", word)
        return "ok"

    http.post("/chat", json={"input": "Hi", "agent_name": word.strip("."), "session_id": word})
    (record,) = heard(http, q=word)
    assert (record["session_id"], record["logger"], record["source"]) == (word, "my.agent", "server")


def test_filters_narrow_the_list(http: httpx2.Client) -> None:
    word = a_word()
    http.post("/sessions", json={"id": word})
    records = [
        add(http, f"{word} one", "debug"),
        add(http, f"{word} TWO", "info", session_id=word),
        add(http, f"{word} three", "error"),
        add(http, f"{word} four", "Critical", session_id=word),
    ]
    one, two, three, four = records
    logging.getLogger("the.server").warning("%s five", word)
    (five,) = heard(http, q=f"{word} five")
    for query, expected in (
        ({"q": word}, [five, four, three, two, one]),
        ({"text": word, "limit": 2}, [five, four]),
        ({"q": word, "level": "warning"}, [five, four, three]),
        ({"q": word, "level": "CRITICAL"}, [four]),
        ({"q": f"{word} two"}, [two]),
        ({"q": word, "source": "server"}, [five]),
        ({"q": word, "source": "client", "level": "error"}, [four, three]),
        ({"session_id": word}, [four, two]),
        ({"session_id": word, "level": "error"}, [four]),
        ({"q": word, "since": two["created_at"], "until": four["created_at"]}, [three, two]),
        ({"q": word, "after": three["id"]}, [two, one]),
        ({"session_id": "nobody's"}, []),
        ({"q": "%"}, []),
    ):
        assert listed(http, **query) == expected, query


def test_pages_lead_through_everything(http: httpx2.Client) -> None:
    word = a_word()
    sent = [add(http, f"{word} {number}")["id"] for number in range(7)]
    found: list[str] = []
    query: dict[str, Any] = {"q": word, "limit": 3}
    while True:
        page = http.get(LOGS, params=query).json()
        found += [record["id"] for record in page["logs"]]
        if not page["has_more"]:
            break
        query["after"] = page["next"]
    assert found == sent[::-1]


def test_forged_lines_and_credentials_do_not_get_into_the_log(http: httpx2.Client) -> None:
    record = add(http, "done\r\n2026-01-01 ERROR forged\x1b[2J Authorization: Bearer abcdefghijkl")
    assert record["message"] == r"done\r\n2026-01-01 ERROR forged\x1b[2J Authorization: ***"
    logging.getLogger("the.server").error("asked for %s", "/\r\nERROR forged by a path")
    (of_server,) = heard(http, q="forged by a path")
    assert of_server["message"] == r"asked for /\r\nERROR forged by a path"


def test_the_same_request_again_gets_the_first_answer_and_adds_nothing(http: httpx2.Client) -> None:
    word = a_word()
    body, key = {"level": "info", "message": word, "metadata": {"n": 1}}, {"idempotency-key": word}
    first, again = (http.post(LOGS, json=body, headers=key) for _ in range(2))
    assert (again.status_code, again.content) == (201, first.content)
    assert (first.headers.get("idempotent-replayed"), again.headers["idempotent-replayed"]) == (None, "true")
    assert len(listed(http, q=word)) == 1
    other = http.post(LOGS, json={**body, "level": "error"}, headers=key)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "IDEMPOTENCY_MISMATCH")


def test_a_record_about_an_unknown_session_is_refused(http: httpx2.Client) -> None:
    refused = http.post(LOGS, json={"level": "info", "message": "Hi", "session_id": "nobody's"})
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (404, "SESSION_NOT_FOUND", "session_id")


GOOD = {"level": "info", "message": "Hi"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"message": "Hi"}, "level"),
        ({**GOOD, "level": "warn"}, "level"),
        ({**GOOD, "level": 20}, "level"),
        ({**GOOD, "level": None}, "level"),
        ({"level": "info"}, "message"),
        ({**GOOD, "message": ""}, "message"),
        ({**GOOD, "message": " \n"}, "message"),
        ({**GOOD, "message": 5}, "message"),
        ({**GOOD, "message": "x" * 4097}, "message"),
        ({**GOOD, "metadata": []}, "metadata"),
        ({**GOOD, "metadata": None}, "metadata"),
        ({**GOOD, "metadata": {"x": "x" * 16384}}, "metadata"),
        ({**GOOD, "session_id": ""}, "session_id"),
        ({**GOOD, "session_id": "a\nb"}, "session_id"),
        ({**GOOD, "sessionid": "s"}, "sessionid"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_record_that_cannot_be_is_refused_by_the_name_of_its_field(
    http: httpx2.Client, body: Json, field: str
) -> None:
    refused = http.post(LOGS, json=body)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (422, "VALIDATION_ERROR", field)


def test_the_longest_record_is_kept_whole(http: httpx2.Client) -> None:
    message, metadata = "ä" * 4096, {"x": "x" * (16384 - len('{"x":""}'))}
    record = add(http, message, metadata=metadata)
    assert (record["message"], record["metadata"]) == (message, metadata)
    assert add(http, "a number", metadata={"n": 10**18, "f": 1e300})["metadata"] == {"n": 10**18, "f": 1e300}


@pytest.mark.parametrize("number", ["1" + "0" * 30, "-" + "9" * 400, "1e308"])
def test_a_number_of_any_size_is_no_failure(http: httpx2.Client, number: str) -> None:
    body = f'{{"level": "info", "message": "Hi", "metadata": {{"n": {number}}}}}'
    answer = http.post(LOGS, content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (201, 400, 422), answer.text


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"level": "loud"}, "level"),
        ({"limit": 0}, "limit"),
        ({"limit": 201}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"since": "yesterday"}, "since"),
        ({"since": "2026-01-01T00:00:00"}, "since"),
        ({"until": "1700000000"}, "until"),
        ({"until": "2026-13-01T00:00:00Z"}, "until"),
        ({"after": "not-an-id"}, "after"),
        ({"q": ""}, "q"),
        ({"q": "x" * 257}, "q"),
        ({"source": "me"}, "source"),
        ({"session_id": "x" * 257}, "session_id"),
    ],
    ids=str,
)
def test_a_query_that_cannot_be_is_refused_by_the_name_of_its_field(
    http: httpx2.Client, query: Mapping[str, Any], field: str
) -> None:
    refused = http.get(LOGS, params=query)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (422, "VALIDATION_ERROR", field)


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "2026-01-01T00:00:00+14:00"])
def test_any_time_that_there_is_may_be_asked_for(http: httpx2.Client, time: str) -> None:
    listed(http, since=time)
    listed(http, until=time)
    listed(http, level="error", q="\x00 %_\\ '", since=time)
