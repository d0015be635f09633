"""Runs that wait for people, as responses: approvals in the output, decisions in the input of what follows."""

from __future__ import annotations

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


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("data")
    app = ServerBase(settings=load_settings({"data_dir": folder, **UNCOUNTED}))
    app.agent("careful")(Careful())
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
