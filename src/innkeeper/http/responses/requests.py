"""Requests of Responses: what clients really send, and what of it becomes a `StartRun`.

As with chat completions, every documented field is accepted and so are unknown ones; refused is what would mislead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, field_validator

from innkeeper.core.errors import Invalid, Unsupported
from innkeeper.core.messages import Message
from innkeeper.core.runs import NO_PARAMETERS, Parameters, StartRun
from innkeeper.http.openai.tools import checked_response_format, checked_tool_choice, checked_tools
from innkeeper.http.requests import addressable, printable

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Items = list[dict[str, Any]]

ECHOED = (
    "instructions", "tools", "tool_choice", "text", "temperature", "top_p", "max_output_tokens", "max_tool_calls",
    "parallel_tool_calls", "previous_response_id", "reasoning", "truncation", "service_tier", "safety_identifier",
    "prompt_cache_key", "presence_penalty", "frequency_penalty", "user", "store",
)  # fmt: skip
"""What the response object tells of its request, beside what the run knows."""


class InputRequest(BaseModel):
    """What is asked of a model with which context; unknown fields are tolerated."""

    model_config = ConfigDict(extra="allow")

    model: StrictStr | None = Field(default=None, description="The name of an agent.")
    input: StrictStr | Items | None = None
    instructions: StrictStr | None = None
    previous_response_id: StrictStr | None = Field(default=None, max_length=256)
    user: StrictStr | None = Field(default=None, max_length=256)

    _checked_user = field_validator("user")(printable)

    @property
    def end_user(self) -> str | None:
        """Whose things alone the request may refer to, where it names an end user."""
        return self.user or None


class ResponseRequest(InputRequest):
    """A request for a response. Unknown fields are tolerated."""

    model_config = ConfigDict(
        extra="allow", json_schema_extra={"examples": [{"model": "assistant", "input": "Hello!"}]}
    )

    conversation: StrictStr | dict[str, Any] | None = None
    stream: StrictBool | None = None
    background: StrictBool | None = None
    store: StrictBool | None = None
    temperature: Number | None = Field(default=None, ge=0, le=2)
    top_p: Number | None = Field(default=None, ge=0, le=1)
    max_output_tokens: StrictInt | None = Field(default=None, ge=1)
    max_tool_calls: StrictInt | None = Field(default=None, ge=1)
    presence_penalty: Number | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: Number | None = Field(default=None, ge=-2, le=2)
    tools: Items | None = None
    tool_choice: StrictStr | dict[str, Any] | None = None
    parallel_tool_calls: StrictBool | None = None
    text: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    include: list[Any] | None = None
    metadata: dict[str, Any] | None = None
    service_tier: StrictStr | None = None
    safety_identifier: StrictStr | None = None
    prompt_cache_key: StrictStr | None = None
    top_logprobs: StrictInt | None = Field(default=None, ge=0, le=20)
    prompt: Any = None
    session_id: StrictStr | None = Field(
        default=None, min_length=1, max_length=256, description="As `conversation`, but one that is made if it is new."
    )
    on_disconnect: Literal["continue", "cancel"] | None = None
    grace: Number | None = Field(default=None, ge=0, le=3600)
    when_busy: Literal["queue", "reject", "interrupt"] | None = None

    _checked_names = field_validator("session_id")(printable)
    _checked_id = field_validator("session_id")(addressable)

    @property
    def conversation_id(self) -> str | None:
        """The session that the request names. Raises: Invalid."""
        named = self.conversation.get("id") if isinstance(self.conversation, dict) else self.conversation
        if self.conversation is not None and (not isinstance(named, str) or not named or len(named) > 256):
            raise Invalid("conversation: give its id, or an object with it.", param="conversation")
        return named


def check_request(body: ResponseRequest) -> None:
    """Refuse what would mislead. Raises: Invalid, Unsupported."""
    if body.prompt is not None:
        raise Unsupported("prompt: templates are not stored here; send instructions and input.", param="prompt")
    if body.input is None:
        raise Invalid("input: Field required", param="input")
    if (body.conversation_id or body.session_id) is not None and body.previous_response_id is not None:
        raise Invalid("previous_response_id: give this or conversation, not both.", param="previous_response_id")
    if body.background and body.store is False:
        raise Invalid("background: a response in the background is stored; leave store out.", param="background")
    if body.top_logprobs:
        raise Unsupported("top_logprobs: agents do not tell the probabilities of their tokens.", param="top_logprobs")


def check_speaks(messages: Sequence[Message]) -> None:
    """Raises: Invalid where nothing is said."""
    spoken = [said for said in messages if not said.is_instruction]
    if not spoken:
        raise Invalid("input: a user message or a function's output is needed.", param="input")
    last = spoken[-1]
    if last.role == "user" and isinstance(last.content, str) and not last.content.strip():
        raise Invalid("input: the last user message is empty.", param="input")


def start_run(body: ResponseRequest, endpoint: str, messages: Sequence[Message]) -> StartRun:
    """The run that is asked for, with these messages. Raises: Invalid."""
    check_speaks(messages)
    leaves = body.on_disconnect or ("continue" if body.background else "cancel")
    return StartRun(
        agent_name=body.model or None,
        messages=tuple(messages),
        endpoint=endpoint,
        session_id=body.conversation_id or body.session_id,
        user_id=body.user or None,
        stream=bool(body.stream),
        recorded=body.store is not False,
        history="extend",
        parameters=_parameters(body),
        metadata=body.metadata or {},
        on_disconnect=leaves,
        grace=5.0 if body.grace is None else body.grace,
        when_busy=body.when_busy or "queue",
        background=bool(body.background),
        follows=None if body.previous_response_id is None else run_id_of(body.previous_response_id),
        request=echoed(body),
    )


def run_id_of(response_id: str) -> str:
    """The run that is this response. What is not the id of one is that of no run."""
    return "run_" + response_id.removeprefix("resp_") if response_id.startswith("resp_") else ""


def echoed(body: ResponseRequest) -> Mapping[str, object]:
    """What must be kept of a request for the response object."""
    given = {name: getattr(body, name) for name in ECHOED}
    kept = {name: value for name, value in given.items() if value is not None and value != []}
    if body.tools:
        kept["tools"] = [_echoed_tool(tool) for tool in body.tools if tool.get("type") == "function"]
    if body.tool_choice is not None and checked_tool_choice(_chat_choice(body.tool_choice)) is None:
        del kept["tool_choice"]
    return kept


def _echoed_tool(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    function = tool["function"] if isinstance(tool.get("function"), Mapping) else tool
    return {
        "type": "function",
        "name": function.get("name"),
        "description": function.get("description"),
        "parameters": function.get("parameters"),
        "strict": function.get("strict", True) is not False,
    }


def _parameters(body: ResponseRequest) -> Parameters:
    reasoning = body.reasoning or {}
    effort = reasoning.get("effort")
    parameters = Parameters(
        temperature=body.temperature,
        max_tokens=body.max_output_tokens,
        top_p=body.top_p,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        parallel_tool_calls=body.parallel_tool_calls,
        reasoning_effort=effort if isinstance(effort, str) else None,
        tools=_tools(body.tools),
        tool_choice=checked_tool_choice(_chat_choice(body.tool_choice)),
        response_format=_response_format(body.text),
        instructions=body.instructions or None,
    )
    return NO_PARAMETERS if parameters == NO_PARAMETERS else parameters


def _tools(tools: Items | None) -> tuple[Mapping[str, Any], ...]:
    """Function tools in the form of chat completions, which agents are given. Raises: Invalid."""
    found: list[Mapping[str, Any]] = []
    seen: set[str] = set()
    for index, tool in enumerate(tools or ()):
        if tool.get("type") != "function":
            continue
        if isinstance(tool.get("function"), Mapping):
            found.append(tool)
            continue
        if not isinstance(tool.get("name"), str) or not tool["name"]:
            raise Invalid(f"tools[{index}].name: Field required", param=f"tools[{index}].name")
        if tool["name"] in seen:
            raise Invalid(f"tools[{index}].name: two tools are named {tool['name']!r}", param=f"tools[{index}].name")
        if not isinstance(tool.get("parameters"), Mapping | None):
            raise Invalid(f"tools[{index}].parameters: give a JSON schema", param=f"tools[{index}].parameters")
        seen.add(tool["name"])
        names = ("name", "description", "parameters", "strict")
        function = {name: tool[name] for name in names if tool.get(name) is not None}
        found.append({"type": "function", "function": function})
    return checked_tools(found)


def _chat_choice(choice: str | Mapping[str, Any] | None) -> str | Mapping[str, Any] | None:
    """The choice in the form of chat completions."""
    if not isinstance(choice, Mapping):
        return choice
    match choice:
        case {"type": "function", "name": str(name)}:
            return {"type": "function", "function": {"name": name}}
        case {"type": "allowed_tools", "tools": list(tools)}:
            named = [{"type": "function", "function": {"name": tool["name"]}} for tool in tools if _is_function(tool)]
            allowed = {"mode": choice.get("mode", "auto"), "tools": named}
            return {"type": "allowed_tools", "allowed_tools": allowed} if named else None
    return choice


def _is_function(tool: object) -> bool:
    return isinstance(tool, Mapping) and tool.get("type") == "function" and isinstance(tool.get("name"), str)


def _response_format(text: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """`text.format` in the form of chat completions. Raises: Invalid."""
    form = (text or {}).get("format")
    if form is None:
        return None
    if not isinstance(form, Mapping) or form.get("type") not in ("text", "json_object", "json_schema"):
        raise Invalid("text.format.type: use text, json_object or json_schema.", param="text.format.type")
    if form["type"] != "json_schema":
        return checked_response_format(form)
    if not isinstance(form.get("name"), str) or not isinstance(form.get("schema"), Mapping):
        raise Invalid("text.format: give a name and a schema.", param="text.format")
    names = ("name", "description", "schema", "strict")
    asked = {name: form[name] for name in names if form.get(name) is not None}
    return checked_response_format({"type": "json_schema", "json_schema": asked})
