"""Administrators over HTTP, and the figures that they see."""

from __future__ import annotations

from typing import Literal

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictStr

from innkeeper.core.admins import Admin
from innkeeper.core.errors import (
    AdminConflict,
    AdminNotFound,
    Forbidden,
    IdempotencyMismatch,
    Invalid,
    LastAdmin,
    StorageUnavailable,
    Unauthorized,
)
from innkeeper.core.times import isoformat
from innkeeper.http.claims import REPLAYED, claim_of
from innkeeper.http.deps import CallerDep, HouseDep, ServicesDep
from innkeeper.http.problems import problems
from innkeeper.http.routes import needs, surface

router = surface(prefix="/api/v1/platform", tags=["Platform"])

_PROBLEMS = problems(Unauthorized, Forbidden, StorageUnavailable)
_LONGEST = 1024


class PlatformStats(BaseModel):
    """What has been counted. Users are active who ran something within 30 days; today is that of UTC."""

    total_users: int
    active_users: int
    total_organizations: int
    total_requests: int
    requests_today: int
    total_tokens: int
    tokens_today: int
    system_health: Literal["healthy", "degraded"]


class NewAdmin(BaseModel):
    """A person who is to operate the platform; `workos_id` is theirs at the identity provider."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"workos_id": "user_01H", "email": "ann@example.org", "name": "Ann"}]},
    )

    workos_id: StrictStr = Field(max_length=_LONGEST)
    email: StrictStr = Field(max_length=_LONGEST)
    name: StrictStr = Field(default="", max_length=_LONGEST)


class AdminChange(BaseModel):
    status: Literal["added", "removed"]
    email: str


class AdminView(BaseModel):
    id: str
    email: str
    name: str
    created_at: str
    created_by: str

    @classmethod
    def of(cls, admin: Admin) -> AdminView:
        return cls(
            id=admin.id,
            email=admin.email,
            name=admin.name,
            created_at=isoformat(admin.created_at),
            created_by=admin.created_by,
        )


class AdminList(BaseModel):
    admins: list[AdminView]
    count: int


@router.get("/stats", responses=_PROBLEMS, openapi_extra=needs("platform:admin"))
async def statistics(house: HouseDep, services: ServicesDep) -> PlatformStats:
    """Who uses the platform and how much, and how it is."""
    found = await services.admins.statistics()
    health = await services.admins.health()
    return PlatformStats(
        total_users=found.users,
        active_users=found.active_users,
        total_organizations=found.organizations,
        total_requests=found.requests,
        requests_today=found.requests_today,
        total_tokens=found.tokens,
        tokens_today=found.tokens_today,
        system_health="degraded" if house.status()["is_draining"] else health,
    )


@router.get("/admins", responses=_PROBLEMS, openapi_extra=needs("platform:admin"))
async def list_admins(services: ServicesDep) -> AdminList:
    """The administrators, in the order in which they were added."""
    admins = [AdminView.of(admin) for admin in await services.admins.all()]
    return AdminList(admins=admins, count=len(admins))


@router.post(
    "/admins",
    status_code=201,
    responses={**_PROBLEMS, **problems(Invalid, IdempotencyMismatch, AdminConflict)},
    openapi_extra=needs("platform:admin"),
)
async def add_admin(
    body: NewAdmin, request: Request, response: Response, caller: CallerDep, services: ServicesDep
) -> AdminChange:
    """Add an administrator."""
    claim = claim_of(request, request.scope["innkeeper.body"])
    email, is_repeated = await services.admins.add(caller, body.workos_id, body.email, body.name, claim)
    if is_repeated:
        response.headers[REPLAYED] = "true"
    return AdminChange(status="added", email=email)


@router.delete(
    "/admins/{email}",
    responses={**_PROBLEMS, **problems(AdminNotFound, LastAdmin)},
    openapi_extra=needs("platform:admin"),
)
async def remove_admin(email: str, caller: CallerDep, services: ServicesDep) -> AdminChange:
    """Remove an administrator, whose tokens with the role `admin` open nothing any more. The last one stays."""
    return AdminChange(status="removed", email=await services.admins.remove(caller, email))
