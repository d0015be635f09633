"""Responses that are told whole, while their runs go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from innkeeper import ServerBase
from innkeeper.config import load_settings
from innkeeper.core.actions import Action, Answer
from innkeeper.core.agents import AgentDescription
from innkeeper.core.context import RunContext
from innkeeper.core.events import AgentEvent, Paused
from innkeeper.core.messages import Message
from innkeeper.core.runs import StartRun, Turn
from innkeeper.http.responses.wholes import response_of
from innkeeper.services.pauses import ResumeRequest
from innkeeper.testing.runtimes import new_context
from innkeeper.wiring.assembly import Started
from tests.support.inns import UNCOUNTED
from tests.support.turns import ANN


class Asking:
    """Asks first, and once it may go on, takes until the test lets it end."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()

    def describe(self) -> AgentDescription:
        return AgentDescription("asking")

    async def run(self, turn: Turn, context: RunContext) -> AsyncIterator[AgentEvent | str]:
        if turn.continuation is None:
            yield Paused((Action("may", "approval", "talk", "{}"),), "")
            return
        yield "I may."
        await self.may_end.wait()


@pytest.fixture
def asking() -> Asking:
    return Asking()


@pytest.fixture
async def served(tmp_path: Path, asking: Asking) -> AsyncIterator[Started]:
    app = ServerBase(settings=load_settings({"data_dir": tmp_path, **UNCOUNTED}))
    app.agent("asking")(asking)
    yield await app.kernel.start()
    asking.may_end.set()
    await app.kernel.stop()


async def test_a_response_that_waits_for_people_is_told_at_once_though_somebody_lets_it_go_on(served: Started) -> None:
    start = StartRun("asking", (Message("user", "May you?"),), "/v1/responses", request={})
    asked = await served.runs.start(ANN, start, new_context())
    await served.runs.wait(ANN, asked.run.id, 10)
    run = await served.runs.get(ANN, asked.run.id)
    await served.runs.resume(ANN, ResumeRequest(run.id, (Answer("may", "approve"),)), new_context())
    told = await asyncio.wait_for(response_of(served, run), 30)
    assert told["status"] == "completed"
    assert [item["type"] for item in told["output"]] == ["mcp_approval_request"]
