"""Operations: methods that are described once, for clients that block and for those that await alike.

An `Operation` is a method whose description comes to a `Request`, or to several as a `Work`. On a `Blocking` it returns
what comes of that, on an `Awaiting` it must be awaited.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import update_wrapper
from typing import Any, Generic, ParamSpec, Protocol, Self, TypeVar, overload

from innkeeper_client.requests import Request, Work

P = ParamSpec("P")
T = TypeVar("T")


class Blocking(Protocol):
    def do(self, described: Request[T] | Work[T]) -> T:
        """Carry it out."""


class Awaiting(Protocol):
    def do_async(self, described: Request[T] | Work[T]) -> Coroutine[Any, Any, T]:
        """Carry it out."""


class Operation(Generic[P, T]):
    """A method of both kinds of clients."""

    def __init__(self, describe: Callable[P, Request[T] | Work[T]]) -> None:
        self._describe = describe
        self.__doc__ = describe.__doc__

    @overload
    def __get__(self, owner: None, kind: type[Any]) -> Self: ...
    @overload
    def __get__(self, owner: Blocking, kind: type[Any]) -> Callable[P, T]: ...
    @overload
    def __get__(self, owner: Awaiting, kind: type[Any]) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, owner: Any, kind: type[Any]) -> Any:
        if owner is None:
            return self
        describe, carry_out = self._describe, getattr(owner, "do", None) or owner.do_async

        def bound(*args: P.args, **kwargs: P.kwargs) -> Any:
            return carry_out(describe(*args, **kwargs))

        return update_wrapper(bound, describe)
