"""The context of a run: what hooks and agent code share while a request is served.

`get_context()` finds it from anywhere in the agent's code, threads included. `request` is `None` for runs
that no HTTP request is waiting for. Clock and ids are handed in, so that this module reads neither.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from decimal import Context, Decimal, InvalidOperation
from typing import Any, Protocol

from innkeeper.core.actions import Continuation
from innkeeper.core.credits import MAX_CREDITS
from innkeeper.core.environments import Belongings
from innkeeper.core.errors import Invalid
from innkeeper.core.identity import Owner
from innkeeper.core.injections import InjectedMessage
from innkeeper.core.traces import SpanPlace
from innkeeper.core.usage import CreditRecord, Usage
from innkeeper.core.workspaces import Workspace

_EXACT = Context(prec=28)
"""As sums are made; what has more digits is rounded."""


@dataclass(frozen=True, slots=True)
class SessionTool:
    """A tool of the run's session, beside the agent's own: `parameters` is the JSON schema of its arguments.

    `call` takes them and returns any JSON value; what it raises is for the model to read.
    """

    name: str
    description: str
    parameters: Mapping[str, object]
    call: Callable[[Mapping[str, object]], Awaitable[object]]


class RunLine(Protocol):
    """What a context asks of its run while that is executed."""

    def receive(self) -> Awaitable[Sequence[InjectedMessage]]: ...

    def saved(self) -> Awaitable[None]: ...

    def tracked(self) -> None:
        """The context has tracked credits; called in any thread."""


class Injections:
    """What is waiting for a run: iterate it to be given it, with `async for`, or with `for` in sync code."""

    def __init__(self, line: RunLine | None) -> None:
        self._line = line

    async def __aiter__(self) -> AsyncIterator[InjectedMessage]:
        if self._line is not None:
            for message in await self._line.receive():
                yield message

    def __iter__(self) -> Iterator[InjectedMessage]:
        wait = _current_wait.get()
        if _is_on_a_loop() or (wait is None and self._line is not None):
            raise RuntimeError("Use `async for message in context.injections()`: a plain `for` is for sync agents.")
        if wait is not None and self._line is not None:
            yield from wait(self._line.receive)


_NO_WORKSPACE = Workspace()

Ask = Callable[[], Awaitable[Sequence[InjectedMessage]]]
Wait = Callable[[Ask], Sequence[InjectedMessage]]
"""How code in a thread asks its run, whose event loop is elsewhere, and waits for the answer."""

_current_wait: ContextVar[Wait | None] = ContextVar("innkeeper_wait", default=None)
set_wait = _current_wait.set


def _is_on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class RunContext:
    """State of one request and its run.

    `values` set in `before_request` are there in the agent and in `finalize_request`. The names of the run
    (`run_id`, `session_id`, …) are `None` until the run has been accepted. `continuation` is what an agent of plain
    Python goes on with that had paused its run, and `None` elsewhere.
    """

    def __init__(
        self,
        request: Any = None,
        *,
        clock: Callable[[], float],
        new_id: Callable[[], str],
        now: Callable[[], int],
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.request = request
        self.environment = Belongings(variables or {})
        self.run_id: str | None = None
        self.session_id: str | None = None
        self.session_key: str | None = None
        self.user_id: str | None = None
        self.owner: Owner | None = None
        self.agent_name: str | None = None
        self.agent_data: Any = None
        self.attempt = 1
        self.place: SpanPlace | None = None
        self.metadata: Mapping[str, object] = {}
        self.workflow: str | None = None
        self.variables: Mapping[str, object] = {}
        self.original_response: Any = None
        self.line: RunLine | None = None
        self.session_tools: Sequence[SessionTool] = ()
        self.continuation: Continuation | None = None
        self.workspace = self.agent_workspace = _NO_WORKSPACE
        self._values: dict[str, Any] = {}
        self._records: list[CreditRecord] = []
        self._tokens: Usage | None = None
        self._settled = 0
        self.tracked_credits = Decimal(0)
        self._clock = clock
        self._new_id = new_id
        self.now = now
        self._began = clock()

    @property
    def trace_id(self) -> str | None:
        """The trace that the run is part of."""
        return None if self.place is None else self.place.trace_id

    @property
    def traceparent(self) -> str | None:
        """The header that tells another service that it works for this run."""
        return None if self.place is None else str(self.place)

    def set(self, key: str, value: Any) -> None:
        """Store data for the rest of the request."""
        self._values[key] = value

    def get(self, key: str, default: Any = None) -> Any:
        """Retrieve what was stored under `key`."""
        return self._values.get(key, default)

    def track_usage(
        self, credits: int | float | Decimal, reason: str, metadata: Mapping[str, Any] | None = None
    ) -> str:
        """Record a cost in credits; it becomes a ledger row of the run. Returns the row's id.

        Raises: Invalid if `credits` is negative, not finite, or more than a balance can hold, or if `metadata` cannot
        be told in JSON.
        """
        amount = _amount(credits)
        record = CreditRecord(self._new_id(), amount, str(reason), _tellable(metadata), self.now())
        self._records.append(record)
        self.tracked_credits += amount
        if (line := self.line) is not None:  # looked at once: its run may let go of it in another thread
            line.tracked()
        return record.id

    @property
    def usage(self) -> dict[str, Any]:
        """`total_credits`, the `records` behind it, and the `tokens` that the agent has reported so far."""
        total = sum((record.credits for record in self._records), Decimal(0))
        return {
            "total_credits": _number(total),
            "records": [
                {
                    "id": record.id,
                    "credits": _number(record.credits),
                    "reason": record.reason,
                    "metadata": dict(record.metadata),
                }
                for record in self._records
            ],
            "tokens": None
            if self._tokens is None
            else {
                "input_tokens": self._tokens.input_tokens,
                "output_tokens": self._tokens.output_tokens,
                "total_tokens": self._tokens.total_tokens,
            },
        }

    def injections(self) -> Injections:
        """The messages that were injected into this run and that it has not had yet, oldest first; then it ends.

        `async for message in context.injections()`, in sync code without `async`, marks them as delivered: the run's
        log shows each at this point.
        """
        return Injections(self.line)

    async def saved(self) -> None:
        """Return when everything that the run has told so far is on disk."""
        if self.line is not None:
            await self.line.saved()

    def get_duration(self) -> float:
        """Seconds since the request began."""
        return self._clock() - self._began

    def add_tokens(self, usage: Usage) -> None:
        """Count tokens that the agent reported; the server calls this, agents need not."""
        self._tokens = usage if self._tokens is None else self._tokens.plus(usage)

    @property
    def has_unsettled(self) -> bool:
        """Whether anything was tracked since `unsettled_records` was asked last."""
        return len(self._records) > self._settled

    def recall(self, records: Sequence[CreditRecord], tokens: Usage | None) -> None:
        """Count on from what the run has tracked and consumed elsewhere, all of it in the ledger."""
        self._records[:0] = records
        self._settled += len(records)
        self.tracked_credits += sum((record.credits for record in records), Decimal(0))
        if tokens is not None:
            self.add_tokens(tokens)

    def unsettled_records(self) -> tuple[CreditRecord, ...]:
        """Ledger rows tracked since the last call; each is handed out once."""
        fresh = tuple(self._records[self._settled :])
        self._settled += len(fresh)
        return fresh


def _amount(credits: int | float | Decimal) -> Decimal:
    try:
        amount = Decimal(str(credits))
    except (InvalidOperation, ValueError):  # of an integer with more digits than Python writes
        amount = Decimal("NaN")
    if not amount.is_finite() or amount < 0:
        raise Invalid("credits must be a finite number that is not negative.", param="credits")
    if amount > MAX_CREDITS:
        raise Invalid(f"credits must be {MAX_CREDITS:f} at most.", param="credits")
    return _EXACT.create_decimal(amount)


def _tellable(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """What cannot be written is refused here, in the agent's call, and not when its run is to end."""
    told = dict(metadata or {})
    try:
        json.dumps(told, default=str, skipkeys=True)
    except Exception as error:
        raise Invalid("metadata must be what JSON can tell.", param="metadata") from error
    return told


def _number(amount: Decimal) -> int | float:
    return int(amount) if amount == amount.to_integral_value() else float(amount)


_current: ContextVar[RunContext | None] = ContextVar("innkeeper_context", default=None)


def get_context() -> RunContext | None:
    """The context of the request or run that this code belongs to, or `None` outside of one."""
    return _current.get()


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The call that a tool is answering. `key` is the same in every attempt of its run, for calls to the outside."""

    id: str
    name: str
    key: str
    attempt: int = 1


_current_call: ContextVar[ToolCall | None] = ContextVar("innkeeper_tool_call", default=None)


def get_tool_call() -> ToolCall | None:
    """The tool call that this code answers, or `None` outside of one."""
    return _current_call.get()


_current_request: ContextVar[str | None] = ContextVar("innkeeper_request_id", default=None)


def get_request_id() -> str | None:
    """The id of the request that this code serves or that began its run, or `None` outside of one."""
    return _current_request.get()


set_request_id = _current_request.set
set_tool_call = _current_call.set
set_context = _current.set
reset_context = _current.reset
