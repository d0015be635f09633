"""Agents: which are served, and what each is."""

from __future__ import annotations

from innkeeper.core.errors import AgentNotFound, Forbidden, NoAgents, Unauthorized
from innkeeper.http.deps import HouseDep
from innkeeper.http.problems import problems
from innkeeper.http.routes import needs, surface
from innkeeper.http.views import AgentView

router = surface(prefix="/agents", tags=["Agents"])


@router.get("", responses=problems(Unauthorized, Forbidden), openapi_extra=needs("agents:read"))
async def list_agents(house: HouseDep) -> list[AgentView]:
    """The agents, in order of registration."""
    return [AgentView.of(agent) for agent in house.agents]


@router.get(
    "/{name}",
    responses=problems(Unauthorized, Forbidden, AgentNotFound, NoAgents),
    openapi_extra=needs("agents:read"),
)
async def get_agent(name: str, house: HouseDep) -> AgentView:
    """One agent."""
    return AgentView.of(await house.agents.find(name))
