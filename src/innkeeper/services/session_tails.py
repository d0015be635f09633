"""Session tails: the newest part of sessions' logs in memory, for those who watch them from this process.

A session that has subscribers has one tail, which reads the store once for all of them, when it is woken and every
second anyway. A subscriber is a cursor: who falls behind what is in memory reads from the store what was missed.
What goes out is paced: with many subscribers, several events travel together, and the loop keeps time for others.
Invariant: what is shown has been read from the store, in order, and nothing of it twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Sequence
from enum import Enum

from innkeeper.core.errors import ShuttingDown, StorageUnavailable
from innkeeper.core.identity import Caller
from innkeeper.core.session_events import EventFilter, SessionEvent
from innkeeper.core.sessions import Session
from innkeeper.ports.readers import EventReader, SessionReader
from innkeeper.services.stretches import Batch, Stretch
from innkeeper.services.wakes import Wakes

_logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_LAST_LOOK_SECONDS = 2.0
_KEPT_BYTES = 1024 * 1024
_KEPT_EVENTS = 10_000
_RECALLED_BYTES = 1024 * 1024
_FIRST_PAGE, _LARGEST_PAGE = 32, 256
_PAGE_BYTES = 1024 * 1024

_TOLD_AT_ONCE = 32
_REST = 3.0
"""How long the loop is left alone after a round, in lengths of that round: telling takes a quarter of its time."""
_LONGEST_REST, _SHORTEST_REST = 1.0, 0.002
_LONGEST_REST_OF_READING = 0.1

Encode = Callable[[SessionEvent], bytes]


class Over(Enum):
    """Why a tail shows nothing any more."""

    DELETED = "deleted"
    LEAVING = "leaving"


class SessionTail:
    """One session as its subscribers in this process see it, beyond `head`, which is the end of its log so far."""

    def __init__(
        self,
        session: Session,
        head: int,
        *,
        events: EventReader,
        sessions: SessionReader,
        encode: Encode,
        turns: asyncio.Lock,
    ) -> None:
        """`turns` are those of all who read what they have missed in this process."""
        self.session = session
        self.subscribers = 0
        self.over: Over | None = None
        self._events = events
        self._sessions = sessions
        self._encode = encode
        self._live = Stretch(head)
        self._recalled: list[Stretch] = []
        self._recalled_at = 0.0
        self._turns = turns
        self._page = _FIRST_PAGE
        self._sooner = asyncio.Event()
        self._wakers: dict[asyncio.Future[None], None] = {}
        self._looking = asyncio.Lock()
        self._following = asyncio.create_task(self._follow())

    @property
    def head(self) -> int:
        """The last event that subscribers may see."""
        return self._live.head

    def look(self) -> None:
        """There may be something new."""
        self._sooner.set()

    def end(self, why: Over) -> None:
        """Let all subscribers go."""
        self.over = self.over or why
        self._following.cancel()
        wakers, self._wakers = self._wakers, {}
        for waker in wakers:
            if not waker.done():
                waker.set_result(None)

    async def take_leave(self) -> None:
        """Show what has been stored so far, and end."""
        try:
            with contextlib.suppress(TimeoutError, StorageUnavailable):
                async with asyncio.timeout(_LAST_LOOK_SECONDS):
                    await self._look()
        finally:
            self.end(Over.LEAVING)

    async def changed(self, patience: float | None = None) -> None:
        """Return when there is something new, or nothing will be, or after `patience` seconds."""
        waker: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._wakers[waker] = None
        try:
            if patience is None:
                await waker
            else:
                await asyncio.wait([waker], timeout=patience)
        finally:
            self._wakers.pop(waker, None)  # who leaves a session in which nothing happens leaves nothing behind

    # what is new

    async def _follow(self) -> None:
        is_away = False
        while True:
            self._sooner.clear()
            self._forget_recalled()
            try:
                await self._look()
            except StorageUnavailable as error:
                if not is_away:  # once, as each session that is watched would say it each second
                    _logger.warning("the log of a session cannot be read for its subscribers: %s", error)
                is_away = True
                await asyncio.sleep(_LOOK_SECONDS)
                continue
            except Exception:
                _logger.exception("following the log of a session failed and is tried again")
                await asyncio.sleep(_LOOK_SECONDS)
                continue
            is_away = False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._sooner.wait()

    async def _look(self) -> None:
        """Show what has come since; where nothing has, see whether the session is still there."""
        async with self._looking:
            is_new, has_more = False, True
            while has_more:
                wanted = self._page
                parts = await self._read(self.head)
                has_more = len(parts) == wanted
                if parts:
                    is_new = True
                    self._live.extend(parts)
                    self._live.cut(_KEPT_BYTES, _KEPT_EVENTS)
                    await self._tell()
        if not is_new and not await self._exists():
            self.end(Over.DELETED)

    async def _read(self, after: int) -> Sequence[bytes]:
        """A page of events as they are sent; its length is made to suit the size of what is found."""
        parts = [self._encode(event) for event in await self._events.beyond(self.session, after, self._page)]
        if sum(map(len, parts)) > _PAGE_BYTES:
            self._page = max(1, self._page // 4)
        elif len(parts) == self._page:
            self._page = min(_LARGEST_PAGE, self._page * 2)
        return parts

    async def _exists(self) -> bool:
        session = self.session
        found = await self._sessions.find(Caller(session.owner), session.id, session.user_id)
        return found is not None and found.key == session.key

    async def _tell(self) -> None:
        """Wake everybody who waits, a few at a time, and rest in proportion to what that took."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        wakers, self._wakers = list(self._wakers), {}
        for first in range(0, len(wakers), _TOLD_AT_ONCE):
            for waker in wakers[first : first + _TOLD_AT_ONCE]:
                if not waker.done():
                    waker.set_result(None)
            await asyncio.sleep(0)
        rest = min(_REST * (loop.time() - began), _LONGEST_REST)
        if rest >= _SHORTEST_REST:
            await asyncio.sleep(rest)

    # what a subscriber is shown

    def recent(self, after: int) -> Batch | None:
        """What follows `after`, if it is in memory."""
        return self._live.beyond(after)

    async def recall(self, after: int) -> Batch | None:
        """What follows `after`, from the store; those who are near the same place share one read.

        One at a time, and the loop has its turn in between, because any number may begin anywhere at once.
        """
        async with self._turns:
            await asyncio.sleep(0)
            self._recalled_at = began = asyncio.get_running_loop().time()
            for stretch in (self._live, *self._recalled):
                if (batch := stretch.beyond(after)) is not None:
                    return batch
            stretch = Stretch(after, await self._read(after))
            self._recalled.insert(0, stretch)
            while len(self._recalled) > 1 and sum(one.size for one in self._recalled) > _RECALLED_BYTES:
                self._recalled.pop()
            await asyncio.sleep(min(asyncio.get_running_loop().time() - began, _LONGEST_REST_OF_READING))
            return stretch.beyond(after)

    def _forget_recalled(self) -> None:
        """Give the memory back once nobody has asked for it in a while."""
        if asyncio.get_running_loop().time() - self._recalled_at > _LOOK_SECONDS:
            self._recalled.clear()


