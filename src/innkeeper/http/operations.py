"""Operations: the operator's routes: agents made anew and looked at, and the server restarted or ended at once.

Each of an admin's is written into the audit log before it is answered; what ends the process follows the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated

from fastapi import Query, Request
from pydantic import BaseModel, ConfigDict, field_validator

from innkeeper.core.errors import (
    AgentNotFound,
    AgentNotInitialized,
    Forbidden,
    Invalid,
    NoAgents,
    NoDefaultAgent,
    PayloadTooLarge,
    ServerNotOurs,
    ShuttingDown,
    StorageUnavailable,
    Unauthorized,
    Unparsable,
    UnsupportedMediaType,
)
from innkeeper.core.times import isoformat
from innkeeper.http.bodies import check, parse_json, read_body
from innkeeper.http.contexts import now
from innkeeper.http.control.shutdowns import find_kill, find_restart
from innkeeper.http.deps import CallerDep, House, HouseDep, Services, ServicesDep
from innkeeper.http.problems import problems
from innkeeper.http.requests import Named, printable
from innkeeper.http.routes import needs, surface
from innkeeper.services.agents import ServedAgent

router = surface(tags=["Management"])

_MAX_BODY = 64 * 1024
_ANSWER_SECONDS = 0.05
_NOT_OURS = "This process is not the server's own: whoever started it has to {} it. See docs/deploy.md."


class InitializeRequest(BaseModel):
    """Which agent to make anew: the default one if omitted."""

    model_config = ConfigDict(extra="forbid")

    agent_name: Named | None = None

    _checked_name = field_validator("agent_name")(printable)


class AgentInfo(BaseModel):
    """An agent as it runs here: neither its instructions nor where it lies.

    `kind` says what hosts it. `started_at` and `uptime` (seconds) are since it was made, in this process; it has been
    made anew `initializations` times.
    """

    name: str
    description: str
    model: str | None
    tools: list[str]
    max_steps: int | None
    provider: str
    is_default: bool
    kind: str
    streams: bool
    status: str
    started_at: str
    uptime: float
    initializations: int


class AgentPrompts(BaseModel):
    """`instructions` are what the agent's model is told first; `prompts` are texts by name."""

    agent_name: str
    description: str
    instructions: str | None
    prompts: dict[str, str]


class Prompts(BaseModel):
    """The agents that have some, in order of registration."""

    prompts: list[AgentPrompts]


class Ending(BaseModel):
    status: str


def _info(house: House, services: Services, agent: ServedAgent) -> AgentInfo:
    told, age = agent.describe(), services.initializations.age(agent.name)
    return AgentInfo(
        name=agent.name,
        description=told.description,
        model=told.model,
        tools=list(told.tools),
        max_steps=told.max_steps,
        provider=told.provider,
        is_default=agent.is_default,
        kind=agent.kind,
        streams=told.streams,
        status="draining" if house.status()["is_draining"] else "running",
        started_at=isoformat(age.since),
        uptime=round((now() - age.since) / 1_000_000, 3),
        initializations=age.times,
    )


_AGENT_PROBLEMS = (Unauthorized, Forbidden, AgentNotFound, NoAgents, NoDefaultAgent)
_OF_BODIES = (Invalid, Unparsable, PayloadTooLarge, UnsupportedMediaType)
_BODY = {"content": {"application/json": {"schema": InitializeRequest.model_json_schema()}}}


@router.post(
    "/agent/initialize",
    responses=problems(*_AGENT_PROBLEMS, *_OF_BODIES, AgentNotInitialized, StorageUnavailable),
    openapi_extra={**needs("server:admin"), "requestBody": _BODY},
)
async def initialize(request: Request, caller: CallerDep, house: HouseDep, services: ServicesDep) -> AgentInfo:
    """Make an agent anew, in all processes: its file is loaded again, and so are settings and model clients.

    Runs under way keep what they began with. Where it cannot be made, the agent serves as before.
    """
    body = await read_body(request.scope, request.receive, _MAX_BODY)
    asked = check(InitializeRequest, parse_json(body)) if body else InitializeRequest()
    return _info(house, services, await services.initializations.initialize(caller.owner, asked.agent_name))


@router.get("/agent/info", responses=problems(*_AGENT_PROBLEMS), openapi_extra=needs("agents:read"))
async def info(
    house: HouseDep,
    services: ServicesDep,
    agent_name: Annotated[str | None, Query(description="The default agent if omitted.")] = None,
) -> AgentInfo:
    """A running agent in detail."""
    return _info(house, services, await house.agents.find(agent_name))


@router.get("/prompts", responses=problems(Unauthorized, Forbidden), openapi_extra=needs("prompts:read"))
async def prompts(house: HouseDep) -> Prompts:
    """The prompts that agents are configured with. What a function makes up at each run is not among them."""
    told = []
    for agent in house.agents:
        configured = agent.prompts()
        if configured is not None and (configured.instructions or configured.named):
            told.append(
                AgentPrompts(
                    agent_name=agent.name,
                    description=agent.describe().description,
                    instructions=configured.instructions,
                    prompts=dict(configured.named),
                )
            )
    return Prompts(prompts=told)


@router.post(
    "/restart",
    status_code=202,
    responses=problems(Unauthorized, Forbidden, ServerNotOurs, StorageUnavailable, ShuttingDown),
    openapi_extra=needs("server:admin"),
)
async def restart(house: HouseDep, caller: CallerDep, services: ServicesDep) -> Ending:
    """Begin the server anew once this is answered: runs under way may end in time, and the port stays open."""
    if house.status()["is_draining"]:
        raise ShuttingDown("The server is ending already, and this cannot change whether another takes its place.")
    await _end(services, caller, find_restart(house), "restart")
    return Ending(status="restarting")


@router.post(
    "/kill",
    status_code=202,
    responses=problems(Unauthorized, Forbidden, ServerNotOurs, StorageUnavailable),
    openapi_extra=needs("server:admin"),
)
async def kill(house: HouseDep, caller: CallerDep, services: ServicesDep) -> Ending:
    """End the server's processes at once, once this is answered. The next start takes up what runs were cut off."""
    await _end(services, caller, find_kill(house), "kill")
    return Ending(status="killing")


async def _end(services: Services, caller: CallerDep, end: Callable[[], None] | None, how: str) -> None:
    """Raises: ServerNotOurs, StorageUnavailable."""
    if end is None:
        raise ServerNotOurs(_NOT_OURS.format("end" if how == "kill" else how))
    await services.audit.write(services.audit.entry(caller.owner, f"server.{how}", "server"))
    asyncio.get_running_loop().call_later(_ANSWER_SECONDS, end)
