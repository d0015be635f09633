"""Abilities: what a request may demand of an agent, as far as the agent's description tells.

What an agent cannot honour is passed over, unless its caller would be misled: that is refused here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from innkeeper.core.agents import AgentDescription
from innkeeper.core.errors import Unsupported
from innkeeper.core.runs import Parameters


def check_abilities(agent: AgentDescription, parameters: Parameters) -> None:
    """Raises: Unsupported, naming the parameter."""
    choice = parameters.tool_choice
    demanded = _demanded(choice)
    if demanded is not None:
        _check_demand(agent, parameters, demanded)
    form = parameters.response_format
    if form is not None and form.get("type") == "json_schema" and not agent.has_model:
        raise Unsupported(
            f"Agent {agent.name!r} has no model of its own and cannot promise a JSON schema.", param="response_format"
        )


def _demanded(choice: str | Mapping[str, object] | None) -> Sequence[str] | None:
    """The tools of which one must be called, none of them for just any; `None` where there is no demand."""
    match choice:
        case "required":
            return ()
        case {"function": {"name": str(name)}} | {"type": "function", "name": str(name)}:
            return (name,)
        case {"allowed_tools": {"tools": list(tools)}}:
            return [tool["function"]["name"] for tool in cast("list[dict[str, dict[str, str]]]", tools)]
        case _:
            return None


def _check_demand(agent: AgentDescription, parameters: Parameters, demanded: Sequence[str]) -> None:
    if not agent.has_model:
        raise Unsupported(
            f"Agent {agent.name!r} has no model of its own and cannot be made to call a tool.", param="tool_choice"
        )
    offered = _offered(agent, parameters)
    if not offered:
        raise Unsupported("tool_choice demands a tool, but there are no tools.", param="tool_choice")
    for name in demanded:
        if name not in offered:
            raise Unsupported(f"tool_choice names {name!r}, which is none of the tools.", param="tool_choice")


def _offered(agent: AgentDescription, parameters: Parameters) -> set[str]:
    own = set(agent.tools)
    if parameters.allowed_tools is not None:
        own &= set(parameters.allowed_tools)
    if not agent.accepts_client_tools:
        return own
    functions = [cast("Mapping[str, str]", tool["function"]) for tool in parameters.tools]
    return own | {function["name"] for function in functions}
