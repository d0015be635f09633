"""The dummy: an agent that every server has and nobody declared, which engines of the type `DummyEngine` execute.

It needs no model, and answers at once and always alike.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from innkeeper.core.agents import AgentDescription
from innkeeper.core.context import RunContext
from innkeeper.core.engines import DUMMY_ENGINE
from innkeeper.core.runs import Turn

_DESCRIPTION = AgentDescription(DUMMY_ENGINE, description="Says what it was asked, without a model and without delay.")


class DummyRuntime:
    """Answers `Dummy response to: ` and the prompt, in a few pieces."""

    def describe(self) -> AgentDescription:
        return _DESCRIPTION

    async def run(self, turn: Turn, context: RunContext) -> AsyncGenerator[str]:
        for piece in ("Dummy ", "response ", "to: ", turn.prompt):
            yield piece
