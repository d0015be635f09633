"""Tools and forms: what a client offers its agent's model and what it demands of it, checked before a run.

Kinds of tools other than functions are passed over, as they are hosted by OpenAI.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from innkeeper.core.errors import Invalid

_FORMATS = ("text", "json_object", "json_schema")


def checked_tools(tools: Sequence[Mapping[str, Any]] | None) -> tuple[Mapping[str, Any], ...]:
    """The function tools. Raises: Invalid."""
    found: dict[str, Mapping[str, Any]] = {}
    for index, tool in enumerate(tools or ()):
        if tool.get("type") != "function":
            continue
        function, at = tool.get("function"), f"tools[{index}].function"
        if not isinstance(function, Mapping) or not isinstance(name := function.get("name"), str) or not name:
            raise Invalid(f"{at}.name: Field required", param=f"{at}.name")
        if name in found:
            raise Invalid(f"{at}.name: two tools are named {name!r}", param=f"{at}.name")
        if not isinstance(function.get("parameters", {}), Mapping | None):
            raise Invalid(f"{at}.parameters: give a JSON schema", param=f"{at}.parameters")
        found[name] = tool
    return tuple(found.values())


def checked_tool_choice(choice: str | Mapping[str, Any] | None) -> str | Mapping[str, Any] | None:
    """The choice, in whichever of its forms. Raises: Invalid."""
    match choice:
        case None | "none" | "auto" | "required":
            return choice
        case {"type": "function", "function": {"name": str()}} | {"type": "function", "name": str()}:
            return choice
        case {"type": "allowed_tools", "allowed_tools": {"tools": list(tools)}} if all(map(_names_tool, tools)):
            return choice
        case {"type": str(kind)} if kind not in ("function", "allowed_tools"):
            return None  # a hosted tool, passed over like those in `tools`
    raise Invalid("tool_choice: use none, auto, required, or name a function.", param="tool_choice")


def _names_tool(tool: object) -> bool:
    match tool:
        case {"function": {"name": str()}}:
            return True
    return False


def checked_response_format(form: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The form that is asked for; `None` for plain text. Raises: Invalid."""
    if form is None or form.get("type") == "text":
        return None
    if form.get("type") not in _FORMATS:
        raise Invalid("response_format.type: use text, json_object or json_schema.", param="response_format.type")
    asked = form.get("json_schema")
    if form["type"] == "json_schema" and not (
        isinstance(asked, Mapping) and isinstance(asked.get("schema", {}), Mapping | None)
    ):
        at = "response_format.json_schema"
        raise Invalid(f"{at}: give a name and a schema.", param=at)
    return form
