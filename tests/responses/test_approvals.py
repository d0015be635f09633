"""Runs that wait for people, as responses: approvals in the output, decisions in the input of what follows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from innkeeper import ServerBase
from innkeeper.config import load_settings
from innkeeper.core.actions import Action
from innkeeper.core.agents import AgentDescription
from innkeeper.core.context import RunContext
from innkeeper.core.events import AgentEvent, Paused, TextDelta, ToolCalled, ToolReturned
from innkeeper.core.runs import Turn
from tests.openai.hosts import KEY
from tests.support.inns import UNCOUNTED, serve_inn


class Careful:
    """Asks before it deletes the files that it is told of, then how often it shall say so."""

    def describe(self) -> AgentDescription:
        return AgentDescription("careful")

    async def run(self, turn: Turn, context: RunContext) -> AsyncIterator[AgentEvent | str]:
        going, names = turn.continuation, turn.prompt.split()
        if going is None:
            yield TextDelta("May I? ")
            for name in names:
                yield ToolCalled("delete", f"call_{name}", json.dumps({"name": name}))
            asked = [Action(f"call_{one}", "approval", "delete", json.dumps({"name": one})) for one in names]
            yield Paused(tuple(asked), "")
        elif not going.state:
            for name in names:
                answer = going.answer_to(f"call_{name}")
                assert answer is not None
                yield ToolReturned("delete", f"call_{name}", f"{answer.decision} {answer.message}")
                yield TextDelta(f"{name}: {answer.decision}. ")
            yield Paused((Action("times", "input", "how_often", "{}"),), "asked")
        else:
            yield TextDelta("Done." * json.loads(going.answers[0].value or "0"))


class Endless:
    """Asks once, and has never done enough then."""

    def describe(self) -> AgentDescription:
        return AgentDescription("endless")

    async def run(self, turn: Turn, context: RunContext) -> AsyncIterator[AgentEvent | str]:
        if turn.continuation is None:
            yield Paused((Action("call_a", "approval", "work", "{}"),), "")
        else:
            await asyncio.Event().wait()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("data")
    app = ServerBase(settings=load_settings({"data_dir": folder, **UNCOUNTED}))
    app.agent("careful")(Careful())
    app.agent("endless")(Endless())

    @app.agent("recalls")
    async def recalls(messages: list[dict[str, Any]]) -> str:
        return " | ".join(message["content"] for message in messages)

    with serve_inn(app) as inn:
        yield inn.url


@pytest.fixture
def asker(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=20, _strict_response_validation=True
    ) as made:
        yield made


def decided(approves: bool, *names: str) -> list[Any]:
    kind = "mcp_approval_response"
    return [{"type": kind, "approval_request_id": f"call_{name}", "approve": approves} for name in names]


def test_approvals_are_asked_for_given_and_gone_on_from(asker: openai.OpenAI) -> None:
    first = asker.responses.create(model="careful", input="a b")
    assert first.status == "completed"
    assert [item.type for item in first.output] == ["message", "mcp_approval_request", "mcp_approval_request"]
    request = first.output[1].to_dict()
    assert (request["name"], request["server_label"], json.loads(str(request["arguments"]))) == (
        "delete", "careful", {"name": "a"},
    )  # fmt: skip
    assert asker.responses.retrieve(first.id).output == first.output
    half = asker.responses.create(model="careful", input=decided(True, "a"), previous_response_id=first.id)
    assert [item.to_dict()["id"] for item in half.output] == ["call_b"]
    second = asker.responses.create(model="careful", input=decided(False, "b"), previous_response_id=half.id)
    assert second.id == first.id and second.output_text.strip() == "a: approve. b: deny."
    call = second.output[-1].to_dict()
    assert (call["type"], call["name"]) == ("function_call", "how_often")
    output: list[Any] = [{"type": "function_call_output", "call_id": call["call_id"], "output": "2"}]
    third = asker.responses.create(model="careful", input=output, previous_response_id=second.id)
    assert third.output_text.strip() == "Done.Done."
    whole = asker.responses.retrieve(first.id)
    assert whole.status == "completed" and whole.output_text.startswith("May I? ")
    fourth = asker.responses.create(model="careful", input="c", previous_response_id=third.id)
    assert fourth.id != first.id


def test_streams_end_at_the_pause_and_go_on_counting(asker: openai.OpenAI, url: str) -> None:
    first = list(asker.responses.create(model="careful", input="a", stream=True))
    assert first[-1].type == "response.completed"
    named = first[-1].response.id
    second = list(
        asker.responses.create(model="careful", input=decided(True, "a"), previous_response_id=named, stream=True)
    )
    assert [event.type for event in second[:3]] == [
        "response.created", "response.in_progress", "response.output_item.added",
    ]  # fmt: skip
    numbers = [event.sequence_number for event in [*first, *second]]
    assert numbers == list(range(len(numbers)))
    path = f"{url}/v1/responses/{named}"
    replay = httpx2.get(path, params={"stream": "true", "starting_after": first[-1].sequence_number}, timeout=20).text
    assert [json.loads(line[6:]) for line in replay.splitlines() if line.startswith("data: {")] == [
        event.to_dict() for event in second
    ]


@pytest.mark.parametrize("streams", [False, True])
def test_decision_that_is_sent_again_with_its_key_has_the_first_answer(
    asker: openai.OpenAI, url: str, streams: bool
) -> None:
    waiting = asker.responses.create(model="careful", input="a")
    body = {"model": "careful", "input": decided(True, "a"), "previous_response_id": waiting.id, "stream": streams}
    with httpx2.Client(base_url=url, headers={"idempotency-key": f"key-{streams}"}, timeout=20) as http:
        first, second = (http.post("/v1/responses", json=body) for _ in range(2))
    assert first.status_code == second.status_code == 200
    assert second.headers["idempotent-replayed"] == "true"
    assert first.content == second.content


def test_what_does_not_fit_is_refused(asker: openai.OpenAI) -> None:
    waiting = asker.responses.create(model="careful", input="a")
    ended = asker.responses.create(model="echo", input="x")
    answered = asker.responses.create(model="careful", input="a")
    asker.responses.create(model="careful", input=decided(True, "a"), previous_response_id=answered.id)
    for named, sent, status in (
        (waiting.id, decided(True, "z"), 400),
        (waiting.id, [*decided(True, "a"), {"role": "user", "content": "And?"}], 400),
        (waiting.id, "And?", 409),
        (ended.id, decided(True, "a"), 400),
        (answered.id, decided(True, "a"), 404),
        ("resp_none", decided(True, "a"), 400),
    ):
        with pytest.raises(openai.APIStatusError) as caught:
            asker.responses.create(model="careful", input=sent, previous_response_id=named)
        assert caught.value.status_code == status, caught.value
    assert asker.responses.cancel(waiting.id).status == "cancelled"


@pytest.mark.parametrize("streams", [False, True])
def test_requests_made_again_have_their_first_answers_however_far_the_run_has_gone_on(
    asker: openai.OpenAI, url: str, streams: bool
) -> None:
    with httpx2.Client(base_url=url, timeout=20) as http:

        def told(at: int, body: dict[str, Any]) -> httpx2.Response:
            key = f"number-{at}-{streams}"
            answer = http.post("/v1/responses", json=body, headers={"idempotency-key": key})
            assert answer.status_code == 200, answer.text
            return answer

        body: dict[str, Any] = {"model": "careful", "input": "a b", "stream": streams}
        first = [told(0, body)]
        named = {**body, "previous_response_id": first[0].headers["x-run-id"].replace("run_", "resp_")}
        output = {"type": "function_call_output", "call_id": "times", "output": "2"}
        sent = [body, *({**named, "input": one} for one in (decided(True, "a"), decided(False, "b"), [output]))]
        for at in range(1, len(sent)):
            first.append(told(at, sent[at]))
            for before in range(at + 1):
                then = 2 if before == 1 and at > 1 else before  # a part of the decisions has what came of all
                assert told(before, sent[before]).content == first[then].content, (before, at)


def test_stream_of_what_is_left_to_decide_has_the_whole_ladder(asker: openai.OpenAI) -> None:
    waiting = asker.responses.create(model="careful", input="a b")
    told = asker.responses.create(
        model="careful", input=decided(True, "a"), previous_response_id=waiting.id, stream=True
    )
    events = list(told)
    assert [event.type.removeprefix("response.") for event in events] == [
        "created", "in_progress", "output_item.added", "output_item.done", "completed",
    ]  # fmt: skip
    assert events[-1].type == "response.completed" and events[-1].response.output[0].id == "call_b"


def test_response_that_is_not_stored_is_answered_while_it_waits_and_then_gone(asker: openai.OpenAI) -> None:
    waiting = asker.responses.create(model="careful", input="a", store=False)
    asked = asker.responses.create(model="careful", input=decided(True, "a"), previous_response_id=waiting.id)
    output: list[Any] = [{"type": "function_call_output", "call_id": "times", "output": "1"}]
    done = asker.responses.create(model="careful", input=output, previous_response_id=waiting.id)
    assert (done.id, asked.id, done.output_text.strip()) == (waiting.id, waiting.id, "Done.")
    for sent in (output, decided(True, "a"), "And?"):
        with pytest.raises(openai.BadRequestError) as caught:
            asker.responses.create(model="careful", input=sent, previous_response_id=waiting.id)
        assert caught.value.code == "previous_response_not_found"


def test_conversation_stands_for_its_response_that_waits(asker: openai.OpenAI) -> None:
    talk = asker.conversations.create()
    waiting = asker.responses.create(model="careful", input="a", conversation=talk.id)
    asked = asker.responses.create(model="careful", input=decided(True, "a"), conversation=talk.id)
    output: list[Any] = [{"type": "function_call_output", "call_id": "times", "output": "1"}]
    done = asker.responses.create(model="careful", input=output, conversation=talk.id)
    assert (asked.id, done.id, done.output_text.strip()) == (waiting.id, waiting.id, "Done.")
    with pytest.raises(openai.BadRequestError, match="previous_response_id"):
        asker.responses.create(model="careful", input=decided(True, "z"), conversation=talk.id)
    with pytest.raises(openai.BadRequestError, match="decides nothing here"):
        asker.conversations.items.create(talk.id, items=decided(True, "a"))
    with pytest.raises(openai.BadRequestError, match="decides nothing here"):
        asker.conversations.create(items=decided(True, "a"))


def test_run_goes_on_in_the_background_where_that_is_asked_for(asker: openai.OpenAI) -> None:
    waiting = asker.responses.create(model="endless", input="a")
    going = asker.responses.create(
        model="endless", input=decided(True, "a"), previous_response_id=waiting.id, background=True
    )
    assert (going.id, going.status, going.output) == (waiting.id, "in_progress", [])
    assert asker.responses.cancel(waiting.id).status == "cancelled"


async def test_on_a_websocket_what_is_not_stored_is_answered_while_it_waits_and_then_followed(url: str) -> None:
    async with (
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, _strict_response_validation=True) as sdk,
        sdk.responses.connect() as connection,
    ):

        async def told(model: str, sent: Any, previous: str | None = None) -> Any:
            await connection.response.create(model=model, input=sent, previous_response_id=previous, store=False)
            while (event := await connection.recv()).type not in ("response.completed", "error"):
                pass
            return event

        waiting = (await told("careful", "a")).response
        for sent in (decided(True, "a"), [{"type": "function_call_output", "call_id": "times", "output": "1"}]):
            event = await told("careful", sent, waiting.id)
            assert event.type == "response.completed" and event.response.id == waiting.id, event
        recalled = (await told("recalls", "And?", waiting.id)).response.output_text
        assert [one.strip() for one in recalled.split("|")] == ["a", "Done.", "And?"]


def test_an_end_user_decides_nothing_in_the_conversation_of_another(asker: openai.OpenAI) -> None:
    name = "both-call-it-so"
    asked = {user: {"conversation": None, "session_id": name, "user": user} for user in ("ann", "bob")}
    waiting = [
        asker.post("/responses", body={"model": "careful", "input": "a", **one}, cast_to=dict) for one in asked.values()
    ]
    assert [one["output"][-1]["type"] for one in waiting] == ["mcp_approval_request"] * 2
    with pytest.raises(openai.NotFoundError):
        asker.responses.create(model="careful", input=decided(True, "a"), conversation=name, user="cyd")
    for user, one in zip(asked, waiting, strict=True):
        done = asker.responses.create(model="careful", input=decided(True, "a"), conversation=name, user=user)
        assert done.id == one["id"], "each decides what was asked of them"
