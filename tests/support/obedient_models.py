"""A provider whose model does what it is told, as far as a conformance suite asks: limits, stops, tools, schemas.

A word is a token. It repeats what it is to say "exactly", remembers a name, calls the tools that it is offered, invents
the smallest value of a schema, and otherwise says back what it heard.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from tests.support.openai_upstream import Finish, Reply, Request, Upstream

Json = dict[str, Any]


class ObedientUpstream(Upstream):
    """Use it as `running_upstream(ObedientUpstream())`."""

    def take(self, request: Request) -> Reply:
        self.requests.append(request)
        body = request.body
        if calls := _calls(body):
            return Reply(calls=calls, usage=(_size(body), len(calls)))
        return _cut(_text(body), body)


def _calls(body: Json) -> tuple[tuple[str, Mapping[str, Any]], ...]:
    tools, choice = body.get("tools") or [], body.get("tool_choice", "auto")
    if not tools or choice == "none" or body["messages"][-1]["role"] == "tool":
        return ()
    if isinstance(choice, dict):
        tools = [tool for tool in tools if tool["function"]["name"] == choice["function"]["name"]]
    function = tools[0]["function"]
    call = (function["name"], invented(function.get("parameters") or {}))
    is_double = body.get("parallel_tool_calls", True) and re.search(r"\b(and|both)\b", _heard(body))
    return (call, call) if is_double else (call,)


def _text(body: Json) -> str:
    form = body.get("response_format") or {}
    if form.get("type") == "json_schema":
        return json.dumps(invented(form["json_schema"]["schema"]))
    if form.get("type") == "json_object":
        return json.dumps({"answer": 4})
    if body["messages"][-1]["role"] == "tool":
        return f"The tool says {body['messages'][-1]['content']}"
    if "my name" in _heard(body) and (told := re.search(r"[Mm]y name is (\w+)", json.dumps(body["messages"]))):
        return told[1]
    exactly = re.search(r"exactly:?\s+(.+)", _heard(body), re.DOTALL)
    return exactly[1] if exactly else f"You said: {_heard(body)}"


def _cut(text: str, body: Json) -> Reply:
    """The text up to its first stop and its limit."""
    for stop in [body["stop"]] if isinstance(body.get("stop"), str) else body.get("stop") or []:
        text = text.partition(stop)[0]
    words, limit = text.split(" "), body.get("max_completion_tokens") or body.get("max_tokens") or 1000
    finish: Finish = "length" if len(words) > limit else "stop"
    words = words[:limit]
    return Reply(" ".join(words), finish=finish, usage=(_size(body), len(words)))


def _heard(body: Json) -> str:
    for message in reversed(body["messages"]):
        if message["role"] == "user":
            content = message["content"]
            return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)
    return ""


def _size(body: Json) -> int:
    return len(json.dumps(body["messages"]).split(" "))


def invented(schema: Json) -> Any:
    """The smallest value that a JSON schema allows."""
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return invented(schema["anyOf"][0])
    match schema.get("type", "object"):
        case "object":
            properties = schema.get("properties") or {}
            return {name: invented(one) for name, one in properties.items()}
        case "array":
            return [invented(schema.get("items") or {"type": "string"})]
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return "Paris"
