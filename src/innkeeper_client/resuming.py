"""Resuming: reading a stream to its end over any number of connections.

What a stream gives and from where it goes on, its subclasses know: `text_streams` and `event_streams`. The server's log
of a run makes it possible: it is read again from any place, and says the same.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from innkeeper_client.asking import Asking
from innkeeper_client.effects import Answer, Close, Item, Items, Program, Read, Sleep
from innkeeper_client.exceptions import APIConnectionError, ChatServerError, invalid_answer
from innkeeper_client.frames import Frame, Frames
from innkeeper_client.requests import Request

T = TypeVar("T")

DONE = "[DONE]"
PASSING_CODES = frozenset({"SHUTTING_DOWN", "STORAGE_UNAVAILABLE", "UNAVAILABLE"})
"""What a server says of itself; the run may go on."""


class Cut(Exception):
    """The stream has ended before what it tells of; `error` says why."""

    def __init__(self, error: ChatServerError) -> None:
        super().__init__(error)
        self.error = error


class Reading(ABC, Generic[T]):
    """One stream. Where `source` is set, there is a connection to be closed."""

    def __init__(self, asking: Asking) -> None:
        self.asking = asking
        self.source: Any = None
        self.is_over = False
        self._tried = 0

    @abstractmethod
    def take(self, frame: Frame) -> Iterator[T]:
        """What a frame gives. Raises: Cut; ChatServerError that ends the stream."""

    @abstractmethod
    def continuation(self) -> Request[Any] | None:
        """The request that goes on from here, if there is one."""

    def farewell(self) -> Request[Any] | None:
        """What to ask where this is closed before its end."""
        return None

    def opened(self, answer: Answer) -> None:
        """Read this one."""
        self.source = answer.source

    def progressed(self) -> None:
        """Something new has come: what failed before does not count any more."""
        self._tried = 0

    def items(self) -> Items[T]:
        """Everything that the stream gives. Raises: ChatServerError."""
        try:
            while not self.is_over:
                if self.source is None:
                    yield from self._open()
                try:
                    yield from self._read()
                except Cut as cut:
                    yield from self._go_on(cut.error)
        except ChatServerError:
            self.is_over = True
            raise
        finally:
            self.is_over = True
        yield from self._close()

    def _read(self) -> Items[T]:
        frames = Frames()
        while True:
            try:
                data: bytes = yield Read(self.source)
            except APIConnectionError as error:
                raise Cut(error) from None
            if not data:
                raise Cut(APIConnectionError("The server has closed the stream before its end."))
            for frame in frames.feed(data):
                for value in self._taken(frame):
                    yield Item(value)
                if self.is_over:
                    return

    def _taken(self, frame: Frame) -> list[T]:
        try:
            return list(self.take(frame))
        except (AttributeError, KeyError, TypeError, ValueError):
            raise invalid_answer("The server sent an event that cannot be understood.", frame.data) from None

    def _open(self) -> Program[None]:
        request = self.continuation()
        assert request is not None, "what is not opened can be asked for"
        self.opened((yield from self.asking.open(request)))

    def _go_on(self, error: ChatServerError) -> Program[None]:
        """Connect again: at once if anything had come since the last time, else after a while."""
        yield from self._close()
        request = self.continuation()
        if request is None:
            raise error
        call = self.asking.call(request, accept="text/event-stream")
        while True:
            delay = self.asking.retries.lasting.delay(error, self._tried)
            if delay is None:
                raise error
            if self._tried or error.retry_after is not None:
                yield Sleep(delay)
            self._tried += 1
            try:
                self.opened((yield from self.asking.open_once(call)))
            except ChatServerError as failure:
                error = failure
            else:
                return

    def _close(self) -> Program[None]:
        source, self.source = self.source, None
        if source is not None:
            yield Close(source)


def parsed(frame: Frame) -> dict[str, Any]:
    """The object that a frame holds. Raises: ChatServerError."""
    try:
        found = json.loads(frame.data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise invalid_answer("The server sent an event that is no JSON object.", frame.data)
    return found
