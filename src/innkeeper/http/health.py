"""Health: liveness and readiness for anyone, and the server's state for those who may see it."""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict

from innkeeper.core.errors import Forbidden, Unauthorized
from innkeeper.http.deps import HouseDep
from innkeeper.http.gates import PUBLIC
from innkeeper.http.problems import problems
from innkeeper.http.routes import needs, surface

live_router = surface(tags=["Health"])
router = surface(tags=["Health"])


class Live(BaseModel):
    status: str


class Health(BaseModel):
    """`agent`, `agents`, `version` and `uptime` (seconds) are for callers that are known."""

    model_config = ConfigDict(extra="allow")

    status: str
    agent: str | None = None
    agents: int | None = None
    version: str | None = None
    uptime: float | None = None


class Status(BaseModel):
    """`active_requests` counts runs under way; `store` names the kind of store."""

    status: str
    version: str
    uptime: float
    agents: list[str]
    agent: str | None
    active_requests: int
    store: str


@live_router.get("/live", openapi_extra=needs(PUBLIC))
async def live() -> Live:
    """The process answers."""
    return Live(status="alive")


@live_router.get(
    "/ready",
    openapi_extra=needs(PUBLIC),
    responses={503: {"model": Live, "description": "The server is draining or has not started."}},
)
async def ready(house: HouseDep, response: Response) -> Live:
    """The server takes requests."""
    await house.ready()
    if house.status()["is_draining"]:
        response.status_code = 503
        return Live(status="draining")
    return Live(status="ready")


@router.get("/health", response_model_exclude_none=True, openapi_extra=needs(PUBLIC))
async def health(request: Request, house: HouseDep) -> Health:
    """Whether the server is well."""
    if request.scope["innkeeper.caller"] is None:
        return Health(status="healthy")
    told = house.status()
    return Health(
        status="healthy",
        agent=told["agent"],
        agents=len(told["agents"]),
        version=told["version"],
        uptime=told["uptime"],
    )


@router.get("/status", responses=problems(Unauthorized, Forbidden), openapi_extra=needs("server:read"))
async def status(house: HouseDep) -> Status:
    """The server's state in detail."""
    told: dict[str, Any] = house.status()
    return Status(
        status="draining" if told["is_draining"] else "running",
        **{name: told[name] for name in ("version", "uptime", "agents", "agent", "active_requests", "store")},
    )
