"""One stored run, every protocol attached to it: start it on one surface, watch it on another, cancel it from a
third, replay it on a fourth, and go on in its session on whichever comes next.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from itertools import pairwise
from uuid import uuid4

import httpx2
import pytest

from tests.support.inns import Inn, frames, said
from tests.support.surfaces import SURFACES, follow

NAMES = list(SURFACES)


@pytest.fixture
async def client(inn: Inn) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=inn.url, timeout=20) as made:
        yield made


@pytest.fixture
def name() -> str:
    """A session and a prompt that no other test uses."""
    return f"play-{uuid4().hex}"


async def conversation(client: httpx2.AsyncClient, session_id: str) -> list[tuple[str, str]]:
    session = (await client.get(f"/sessions/{session_id}")).json()
    return [(message["role"], message["content"]) for message in session["messages"]]


@pytest.mark.parametrize("surface", NAMES)
async def test_start_here_watch_there_cancel_elsewhere_and_replay(
    inn: Inn, client: httpx2.AsyncClient, surface: str, name: str
) -> None:
    performance = inn.conduct(name)
    performance.say("One ", "two ")
    async with SURFACES[surface](client, "conducted", name, name) as started:
        assert await started.until("two ") == "One two "
        async with follow(client, started.run_id) as watching:
            assert await watching.until("two ") == "One two ", "who comes later sees it from the beginning"
            performance.say("three ")
            assert await started.until("three ") == await watching.until("three ") == "three "
            assert (await client.post(f"/runs/{started.run_id}/cancel")).status_code == 202
            assert await started.rest() == await watching.rest() == ""
            assert watching.ending["status"] == "cancelled"
        ending = started.ending
        assert ending.get("status") == "cancelled" or ending["error"]["code"] == "CANCELLED"
    assert performance.cancelled.is_set()
    replay = frames((await client.get(f"/runs/{started.run_id}/events")).content)
    assert said(replay) == replay[-1].data["output"] == "One two three "
    assert [frame.seq for frame in replay] == list(range(1, len(replay) + 1))
    run = (await client.get(f"/runs/{started.run_id}")).json()
    assert (run["status"], run["output"], run["session_id"]) == ("cancelled", "One two three ", name)
    assert await conversation(client, name) == [("user", name), ("assistant", "One two three ")]


@pytest.mark.parametrize("surface", NAMES)
async def test_start_anywhere_watch_and_cancel_as_a_response_and_go_on_from_any_event(
    inn: Inn, client: httpx2.AsyncClient, surface: str, name: str
) -> None:
    performance = inn.conduct(name)
    performance.say("One ")
    async with SURFACES[surface](client, "conducted", name, name) as started:
        await started.until("One ")
        where = f"/v1/responses/{started.run_id.replace('run_', 'resp_')}"
        async with client.stream("GET", where, params={"stream": True}) as watching:
            assert watching.status_code == 200
            assert (await client.post(f"{where}/cancel")).status_code == 200
            seen = [json.loads(line[6:]) async for line in watching.aiter_lines() if line.startswith("data: {")]
        await started.rest()
    assert [one["sequence_number"] for one in seen] == list(range(len(seen)))
    assert "".join(one["delta"] for one in seen if one["type"] == "response.output_text.delta") == "One "
    for after in (0, len(seen) - 2):
        rest = await client.get(where, params={"stream": True, "starting_after": after})
        told = [json.loads(line[6:]) for line in rest.text.splitlines() if line.startswith("data: {")]
        assert told == seen[after + 1 :]


@pytest.mark.parametrize("surface", NAMES)
async def test_each_surface_replays_elsewhere_what_it_has_said(
    inn: Inn, client: httpx2.AsyncClient, surface: str, name: str
) -> None:
    async with SURFACES[surface](client, "busy", "What is it?", name) as started:
        told = await started.rest()
    assert told == "It is 42."
    replay = frames((await client.get(f"/runs/{started.run_id}/events")).content)
    assert said(replay) == told
    types = [frame.data["type"] for frame in replay]
    assert types == [
        "run", "step", "reasoning", "tool_call", "tool_result", "tool_call", "tool_result", "step",
        "text", "text", "usage", "done",
    ]  # fmt: skip


@pytest.mark.parametrize(("first", "second"), [*pairwise(NAMES), (NAMES[-1], NAMES[0])])
async def test_session_that_was_begun_here_goes_on_there(
    inn: Inn, client: httpx2.AsyncClient, first: str, second: str, name: str
) -> None:
    inn.seen.clear()
    for surface, text in ((first, "My name is Ann."), (second, "Who am I?")):
        async with SURFACES[surface](client, "echo", text, name) as reading:
            assert await reading.rest() == f"You said: {text} "
    spoken = [
        ("user", "My name is Ann."),
        ("assistant", "You said: My name is Ann. "),
        ("user", "Who am I?"),
        ("assistant", "You said: Who am I? "),
    ]
    assert await conversation(client, name) == spoken
    assert [(message["role"], message["content"]) for message in inn.seen[-1]] == spoken[:3]
    runs = (await client.get("/runs", params={"session_id": name})).json()["runs"]
    assert [run["status"] for run in runs] == ["completed", "completed"]


@pytest.mark.parametrize("surface", NAMES)
async def test_reader_that_lost_its_stream_resumes_it_on_the_runs_log(
    inn: Inn, client: httpx2.AsyncClient, surface: str, name: str
) -> None:
    performance = inn.conduct(name)
    performance.say("Heard. ")
    async with SURFACES[surface](client, "conducted", name, name) as started:
        await started.until("Heard. ")
        async with follow(client, started.run_id, after=2) as resumed:
            performance.say("Missed.")
            performance.end()
            assert await resumed.rest() == "Missed."
        assert await started.rest() == "Missed."
    assert resumed.ending["output"] == "Heard. Missed."
