"""The model list: agents, as models that completions may name."""

from __future__ import annotations

from dataclasses import dataclass, field

from innkeeper_client import requests
from innkeeper_client.requests import Request


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """An agent. `provider` is what hosts it, `capabilities` such as `chat`, `streaming` and `tools`."""

    id: str
    object: str = "model"
    created: int = 0
    owned_by: str = ""
    provider: str = ""
    capabilities: list[str] = field(default_factory=list)
    description: str = ""


@dataclass(frozen=True, slots=True)
class ModelsResponse:
    data: list[ModelInfo]
    object: str = "list"


def list_models() -> Request[ModelsResponse]:
    """The agents that are served, in order of registration."""
    return requests.get("/v1/models", ModelsResponse)
