"""Engines: an agent bound to a session, a model and a configuration, to be executed again and again.

An engine's status is that of its last run, and stored nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from innkeeper.core.identity import Owner
from innkeeper.core.runs import RunStatus
from innkeeper.core.times import Instant


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
