"""Trace export: each run and command that ends in this process is told to a span sink, as the trace tells it.

It follows behind what it tells of and reads the store for it. Where it cannot keep up, the oldest are not told.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from innkeeper.core.commands import Command
from innkeeper.core.errors import InnkeeperError
from innkeeper.core.identity import Caller
from innkeeper.core.runs import Run
from innkeeper.ports.readers import RunReader
from innkeeper.ports.spans import SpanSink
from innkeeper.services.command_spans import spans_of
from innkeeper.services.traces import MAX_SPANS, Traces

_logger = logging.getLogger(__name__)

MAX_WAITING = 2000
_WARN_EVERY = 10_000


class TraceExport:
    """Tells `sink` of what has ended."""

    def __init__(self, *, runs: RunReader, traces: Traces, sink: SpanSink) -> None:
        self._runs = runs
        self._traces = traces
        self._sink = sink
        self._waiting: deque[Run | Command] = deque(maxlen=MAX_WAITING)
        self._dropped = 0
        self._came = asyncio.Event()
        self._is_closing = False
        self._telling: asyncio.Task[None] | None = None

    def ended(self, subject: Run | Command) -> None:
        """A command as it has ended, or a run, of which the store knows more."""
        if len(self._waiting) == MAX_WAITING:
            if self._dropped % _WARN_EVERY == 0:
                _logger.warning("more ends at once than can be exported: traces of some are left out")
            self._dropped += 1
        self._waiting.append(subject)
        self._came.set()

    def open(self) -> None:
        self._telling = asyncio.create_task(self._tell_all())

    async def _tell_all(self) -> None:
        while not (self._is_closing and not self._waiting):
            while self._waiting:
                await self._tell(self._waiting.popleft())
                await asyncio.sleep(0)
            self._came.clear()
            if not self._is_closing:
                await self._came.wait()

    async def _tell(self, subject: Run | Command) -> None:
        try:
            if isinstance(subject, Command):
                self._sink.take(subject.trace_id, spans_of(subject))
                return
            run = await self._runs.find(Caller(subject.owner), subject.id)
            if run is not None:  # its session may have been deleted meanwhile
                spans, _ = await self._traces.of_run(run, MAX_SPANS)
                self._sink.take(run.trace_id, spans)
        except InnkeeperError as error:
            _logger.warning("the trace of %s is not exported: %s", subject.id, error)
        except Exception:
            _logger.exception("the trace of %s is not exported", subject.id)

    async def close(self, patience: float) -> None:
        """Tell what is left, for about `patience` seconds at most."""
        self._is_closing = True
        self._came.set()
        if self._telling is not None:
            await asyncio.wait([self._telling], timeout=patience)
            self._telling.cancel()
        await self._sink.close(patience)
