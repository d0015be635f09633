"""Actions: what runs that are paused wait for people to decide."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from innkeeper_client import requests
from innkeeper_client.requests import Request


@dataclass(frozen=True, slots=True)
class Action:
    """Either an `approval` of a tool's call, `name` with its `arguments`, or an `input` that is asked for."""

    id: str
    kind: str
    name: str
    arguments: Any = None
    run_id: str | None = None
    session_id: str | None = None
    agent_name: str | None = None
    status: str = "pending"
    decision: str | None = None
    message: str | None = None
    decided_by: str | None = None
    created_at: datetime | None = None
    expires_at: datetime | None = None
    decided_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ActionList:
    actions: list[Action]
    has_more: bool = False


def list_actions(status: str | None = None, limit: int = 50, after: str | None = None) -> Request[ActionList]:
    """What your runs wait for, or have waited for, newest run first; `after` is the run of the last one before."""
    return requests.get("/actions", ActionList, status=status, limit=limit, after=after)
