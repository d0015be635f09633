"""Tools: what the SDK's server is asked for: the agents, and a run of one of them.

A call is a turn like that of any other surface: hooks, credits, the session and the chat log see it. Whatever it comes
to is its result, an error too; only a tool that does not exist is an error of the protocol.
Importing this module imports the SDK.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp.types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
)
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from innkeeper.core.changes import Segment
from innkeeper.core.errors import InnkeeperError, Invalid
from innkeeper.core.events import shown_action, shown_usage
from innkeeper.core.runs import Run, StartRun
from innkeeper.http.bodies import check
from innkeeper.http.deps import caller_of, house_of
from innkeeper.http.mcp.names import tool_names
from innkeeper.http.problems import CODES, classified, facts, run_error_facts
from innkeeper.http.requests import ChatRequest
from innkeeper.http.turns import Turn, open_turn
from innkeeper.services.agents import ServedAgent
from innkeeper.services.tails import Ending
from innkeeper.version import __version__

_logger = logging.getLogger(__name__)

ENDPOINT = "/mcp"
GRACE = 5.0
"""Seconds for which a run goes on whose client has gone without saying so."""
_MODERN = "2026"
_MOST_SAID = 4096
_ARGUMENTS = {"message", "session_id"}
_INPUT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "message": {"type": "string", "minLength": 1, "description": "What to say to the agent."},
        "session_id": {
            "type": "string",
            "description": "Goes on with the conversation of that id, which a result named; a new one if omitted.",
        },
    },
    "required": ["message"],
    "additionalProperties": False,
}
_OUTPUT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "output": {"type": "string"},
        "session_id": {"type": "string"},
        "run_id": {"type": "string"},
        "status": {"type": "string"},
        "usage": {"type": ["object", "null"]},
        "actions": {"type": "array", "items": {"type": "object"}},
        "error": {"type": "object"},
    },
    "required": ["status"],  # clients hold results with `isError` to it as well, and drop those that do not fit
}


def make_server() -> Server[Any]:
    """The SDK's server. It has no state of ours: which house it serves, the request tells."""
    return Server(
        "innkeeper",
        version=__version__,
        instructions="Each tool is an agent. Pass the session_id of a result to go on with its conversation.",
        on_list_tools=_list_tools,
        on_call_tool=_call_tool,
    )


async def _list_tools(
    context: ServerRequestContext[Any, Request], params: PaginatedRequestParams | None
) -> ListToolsResult:
    house = house_of(_request_of(context))
    agents = {agent.name: agent for agent in house.agents}
    return ListToolsResult(tools=[_tool(name, agents[agent]) for name, agent in tool_names(agents).items()])


def _tool(name: str, agent: ServedAgent) -> Tool:
    told = agent.describe().description or f"Ask the agent {agent.name}."
    return Tool(name=name, title=agent.name, description=told, input_schema=_INPUT, output_schema=_OUTPUT)


async def _call_tool(context: ServerRequestContext[Any, Request], params: CallToolRequestParams) -> CallToolResult:
    request = _request_of(context)
    house = house_of(request)
    agent = tool_names(agent.name for agent in house.agents).get(params.name)
    if agent is None:
        raise MCPError(INVALID_PARAMS, f"There is no tool {params.name[:200]!r}; tools/list tells which there are.")
    try:
        turn = await open_turn(request, caller_of(request), _start(agent, params.arguments or {}, context))
        ending = await _ending(turn, context)
    except Exception as error:
        if not isinstance(error, InnkeeperError | HTTPException | ValidationError):
            _logger.error("a call over MCP failed", exc_info=error)
        return _refused(classified(error, shows_errors=house.shows_errors)[1])
    finally:
        if (opened := request.scope.get("innkeeper.turn")) is not None:
            opened.response = request.scope["innkeeper.mcp"]  # for hooks, also where one of them refused
    return _result(turn.tail.run, ending)


def _start(agent: str, arguments: dict[str, Any], context: ServerRequestContext[Any, Request]) -> StartRun:
    """Raises: Invalid, which names the argument."""
    if unknown := sorted(arguments.keys() - _ARGUMENTS):
        raise Invalid(f"{unknown[0][:100]}: is no argument; message and session_id are.", param=unknown[0][:100])
    if not isinstance(arguments.get("message"), str):
        raise Invalid("message: is required, and text.", param="message")
    body = check(ChatRequest, {**arguments, "agent_name": agent})
    is_modern = context.protocol_version >= _MODERN  # there, closing the response is how a client cancels
    called = {"mcp_session": session_of(_request_of(context)), "mcp_request": context.request_id}
    start = body.start(ENDPOINT, stream=True)
    return replace(start, on_disconnect="cancel", grace=0.0 if is_modern else GRACE, request=called)


def session_of(request: Request) -> str | None:
    """What the client was given to name itself, so that its cancellations are not taken for another's."""
    return request.headers.get("mcp-session-id")


async def _ending(turn: Turn, context: ServerRequestContext[Any, Request]) -> Ending:
    """The end of the run, which is told as it goes on, if the client wants that.

    Raises: ShuttingDown, StorageUnavailable.
    """
    reading, seen = turn.watch(), 0
    try:
        while (batch := await reading.next()) is not None:
            if context.meta and context.meta.get("progress_token") is not None:
                seen += sum(segment.count for segment in batch)
                await context.session.report_progress(seen, None, _told(batch))
        return await turn.services.runs.result(turn.tail, lambda: False)
    finally:
        reading.close()


def _told(batch: Sequence[Segment]) -> str | None:
    """What happened, in words for people: what the agent said, and which tools it called."""
    words = []
    for segment in batch:
        for payload in segment.payloads():
            event = json.loads(payload)
            if event["type"] == "text":
                words.append(event["content"])
            elif event["type"] == "tool_call":
                words.append(f"[{event['tool_name']}]")
    return "".join(words)[:_MOST_SAID] or None


def _result(run: Run, ending: Ending) -> CallToolResult:
    told: dict[str, Any] = {
        "output": ending.output,
        "session_id": run.session_id,
        "run_id": run.id,
        "status": ending.status,
        "usage": shown_usage(ending.usage),
    }
    if ending.status == "completed":
        return CallToolResult(content=[TextContent(type="text", text=ending.output)], structured_content=told)
    if ending.status == "requires_action":
        actions = [shown_action(action) for action in ending.actions]
        names = ", ".join(action.name for action in ending.actions)
        text = (
            f"The run {run.id} waits for people: {names}. It goes on once POST /runs/{run.id}/resume has their answers;"
            f" GET /runs/{run.id} then tells how it ended."
        )
        return CallToolResult(
            content=[TextContent(type="text", text=text)], structured_content={**told, "actions": actions}
        )
    error = run_error_facts(ending.error) if ending.error else facts(CODES["CANCELLED"], "The run was cancelled.")
    return _refused(error, told)


def _refused(error: dict[str, Any], told: dict[str, Any] | None = None) -> CallToolResult:
    text = f"{error['code']}: {error['message']}"
    return CallToolResult(
        content=[TextContent(type="text", text=text)],
        structured_content={"status": "failed", **(told or {}), "error": error},
        is_error=True,
    )


def _request_of(context: ServerRequestContext[Any, Request]) -> Request:
    assert context.request is not None, "it came over HTTP"
    return context.request
