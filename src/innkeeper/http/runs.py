"""Runs: what happened, and the log of it, to read again or to follow."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import Header, Query, Request, Response
from pydantic import BaseModel

from innkeeper.core.errors import Forbidden, Invalid, RunNotFound, StorageUnavailable, Unauthorized
from innkeeper.core.runs import RunStatus
from innkeeper.http.actions import run_view
from innkeeper.http.deps import MAX_CURSOR, CallerDep, HouseDep, Limit, ServicesDep
from innkeeper.http.frames import DONE, SseEncoder, error_frame, farewell_frame, marker
from innkeeper.http.problems import facts, problem_of, problems
from innkeeper.http.routes import needs, surface
from innkeeper.http.turns import Stream
from innkeeper.http.views import RunView

router = surface(prefix="/runs", tags=["Runs"])

_READS = problems(Unauthorized, Forbidden, RunNotFound, Invalid, StorageUnavailable)


class RunList(BaseModel):
    runs: list[RunView]
    has_more: bool


@router.get("", responses=_READS, openapi_extra=needs("runs:read"))
async def list_runs(
    caller: CallerDep,
    services: ServicesDep,
    session_id: str | None = None,
    user_id: Annotated[str | None, Query(description="The end user on whose behalf they were asked for.")] = None,
    agent_name: str | None = None,
    status: RunStatus | None = None,
    limit: Limit = 50,
    after: Annotated[str | None, Query(description="The id of the last run of the page before.")] = None,
) -> RunList:
    """Your runs, newest first; everybody's, for an admin."""
    page, has_more = await services.runs.page(
        caller,
        limit=limit,
        after=after,
        session_id=session_id,
        user_id=user_id,
        agent_name=agent_name,
        status=status,
    )
    return RunList(runs=[RunView.of(run, caller) for run in page], has_more=has_more)


@router.get("/{run_id}", responses=_READS, openapi_extra=needs("runs:read"))
async def get_run(
    run_id: str,
    caller: CallerDep,
    services: ServicesDep,
    wait: Annotated[float, Query(ge=0, le=60, description="Seconds to wait for its end.")] = 0,
) -> RunView:
    """A run; with `wait`, once it has ended, waits for people, or the time is over."""
    if wait:
        await services.runs.wait(caller, run_id, wait)
    return await run_view(services, caller, run_id)


@router.get(
    "/{run_id}/events",
    responses={200: {"content": {"text/event-stream": {}}, "description": "The events of the run."}, **_READS},
    openapi_extra=needs("runs:read"),
)
async def follow_run(
    request: Request,
    run_id: str,
    caller: CallerDep,
    services: ServicesDep,
    house: HouseDep,
    after: Annotated[int | None, Query(ge=0, le=MAX_CURSOR, description="Begin after this `seq`.")] = None,
    last_event_id: Annotated[int | None, Header(ge=0, le=MAX_CURSOR)] = None,
) -> Response:
    """The run's events as SSE from the beginning, or from beyond `after` and `Last-Event-ID`; then live to the end."""
    reading = await services.runs.follow(caller, run_id, max(after or 0, last_event_id or 0))
    return Stream(
        reading,
        SseEncoder(),
        on_trouble=lambda error: error_frame(facts(problem_of(type(error)), str(error))) + DONE,
        at_end=marker,
        farewell=partial(farewell_frame, run_id),
        headers={"x-run-id": run_id},
    )


@router.post("/{run_id}/cancel", status_code=202, responses=_READS, openapi_extra=needs("runs:write"))
async def cancel_run(run_id: str, caller: CallerDep, services: ServicesDep) -> RunView:
    """Ask a run to end; its code is cancelled and what it has said is kept. A run that has ended stays as it is."""
    return RunView.of(await services.runs.cancel(caller, run_id), caller)
