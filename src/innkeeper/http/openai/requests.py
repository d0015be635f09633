"""Requests of the OpenAI surface: what clients really send, and what of it becomes a `StartRun`.

Every documented field is accepted, and so are unknown ones. What an agent cannot honour is ignored where
OpenAI's servers would ignore it, and refused where the caller would be misled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, field_validator

from innkeeper.core.errors import Forbidden, Invalid, Unsupported
from innkeeper.core.messages import Message
from innkeeper.core.runs import NO_PARAMETERS, OnDisconnect, Parameters, StartRun, WhenBusy
from innkeeper.core.transcripts import HistoryMode
from innkeeper.http.messages import ChatMessage, message
from innkeeper.http.openai.tools import checked_response_format, checked_tool_choice, checked_tools
from innkeeper.http.requests import addressable, check_steers, printable

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="allow")

    include_usage: StrictBool | None = None


class ChatCompletionRequest(BaseModel):
    """A request for a chat completion. Unknown fields are tolerated."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"examples": [{"model": "assistant", "messages": [{"role": "user", "content": "Hello!"}]}]},
    )

    model: StrictStr = Field(default="", description="The name of an agent.")
    messages: list[ChatMessage] = Field(min_length=1)
    stream: StrictBool | None = False
    stream_options: StreamOptions | None = None
    temperature: Number | None = Field(default=None, ge=0, le=2)
    top_p: Number | None = Field(default=None, ge=0, le=1)
    max_tokens: StrictInt | None = Field(default=None, ge=1)
    max_completion_tokens: StrictInt | None = Field(default=None, ge=1)
    n: StrictInt | None = Field(default=None, ge=1)
    stop: StrictStr | list[StrictStr] | None = None
    seed: StrictInt | None = None
    presence_penalty: Number | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: Number | None = Field(default=None, ge=-2, le=2)
    user: StrictStr | None = None
    store: StrictBool | None = None
    metadata: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: StrictStr | dict[str, Any] | None = None
    parallel_tool_calls: StrictBool | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: StrictStr | None = None
    modalities: list[StrictStr] | None = None
    logprobs: StrictBool | None = None
    top_logprobs: StrictInt | None = None
    system_prompt: StrictStr | None = None
    session_id: StrictStr | None = Field(default=None, min_length=1, max_length=256)
    user_id: StrictStr | None = Field(default=None, min_length=1, max_length=256)
    workflow: StrictStr | dict[str, Any] | None = None
    variables: dict[str, Any] | None = None
    allowed_tools: list[StrictStr] | None = None
    setting_sources: list[Any] | None = None
    mcp_servers: Any = None
    on_disconnect: Literal["continue", "cancel"] | None = None
    grace: Number | None = Field(default=None, ge=0, le=3600)
    when_busy: Literal["queue", "reject", "interrupt", "steer"] | None = None

    _checked_names = field_validator("session_id", "user_id", "user")(printable)
    _checked_id = field_validator("session_id")(addressable)


_EXTRAS = frozenset((
    "session_id",
    "user_id",
    "organization_id",
    "workflow",
    "variables",
    "allowed_tools",
    "setting_sources",
    "mcp_servers",
    "on_disconnect",
    "grace",
    "when_busy",
    "system_prompt",
))  # fmt: skip
_PLAIN = frozenset({"model", "messages", "stream", "stream_options", "user", "store", "metadata", "session_id"})


