"""What every runtime is handed from the configuration; read at each run, never from `os.environ`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from innkeeper.core.runs import Parameters

_ANY_MODEL_CAN = 4096
"""Providers refuse to be asked for more tokens than their model can put out; this many, models can."""


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """`environment` is the process environment with `.env` merged in; keys for model clients come from it.

    `temperature` and `max_tokens` override an agent's own settings, and a request's override both.
    `cache_dir` holds downloaded model weights. `max_threads` bounds the synchronous calls of one agent at once.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    temperature: float | None = None
    max_tokens: int | None = None
    cache_dir: Path | None = None
    max_threads: int = 64

    def tokens_asked(self, parameters: Parameters, own: object = None) -> int | None:
        """How many tokens a model call may put out; `None` leaves it to the agent's `own` setting, if any.

        What somebody has set is kept to what the run can pay for. Where nobody has, that is asked for only where it is
        little.
        """
        wished = self.max_tokens if parameters.max_tokens is None else parameters.max_tokens
        affordable = parameters.affordable_tokens
        if affordable is None:
            return wished
        if wished is None and type(own) is int:
            wished = own
        if wished is not None:
            return min(wished, affordable)
        return affordable if affordable <= _ANY_MODEL_CAN else None
