"""Events of a session: published by clients, and read in pages. The live stream is in `http.control.streams`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from innkeeper.core.errors import (
    EventNotFound,
    Forbidden,
    IdempotencyMismatch,
    Invalid,
    PayloadTooLarge,
    SessionNotFound,
    StorageUnavailable,
    TooBusy,
    Unauthorized,
    UnsupportedMediaType,
)
from innkeeper.core.session_events import EventFilter
from innkeeper.core.times import Instant
from innkeeper.http.claims import REPLAYED, claim_of
from innkeeper.http.control.commands import TypeName
from innkeeper.http.control.event_frames import shown
from innkeeper.http.control.moments import Time
from innkeeper.http.control.views import EventView
from innkeeper.http.deps import MAX_CURSOR, CallerDep, Limit, ServicesDep
from innkeeper.http.problems import problems
from innkeeper.http.routes import needs, surface
from innkeeper.http.sessions import UserId
from innkeeper.http.traceparents import parent_of
from innkeeper.services.session_log import NewEvent

router = surface(prefix="/api/sessions/{session_id}/events", tags=["Control: events"])

_READS = problems(Unauthorized, Forbidden, SessionNotFound, EventNotFound, Invalid, StorageUnavailable)


class NewEventRequest(BaseModel):
    """An event of a client's own. Types that the server itself tells of, such as `run_ended`, are refused."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "event_type": "DummyEngineStatusUpdate",
                    "data": {"status": "processing"},
                    "metadata": {"source": "engine", "priority": "normal"},
                }
            ]
        }
    )

    event_type: TypeName
    data: dict[str, Any] = Field(default_factory=dict)
    metadata: dict[str, Any] = Field(default_factory=dict)


class EventList(BaseModel):
    """`total` counts all events that fit, not only those of this page, which may be fewer than `limit`."""

    events: list[EventView]
    total: int


def _instant(moment: int | None) -> Instant | None:
    return None if moment is None else Instant(moment)


@router.post(
    "",
    status_code=201,
    response_model=EventView,
    responses=problems(
        Unauthorized, Forbidden, SessionNotFound, Invalid, IdempotencyMismatch, PayloadTooLarge, UnsupportedMediaType,
        TooBusy, StorageUnavailable,
    ),
    openapi_extra=needs("control:write"),
)  # fmt: skip
async def publish_event(
    session_id: str,
    body: NewEventRequest,
    request: Request,
    response: Response,
    caller: CallerDep,
    services: ServicesDep,
    user_id: UserId = None,
) -> Any:
    """Add an event to the session's log. It is stored before the answer; its handlers are called after."""
    session = await services.sessions.get(caller, session_id, user_id)
    claim = claim_of(request, request.scope["innkeeper.body"])
    event, is_repeated = await services.control.log.publish(
        session, NewEvent(body.event_type, body.data, body.metadata), claim, parent_of(request)
    )
    if is_repeated:
        response.headers[REPLAYED] = "true"
    return shown(event)


@router.get("", response_model=EventList, responses=_READS, openapi_extra=needs("control:read"))
async def list_events(
    session_id: str,
    caller: CallerDep,
    services: ServicesDep,
    event_type: Annotated[str | None, Query(max_length=128)] = None,
    after: Annotated[int, Query(ge=0, le=MAX_CURSOR, description="Only events beyond this `sequence`.")] = 0,
    since: Annotated[Time | None, Query(description="Only events from this moment on.")] = None,
    until: Annotated[Time | None, Query(description="Only events before this moment.")] = None,
    limit: Limit = 50,
    offset: Annotated[int, Query(ge=0, le=MAX_CURSOR)] = 0,
    user_id: UserId = None,
) -> Any:
    """The session's events, oldest first, up to 4 MiB of them. To read on, give the last `sequence` as `after`."""
    wanted = EventFilter(event_type, after, _instant(since), _instant(until))
    session = await services.sessions.get(caller, session_id, user_id)
    page, total = await services.control.log.page(session, wanted, limit=limit, offset=offset)
    return {"events": [shown(event) for event in page], "total": total}


@router.get("/{event_id}", response_model=EventView, responses=_READS, openapi_extra=needs("control:read"))
async def get_event(
    session_id: str, event_id: str, caller: CallerDep, services: ServicesDep, user_id: UserId = None
) -> Any:
    """One event."""
    session = await services.sessions.get(caller, session_id, user_id)
    return shown(await services.control.log.get(session, event_id))
