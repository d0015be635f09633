"""Routes: FastAPI routes that pass the gate, answer errors in the one body, and say how long they took.

A handler with nothing but a body model and the request (`Fast`) skips dependency solving; its declaration still
makes the OpenAPI document. Our errors are handled here, so routes of a user's own are left untouched.
Invariant: every route declares a permission; one that does not cannot be constructed.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, get_type_hints

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.utils import create_model_field
from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from innkeeper.core.context import set_request_id
from innkeeper.core.errors import MethodNotAllowed, PayloadTooLarge, RateLimited, Unparsable, UnsupportedMediaType
from innkeeper.http.allowances import allowance_headers
from innkeeper.http.bodies import check, parse_json, read_body, replayed
from innkeeper.http.bounds import timed
from innkeeper.http.deps import House, house_in
from innkeeper.http.gates import PERMISSIONS, PUBLIC, Pending
from innkeeper.http.problems import ErrorBody, answer, invalid, problems
from innkeeper.http.refusals import told
from innkeeper.http.trails import telling

Handler = Callable[..., Awaitable[Any]]
_REQUEST_ID_MAX = 128
_CLIENT_LEFT = 499


def needs(permission: str) -> dict[str, Any]:
    """Declares a route's permission: `openapi_extra=needs("sessions:read")`."""
    if permission != PUBLIC and permission not in PERMISSIONS:
        raise ValueError(f"{permission!r} is not a permission; see innkeeper.http.gates.PERMISSIONS")
    return {"x-permission": permission}


def request_id_of(scope: Scope) -> str:
    """The client's `X-Request-ID` if it is harmless, else a new one; the same for the whole request."""
    known: str | None = scope.get("innkeeper.request_id")
    if known is None:
        house: House = scope["app"].state.innkeeper
        sent = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        text = sent.decode("latin-1")
        is_harmless = 0 < len(text) <= _REQUEST_ID_MAX and text.isascii() and text.isprintable()
        known = scope["innkeeper.request_id"] = text if is_harmless else house.new_id()
    return known


def stamped(scope: Scope, send: Send) -> Send:
    """`send` that adds `X-Request-ID`, `X-Response-Time` and what is left of a rate to the response's head."""
    began = time.perf_counter()
    request_id = request_id_of(scope).encode()

    async def stamp(message: Message) -> None:
        if message["type"].endswith("http.response.start"):  # also of a WebSocket that is refused
            scope["innkeeper.has_begun"] = True
            scope["innkeeper.status"] = message["status"]
            took = f"{(time.perf_counter() - began) * 1000:.2f}ms".encode()
            headers = message.setdefault("headers", [])
            ours = [(b"x-request-id", request_id), (b"x-response-time", took)]
            message["headers"] = [*headers, *ours, *allowance_headers(scope)]
        await send(message)

    return stamp


