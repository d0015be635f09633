"""The context of a run: what hooks and agent code share while a request is served.

`get_context()` finds it from anywhere in the agent's code, threads included. `request` is `None` for runs
that no HTTP request is waiting for. Clock and ids are handed in, so that this module reads neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from decimal import Decimal, InvalidOperation
from typing import Any

from innkeeper.core.errors import Invalid
from innkeeper.core.usage import CreditRecord, Usage


class RunContext:
    """State of one request and its run.

    `values` set in `before_request` are there in the agent and in `finalize_request`. The names of the run
    (`run_id`, `session_id`, …) are `None` until the run has been accepted.
    """

    def __init__(
        self,
        request: Any = None,
        *,
        clock: Callable[[], float],
        new_id: Callable[[], str],
        now: Callable[[], int],
    ) -> None:
        self.request = request
        self.run_id: str | None = None
        self.session_id: str | None = None
        self.user_id: str | None = None
        self.agent_name: str | None = None
        self.agent_data: Any = None
        self.metadata: Mapping[str, object] = {}
        self.workflow: str | None = None
        self.variables: Mapping[str, object] = {}
        self.original_response: Any = None
        self._values: dict[str, Any] = {}
        self._records: list[CreditRecord] = []
        self._tokens: Usage | None = None
        self._settled = 0
        self._clock = clock
        self._new_id = new_id
        self.now = now
        self._began = clock()

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

        Raises: Invalid if `credits` is negative or not finite.
        """
        amount = _amount(credits)
        record = CreditRecord(self._new_id(), amount, str(reason), dict(metadata or {}), self.now())
        self._records.append(record)
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

    def get_duration(self) -> float:
        """Seconds since the request began."""
        return self._clock() - self._began

    def add_tokens(self, usage: Usage) -> None:
        """Count tokens that the agent reported; the server calls this, agents need not."""
        self._tokens = usage if self._tokens is None else self._tokens.plus(usage)

    def unsettled_records(self) -> tuple[CreditRecord, ...]:
        """Ledger rows tracked since the last call; each is handed out once."""
        fresh = tuple(self._records[self._settled :])
        self._settled = len(self._records)
        return fresh


def _amount(credits: int | float | Decimal) -> Decimal:
    try:
        amount = Decimal(str(credits))
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or amount < 0:
        raise Invalid("credits must be a finite number that is not negative.", param="credits")
    return amount


def _number(amount: Decimal) -> int | float:
    return int(amount) if amount == amount.to_integral_value() else float(amount)


_current: ContextVar[RunContext | None] = ContextVar("innkeeper_context", default=None)


def get_context() -> RunContext | None:
    """The context of the request or run that this code belongs to, or `None` outside of one."""
    return _current.get()


set_context = _current.set
reset_context = _current.reset
