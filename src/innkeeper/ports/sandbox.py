"""Where code of clients is executed: apart from the server, bounded, and with nothing at hand but host functions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

HostFunction = Callable[..., Awaitable[object]]
"""A function of the server that code may call, and await or not; it takes and returns JSON values."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call may use: seconds, and bytes. `output` counts what it prints and what it returns."""

    cpu_seconds: float = 2.0
    wall_seconds: float = 10.0
    memory: int = 256 * 1024 * 1024
    output: int = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call returned, a JSON value, and what it printed."""

    value: object
    printed: str = ""


class CodeFailed(Exception):
    """The code raised; the text is its own exception's, for whoever wrote it."""


class LimitExceeded(Exception):
    """The code was ended because of a limit, which `limit` names: a field of `Limits`, or `recursion`."""

    def __init__(self, limit: str) -> None:
        super().__init__(limit)
        self.limit = limit


class Sandbox(Protocol):
    """Checks and calls source code.

    - `check` parses and never executes; it raises SourceRejected, with line and column, for what is no Python, for
      constructs that this sandbox lacks, and where there is no function of that name at the top level.
    - `call` executes the source from its top, calls `function` with keyword arguments, and awaits what it returns if
      that can be awaited. Calls know nothing of each other: what one leaves behind is gone.
    - A call has no network, no files, no environment, and no function of the server but `hosts`. What a host function
      raises arrives in the code as a RuntimeError with its text.
    - A call beyond a limit raises LimitExceeded, and whatever it had begun is gone; code that raises, CodeFailed.
    - Cancelling a call ends it. What is not JSON comes back as text.
    - `open` raises SetupError where the sandbox cannot be had on this machine; it is never replaced by a weaker one.
    """

    async def open(self) -> None: ...

    def check(self, source: str, function: str) -> None: ...

    async def call(
        self,
        source: str,
        function: str,
        arguments: Mapping[str, object],
        *,
        hosts: Mapping[str, HostFunction],
        limits: Limits,
    ) -> Outcome: ...

    async def close(self) -> None: ...
