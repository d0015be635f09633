"""Engines over HTTP: make, list, execute and remove them. Executing one is a turn like any other, in its session."""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import Annotated, Any, Literal

import msgspec
from fastapi import Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, field_validator

from innkeeper.core.engines import CONFIGURABLE, Engine, EngineStatus
from innkeeper.core.errors import (
    AgentFailed,
    AgentNotFound,
    EngineNotFound,
    Forbidden,
    IdempotencyMismatch,
    Invalid,
    PayloadTooLarge,
    RunConflict,
    SessionNotFound,
    ShuttingDown,
    StorageUnavailable,
    TooBusy,
    Unauthorized,
    UnsupportedMediaType,
)
from innkeeper.core.events import shown_usage
from innkeeper.core.identity import Caller
from innkeeper.core.runs import StartRun
from innkeeper.core.times import isoformat
from innkeeper.http.answers import failed, run_headers
from innkeeper.http.chat import stream
from innkeeper.http.claims import REPLAYED, claim_of
from innkeeper.http.deps import CallerDep, Limit, ServicesDep, caller_of, house_of
from innkeeper.http.problems import problems
from innkeeper.http.requests import Named, printable
from innkeeper.http.routes import needs, request_id_of, surface
from innkeeper.http.sessions import UserId
from innkeeper.http.turns import Answer, open_turn, wait_for_end
from innkeeper.http.views import TenantView, UsageView, tenant
from innkeeper.services.engines import EngineType

router = surface(prefix="/api", tags=["Control: engines"])

_MAX_CONFIGURATION = 64 * 1024
_MAX_STOPS, _MAX_STOP = 16, 1024
_LIST = problems(Unauthorized, Forbidden, SessionNotFound, Invalid, StorageUnavailable)
_ONE = problems(Unauthorized, Forbidden, EngineNotFound, Invalid, StorageUnavailable)
_CREATE = problems(
    Unauthorized, Forbidden, AgentNotFound, SessionNotFound, Invalid, IdempotencyMismatch, PayloadTooLarge,
    UnsupportedMediaType, TooBusy, StorageUnavailable,
)  # fmt: skip
_EXECUTE = problems(
    Invalid, IdempotencyMismatch, Unauthorized, Forbidden, EngineNotFound, AgentNotFound, RunConflict, PayloadTooLarge,
    UnsupportedMediaType, TooBusy, AgentFailed, ShuttingDown, StorageUnavailable,
)  # fmt: skip
_ENGINE_IN_PATH = {"name": "engine_id", "in": "path", "required": True, "schema": {"type": "string"}}
"""Told by hand, because that route takes nothing but its body and the request."""

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class Configuration(BaseModel):
    """What is asked of the model behind an engine; what is left out, or null, stays the agent's own."""

    model_config = ConfigDict(
        extra="allow",  # to be refused with the name that was meant; see `given`
        json_schema_extra={"additionalProperties": False},
    )

    temperature: Number | None = Field(default=None, ge=0, le=2)
    max_tokens: StrictInt | None = Field(default=None, ge=1, le=2**31 - 1)
    top_p: Number | None = Field(default=None, ge=0, le=1)
    stop: StrictStr | list[StrictStr] | None = None
    seed: StrictInt | None = Field(default=None, ge=-(2**63), le=2**63 - 1)
    presence_penalty: Number | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: Number | None = Field(default=None, ge=-2, le=2)
    parallel_tool_calls: StrictBool | None = None
    reasoning_effort: Annotated[StrictStr, Field(min_length=1, max_length=32)] | None = None
    allowed_tools: list[Named] | None = Field(default=None, max_length=1000)
    workflow: Named | None = None
    variables: dict[str, Any] | None = None

    @field_validator("stop")
    @classmethod
    def _can_be_found(cls, value: str | list[str] | None) -> str | list[str] | None:
        texts = [value] if isinstance(value, str) else value or ()
        if len(texts) > _MAX_STOPS or not all(0 < len(text) <= _MAX_STOP for text in texts):
            raise ValueError(f"give at most {_MAX_STOPS} texts of 1 to {_MAX_STOP} characters")
        return value

    def given(self, field: str) -> dict[str, Any]:
        """What was set, by name.

        Raises: Invalid for a name that there is not, and for more than an engine may keep; `field` is where it stood.
        """
        for name in self.model_extra or ():
            close = difflib.get_close_matches(name[:64], CONFIGURABLE, 1)
            told = f"Did you mean {close[0]!r}?" if close else f"Known are: {', '.join(CONFIGURABLE)}."
            raise _wrong(f"{field}.{name[:64]}", f"There is no such parameter. {told}")
        given = {name: value for name in CONFIGURABLE if (value := getattr(self, name)) is not None}
        if len(msgspec.json.encode(given)) > _MAX_CONFIGURATION:
            raise _wrong(field, f"It may take at most {_MAX_CONFIGURATION} bytes as JSON.")
        return given


