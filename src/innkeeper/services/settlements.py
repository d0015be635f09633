"""Settlements: the end of a run, durable and exactly once, whichever way it came.

A live run is settled from memory; a run whose process died is settled from its log, by the same assembler.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from innkeeper.core.action_changes import Paused as ActionsAwaited
from innkeeper.core.action_changes import PauseRun
from innkeeper.core.changes import EndRun, Fence, ReleaseRun, Segment
from innkeeper.core.credits import ModelUsage
from innkeeper.core.errors import InnkeeperError, StorageUnavailable
from innkeeper.core.events import ActionRequired, EndStatus, Paused, RunEnded, RunFailed, payload
from innkeeper.core.identity import Caller
from innkeeper.core.outcomes import Done, Ended, Outcome, Stale
from innkeeper.core.runs import Run, RunError
from innkeeper.core.session_events import Note, note_of
from innkeeper.core.times import Instant, isoformat
from innkeeper.core.usage import CreditRecord, Usage
from innkeeper.ports.journal import Journal
from innkeeper.ports.meters import UNMETERED, Meter
from innkeeper.ports.readers import RunReader
from innkeeper.services.assembling import Assembler
from innkeeper.services.following import TIMED_OUT, paused, replayed
from innkeeper.services.late_lines import LateLine
from innkeeper.services.live import LiveRun
from innkeeper.services.tails import Ending, Stop
from innkeeper.services.timings import Timings

_FIRST_RETRY, _LAST_RETRY = 0.1, 5.0

_STOPPED: dict[Stop, tuple[EndStatus, RunError | None]] = {
    Stop.CANCELLED: ("cancelled", None),
    Stop.SPENT: ("completed", None),
    Stop.TIMED_OUT: ("failed", RunError("AGENT_FAILED", TIMED_OUT)),
    Stop.INTERRUPTED: (
        "interrupted",
        RunError("INTERRUPTED", "The server stopped before the agent had ended."),
    ),
    Stop.NEVER_BEGAN: (
        "failed",
        RunError("RATE_LIMITED", "The session stayed busy for too long; the turn was not started."),
    ),
    Stop.EXPIRED: (
        "failed",
        RunError("ACTION_EXPIRED", "Nobody has decided in time on what the run waited for."),
    ),
    Stop.EXHAUSTED: (
        "failed",
        RunError("AGENT_FAILED", "Every process that executed the run has died; it is not tried again."),
    ),
}

_CUT_OFF = frozenset({Stop.CANCELLED, Stop.TIMED_OUT, Stop.SPENT})
"""Providers tell of tokens when a call has ended, and who has heard all but its end shall not have it for nothing."""


class Settlements:
    """Writes endings."""

    def __init__(
        self,
        journal: Journal,
        now: Callable[[], int],
        new_id: Callable[[], str],
        *,
        shows_errors: bool = False,
        meter: Meter = UNMETERED,
        cost: Callable[[Usage], int | None] = lambda usage: None,
        action_seconds: float = 86_400.0,
    ) -> None:
        """`cost` says what tokens of a model cost the operator, in billionths, where that is known.

        Runs wait for people for `action_seconds`.
        """
        self._journal = journal
        self._now = now
        self._new_id = new_id
        self._shows_errors = shows_errors
        self._meter = meter
        self._cost = cost
        self._action_seconds = action_seconds
        self.on_end: Callable[[Run], None] | None = None
        """Hears of each run that was ended here, as it was before."""

    async def settle(self, live: LiveRun, failure: BaseException | None) -> Outcome:
        """End a live run and tell its readers. `Stale` means that another process owns it, and will end it."""
        live.is_settling = True
        await live.drained()
        ending = self._ending(live, failure)
        notes = live.take_notes()
        records = live.context.unsettled_records()
        if live.has_begun:
            records += self._charge(live.run, live.assembler, live.stop)
        change = self._change(live.run, live.assembler, ending, live.last_segment, records, notes, live.timings)
        outcome = await self._commit(live, change)
        LateLine(live.run.id, live.context, self._journal)
        if isinstance(outcome, Ended):
            seconds = None if live.began_at is None else time.perf_counter() - live.began_at
            self._meter.run_ended(live.run.agent_name, ending.status, seconds, ending.usage)
            if self.on_end is not None:
                self.on_end(live.run)
        if not isinstance(outcome, Stale):
            live.publish(change.segment)
            live.finish(ending)
        return outcome

    async def pause(self, live: LiveRun, pause: Paused) -> Outcome:
        """Leave a run until people have answered, and tell its readers. `Stale` means that another process owns it."""
        live.is_settling = True
        await live.drained()
        now = self._now()
        expires_at = Instant(now + round(self._action_seconds * 1_000_000))
        event = ActionRequired(live.run.id, pause.actions, isoformat(expires_at))
        segment = live.last_segment(event)
        note = note_of(live.run.id, segment.last_seq, payload(event), Instant(now))
        assert note is not None, "a pause is told in the session's log"
        change = PauseRun(
            run_id=live.run.id,
            session_key=live.run.session_key,
            segment=segment,
            now=Instant(now),
            expires_at=expires_at,
            actions=pause.actions,
            state=pause.state,
            plan=live.plan,
            notes=(*live.take_notes(), note),
            records=live.context.unsettled_records(),
        )
        outcome = await self._commit(live, change)
        LateLine(live.run.id, live.context, self._journal)
        if isinstance(outcome, ActionsAwaited):
            live.publish(segment)
            live.finish(paused(live.assembler, pause.actions))
        return outcome

    async def release(self, live: LiveRun) -> Outcome:
        """Leave a run in the background to another process; what it has told is on disk."""
        live.is_releasing = True
        await live.booked()
        live.is_settling = True
        LateLine(live.run.id, live.context, self._journal)
        return await self._commit(live, ReleaseRun(live.run.id))

    def _ending(self, live: LiveRun, failure: BaseException | None) -> Ending:
        assembler = live.assembler
        status, error = ("completed", None) if live.stop is None else _STOPPED[live.stop]
        if failure is not None and live.stop is None:
            status, error = "failed", self._told(failure)
        reason = assembler.finish_reason or ("tool_calls" if assembler.client_calls else "stop")
        if live.stop is Stop.SPENT:
            reason = "length"
        return Ending(
            status=status,
            output=assembler.output,
            usage=assembler.usage,
            finish_reason=reason if status == "completed" else None,
            steps=assembler.steps,
            tool_calls=tuple(assembler.client_calls),
            error=error,
            stop=live.stop,
            reasoning=assembler.reasoning,
        )

    def _told(self, failure: BaseException) -> RunError:
        """What a caller may know of an exception: nothing of its text, unless the server runs in debug."""
        if self._shows_errors:
            return RunError("AGENT_FAILED", f"{type(failure).__name__}: {failure}")
        return RunError("AGENT_FAILED", "The agent failed. The server's log has the reason.")

    def _charge(self, run: Run, assembler: Assembler, stop: Stop | None) -> tuple[CreditRecord, ...]:
        """What its agent's price comes to, of a run that has begun."""
        if run.pricing is None:
            return ()
        usage, told = assembler.usage, dict[str, object]()
        if stop in _CUT_OFF and run.pricing.credits_per_token and (untold := assembler.untold_tokens):
            usage = (usage or Usage()).plus(Usage(0, untold))
            told["estimated_tokens"] = untold
        charge = run.pricing.charge(usage)
        return (CreditRecord(self._new_id(), charge, "pricing", told, self._now()),) if charge else ()

    def _change(
        self,
        run: Run,
        assembler: Assembler,
        ending: Ending,
        cut: Callable[..., Segment],
        records: tuple[CreditRecord, ...],
        notes: tuple[Note, ...] = (),
        timings: Timings | None = None,
    ) -> EndRun:
        assert ending.status != "requires_action", "a run that is paused has not ended"
        done = RunEnded(run.id, run.session_id, ending.status, ending.output, ending.usage, ending.finish_reason)
        events = (RunFailed(ending.error.code, ending.error.message), done) if ending.error else (done,)
        messages = assembler.messages()
        return EndRun(
            run_id=run.id,
            session_key=run.session_key,
            status=ending.status,
            segment=cut(*events),
            now=Instant(self._now()),
            messages=messages,
            visible=assembler.visible if messages else None,
            output=ending.output,
            error=ending.error,
            usage=ending.usage,
            finish_reason=ending.finish_reason,
            steps=ending.steps,
            records=records,
            notes=notes,
            timings=None if timings is None else timings.told(),
            models=tuple(ModelUsage(usage, self._cost(usage)) for usage in assembler.by_model.values()),
            ceiling=None if run.pricing is None else run.pricing.max_credits,
        )

    async def _commit(self, live: LiveRun, change: EndRun | ReleaseRun | PauseRun) -> Outcome:
        """Write the end, however long the store is away: a run is never left without one."""
        pause = _FIRST_RETRY
        while True:
            try:
                (outcome,) = await self._journal.commit((change,), live.fence)
            except InnkeeperError as error:
                live.report_trouble(error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LAST_RETRY)
            else:
                return outcome

    async def end_inherited(self, runs: RunReader, run: Run, fence: Fence, why: Stop = Stop.INTERRUPTED) -> Outcome:
        """End a run whose process died, with the output that its log holds, however long the store is away."""
        pause = _FIRST_RETRY
        while True:
            try:
                return await self._interrupt(runs, run, fence, why)
            except StorageUnavailable:
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LAST_RETRY)

    async def disown(
        self, runs: RunReader, run: Run, fence: Fence, accepting: asyncio.Future[tuple[Outcome, ...]]
    ) -> Outcome:
        """End a run that may have been accepted, and that nobody will execute; `Done` where it was not."""
        await asyncio.wait([accepting])
        pause = _FIRST_RETRY
        while True:
            try:
                stored = await runs.find(Caller(run.owner), run.id)
                if stored is None or stored.status.is_terminal or stored.background:
                    return Done()
                return await self._interrupt(runs, stored, fence, Stop.INTERRUPTED, has_begun=False)
            except StorageUnavailable:
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LAST_RETRY)

    async def _interrupt(
        self, runs: RunReader, run: Run, fence: Fence, why: Stop, *, has_begun: bool = True
    ) -> Outcome:
        """`has_begun` is false where it is known that no code of its agent ran, whatever is stored."""
        log = await replayed(runs, run.id)
        assembler = log.assembler
        status, error = _STOPPED[why]
        ending = Ending(status, assembler.output, assembler.usage, None, assembler.steps, (), error, why)

        def cut(*events: RunFailed | RunEnded) -> Segment:
            return Segment(log.last_seq + 1, len(events), b"\n".join(payload(event) for event in events))

        records = self._charge(run, assembler, why) if has_begun and run.started_at is not None else ()
        change = self._change(run, assembler, ending, cut, records)
        (outcome,) = await self._journal.commit((change,), fence)
        if isinstance(outcome, Ended):
            self._meter.run_ended(run.agent_name, ending.status, None, ending.usage)
            if self.on_end is not None:
                self.on_end(run)
        return outcome
