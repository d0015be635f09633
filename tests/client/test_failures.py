"""Failures: an exception for each status, what is tried again, and when."""

from __future__ import annotations

import asyncio
import pickle
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx2
import pytest

from innkeeper.client import (
    AdminResponse,
    AsyncChatServerClient,
    ChatServerClient,
    ChatServerError,
    ModelsResponse,
    exceptions,
)
from tests.support.scripted_servers import Told, answer, failure, head, in_turn, scripted_server
from tests.support.services import free_port

MODELS: Any = {"object": "list", "data": []}
COMPLETION: Any = {"id": "c", "choices": []}
CLASSES = {
    400: exceptions.BadRequestError,
    401: exceptions.UnauthorizedError,
    402: exceptions.PaymentRequiredError,
    403: exceptions.ForbiddenError,
    404: exceptions.NotFoundError,
    409: exceptions.ConflictError,
    413: exceptions.BadRequestError,
    422: exceptions.BadRequestError,
    429: exceptions.RateLimitError,
    500: exceptions.InternalServerError,
    503: exceptions.InternalServerError,
    302: ChatServerError,
}


def patient(url: str, **options: Any) -> ChatServerClient:
    return ChatServerClient(base_url=url, **{"backoff": 0.001, **options})


@pytest.mark.parametrize("status", CLASSES)
def test_each_status_has_its_exception(status: int) -> None:
    told = failure(status, {"x-request-id": "r-1"}, message="No, thanks.", code="REFUSED", param="model")
    with (
        scripted_server(in_turn(told)) as server,
        patient(server.url, max_retries=0) as client,
        pytest.raises(ChatServerError) as caught,
    ):
        client.list_models()
    error = caught.value
    assert type(error) is CLASSES[status]
    assert str(error) == error.message == "No, thanks."
    assert (error.status_code, error.code, error.param, error.request_id) == (status, "REFUSED", "model", "r-1")
    assert error.body["error"]["message"] == "No, thanks."


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"detail": "Not today."}', "Not today."),
        (b'{"error": "Plain."}', "Plain."),
        (b"<html>Bad gateway</html>", "The server answered with status 400."),
        (b"", "The server answered with status 400."),
        (b"[" * 100_000, "The server answered with status 400."),
    ],
)
def test_bodies_of_others_are_read_as_far_as_they_can_be(body: bytes, message: str) -> None:
    with (
        scripted_server(in_turn(Told(head(400, {}) + body))) as server,
        patient(server.url) as client,
        pytest.raises(exceptions.BadRequestError) as caught,
    ):
        client.list_models()
    assert caught.value.message == message


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_twice_more_with_one_idempotency_key(status: int) -> None:
    script = in_turn(failure(status), failure(status), answer(200, COMPLETION))
    with scripted_server(script) as server, patient(server.url) as client:
        assert client.create_completion("m", ["Hi"]).id == "c"
        client.create_completion("m", ["Hi"])
    keys = [asked.headers["idempotency-key"] for asked in server.seen]
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert len({asked.body for asked in server.seen}) == 1


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 422])
def test_what_will_not_pass_is_not_tried_again(status: int) -> None:
    with (
        scripted_server(in_turn(failure(status))) as server,
        patient(server.url) as client,
        pytest.raises(ChatServerError),
    ):
        client.list_models()
    assert len(server.seen) == 1


def test_the_server_has_the_last_word_on_trying_again() -> None:
    with (
        scripted_server(in_turn(failure(500, {"x-should-retry": "false"}))) as server,
        patient(server.url) as client,
        pytest.raises(exceptions.InternalServerError),
    ):
        client.list_models()
    assert len(server.seen) == 1
    script = in_turn(failure(409, {"x-should-retry": "true"}), answer(200, MODELS))
    with scripted_server(script) as server, patient(server.url) as client:
        assert client.list_models() == ModelsResponse([])


@pytest.mark.parametrize("headers", [{"retry-after": "0.3"}, {"retry-after-ms": "300", "retry-after": "60"}])
def test_the_server_is_left_alone_for_as_long_as_it_asks(headers: dict[str, str]) -> None:
    with scripted_server(in_turn(failure(429, headers), answer(200, MODELS))) as server, patient(server.url) as client:
        client.list_models()
    first, second = server.seen
    assert 0.29 < second.at - first.at < 20


def test_a_date_to_come_back_at_is_understood_and_one_too_far_away_is_left_to_the_caller() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    script = in_turn(failure(429, {"retry-after": date}))
    with (
        scripted_server(script) as server,
        patient(server.url) as client,
        pytest.raises(exceptions.RateLimitError) as caught,
    ):
        client.list_models()
    assert len(server.seen) == 1
    assert 3500 < (caught.value.retry_after or 0) <= 3600


@pytest.mark.parametrize("told", ["soon", "-1", "nan", "inf", ""])
def test_nonsense_in_retry_after_is_passed_over(told: str) -> None:
    script = in_turn(failure(503, {"retry-after": told}), answer(200, MODELS))
    with scripted_server(script) as server, patient(server.url) as client:
        assert client.list_models().data == []


def test_a_server_that_is_not_there_is_a_connection_error() -> None:
    with patient(f"http://127.0.0.1:{free_port()}") as client, pytest.raises(exceptions.APIConnectionError) as caught:
        client.list_models()
    assert caught.value.status_code is None
    assert isinstance(caught.value, ChatServerError)