class SurfaceRoute(APIRoute):
    """One route of ours."""

    def __init__(self, path: str, endpoint: Handler, **options: Any) -> None:
        self.is_openai = path.startswith(("/v1", "/atoms"))
        told = _documented(options, self.is_openai, takes_body=_takes_body(endpoint))
        super().__init__(path, endpoint, **{**options, "responses": _without_errors(told)})
        self.responses = told
        self.response_fields |= {code: _ERRORS for code, shown in told.items() if _is_of_errors(shown)}
        permission = (self.openapi_extra or {}).get("x-permission")
        if permission is None:
            raise TypeError(f"{path}: declare who may call it with openapi_extra=needs(...)")
        self.permission = str(permission)
        self._fast_model = _fast_model(endpoint)

    @property
    def is_fast(self) -> bool:
        """Whether the handler needs nothing of FastAPI's."""
        return self._fast_model is not None

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        house = house_in(scope)
        receive, send = timed(house.bounds, scope, receive, send)
        request = Request(scope, receive, send)
        send = stamped(scope, send)
        set_request_id(scope["innkeeper.request_id"])
        began = time.perf_counter()
        try:
            caller = house.gate.admit(scope, self.permission, self.path)
            scope["innkeeper.caller"] = await caller if isinstance(caller, Pending) else caller
            send = telling(scope, send, house, self.path)
            if self.methods and scope["method"] not in self.methods:
                raise MethodNotAllowed(scope.get("innkeeper.methods") or self.methods)
            if self._fast_model is None:
                await self._solve(scope, receive, send, house)
            else:
                # It is kept for hooks, which may read it too.
                request._body = await read_body(scope, receive, house.bounds.chat_body_bytes)
                body = check(self._fast_model, parse_json(request._body))
                response = await self.endpoint(body, request)
                await response(scope, receive, send)
        except ClientDisconnect:
            return
        except Exception as error:
            if scope.get("innkeeper.has_begun"):
                raise
            response = self._problem(await told(error, self.permission, scope, self.path, house), scope, house)
            if (turn := scope.get("innkeeper.turn")) is not None:
                turn.response = response
                if turn.started is not None:
                    response.headers["x-should-retry"] = "false"  # the agent is at work already
            await response(scope, receive, send)
        finally:
            status = scope.get("innkeeper.status", _CLIENT_LEFT)
            house.meter.answered(scope["method"], self.path, status, time.perf_counter() - began)
            if (turn := scope.pop("innkeeper.turn", None)) is not None:
                await turn.finish()

    async def _solve(self, scope: Scope, receive: Receive, send: Send, house: House) -> None:
        """FastAPI's own way to the endpoint, with its exceptions let through to us."""
        if self.body_field is not None:
            body = scope["innkeeper.body"] = await read_body(scope, receive, house.bounds.body_bytes)
            parse_json(body)
            receive = replayed(body, receive)
        scope["starlette.exception_handlers"] = ({}, {})
        await super().handle(scope, receive, send)

    def _problem(self, error: Exception, scope: Scope, house: House) -> Response:
        if isinstance(error, RequestValidationError):
            error = invalid(error.errors())
        return answer(error, request_id_of(scope), is_openai=self.is_openai, shows_errors=house.shows_errors)


def _documented(options: Mapping[str, Any], is_openai: bool, *, takes_body: bool) -> dict[int | str, Any]:
    """The responses that the document shows: any error has the one body, and OpenAI's clients expect 400 for 422."""
    responses = {
        **_OF_ALL,
        **(_OF_BODIES if takes_body else {}),
        **(options.get("responses") or {}),
        "default": {"model": ErrorBody, "description": "Any other error."},
    }
    if is_openai and (invalid := responses.pop(422, None)) is not None:
        responses.setdefault(400, invalid)
    return responses


def _is_of_errors(shown: Mapping[str, Any]) -> bool:
    return shown.get("model") is ErrorBody


def _without_errors(told: Mapping[int | str, dict[str, Any]]) -> dict[int | str, dict[str, Any]]:
    """The responses without the one body, which FastAPI would build anew for each status of each route."""
    return {
        code: {name: value for name, value in shown.items() if name != "model"} if _is_of_errors(shown) else shown
        for code, shown in told.items()
    }


_ERRORS = create_model_field("ErrorBody", ErrorBody, mode="serialization")
_OF_ALL = problems(RateLimited)
"""What any route may answer."""

_OF_BODIES = problems(Unparsable, PayloadTooLarge, UnsupportedMediaType)
"""What any route with a body may answer, whatever it does with it."""


def _takes_body(endpoint: Handler) -> bool:
    """Whether a parameter is a model; those of queries are annotated with more."""
    hints = get_type_hints(endpoint, include_extras=True)
    return any(
        inspect.isclass(hint) and issubclass(hint, BaseModel) for name, hint in hints.items() if name != "return"
    )


def _fast_model(endpoint: Handler) -> type[BaseModel] | None:
    """The body model of an endpoint `(body, request)`; `None` where FastAPI must solve more."""
    parameters = list(inspect.signature(endpoint).parameters)
    if len(parameters) != 2:
        return None
    hints = get_type_hints(endpoint)
    model, request = (hints.get(name) for name in parameters)
    if request is Request and inspect.isclass(model) and issubclass(model, BaseModel):
        return model
    return None


def surface(*, prefix: str = "", tags: list[str]) -> APIRouter:
    """A router whose routes are ours."""
    return APIRouter(prefix=prefix, tags=list(tags), route_class=SurfaceRoute)
