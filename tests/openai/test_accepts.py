"""What real clients send, all of which must be taken: fields, headers, roles, parts, settings."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from innkeeper import ServerBase
from innkeeper.config import load_settings
from tests.openai.hosts import Host
from tests.support.openai_upstream import Reply, Upstream
from tests.support.servers import serve_app

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
PNG = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154"
        "789c6360000002000001e221bc330000000049454e44ae426082"
    )
).decode()
PICTURE = f"data:image/png;base64,{PNG}"
ACCEPTED: list[dict[str, Any]] = [
    {"client_metadata": {"a": 1}, "prompt_cache_key": "k", "ignore_eos": True, "continuous_usage_stats": True},
    {"stream": False},
    {"stream": None, "stream_options": None, "tools": None, "tool_choice": None, "response_format": None},
    {"tools": [], "include": []},
    {"tools": [], "tool_choice": "auto"},
    {"tool_choice": "none"},
    {"max_tokens": 5},
    {"max_completion_tokens": 5},
    {"max_tokens": 5, "max_completion_tokens": 6},
    {"stop": "x"},
    {"stop": ["x", "y"]},
    {"stop": []},
    {"seed": 7, "temperature": 0, "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0.5},
    {"user": "someone", "store": True, "metadata": {"topic": "greetings"}},
    {"store": False},
    {"store": None, "metadata": None, "user": None},
    {"metadata": {}},
    {"parallel_tool_calls": True, "reasoning_effort": "low", "verbosity": "low", "service_tier": "auto"},
    {"n": 1, "modalities": ["text"], "logprobs": False, "top_logprobs": 0, "logit_bias": {}},
    {"response_format": {"type": "text"}},
    {"response_format": {"type": "json_object"}},
    {"prediction": {"type": "content", "content": "x"}, "web_search_options": {}, "safety_identifier": "x"},
    {"functions": [], "function_call": "auto"},
    {"workflow": "w", "variables": {"a": 1}, "allowed_tools": [], "setting_sources": [], "mcp_servers": {}},
    {"metadata": {"workflow": "w", "variables": {"a": 1}, "allowed_tools": ["x"], "organization_id": "o"}},
]


@pytest.mark.parametrize("fields", ACCEPTED, ids=lambda fields: "-".join(fields))
@pytest.mark.parametrize("name", ["echo", "declared", "sdk"])
def test_what_clients_send_is_taken(http: httpx2.Client, name: str, fields: dict[str, Any]) -> None:
    for path in ("/v1/chat/completions", f"/{name}/chat/completions"):
        answer = http.post(path, json={"model": name, "messages": HELLO, **fields})
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["content"].strip() == "You said: Hello"


def text(words: str, kind: str = "text", **more: Any) -> Any:
    return {"type": kind, "text": words, **more}


def answered(**fields: Any) -> list[Any]:
    """A conversation in which the assistant's message has these fields."""
    return [*HELLO, {"role": "assistant", **fields}, *HELLO]


MORE: dict[str, Any] = {"reasoning_content": "Hm.", "audio": None, "refusal": None, "annotations": []}
SAID: list[tuple[list[Any], list[Any]]] = [
    ([{"role": "developer", "content": "Be kind."}, *HELLO], ["Be kind.", "Hello"]),
    ([{"role": "system", "content": [text("a"), text("b")]}, *HELLO], ["a\nb", "Hello"]),
    ([{"role": "user", "content": [text("one"), text("two")]}], ["one\ntwo"]),
    ([{"role": "user", "content": [text("one", "input_text")]}], ["one"]),
    ([{"role": "user", "content": "Hello", "name": "ann"}], ["Hello"]),
    (answered(content=[text("Hi", "output_text", annotations=[])]), ["Hello", "Hi", "Hello"]),
    (answered(content=[{"type": "refusal", "refusal": "No."}]), ["Hello", "No.", "Hello"]),
    (answered(content=None), ["Hello", None, "Hello"]),
    (answered(content="", **MORE), ["Hello", "", "Hello"]),
    (answered(), ["Hello", None, "Hello"]),
]


@pytest.mark.parametrize(("messages", "contents"), SAID, ids=range(len(SAID)))
def test_every_role_and_form_of_content_reaches_the_agent(
    http: httpx2.Client, host: Host, messages: list[Any], contents: list[Any]
) -> None:
    answer = http.post("/v1/chat/completions", json={"model": "echo", "messages": messages})
    assert answer.status_code == 200, answer.text
    assert [said["content"] for said in host.seen[0]] == contents
    assert [said["role"] for said in host.seen[0]] == [said["role"] for said in messages]


@pytest.mark.parametrize("at", range(len(SAID)))
def test_every_role_and_form_of_content_reaches_a_model(
    http: httpx2.Client, upstream: Upstream, model_agent: str, at: int
) -> None:
    messages, contents = SAID[at]
    answer = http.post("/v1/chat/completions", json={"model": model_agent, "messages": messages})
    assert answer.status_code == 200, answer.text
    sent = str(upstream.requests[0].body["messages"])
    assert all(repr(content)[1:-1] in sent for content in contents if content)


def test_calls_and_results_reach_a_function_agent_in_openais_form(client: openai.OpenAI, host: Host) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    messages: list[Any] = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "Sunny"}]},
    ]
    client.chat.completions.create(model="echo", messages=messages)
    assert host.seen[0] == [
        HELLO[0],
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "Sunny", "tool_call_id": "c1"},
    ]


