"""Asking: a request, from its headers to its value, with the retries in between. It does no I/O of its own.

Every attempt at one request that makes something carries the same `Idempotency-Key`, so that the server carries it out
once, whatever became of the answers.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

from innkeeper_client.effects import Answer, Call, Exchange, Open, Program, Sleep
from innkeeper_client.exceptions import (
    APIConnectionError,
    ChatServerError,
    NotFoundError,
    error_of_answer,
    invalid_answer,
)
from innkeeper_client.requests import Request, Work
from innkeeper_client.retries import Retries
from innkeeper_client.version import __version__

T = TypeVar("T")

LONGEST_TIMEOUT = 1_000_000.0
"""Seconds; sockets know no end to come much later."""
_AGENT = f"innkeeper-client/{__version__} python/{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True, slots=True)
class Asking:
    """How one client asks. `timeout` is between two signs of life, in seconds."""

    base_url: str
    headers: Mapping[str, str] = field(repr=False)
    timeout: float | None
    retries: Retries

    def ask(self, request: Request[T], retries: Retries | None = None) -> Program[T]:
        """Raises: what the server answers, as a ChatServerError; APIConnectionError."""
        call, tried = self.call(request), 0
        while True:
            try:
                answer: Answer = yield Exchange(call)
                if answer.is_success:
                    return request.read(_value(answer))
                error: ChatServerError = error_of_answer(answer.status, answer.headers, answer.content)
            except APIConnectionError as failure:
                error = failure
            if tried and isinstance(error, NotFoundError) and request.method == "DELETE":
                return request.read(None)  # an earlier attempt has removed it, and its answer was lost
            yield self._pause(error, tried, retries or self.retries)
            tried += 1

    def open(self, request: Request[Any]) -> Program[Answer]:
        """The same for a request that is answered with a stream: its answer, with the `source`."""
        call, tried = self.call(request, accept="text/event-stream"), 0
        while True:
            try:
                return (yield from self.open_once(call))
            except ChatServerError as error:
                yield self._pause(error, tried, self.retries)
            tried += 1

    def open_once(self, call: Call) -> Program[Answer]:
        answer: Answer = yield Open(call)
        if answer.source is not None:
            return answer
        if answer.is_success:
            raise invalid_answer("The server answered without a stream.", answer.content.decode(errors="replace"))
        raise error_of_answer(answer.status, answer.headers, answer.content)

    def do(self, work: Work[T]) -> Program[T]:
        """Several requests."""
        result: Any = None
        try:
            while True:
                step = work.send(result)
                if isinstance(step, Request):
                    result = yield from self.ask(step)
                else:
                    result = yield step
        except StopIteration as stop:
            value: T = stop.value
            return value

    def call(self, request: Request[Any], accept: str = "application/json") -> Call:
        """The request as it goes out."""
        headers = {"accept": accept, "user-agent": _AGENT, **self.headers}
        content = request.content
        if content is not None:
            headers["content-type"] = "application/json"
        if request.makes_something:
            headers["idempotency-key"] = os.urandom(16).hex()
        timeout = None if self.timeout is None else self.timeout + request.patience
        return Call(request.method, self.base_url + request.target, headers, content, timeout)

    def _pause(self, error: ChatServerError, tried: int, retries: Retries) -> Sleep:
        delay = retries.delay(error, tried)
        if delay is None:
            raise error
        return Sleep(delay)


def asking(base_url: str, api_key: str | None, timeout: float | None, max_retries: int, backoff: float) -> Asking:
    """Raises: ValueError that names what cannot be used."""
    url = base_url.rstrip("/")
    if not _is_address(url):
        raise ValueError(f"base_url: {base_url!r} is not the address of a server, such as http://localhost:3284")
    if urlsplit(url).username is not None:
        raise ValueError("base_url: leave the user and the password out; give a token as api_key")
    if api_key is not None and not (api_key.isascii() and api_key.isprintable() and api_key.strip()):
        raise ValueError("api_key: an API key is printable ASCII, without line breaks")
    if timeout is not None and not 0 < timeout <= LONGEST_TIMEOUT:
        raise ValueError(f"timeout: give seconds, more than 0, at most {LONGEST_TIMEOUT:.0f}, or None to wait for ever")
    if max_retries < 0 or not backoff >= 0:
        raise ValueError("max_retries and backoff may not be negative")
    headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
    return Asking(url, headers, timeout, Retries(max_retries, backoff))


def _is_address(url: str) -> bool:
    if not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        return (
            parts.scheme in ("http", "https")
            and all(0 < len(label) < 64 for label in (parts.hostname or "").removesuffix(".").split("."))
            and parts.port != 0
            and not (parts.query or parts.fragment)
        )
    except ValueError:  # a port, or an address in brackets, that is none
        return False


def _value(answer: Answer) -> Any:
    if not answer.content:
        return None
    try:
        return json.loads(answer.content)
    except (ValueError, RecursionError):
        text = answer.content.decode(errors="replace")
        raise invalid_answer("The server's answer is not JSON. Is base_url that of an Innkeeper?", text) from None