class Subscription:
    """One who watches a session; `after` is the last event that has been sent."""

    def __init__(self, tail: SessionTail, after: int, on_close: Callable[[SessionTail], None]) -> None:
        self.after = after
        self._tail = tail
        self._on_close = on_close
        self._is_open = True
        tail.subscribers += 1

    @property
    def over(self) -> Over | None:
        """Why there is nothing more, once there is nothing more."""
        return self._tail.over

    async def next(self) -> Batch | None:
        """The events that follow `after`, once there are any; `None` when there will be none. Moves nothing itself."""
        tail = self._tail
        while tail.over is None:
            if self.after >= tail.head:
                await tail.changed()
                continue
            batch = tail.recent(self.after) or await self._recalled()
            if batch is not None:
                return batch
        return None

    async def _recalled(self) -> Batch | None:
        try:
            batch = await self._tail.recall(self.after)
        except StorageUnavailable:
            batch = None
        if batch is None and self._tail.over is None:  # it is not there, or not now
            await self._tail.changed(_LOOK_SECONDS)
        return batch

    def close(self) -> None:
        """Leave; idempotent."""
        if self._is_open:
            self._is_open = False
            self._tail.subscribers -= 1
            self._on_close(self._tail)


class SessionTails:
    """The tails of one process."""

    def __init__(self, *, events: EventReader, sessions: SessionReader, encode: Encode, wakes: Wakes) -> None:
        """`encode` makes of an event what subscribers are sent."""
        self._events = events
        self._sessions = sessions
        self._encode = encode
        self._wakes = wakes
        self._tails: dict[str, SessionTail] = {}
        self._turns = asyncio.Lock()
        self._is_leaving = False
        wakes.on_session(self.look)

    async def subscribe(self, session: Session, after: int) -> Subscription:
        """Watch a session: what is stored beyond `after`, then what comes.

        Raises: ShuttingDown, StorageUnavailable.
        """
        if session.key not in self._tails and not self._is_leaving:
            _, head = await self._events.page(session, EventFilter(), limit=1)  # logs are gapless: their length
            if session.key not in self._tails and not self._is_leaving:
                self._tails[session.key] = SessionTail(
                    session,
                    head,
                    events=self._events,
                    sessions=self._sessions,
                    encode=self._encode,
                    turns=self._turns,
                )
        if self._is_leaving:
            raise ShuttingDown("The server is shutting down; connect again.")
        return Subscription(self._tails[session.key], after, self._left)

    def _left(self, tail: SessionTail) -> None:
        if not tail.subscribers:
            tail.end(Over.LEAVING)
            if self._tails.get(tail.session.key) is tail:
                del self._tails[tail.session.key]

    def grew(self, session_key: str) -> None:
        """This process has committed something to a session's log, or has deleted the session."""
        if (tail := self._tails.get(session_key)) is not None:
            tail.look()
        self._wakes.session_grew(session_key)

    def look(self, session_keys: Collection[str] | None) -> None:
        """Other processes may have: in these sessions, or in any."""
        for key in list(self._tails) if session_keys is None else session_keys:
            if key in self._tails:
                self._tails[key].look()

    @property
    def subscribers(self) -> int:
        """How many watch from here."""
        return sum(tail.subscribers for tail in self._tails.values())

    async def cut(self) -> None:
        """This process is leaving: show the last events, and send everybody away with their cursors."""
        self._is_leaving = True
        if leaving := [asyncio.create_task(tail.take_leave()) for tail in self._tails.values()]:
            await asyncio.wait(leaving)
