"""Tools of a session, as source code: registered, listed, executed in the sandbox, and unregistered."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field

from innkeeper.core.errors import (
    CodeExecutionDisabled,
    CommandFailed,
    Forbidden,
    IdempotencyMismatch,
    Invalid,
    PayloadTooLarge,
    SessionNotFound,
    SourceRejected,
    StorageUnavailable,
    TooBusy,
    ToolConflict,
    ToolNotFound,
    Unauthorized,
    UnsupportedMediaType,
)
from innkeeper.core.sources import ToolDeclaration
from innkeeper.core.times import isoformat
from innkeeper.http.claims import REPLAYED, claim_of
from innkeeper.http.deps import CallerDep, ServicesDep
from innkeeper.http.problems import problems
from innkeeper.http.routes import needs, surface
from innkeeper.http.sessions import UserId
from innkeeper.services.source_code import Where

router = surface(prefix="/api/sessions/{session_id}/tools", tags=["Control: tools"])

_READS = problems(Unauthorized, Forbidden, SessionNotFound, ToolNotFound, Invalid, StorageUnavailable)
ToolName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$", strict=True)]


class NewTool(BaseModel):
    """A tool. `parameters` is a JSON schema of an object, or its properties alone."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "get_weather",
                    "description": "Get weather information for a location",
                    "parameters": {"location": {"type": "string", "description": "City name"}},
                    "function_code": "async def get_weather(location: str):\n    return f'Sunny in {location}'",
                }
            ]
        }
    )

    name: ToolName
    description: Annotated[str, Field(max_length=4096)] = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    function_code: str


class ToolView(BaseModel):
    name: str
    description: str
    parameters: dict[str, Any]
    session_id: str
    created_at: str

    @classmethod
    def of(cls, tool: ToolDeclaration, session_id: str) -> ToolView:
        return cls(
            name=tool.name,
            description=tool.description,
            parameters=dict(tool.parameters),
            session_id=session_id,
            created_at=isoformat(tool.created_at),
        )


class ToolList(BaseModel):
    tools: list[ToolView]
    total: int


class ToolCallRequest(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"arguments": {"location": "Melbourne"}}]})

    arguments: dict[str, Any] = Field(default_factory=dict)


class ToolCallResult(BaseModel):
    tool_name: str
    result: Any = None


@router.post(
    "",
    status_code=201,
    responses=problems(
        Unauthorized, CodeExecutionDisabled, SessionNotFound, ToolConflict, Invalid, SourceRejected,
        IdempotencyMismatch, PayloadTooLarge, UnsupportedMediaType, TooBusy, StorageUnavailable,
    ),
    openapi_extra=needs("control:write"),
)  # fmt: skip
async def register_tool(
    session_id: str,
    body: NewTool,
    request: Request,
    response: Response,
    caller: CallerDep,
    services: ServicesDep,
    user_id: UserId = None,
) -> ToolView:
    """Register a tool, for this session's agents from their next run on. Its source is parsed and not run."""
    session = await services.sessions.get(caller, session_id, user_id)
    tool, is_repeated = await services.control.code.add_tool(
        caller,
        session,
        name=body.name,
        description=body.description,
        parameters=body.parameters,
        source=body.function_code,
        claim=claim_of(request, request.scope["innkeeper.body"]),
    )
    if is_repeated:
        response.headers[REPLAYED] = "true"
    return ToolView.of(tool, session.id)


@router.get("", responses=_READS, openapi_extra=needs("control:read"))
async def list_tools(session_id: str, caller: CallerDep, services: ServicesDep, user_id: UserId = None) -> ToolList:
    """The tools that are registered in this session."""
    session = await services.sessions.get(caller, session_id, user_id)
    tools = await services.control.code.tools(session)
    return ToolList(tools=[ToolView.of(tool, session.id) for tool in tools], total=len(tools))


@router.post(
    "/{tool_name}/execute",
    responses={
        **_READS,
        **problems(
            CodeExecutionDisabled, ToolNotFound, Invalid, CommandFailed, PayloadTooLarge, UnsupportedMediaType, TooBusy
        ),
    },
    openapi_extra=needs("control:write"),
)
async def execute_tool(
    session_id: str,
    tool_name: str,
    body: ToolCallRequest,
    caller: CallerDep,
    services: ServicesDep,
    user_id: UserId = None,
) -> ToolCallResult:
    """Call a tool and wait for what it returns. One that raises, or exceeds a limit, answers 422."""
    session = await services.sessions.get(caller, session_id, user_id)
    where = Where(session.owner, session.key, session.id)
    return ToolCallResult(
        tool_name=tool_name, result=await services.control.code.call_tool(where, tool_name, body.arguments)
    )


@router.delete(
    "/{tool_name}",
    status_code=204,
    responses={**_READS, **problems(CodeExecutionDisabled)},
    openapi_extra=needs("control:write"),
)
async def unregister_tool(
    session_id: str, tool_name: str, caller: CallerDep, services: ServicesDep, user_id: UserId = None
) -> Response:
    """Forget a tool."""
    session = await services.sessions.get(caller, session_id, user_id)
    await services.control.code.remove_tool(caller, session, tool_name)
    return Response(status_code=204)
