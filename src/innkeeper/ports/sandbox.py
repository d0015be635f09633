"""Where code of clients is executed: apart from the server, bounded, and with nothing at hand but host functions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

HostFunction = Callable[..., Awaitable[object]]
"""A function of the server that code may call; it takes and returns JSON values."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call may use: seconds, bytes, and calls of host functions.

    `output` counts what it prints and what it returns, and by itself what it hands to one host function.
    """

    cpu_seconds: float = 2.0
    wall_seconds: float = 10.0
    memory: int = 256 * 1024 * 1024
    output: int = 1024 * 1024
    calls: int = 1000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call returned, a JSON value, and what it printed."""

    value: object
    printed: str = ""


@dataclass(frozen=True, slots=True)
class ToolFunction:
    """The function that a tool's source defines, and its parameters without a default, in their order."""

    name: str
    required: tuple[str, ...] = ()


class CodeFailed(Exception):
    """The code raised; the text is its own exception's, for whoever wrote it."""


class LimitExceeded(Exception):
    """The code was ended because of a limit, which `limit` names: a field of `Limits`, or `recursion`."""

    def __init__(self, limit: str) -> None:
        super().__init__(limit)
        self.limit = limit


class Sandbox(Protocol):
    """Checks and calls source code.

    Checks parse and never execute. They raise SourceRejected, with line and column, for what is no Python, for
    constructs that this sandbox lacks, where there is no function of that name at the top level, and where it cannot be
    called as it will be. Where no name is given they take the last function at the top level. They return its name.

    - `check_tool` wants a function that takes each of `names` by keyword, and needs nothing else. It tells
      which of them it needs.
    - `check_handler` wants a function with exactly one positional parameter, whatever its name.
    - `call` executes the source from its top, calls `function` with `arguments`, a mapping by keyword and a tuple by
      position, and awaits what it returns if that is a coroutine. Calls know nothing of each other: what one leaves
      behind is gone.
    - A call has no network, no files, no environment, and no function of the server but `hosts`. A host function begins
      when it is called. Inside of `async def` what the call gives must be awaited; elsewhere it is the value itself.
      What a host function raises arrives in the code as a RuntimeError with its text.
    - A call beyond a limit raises LimitExceeded, and whatever it had begun is gone; code that raises, CodeFailed.
    - Cancelling a call ends it. What is not JSON comes back as text; what is nested too deeply for JSON, as CodeFailed.
    - As many calls run at a time as the sandbox was made for; others wait, and their seconds begin when they run. What
      a host function calls in its turn does not wait for the call that waits for it.
    - `open` raises SetupError where the sandbox cannot be had on this machine; it is never replaced by a weaker one.
    """

    async def open(self) -> None: ...

    async def check_tool(self, source: str, function: str | None, names: Collection[str]) -> ToolFunction: ...

    async def check_handler(self, source: str, function: str | None) -> str: ...

    async def call(
        self,
        source: str,
        function: str,
        arguments: Mapping[str, object] | tuple[object, ...],
        *,
        hosts: Mapping[str, HostFunction],
        limits: Limits,
    ) -> Outcome: ...

    async def close(self) -> None: ...