def start_run(body: ChatCompletionRequest, endpoint: str, agent_name: str | None = None) -> StartRun:
    """What the request asks for. `agent_name` is the path's, where the path names the agent.

    Raises: Invalid, Unsupported.
    """
    extras = _extras(body)
    is_plain = body.model_fields_set <= _PLAIN and extras.keys() <= _PLAIN
    if not is_plain:
        _refuse_misleading(body, extras)
    messages = tuple(message(raw, f"messages[{index}]") for index, raw in enumerate(body.messages))
    if body.system_prompt or extras.get("system_prompt"):
        prompt = body.system_prompt or str(extras["system_prompt"])
        messages = (Message("system", prompt), *messages)
    spoken = [said for said in messages if not said.is_instruction]
    _check_speaks(spoken)
    when_busy = cast("WhenBusy", extras.get("when_busy") or "queue")
    check_steers(when_busy, spoken, "messages")
    metadata = {name: value for name, value in body.metadata.items() if name not in _EXTRAS} if body.metadata else {}
    return StartRun(
        agent_name=agent_name if agent_name is not None else (body.model or None),
        messages=messages,
        endpoint=endpoint,
        session_id=extras.get("session_id"),
        user_id=extras.get("user_id") or body.user or None,
        stream=bool(body.stream),
        recorded=body.store is not False,
        history=_history(body.metadata),
        parameters=NO_PARAMETERS if is_plain else _parameters(body, extras),
        metadata=metadata,
        on_disconnect=cast("OnDisconnect", extras.get("on_disconnect") or "cancel"),
        grace=float(extras["grace"]) if extras.get("grace") is not None else 5.0,
        when_busy=when_busy,
    )


def _extras(body: ChatCompletionRequest) -> Mapping[str, Any]:
    """Our additions, from the top level or from inside `metadata`; those inside pass the same checks."""
    given = body.model_fields_set & _EXTRAS
    outside = {name: value for name in given if (value := getattr(body, name, None)) is not None}
    if not body.metadata:
        return outside
    inside = {name: value for name, value in body.metadata.items() if name in _EXTRAS}
    if inside:
        checked = ChatCompletionRequest.model_validate({"messages": [{"role": "user", "content": "."}], **inside})
        inside = {name: getattr(checked, name, inside[name]) for name in inside}
    return {**inside, **outside}


def _history(metadata: Mapping[str, Any] | None) -> HistoryMode:
    mode = (metadata or {}).get("history")
    if mode in ("append", "replace"):
        return cast("HistoryMode", mode)
    return "auto"


def _refuse_misleading(body: ChatCompletionRequest, extras: Mapping[str, Any]) -> None:
    if body.n is not None and body.n > 1:
        raise Unsupported("n: only one choice is generated for a request; send n = 1.", param="n")
    if body.modalities and any(modality != "text" for modality in body.modalities):
        raise Unsupported("modalities: only text can be generated.", param="modalities")
    for name in ("logprobs", "top_logprobs"):
        if getattr(body, name):
            raise Unsupported(f"{name}: agents do not tell the probabilities of their tokens.", param=name)
    for name in ("mcp_servers", "setting_sources"):
        if extras.get(name):
            raise _off(name)


def _off(name: str) -> Forbidden:
    return Forbidden(
        f"{name}: clients may not choose servers and settings; an agent's own configuration names them.", param=name
    )


def _check_speaks(spoken: Sequence[Message]) -> None:
    if not spoken:
        raise Invalid("messages: a user message is needed.", param="messages")
    last = spoken[-1]
    if last.role == "user" and isinstance(last.content, str) and not last.content.strip():
        raise Invalid("messages: the last user message is empty.", param="messages")


def _parameters(body: ChatCompletionRequest, extras: Mapping[str, Any]) -> Parameters:
    allowed = extras.get("allowed_tools")
    parameters = Parameters(
        temperature=_finite(body.temperature),
        max_tokens=body.max_completion_tokens or body.max_tokens,
        top_p=body.top_p,
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
        seed=body.seed,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        parallel_tool_calls=body.parallel_tool_calls,
        reasoning_effort=body.reasoning_effort,
        tools=checked_tools(body.tools),
        tool_choice=checked_tool_choice(body.tool_choice),
        response_format=checked_response_format(body.response_format),
        allowed_tools=None if allowed is None else tuple(allowed),
        workflow=extras.get("workflow"),
        variables=extras.get("variables"),
    )
    return NO_PARAMETERS if parameters == NO_PARAMETERS else parameters


def _finite(value: float | None) -> float | None:
    return value if value is None or math.isfinite(value) else None
