"""Answering: a turn's response whole, or its events as a stream."""

from __future__ import annotations

import asyncio
from functools import partial

from fastapi import Request
from starlette.responses import Response

from innkeeper.core.errors import ShuttingDown
from innkeeper.core.identity import Caller
from innkeeper.core.runs import Run
from innkeeper.http.answers import failed, run_headers
from innkeeper.http.deps import house_of
from innkeeper.http.problems import facts, problem_of
from innkeeper.http.responses.frames import DONE, EventEncoder, data_of, trouble_frame
from innkeeper.http.responses.objects import response_id
from innkeeper.http.responses.wholes import completed_at, folded
from innkeeper.http.routes import request_id_of
from innkeeper.http.turns import Answer, Stream, Turn, wait_for_end
from innkeeper.services.readings import RunReading


async def whole_of(request: Request, turn: Turn) -> Response:
    """The response once its run has ended or waits for people.

    Its log is read along, as that of a response which is not stored is gone with its end.
    """
    run = turn.tail.run
    reading = turn.services.runs.watch(turn.tail)
    folding = asyncio.create_task(folded(reading, run))
    try:
        ending = await wait_for_end(turn, request.receive)
        events = await folding
    finally:
        reading.close()
        folding.cancel()
        folding.add_done_callback(lambda done: done.cancelled() or done.exception())  # told by whoever waited
    if ending.status not in ("completed", "requires_action"):
        return failed(turn, ending, request_id_of(request.scope))
    ended = await turn.services.runs.get(Caller(run.owner), run.id)
    return Answer(turn, data_of(events.response(completed_at=completed_at(ended))), headers=run_headers(turn))


def stream_of(
    request: Request, caller: Caller, reading: RunReading, run: Run, encode: EventEncoder, turn: Turn | None
) -> Stream:
    """The events of a run's log; its reader may go on as long as its credential holds."""

    def farewell(_: int) -> bytes:
        """This process leaves. Where the run has ended with it, its log has said so."""
        tail = None if turn is None or turn.started is None else turn.started.tail
        if tail is not None and tail.ended.done():
            return b""
        told = f"The server is shutting down; the run goes on. Read it with GET /v1/responses/{response_id(run)}."
        return trouble_frame(facts(problem_of(ShuttingDown), told)).removesuffix(DONE)

    return Stream(
        reading,
        encode,
        on_trouble=lambda error: trouble_frame(facts(problem_of(type(error)), str(error))),
        at_end=lambda: DONE,
        farewell=farewell,
        vigil=partial(house_of(request).vigils.over, request.scope, caller),
        turn=turn,
        headers={"x-run-id": run.id} if turn is None else run_headers(turn),
    )
