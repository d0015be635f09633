"""Recorded runs: played again, as an agent or as a model, and another agent compared with what was recorded."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pydantic
import pydantic_ai
import pytest

from innkeeper import Agent, ServerBase, tool
from innkeeper.core.errors import Invalid, RunNotFound, SetupError
from innkeeper.core.events import StepChanged, TextDelta, ToolCalled, ToolReturned
from innkeeper.core.identity import Caller, Owner, Role
from innkeeper.services.recordings import Recordings
from innkeeper.testing import (
    Call,
    MockAgent,
    Recording,
    RunDiffers,
    ScriptedModel,
    Thought,
    create_test_client,
    recorded,
)
from innkeeper.testing.replays import replay
from innkeeper.testing.scripts import Reply
from innkeeper.wiring import open_store
from tests.support.inns import frames

ROOT = Caller(Owner("local", "cli:test"), Role.ADMIN)
Json = dict[str, Any]
Record = Callable[..., Recording]


def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """Records a run of an agent, the last of those that `inputs` ask for, through a file."""

    def record(agent: object, *inputs: str, **fields: Any) -> Recording:
        app = ServerBase()
        app.agent("it")(agent)
        with create_test_client(app, data_dir=tmp_path / "data") as client:
            for text in inputs:
                run = client.post("/chat", json={"input": text, "session_id": "s", **fields})
                run_id = run.headers["x-run-id"]
                while run.json().get("status") == "requires_action":
                    answers = [{"id": one["id"], **decide(one)} for one in run.json()["actions"]]
                    run = client.post(f"/runs/{run_id}/resume", json={"answers": answers})
            raw = asyncio.run(_exported(app, run_id))
        file = tmp_path / "run.json"
        file.write_text(json.dumps(raw), encoding="utf-8")
        return recorded(file)

    return record


def decide(action: Json) -> Json:
    """Somebody approves sums of small numbers, denies those of large ones, and corrects a three."""
    numbers = json.loads(action["arguments"]) if isinstance(action["arguments"], str) else action["arguments"]
    if numbers["a"] > 100:
        return {"decision": "deny", "message": "Too large."}
    instead = {"arguments": {**numbers, "a": 30}} if numbers["a"] == 3 else {}
    return {"decision": "approve", **instead}


async def _exported(app: ServerBase, run_id: str) -> Json:
    store = open_store(app.kernel.settings)
    await store.open(serves=False)
    try:
        return await Recordings(runs=store.runs, sessions=store.sessions).of(ROOT, run_id)
    finally:
        await store.close()


def adder(model: Any, tool: Any = add, **options: Any) -> Agent:
    return Agent("adder", model=model, tools=[tool], **options)


SCRIPT: tuple[Reply, ...] = (
    "Hello.",
    [Thought("Two sums."), "Let me see. ", Call("add", {"a": 1, "b": 2}, "one"), Call("add", {"a": 3, "b": 4}, "two")],
    "It is 3 and 7.",
)


@pytest.fixture
def sums(record: Record) -> Recording:
    return record(adder(ScriptedModel(SCRIPT)), "Hi", "1 + 2 and 3 + 4?")


def test_a_recording_has_what_the_agent_was_given_and_what_came_of_it(sums: Recording) -> None:
    assert [(message["role"], message["content"]) for message in sums.input] == [
        ("user", "Hi"),
        ("assistant", "Hello."),
        ("user", "1 + 2 and 3 + 4?"),
    ]
    assert (sums.status, sums.output) == ("completed", "Let me see. \n\nIt is 3 and 7.")
    assert (sums.events[0]["type"], sums.events[-1]["type"]) == ("run", "done")
    assert sums.script == [
        [
            Thought("Two sums."),
            "Let me see. ",
            Call("add", '{"a":1,"b":2}', "one"),
            Call("add", '{"a":3,"b":4}', "two"),
        ],
        ["It is 3 and 7."],
    ]


def test_its_agent_does_the_same_again_event_by_event(sums: Recording) -> None:
    app = ServerBase()
    app.agent("again")(sums.agent())
    with create_test_client(app) as client:
        told = [frame.data for frame in frames(client.post("/chat/stream", json={"input": "anything"}).content)]
    own = ("run_id", "session_id", "agent_name")
    again = [{name: one for name, one in event.items() if name not in own} for event in told]
    assert again == [{name: one for name, one in event.items() if name not in own} for event in sums.events]


def test_an_agent_that_does_the_same_passes_and_really_calls_its_tools(sums: Recording) -> None:
    called: list[tuple[int, int]] = []

    def counted(a: int, b: int) -> int:
        called.append((a, b))
        return a + b

    counted.__name__ = "add"
    for agent in (
        adder("openai:gpt-none", counted),
        pydantic_ai.Agent("openai:x", tools=[counted], defer_model_check=True),
    ):
        assert sums.check(agent).output == "Let me see. It is 3 and 7."
    assert sorted(called) == [(1, 2), (1, 2), (3, 4), (3, 4)]


async def test_it_may_be_checked_where_a_loop_runs(sums: Recording) -> None:
    assert sums.check(adder("test", isolated=True)).differences == []


def test_a_run_that_was_paused_goes_on_with_what_people_had_answered(record: Record) -> None:
    called: list[tuple[int, int]] = []

    @tool(requires_approval=True)
    def add(a: int, b: int) -> int:
        """Adds two numbers."""
        called.append((a, b))
        return a + b

    def approved(model: Any) -> Agent:
        return adder(model, add)

    asked = [Call("add", {"a": 1, "b": 2}, "one"), Call("add", {"a": 3, "b": 4}, "two")]
    large = Call("add", {"a": 500, "b": 1}, "three")
    recording = record(approved(ScriptedModel([asked, ["And ", large], "It is 3 and 34."])), "1 + 2 and 3 + 4?")
    assert (recording.status, sorted(called)) == ("completed", [(1, 2), (30, 4)])
    called.clear()
    assert recording.check(approved("test")).output.endswith("It is 3 and 34.")
    assert sorted(called) == [(1, 2), (30, 4)]
    with pytest.raises(RunDiffers, match=r"call 3: recorded add\(.*Too large"):
        recording.check(adder("test"))


def test_every_difference_is_told(sums: Recording) -> None:
    def wrong(a: int, b: int) -> int:
        if a == 3:
            raise ValueError("too large")
        return a - b

    wrong.__name__ = "add"
    with pytest.raises(RunDiffers) as differs:
        sums.check(adder("test", wrong))
    told = str(differs.value).splitlines()
    assert told[1:] == [
        '  call 1: recorded add({"a": 1, "b": 2}) -> 3; now add({"a": 1, "b": 2}) -> -1',
        '  call 2: recorded add({"a": 3, "b": 4}) -> 7; now add({"a": 3, "b": 4}) -> {"error": "too large"}',
    ]
    assert replay(sums, Agent("adder", model="test")).differences[0].startswith("call 1: recorded add")
    assert replay(sums, adder("test", max_steps=1)).failure is not None


def test_a_function_is_run_as_it_is(record: Record) -> None:
    async def looker(messages: list[Json]) -> AsyncIterator[Any]:
        yield StepChanged(1, "started")
        yield ToolCalled("look", "call-1", '{"at": "it"}')
        yield ToolReturned("look", "call-1", {"found": 42})
        yield TextDelta(f"Heard {messages[-1]['content']}.")
        yield StepChanged(1, "completed")

    async def other(messages: list[Json]) -> str:
        return "Nothing."

    recording = record(looker, "this")
    recording.check(looker)
    assert replay(recording, other).differences == [
        'call 1: recorded look({"at": "it"}) -> {"found": 42}; now none',
        "output: recorded 'Heard this.'; now 'Nothing.'",
    ]


def test_a_run_that_failed_fails_again(record: Record) -> None:
    failing = MockAgent(error="open sesame")
    recording = record(failing, "go")
    assert (recording.status, replay(recording, failing).differences) == ("failed", [])
    told = replay(recording, MockAgent(response="Fine.")).differences
    assert [difference.partition(":")[0] for difference in told] == ["failure", "output"]
    assert told[0].startswith("failure: recorded AGENT_FAILED") and told[0].endswith("now none")
    app = ServerBase()
    app.agent("again")(recording.agent())
    with create_test_client(app) as client:
        assert client.post("/chat", json={"input": "go"}).json()["error"]["code"] == "AGENT_FAILED"


def test_structured_output_and_calls_that_the_client_answers_are_compared(record: Record) -> None:
    class Sum(pydantic.BaseModel):
        total: int

    structured = record(
        Agent("it", model=ScriptedModel([Call("final_result", {"total": 3})]), output_type=Sum), "1 + 2?"
    )
    assert structured.output == '{"total":3}'
    structured.check(Agent("it", model="test", output_type=Sum))


def test_what_looks_like_a_credential_is_in_no_recording_and_makes_no_difference(record: Record) -> None:
    secret = "sk-aaaabbbbccccddddeeeeffff"

    def login(password: str) -> dict[str, str]:
        return {"access_token": "t0p-secret-thing", "note": f"the key is {secret}"}

    def agent(model: Any) -> Agent:
        return Agent("it", model=model, tools=[login])

    said = [secret[:9], secret[9:], " is what I used."]
    recording = record(agent(ScriptedModel([Call("login", {"password": "hunter2-hunter2"}), said])), f"Use {secret}")
    kept = json.dumps(recording.raw)
    for hidden in (secret, "t0p-secret-thing", "hunter2-hunter2", secret[9:]):
        assert hidden not in kept
    recording.check(agent("test"))


@pytest.fixture
def interrupt(tmp_path: Path) -> Record:
    """Records a run of an agent that was cancelled once `began` was set."""

    def interrupt(agent: object, began: threading.Event) -> Recording:
        app = ServerBase()
        app.agent("it")(agent)
        began.clear()
        with create_test_client(app, data_dir=tmp_path / "data") as client:
            asked = client.post("/v1/responses", json={"model": "it", "input": "Go", "background": True}).json()
            run_id = asked["id"].replace("resp_", "run_")
            assert began.wait(20)
            client.post(f"/runs/{run_id}/cancel")
            assert client.get(f"/runs/{run_id}", params={"wait": 20}).json()["status"] == "cancelled"
            raw = asyncio.run(_exported(app, run_id))
        file = tmp_path / "run.json"
        file.write_text(json.dumps(raw), encoding="utf-8")
        return recorded(file)

    return interrupt


def test_a_run_that_was_cancelled_is_compared_as_far_as_it_got(interrupt: Record) -> None:
    began = threading.Event()

    def slow(first: str) -> object:
        async def run(messages: list[Json]) -> AsyncIterator[str]:
            yield first
            began.set()
            await asyncio.sleep(300)
            yield "at last"

        return run

    async def nap(minutes: int) -> str:
        began.set()
        await asyncio.sleep(300)
        return "rested"

    said = interrupt(slow("I begin. "), began)
    assert said.check(slow("I begin. ")).output == "I begin. "
    with pytest.raises(RunDiffers, match=r"output: recorded 'I begin\. '; now 'I begun\. '"):
        said.check(slow("I begun. "))
    called = interrupt(adder(ScriptedModel([["Wait.", Call("nap", {"minutes": 5})]]), nap), began)
    called.check(adder("test", nap))


def test_what_a_request_asked_of_the_model_is_asked_again_but_of_no_other_model(tmp_path: Path) -> None:
    app = ServerBase()
    app.agent("it")(Agent("it", model=ScriptedModel(["Yes."]), tools=[add]))
    with create_test_client(app, data_dir=tmp_path / "data") as client:
        asked = {"model": "it", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0.5, "stop": ["END"]}
        run_id = client.post("/v1/chat/completions", json=asked).headers["x-run-id"]
        raw = asyncio.run(_exported(app, run_id))
    assert raw["parameters"] == {"temperature": 0.5, "stop": ["END"]}
    raw["parameters"]["model"] = "openai:no-such-model"
    assert Recording(raw).check(adder("test")).output == "Yes."


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    for text, told in (
        ("{", "is not JSON"),
        ("[]", "is no recording of a run"),
        ('{"format": "innkeeper.run", "version": 99}', "this package reads 1"),
    ):
        file.write_text(text)
        with pytest.raises(SetupError, match=told):
            recorded(file)
    with pytest.raises(SetupError, match="cannot be read"):
        recorded(tmp_path / "none.json")


def test_an_agent_without_steps_has_no_model_to_play(record: Record) -> None:
    recording = record(MockAgent(response="Yes."), "?")
    with pytest.raises(SetupError, match="has no steps"):
        recording.model()
    with pytest.raises(SetupError, match="has no steps"):
        recording.check(adder("test"))


async def test_a_run_that_goes_on_or_is_not_there_is_not_recorded(tmp_path: Path) -> None:
    from tests.support.turns import accept, accepted_by, store_at

    store = store_at(f"sqlite:///{tmp_path / 'a.db'}")
    await store.open()
    try:
        accepted = await accepted_by(store, accept("Hi"))
        recordings = Recordings(runs=store.runs, sessions=store.sessions)
        with pytest.raises(Invalid, match="is running: it can be exported when it has ended"):
            await recordings.of(ROOT, accepted.run.id)
        with pytest.raises(RunNotFound):
            await recordings.of(ROOT, "run_none")
    finally:
        await store.close()
