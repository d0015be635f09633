"""Innkeeper hosts AI agents: bring an agent, serve it over the protocols that clients already speak.

The names below are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from innkeeper.version import __version__

if TYPE_CHECKING:
    from innkeeper.apps.applications import attach, create_app
    from innkeeper.apps.environments import environ
    from innkeeper.apps.messaging import bus
    from innkeeper.apps.pricing import pricing
    from innkeeper.apps.registration import register_agent
    from innkeeper.apps.servers import Server, ServerBase
    from innkeeper.apps.tokens import TokenManager
    from innkeeper.config import Settings, load_settings
    from innkeeper.core.context import RunContext, get_context, get_tool_call
    from innkeeper.core.handling import (
        Command,
        DummyEngineCommand,
        DummyEngineStatusUpdate,
        Event,
        NamedCommand,
        NamedEvent,
    )
    from innkeeper.http.agents import router as agent_router
    from innkeeper.http.chat import ChatResponse, stream_router
    from innkeeper.http.contexts import RequestState
    from innkeeper.http.requests import ChatRequest
    from innkeeper.http.sessions import router as session_router
    from innkeeper.runtimes.declared import Agent
    from innkeeper.runtimes.programs import Program
    from innkeeper.runtimes.questions import require_input
    from innkeeper.runtimes.tools import tool

_HOMES = {
    "Agent": "innkeeper.runtimes.declared",
    "ChatRequest": "innkeeper.http.requests",
    "ChatResponse": "innkeeper.http.chat",
    "Command": "innkeeper.core.handling",
    "DummyEngineCommand": "innkeeper.core.handling",
    "DummyEngineStatusUpdate": "innkeeper.core.handling",
    "Event": "innkeeper.core.handling",
    "NamedCommand": "innkeeper.core.handling",
    "NamedEvent": "innkeeper.core.handling",
    "Program": "innkeeper.runtimes.programs",
    "RequestState": "innkeeper.http.contexts",
    "RunContext": "innkeeper.core.context",
    "Server": "innkeeper.apps.servers",
    "ServerBase": "innkeeper.apps.servers",
    "Settings": "innkeeper.config",
    "TokenManager": "innkeeper.apps.tokens",
    "agent_router": "innkeeper.http.agents:router",
    "attach": "innkeeper.apps.applications",
    "bus": "innkeeper.apps.messaging",
    "create_app": "innkeeper.apps.applications",
    "environ": "innkeeper.apps.environments",
    "get_context": "innkeeper.core.context",
    "get_tool_call": "innkeeper.core.context",
    "load_settings": "innkeeper.config",
    "pricing": "innkeeper.apps.pricing",
    "register_agent": "innkeeper.apps.registration",
    "require_input": "innkeeper.runtimes.questions",
    "session_router": "innkeeper.http.sessions:router",
    "stream_router": "innkeeper.http.sockets:stream_router",
    "tool": "innkeeper.runtimes.tools",
}

__all__ = [
    "Agent",
    "ChatRequest",
    "ChatResponse",
    "Command",
    "DummyEngineCommand",
    "DummyEngineStatusUpdate",
    "Event",
    "NamedCommand",
    "NamedEvent",
    "Program",
    "RequestState",
    "RunContext",
    "Server",
    "ServerBase",
    "Settings",
    "TokenManager",
    "__version__",
    "agent_router",
    "attach",
    "bus",
    "create_app",
    "environ",
    "get_context",
    "get_tool_call",
    "load_settings",
    "pricing",
    "register_agent",
    "require_input",
    "session_router",
    "stream_router",
    "tool",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = home.partition(":")
    value = getattr(importlib.import_module(module), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
