"""A run's line for tests: one turn with its log, without a server. Messages are injected by the test itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from innkeeper.core.actions import Continuation
from innkeeper.core.context import RunContext
from innkeeper.core.events import AgentEvent, MessageInjected, TextDelta
from innkeeper.core.injections import InjectedMessage
from innkeeper.core.messages import Message
from innkeeper.core.runs import Parameters, Resumption, Turn
from innkeeper.ports.agents import Runtime

_BUSY = 3  # turns of the loop that a server takes for other runs before it has taken an event


class RecordedRun:
    """`log` is what the runtime yielded and, at their places, the messages that it was given.

    `saved_events` says how many of its first events were on disk when the runtime last asked; `waiting` is what was
    injected and not asked for.
    """

    def __init__(self, context: RunContext) -> None:
        self.log: list[AgentEvent] = []
        self.saved_events = 0
        self.waiting: list[InjectedMessage] = []
        self._injected = 0
        self._context = context
        context.line = self

    def inject(self, *texts: str) -> None:
        for text in texts:
            self._injected += 1
            self.waiting.append(InjectedMessage(text, f"inj_{self._injected}"))

    async def receive(self) -> Sequence[InjectedMessage]:
        await asyncio.sleep(0)  # a store would take its time
        received, self.waiting = self.waiting, []
        self.log += [MessageInjected(message.content, message.id) for message in received]
        return received

    def tracked(self) -> None:
        """Nothing is booked here."""

    async def saved(self) -> None:
        told = len(self.log)
        await asyncio.sleep(0)
        self.saved_events = told

    async def play(
        self,
        runtime: Runtime,
        *messages: str | Message,
        parameters: Parameters | None = None,
        resumption: Resumption | None = None,
        continuation: Continuation | None = None,
        seen: Callable[[AgentEvent], None] = lambda event: None,
    ) -> list[AgentEvent]:
        """The log of one turn. `seen` is called with each event that the runtime yields, once the log has it."""
        said = tuple(Message("user", one) if isinstance(one, str) else one for one in messages)
        turn = Turn(said, parameters or Parameters(), stream=True, resumption=resumption, continuation=continuation)
        async for told in runtime.run(turn, self._context):
            event = TextDelta(told) if isinstance(told, str) else told
            for _ in range(_BUSY):
                await asyncio.sleep(0)
            self.log.append(event)
            seen(event)
        return self.log
