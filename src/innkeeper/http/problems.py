"""Problems: the one table from errors to statuses and codes, and the one body that every kind of client reads."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, NamedTuple

import msgspec
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from innkeeper.core import errors
from innkeeper.core.runs import RunError

_logger = logging.getLogger(__name__)


class Problem(NamedTuple):
    """`retry` becomes `x-should-retry`: false where the effect may have happened already."""

    status: int
    code: str
    type: str
    retry: bool | None = None


PROBLEMS: Mapping[type[BaseException], Problem] = {
    errors.Invalid: Problem(422, "VALIDATION_ERROR", "invalid_request_error"),
    errors.Unparsable: Problem(400, "VALIDATION_ERROR", "invalid_request_error"),
    errors.Unsupported: Problem(400, "VALIDATION_ERROR", "invalid_request_error"),
    errors.NotFound: Problem(404, "NOT_FOUND", "not_found_error"),
    errors.AgentNotFound: Problem(404, "AGENT_NOT_FOUND", "not_found_error"),
    errors.SessionNotFound: Problem(404, "SESSION_NOT_FOUND", "not_found_error"),
    errors.RunNotFound: Problem(404, "RUN_NOT_FOUND", "not_found_error"),
    errors.PreviousRunNotFound: Problem(400, "previous_response_not_found", "invalid_request_error"),
    errors.InjectionNotFound: Problem(404, "INJECTION_NOT_FOUND", "not_found_error"),
    errors.CommandNotFound: Problem(404, "COMMAND_NOT_FOUND", "not_found_error"),
    errors.EventNotFound: Problem(404, "EVENT_NOT_FOUND", "not_found_error"),
    errors.EngineNotFound: Problem(404, "ENGINE_NOT_FOUND", "not_found_error"),
    errors.ActionNotFound: Problem(404, "ACTION_NOT_FOUND", "not_found_error"),
    errors.ToolNotFound: Problem(404, "TOOL_NOT_FOUND", "not_found_error"),
    errors.HandlerNotFound: Problem(404, "HANDLER_NOT_FOUND", "not_found_error"),
    errors.TraceNotFound: Problem(404, "TRACE_NOT_FOUND", "not_found_error"),
    errors.TokenNotFound: Problem(404, "TOKEN_NOT_FOUND", "not_found_error"),
    errors.AdminNotFound: Problem(404, "ADMIN_NOT_FOUND", "not_found_error"),
    errors.BalanceNotFound: Problem(404, "BALANCE_NOT_FOUND", "not_found_error"),
    errors.FileMissing: Problem(404, "FILE_NOT_FOUND", "not_found_error"),
    errors.RouteNotFound: Problem(404, "NOT_FOUND", "not_found_error"),
    errors.MethodNotAllowed: Problem(405, "METHOD_NOT_ALLOWED", "invalid_request_error"),
    errors.NoDefaultAgent: Problem(400, "NO_DEFAULT_AGENT", "invalid_request_error"),
    errors.NoAgents: Problem(503, "NO_AGENTS", "server_error", False),
    errors.Unauthorized: Problem(401, "UNAUTHORIZED", "authentication_error"),
    errors.Forbidden: Problem(403, "FORBIDDEN", "permission_error"),
    errors.ForeignHost: Problem(421, "MISDIRECTED_REQUEST", "invalid_request_error"),
    errors.PayloadTooLarge: Problem(413, "PAYLOAD_TOO_LARGE", "invalid_request_error"),
    errors.UnsupportedMediaType: Problem(415, "UNSUPPORTED_MEDIA_TYPE", "invalid_request_error"),
    errors.HeadersTooLarge: Problem(431, "HEADERS_TOO_LARGE", "invalid_request_error"),
    errors.RequestTooSlow: Problem(408, "REQUEST_TIMEOUT", "invalid_request_error", True),
    errors.AddressTooLong: Problem(414, "URI_TOO_LONG", "invalid_request_error"),
    errors.QuotaExceeded: Problem(413, "QUOTA_EXCEEDED", "insufficient_quota", False),
    errors.PreconditionFailed: Problem(412, "PRECONDITION_FAILED", "invalid_request_error", False),
    errors.RangeNotSatisfiable: Problem(416, "RANGE_NOT_SATISFIABLE", "invalid_request_error"),
    errors.InsufficientCredits: Problem(402, "INSUFFICIENT_CREDITS", "insufficient_quota", False),
    errors.AdminConflict: Problem(409, "ADMIN_CONFLICT", "conflict_error", False),
    errors.LastAdmin: Problem(409, "LAST_ADMIN", "conflict_error", False),
    errors.AgentNotInitialized: Problem(409, "AGENT_NOT_INITIALIZED", "conflict_error", False),
    errors.ServerNotOurs: Problem(409, "SERVER_NOT_OURS", "conflict_error", False),
    errors.RunConflict: Problem(409, "RUN_CONFLICT", "conflict_error", False),
    errors.ToolConflict: Problem(409, "TOOL_CONFLICT", "conflict_error", False),
    errors.HandlerConflict: Problem(409, "HANDLER_CONFLICT", "conflict_error", False),
    errors.CodeExecutionDisabled: Problem(403, "CODE_EXECUTION_DISABLED", "permission_error"),
    errors.CommandFailed: Problem(422, "COMMAND_EXECUTION_FAILED", "command_error", False),
    errors.TooBusy: Problem(429, "RATE_LIMITED", "rate_limit_error", True),
    errors.RateLimited: Problem(429, "RATE_LIMITED", "rate_limit_error", True),
    errors.IdempotencyMismatch: Problem(422, "IDEMPOTENCY_MISMATCH", "invalid_request_error"),
    errors.AgentFailed: Problem(500, "AGENT_FAILED", "server_error", False),
    errors.AgentTimedOut: Problem(504, "AGENT_FAILED", "server_error", False),
    errors.ShuttingDown: Problem(503, "SHUTTING_DOWN", "server_error", True),
    errors.StorageUnavailable: Problem(503, "STORAGE_UNAVAILABLE", "server_error", True),
    errors.StorageFull: Problem(507, "STORAGE_FULL", "server_error", False),
    errors.SetupError: Problem(500, "INTERNAL_ERROR", "server_error", False),
    errors.InnkeeperError: Problem(500, "INTERNAL_ERROR", "server_error", False),
}
_INTERNAL = Problem(500, "INTERNAL_ERROR", "server_error", False)
_BY_STATUS = {
    400: Problem(400, "VALIDATION_ERROR", "invalid_request_error"),
    401: PROBLEMS[errors.Unauthorized],
    402: PROBLEMS[errors.InsufficientCredits],
    403: PROBLEMS[errors.Forbidden],
    404: PROBLEMS[errors.RouteNotFound],
    405: PROBLEMS[errors.MethodNotAllowed],
    408: PROBLEMS[errors.RequestTooSlow],
    409: PROBLEMS[errors.RunConflict],
    413: PROBLEMS[errors.PayloadTooLarge],
    414: PROBLEMS[errors.AddressTooLong],
    415: PROBLEMS[errors.UnsupportedMediaType],
    422: PROBLEMS[errors.Invalid],
    429: PROBLEMS[errors.TooBusy],
    431: PROBLEMS[errors.HeadersTooLarge],
    503: Problem(503, "UNAVAILABLE", "server_error"),
}
CODES = {
    **{problem.code: problem for problem in reversed(tuple(PROBLEMS.values()))},
    "INTERRUPTED": Problem(503, "INTERRUPTED", "server_error", False),
    "CANCELLED": Problem(409, "CANCELLED", "conflict_error", False),
    "ACTION_EXPIRED": Problem(409, "ACTION_EXPIRED", "conflict_error", False),
}


class ErrorFacts(BaseModel):
    """What went wrong: for programs in `code` and `param`, for people in `message`."""

    code: str
    type: str
    message: str
    param: str | None = None
    details: dict[str, Any] = {}


class ErrorBody(BaseModel):
    """The body of every error."""

    error: ErrorFacts
    detail: str
    timestamp: str
    request_id: str


def problems(*kinds: type[errors.InnkeeperError]) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route, for the OpenAPI document, from the same table as the answers."""
    told: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        problem = problem_of(kind)
        words = (kind.__doc__ or "").split("\n")[0]
        if problem.status in told:
            words = f"{told[problem.status]['description']} Or: {words}"
        told[problem.status] = {"model": ErrorBody, "description": words}
    return told


