"""The floor: the least that a Starlette app can do to send the bytes that Innkeeper sent. It stores nothing.

`BENCH_ANSWERS` names a folder with what `bench.measure` captured from Innkeeper beforehand.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

INTERVAL = 0.005


def _frames(name: str) -> list[bytes]:
    return [frame + b"\n\n" for frame in (ANSWERS / name).read_bytes().split(b"\n\n") if frame]


ANSWERS = Path(os.environ["BENCH_ANSWERS"])
INSTANT = (ANSWERS / "instant").read_bytes()
HUNDRED = _frames("hundred")
PACED = _frames("paced")
# The first frame carries the role, the last two the finish reason and the end: the agent waits before neither.
WAITS = [0.0, *[INTERVAL] * (len(PACED) - 3), 0.0, 0.0]


async def _hundred() -> AsyncIterator[bytes]:
    for frame in HUNDRED:
        yield frame


async def _paced() -> AsyncIterator[bytes]:
    for frame, wait in zip(PACED, WAITS, strict=True):
        if wait:
            await asyncio.sleep(wait)
        yield frame


async def _stamped() -> AsyncIterator[bytes]:
    yield b'data: {"choices":[{"delta":{"content":"%d"}}]}\n\n' % time.monotonic_ns()


async def live(request: Request) -> Response:
    return PlainTextResponse("ok")


async def instant(request: Request) -> Response:
    return Response(INSTANT, media_type="application/json")


async def hundred(request: Request) -> Response:
    return StreamingResponse(_hundred(), media_type="text/event-stream")


async def paced(request: Request) -> Response:
    return StreamingResponse(_paced(), media_type="text/event-stream")


async def stamped(request: Request) -> Response:
    return StreamingResponse(_stamped(), media_type="text/event-stream")


app = Starlette(
    routes=[
        Route("/live", live),
        *(Route(f"/{route.__name__}", route, methods=["POST"]) for route in (instant, hundred, paced, stamped)),
    ]
)
