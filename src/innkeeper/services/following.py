"""Following: the tails of runs that another process executes, kept up to date from the store.

A wake-up says that there may be something new; a look every second stands behind it. A tail is followed while
somebody reads it, once for all of its readers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import cast

from innkeeper.core.actions import Action
from innkeeper.core.errors import RunConflict, RunNotFound, StorageUnavailable
from innkeeper.core.events import ActionRequired, EndStatus, Event, RunFailed, read
from innkeeper.core.identity import Caller
from innkeeper.core.runs import UNDER_WAY, Run, RunError, RunStatus
from innkeeper.ports.readers import RunReader
from innkeeper.services.assembling import Assembler
from innkeeper.services.tails import Ending, Stop, Tail

_logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_BLANK = Ending("interrupted", "", None, None, 0, ())


class Following:
    """The followed tails of one process."""

    def __init__(self, runs: RunReader) -> None:
        self._runs = runs
        self._tails: dict[str, dict[Tail, asyncio.Task[None]]] = {}
        self._is_cut = False

    def follow(self, run: Run) -> Tail:
        """The tail of a run that is not executed here, shared with its other readers."""
        for known in self._tails.get(run.id, ()):
            if not known.ended.done():
                return known
        tail = Tail(run, after=run.last_seq)  # what is stored already, its readers find in the store
        self.adopt(tail)
        return tail

    def adopt(self, tail: Tail) -> None:
        """Go on with a tail whose run has been taken over by another process.

        Another one of that run may be followed: that of those who came before the run was executed here. Who comes
        when this process is leaving is sent away with what is stored.
        """
        if self._is_cut:
            tail.cut()
            return
        task = asyncio.create_task(self._follow(tail))
        self._tails.setdefault(tail.run.id, {})[tail] = task
        task.add_done_callback(partial(self._forget, tail))

    def _forget(self, tail: Tail, _: object) -> None:
        tails = self._tails.get(tail.run.id, {})
        tails.pop(tail, None)
        if not tails:
            self._tails.pop(tail.run.id, None)

    def left(self, tail: Tail) -> None:
        """A reader has gone; with the last one, following ends."""
        task = self._tails.get(tail.run.id, {}).get(tail)
        if task is not None and not tail.readers:
            task.cancel()
            self._forget(tail, None)
            tail.abandon()

    def wake(self, run_ids: Collection[str] | None) -> None:
        """Look again at these runs, or at all of them."""
        for run_id in list(self._tails) if run_ids is None else run_ids:
            for tail in self._tails.get(run_id, ()):
                tail.wake()

    def cut(self) -> None:
        """This process is leaving: send all readers away with their cursors."""
        self._is_cut = True
        for tails in list(self._tails.values()):
            for tail, task in list(tails.items()):
                task.cancel()
                tail.cut()

    async def _follow(self, tail: Tail) -> None:
        while True:
            looking = tail.changed()  # before the look, so that no wake-up is missed
            try:
                is_over = await self._look(tail)
            except Exception as error:
                if not isinstance(error, StorageUnavailable):
                    _logger.error("the log of run %s cannot be followed", tail.run.id, exc_info=error)
                tail.report_trouble(error)
                await asyncio.sleep(_LOOK_SECONDS)
                continue
            tail.trouble = None
            if is_over:
                return
            await asyncio.wait([looking], timeout=_LOOK_SECONDS)
            tail.forget(looking)

    async def _look(self, tail: Tail) -> bool:
        """Publish what is new, and the ending, once the log has one; whether it is over."""
        await self._publish(tail)
        run = await self._runs.find(Caller(tail.run.owner), tail.run.id)
        if run is None:
            tail.lose(_BLANK, RunNotFound(f"Run {tail.run.id!r} has been deleted.", param="run_id"))
            return True
        if run.status in UNDER_WAY:
            return False
        log = await replayed(self._runs, run.id)
        await self._publish(tail)
        return _conclude(tail, run, log) if run.status.is_terminal else _pause(tail, log)

    async def _publish(self, tail: Tail) -> None:
        while segments := await self._runs.segments(tail.run.id, tail.head):
            for segment in segments:
                tail.publish(segment.beyond(tail.head))


def _conclude(tail: Tail, run: Run, log: Replay) -> bool:
    """The run has ended. With one that was not to be kept, the end of its log is gone as soon as it is written."""
    ending = ending_of(run, log)
    if min(tail.head, log.last_seq) < run.last_seq:
        told = f"Run {run.id!r} has ended, and what it said was not kept: it was deleted, or said store: false."
        tail.lose(ending, RunConflict(told, details={"run_id": run.id}))
    else:
        tail.finish(ending)
    return True


def _pause(tail: Tail, log: Replay) -> bool:
    """The run waits for people, unless it has gone on or ended since it was looked at."""
    last = log.last[-1] if log.last else None
    if not isinstance(last, ActionRequired) or tail.head != log.last_seq:
        return False
    tail.finish(paused(log.assembler, last.actions))
    return True


def paused(assembler: Assembler, actions: tuple[Action, ...]) -> Ending:
    """How a run that waits for people is told to whoever waits for it."""
    return Ending(
        status="requires_action",
        output=assembler.output,
        usage=assembler.usage,
        finish_reason=None,
        steps=assembler.steps,
        tool_calls=(),
        reasoning=assembler.reasoning,
        actions=actions,
    )


@dataclass(frozen=True, slots=True)
class Replay:
    """A log that has been read: what came of it, its last two events, and the `seq` of the last."""

    assembler: Assembler
    last: tuple[Event, ...]
    last_seq: int


async def replayed(runs: RunReader, run_id: str) -> Replay:
    """Read a run's whole log."""
    assembler, last, after = Assembler(), tuple[Event, ...](), 0
    while segments := await runs.segments(run_id, after):
        for segment in segments:
            for data in segment.payloads():
                event = read(data)
                assembler.feed(event)
                last = (*last[-1:], event)
            after = segment.last_seq
    return Replay(assembler, last, after)


def ending_of(run: Run, log: Replay) -> Ending:
    """How a run ended, from its row and its log, as whoever executed it had told it."""
    assembler, error = log.assembler, run.error
    for event in log.last:
        if isinstance(event, RunFailed):
            error = RunError(event.code, event.message)
    return Ending(
        status=cast("EndStatus", run.status.value),
        output=assembler.output,
        usage=run.usage,
        finish_reason=run.finish_reason,
        steps=run.steps,
        tool_calls=tuple(assembler.client_calls),
        error=error,
        stop=_stop_of(run, error),
        reasoning=assembler.reasoning,
    )


def _stop_of(run: Run, error: RunError | None) -> Stop | None:
    if run.status is RunStatus.CANCELLED:
        return Stop.CANCELLED
    if run.status is RunStatus.INTERRUPTED:
        return Stop.INTERRUPTED
    return Stop.TIMED_OUT if error is not None and error.message == TIMED_OUT else None


TIMED_OUT = "The agent did not end within its time limit."
"""What is told of a run that was stopped for that reason."""
