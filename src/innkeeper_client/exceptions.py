"""Exceptions: what a call may raise.

ChatServerError
├── APIConnectionError        the server was not reached, or the connection broke
│   └── APITimeoutError       it did not answer in time
├── BadRequestError           400, and every 4xx without a class of its own
├── UnauthorizedError         401
├── PaymentRequiredError      402
├── ForbiddenError            403
├── NotFoundError             404
├── ConflictError             409
├── RateLimitError            429
└── InternalServerError       5xx
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any


class ChatServerError(Exception):
    """Something went wrong. `status_code` is `None` where there was no answer; `body` is the answer's, as JSON or text.

    `code`, `type` and `param` are the server's own words, `param` the field that is at fault. `request_id` finds the
    request in the server's log. `headers` are the answer's, in lower case.
    """

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        code: str | None = None,
        type: str | None = None,
        param: str | None = None,
        request_id: str | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status_code = status_code
        self.code = code
        self.type = type
        self.param = param
        self.request_id = request_id
        self.body = body
        self.headers: Mapping[str, str] = {} if headers is None else headers

    @property
    def retry_after(self) -> float | None:
        """The seconds after which the server asks to be tried again, if it does."""
        exact = _number(self.headers.get("retry-after-ms"))
        if exact is not None:
            return exact / 1000
        told = self.headers.get("retry-after")
        seconds = _number(told)
        return seconds if seconds is not None or told is None else _seconds_until(told)


class APIConnectionError(ChatServerError):
    """The server could not be reached, or the connection broke before the answer was complete."""


class APITimeoutError(APIConnectionError):
    """Nothing was heard of the server for as long as `timeout` says."""


class BadRequestError(ChatServerError):
    """The request is at fault: 400, or another 4xx that has no class of its own."""


class UnauthorizedError(ChatServerError):
    """No API key, or one that opens nothing: 401."""


class PaymentRequiredError(ChatServerError):
    """The balance does not cover what this may cost: 402."""


class ForbiddenError(ChatServerError):
    """This API key does not allow it: 403."""


class NotFoundError(ChatServerError):
    """There is no such thing, or it is somebody else's: 404."""


class ConflictError(ChatServerError):
    """It does not fit what there is or what happens now: 409."""


class RateLimitError(ChatServerError):
    """Too many requests: 429. `retry_after` says when to try again."""


class InternalServerError(ChatServerError):
    """The server or the agent failed: 5xx."""


_BY_STATUS: Mapping[int, type[ChatServerError]] = {
    401: UnauthorizedError,
    402: PaymentRequiredError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    429: RateLimitError,
}
_STATUS_OF_TYPE: Mapping[str, int] = {
    "invalid_request_error": 400,
    "command_error": 400,
    "authentication_error": 401,
    "insufficient_quota": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "rate_limit_error": 429,
}
_STATUS_OF_CODE: Mapping[str, int] = {
    "VALIDATION_ERROR": 400,
    "UNAUTHORIZED": 401,
    "INSUFFICIENT_CREDITS": 402,
    "FORBIDDEN": 403,
    "CANCELLED": 409,
    "ACTION_EXPIRED": 409,
    "RUN_CONFLICT": 409,
    "RATE_LIMITED": 429,
    "INTERRUPTED": 503,
    "SHUTTING_DOWN": 503,
    "STORAGE_UNAVAILABLE": 503,
}


def kind_of(status: int) -> type[ChatServerError]:
    """The class of errors with this status."""
    if status >= 500:
        return InternalServerError
    return _BY_STATUS.get(status, BadRequestError if 400 <= status < 500 else ChatServerError)


def error_of_answer(status: int, headers: Mapping[str, str], content: bytes) -> ChatServerError:
    """The error that an answer tells, in whichever of the usual shapes its body has."""
    body = _body_of(content)
    told = body.get("error") if isinstance(body, Mapping) else None
    facts: Mapping[str, Any] = told if isinstance(told, Mapping) else {}
    message = facts.get("message") or (told if isinstance(told, str) else None)
    if message is None and isinstance(body, Mapping) and isinstance(body.get("detail"), str):
        message = body["detail"]
    return kind_of(status)(
        message if isinstance(message, str) else _answered(status, headers),
        status_code=status,
        request_id=headers.get("x-request-id"),
        body=body,
        headers=headers,
        **_words(facts),
    )


def error_of_frame(facts: Any, headers: Mapping[str, str]) -> ChatServerError:
    """The error that a stream tells; the status is that which the same error has elsewhere."""
    known: Mapping[str, Any] = facts if isinstance(facts, Mapping) else {}
    words = _words(known)
    status = _STATUS_OF_TYPE.get(words["type"] or "") or _STATUS_OF_CODE.get(words["code"] or "", 500)
    message = known.get("message")
    return kind_of(status)(
        message if isinstance(message, str) else "The run failed.",
        status_code=status,
        request_id=headers.get("x-request-id"),
        body={"error": facts},
        headers=headers,
        **words,
    )


def invalid_answer(message: str, body: Any = None) -> ChatServerError:
    """The server answered with something that is not what was asked for, as something between may."""
    return ChatServerError(message, code="INVALID_RESPONSE", body=body)


def _answered(status: int, headers: Mapping[str, str]) -> str:
    target = headers.get("location")
    if target is None or not 300 <= status < 400:
        return f"The server answered with status {status}."
    return f"The server redirects to {target[:200]!r}, which is not followed. Give base_url the server's own address."


def _words(facts: Mapping[str, Any]) -> dict[str, str | None]:
    return {name: said if isinstance(said := facts.get(name), str) else None for name in ("code", "type", "param")}


def _body_of(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return content.decode(errors="replace")


def _number(text: str | None) -> float | None:
    try:
        found = float(text or "")
    except ValueError:
        return None
    return found if 0 <= found < float("inf") else None


def _seconds_until(date: str) -> float | None:
    from email.utils import parsedate_to_datetime  # a slow import, for what servers seldom say

    try:
        moment = parsedate_to_datetime(date)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
