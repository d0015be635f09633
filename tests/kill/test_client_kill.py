"""The Python client, whose server is killed while it streams: another process tells what has become of the run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from innkeeper.client import AsyncChatServerClient, exceptions
from tests.support.balancers import balancing
from tests.support.replicas import Replicas, running_replicas

AGENTS = '''
import asyncio

from innkeeper import register_agent


async def endless(messages):
    """Goes on until it is killed."""
    yield "One "
    yield "two "
    await asyncio.sleep(600)


register_agent("endless", endless)
'''


@pytest.fixture
def replicas(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Replicas]:
    with running_replicas("postgres", tmp_path, request, AGENTS) as replicas:
        yield replicas


async def test_stream_whose_worker_was_killed_is_told_by_another_what_became_of_it(replicas: Replicas) -> None:
    async with (
        balancing(replicas.other.port, replicas.one.port) as balancer,
        AsyncChatServerClient(base_url=f"http://127.0.0.1:{balancer.port}") as client,
    ):
        stream = await client.create_completion("endless", ["Go"], stream=True)
        said = [await anext(stream), await anext(stream)]
        await asyncio.to_thread(replicas.one.kill)
        with pytest.raises(exceptions.InternalServerError) as caught:
            said += [piece async for piece in stream]
        assert (said, caught.value.code) == (["One ", "two "], "INTERRUPTED")
        run = await client.runs.get(stream.metadata["run_id"])
        assert (run.status, run.output) == ("interrupted", "One two ")
