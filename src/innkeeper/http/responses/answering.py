"""Answering: a turn's response whole, or its events as a stream."""

from __future__ import annotations

import asyncio

from fastapi import Request
from starlette.responses import Response

from innkeeper.core.errors import ShuttingDown
from innkeeper.core.identity import Caller
from innkeeper.core.runs import Run
from innkeeper.http.answers import failed, run_headers
from innkeeper.http.problems import facts, problem_of
from innkeeper.http.responses.events import ResponseEvents
from innkeeper.http.responses.frames import DONE, EventEncoder, data_of, trouble_frame
from innkeeper.http.responses.objects import response_id
from innkeeper.http.responses.wholes import completed_at, folded
from innkeeper.http.routes import request_id_of
from innkeeper.http.turns import Answer, Stream, Turn, wait_for_end
from innkeeper.services.readings import RunReading
from innkeeper.services.tails import Ending


def watched(turn: Turn) -> RunReading:
    """The log of a turn's run from its beginning, or from where the turn began, where it goes with its end."""
    assert turn.started is not None, "the turn has been started"
    is_stored = (turn.tail.run.request or {}).get("store") is not False
    return turn.services.runs.watch(turn.tail, 0 if is_stored else turn.started.after)


async def whole_of(request: Request, turn: Turn) -> Response:
    """The response once its run has ended or waits for people.

    Its log is read along, as that of a response which is not stored is gone with its end. A request that is made again
    is answered as it was at first, though the run has gone on since.
    """
    assert turn.started is not None, "the turn has been started"
    run, place = turn.tail.run, turn.started.after
    reading = watched(turn)
    folding = asyncio.create_task(folded(reading, run, paused_beyond=place if turn.started.is_repeated else None))
    try:
        ending = await _end_or_pause(turn, request, folding)
        events = await folding
    finally:
        reading.close()
        folding.cancel()
        folding.add_done_callback(lambda done: done.cancelled() or done.exception())  # told by whoever waited
    if ending is None or events.is_paused:
        return Answer(turn, data_of(events.response()), headers=run_headers(turn))
    if ending.status not in ("completed", "requires_action"):
        return failed(turn, ending, request_id_of(request.scope))
    ended = await turn.services.runs.get(Caller(run.owner), run.id)
    return Answer(turn, data_of(events.response(completed_at=completed_at(ended))), headers=run_headers(turn))


async def _end_or_pause(turn: Turn, request: Request, folding: asyncio.Task[ResponseEvents]) -> Ending | None:
    """The end of the run; `None` for a request that is made again and was answered at a pause."""
    if not (turn.started and turn.started.is_repeated):
        return await wait_for_end(turn, request.receive)
    waiting = asyncio.ensure_future(wait_for_end(turn, request.receive))
    try:
        await asyncio.wait((folding, waiting), return_when=asyncio.FIRST_COMPLETED)
        return None if folding.done() and folding.result().is_paused else await waiting
    finally:
        waiting.cancel()


def stream_of(reading: RunReading, run: Run, encode: EventEncoder, turn: Turn | None) -> Stream:
    """The events of a run's log.

    A request that is made again is told what it was at first, though the run has gone on since.
    """
    if turn is not None and turn.started is not None and turn.started.is_repeated:
        encode.end_at_pause(reading.close)

    def farewell(_: int) -> bytes:
        """This process leaves. Where the run has ended with it, its log has said so."""
        tail = None if turn is None or turn.started is None else turn.started.tail
        if tail is not None and tail.has_ended:
            return b""
        told = f"The server is shutting down; the run goes on. Read it with GET /v1/responses/{response_id(run)}."
        return trouble_frame(facts(problem_of(ShuttingDown), told)).removesuffix(DONE)

    return Stream(
        reading,
        encode,
        on_trouble=lambda error: trouble_frame(facts(problem_of(type(error)), str(error))),
        at_end=lambda: DONE,
        farewell=farewell,
        turn=turn,
        headers={"x-run-id": run.id} if turn is None else run_headers(turn),
    )
