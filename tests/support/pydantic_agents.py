"""Pydantic AI agents for tests, on models that are scripted and answer at once."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from pydantic_ai import Agent
from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
)
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from innkeeper.runtimes.pydantic_ai import PydanticAIRuntime
from innkeeper.runtimes.scripted import scripted_model
from innkeeper.runtimes.settings import RuntimeSettings

Script = Callable[[list[ModelMessage], AgentInfo], AsyncIterator[Any]]


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL_WEATHER = 'call weather {"city": "Paris"}'


def served(agent: Agent[Any, Any], **settings: Any) -> PydanticAIRuntime:
    return PydanticAIRuntime(agent, "agent", RuntimeSettings(**settings))


def scripted(**options: Any) -> Agent[Any, Any]:
    """An agent on the scripted model, which calls what a message of lines `call NAME ARGUMENTS` says."""
    return Agent(scripted_model(), **options)


class Ear:
    """A model that says "ok" and keeps what it was asked."""

    def __init__(self) -> None:
        self.messages: list[ModelMessage] = []
        self.info: AgentInfo | None = None
        self.agent: Agent[None, str] = Agent(FunctionModel(stream_function=self._answer))

    async def _answer(self, messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        self.messages, self.info = messages, info
        yield "ok"

    @property
    def settings(self) -> dict[str, Any]:
        assert self.info is not None
        return dict(self.info.model_settings or {})

    @property
    def parts(self) -> list[Any]:
        return [part for message in self.messages for part in message.parts]


def add(a: int, b: int) -> int:
    return a + b


def agent_of(script: Script, **options: Any) -> Agent[Any, Any]:
    return Agent(FunctionModel(stream_function=script), **options)


def calling(tool: str, **arguments: Any) -> Script:
    async def script(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        if any(isinstance(message, ModelResponse) for message in messages):
            yield "done"
        else:
            yield {0: DeltaToolCall(tool, json.dumps(arguments), tool_call_id="c1")}

    return script
