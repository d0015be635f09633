"""What a runtime implements: the bridge from one framework's agent to core events.

A runtime is stateless between runs: it is given the conversation and yields what happens. The server
numbers, stores and distributes the events, keeps time, and ends the run. A runtime ends by returning; it
fails by raising; cancellation reaches it as `asyncio.CancelledError`, which it lets through.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

from innkeeper.core.agents import AgentDescription, Prompts
from innkeeper.core.context import RunContext
from innkeeper.core.events import AgentEvent
from innkeeper.core.runs import Turn


class HasPrompts(Protocol):
    """What a runtime may have beside: prompts that it was configured with.

    - `prompts()` is cheap and does no I/O. It tells nothing that is made up at each run.
    """

    def prompts(self) -> Prompts | None: ...


class Runtime(Protocol):
    """One agent, ready to run. It may have prompts, too (`HasPrompts`), and a `kind`: a word for what hosts it.

    - `describe()` is cheap, does no I/O and shows neither instructions nor secrets.
    - `run()` yields text in the order in which the model wrote it; what it yields joined together is the
      output. A tool's `ToolReturned` follows its `ToolCalled` with the same id.
    - A plain `str` that `run()` yields is text, as its `TextDelta` would be.
    - `run()` yields `UsageReported` only with figures that the framework gave.
    - A call in `ToolCalled(is_client_side=True)` is the client's to answer: the run ends after it.
    - `run()` never blocks the event loop: synchronous user code goes to a thread.
    - Concurrent runs of one runtime do not disturb each other.
    - What `context.line.receive()` gives is said to the agent once, in order, between its calls of tools.
    - `run()` yields `Paused` where it can go on only when people have answered, and ends after it. The call that waits
      for an approval has been told with `ToolCalled`, and its `ToolReturned` comes after the run has gone on.
    - A turn with a `continuation` goes on from there, in any process: a call that was approved is made, with the
      arguments that the answer has or else its own; a denied one has an `error`, which the model reads.
    - Where the description `resumes`, a turn with a `resumption` goes on: what its messages have a result for is not
      done again, and an open call is made again if its tool is idempotent, else told as unknown.
    """

    def describe(self) -> AgentDescription: ...

    def run(self, turn: Turn, context: RunContext) -> AsyncIterator[AgentEvent | str]: ...


Resolver = Callable[[str], Any | Awaitable[Any]]
"""Maps an agent's name to its `agent_data`; `False` or `None` means that there is no such agent."""
