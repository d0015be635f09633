"""Engines: an agent bound to a session, a model and a configuration, to be executed again and again.

An engine's status is that of its last run, and stored nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from innkeeper.core.identity import Owner
from innkeeper.core.runs import NO_PARAMETERS, Parameters, RunStatus
from innkeeper.core.times import Instant

DUMMY_ENGINE = "DummyEngine"
"""The engine type that every server has: no model, no agent of anybody's, and the same answer always."""

MAX_ENGINES = 1000
"""How many engines one owner may have at a time."""

CONFIGURABLE = (
    "temperature",
    "max_tokens",
    "top_p",
    "stop",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "parallel_tool_calls",
    "reasoning_effort",
    "allowed_tools",
    "workflow",
    "variables",
)
"""What an engine's configuration may hold: the parameters of runs that make sense for more than one run."""


class EngineStatus(StrEnum):
    INITIALIZED = "initialized"
    ACTIVE = "active"
    IDLE = "idle"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Engine:
    """`engine_type` is the name of its agent; `last_status` is that of `last_run_id`, `None` before the first."""

    id: str
    owner: Owner
    user_id: str
    session_key: str
    session_id: str
    engine_type: str
    created_at: Instant
    model_name: str | None = None
    configuration: Mapping[str, object] = field(default_factory=dict)
    last_run_id: str | None = None
    last_status: RunStatus | None = None

    @property
    def status(self) -> EngineStatus:
        if self.last_status is None:
            return EngineStatus.INITIALIZED
        if not self.last_status.is_terminal:
            return EngineStatus.ACTIVE
        return EngineStatus.FAILED if self.last_status is RunStatus.FAILED else EngineStatus.IDLE


STATUSES_OF: Mapping[EngineStatus, tuple[RunStatus | None, ...]] = {
    EngineStatus.INITIALIZED: (None,),
    EngineStatus.ACTIVE: (RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.REQUIRES_ACTION),
    EngineStatus.IDLE: (RunStatus.COMPLETED, RunStatus.CANCELLED, RunStatus.INTERRUPTED),
    EngineStatus.FAILED: (RunStatus.FAILED,),
}
"""The statuses of the last run that make an engine's."""


def parameters_of(
    configuration: Mapping[str, object], wishes: Mapping[str, object], model: str | None = None
) -> Parameters:
    """What a run of an engine is asked for: the engine's `configuration`, and above it the request's own `wishes`.

    Values have been checked, and `None` says nothing.
    """
    given: dict[str, Any] = {name: value for name, value in configuration.items() if value is not None}
    given |= {name: value for name, value in wishes.items() if value is not None}
    if isinstance(given.get("stop"), str):
        given["stop"] = [given["stop"]]
    for name in ("stop", "allowed_tools"):
        if name in given:
            given[name] = tuple(given[name])
    return Parameters(**given, model=model) if given or model is not None else NO_PARAMETERS