def test_a_silent_server_is_a_timeout_after_all_attempts() -> None:
    with (
        scripted_server(in_turn(Told(b"", holds=5))) as server,
        patient(server.url, timeout=0.5) as client,
        pytest.raises(exceptions.APITimeoutError),
    ):
        client.list_models()
    assert len(server.seen) == 3


def test_an_answer_that_breaks_off_is_asked_for_again() -> None:
    cut = Told(head(200, {"content-type": "application/json", "content-length": 100}) + b'{"object"', resets=True)
    with scripted_server(in_turn(cut, answer(200, MODELS))) as server, patient(server.url) as client:
        assert client.list_models().data == []


def test_what_an_earlier_attempt_has_removed_is_removed() -> None:
    cut = Told(b"", resets=True)
    with scripted_server(in_turn(cut, failure(404))) as server, patient(server.url) as client:
        client.sessions.delete("s")
        with pytest.raises(exceptions.NotFoundError):
            client.sessions.delete("s")
    with scripted_server(in_turn(cut, failure(404))) as server, patient(server.url) as client:
        assert client.remove_admin("ann@example.org") == AdminResponse("removed", "ann@example.org")
        with pytest.raises(exceptions.NotFoundError):
            client.remove_admin("ann@example.org")


def test_a_token_whose_answer_was_lost_is_revoked_and_another_made() -> None:
    made = {"id": "one", "user": "ann", "organization": "default", "role": "user", "scopes": []}
    again = answer(201, {**made, "token": None})
    script = in_turn(Told(b"", resets=True), again, answer(204), answer(201, {**made, "id": "two", "token": "two.t"}))
    with scripted_server(script) as server, patient(server.url) as client:
        assert client.tokens.create("ann").token == "two.t"
    assert [f"{asked.method} {asked.target}" for asked in server.seen] == [
        *["POST /tokens"] * 2,
        "DELETE /tokens/one",
        "POST /tokens",
    ]
    lost, replayed, _, other = (asked.headers.get("idempotency-key") for asked in server.seen)
    assert lost == replayed != other


def test_tokens_that_a_server_never_tells_are_not_made_without_an_end() -> None:
    told: Any = {"id": "one", "user": "ann", "organization": "default", "role": "user", "scopes": [], "token": None}
    with (
        scripted_server(in_turn(answer(201, told))) as server,
        patient(server.url) as client,
        pytest.raises(ChatServerError, match="without telling them"),
    ):
        client.tokens.create("ann")
    assert [asked.method for asked in server.seen] == ["POST", "DELETE"] * 3


async def test_async_clients_try_again_alike() -> None:
    script = in_turn(failure(503), Told(b"", resets=True), answer(200, COMPLETION))
    with scripted_server(script) as server:
        async with AsyncChatServerClient(base_url=server.url, backoff=0.001) as client:
            assert (await client.create_completion("m", ["Hi"])).id == "c"
    assert len({asked.headers["idempotency-key"] for asked in server.seen}) == 1
    assert len(server.seen) == 3


async def test_a_call_that_is_cancelled_ends_at_once() -> None:
    with scripted_server(in_turn(Told(b"", holds=5))) as server:
        async with AsyncChatServerClient(base_url=server.url) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await client.list_models()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": "localhost:3284"}, "base_url: "),
        ({"base_url": "http://"}, "base_url: "),
        ({"base_url": "http://host/?a=b"}, "base_url: "),
        ({"api_key": "two\nlines"}, "api_key: "),
        ({"api_key": "schlüssel"}, "api_key: "),
        ({"timeout": 0}, "timeout: "),
        ({"max_retries": -1}, "max_retries"),
    ],
)
def test_a_client_that_could_not_work_is_not_made(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ChatServerClient(**options)


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_an_id_that_would_lead_elsewhere_is_not_asked_for(name: str) -> None:
    with patient("http://127.0.0.1:1") as client, pytest.raises(ValueError, match="names nothing"):
        client.runs.get(name)


def test_ids_are_one_segment_of_the_path() -> None:
    with (
        scripted_server(in_turn(failure(404))) as server,
        patient(server.url) as client,
        pytest.raises(exceptions.NotFoundError),
    ):
        client.get_session("a/b?c#d é", user_id="u&v")
    assert server.seen[0].target == "/v1/chat/sessions/a%2Fb%3Fc%23d%20%C3%A9?user_id=u%26v"


def test_an_http_client_of_ones_own_is_used_and_left_open() -> None:
    with scripted_server(in_turn(answer(200, MODELS))) as server, httpx2.Client(headers={"x-own": "1"}) as own:
        with ChatServerClient(base_url=server.url, http_client=own) as client:
            client.list_models()
        assert not own.is_closed
    assert server.seen[0].headers["x-own"] == "1"


def test_errors_reach_the_parent_of_a_process() -> None:
    for error in (exceptions.APIConnectionError("Gone."), exceptions.NotFoundError("No.", headers={"a": "b"})):
        arrived = pickle.loads(pickle.dumps(error))
        assert (type(arrived), vars(arrived)) == (type(error), vars(error))


def test_a_redirect_is_told_with_where_it_leads() -> None:
    moved = Told(head(301, {"location": "https://example.org/v1/models"}))
    with (
        scripted_server(in_turn(moved)) as server,
        patient(server.url) as client,
        pytest.raises(ChatServerError, match=r"redirects to 'https://example\.org/v1/models'.*Give base_url"),
    ):
        client.list_models()
