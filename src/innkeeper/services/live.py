"""Live runs: a run while this process executes it, and the log's newest part in memory for its readers.

Events get their `seq` here, in the order in which the agent yields them. What is ready when the previous
commit returns becomes one segment; readers see a segment only after its commit.
Invariant: `published` is a suffix of the stored log.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from enum import Enum
from json.encoder import encode_basestring

from innkeeper.core.changes import AppendEvents, Fence, Outcome, Segment, Stale
from innkeeper.core.context import RunContext
from innkeeper.core.errors import AgentFailed, StorageUnavailable
from innkeeper.core.events import (
    AgentEvent,
    EndStatus,
    Event,
    FinishNoted,
    FinishReason,
    TextDelta,
    UsageReported,
    payload,
)
from innkeeper.core.messages import ToolUse
from innkeeper.core.runs import OnDisconnect, Run, RunError
from innkeeper.core.times import Instant
from innkeeper.core.usage import Usage
from innkeeper.ports.journal import Journal
from innkeeper.services.assembling import Assembler

_logger = logging.getLogger(__name__)

MAX_PENDING = 256
MAX_OUTPUT = 16 * 1024 * 1024
_KEPT_BYTES = 512 * 1024
_RETRY_SECONDS = 0.25
_TEXT_HEAD = b'{"type":"text","content":'


class Stop(Enum):
    """Why a run was stopped from outside."""

    CANCELLED = "cancelled"
    TIMED_OUT = "timed out"
    INTERRUPTED = "interrupted"
    NEVER_BEGAN = "waited too long"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended, for whoever waits for it."""

    status: EndStatus
    output: str
    usage: Usage | None
    finish_reason: FinishReason | None
    steps: int
    tool_calls: tuple[ToolUse, ...]
    error: RunError | None = None
    stop: Stop | None = None
    reasoning: str = ""


