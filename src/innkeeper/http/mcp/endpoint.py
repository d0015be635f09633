"""The route of MCP: what the gate let in is one JSON-RPC message, which the SDK answers.

Bounds, credentials, rates and permissions are answered before, in the one error body; what is no message of JSON-RPC is
answered in the protocol's own. A message that cancels a call is acted upon here, because the call may run in another
process: it is found among its caller's runs by what the client called it.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import secrets
from dataclasses import replace
from typing import Any

from fastapi import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from innkeeper.core.errors import (
    Forbidden,
    PayloadTooLarge,
    RouteNotFound,
    Unauthorized,
    Unparsable,
    UnsupportedMediaType,
)
from innkeeper.core.identity import Caller, Role
from innkeeper.core.runs import Run, RunStatus
from innkeeper.http.bodies import parse_json, read_body, replayed
from innkeeper.http.deps import MAX_PAGE, Services, caller_of, house_of
from innkeeper.http.problems import problems
from innkeeper.http.routes import needs, surface

router = surface(tags=["MCP"])

PATH = "/mcp"
SESSION = b"mcp-session-id"
_PARSE_ERROR, _INVALID_REQUEST = -32700, -32600
_BODY = {"application/json": {"schema": {"type": "object", "description": "A JSON-RPC request or notification."}}}
_DESCRIBED: dict[str, Any] = {"requestBody": {"content": _BODY, "required": True}}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}, "application/json": {}}, "description": "The answer, in JSON-RPC."},
    202: {"description": "A notification has been taken."},
    400: {"content": {"application/json": {}}, "description": "The body is no message, told in JSON-RPC."},
    406: {"content": {"text/plain": {}}, "description": "`Accept` must name application/json and text/event-stream."},
}


@router.post(
    PATH,
    responses={**problems(Unauthorized, Forbidden, RouteNotFound, PayloadTooLarge, UnsupportedMediaType), **_ANSWERS},
    openapi_extra={**needs("runs:write"), **_DESCRIBED},
)
async def mcp(request: Request) -> Response:
    """The agents as tools, for clients of the Model Context Protocol (streamable HTTP, without sessions)."""
    sdk = await _sdk()
    house = house_of(request)
    body = await read_body(request.scope, request.receive, house.bounds.chat_body_bytes)
    try:
        message = parse_json(body)
    except Unparsable as error:
        return _error(_PARSE_ERROR, error.message)
    if not _is_message(message):
        return _error(_INVALID_REQUEST, "The body must be one request or notification of JSON-RPC 2.0, and no batch.")
    if message["method"] == "notifications/cancelled":
        await _cancel(await house.ready(), caller_of(request), request, message.get("params") or {})
        return Response(status_code=202)
    return _Exchange(sdk, body, message, house.heartbeat_seconds)


async def _sdk() -> Any:
    """What hands requests to the SDK, which takes a second to import.

    Raises: RouteNotFound where it is not installed.
    """
    try:
        return await asyncio.to_thread(importlib.import_module, "innkeeper.http.mcp.exchanges")
    except ImportError as error:
        if not (error.name or "").startswith("mcp"):
            raise
        raise RouteNotFound("Agents are offered over MCP where the SDK is: pip install 'innkeeper[mcp]'") from error


def _is_message(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.get("jsonrpc") == "2.0"
        and isinstance(value.get("method"), str)
        and isinstance(value.get("params", {}), dict)
        and ("id" not in value or _is_id(value["id"]))
    )


def _is_id(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool))


def _error(code: int, told: str) -> Response:
    body = {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": told}}
    return Response(json.dumps(body), 400, media_type="application/json")


async def _cancel(services: Services, caller: Caller, request: Request, params: dict[str, Any]) -> None:
    """Cancel the caller's run that this client called so; one that has ended is left alone."""
    session, called = request.headers.get(SESSION.decode()), params.get("requestId")
    if session is None or not _is_id(called):
        return
    own = replace(caller, role=Role.USER)  # an admin sees everybody's runs, and called only its own
    for status in (RunStatus.QUEUED, RunStatus.RUNNING):  # in the order of a run's life, which goes on meanwhile
        if (run := await _called(services, own, status, session, called)) is not None:
            await services.runs.cancel(caller, run.id)
            return


async def _called(services: Services, caller: Caller, status: RunStatus, session: str, called: object) -> Run | None:
    """The caller's run of this status that this client called so, however many others there are."""
    after, has_more = None, True
    while has_more:
        runs, has_more = await services.runs.page(caller, limit=MAX_PAGE, after=after, status=status)
        for run in runs:
            asked = run.request or {}
            if asked.get("mcp_session") == session and asked.get("mcp_request") == called:
                return run
        after = runs[-1].id if runs else None
    return None


class _Exchange(Response):
    """One message and its answer, whole or as a stream."""

    def __init__(self, sdk: Any, body: bytes, message: dict[str, Any], heartbeat: float) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({"cache-control": "no-cache"})
        self._sdk = sdk
        self._body = body
        self._message = message
        self._heartbeat = heartbeat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["innkeeper.mcp"] = self

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.status_code = message["status"]
                if self._message["method"] == "initialize" and message["status"] == 200:
                    # Nothing is kept under it: it tells this client's cancellations from another's.
                    message["headers"] = [*message["headers"], (SESSION, secrets.token_urlsafe(24).encode())]
            await send(message)

        await self._sdk.exchange(scope, replayed(self._body, receive), named, self._message, self._heartbeat)


logging.getLogger("mcp.server.streamable_http_manager").setLevel(logging.WARNING)  # it tells of each request
