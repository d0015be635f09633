"""Traces: what was done for a request, told as spans that are derived from what is stored of its runs and commands.

Nothing is written for a trace beside the log that there is anyway, so that a run which is under way, was executed by
another process, or was cut off by a crash is told as well. What was said in it is not part of a trace.
"""

from __future__ import annotations

from collections.abc import Sequence

from innkeeper.core.commands import Command
from innkeeper.core.errors import TraceNotFound
from innkeeper.core.identity import Caller
from innkeeper.core.runs import Run
from innkeeper.core.traces import Span, Trace, is_trace_id
from innkeeper.ports.readers import CommandReader, EventReader, RunReader
from innkeeper.services.command_spans import spans_of
from innkeeper.services.run_spans import RunSpans

MAX_RUNS, MAX_COMMANDS = 100, 1000
MAX_SPANS = 10_000
"""Of one trace; the rest is not told."""

_AT_ONCE = 100
"""Events that are read at a time: each may have 16 KiB, and they are parsed on the event loop."""


class Traces:
    """The use case of traces."""

    def __init__(self, *, runs: RunReader, commands: CommandReader, events: EventReader) -> None:
        self._runs = runs
        self._commands = commands
        self._events = events

    async def get(self, caller: Caller, trace_id: str) -> Trace:
        """This caller's part of a trace.

        Raises: TraceNotFound; StorageUnavailable.
        """
        runs: Sequence[Run] = ()
        commands: Sequence[Command] = ()
        if is_trace_id(trace_id):
            runs = await self._runs.of_trace(caller, trace_id, MAX_RUNS + 1)
            commands = await self._commands.of_trace(caller, trace_id, MAX_COMMANDS + 1)
        if not runs and not commands:
            raise TraceNotFound(f"No trace of yours has the id {trace_id[:64]!r}.", param="trace_id")
        spans = [span for command in commands[:MAX_COMMANDS] for span in spans_of(command)]
        is_truncated = len(runs) > MAX_RUNS or len(commands) > MAX_COMMANDS
        for run in runs[:MAX_RUNS]:
            if len(spans) >= MAX_SPANS:
                is_truncated = True
                break
            more, has_more = await self.of_run(run, MAX_SPANS - len(spans))
            spans += more
            is_truncated = is_truncated or has_more
        spans.sort(key=_beginning)
        return Trace(trace_id, tuple(spans[:MAX_SPANS]), is_truncated or len(spans) > MAX_SPANS)

    async def of_run(self, run: Run, limit: int) -> tuple[list[Span], bool]:
        """About `limit` spans of a run at most, and whether there are more."""
        told, after, has_more = RunSpans(run), 0, run.started_at is not None
        while has_more and len(told) < limit:
            events = await self._events.of_run(run.session_key, run.id, after=after, limit=_AT_ONCE)
            for event in events:
                told.feed(event)
                after = event.sequence
            has_more = len(events) == _AT_ONCE
        return told.spans(), has_more


def _beginning(span: Span) -> int:
    return span.started_at