class LiveRun:
    """One run in this process. Its owner emits; any number of readers follow."""

    def __init__(
        self,
        run: Run,
        fence: Fence,
        context: RunContext,
        journal: Journal,
        *,
        first: Segment,
        on_disconnect: OnDisconnect = "continue",
        grace: float = 0.0,
    ) -> None:
        self.run = run
        self.fence = fence
        self.context = context
        self.on_disconnect = on_disconnect
        self.grace = grace
        self.assembler = Assembler()
        self.ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None
        self.stop: Stop | None = None
        self.is_settling = False
        self.trouble: StorageUnavailable | None = None
        self.readers = 0
        self._journal = journal
        self._loop = asyncio.get_running_loop()
        self._published: deque[Segment] = deque((first,))
        self._kept = len(first.data)
        self._last_seq = first.last_seq
        self._pending: list[bytes] = []
        self._bytes = 0
        self._in_flight: Segment | None = None
        self._flush_is_due = False
        self._wakers: list[asyncio.Future[None]] = []

    # writing

    def emit(self, event: AgentEvent) -> None:
        """Take what the agent yielded into the log.

        Raises: AgentFailed once the output exceeds its bound.
        """
        assembler = self.assembler
        if type(event) is TextDelta:
            content = event.content
            if not content:
                return
            if assembler.needs_care:
                self._continue_text(content)
                return
            try:
                data = _TEXT_HEAD + encode_basestring(content).encode() + b"}"
            except UnicodeEncodeError:
                content = _scrubbed(content)
                data = payload(TextDelta(content))
            assembler.said.append(content)
            self._pending.append(data)
            self._bytes += len(data)
            if self._bytes > MAX_OUTPUT or not self._flush_is_due:
                self._after_append()
            return
        assembler.feed(event)
        if isinstance(event, FinishNoted):
            return
        if isinstance(event, UsageReported):
            self.context.add_tokens(event.usage)
        self._append(payload(event))

    def _continue_text(self, content: str) -> None:
        """Text after a tool call: the step before it is closed, and a new paragraph begins."""
        assembler = self.assembler
        assembler.close_step()
        separator = assembler.separator(content)
        if separator:
            self.emit(TextDelta(separator))
        self.emit(TextDelta(content))

    def _append(self, data: bytes) -> None:
        self._pending.append(data)
        self._bytes += len(data)
        self._after_append()

    def _after_append(self) -> None:
        """Keep the output bounded, and have what is pending flushed in the next turn of the loop."""
        if self._bytes > MAX_OUTPUT:
            raise AgentFailed(f"The output exceeds {MAX_OUTPUT // (1024 * 1024)} MiB.")
        if self._in_flight is None and not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)

    @property
    def is_backlogged(self) -> bool:
        """Whether the agent should wait for the store."""
        return len(self._pending) >= MAX_PENDING

    def _flush(self) -> None:
        self._flush_is_due = False
        if self._in_flight is None and self._pending and not self.is_settling:
            self._commit(self._cut())

    def _cut(self) -> Segment:
        """Everything pending as one segment."""
        pending, self._pending = self._pending, []
        segment = Segment(self._last_seq + 1, len(pending), b"\n".join(pending))
        self._last_seq = segment.last_seq
        return segment

    def _commit(self, segment: Segment) -> None:
        self._in_flight = segment
        now = Instant(self.context.now())
        self._journal.commit((AppendEvents(segment, now),), self.fence).add_done_callback(self._committed)

    def _committed(self, future: asyncio.Future[tuple[Outcome, ...]]) -> None:
        segment = self._in_flight
        assert segment is not None, "a commit has a segment"
        error = future.exception()
        if error is not None:
            self.report_trouble(error)
            self._loop.call_later(_RETRY_SECONDS, self._commit, segment)
            return
        self._in_flight = None
        self.trouble = None
        if isinstance(future.result()[0], Stale):
            self.halt(Stop.INTERRUPTED)
            return
        self.publish(segment)
        self._flush()

    def report_trouble(self, error: BaseException) -> None:
        if self.trouble is None:
            _logger.warning("run %s: its log cannot be written and will be retried: %s", self.run.id, error)
        self.trouble = error if isinstance(error, StorageUnavailable) else StorageUnavailable(str(error))
        self.wake()

    async def drained(self) -> None:
        """Wait until nothing of this run is on its way to the store."""
        while self._in_flight is not None or (self._pending and not self.is_settling):
            await self.changed()

    def last_segment(self, *events: Event) -> Segment:
        """What is pending and these final events, as the segment that ends the log."""
        self._pending.extend(payload(event) for event in events)
        return self._cut()

    def publish(self, segment: Segment) -> None:
        """Show a committed segment to readers."""
        self._published.append(segment)
        self._kept += len(segment.data)
        while self._kept > _KEPT_BYTES and len(self._published) > 1:
            self._kept -= len(self._published.popleft().data)
        self.wake()

    def finish(self, ending: Ending) -> None:
        """The end is on disk: tell whoever waits."""
        if not self.ended.done():
            self.ended.set_result(ending)
        self.wake()

    # reading

    @property
    def head(self) -> int:
        """The last `seq` that readers may see."""
        return self._published[-1].last_seq

    def recent(self, after: int) -> list[Segment] | None:
        """Published segments with events beyond `after`; `None` if memory no longer reaches back that far."""
        if self._published[0].first_seq > after + 1:
            return None
        return [segment for segment in self._published if segment.last_seq > after]

    def changed(self) -> asyncio.Future[None]:
        """Done when something was published, ended, or went wrong with the store."""
        waker: asyncio.Future[None] = self._loop.create_future()
        self._wakers.append(waker)
        return waker

    def wake(self) -> None:
        """Let every reader look again."""
        wakers, self._wakers = self._wakers, []
        for waker in wakers:
            if not waker.done():
                waker.set_result(None)

    # stopping

    def halt(self, stop: Stop) -> bool:
        """Ask the agent's code to end; false if the run is ending already."""
        if self.is_settling or self.stop is not None:
            return False
        self.stop = stop
        if self.task is not None:
            # Not at once: a task that is cancelled before its first step would never settle.
            self._loop.call_soon(self._cancel, self.task)
        return True

    def _cancel(self, task: asyncio.Task[None]) -> None:
        if not self.is_settling:
            task.cancel()


def _scrubbed(content: str) -> str:
    """Text that UTF-8 can carry: lone surrogates become U+FFFD."""
    return content.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
