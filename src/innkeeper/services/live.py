"""Live runs: a run while this process executes it.

Events get their `seq` here, in the order in which the agent yields them. What is ready when the previous
commit returns becomes one segment; readers see a segment only after its commit.
Invariant: at most one commit of a run's log is under way.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from innkeeper.core.actions import check_actions
from innkeeper.core.changes import AppendEvents, DeliverInjections, Fence, Segment
from innkeeper.core.context import RunContext
from innkeeper.core.errors import AgentFailed, StorageUnavailable
from innkeeper.core.events import (
    AgentEvent,
    Event,
    FinishNoted,
    MessageInjected,
    Paused,
    TextDelta,
    UsageReported,
    check_event,
    payload,
    text_payloads,
)
from innkeeper.core.injections import InjectedMessage
from innkeeper.core.outcomes import Delivered, Outcome, Stale
from innkeeper.core.runs import OnDisconnect, Plan, Run
from innkeeper.core.session_events import Note, note_of
from innkeeper.core.times import Instant
from innkeeper.core.usage import bounded
from innkeeper.ports.journal import Journal
from innkeeper.ports.readers import InjectionReader
from innkeeper.services.assembling import Assembler
from innkeeper.services.credits import spending_of
from innkeeper.services.tails import Stop, Tail
from innkeeper.services.timings import Timings

_logger = logging.getLogger(__name__)

MAX_PENDING = 256
MAX_OUTPUT = 16 * 1024 * 1024
_RETRY_SECONDS = 0.25
_BOOKING_SECONDS = 0.05
_EVENT_BYTES = 32
"""About what an event of text costs beside its text."""


class LiveRun(Tail):
    """One run in this process. Its owner emits; any number of readers follow. It is its context's `RunLine`."""

    def __init__(
        self,
        run: Run,
        fence: Fence,
        context: RunContext,
        journal: Journal,
        injections: InjectionReader,
        *,
        first: Segment | None = None,
        timings: Timings | None = None,
        assembler: Assembler | None = None,
        on_disconnect: OnDisconnect = "continue",
        grace: float = 0.0,
    ) -> None:
        """Its log ends with `first`; what was before, where it is taken up again, `assembler` has seen in the store."""
        super().__init__(run, after=run.last_seq)
        self.fence = fence
        self.context = context
        self.on_disconnect = on_disconnect
        self.grace = grace
        self.assembler = assembler or Assembler()
        self.task: asyncio.Task[None] | None = None
        self.stop: Stop | None = None
        self.is_settling = False
        self.is_releasing = False
        self.is_unwanted = False  # its end was asked for, whoever is to end it
        self.pause: Paused | None = None
        self.plan = Plan()
        self.began_at: float | None = None
        self.has_begun = False  # its agent, here or, of a run that goes on, elsewhere: from then on it is charged
        self.on_first_text: Callable[[LiveRun], None] | None = None
        self._journal = journal
        self._injections = injections
        self._last_seq = run.last_seq
        self._texts: list[str] = []
        self._pending: list[bytes] = []
        self._pending_count = 0
        self._notes: list[Note] = []
        self.spending = spending_of(run)
        self.on_spent: Callable[[LiveRun], None] | None = None
        self.on_lost: Callable[[LiveRun], None] | None = None
        self._is_booking_due = False
        self._bytes = 0
        self.timings = timings or Timings(Instant(context.now()))
        self._commit_began = 0.0
        self._in_flight: AppendEvents | None = None
        self._is_committing = False
        self._is_lost = False
        self._flush_is_due = False
        self._receiving: asyncio.Lock | None = None
        self.announce: Callable[[str], None] | None = None
        self.announce_notes: Callable[[str], None] | None = None
        if first is not None:
            self._published.append(first)
            self._kept = len(first.data)
        context.line = self

    # writing

    def emit(self, event: AgentEvent | str) -> None:
        """Take what the agent yielded into the log.

        Raises: AgentFailed once the output exceeds its bound.
        """
        if isinstance(event, str):
            content = event
        elif isinstance(event, TextDelta):
            content = event.content
        else:
            self._emit_other(event)
            return
        if not content:
            return
        assembler = self.assembler
        if assembler.needs_care:
            self._continue_text(content)
            return
        size = len(content) + _EVENT_BYTES
        if not str.isascii(content):  # a TypeError here, for what is no text, fails this run and nothing else
            content, size = _scrubbed(content), size + 3 * len(content)
        self._check_room(size)
        assembler.said.append(content)
        self._texts.append(content)
        self._bytes += size
        if not self._flush_is_due:
            self._after_append()

    def _emit_other(self, event: AgentEvent) -> None:
        assembler = self.assembler
        check_event(event)
        if isinstance(event, FinishNoted):
            assembler.feed(event)
            return
        if isinstance(event, Paused):
            if self.pause is not None:
                raise AgentFailed("The agent has asked already: a run is paused with one question at a time.")
            check_actions(event.actions, event.state)
            self.pause = event
            return
        if isinstance(event, UsageReported):
            event = UsageReported(bounded(event.usage))
        data = payload(event)
        self._check_room(len(data))
        assembler.feed(event)
        if isinstance(event, UsageReported):
            self.context.add_tokens(event.usage)
            self._check_spending()
        self._append(data)
        note = note_of(self.run.id, self._last_seq + self._pending_count, data, Instant(self.context.now()))
        if note is not None:
            self._notes.append(note)

    def _check_room(self, size: int) -> None:
        """Keep the output bounded. What is too much is not kept, for it may be of any size."""
        if self._bytes + size > MAX_OUTPUT:
            raise AgentFailed(f"The output exceeds {MAX_OUTPUT // (1024 * 1024)} MiB.")

    def _continue_text(self, content: str) -> None:
        """Text after a tool call: the step before it is closed, and a new paragraph begins."""
        assembler = self.assembler
        assembler.close_step()
        separator = assembler.separator(content)
        if separator:
            self.emit(separator)
        self.emit(content)

    def tell(self, event: Event) -> None:
        """Put an event of the server's own into the log."""
        self._append(payload(event))

    def continue_from(self, segment: Segment) -> None:
        """The store has added to the log by itself."""
        self._last_seq = segment.last_seq
        self.publish(segment)

    def _append(self, data: bytes) -> None:
        self._encode_texts()
        self._pending.append(data)
        self._pending_count += 1
        self._bytes += len(data)
        self._after_append()

    def _encode_texts(self) -> None:
        """Texts that came in a row are encoded in a row, which costs a third."""
        if self._texts:
            self._pending.append(text_payloads(self._texts))
            self._pending_count += len(self._texts)
            self._texts = []
            if self.on_first_text is not None:
                self.on_first_text(self)
                self.on_first_text = None

    def _after_append(self) -> None:
        """Have what is pending flushed in the next turn of the loop."""
        if not self._is_committing and not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)

    @property
    def is_backlogged(self) -> bool:
        """Whether the agent should wait for the store."""
        return self._pending_count + len(self._texts) >= MAX_PENDING

    @property
    def _has_pending(self) -> bool:
        return bool(self._texts or self._pending)

    def _flush(self) -> None:
        self._flush_is_due = False
        if not self._is_committing and self._has_pending and not self.is_settling and not self._is_lost:
            self._append_events()

    def _append_events(self) -> None:
        now, records = Instant(self.context.now()), self.context.unsettled_records()
        self._commit(AppendEvents(self._cut(), now, self.take_notes(), self.run.session_key, records))

    def take_notes(self) -> tuple[Note, ...]:
        """What the session's log is to tell of the events that are cut off now."""
        notes, self._notes = tuple(self._notes), []
        return notes

    def _cut(self) -> Segment:
        """Everything pending as one segment."""
        self._encode_texts()
        pending, self._pending = self._pending, []
        count, self._pending_count = self._pending_count, 0
        segment = Segment(self._last_seq + 1, count, b"\n".join(pending))
        self._last_seq = segment.last_seq
        return segment

    def _commit(self, change: AppendEvents) -> None:
        self._in_flight, self._is_committing = change, True
        self._commit_began = time.perf_counter()
        self._journal.commit((change,), self.fence).add_done_callback(self._committed)

    def _committed(self, future: asyncio.Future[tuple[Outcome, ...]]) -> None:
        change = self._in_flight
        assert change is not None, "a commit has a change"
        segment = change.segment
        error = future.exception()
        if error is not None:
            self.report_trouble(error)
            self._loop.call_later(_RETRY_SECONDS, self._commit, change)
            return
        self._in_flight, self._is_committing = None, False
        self.timings.committed(self._commit_began)
        self.trouble = None
        if isinstance(future.result()[0], Stale):
            self._lose()
            return
        if segment.count:
            self.publish(segment)
            if self.announce is not None:
                self.announce(self.run.id)
        else:
            self.wake()  # for whoever waits until nothing is on its way
        if change.notes and self.announce_notes is not None:
            self.announce_notes(self.run.session_key)
        self._flush()

    def report_trouble(self, error: BaseException) -> None:
        if self.trouble is None:
            _logger.warning("run %s: its log cannot be written and will be retried: %s", self.run.id, error)
        super().report_trouble(error)

    async def drained(self) -> None:
        """Wait until nothing of this run is on its way to the store."""
        while self._is_committing or (self._has_pending and not self.is_settling and not self._is_lost):
            await self.changed()

    def _lose(self) -> None:
        """Another process owns the run now: what is not stored yet never will be."""
        self._is_lost = True
        if self.on_lost is not None:
            self.on_lost(self)
        self.wake()

    async def saved(self) -> None:
        """Return when everything that was emitted is on disk.

        Raises: AgentFailed where it never will be, so that nothing is done that nobody would know of.
        """
        await self.drained()
        if self._is_lost or self.is_settling:
            raise AgentFailed("The run is not this process's any more, or has ended.")

    async def booked(self) -> None:
        """Return when what the agent has tracked so far is on disk, too."""
        await self.drained()
        while self.context.has_unsettled and not self._is_lost:
            self._append_events()
            await self.drained()

    def last_segment(self, *events: Event) -> Segment:
        """What is pending and these final events, as the segment that ends the log."""
        self._encode_texts()
        self._pending.extend(payload(event) for event in events)
        self._pending_count += len(events)
        return self._cut()

    # credits

    def tracked(self) -> None:
        """The agent has tracked credits, maybe in a thread: they are stored soon, whatever becomes of this process."""
        self._loop.call_soon_threadsafe(self._note_tracking)

    def _note_tracking(self) -> None:
        if self.is_settling:
            return
        self._check_spending()
        if not self._is_booking_due:
            self._is_booking_due = True
            self._loop.call_later(_BOOKING_SECONDS, self._book)

    def _book(self) -> None:
        self._is_booking_due = False
        if self.is_settling or self._is_lost:
            return
        if self._is_committing:
            self._note_tracking()
        elif self.context.has_unsettled:
            self._append_events()

    def _check_spending(self) -> None:
        if (
            self.spending is not None
            and self.on_spent is not None
            and self.spending.is_over(self.assembler.usage, self.context.tracked_credits)
        ):
            self.on_spent(self)

    # receiving

    async def receive(self) -> Sequence[InjectedMessage]:
        """Deliver what has been injected: it is in the log from here on, and in the conversation."""
        if self._receiving is None:
            self._receiving = asyncio.Lock()
        async with self._receiving:
            if not await self._has_accepted():
                return ()
            await self.drained()
            if self.is_settling or self.stop is not None:
                return ()
            received: asyncio.Future[Sequence[InjectedMessage]] = self._loop.create_future()
            self._is_committing = True
            self._deliver(received)
            return await received

    async def _has_accepted(self) -> bool:
        """Whether something was injected, however long the store is away."""
        while True:
            try:
                return await self._injections.has_accepted(self.run.id)
            except StorageUnavailable:
                await asyncio.sleep(_RETRY_SECONDS)

    def _deliver(self, received: asyncio.Future[Sequence[InjectedMessage]]) -> None:
        change = DeliverInjections(self._last_seq, Instant(self.context.now()), self.run.session_key)
        committed = self._journal.commit((change,), self.fence)
        committed.add_done_callback(lambda future: self._delivered(future, received))

    def _delivered(
        self, future: asyncio.Future[tuple[Outcome, ...]], received: asyncio.Future[Sequence[InjectedMessage]]
    ) -> None:
        """The agent may have been stopped meanwhile: what is in the log is in the conversation all the same."""
        error = future.exception()
        if error is not None:
            self.report_trouble(error)
            self._loop.call_later(_RETRY_SECONDS, self._deliver, received)
            return
        self._is_committing = False
        self.trouble = None
        (outcome,) = future.result()
        messages: Sequence[InjectedMessage] = ()
        if isinstance(outcome, Delivered) and outcome.segment is not None:
            messages = outcome.messages
            for message in messages:
                self.assembler.feed(MessageInjected(message.content, message.id))
            self.continue_from(outcome.segment)
            if self.announce is not None:
                self.announce(self.run.id)
            if self.announce_notes is not None:
                self.announce_notes(self.run.session_key)
        elif isinstance(outcome, Stale):
            self._lose()
        if not received.done():
            received.set_result(messages)
        self.wake()
        self._flush()

    # stopping

    @property
    def is_ending(self) -> bool:
        """Whether its end is being written, or that it is left to another process."""
        return self.is_settling or self.is_releasing

    def halt(self, stop: Stop) -> bool:
        """Ask the agent's code to end; false if the run is ending already."""
        if self.is_ending or self.stop is not None:
            if self.pause is not None and self.stop is None:
                self.stop = stop  # it is heard once the run is paused
            return False
        self.stop = stop
        if self.task is not None:
            # Not at once: a task that is cancelled before its first step would never settle.
            self._loop.call_soon(self._cancel, self.task)
        return True

    def _cancel(self, task: asyncio.Task[None]) -> None:
        if not self.is_ending:
            task.cancel()


def _scrubbed(content: str) -> str:
    """Text that UTF-8 can carry: lone surrogates become U+FFFD."""
    try:
        content.encode()
    except UnicodeEncodeError:
        return content.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return content
