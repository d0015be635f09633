"""Pauses: a run that waits for people is seen, decided on and followed through the client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx2
import pytest

from innkeeper import RunContext, ServerBase
from innkeeper.client import ChatServerClient
from innkeeper.config import load_settings
from innkeeper.core.actions import Action
from innkeeper.core.agents import AgentDescription
from innkeeper.core.events import AgentEvent, Paused, TextDelta, ToolCalled, ToolReturned
from innkeeper.core.runs import Turn
from tests.support.inns import UNCOUNTED
from tests.support.servers import serve_app

CALL = '{"path":"x"}'


class Careful:
    """Asks before it removes something."""

    def describe(self) -> AgentDescription:
        return AgentDescription(name="careful")

    async def run(self, turn: Turn, context: RunContext) -> AsyncIterator[AgentEvent | str]:
        if turn.continuation is None:
            yield TextDelta("May I?")
            yield ToolCalled("remove", "call-1", CALL)
            yield Paused((Action("call-1", "approval", "remove", CALL),), "")
            return
        yield ToolReturned("remove", "call-1", turn.continuation.answers[0].decision, None, 1.0)
        yield TextDelta("Done.")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatServerClient]:
    app = ServerBase(settings=load_settings({"data_dir": tmp_path_factory.mktemp("data"), **UNCOUNTED}))
    app.agent("careful")(Careful())
    with serve_app(app) as url, ChatServerClient(base_url=url) as client:
        yield client


def test_a_completion_that_waits_for_people_goes_on_when_they_agree(client: ChatServerClient) -> None:
    paused = client.create_completion("careful", ["Go"])
    assert (paused.status, paused.choices[0].message.content) == ("requires_action", "May I?")
    assert [(action.id, action.name, action.arguments) for action in paused.actions] == [
        ("call-1", "remove", {"path": "x"})
    ]
    assert paused.run_id is not None
    assert client.runs.wait(paused.run_id).status == "requires_action"
    assert client.runs.get(paused.run_id).actions == paused.actions
    assert [action.run_id for action in client.runs.actions("pending").actions] == [paused.run_id]
    client.runs.resume(paused.run_id, decision="approve")
    assert (client.runs.wait(paused.run_id).output or "").endswith("Done.")


def test_a_stream_that_waits_for_people_goes_on_as_a_stream(client: ChatServerClient) -> None:
    with client.create_completion("careful", ["Go"], stream=True) as paused:
        assert list(paused) == ["May I?"]
    (action,) = paused.metadata["actions"]
    answers = [{"id": action.id, "decision": "deny"}]
    with client.runs.resume_stream(paused.metadata["run_id"], answers) as stream:
        events = list(stream)
    assert events[0].type == "action_answered"
    assert [event.data["result"] for event in events if event.type == "tool_result"] == ["deny"]
    assert events[-1].data["status"] == "completed"


def test_resumption_that_is_asked_for_again_tells_the_same_from_behind_the_pause(client: ChatServerClient) -> None:
    paused = client.create_completion("careful", ["Go"])
    key = {"idempotency-key": "resumes-once"}
    with httpx2.Client(base_url=client.base_url, headers=key, timeout=20) as http:
        body = {"decision": "approve", "stream": True}
        first, again = (http.post(f"/runs/{paused.run_id}/resume", json=body) for _ in range(2))
    assert "action_answered" in first.text and "May I?" not in first.text.partition('"done"')[0]
    assert (again.text, again.headers["idempotent-replayed"]) == (first.text, "true")
    (cursor,) = {answer.headers["x-run-cursor"] for answer in (first, again)}
    assert first.text.startswith(f"id: {int(cursor) + 1}\n")
