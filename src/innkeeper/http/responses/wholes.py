"""Wholes: responses that are told in one piece, put together from their runs' logs as streams are."""

from __future__ import annotations

from innkeeper.core.runs import UNDER_WAY, Run, RunStatus
from innkeeper.core.times import unix_seconds
from innkeeper.http.deps import Services
from innkeeper.http.responses.events import ResponseEvents
from innkeeper.http.responses.objects import STATUSES, Json, response
from innkeeper.services.readings import RunReading

_MOVES = ("added", "done")


async def folded(reading: RunReading, run: Run, *, paused_beyond: int | None = None) -> ResponseEvents:
    """What the log comes to, once it is read to its end, or until the reading is closed.

    Or to the first pause that is `paused_beyond` this place of the log.
    """
    events = ResponseEvents(run)
    try:
        while (batch := await reading.next()) is not None:
            for segment in batch:
                for _ in events.read(segment):
                    if paused_beyond is not None and events.is_paused and segment.last_seq > paused_beyond:
                        return events
    finally:
        reading.close()
    return events


async def response_of(services: Services, run: Run) -> Json:
    """The response object of a run as it is now; what one that goes on has said so far is not told yet."""
    if run.status in UNDER_WAY:
        return response(run, STATUSES[run.status])
    events = await folded(services.runs.stored(run), run)
    return events.response(completed_at=completed_at(run), is_whole=True)


def told_at_once(shown: Json) -> list[Json]:
    """The events of a response about which nothing more is to be told, which have no place in its run's log."""
    begun = {**shown, "status": "in_progress", "output": []}
    events: list[Json] = [{"type": f"response.{kind}", "response": begun} for kind in ("created", "in_progress")]
    for index, item in enumerate(shown["output"]):
        events += ({"type": f"response.output_item.{kind}", "output_index": index, "item": item} for kind in _MOVES)
    events.append({"type": "response.completed", "response": shown})
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


def completed_at(run: Run) -> int | None:
    is_completed = run.status is RunStatus.COMPLETED and run.ended_at is not None
    return unix_seconds(run.ended_at) if is_completed and run.ended_at is not None else None