_CONFIGURATION_SCHEMA = Configuration.model_json_schema()


def _wrong(field: str, issue: str) -> Invalid:
    return Invalid(f"{field}: {issue}", param=field, details={"field": field, "issue": issue})


class CreateEngineRequest(BaseModel):
    """An engine to make: of an agent, or of what is built in. Without a session it gets one of its own."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"engine_type": "DummyEngine", "configuration": {"temperature": 0.7}}]},
    )

    engine_type: Named = Field(description="DummyEngine, or the name of an agent; see GET /api/engine-types.")
    model_name: Named | None = Field(default=None, description="The agent's own model if omitted.")
    session_id: Named | None = None
    user_id: Named | None = Field(default=None, description="The end user of the session, or of the one that is made.")
    configuration: Configuration | None = None

    _checked_names = field_validator("engine_type", "model_name", "session_id", "user_id")(printable)


class ExecuteEngineRequest(BaseModel):
    """What to say to an engine. `parameters` stand above its configuration, for this run only."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"prompt": "Hello, world!"}]})

    prompt: StrictStr
    parameters: Configuration | None = None
    stream: StrictBool | None = Field(
        default=None, description="Answer with Server-Sent Events; if omitted, as the Accept header asks."
    )
    when_busy: Literal["queue", "reject", "interrupt", "steer"] = "queue"
    on_disconnect: Literal["continue", "cancel"] = "continue"
    grace: float = Field(default=0, strict=True, ge=0, le=3600, allow_inf_nan=False, description="Seconds.")
    metadata: dict[str, Any] = Field(default_factory=dict)

    @field_validator("prompt")
    @classmethod
    def _not_blank(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("must not be blank")
        return value


class EngineView(TenantView):
    """An engine; `last_run_id` is the run that its status comes from."""

    engine_id: str
    engine_type: str
    model_name: str | None
    status: EngineStatus
    session_id: str
    user_id: str
    configuration: dict[str, Any]
    last_run_id: str | None
    created_at: str

    @classmethod
    def of(cls, engine: Engine, caller: Caller) -> EngineView:
        return cls(
            engine_id=engine.id,
            engine_type=engine.engine_type,
            model_name=engine.model_name,
            status=engine.status,
            session_id=engine.session_id,
            user_id=engine.user_id,
            configuration=dict(engine.configuration),
            last_run_id=engine.last_run_id,
            created_at=isoformat(engine.created_at),
            **tenant(engine.owner, caller),
        )


class EngineList(BaseModel):
    engines: list[EngineView]
    has_more: bool


class EngineTypeView(BaseModel):
    """What an engine can be made of. `models` are the names that `model_name` may be; null where any will do."""

    engine_type: str
    description: str
    model: str | None
    models: list[str] | None
    configuration: dict[str, Any]

    @classmethod
    def of(cls, told: EngineType) -> EngineTypeView:
        models = None if told.models is None else list(told.models)
        return cls(
            engine_type=told.name,
            description=told.description,
            model=told.model,
            models=models,
            configuration=_CONFIGURATION_SCHEMA,
        )


class EngineTypeList(BaseModel):
    engine_types: list[EngineTypeView]


class Execution(BaseModel):
    """What an engine answered; `usage` is null where the agent reported none."""

    engine_id: str
    run_id: str
    session_id: str
    trace_id: str
    status: Literal["completed"] = "completed"
    result: str
    usage: UsageView | None


@router.get("/engine-types", responses=problems(Unauthorized, Forbidden), openapi_extra=needs("control:read"))
async def list_engine_types(services: ServicesDep) -> EngineTypeList:
    """What engines can be made of: `DummyEngine`, and each registered agent."""
    return EngineTypeList(engine_types=[EngineTypeView.of(told) for told in services.engines.types()])


@router.post("/engines", status_code=201, responses=_CREATE, openapi_extra=needs("control:write"))
async def create_engine(
    body: CreateEngineRequest, request: Request, response: Response, caller: CallerDep, services: ServicesDep
) -> EngineView:
    """Make an engine."""
    engine, is_repeated = await services.engines.create(
        caller,
        engine_type=body.engine_type,
        model_name=body.model_name,
        session_id=body.session_id,
        user_id=body.user_id,
        configuration=_given(body.configuration, "configuration"),
        claim=claim_of(request, request.scope["innkeeper.body"]),
    )
    if is_repeated:
        response.headers[REPLAYED] = "true"
    return EngineView.of(engine, caller)


@router.get("/engines", responses=_LIST, openapi_extra=needs("control:read"))
async def list_engines(
    caller: CallerDep,
    services: ServicesDep,
    session_id: str | None = None,
    user_id: UserId = None,
    status: EngineStatus | None = None,
    limit: Limit = 50,
    after: Annotated[str | None, Query(description="The id of the last engine of the page before.")] = None,
) -> EngineList:
    """Your engines, newest first; everybody's, for an admin."""
    page, has_more = await services.engines.page(
        caller, limit=limit, after=after, session_id=session_id, user_id=user_id, status=status
    )
    return EngineList(engines=[EngineView.of(engine, caller) for engine in page], has_more=has_more)


@router.get("/engines/{engine_id}", responses=_ONE, openapi_extra=needs("control:read"))
async def get_engine(engine_id: str, caller: CallerDep, services: ServicesDep) -> EngineView:
    """One engine, with the status that its last run gives it."""
    return EngineView.of(await services.engines.get(caller, engine_id), caller)


@router.delete("/engines/{engine_id}", status_code=204, responses=_ONE, openapi_extra=needs("control:write"))
async def delete_engine(engine_id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """Remove an engine. Its session stays, and so does a run of it that is under way."""
    await services.engines.delete(caller, engine_id)
    return Response(status_code=204)


@router.post(
    "/engines/{engine_id}/execute",
    response_model=Execution,
    responses={200: {"content": {"text/event-stream": {}}, "description": "What it said, or its events."}, **_EXECUTE},
    openapi_extra={**needs("control:write"), "parameters": [_ENGINE_IN_PATH]},
)
async def execute_engine(body: ExecuteEngineRequest, request: Request) -> Response:
    """Say something to an engine and get its answer; with `stream`, the events of the run as SSE."""
    caller, services = caller_of(request), await house_of(request).ready()
    engine_id = request.path_params["engine_id"]
    streams = _accepts_events(request) if body.stream is None else body.stream
    if caller.sees_all:
        caller = caller.acting_for((await services.engines.get(caller, engine_id)).owner)
    start = await services.engines.start(
        caller, engine_id, body.prompt, _given(body.parameters, "parameters"), stream=streams
    )
    turn = await open_turn(request, caller, _as_wished(start, body))
    if streams:
        return stream(turn)
    ending = await wait_for_end(turn, request.receive)
    if ending.status != "completed":
        return failed(turn, ending, request_id_of(request.scope))
    run, usage = turn.tail.run, shown_usage(ending.usage)
    told = Execution(
        engine_id=engine_id,
        run_id=run.id,
        session_id=run.session_id,
        trace_id=run.trace_id,
        result=ending.output,
        usage=None if usage is None else UsageView(**usage),
    )
    return Answer(turn, told.model_dump_json().encode(), headers=run_headers(turn))


def _given(configuration: Configuration | None, field: str) -> dict[str, Any]:
    return {} if configuration is None else configuration.given(field)


def _accepts_events(request: Request) -> bool:
    accepted = request.headers.get("accept", "").lower()
    return "text/event-stream" in accepted and "application/json" not in accepted


def _as_wished(start: StartRun, body: ExecuteEngineRequest) -> StartRun:
    return replace(
        start,
        metadata=body.metadata,
        on_disconnect=body.on_disconnect,
        grace=body.grace,
        when_busy=body.when_busy,
    )
