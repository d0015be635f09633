"""Logs over HTTP: what the server said of its work and what clients said of theirs, and one more record of theirs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from fastapi import Query, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictStr, field_validator

from innkeeper.core.errors import (
    Forbidden,
    IdempotencyMismatch,
    Invalid,
    PayloadTooLarge,
    SessionNotFound,
    StorageUnavailable,
    Unauthorized,
    UnsupportedMediaType,
)
from innkeeper.core.logs import NOBODY, Level, LogFilter, LogRecord, Source
from innkeeper.core.redactions import LONGEST
from innkeeper.core.times import Instant, isoformat
from innkeeper.http.claims import REPLAYED, claim_of
from innkeeper.http.control.moments import Time
from innkeeper.http.deps import CallerDep, Limit, ServicesDep
from innkeeper.http.problems import problems
from innkeeper.http.requests import Named, printable
from innkeeper.http.routes import needs, request_id_of, surface

router = surface(prefix="/api/observability", tags=["Control: observability"])

_MAX_METADATA = 16 * 1024
_MAX_TEXT = 256


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


LevelName = Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_lower)]


class LogRequest(BaseModel):
    """A record to keep: of a client, about one of its sessions or none."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "level": "info",
                    "message": "User action completed",
                    "metadata": {"user_id": "user123", "action": "command_execution"},
                }
            ]
        },
    )

    level: LevelName
    message: StrictStr = Field(min_length=1, max_length=LONGEST)
    metadata: dict[str, Any] = Field(default_factory=dict, description=f"At most {_MAX_METADATA} bytes as JSON.")
    session_id: Named | None = None

    _checked_names = field_validator("session_id")(printable)

    @field_validator("message")
    @classmethod
    def _not_blank(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("must not be blank")
        return value

    @field_validator("metadata")
    @classmethod
    def _bounded(cls, value: dict[str, Any]) -> dict[str, Any]:
        if len(msgspec.json.encode(value)) > _MAX_METADATA:
            raise ValueError(f"may take at most {_MAX_METADATA} bytes as JSON")
        return value


class LogView(BaseModel):
    """A record. `source` is who said it: the server or a client; `user_id` whose it is, null for the server's own."""

    id: str
    created_at: str
    level: str
    source: str
    logger: str
    message: str
    session_id: str | None
    request_id: str | None
    user_id: str | None
    metadata: dict[str, Any]

    @classmethod
    def of(cls, record: LogRecord) -> LogView:
        return cls(
            id=record.id,
            created_at=isoformat(record.created_at),
            level=record.level.name.lower(),
            source=record.source,
            logger=record.logger,
            message=record.message,
            session_id=record.session_id,
            request_id=record.request_id,
            user_id=None if record.owner == NOBODY else record.owner.user,
            metadata=dict(record.metadata),
        )


class LogList(BaseModel):
    """Newest first. Where there may be more, `next` is the `after` that leads on, even from a page without records."""

    logs: list[LogView]
    has_more: bool
    next: str | None


class LogQuery(BaseModel):
    """Which records."""

    model_config = ConfigDict(extra="ignore")

    level: LevelName | None = Field(default=None, description="At least this level.")
    session_id: Named | None = None
    since: Time | None = Field(default=None, description="Made at this time or later, such as 2026-01-31T12:00:00Z.")
    until: Time | None = Field(default=None, description="Made before this time.")
    q: Annotated[str, Field(min_length=1, max_length=_MAX_TEXT)] | None = Field(
        default=None, description="In their message, whatever the case of its letters."
    )
    text: Annotated[str, Field(min_length=1, max_length=_MAX_TEXT)] | None = Field(
        default=None, description="Another word for q."
    )
    source: Source | None = None
    after: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = Field(
        default=None, description="Older than the record of this id; the last answer's `next`."
    )
    limit: Limit = 100

    def wanted(self) -> LogFilter:
        return LogFilter(
            level=None if self.level is None else Level[self.level.upper()],
            session_id=self.session_id,
            since=None if self.since is None else Instant(self.since),
            until=None if self.until is None else Instant(self.until),
            text=self.q if self.q is not None else self.text,
            source=self.source,
        )


@router.get(
    "/logs",
    responses=problems(Unauthorized, Forbidden, Invalid, StorageUnavailable),
    openapi_extra=needs("control:read"),
)
async def list_logs(query: Annotated[LogQuery, Query()], caller: CallerDep, services: ServicesDep) -> LogList:
    """The log: your own records and what the server said of your runs; all of it for those who operate the server."""
    page = await services.logs.page(caller, query.wanted(), limit=query.limit, after=query.after)
    shown = [LogView.of(record) for record in page.records]
    return LogList(logs=shown, has_more=page.next is not None, next=page.next)


@router.post(
    "/logs",
    status_code=201,
    responses=problems(
        Unauthorized, Forbidden, SessionNotFound, Invalid, IdempotencyMismatch, PayloadTooLarge, UnsupportedMediaType,
        StorageUnavailable,
    ),
    openapi_extra=needs("control:write"),
)  # fmt: skip
async def add_log(
    body: LogRequest, request: Request, response: Response, caller: CallerDep, services: ServicesDep
) -> LogView:
    """Keep a record of your own; it is on disk when this is answered."""
    record, is_repeated = await services.logs.add(
        caller,
        Level[body.level.upper()],
        body.message,
        metadata=body.metadata,
        session_id=body.session_id,
        request_id=request_id_of(request.scope),
        claim=claim_of(request, request.scope["innkeeper.body"]),
    )
    if is_repeated:
        response.headers[REPLAYED] = "true"
    return LogView.of(record)
