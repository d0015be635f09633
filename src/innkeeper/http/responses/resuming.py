"""Resuming: a response that waited for people goes on, under the same id, with what follows as its output."""

from __future__ import annotations

from fastapi import Request
from starlette.responses import Response

from innkeeper.core.actions import ActionStatus
from innkeeper.core.identity import Caller
from innkeeper.core.runs import Run
from innkeeper.http.answers import run_headers
from innkeeper.http.deps import Services
from innkeeper.http.responses.answering import stream_of, watched, whole_of
from innkeeper.http.responses.frames import DONE, EventEncoder, data_of, frame
from innkeeper.http.responses.objects import Json
from innkeeper.http.responses.preparing import answers_by_our_names
from innkeeper.http.responses.wholes import response_of, told_at_once
from innkeeper.http.turns import Answer, Turn, resume_turn
from innkeeper.services.pauses import ResumeRequest


async def answer_resumed(
    request: Request, caller: Caller, resume: ResumeRequest, *, in_background: bool = False
) -> Response:
    """Tell what the run says from here on; or, where it waits for more decisions, that.

    `in_background`, the run goes on whether or not anybody waits for it, and who does not stream is told that it does.
    """
    with answers_by_our_names():
        turn = await resume_turn(request, caller, resume)
    started = turn.started
    assert started is not None, "the turn has been resumed"
    if started.tail is None:
        return await _still_waiting(turn, caller, resume.stream)
    if resume.stream:
        encode = EventEncoder(started.run, after_seq=started.after)
        return stream_of(watched(turn), started.run, encode, turn)
    if in_background:
        run = await turn.services.runs.get(caller, started.run.id)
        return Answer(turn, data_of(await response_of(turn.services, run)), headers=run_headers(turn))
    return await whole_of(request, turn)


async def still_asked(services: Services, run: Run) -> Json:
    """The response of a run that waits for more decisions, with what it waits for as its output."""
    shown = await response_of(services, run)
    asked = await services.runs.pauses.of_run(run.id)
    pending = {one.action.id for one in asked if one.status is ActionStatus.PENDING}
    left = [item for item in shown["output"] if item["id"] in pending or item.get("call_id") in pending]
    return {**shown, "output": left}


async def _still_waiting(turn: Turn, caller: Caller, streams: bool) -> Response:
    assert turn.started is not None, "the turn has been resumed"
    run = await turn.services.runs.get(caller, turn.started.run.id)
    shown = await still_asked(turn.services, run)
    if not streams:
        return Answer(turn, data_of(shown), headers=run_headers(turn))
    body = b"".join(map(frame, told_at_once(shown))) + DONE
    response = Response(body, headers=run_headers(turn), media_type="text/event-stream")
    turn.response = response
    return response
