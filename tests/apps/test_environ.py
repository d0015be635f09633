"""`environ`: each request's own environment, which no other request and no other process sees."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.sync.client import connect

from innkeeper import Agent, ServerBase, environ, get_context, load_settings
from innkeeper.core.errors import SetupError
from tests.support.inns import UNCOUNTED
from tests.support.openai_upstream import running_upstream
from tests.support.servers import serve_app

MANY = 200
OWN = "INN_TEST_TENANT"
HEADER = "X-Env-Inn-Test-Tenant"
SHOW = f"import os; print(os.environ.get({OWN!r}))"


def child(env: dict[str, str] | None = None) -> str:
    return subprocess.run([sys.executable, "-c", SHOW], env=env, capture_output=True, text=True).stdout.strip()


def declare(app: ServerBase) -> None:
    @app.agent("async")
    async def anew(messages: Any) -> str:
        before = environ[OWN]
        await asyncio.sleep(0)
        return f"{before} {environ[OWN]}"

    @app.agent("thread")
    def thread(messages: Any) -> Iterator[str]:
        yield f"{environ[OWN]} "
        yield environ[OWN]

    @app.agent("isolated", isolated=True)
    async def isolated(messages: Any) -> str:
        before = environ[OWN]
        await asyncio.sleep(0)
        return f"{before} {await asyncio.to_thread(environ.get, OWN)}"

    @app.agent("looking")
    def looking(messages: Any) -> str:
        return json.dumps([environ.get(messages[-1]["content"]), os.environ.get(messages[-1]["content"])])

    @app.agent("writing")
    def writing(messages: Any) -> str:
        environ[OWN] = "written"
        environ["HOME"] = "/nowhere"
        del environ["PATH"]
        return json.dumps([environ[OWN], environ["HOME"], "PATH" in environ, OWN in os.environ, "PATH" in os.environ])

    @app.agent("parent")
    def parent(messages: Any) -> str:
        return f"{child()} {child(environ.copy())}"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("inn")
    (folder / ".env").write_text("INN_TEST_OF_FILE=from the file\n")
    flags = {
        "data_dir": folder / "data",
        "env_headers": f"{OWN} INN_TEST_OTHER",
        "max_runs_per_caller": MANY,
        **UNCOUNTED,
    }
    app = ServerBase(settings=load_settings(flags, env_file=folder / ".env"))
    declare(app)
    with serve_app(app) as served:
        yield served


def asked(url: str, agent: str, text: str = "x", **more: Any) -> httpx2.Response:
    headers = more.pop("headers", {})
    body = {"input": text, "agent_name": agent, **more}
    return httpx2.post(f"{url}/chat", json=body, headers=headers, timeout=20, trust_env=False)


def output(answer: httpx2.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["output"])


@pytest.mark.parametrize("agent", ["async", "thread", "isolated"])
async def test_many_requests_at_once_each_see_their_own_value(url: str, agent: str) -> None:
    limits = httpx2.Limits(max_connections=50)
    async with httpx2.AsyncClient(base_url=url, limits=limits, timeout=60, trust_env=False) as http:

        async def ask(number: int) -> str:
            body = {"input": "x", "agent_name": agent}
            return output(await http.post("/chat", json=body, headers={HEADER: f"tenant-{number}"}))

        told = await asyncio.gather(*map(ask, range(MANY)))
    assert told == [f"tenant-{number} tenant-{number}" for number in range(MANY)]
    assert OWN not in os.environ


def test_reads_fall_back_to_the_process_and_then_to_the_file(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert output(asked(url, "looking", "INN_TEST_OF_FILE")) == '["from the file", null]'
    monkeypatch.setenv("INN_TEST_OF_FILE", "from the process")
    assert output(asked(url, "looking", "INN_TEST_OF_FILE")) == '["from the process", "from the process"]'
    assert output(asked(url, "looking", "INN_TEST_NOWHERE")) == "[null, null]"


def test_a_value_is_taken_as_it_is_sent(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INN_TEST_SECRET", "of the process")
    for value in ("$INN_TEST_SECRET", "${INN_TEST_SECRET}", "%(INN_TEST_SECRET)s", "~", ""):
        assert output(asked(url, "looking", OWN, headers={HEADER: value})) == json.dumps([value, None])


@pytest.mark.parametrize("spelling", ["x-env-inn-test-tenant", "X-ENV-INN_TEST_TENANT", "x-Env-Inn_Test-Tenant"])
def test_a_header_is_found_in_any_spelling(url: str, spelling: str) -> None:
    assert output(asked(url, "looking", OWN, headers={spelling: "t"})) == '["t", null]'


def test_what_an_agent_writes_is_gone_with_its_request(url: str) -> None:
    before = dict(os.environ)
    assert output(asked(url, "writing")) == '["written", "/nowhere", false, false, true]'
    assert output(asked(url, "looking", OWN)) == "[null, null]"
    assert dict(os.environ) == before


def test_a_child_process_gets_only_what_it_is_given(url: str) -> None:
    assert output(asked(url, "parent", headers={HEADER: "tenant"})) == "None tenant"


@pytest.mark.parametrize("header", ["X-Env-Path", "X-Env-Inn-Test-Tenant-2", "X-Env-", "X-Env-Inn-Test"])
def test_a_variable_that_is_not_listed_is_refused(url: str, header: str) -> None:
    answer = asked(url, "looking", OWN, headers={header: "sesame-in-a-header"})
    assert answer.status_code == 403
    assert answer.json()["error"]["param"] == header
    assert "ENV_HEADERS" in answer.json()["detail"]
    assert "sesame-in-a-header" not in answer.text


@pytest.mark.parametrize("value", ["x" * 4097, "a\tb", "\u202e", "caf\u00e9".encode("latin-1")])
def test_a_value_that_cannot_be_one_is_refused_and_not_shown(url: str, value: str | bytes) -> None:
    sent = value if isinstance(value, bytes) else value.encode()
    body = {"input": OWN, "agent_name": "looking"}
    answer = httpx2.post(f"{url}/chat", json=body, headers=[(HEADER.encode(), sent)], trust_env=False)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, HEADER)


def test_two_values_for_one_variable_are_refused(url: str) -> None:
    headers = [("x-env-inn-test-tenant", "a"), ("x-env-inn_test_tenant", "b")]
    answer = httpx2.post(f"{url}/chat", json={"input": "x"}, headers=headers, trust_env=False)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "VALIDATION_ERROR")


@pytest.mark.parametrize("header", [HEADER, "X-Env-Path"])
def test_a_command_takes_none_and_says_so(url: str, header: str) -> None:
    with httpx2.Client(base_url=url, timeout=20, trust_env=False) as http:
        place = f"/api/sessions/{http.post('/api/sessions', json={}).json()['session_id']}"
        one = {"command_type": "DummyEngineCommand", "parameters": {"prompt": "Hello"}}
        for path, body in (("/commands", one), ("/commands/batch", {"commands": [one]})):
            refused = http.post(f"{place}{path}", json=body, headers={header: "tenant"})
            assert (refused.status_code, refused.json()["error"]["param"]) == (422, header)
            assert http.post(f"{place}{path}", json=body).status_code == 201


def test_a_run_in_the_background_takes_none_and_sees_none(url: str) -> None:
    refused = asked(url, "looking", OWN, background=True, headers={HEADER: "tenant"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, HEADER)
    queued = asked(url, "looking", "INN_TEST_OF_FILE", background=True).json()
    ended = httpx2.get(f"{url}/runs/{queued['run_id']}?wait=10", timeout=20, trust_env=False).json()
    assert ended["output"] == '["from the file", null]'


def test_every_turn_on_a_websocket_has_the_values_of_its_handshake(url: str) -> None:
    with connect(f"ws{url.removeprefix('http')}/ws/chat", additional_headers={HEADER: "tenant"}, proxy=None) as socket:

        def turn(agent: str, text: str) -> str:
            socket.send(json.dumps({"input": text, "agent_name": agent}))
            told = ""
            while (event := json.loads(socket.recv(timeout=10)))["type"] != "done":
                told += event["content"] if event["type"] == "text" else ""
            return told

        assert turn("looking", OWN) == '["tenant", null]'
        assert turn("writing", "x").startswith('["written"')
        assert turn("looking", OWN) == '["tenant", null]', "what the turn before has written is gone"


def test_outside_of_a_request_it_shows_the_process_and_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INN_TEST_SECRET", "sesame-of-the-process")
    assert get_context() is None
    assert environ["INN_TEST_SECRET"] == "sesame-of-the-process"
    assert len(environ) == len(os.environ) and set(environ) == set(os.environ)
    assert "sesame-of-the-process" not in repr(environ)
    with pytest.raises(RuntimeError, match="no request"):
        environ["INN_TEST_SECRET"] = "other"
    with pytest.raises(KeyError):
        environ["INN_TEST_NOWHERE"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("OPENAI_BASE_URL", "where model clients connect"),
        ("A-B", "no name"),
        ("KEY key", "capitals"),
        ("$X", "no name"),
    ],
)
def test_names_that_cannot_be_listed_are_an_error_at_start(names: str, said: str) -> None:
    with pytest.raises(SetupError, match=said):
        load_settings({"env_headers": names})


def test_a_model_is_asked_with_the_key_of_the_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agents import Agent as SdkAgent

    with running_upstream() as upstream:
        monkeypatch.setenv("OPENAI_BASE_URL", upstream.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-server")
        flags = {"data_dir": tmp_path / "data", "env_headers": "OPENAI_API_KEY", **UNCOUNTED}
        app = ServerBase(settings=load_settings(flags))
        app.agent("declared")(Agent(name="declared", model="openai:gpt-4o"))
        app.agent("sdk")(SdkAgent(name="sdk", model="gpt-4o"))
        with serve_app(app) as url:
            for agent in ("declared", "sdk"):
                for key in ("sk-of-ann", None, "sk-of-bob"):
                    output(asked(url, agent, headers={"X-Env-OpenAI-API-Key": key} if key else {}))
    used = [request.headers["authorization"] for request in upstream.requests]
    assert used == ["Bearer sk-of-ann", "Bearer sk-of-the-server", "Bearer sk-of-bob"] * 2
    assert os.environ["OPENAI_API_KEY"] == "sk-of-the-server"
