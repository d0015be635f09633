"""The OpenAI Agents SDK as a client, with its default model, which speaks Responses."""

from __future__ import annotations

import agents
import openai
import pytest
from agents.models.openai_responses import OpenAIResponsesModel

from tests.support.openai_upstream import Reply, Upstream


@agents.function_tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"Sunny in {city}."


@pytest.fixture
def guide(async_client: openai.AsyncOpenAI) -> agents.Agent[None]:
    """An agent of the SDK whose model is an agent of ours."""
    return agents.Agent("guide", model=OpenAIResponsesModel("declared", async_client), tools=[weather])


async def test_its_loop_of_tools_comes_to_an_end(guide: agents.Agent[None], upstream: Upstream) -> None:
    upstream.script([Reply(calls=(("weather", {"city": "Paris"}),)), "Sunny, I hear."])
    done = await agents.Runner.run(guide, "Weather in Paris?")
    assert done.final_output == "Sunny, I hear."
    said = upstream.requests[-1].body["messages"]
    assert [one["content"] for one in said if one["role"] == "tool"] == ["Sunny in Paris."]


async def test_it_streams_and_goes_on_after_a_response(guide: agents.Agent[None], upstream: Upstream) -> None:
    upstream.script(["Hello Ann.", "You are Ann."])
    first = agents.Runner.run_streamed(guide, "I am Ann.", auto_previous_response_id=True)
    deltas = [
        event.data.delta
        async for event in first.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    assert "".join(deltas) == first.final_output == "Hello Ann."
    second = await agents.Runner.run(guide, "Who am I?", previous_response_id=first.last_response_id)
    assert second.final_output == "You are Ann."
    said = [one["content"] for one in upstream.requests[-1].body["messages"] if one["role"] != "system"]
    assert said == ["I am Ann.", "Hello Ann.", "Who am I?"]
