"""System: the control plane's own health, status and settings, and how it is stopped.

What they tell is what `/health` and `/status` tell, in the words of the control plane's clients.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from fastapi import HTTPException, Request
from pydantic import BaseModel

from innkeeper.core.errors import Forbidden, Unauthorized
from innkeeper.core.times import Instant, isoformat
from innkeeper.http.contexts import now
from innkeeper.http.control.shutdowns import find_stop
from innkeeper.http.deps import CallerDep, HouseDep, ServicesDep
from innkeeper.http.gates import PUBLIC
from innkeeper.http.problems import ErrorBody, problems
from innkeeper.http.routes import needs, surface

health_router = surface(prefix="/api", tags=["Control: system"])
router = surface(prefix="/api", tags=["Control: system"])

_ANSWER_SECONDS = 0.05


class SystemHealth(BaseModel):
    """`version`, `uptime` (seconds) and `agent` (the default one) are for callers that are known."""

    status: str
    timestamp: str
    version: str | None = None
    uptime: float | None = None
    agent: str | None = None


class Counts(BaseModel):
    """`active_runs` are those that this process executes or has waiting."""

    agents: int
    active_runs: int


class SystemStatus(BaseModel):
    """`agent` is the default one, `store` the kind of store, `uptime` in seconds."""

    status: str
    timestamp: str
    version: str
    uptime: float
    agents: list[str]
    agent: str | None
    active_requests: int
    store: str
    counts: Counts


class ShuttingDown(BaseModel):
    status: str


@health_router.get("/health", response_model_exclude_none=True, openapi_extra=needs(PUBLIC))
async def health(request: Request, house: HouseDep) -> SystemHealth:
    """Whether the server is well."""
    timestamp = isoformat(Instant(now()))
    if request.scope["innkeeper.caller"] is None:
        return SystemHealth(status="healthy", timestamp=timestamp)
    told = house.status()
    return SystemHealth(
        status="healthy",
        timestamp=timestamp,
        version=told["version"],
        uptime=told["uptime"],
        agent=told["agent"],
    )


@router.get("/status", responses=problems(Unauthorized, Forbidden), openapi_extra=needs("server:read"))
async def status(house: HouseDep) -> SystemStatus:
    """The server's state in detail."""
    told = house.status()
    return SystemStatus(
        status="draining" if told["is_draining"] else "running",
        timestamp=isoformat(Instant(now())),
        counts=Counts(agents=len(told["agents"]), active_runs=told["active_requests"]),
        **{name: told[name] for name in ("version", "uptime", "agents", "agent", "active_requests", "store")},
    )


@router.get("/config", responses=problems(Unauthorized, Forbidden), openapi_extra=needs("observability:read"))
async def configuration(house: HouseDep) -> Mapping[str, Mapping[str, Any]]:
    """The settings, by section and key as in a configuration file. Secrets are `set` or `unset`."""
    return house.configuration()


@router.post(
    "/shutdown",
    status_code=202,
    responses={
        **problems(Unauthorized, Forbidden),
        503: {
            "model": ErrorBody,
            "description": "The process is not the server's own and can end only from outside, or the store is away.",
        },
    },
    openapi_extra=needs("server:admin"),
)
async def shut_down(house: HouseDep, caller: CallerDep, services: ServicesDep) -> ShuttingDown:
    """Stop the server once this is answered: runs under way may end in time, then it exits with 0."""
    stop = find_stop(house)
    if stop is None:
        raise HTTPException(503, "This process is not the server's own: whoever started it has to end it.")
    await services.audit.write(services.audit.entry(caller.owner, "server.shutdown", "server"))
    asyncio.get_running_loop().call_later(_ANSWER_SECONDS, stop)
    return ShuttingDown(status="shutting_down")
