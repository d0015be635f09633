"""Runs that wait for people: paused, shown, answered, gone on with, expired, cancelled; over both stores."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.sync.client import connect

from innkeeper import ServerBase, require_input
from innkeeper.config import load_settings
from innkeeper.core.actions import Action
from innkeeper.core.agents import AgentDescription
from innkeeper.core.context import RunContext
from innkeeper.core.events import AgentEvent, Paused, TextDelta, ToolCalled, ToolReturned, UsageReported
from innkeeper.core.runs import Turn
from innkeeper.core.usage import Usage
from tests.support.databases import a_copy_of, a_migrated_database
from tests.support.inns import UNCOUNTED, Inn, Json, serve_inn


class Asking:
    """Asks before it deletes each file that its user names; its model, which is none, has spent a few tokens before."""

    def describe(self) -> AgentDescription:
        return AgentDescription("asking")

    async def run(self, turn: Turn, context: RunContext) -> AsyncIterator[AgentEvent | str]:
        names = turn.prompt.split()
        going = turn.continuation
        if going is None:
            yield TextDelta("Let me see.")
            yield UsageReported(Usage(5, 7, "m"))
            for name in names:
                yield ToolCalled("delete", f"call_{name}", json.dumps({"name": name}))
            asked = tuple(Action(f"call_{one}", "approval", "delete", json.dumps({"name": one})) for one in names)
            yield Paused(asked, f"state of {names}")
            return
        assert going.state == f"state of {names}"
        for name in names:
            answer = going.answer_to(f"call_{name}")
            assert answer is not None
            if answer.decision == "approve":
                yield ToolReturned("delete", f"call_{name}", json.loads(answer.arguments or f'"{name}"'))
            else:
                yield ToolReturned("delete", f"call_{name}", error=answer.message or "denied")
        async for message in context.injections():
            yield f"({message.content}) "
        yield UsageReported(Usage(1, 2, "m"))
        yield "Done."


class Wondering:
    """Asks its user for a number, again and again."""

    def describe(self) -> AgentDescription:
        return AgentDescription("wondering")

    async def run(self, turn: Turn, context: RunContext) -> AsyncIterator[AgentEvent | str]:
        heard = [] if turn.continuation is None else json.loads(turn.continuation.state)
        if turn.continuation is not None:
            heard.append(json.loads(turn.continuation.answers[0].value or "null"))
        if len(heard) < 2:
            yield f"{len(heard)}? "
            asked = Action(f"q{len(heard)}", "input", "number", json.dumps({"of": len(heard)}))
            yield Paused((asked,), json.dumps(heard))
        else:
            yield f"{sum(heard)}!"


async def nest(messages: list[Json], context: RunContext) -> AsyncIterator[AgentEvent | str]:
    """Asks what is nested as deep as its user wants, or asks twice at a time."""
    said = messages[-1]["content"]
    if context.continuation is not None:
        yield "Done."
    elif said == "twice":
        yield require_input("one")
        yield require_input("two")
    else:
        yield Paused((Action("q", "input", "nest", "[" * int(said) + "]" * int(said)),), "")


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def inn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inn]:
    folder = tmp_path_factory.mktemp("data")
    if request.param == "sqlite":
        with _asking_inn(folder) as running:
            yield running
        return
    server = request.getfixturevalue("postgres_url")
    with a_copy_of(a_migrated_database(server), server) as url, _asking_inn(folder, database_url=url) as running:
        yield running


def _asking_inn(folder: Path, **settings: Any) -> Any:
    app = ServerBase(settings=load_settings({"data_dir": folder, **UNCOUNTED, **settings}))
    app.agent("asking")(Asking())
    app.agent("wondering")(Wondering())
    app.agent("nest")(nest)
    return serve_inn(app)


@pytest.fixture
def http(inn: Inn) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=inn.url, timeout=20, trust_env=False) as client:
        yield client


def ask(http: httpx2.Client, text: str = "a", **more: Any) -> Json:
    told: Json = http.post("/chat", json={"agent_name": "asking", "input": text, **more}).raise_for_status().json()
    return told


def frames(text: str) -> list[Json]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


def test_a_run_that_waits_says_so_and_goes_on_when_it_is_answered(http: httpx2.Client) -> None:
    told = ask(http)
    assert (told["status"], told["output"], told["usage"]["total_tokens"]) == ("requires_action", "Let me see.", 12)
    assert told["actions"] == [{"id": "call_a", "kind": "approval", "name": "delete", "arguments": {"name": "a"}}]
    run = http.get(f"/runs/{told['run_id']}").json()
    assert (run["status"], run["actions"], run["ended_at"]) == ("requires_action", told["actions"], None)
    answer = http.post(f"/runs/{told['run_id']}/resume", json={"decision": "approve"}).raise_for_status().json()
    assert (answer["output"], answer["run_id"]) == ("Let me see.\n\nDone.", told["run_id"])
    assert "status" not in answer and answer["usage"]["total_tokens"] == 15
    run = http.get(f"/runs/{told['run_id']}").json()
    assert (run["status"], run["attempt"], "actions" in run) == ("completed", 1, False)
    spoken = http.get(f"/sessions/{told['session_id']}").json()["messages"]
    assert [(one["role"], one["content"]) for one in spoken] == [("user", "a"), ("assistant", "Let me see."),
        ("tool", "a"), ("assistant", "Done.")]  # fmt: skip


def test_each_action_is_answered_by_itself_edited_or_denied_and_the_last_answer_lets_the_run_go_on(
    http: httpx2.Client,
) -> None:
    run_id = ask(http, "a b c")["run_id"]
    first = {"answers": [{"id": "call_b", "decision": "deny", "message": "keep b"}]}
    waits = http.post(f"/runs/{run_id}/resume", json=first)
    assert (waits.status_code, [one["id"] for one in waits.json()["actions"]]) == (202, ["call_a", "call_c"])
    edited = {"id": "call_a", "decision": "approve", "arguments": {"name": "z"}}
    rest = {"answers": [edited, {"id": "call_c", "decision": "approve"}], "stream": True}
    seen = frames(http.post(f"/runs/{run_id}/resume", json=rest).text)
    assert [one["type"] for one in seen] == ["action_answered", *["tool_result"] * 3, "usage", "text", "text", "done"]
    assert seen[0]["answers"] == [
        {"id": "call_a", "decision": "approve", "arguments": {"name": "z"}},
        {"id": "call_b", "decision": "deny", "message": "keep b"},
        {"id": "call_c", "decision": "approve"},
    ]
    assert [one["result"] or one["error"] for one in seen[1:4]] == [{"name": "z"}, "keep b", "c"]
    asked = http.get(f"/runs/{run_id}/actions").json()["actions"]
    assert [(one["id"], one["status"], one["decided_by"]) for one in asked] == [
        ("call_a", "approved", "local"), ("call_b", "denied", "local"), ("call_c", "approved", "local")]  # fmt: skip


def test_the_log_of_a_run_is_gapless_over_a_pause_and_replays_as_it_was_streamed(http: httpx2.Client) -> None:
    body = {"agent_name": "asking", "input": "a", "session_id": "log"}
    before = http.post("/chat/stream", json=body)
    run_id = before.headers["x-run-id"]
    assert before.text.endswith("data: [DONE]\n\n") and frames(before.text)[-1]["type"] == "requires_action"
    assert http.get(f"/runs/{run_id}/events").text == before.text, "it is read while it waits, and ends there"
    after = http.post(f"/runs/{run_id}/resume", json={"decision": "approve", "stream": True}).text
    whole = http.get(f"/runs/{run_id}/events").text
    assert whole == before.text.removesuffix("data: [DONE]\n\n") + after
    ids = [int(line[4:]) for line in whole.splitlines() if line.startswith("id: ")]
    assert ids == list(range(1, len(ids) + 1))
    events = http.get("/api/sessions/log/events").json()["events"]
    assert [one["event_type"] for one in events if "action" in one["event_type"]] == [
        "requires_action",
        "action_answered",
    ]


def test_an_agent_may_ask_its_user_again_and_again(http: httpx2.Client) -> None:
    told = http.post("/chat", json={"agent_name": "wondering", "input": "?"}).json()
    assert told["actions"] == [{"id": "q0", "kind": "input", "name": "number", "arguments": {"of": 0}}]
    where = f"/runs/{told['run_id']}/resume"
    told = http.post(where, json={"answers": [{"id": "q0", "decision": "answer", "value": 20}]}).json()
    assert (told["status"], told["actions"][0]["id"]) == ("requires_action", "q1")
    stale = http.post(where, json={"answers": [{"id": "q0", "decision": "answer", "value": 1}]})
    assert (stale.status_code, stale.json()["error"]["code"]) == (404, "ACTION_NOT_FOUND")
    told = http.post(where, json={"answers": [{"id": "q1", "decision": "answer", "value": 22}]}).json()
    assert told["output"] == "0? 1? 42!"


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 422, "body"),
        ({"answers": []}, 422, "answers"),
        ({"decision": "perhaps"}, 422, "decision"),
        ({"decision": "approve", "answers": [{"id": "call_a", "decision": "approve"}]}, 422, "body"),
        ({"answers": [{"id": "nothing", "decision": "approve"}]}, 404, "answers"),
        ({"answers": [{"id": "call_a", "decision": "answer", "value": 1}]}, 422, "decision"),
        ({"answers": [{"id": "call_a", "decision": "deny", "arguments": {}}]}, 422, "arguments"),
        ({"answers": [{"id": "call_a", "decision": "approve", "arguments": "x"}]}, 422, "answers[0].arguments"),
        ({"answers": [{"id": "call_a", "decision": "approve"}] * 2}, 422, "answers"),
        ({"decision": "approve", "stream": True, "background": True}, 422, "body"),
    ],
)
def test_what_is_no_answer_is_refused_and_the_run_waits_on(
    http: httpx2.Client, body: Json, status: int, param: str | None
) -> None:
    told = ask(http)
    refused = http.post(f"/runs/{told['run_id']}/resume", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (status, param), refused.text
    run = http.get(f"/runs/{told['run_id']}").json()
    assert (run["status"], run["actions"]) == ("requires_action", told["actions"])
    http.post(f"/runs/{told['run_id']}/cancel")


def test_of_many_who_answer_at_once_one_is_heard(http: httpx2.Client) -> None:
    run_id = ask(http)["run_id"]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: http.post(f"/runs/{run_id}/resume", json={"decision": "approve"}), range(8)))
    assert sorted(one.status_code for one in answers) == [200] + [409] * 7
    assert {one.json()["error"]["code"] for one in answers if one.is_error} == {"RUN_CONFLICT"}
    assert len([one for one in frames(http.get(f"/runs/{run_id}/events").text) if one["type"] == "tool_result"]) == 1


def test_an_answer_that_is_sent_again_with_its_key_is_carried_out_once(http: httpx2.Client) -> None:
    run_id = ask(http)["run_id"]
    headers = {"idempotency-key": f"answer-{run_id}"}
    first, again = (
        http.post(f"/runs/{run_id}/resume", json={"decision": "approve"}, headers=headers) for _ in range(2)
    )
    assert first.json() == again.json() and again.headers["idempotent-replayed"] == "true"
    other = http.post(f"/runs/{run_id}/resume", json={"decision": "deny"}, headers=headers)
    assert other.json()["error"]["code"] == "IDEMPOTENCY_MISMATCH"


def test_a_session_is_busy_while_its_run_waits_and_may_be_told_to_make_way(http: httpx2.Client) -> None:
    run_id = ask(http, session_id="busy-room")["run_id"]
    for when_busy in ("queue", "reject"):
        body = {"agent_name": "echo", "input": "x", "session_id": "busy-room", "when_busy": when_busy}
        refused = http.post("/chat", json=body)
        assert (refused.status_code, refused.json()["error"]["details"]) == (409, {"run_id": run_id})
    told = http.post("/chat", json={**body, "when_busy": "interrupt"}).raise_for_status().json()
    assert told["output"] == "You said: x "
    assert http.get(f"/runs/{run_id}").json()["status"] == "cancelled"
    assert http.post(f"/runs/{run_id}/resume", json={"decision": "approve"}).status_code == 409


def test_a_run_that_waits_is_cancelled_at_once_and_what_it_said_is_kept(http: httpx2.Client) -> None:
    told = ask(http)
    cancelled = http.post(f"/runs/{told['run_id']}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (202, "cancelled")
    asked = http.get(f"/runs/{told['run_id']}/actions").json()["actions"]
    assert [one["status"] for one in asked] == ["cancelled"]
    assert frames(http.get(f"/runs/{told['run_id']}/events").text)[-1]["status"] == "cancelled"
    assert http.get(f"/runs/{told['run_id']}").json()["output"] == "Let me see."


def test_a_message_that_is_injected_meanwhile_is_heard_when_the_run_goes_on(http: httpx2.Client) -> None:
    run_id = ask(http)["run_id"]
    injected = http.post("/inject", json={"message": "hurry", "run_id": run_id}).json()
    assert injected["run_id"] == run_id
    told = http.post(f"/runs/{run_id}/resume", json={"decision": "approve"}).json()
    assert told["output"] == "Let me see.\n\n(hurry) Done."


def test_openai_clients_get_what_there_is_and_the_actions_beside_it(http: httpx2.Client) -> None:
    body: Json = {"model": "asking", "messages": [{"role": "user", "content": "a"}]}
    told = http.post("/v1/chat/completions", json=body).json()
    assert (told["choices"][0]["finish_reason"], told["choices"][0]["message"]["content"]) == ("stop", "Let me see.")
    assert (told["status"], told["actions"][0]["id"]) == ("requires_action", "call_a")
    chunks = frames(http.post("/v1/chat/completions", json={**body, "stream": True}).text)
    assert (chunks[-1]["choices"][0]["finish_reason"], chunks[-1]["status"]) == ("stop", "requires_action")
    for run_id in (told["run_id"], chunks[-1]["run_id"]):
        assert http.post(f"/runs/{run_id}/resume", json={"decision": "deny"}).json()["output"].endswith("Done.")


def test_a_run_in_the_background_waits_too_and_its_reader_hears_it(http: httpx2.Client) -> None:
    run_id = ask(http, background=True)["run_id"]
    assert http.get(f"/runs/{run_id}?wait=20").json()["status"] == "requires_action"
    told = http.post(f"/runs/{run_id}/resume", json={"decision": "approve", "background": True})
    assert told.status_code == 202
    assert http.get(f"/runs/{run_id}?wait=20").json()["status"] == "completed"


def test_a_websocket_hears_of_the_pause_answers_and_hears_the_rest(inn: Inn) -> None:
    with connect(f"{inn.url.replace('http', 'ws', 1)}/ws/chat") as socket:

        def heard_until(kind: str) -> list[Json]:
            found = [json.loads(socket.recv(20))]
            while found[-1]["type"] != kind:
                found.append(json.loads(socket.recv(20)))
            return found

        socket.send(json.dumps({"agent_name": "asking", "input": "a b"}))
        run_id = heard_until("requires_action")[-1]["run_id"]
        one = {"type": "resume", "run_id": run_id, "answers": [{"id": "call_a", "decision": "approve"}]}
        socket.send(json.dumps(one))
        assert heard_until("waiting") == [{"type": "waiting", "run_id": run_id, "left": 1}]
        socket.send(json.dumps({"type": "resume", "run_id": run_id, "decision": "deny"}))
        assert heard_until("done")[-1]["output"] == "Let me see.\n\nDone."
        socket.send(json.dumps({"type": "resume", "run_id": run_id, "decision": "deny"}))
        assert heard_until("error")[-1]["error"]["code"] == "RUN_CONFLICT"


def test_what_waits_is_listed_newest_run_first(http: httpx2.Client) -> None:
    runs = [ask(http, "a b")["run_id"] for _ in range(3)]
    page = http.get("/actions?status=pending&limit=2").json()
    assert [one["run_id"] for one in page["actions"]] == [runs[2]] * 2 + [runs[1]] * 2
    assert page["has_more"] is True
    after = http.get(f"/actions?status=pending&limit=1&after={runs[1]}").json()
    assert [one["run_id"] for one in after["actions"]] == [runs[0]] * 2
    for run_id in runs:
        http.post(f"/runs/{run_id}/cancel")
    assert not {one["run_id"] for one in http.get("/actions?status=pending").json()["actions"]} & set(runs)


@pytest.mark.parametrize(("depth", "is_shown_as"), [(60, list), (300, str), (900, str), (50_000, str)])
def test_what_is_asked_may_be_nested_deeper_than_any_client_reads(
    http: httpx2.Client, depth: int, is_shown_as: type
) -> None:
    """It is shown as text; before, nobody who saw it could list any action."""
    answer = http.post("/chat", json={"agent_name": "nest", "input": str(depth)})
    assert answer.status_code == 200, answer.text
    where = f"/runs/{answer.json()['run_id']}"
    told = [http.get(path).raise_for_status().json()["actions"][0] for path in ("/actions", f"{where}/actions", where)]
    assert all(isinstance(one["arguments"], is_shown_as) for one in told)
    answered = http.post(f"{where}/resume", json={"answers": [{"id": "q", "decision": "answer"}]})
    assert answered.json()["output"] == "Done."


def test_an_agent_that_asks_twice_at_a_time_fails_because_one_question_would_be_lost(http: httpx2.Client) -> None:
    answer = http.post("/chat", json={"agent_name": "nest", "input": "twice"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "AGENT_FAILED")


def test_a_session_takes_what_its_runs_wait_for_with_it(http: httpx2.Client) -> None:
    run_id = ask(http, session_id="gone-room")["run_id"]
    assert http.delete("/sessions/gone-room").status_code == 204
    assert http.get(f"/runs/{run_id}").status_code == 404
    assert http.post(f"/runs/{run_id}/resume", json={"decision": "approve"}).status_code == 404
    assert run_id not in http.get("/actions").text


def test_a_conversation_that_is_not_kept_leaves_nothing_of_its_actions(http: httpx2.Client) -> None:
    body = {"model": "asking", "messages": [{"role": "user", "content": "secret-name"}], "store": False}
    run_id = http.post("/v1/chat/completions", json=body).json()["run_id"]
    assert http.post(f"/runs/{run_id}/resume", json={"decision": "approve"}).json()["output"].endswith("Done.")
    assert "secret-name" not in http.get("/actions").text
    assert "secret-name" not in http.get(f"/runs/{run_id}/actions").text


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_what_nobody_answers_in_time_fails_and_says_so(
    request: pytest.FixtureRequest, tmp_path: Path, database: str
) -> None:
    settings = {} if database == "sqlite" else {"database_url": request.getfixturevalue("migrated_url")}
    with (
        _asking_inn(tmp_path, action_seconds=0.2, **settings) as inn,
        httpx2.Client(base_url=inn.url, timeout=20, trust_env=False) as http,
    ):
        run_id = ask(http)["run_id"]
        deadline = time.monotonic() + 20
        while (run := http.get(f"/runs/{run_id}").json())["ended_at"] is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert (run["status"], run["error"]["code"], run["output"]) == ("failed", "ACTION_EXPIRED", "Let me see.")
        refused = http.post(f"/runs/{run_id}/resume", json={"decision": "approve"})
        assert refused.status_code == 409
        assert http.get(f"/runs/{run_id}/actions").json()["actions"][0]["status"] == "expired"


@pytest.fixture
def migrated_url(postgres_url: str) -> Iterator[str]:
    with a_copy_of(a_migrated_database(postgres_url), postgres_url) as url:
        yield url


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_a_run_waits_over_a_restart(request: pytest.FixtureRequest, tmp_path: Path, database: str) -> None:
    settings = {} if database == "sqlite" else {"database_url": request.getfixturevalue("migrated_url")}
    with _asking_inn(tmp_path, **settings) as inn, httpx2.Client(base_url=inn.url, timeout=20, trust_env=False) as http:
        run_id = ask(http)["run_id"]
    with _asking_inn(tmp_path, **settings) as inn, httpx2.Client(base_url=inn.url, timeout=20, trust_env=False) as http:
        assert http.get(f"/runs/{run_id}").json()["status"] == "requires_action"
        told = http.post(f"/runs/{run_id}/resume", json={"decision": "approve"}).json()
        assert (told["output"], told["usage"]["total_tokens"]) == ("Let me see.\n\nDone.", 15)
