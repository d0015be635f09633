"""Agents as OpenAI models, and the four routes that every agent has at the root."""

from __future__ import annotations

from fastapi import Request
from pydantic import BaseModel
from starlette.responses import Response

from innkeeper.core.errors import AgentNotFound, Forbidden, NoAgents, Unauthorized
from innkeeper.http.deps import HouseDep
from innkeeper.http.openai.completions import PROBLEMS, answer_completion
from innkeeper.http.openai.models import ChatCompletion
from innkeeper.http.openai.requests import ChatCompletionRequest
from innkeeper.http.problems import problems
from innkeeper.http.routes import needs, surface
from innkeeper.services.agents import ServedAgent

models = surface(prefix="/v1", tags=["OpenAI"])
root = surface(tags=["Agents at the root"])


class Model(BaseModel):
    """An agent as a model."""

    id: str
    object: str = "model"
    created: int
    owned_by: str
    provider: str
    capabilities: list[str]
    description: str


class ModelList(BaseModel):
    object: str = "list"
    data: list[Model]


def _model(agent: ServedAgent, created: int) -> Model:
    told = agent.describe()
    able = ["chat", *(["streaming"] if told.streams else []), *(["tools"] if told.accepts_client_tools else [])]
    return Model(
        id=agent.name,
        created=created,
        owned_by="innkeeper",
        provider=told.provider,
        capabilities=able,
        description=told.description,
    )


@models.get("/models", responses=problems(Unauthorized, Forbidden), openapi_extra=needs("agents:read"))
async def list_models(house: HouseDep) -> ModelList:
    """The agents that are served, in order of registration."""
    return ModelList(data=[_model(agent, house.created) for agent in house.agents])


@models.get(
    "/models/{model:path}",
    responses=problems(Unauthorized, Forbidden, AgentNotFound, NoAgents),
    openapi_extra=needs("agents:read"),
)
async def get_model(model: str, house: HouseDep) -> Model:
    """One agent as a model."""
    return _model(await house.agents.find(model), house.created)


class AgentInfo(BaseModel):
    """Where an agent is to be found."""

    agent: str
    description: str
    endpoints: dict[str, str]


class AgentControl(BaseModel):
    agent: str
    message: str
    endpoints: dict[str, str]


class CompletionsInfo(BaseModel):
    endpoint: str
    agent: str
    openai_compatible: bool
    supports_streaming: bool


def _endpoints(name: str) -> dict[str, str]:
    return {"info": f"/{name}", "chat": f"/{name}/chat/completions"}


_FOUND = problems(Unauthorized, Forbidden, AgentNotFound, NoAgents)


_AGENT_IN_PATH = {"name": "agent", "in": "path", "required": True, "schema": {"type": "string"}}
"""Told by hand where the route takes nothing but its body and the request."""


@root.get("/{agent}", responses=_FOUND, openapi_extra=needs("agents:read"))
async def agent_info(agent: str, house: HouseDep) -> AgentInfo:
    """What the agent is and where it answers."""
    found = await house.agents.find(agent)
    return AgentInfo(agent=agent, description=found.describe().description, endpoints=_endpoints(agent))


@root.post("/{agent}", responses=_FOUND, openapi_extra=needs("agents:read"))
async def agent_control(agent: str, house: HouseDep) -> AgentControl:
    """Confirms that the agent is served."""
    await house.agents.find(agent)
    return AgentControl(agent=agent, message=f"Agent {agent!r} is ready.", endpoints=_endpoints(agent))


@root.get("/{agent}/chat/completions", responses=_FOUND, openapi_extra=needs("agents:read"))
async def completions_info(agent: str, house: HouseDep) -> CompletionsInfo:
    """Tells that `POST` here is compatible with OpenAI."""
    found = await house.agents.find(agent)
    return CompletionsInfo(
        endpoint=f"/{agent}/chat/completions",
        agent=agent,
        openai_compatible=True,
        supports_streaming=found.describe().streams,
    )


@root.post(
    "/{agent}/chat/completions",
    response_model=ChatCompletion,
    responses={
        200: {"content": {"text/event-stream": {}}, "description": "The completion, or its chunks."},
        **PROBLEMS,
    },
    openapi_extra={**needs("runs:write"), "parameters": [_AGENT_IN_PATH]},
)
async def agent_completion(body: ChatCompletionRequest, request: Request) -> Response:
    """Run this agent; `model` in the body is ignored."""
    return await answer_completion(body, request, request.path_params["agent"])
