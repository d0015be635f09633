"""Errors as OpenAI's clients raise them, and the body and headers that make them do so."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest

from tests.openai.hosts import KEY, Host
from tests.support.openai_upstream import Reply, Upstream

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


def check_body(error: openai.APIStatusError) -> None:
    """The body has what OpenAI's clients read, beside what the others read."""
    body = error.response.json()
    assert body["error"].keys() >= {"message", "type", "param", "code"}
    assert error.body == body["error"]
    assert body["detail"] == body["error"]["message"]
    assert body["request_id"] == error.response.headers["x-request-id"] == error.request_id
    assert body["timestamp"].endswith("Z")


def test_missing_messages_are_a_bad_request_that_names_them(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(model="echo", messages=[])
    check_body(refusal.value)
    assert (refusal.value.param, refusal.value.type) == ("messages", "invalid_request_error")
    assert refusal.value.code == "VALIDATION_ERROR"


TOOL = {"type": "function", "function": {"name": "weather"}}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"messages": "hello"}, "messages"),
    ({"messages": [{"content": "no role"}]}, "messages[0].role"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": "  "}]}, "messages"),
    ({"messages": [{"role": "system", "content": "only"}]}, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "hologram"}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    ({"messages": [{"role": "user", "content": []}]}, "messages"),
    ({"messages": [*HELLO, {"role": "tool", "content": "x"}]}, "messages[1].tool_call_id"),
    ({"temperature": 9}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": "0.5"}, "top_p"),
    ({"grace": False}, "grace"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_completion_tokens": "many"}, "max_completion_tokens"),
    ({"stream": "yes"}, "stream"),
    ({"stop": 5}, "stop"),
    ({"tools": "all"}, "tools"),
    ({"tool_choice": 5}, "tool_choice"),
    ({"response_format": "json"}, "response_format"),
    ({"response_format": {"type": "yaml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"tools": [TOOL, TOOL]}, "tools[1].function.name"),
    ({"tools": [{"type": "function", "function": {"name": "x", "parameters": []}}]}, "tools[0].function.parameters"),
    ({"tool_choice": "maybe"}, "tool_choice"),
    ({"tool_choice": {"type": "function"}}, "tool_choice"),
    ({"n": 2}, "n"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"logprobs": True}, "logprobs"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"metadata": {"session_id": 5}}, "session_id"),
    ({"session_id": ""}, "session_id"),
    ({"user": "a\nb"}, "user"),
]


@pytest.mark.parametrize(("fields", "param"), BAD, ids=[f"{param}-{at}" for at, (_, param) in enumerate(BAD)])
def test_bad_fields_are_refused_by_name(http: httpx2.Client, fields: dict[str, Any], param: str) -> None:
    body = {"model": "echo", "messages": HELLO, **fields}
    under_v1 = http.post("/v1/chat/completions", json=body)
    at_root = http.post("/echo/chat/completions", json=body)
    is_syntax = param not in ("n", "modalities", "logprobs", "top_logprobs")
    assert (under_v1.status_code, at_root.status_code) == (400, 422 if is_syntax else 400)
    for answer in (under_v1, at_root):
        assert answer.json()["error"]["param"] == param
        assert answer.json()["error"]["type"] == "invalid_request_error"


def test_attachments_that_cannot_be_read_are_refused_before_the_run(http: httpx2.Client, upstream: Upstream) -> None:
    broken = [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,???"}}, "image_url"),
        ({"type": "image_url", "image_url": {"detail": "low"}}, "image_url"),
        ({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, "image_url"),
        ({"type": "input_image", "image_url": 5}, "image_url"),
        ({"type": "input_audio", "input_audio": {"data": "???", "format": "wav"}}, "input_audio"),
        ({"type": "input_audio", "input_audio": {"data": "AAAA"}}, "input_audio"),
        ({"type": "file", "file": {"file_data": "data:application/pdf;base64,?"}}, "file"),
        ({"type": "file", "file": "a.pdf"}, "file"),
    ]
    for part, field in broken:
        content = [{"type": "text", "text": "Look:"}, part]
        messages = [{"role": "user", "content": content}]
        answer = http.post("/v1/chat/completions", json={"model": "declared", "messages": messages})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, f"messages[0].content[1].{field}"), part
    assert upstream.requests == []


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/echo/chat/completions"])
@pytest.mark.parametrize("body", [b"{", b"", b'"text"x', b'{"model": NaN}', b"\xff\xfe", b"[" * 5000])
def test_malformed_json_is_a_bad_request(http: httpx2.Client, path: str, body: bytes) -> None:
    answer = http.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "VALIDATION_ERROR"


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"5", b"null"])
def test_json_that_is_no_object_is_refused(http: httpx2.Client, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    assert http.post("/v1/chat/completions", content=body, headers=headers).status_code == 400
    assert http.post("/echo/chat/completions", content=body, headers=headers).status_code == 422


def test_validation_at_the_agents_own_path_is_unprocessable(host: Host) -> None:
    with (
        openai.OpenAI(base_url=f"{host.url}/echo", api_key=KEY, max_retries=0) as client,
        pytest.raises(openai.UnprocessableEntityError) as refusal,
    ):
        client.chat.completions.create(model="echo", messages=[])
    check_body(refusal.value)
    assert refusal.value.param == "messages"


def test_stranger_is_an_authentication_error(host: Host) -> None:
    forwarded = {"X-Forwarded-For": "203.0.113.9"}
    with (
        openai.OpenAI(base_url=f"{host.url}/v1", api_key=KEY, max_retries=0, default_headers=forwarded) as stranger,
        pytest.raises(openai.AuthenticationError) as refusal,
    ):
        stranger.chat.completions.create(model="echo", messages=HELLO)
    check_body(refusal.value)
    assert (refusal.value.code, refusal.value.type) == ("UNAUTHORIZED", "authentication_error")
    assert refusal.value.response.headers["www-authenticate"] == "Bearer"
    assert host.seen == []


@pytest.mark.parametrize("field", ["mcp_servers", "setting_sources"])
def test_what_the_configuration_has_off_is_a_permission_error(client: openai.OpenAI, field: str) -> None:
    for where in ({field: ["x"]}, {"metadata": {field: ["x"]}}):
        with pytest.raises(openai.PermissionDeniedError) as refusal:
            client.chat.completions.create(model="echo", messages=HELLO, extra_body=where)
        check_body(refusal.value)
        assert refusal.value.param == field


@pytest.mark.parametrize("stream", [False, True])
def test_unknown_agent_is_not_found(client: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="openai/gpt:4o", messages=HELLO, stream=stream)
    check_body(missing.value)
    assert missing.value.code == "AGENT_NOT_FOUND"
    assert missing.value.param == "model"


@pytest.mark.parametrize(
    "path", ["/v1/embeddings", "/v1/audio/speech", "/v1/images/generations", "/v1/completions", "/v1/x/y"]
)
def test_other_endpoints_of_openai_are_not_found(http: httpx2.Client, path: str) -> None:
    answer = http.post(path, json={"model": "echo", "input": "x"})
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert (error["code"], error["type"], error["param"]) == ("NOT_FOUND", "not_found_error", None)
    assert path in error["message"]


def test_embeddings_raise_not_found_in_the_client(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.embeddings.create(model="echo", input="x")
    check_body(missing.value)


def test_wrong_method_is_told(http: httpx2.Client) -> None:
    answer = http.get("/v1/chat/completions")
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "METHOD_NOT_ALLOWED")


def test_other_content_types_are_refused(http: httpx2.Client) -> None:
    answer = http.post("/v1/chat/completions", content=b"{}", headers={"content-type": "text/plain"})
    assert answer.status_code == 415


@pytest.fixture
def busy(http: httpx2.Client, host: Host) -> Iterator[str]:
    """A session whose turn is under way."""
    body = {"agent_name": "patient", "input": "Go", "session_id": "busy"}
    caller = threading.Thread(target=lambda: http.post("/chat", json=body))
    caller.start()
    assert host.began.wait(10)
    yield "busy"
    for run in http.get("/runs", params={"session_id": "busy", "limit": 50}).json()["runs"]:
        http.post(f"/runs/{run['id']}/cancel")
    caller.join(10)


def test_busy_session_is_a_conflict_when_asked_to_reject(client: openai.OpenAI, busy: str) -> None:
    extra = {"session_id": busy, "when_busy": "reject"}
    with pytest.raises(openai.ConflictError) as conflict:
        client.chat.completions.create(model="echo", messages=HELLO, extra_body=extra)
    check_body(conflict.value)
    assert conflict.value.code == "RUN_CONFLICT"
    assert conflict.value.response.headers["x-should-retry"] == "false"


def test_full_queue_is_a_rate_limit_with_a_time_to_wait(client: openai.OpenAI, http: httpx2.Client, busy: str) -> None:
    body = {"model": "echo", "messages": HELLO, "stream": True, "session_id": busy}
    waiting = [http.send(http.build_request("POST", "/v1/chat/completions", json=body), stream=True) for _ in range(10)]
    with pytest.raises(openai.RateLimitError) as limited:
        client.chat.completions.create(model="echo", messages=HELLO, extra_body={"session_id": busy})
    for answer in waiting:
        answer.close()
    check_body(limited.value)
    assert (limited.value.code, limited.value.type) == ("RATE_LIMITED", "rate_limit_error")
    assert int(limited.value.response.headers["retry-after"]) >= 1


def test_failed_agent_is_an_internal_error_that_is_not_to_be_retried(client: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as failure:
        client.chat.completions.create(model="failing", messages=HELLO)
    check_body(failure.value)
    assert (failure.value.code, failure.value.type) == ("AGENT_FAILED", "server_error")
    assert failure.value.response.headers["x-should-retry"] == "false"
    assert "open-sesame" not in failure.value.response.text


def test_client_that_retries_runs_a_failing_agent_once(host: Host, http: httpx2.Client) -> None:
    with (
        openai.OpenAI(base_url=f"{host.url}/v1", api_key=KEY, max_retries=3) as client,
        pytest.raises(openai.InternalServerError),
    ):
        client.chat.completions.create(model="failing", messages=HELLO, extra_body={"session_id": "once"})
    assert len(http.get("/runs", params={"session_id": "once"}).json()["runs"]) == 1


def test_failing_model_is_an_internal_error(client: openai.OpenAI, upstream: Upstream, model_agent: str) -> None:
    upstream.script([Reply(status=500)])
    with pytest.raises(openai.InternalServerError) as failure:
        client.chat.completions.create(model=model_agent, messages=HELLO)
    assert failure.value.code == "AGENT_FAILED"
    assert "scripted failure" not in failure.value.response.text


def test_failing_model_is_told_in_the_stream(client: openai.OpenAI, upstream: Upstream, model_agent: str) -> None:
    upstream.script([Reply(status=500)])
    with pytest.raises(openai.APIError) as failure:
        list(client.chat.completions.create(model=model_agent, messages=HELLO, stream=True))
    assert failure.value.code == "AGENT_FAILED"
