"""Transports: httpx2's answers and errors as those of this package. httpx2 is imported when it is first used.

Importing it takes three times as long as the rest of the package, which programs that only name a class need not pay.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from innkeeper_client.effects import Answer, Items
from innkeeper_client.exceptions import APIConnectionError, APITimeoutError, invalid_answer
from innkeeper_client.requests import Request

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")

FAREWELL_SECONDS = 5.0
MAX_ANSWER = 256 * 1024 * 1024
"""Bytes of an answer, after they have been made large again; nothing that the server says is longer."""
MAX_ERROR = 1024 * 1024
"""Bytes of an answer that is an error; what is beyond is not read."""


class Readable(Protocol[T]):
    """A stream before anybody reads it."""

    source: Any
    is_over: bool

    def items(self) -> Items[T]: ...

    def farewell(self) -> Request[Any] | None: ...


def has_stream(response: httpx2.Response) -> bool:
    """Whether the body is to be read piece by piece."""
    kind = response.headers.get("content-type", "")
    return response.is_success and kind.partition(";")[0].strip().lower() == "text/event-stream"


class Body:
    """The bytes of an answer as they arrive, within bounds."""

    def __init__(self, response: httpx2.Response) -> None:
        self._is_success = response.is_success
        self._pieces: list[bytes] = []
        self._size = 0

    def takes(self, piece: bytes) -> bool:
        """Whether more is wanted behind this piece. Raises: ChatServerError for an answer without an end."""
        self._pieces.append(piece)
        self._size += len(piece)
        if self._is_success and self._size > MAX_ANSWER:
            raise invalid_answer(f"The server sent an answer of more than {MAX_ANSWER} bytes.")
        return self._is_success or self._size < MAX_ERROR

    @property
    def content(self) -> bytes:
        content = b"".join(self._pieces)
        return content if self._is_success else content[:MAX_ERROR]


def answer_of(response: httpx2.Response, source: Any = None, content: bytes = b"") -> Answer:
    return Answer(
        response.status_code, {name.lower(): value for name, value in response.headers.items()}, content, source
    )


@contextmanager
def taken(turn: Lock) -> Iterator[None]:
    """Raises: RuntimeError where somebody else has it."""
    if not turn.acquire(blocking=False):
        raise RuntimeError("This stream is being read already. Let one thread or task read it, and tell the others.")
    try:
        yield
    finally:
        turn.release()


@contextmanager
def failures() -> Iterator[None]:
    """Raises: APIConnectionError for whatever befalls a connection."""
    import httpx2

    try:
        yield
    except httpx2.TimeoutException as error:
        raise APITimeoutError(f"The server did not answer in time ({type(error).__name__}).") from error
    except (httpx2.RequestError, httpx2.StreamError) as error:
        told = str(error) or type(error).__name__
        raise APIConnectionError(f"The connection to the server failed: {told}") from error
