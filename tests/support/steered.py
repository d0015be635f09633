"""Agents with tools in each framework, on one scripted provider, so that one test says the same of all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import agents
import pydantic_ai

from innkeeper.ports.agents import Runtime
from innkeeper.runtimes.declared import Agent, DeclaredRuntime
from innkeeper.runtimes.openai_agents import OpenAIAgentsRuntime
from innkeeper.runtimes.pydantic_ai import PydanticAIRuntime
from innkeeper.runtimes.settings import RuntimeSettings
from tests.support.openai_upstream import Request, Upstream

Kind = Literal["declared", "pydantic_ai", "openai_agents", "openai_agents_chat"]
KINDS: tuple[Kind, ...] = get_args(Kind)

Tools = Sequence[Callable[..., Any]]


def steered(kind: Kind, upstream: Upstream, tools: Tools = (), max_steps: int = 10) -> Any:
    """A runtime of that kind, which can be closed."""
    api = "chat_completions" if kind == "openai_agents_chat" else "responses"
    environment = {"OPENAI_API_KEY": "sk-1", "OPENAI_BASE_URL": upstream.url, "OPENAI_AGENTS_API": api}
    settings = RuntimeSettings(environment)
    runtime: Runtime
    if kind == "declared":
        runtime = DeclaredRuntime(Agent("a", "openai:gpt-4o", tools=tools, max_steps=max_steps), "a", settings)
    elif kind == "pydantic_ai":
        agent: Any = pydantic_ai.Agent("openai-responses:gpt-4o", tools=tools, defer_model_check=True)
        runtime = PydanticAIRuntime(agent, "a", settings, max_steps=max_steps)
    else:
        made = agents.Agent("a", model="gpt-4o", tools=[agents.function_tool(tool) for tool in tools])
        runtime = OpenAIAgentsRuntime(made, "a", settings, max_turns=max_steps)
    return runtime


def heard(request: Request) -> list[str]:
    """The conversation as the model was told it, in one form for both of OpenAI's APIs: `user hi`, `call add`, …"""
    told: list[str] = []
    for item in request.body.get("messages") or request.body["input"]:
        if item.get("type") == "function_call":
            told.append(f"call {item['name']}")
        elif item.get("type") == "function_call_output":
            told.append(f"result {_text(item['output'])}")
        elif item["role"] == "tool":
            told.append(f"result {_text(item['content'])}")
        elif item["role"] in ("user", "assistant"):
            told += [f"{item['role']} {_text(item['content'])}"] if item.get("content") else []
            told += [f"call {call['function']['name']}" for call in item.get("tool_calls") or ()]
    return told


def _text(content: Any) -> str:
    return content if isinstance(content, str) else " ".join(str(part["text"]) for part in content)
