"""Streams: those of clients that block and of those that await, and the methods that open them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import update_wrapper
from typing import Any, Generic, ParamSpec, Protocol, Self, overload

from innkeeper_client.asking import Asking
from innkeeper_client.awaiting import AwaitingLine, AwaitingStream
from innkeeper_client.blocking import BlockingLine, BlockingStream
from innkeeper_client.completions import (
    ChatCompletionRequest,
    ChatCompletionResponse,
    CreateCompletion,
    completion_request,
    create,
)
from innkeeper_client.effects import Program
from innkeeper_client.event_streams import RunEvent, RunReading
from innkeeper_client.requests import Request
from innkeeper_client.text_streams import TextReading

P = ParamSpec("P")


class _Completion:
    """A completion, piece by piece."""

    _reading: TextReading

    @property
    def metadata(self) -> dict[str, Any]:
        """`system_fingerprint` (the session's id, also `session_id`), `run_id`, `id` and `model`; `finish_reason` and
        `usage`, a `UsageInfo`, once they are told; the `actions` that the run waits for, mostly none.
        """
        return self._reading.metadata


class CompletionStream(_Completion, BlockingStream[str]):
    """The text of a completion, piece by piece."""

    def __init__(self, line: BlockingLine, reading: TextReading) -> None:
        super().__init__(line, reading)
        self._reading: TextReading = reading


class AsyncCompletionStream(_Completion, AwaitingStream[str]):
    """The text of a completion, piece by piece."""

    def __init__(self, line: AwaitingLine, reading: TextReading) -> None:
        super().__init__(line, reading)
        self._reading: TextReading = reading


class _Run:
    """A run's log."""

    _reading: RunReading

    @property
    def run_id(self) -> str | None:
        return self._reading.run_id

    @property
    def session_id(self) -> str | None:
        return self._reading.session_id

    @property
    def cursor(self) -> int:
        """The `seq` of the last event, from which to go on elsewhere."""
        return self._reading.cursor


class RunStream(_Run, BlockingStream[RunEvent]):
    """The events of a run, as they happen."""

    def __init__(self, line: BlockingLine, reading: RunReading) -> None:
        super().__init__(line, reading)
        self._reading: RunReading = reading


class AsyncRunStream(_Run, AwaitingStream[RunEvent]):
    """The events of a run, as they happen."""

    def __init__(self, line: AwaitingLine, reading: RunReading) -> None:
        super().__init__(line, reading)
        self._reading: RunReading = reading


class OverBlockingLine(Protocol):
    _line: BlockingLine


class OverAwaitingLine(Protocol):
    _line: AwaitingLine


class CompletionOperation:
    """`create_completion` of both kinds of clients."""

    @overload
    def __get__(self, owner: None, kind: type[Any]) -> Self: ...
    @overload
    def __get__(
        self, owner: OverBlockingLine, kind: type[Any]
    ) -> CreateCompletion[ChatCompletionResponse, CompletionStream]: ...
    @overload
    def __get__(
        self, owner: OverAwaitingLine, kind: type[Any]
    ) -> CreateCompletion[Coroutine[Any, Any, ChatCompletionResponse], Coroutine[Any, Any, AsyncCompletionStream]]: ...
    def __get__(self, owner: Any, kind: type[Any]) -> Any:
        if owner is None:
            return self
        line = owner._line
        carry_out = _complete if isinstance(line, BlockingLine) else _complete_async

        def bound(*args: Any, **kwargs: Any) -> Any:
            return carry_out(line, completion_request(*args, **kwargs))

        return update_wrapper(bound, completion_request)


def _complete(line: BlockingLine, asked: ChatCompletionRequest) -> ChatCompletionResponse | CompletionStream:
    if asked.stream:
        return CompletionStream(line, line.run(_opened_completion(line.asking, asked)))
    return line.do(create(asked, line.asking))


async def _complete_async(
    line: AwaitingLine, asked: ChatCompletionRequest
) -> ChatCompletionResponse | AsyncCompletionStream:
    if asked.stream:
        return AsyncCompletionStream(line, await line.run(_opened_completion(line.asking, asked)))
    return await line.do_async(create(asked, line.asking))


def _opened_completion(asking: Asking, asked: ChatCompletionRequest) -> Program[TextReading]:
    answer = yield from asking.open(create(asked, asking))
    return TextReading(asking, answer)


class StreamOperation(Generic[P]):
    """A method that asks for something and streams the run that comes of it."""

    def __init__(self, describe: Callable[P, Request[Any]]) -> None:
        self._describe = describe
        self.__doc__ = describe.__doc__

    @overload
    def __get__(self, owner: None, kind: type[Any]) -> Self: ...
    @overload
    def __get__(self, owner: OverBlockingLine, kind: type[Any]) -> Callable[P, RunStream]: ...
    @overload
    def __get__(self, owner: OverAwaitingLine, kind: type[Any]) -> Callable[P, Coroutine[Any, Any, AsyncRunStream]]: ...
    def __get__(self, owner: Any, kind: type[Any]) -> Any:
        if owner is None:
            return self
        line, describe = owner._line, self._describe
        carry_out = _stream if isinstance(line, BlockingLine) else _stream_async

        def bound(*args: P.args, **kwargs: P.kwargs) -> Any:
            return carry_out(line, describe(*args, **kwargs))

        return update_wrapper(bound, describe)


def _stream(line: BlockingLine, request: Request[Any]) -> RunStream:
    return RunStream(line, line.run(_opened_run(line.asking, request)))


async def _stream_async(line: AwaitingLine, request: Request[Any]) -> AsyncRunStream:
    return AsyncRunStream(line, await line.run(_opened_run(line.asking, request)))


def _opened_run(asking: Asking, request: Request[Any]) -> Program[RunReading]:
    answer = yield from asking.open(request)
    return RunReading(asking, answer=answer, raises=True)