def test_pictures_and_files_reach_the_model(client: openai.OpenAI, upstream: Upstream, model_agent: str) -> None:
    document = "data:text/plain;base64," + base64.b64encode(b"a file").decode()
    content: list[Any] = [
        {"type": "text", "text": "Look:"},
        {"type": "image_url", "image_url": {"url": PICTURE, "detail": "low"}},
        {"type": "file", "file": {"filename": "a.txt", "file_data": document}},
    ]
    client.chat.completions.create(model=model_agent, messages=[{"role": "user", "content": content}])
    (*_, asked) = upstream.requests[0].body["messages"]
    assert asked["content"][0] == {"type": "text", "text": "Look:"}
    assert asked["content"][1]["image_url"]["url"] == PICTURE
    assert len(asked["content"]) == 3


def test_pictures_in_the_form_of_responses_reach_the_model(
    http: httpx2.Client, upstream: Upstream, model_agent: str
) -> None:
    content = [{"type": "input_text", "text": "Look:"}, {"type": "input_image", "image_url": PICTURE}]
    body = {"model": model_agent, "messages": [{"role": "user", "content": content}]}
    assert http.post("/v1/chat/completions", json=body).status_code == 200
    assert upstream.requests[0].body["messages"][-1]["content"][1]["image_url"]["url"] == PICTURE


def test_function_agents_get_content_with_pictures_as_parts(client: openai.OpenAI, host: Host) -> None:
    content: list[Any] = [{"type": "text", "text": "Look:"}, {"type": "image_url", "image_url": {"url": PICTURE}}]
    client.chat.completions.create(model="whole", messages=[{"role": "user", "content": content}])
    assert host.seen == [[{"role": "user", "content": content}]]


def test_settings_reach_the_model(client: openai.OpenAI, upstream: Upstream, model_agent: str) -> None:
    upstream.script([Reply("Hi.")])
    client.chat.completions.create(
        model=model_agent,
        messages=HELLO,
        temperature=0.25,
        top_p=0.5,
        max_tokens=9,
        stop=["END"],
        seed=11,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        reasoning_effort="low",
    )
    body = upstream.requests[0].body
    told = {name: body.get(name) for name in ("temperature", "top_p", "seed", "presence_penalty", "frequency_penalty")}
    assert told == {
        "temperature": 0.25,
        "top_p": 0.5,
        "seed": 11,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
    }
    assert body["stop"] == ["END"]
    assert body.get("max_completion_tokens", body.get("max_tokens")) == 9


def test_query_strings_and_stainless_headers_are_passed_over(http: httpx2.Client) -> None:
    headers = {"x-stainless-lang": "js", "x-stainless-retry-count": "0", "OpenAI-Beta": "assistants=v2"}
    body = {"model": "echo", "messages": HELLO}
    assert http.post("/v1/chat/completions?beta=true", json=body, headers=headers).status_code == 200
    assert http.get("/v1/models?limit=2&after=x", headers=headers).status_code == 200
    assert http.post("/echo/chat/completions?api-version=1", json=body, headers=headers).status_code == 200


def test_content_type_may_have_a_charset(http: httpx2.Client) -> None:
    content = '{"model": "echo", "messages": [{"role": "user", "content": "Grüße"}]}'.encode()
    headers = {"content-type": "application/json; charset=utf-8"}
    answer = http.post("/v1/chat/completions", content=content, headers=headers)
    assert answer.json()["choices"][0]["message"]["content"] == "You said: Grüße "


def test_choice_that_names_no_tool_is_refused(client: openai.OpenAI, upstream: Upstream, model_agent: str) -> None:
    upstream.script(["ok", "ok"])
    tool: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    unknown: Any = {"type": "function", "function": {"name": "nonsense"}}
    for arguments in ({"tools": [tool], "tool_choice": unknown}, {"tool_choice": "required"}):
        with pytest.raises(openai.BadRequestError) as refusal:
            client.chat.completions.create(model=model_agent, messages=HELLO, **arguments)
        assert refusal.value.param == "tool_choice"


def test_pages_of_an_allowed_origin_may_use_openais_client(tmp_path: Path) -> None:
    app = ServerBase(settings=load_settings({"data_dir": tmp_path, "cors_origins": "http://page.example"}))
    app.agent("quick")(lambda messages: "Hi.")
    wanted = "authorization,content-type,x-stainless-lang,x-stainless-retry-count"
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": wanted}
    origin = {"Origin": "http://page.example"}
    body = {"model": "quick", "messages": HELLO}
    with serve_app(app) as url, httpx2.Client(base_url=url) as page:
        asked = page.options("/v1/chat/completions", headers={**origin, **preflight})
        answered = page.post("/v1/chat/completions", json=body, headers=origin)
        foreign = page.post("/v1/chat/completions", json=body, headers={"Origin": "http://other.example"})
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-headers"] == wanted
    assert answered.status_code == 200
    assert answered.headers["access-control-allow-origin"] == "http://page.example"
    exposed = set(answered.headers["access-control-expose-headers"].split(", "))
    assert {"x-request-id", "x-run-id", "x-injection-id", "idempotent-replayed"} <= exposed
    assert (foreign.status_code, foreign.json()["error"]["code"]) == (403, "FORBIDDEN")
