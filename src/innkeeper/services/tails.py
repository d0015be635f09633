"""Tails: the newest part of a run's log in memory, for the readers in this process.

A run that this process executes grows its own tail (`services.live`); that of any other run is kept by following
the store (`services.following`). Readers do not know which. The log of a run that is not recorded is
gone with its end, so all of it that comes by is kept for those who still read then.
Invariant: what is published is a suffix of the stored log.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from innkeeper.core.actions import Action
from innkeeper.core.changes import Segment
from innkeeper.core.errors import InnkeeperError, StorageUnavailable
from innkeeper.core.events import EndStatus, FinishReason
from innkeeper.core.messages import ToolUse
from innkeeper.core.runs import OnDisconnect, Run, RunError
from innkeeper.core.usage import Usage

_KEPT_BYTES = 512 * 1024


class Stop(Enum):
    """Why a run was stopped from outside."""

    CANCELLED = "cancelled"
    TIMED_OUT = "timed out"
    INTERRUPTED = "interrupted"
    NEVER_BEGAN = "waited too long"
    RELEASED = "left to another process"
    EXHAUSTED = "tried too often"
    SPENT = "cost what it may"
    EXPIRED = "was not answered in time"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended, for whoever waits for it; or that it is paused, until its `actions` are answered."""

    status: EndStatus | Literal["requires_action"]
    output: str
    usage: Usage | None
    finish_reason: FinishReason | None
    steps: int
    tool_calls: tuple[ToolUse, ...]
    error: RunError | None = None
    stop: Stop | None = None
    reasoning: str = ""
    actions: tuple[Action, ...] = ()


class Tail:
    """One run as its readers in this process see it."""

    def __init__(self, run: Run, *, after: int = 0) -> None:
        """The log up to `after` is not in memory."""
        loop = asyncio.get_running_loop()
        self.run = run
        self.ended: asyncio.Future[Ending] = loop.create_future()
        self.trouble: StorageUnavailable | None = None
        self.loss: InnkeeperError | None = None
        self.readers = 0
        self.is_cut = False
        self.is_leaving = False
        self._loop = loop
        self._published: deque[Segment] = deque()
        self._kept = 0
        self.head = after
        """The last `seq` that readers may see."""
        self._wakers: dict[asyncio.Future[None], None] = {}

    on_disconnect: OnDisconnect = "continue"
    grace: float = 0.0

    def publish(self, segment: Segment) -> None:
        """Show a committed segment to readers."""
        self._published.append(segment)
        self.head = segment.last_seq
        self._kept += len(segment.data)
        while self._kept > _KEPT_BYTES and self.run.recorded and len(self._published) > 1:
            self._kept -= len(self._published.popleft().data)
        self.wake()

    def finish(self, ending: Ending) -> None:
        """The end is on disk: tell whoever waits."""
        if not self.ended.done():
            self.ended.set_result(ending)
        self.wake()

    @property
    def has_ended(self) -> bool:
        """Whether it is known here how the run ended, or that it waits for people."""
        return self.ended.done() and not self.ended.cancelled()

    def lose(self, ending: Ending, why: InnkeeperError) -> None:
        """The run is over, and its log is gone before the rest of it was shown: readers are told `why`."""
        self.loss = why
        self.finish(ending)

    def abandon(self) -> None:
        """Nobody will learn here how the run ends: who counts on its end goes on without."""
        self.ended.cancel()

    def cut(self) -> None:
        """This process is leaving: readers are sent away with their cursor, and the run goes on without them."""
        self.is_cut = self.is_leaving = True
        self.abandon()
        self.wake()

    def report_trouble(self, error: BaseException) -> None:
        """The log cannot be read or written for now."""
        self.trouble = error if isinstance(error, StorageUnavailable) else StorageUnavailable(str(error))
        self.wake()

    def recent(self, after: int) -> list[Segment] | None:
        """Published segments with events beyond `after`; `None` if memory does not reach back that far."""
        if after >= self.head:
            return []
        if not self._published or self._published[0].first_seq > after + 1:
            return None
        return [segment for segment in self._published if segment.last_seq > after]

    def changed(self) -> asyncio.Future[None]:
        """Done when something was published, ended, or went wrong with the store."""
        waker: asyncio.Future[None] = self._loop.create_future()
        self._wakers[waker] = None
        return waker

    def forget(self, waker: asyncio.Future[None]) -> None:
        """Whoever has asked for it waits no longer."""
        self._wakers.pop(waker, None)

    def wake(self) -> None:
        """Let every reader look again."""
        wakers, self._wakers = self._wakers, {}
        for waker in wakers:
            if not waker.done():
                waker.set_result(None)
