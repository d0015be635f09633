"""The OpenAI Agents SDK as a client, with each of its models: of chat completions and of Responses."""

from __future__ import annotations

import agents
import openai
import pytest
from agents.models.openai_chatcompletions import OpenAIChatCompletionsModel
from agents.models.openai_responses import OpenAIResponsesModel
from pydantic import BaseModel

Model = type[OpenAIChatCompletionsModel] | type[OpenAIResponsesModel]
MODELS = [OpenAIChatCompletionsModel, OpenAIResponsesModel]
ASKS = 'call weather {"city": "Paris"}\ncall weather {"city": "Rome"}'
TOLD = "weather returned Sunny in Paris. weather returned Sunny in Rome."


class Place(BaseModel):
    city: str
    sunny: bool


@agents.function_tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"Sunny in {city}"


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Model:
    kind: Model = request.param
    return kind


@pytest.mark.parametrize("name", ["echo", "scripted", "plain-pydantic"])
async def test_it_hears_the_same_whole_and_streamed(model: Model, async_client: openai.AsyncOpenAI, name: str) -> None:
    guide = agents.Agent[None]("guide", model=model(name, async_client))
    whole = await agents.Runner.run(guide, "Hi there")
    streamed = agents.Runner.run_streamed(guide, "Hi there")
    async for _ in streamed.stream_events():
        pass
    assert str(whole.final_output).strip() == "You said: Hi there"
    assert streamed.final_output == whole.final_output


async def test_its_tools_are_called_and_what_it_keeps_is_sent_back(
    model: Model, async_client: openai.AsyncOpenAI
) -> None:
    guide = agents.Agent[None]("guide", model=model("scripted", async_client), tools=[weather])
    first = await agents.Runner.run(guide, ASKS)
    streamed = agents.Runner.run_streamed(guide, ASKS)
    async for _ in streamed.stream_events():
        pass
    assert first.final_output == streamed.final_output == TOLD
    for earlier in (first, streamed):
        again = await agents.Runner.run(guide, [*earlier.to_input_list(), {"role": "user", "content": "Thanks"}])
        assert again.final_output == "You said: Thanks"


async def test_its_outputs_and_its_handoffs_are_understood(model: Model, async_client: openai.AsyncOpenAI) -> None:
    placing = agents.Agent[None]("placing", model=model("scripted", async_client), output_type=Place)
    assert isinstance((await agents.Runner.run(placing, "Where?")).final_output, Place)
    desk = agents.Agent[None]("desk", model=model("scripted", async_client), handoffs=[placing])
    handed = await agents.Runner.run(desk, "call transfer_to_placing {}")
    assert handed.last_agent.name == "placing" and isinstance(handed.final_output, Place)


@pytest.mark.parametrize("streams", [False, True])
async def test_it_raises_what_the_agent_fails_with(
    model: Model, async_client: openai.AsyncOpenAI, streams: bool
) -> None:
    guide = agents.Agent[None]("guide", model=model("breaking", async_client))
    with pytest.raises(openai.APIError, match="The agent failed"):
        if not streams:
            await agents.Runner.run(guide, "Hi")
        async for _ in agents.Runner.run_streamed(guide, "Hi").stream_events():
            pass


async def test_a_conversation_is_its_session(async_client: openai.AsyncOpenAI) -> None:
    session = agents.OpenAIConversationsSession(openai_client=async_client)
    guide = agents.Agent[None]("guide", model=OpenAIResponsesModel("scripted", async_client), tools=[weather])
    for said in (ASKS, "Thanks"):
        await agents.Runner.run(guide, said, session=session)
    kept = await session.get_items()
    kinds = [str(item.get("type")) for item in kept]
    assert [kind for kind in kinds if kind != "reasoning"] == [
        "message", "function_call", "function_call", "function_call_output", "function_call_output", "message",
        "message", "message",
    ]  # fmt: skip
