"""Steering: what every runtime with a model asks of its run, each at the right point of the run's log.

Invariant: what the runtime has told before reaches the log before anything here does.
"""

from __future__ import annotations

from collections.abc import Sequence

from innkeeper.core.context import RunContext, ToolCall, set_tool_call
from innkeeper.core.injections import InjectedMessage
from innkeeper.runtimes.relays import Emit


class Steering:
    """One run's, inside a relayed call."""

    def __init__(self, context: RunContext, emit: Emit) -> None:
        self._context = context
        self._emit = emit

    async def received(self) -> Sequence[InjectedMessage]:
        """The user's messages that the next model call must see; asked for right before it."""
        line = self._context.line
        if line is None:
            return ()
        await self._emit.caught_up()
        return await line.receive()

    async def saved(self) -> None:
        """Return when the calls that were told are on disk, so that their tools may run."""
        if self._context.line is not None:
            await self._emit.caught_up()
            await self._context.saved()

    def enter_tool(self, call_id: str, name: str) -> None:
        """From here on, this task and whatever it starts answer that call."""
        key = f"{self._context.run_id}:{call_id}"
        set_tool_call(ToolCall(call_id, name, key, self._context.attempt))