def problem_of(kind: type[BaseException]) -> Problem:
    """The row of an error's class, or of its nearest ancestor."""
    return next((PROBLEMS[base] for base in kind.__mro__ if base in PROBLEMS), _INTERNAL)


def facts(
    problem: Problem, message: str, param: str | None = None, details: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The `error` object of bodies and frames."""
    return {
        "code": problem.code,
        "type": problem.type,
        "message": message,
        "param": param,
        "details": dict(details or {}),
    }


def run_error_facts(error: RunError) -> dict[str, Any]:
    """The `error` object for a run that ended badly."""
    return facts(CODES.get(error.code, _INTERNAL), error.message)


def classified(error: BaseException, *, shows_errors: bool = False) -> tuple[Problem, dict[str, Any]]:
    """The row of any exception, and its `error` object."""
    if isinstance(error, errors.InnkeeperError) and not isinstance(error, errors.SetupError):
        problem = problem_of(type(error))
        return problem, facts(problem, error.message, error.param, error.details)
    if isinstance(error, HTTPException):
        problem = _BY_STATUS.get(error.status_code, Problem(error.status_code, "HTTP_ERROR", "api_error"))
        return problem, _rejection(problem, error.detail)
    message = "The server failed. Its log has the reason under this request_id."
    return _INTERNAL, facts(_INTERNAL, f"{type(error).__name__}: {error}" if shows_errors else message)


def _rejection(problem: Problem, detail: Any) -> dict[str, Any]:
    """The `error` object for an HTTPException, whose detail may be anything that JSON can say."""
    if isinstance(detail, str):
        return facts(problem, detail)
    details = detail if isinstance(detail, Mapping) else {"detail": detail}
    message = details.get("message")
    return facts(problem, message if isinstance(message, str) else HTTPStatus(problem.status).phrase, None, details)


def error_facts(error: BaseException) -> dict[str, Any]:
    """The `error` object of a frame."""
    return classified(error)[1]


def answer(error: BaseException, request_id: str, *, is_openai: bool = False, shows_errors: bool = False) -> Response:
    """The response to an error, whatever it is."""
    problem, told = classified(error, shows_errors=shows_errors)
    headers: Mapping[str, str] = {}
    if isinstance(error, errors.TooBusy):
        headers = {"retry-after": str(error.retry_after)}
    elif isinstance(error, errors.MethodNotAllowed):
        headers = {"allow": ", ".join(error.allowed)}
    elif isinstance(error, errors.RangeNotSatisfiable):
        headers = {"content-range": f"bytes */{error.details['size']}"}
    elif isinstance(error, HTTPException):
        headers = error.headers or {}
    elif not isinstance(error, errors.InnkeeperError) or isinstance(error, errors.SetupError):
        _logger.error("request %s failed", request_id, exc_info=error)
    if is_openai and isinstance(error, errors.Invalid | HTTPException) and problem.status == 422:
        problem = problem._replace(status=400)
    return respond(problem, told, request_id, headers)


def respond(
    problem: Problem, error: Mapping[str, Any], request_id: str, headers: Mapping[str, str] | None = None
) -> Response:
    """The response with the one body."""
    body: dict[str, Any] = {
        "error": error,
        "detail": error["message"],
        "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "request_id": request_id,
    }
    if problem.code == "SHUTTING_DOWN":
        body["status"] = "shutting_down"
    sent = dict(headers or {})
    if problem.retry is not None:
        sent["x-should-retry"] = "true" if problem.retry else "false"
    if problem.status == 401:
        sent.setdefault("www-authenticate", "Bearer")
    return Response(msgspec.json.encode(body, enc_hook=str), problem.status, sent, media_type="application/json")


def invalid(error: ValidationError | Sequence[Any]) -> errors.Invalid:
    """A schema error as ours: it names the field, says what is wrong, and never echoes the input."""
    found = error.errors(include_url=False, include_input=False) if isinstance(error, ValidationError) else error
    issues = [{"field": _path(issue["loc"]), "issue": str(issue["msg"])} for issue in found]
    first = issues[0]
    where = first["field"] or "body"
    issue = first["issue"].removeprefix("Value error, ")
    return errors.Invalid(f"{where}: {issue}", param=where, details={**first, "issue": issue, "issues": issues[:20]})


_BRANCHES = re.compile(r"(str|int|float|bool)$|(dict|list|tuple|literal|function-\w+)\[")
"""How pydantic names the branch of a union inside a location; clients know nothing of it."""


def _path(location: Sequence[Any]) -> str:
    parts = [part for part in location if part not in ("body", "query", "path", "header")]
    parts = [part for part in parts if isinstance(part, int) or not _BRANCHES.match(part)]
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else str(part))
    return text
