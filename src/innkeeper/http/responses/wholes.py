"""Wholes: responses that are told in one piece, put together from their runs' logs as streams are."""

from __future__ import annotations

from innkeeper.core.identity import Caller
from innkeeper.core.runs import UNDER_WAY, Run, RunStatus
from innkeeper.core.times import unix_seconds
from innkeeper.http.deps import Services
from innkeeper.http.responses.events import ResponseEvents
from innkeeper.http.responses.objects import STATUSES, Json, response
from innkeeper.services.readings import RunReading


async def folded(reading: RunReading, run: Run) -> ResponseEvents:
    """What the log comes to, once it is read to its end, or until the reading is closed."""
    events = ResponseEvents(run)
    try:
        while (batch := await reading.next()) is not None:
            for segment in batch:
                for _ in events.read(segment):
                    pass
    finally:
        reading.close()
    return events


async def response_of(services: Services, caller: Caller, run: Run) -> Json:
    """The response object of a run as it is now; what one that goes on has said so far is not told yet."""
    if run.status in UNDER_WAY:
        return response(run, STATUSES[run.status])
    events = await folded(await services.runs.follow(caller, run.id), run)
    return events.response(completed_at=completed_at(run), is_whole=True)


def completed_at(run: Run) -> int | None:
    is_completed = run.status is RunStatus.COMPLETED and run.ended_at is not None
    return unix_seconds(run.ended_at) if is_completed and run.ended_at is not None else None
