"""The audit log over HTTP: what was done and what was refused, newest first. Nothing can be changed here."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query
from pydantic import BaseModel

from innkeeper.core.audit import AuditEntry
from innkeeper.core.errors import Forbidden, Invalid, StorageUnavailable, Unauthorized
from innkeeper.core.times import isoformat
from innkeeper.http.deps import MAX_CURSOR, Limit, ServicesDep
from innkeeper.http.problems import problems
from innkeeper.http.routes import needs, surface

router = surface(prefix="/api/v1/platform", tags=["Platform"])


class AuditView(BaseModel):
    """An entry. `user_id` and `org_id` are who acted, null where a request came without anybody's credential."""

    id: str
    timestamp: str
    user_id: str | None
    org_id: str | None
    action: str
    resource: str
    resource_id: str | None
    metadata: dict[str, Any]

    @classmethod
    def of(cls, entry: AuditEntry) -> AuditView:
        return cls(
            id=entry.id,
            timestamp=isoformat(entry.created_at),
            user_id=entry.actor.user or None,
            org_id=entry.actor.organization or None,
            action=entry.action,
            resource=entry.resource,
            resource_id=entry.resource_id,
            metadata=dict(entry.metadata),
        )


class AuditList(BaseModel):
    """`count` is how many entries there are in all."""

    entries: list[AuditView]
    count: int
    limit: int
    offset: int


@router.get(
    "/audit",
    responses=problems(Unauthorized, Forbidden, Invalid, StorageUnavailable),
    openapi_extra=needs("audit:read"),
)
async def list_entries(
    services: ServicesDep,
    limit: Limit = 50,
    offset: Annotated[int, Query(ge=0, le=MAX_CURSOR, description="Without this many of the newest.")] = 0,
) -> AuditList:
    """The audit log, newest first."""
    found, count = await services.audit_log.page(limit=limit, offset=offset)
    return AuditList(entries=[AuditView.of(entry) for entry in found], count=count, limit=limit, offset=offset)
