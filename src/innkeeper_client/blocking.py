"""Blocking: carries effects out with httpx2's `Client`, and gives what streams give."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from innkeeper_client.asking import Asking
from innkeeper_client.effects import Answer, Call, Close, Effect, Exchange, Item, Items, Open, Program, Read, Sleep
from innkeeper_client.exceptions import APIConnectionError, ChatServerError
from innkeeper_client.requests import Request, Work
from innkeeper_client.transports import FAREWELL_SECONDS, Body, Readable, answer_of, failures, has_stream, taken

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")


class _Source:
    """A stream that is open."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self._pieces = response.iter_bytes()

    def read(self) -> bytes:
        return next(self._pieces, b"")

    def close(self) -> None:
        self._response.close()


class BlockingLine:
    """What one client's calls go over."""

    def __init__(self, http: httpx2.Client, asking: Asking) -> None:
        self._http = http
        self.asking = asking

    def do(self, described: Request[T] | Work[T]) -> T:
        return self.run(self.asking.ask(described) if isinstance(described, Request) else self.asking.do(described))

    def run(self, program: Program[T]) -> T:
        """What a program comes to."""
        try:
            self._advance(program)
        except StopIteration as stop:
            value: T = stop.value
            return value
        raise AssertionError("a program that gives items is a stream's")

    def next(self, items: Items[T]) -> T:
        """The next item. Raises: StopIteration."""
        item: Item[T] = self._advance(items)
        return item.value

    def _advance(self, program: Any) -> Any:
        """Carry out effects until there is an item, or StopIteration."""
        effect = program.send(None)
        while not isinstance(effect, Item):
            try:
                result = self._carry_out(effect)
            except APIConnectionError as error:
                effect = program.throw(error)
            else:
                effect = program.send(result)
        return effect

    def _carry_out(self, effect: Effect) -> Any:
        match effect:
            case Read(source):
                with failures():
                    return source.read()
            case Exchange(call):
                return self._send(call, may_stream=False)
            case Open(call):
                return self._send(call, may_stream=True)
            case Close(source):
                self.drop(source)
            case Sleep(seconds):
                time.sleep(seconds)
        return None

    def _send(self, call: Call, *, may_stream: bool) -> Answer:
        with failures():
            response = self._begin(call)
            if may_stream and has_stream(response):
                return answer_of(response, _Source(response))
            body = Body(response)
            with contextlib.closing(response):
                all(map(body.takes, response.iter_bytes()))
            return answer_of(response, content=body.content)

    def _begin(self, call: Call) -> httpx2.Response:
        request = self._http.build_request(
            call.method, call.url, headers=call.headers, content=call.content, timeout=call.timeout
        )
        return self._http.send(request, stream=True)

    def drop(self, source: Any) -> None:
        """Let a stream go, whatever its state."""
        if source is not None:
            with contextlib.suppress(APIConnectionError), failures():
                source.close()

    def bid_farewell(self, request: Request[Any]) -> None:
        """Ask once, for as long as nobody minds, and never fail: the client may be closed already."""
        call = self.asking.call(request)
        with contextlib.suppress(Exception):
            self._begin(call.within(FAREWELL_SECONDS)).close()

    def close(self) -> None:
        self._http.close()


class BlockingStream(Generic[T], Iterator[T]):
    """What a stream gives, to be iterated over once. Closed at its end, by `close`, or as a context manager."""

    def __init__(self, line: BlockingLine, reading: Readable[T]) -> None:
        self._line = line
        self._reading = reading
        self._items = reading.items()
        self._is_closed = False
        self._turn = Lock()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        with taken(self._turn):
            return self._next()

    def _next(self) -> T:
        try:
            return self._line.next(self._items)
        except StopIteration:
            raise
        except ChatServerError:
            if self._is_closed:  # elsewhere, while this was read
                raise StopIteration from None
            self._drop()
            raise
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Read no further. Closing a completion before its end cancels its run."""
        farewell = self._reading.farewell()
        self._items.close()
        self._reading.is_over = self._is_closed = True
        self._drop()
        if farewell is not None:
            self._line.bid_farewell(farewell)

    def _drop(self) -> None:
        source, self._reading.source = self._reading.source, None
        self._line.drop(source)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
