"""What users need to test their agents and runtimes. Nothing here asks for pytest: any runner will do.

What needs a framework is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from innkeeper.testing.agents import MockAgent
from innkeeper.testing.clients import create_test_client
from innkeeper.testing.recordings import Recording, recorded
from innkeeper.testing.replays import RunDiffers, agent_of
from innkeeper.testing.runtimes import RuntimeContract
from innkeeper.testing.scripts import Call, Thought, Wait
from innkeeper.testing.servers import Served, served

if TYPE_CHECKING:
    from innkeeper.testing.scripted_models import ScriptedModel

__all__ = [
    "Call",
    "MockAgent",
    "Recording",
    "RunDiffers",
    "RuntimeContract",
    "ScriptedModel",
    "Served",
    "Thought",
    "Wait",
    "agent_of",
    "create_test_client",
    "recorded",
    "served",
]


def __getattr__(name: str) -> Any:
    if name != "ScriptedModel":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = importlib.import_module("innkeeper.testing.scripted_models").ScriptedModel
    globals()[name] = value
    return value
