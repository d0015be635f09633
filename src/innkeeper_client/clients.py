"""Clients: `ChatServerClient`, which blocks, and `AsyncChatServerClient`, which is awaited; else they are the same."""

from __future__ import annotations

import os
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from innkeeper_client.asking import Asking, asking
from innkeeper_client.awaiting import AwaitingLine, AwaitingStream
from innkeeper_client.blocking import BlockingLine, BlockingStream
from innkeeper_client.event_streams import RunReading, SessionReading
from innkeeper_client.requests import Request, Work
from innkeeper_client.resources import (
    ClientOperations,
    CommandOperations,
    LogOperations,
    RunOperations,
    SessionOperations,
    TokenOperations,
)
from innkeeper_client.session_events import SessionEvent
from innkeeper_client.streams import AsyncRunStream, RunStream

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")

DEFAULT_BASE_URL = "http://localhost:3284"
_POLL_SECONDS = 0.5


def _asking(
    api_key: str | None, base_url: str | None, timeout: float | None, max_retries: int, backoff: float
) -> Asking:
    key = api_key if api_key is not None else os.environ.get("INNKEEPER_API_KEY") or None
    url = base_url if base_url is not None else os.environ.get("INNKEEPER_URL")
    return asking(url or DEFAULT_BASE_URL, key, timeout, max_retries, backoff)


def _limits() -> httpx2.Limits:
    """As many connections as there are streams: a call would wait in vain for one that none of them lets go."""
    import httpx2

    return httpx2.Limits(max_connections=None, max_keepalive_connections=20)


class _Blocking:
    """What does things at once."""

    def __init__(self, line: BlockingLine) -> None:
        self._line = line

    def do(self, described: Request[T] | Work[T]) -> T:
        """Carry out what an operation describes."""
        return self._line.do(described)


class _Awaiting:
    """What does things when it is awaited."""

    def __init__(self, line: AwaitingLine) -> None:
        self._line = line

    async def do_async(self, described: Request[T] | Work[T]) -> T:
        """Carry out what an operation describes."""
        return await self._line.do_async(described)


class _Client(ClientOperations):
    """What both clients are."""

    _line: Any

    @property
    def base_url(self) -> str:
        asking: Asking = self._line.asking
        return asking.base_url

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.base_url!r})"


class Runs(_Blocking, RunOperations):
    """Runs: `list`, `get`, `wait`, `events`, `actions`, `cancel`, `resume`, `resume_stream`."""

    def events(self, run_id: str, after: int = 0) -> RunStream:
        """A run's log beyond the `seq` `after`, then live to its end, over any number of connections."""
        return RunStream(self._line, RunReading(self._line.asking, run_id=run_id, after=after, raises=False))


class AsyncRuns(_Awaiting, RunOperations):
    """Runs: `list`, `get`, `wait`, `events`, `actions`, `cancel`, `resume`, `resume_stream`."""

    def events(self, run_id: str, after: int = 0) -> AsyncRunStream:
        """A run's log beyond the `seq` `after`, then live to its end, over any number of connections."""
        return AsyncRunStream(self._line, RunReading(self._line.asking, run_id=run_id, after=after, raises=False))


class Sessions(_Blocking, SessionOperations):
    """Sessions: `create`, `list`, `get`, `update`, `delete`, `messages`, `append`."""


class AsyncSessions(_Awaiting, SessionOperations):
    """Sessions: `create`, `list`, `get`, `update`, `delete`, `messages`, `append`."""


class Commands(_Blocking, CommandOperations):
    """Commands of a session: `send`, `batch`, `get`, `wait`, `cancel`."""


class AsyncCommands(_Awaiting, CommandOperations):
    """Commands of a session: `send`, `batch`, `get`, `wait`, `cancel`."""


class Tokens(_Blocking, TokenOperations):
    """Tokens: `create`, `list`, `get`, `revoke`."""


class AsyncTokens(_Awaiting, TokenOperations):
    """Tokens: `create`, `list`, `get`, `revoke`."""


class Logs(_Blocking, LogOperations):
    """Logs: `list`, `of_session`, `statistics`, `user_statistics`, `records`, `add`."""


class AsyncLogs(_Awaiting, LogOperations):
    """Logs: `list`, `of_session`, `statistics`, `user_statistics`, `records`, `add`."""


class ChatServerClient(_Blocking, _Client):
    """A client of one server. It may be used by several threads, and is closed by `close` or as a context manager."""

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        timeout: float | None = 30,
        *,
        max_retries: int = 2,
        backoff: float = 0.5,
        http_client: httpx2.Client | None = None,
    ) -> None:
        """`api_key` is `INNKEEPER_API_KEY` if it is left out, and `base_url` `INNKEEPER_URL`, else http://localhost:3284.

        `timeout` is in seconds: for a connection, and between two signs of life. What fails for now is tried
        `max_retries` times more, after `backoff` seconds and then twice as long, or when the server says.
        """
        import httpx2

        how = _asking(api_key, base_url, timeout, max_retries, backoff)
        super().__init__(BlockingLine(http_client or httpx2.Client(limits=_limits()), how))
        self._owns_http = http_client is None
        self.runs = Runs(self._line)
        self.sessions = Sessions(self._line)
        self.commands = Commands(self._line)
        self.tokens = Tokens(self._line)
        self.logs = Logs(self._line)

    def events(
        self,
        session_id: str,
        after: int = 0,
        *,
        event_type: str | None = None,
        poll_interval: float = _POLL_SECONDS,
    ) -> BlockingStream[SessionEvent]:
        """A session's events beyond the `sequence` `after`, and those that come: looked for every so many seconds."""
        how = self._line.asking
        reading = SessionReading(how, session_id, after=after, event_type=event_type, poll_interval=poll_interval)
        return BlockingStream(self._line, reading)

    def close(self) -> None:
        """Close its connections. An `http_client` that was given stays open."""
        if self._owns_http:
            self._line.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncChatServerClient(_Awaiting, _Client):
    """A client of one server for one event loop, closed by `close` or as an asynchronous context manager."""

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        timeout: float | None = 30,
        *,
        max_retries: int = 2,
        backoff: float = 0.5,
        http_client: httpx2.AsyncClient | None = None,
    ) -> None:
        """As those of `ChatServerClient`."""
        import httpx2

        how = _asking(api_key, base_url, timeout, max_retries, backoff)
        super().__init__(AwaitingLine(http_client or httpx2.AsyncClient(limits=_limits()), how))
        self._owns_http = http_client is None
        self.runs = AsyncRuns(self._line)
        self.sessions = AsyncSessions(self._line)
        self.commands = AsyncCommands(self._line)
        self.tokens = AsyncTokens(self._line)
        self.logs = AsyncLogs(self._line)

    def events(
        self,
        session_id: str,
        after: int = 0,
        *,
        event_type: str | None = None,
        poll_interval: float = _POLL_SECONDS,
    ) -> AwaitingStream[SessionEvent]:
        """A session's events beyond the `sequence` `after`, and those that come: looked for every so many seconds."""
        how = self._line.asking
        reading = SessionReading(how, session_id, after=after, event_type=event_type, poll_interval=poll_interval)
        return AwaitingStream(self._line, reading)

    async def close(self) -> None:
        """Close its connections. An `http_client` that was given stays open."""
        if self._owns_http:
            await self._line.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
