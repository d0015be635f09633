"""A receiver of webhooks for each test, and a run to tell of."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from innkeeper.core.identity import LOCAL_OWNER
from innkeeper.core.runs import Run, RunStatus
from innkeeper.core.times import Instant
from innkeeper.core.usage import Usage
from tests.support.receivers import Receiver, running_receiver


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with running_receiver() as running:
        yield running


@pytest.fixture
def run() -> Run:
    return Run(
        id="run_1",
        owner=LOCAL_OWNER,
        user_id="ann",
        session_key="key",
        session_id="s1",
        agent_name="assistant",
        endpoint="/chat",
        status=RunStatus.COMPLETED,
        turn=1,
        created_at=Instant(1_000_000),
        output="Grüße",
        usage=Usage(4, 3, "test"),
        background=True,
        metadata={"b": 1, "a": [None]},
        started_at=Instant(1_500_000),
        ended_at=Instant(2_250_000),
    )
