"""Awaiting: carries effects out with httpx2's `AsyncClient`, and gives what streams give."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
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
        self._pieces = response.aiter_bytes()

    async def read(self) -> bytes:
        return await anext(self._pieces, b"")

    async def close(self) -> None:
        await self._response.aclose()


class AwaitingLine:
    """What one client's calls go over."""

    def __init__(self, http: httpx2.AsyncClient, asking: Asking) -> None:
        self._http = http
        self._loop: Any = None
        self.asking = asking

    async def do_async(self, described: Request[T] | Work[T]) -> T:
        asking = self.asking
        return await self.run(asking.ask(described) if isinstance(described, Request) else asking.do(described))

    async def run(self, program: Program[T]) -> T:
        """What a program comes to."""
        value: T = await self._advance(program, has_items=False)
        return value

    async def next(self, items: Items[T]) -> T:
        """The next item. Raises: StopAsyncIteration."""
        item: Item[T] = await self._advance(items, has_items=True)
        return item.value

    async def _advance(self, program: Any, *, has_items: bool) -> Any:
        """Carry out effects until there is an item, or until the program ends, and then what it comes to."""
        result: Any = None
        failure: APIConnectionError | None = None
        while True:
            try:
                effect = program.send(result) if failure is None else program.throw(failure)
            except StopIteration as stop:
                if has_items:
                    raise StopAsyncIteration from None
                return stop.value
            if isinstance(effect, Item):
                return effect
            try:
                result, failure = await self._carry_out(effect), None
            except APIConnectionError as error:
                failure = error

    async def _carry_out(self, effect: Effect) -> Any:
        match effect:
            case Read(source):
                with failures():
                    return await source.read()
            case Exchange(call):
                return await self._send(call, may_stream=False)
            case Open(call):
                return await self._send(call, may_stream=True)
            case Close(source):
                await self.drop(source)
            case Sleep(seconds):
                import asyncio  # whoever awaits has it; others need not pay for it

                await asyncio.sleep(seconds)
        return None

    async def _send(self, call: Call, *, may_stream: bool) -> Answer:
        self._keep_to_one_loop()
        with failures():
            response = await self._begin(call)
            if may_stream and has_stream(response):
                return answer_of(response, _Source(response))
            body = Body(response)
            async with contextlib.aclosing(response):
                async for piece in response.aiter_bytes():
                    if not body.takes(piece):
                        break
            return answer_of(response, content=body.content)

    async def _begin(self, call: Call) -> httpx2.Response:
        request = self._http.build_request(
            call.method, call.url, headers=call.headers, content=call.content, timeout=call.timeout
        )
        return await self._http.send(request, stream=True)

    def _keep_to_one_loop(self) -> None:
        """Connections are a loop's; elsewhere they fail in ways that tell nobody why. Raises: RuntimeError."""
        import asyncio  # as above

        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        if self._loop is not loop:
            raise RuntimeError(
                "This client was used in another event loop. Make an AsyncChatServerClient for each loop."
            )

    async def drop(self, source: Any) -> None:
        """Let a stream go, whatever its state."""
        if source is not None:
            with contextlib.suppress(APIConnectionError), failures():
                await source.close()

    async def bid_farewell(self, request: Request[Any]) -> None:
        """Ask once, for as long as nobody minds, and never fail: the client may be closed already."""
        import asyncio  # as above

        call = self.asking.call(request)
        with contextlib.suppress(Exception):
            async with asyncio.timeout(FAREWELL_SECONDS):
                await (await self._begin(call)).aclose()

    async def close(self) -> None:
        await self._http.aclose()


class AwaitingStream(Generic[T], AsyncIterator[T]):
    """What a stream gives, to be iterated over once. Closed at its end, by `close`, or as a context manager."""

    def __init__(self, line: AwaitingLine, reading: Readable[T]) -> None:
        self._line = line
        self._reading = reading
        self._items = reading.items()
        self._is_closed = False
        self._turn = Lock()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        with taken(self._turn):
            return await self._next()

    async def _next(self) -> T:
        try:
            return await self._line.next(self._items)
        except (StopAsyncIteration, GeneratorExit):  # where the coroutine is thrown away, nothing can be awaited
            raise
        except ChatServerError:
            if self._is_closed:  # elsewhere, while this was read
                raise StopAsyncIteration from None
            await self._drop()
            raise
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Read no further. Closing a completion before its end cancels its run."""
        farewell = self._reading.farewell()
        self._items.close()
        self._reading.is_over = self._is_closed = True
        await self._drop()
        if farewell is not None:
            await self._line.bid_farewell(farewell)

    async def _drop(self) -> None:
        source, self._reading.source = self._reading.source, None
        await self._line.drop(source)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
