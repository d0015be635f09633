"""Completions: chat completions as OpenAI has them; an agent's name is the `model`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar, overload

from innkeeper_client.actions import Action
from innkeeper_client.asking import Asking
from innkeeper_client.decoding import decode
from innkeeper_client.messages import Message, MessageLike, MessageRole, as_dicts
from innkeeper_client.requests import Request, given

_LONGEST_GRACE = 3600.0


@dataclass(frozen=True, slots=True)
class UsageInfo:
    """Tokens. All are 0, and `reported` is false, where the agent did not report any."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    reported: bool = False


@dataclass(frozen=True, slots=True)
class ChatCompletionChoice:
    """`finish_reason` is `stop`, `length`, `tool_calls` or `content_filter`."""

    index: int
    message: Message
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True)
class ChatCompletionResponse:
    """The answer; `system_fingerprint` is the id of the session that it is recorded in.

    `status` is `requires_action` where the run waits for people to decide on `actions`; it is then resumed as `run_id`.
    """

    id: str
    object: str
    created: int
    model: str
    choices: list[ChatCompletionChoice]
    usage: UsageInfo = field(default_factory=UsageInfo)
    system_fingerprint: str | None = None
    status: str = "completed"
    run_id: str | None = None
    actions: list[Action] = field(default_factory=list)


@dataclass(slots=True)
class ChatCompletionRequest:
    """What is asked for; a parameter that is `None` is left to the agent."""

    model: str
    messages: Sequence[MessageLike]
    temperature: float | None = 0.7
    max_tokens: int | None = 4000
    top_p: float | None = 1.0
    stream: bool = False
    user: str | None = None
    system_prompt: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As it is sent."""
        body = given(
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            top_p=self.top_p,
            user=self.user,
            system_prompt=self.system_prompt,
            metadata=dict(self.metadata) or None,
        )
        if self.stream:
            body["stream_options"] = {"include_usage": True}
        return {"model": self.model, "messages": as_dicts(self.messages), "stream": self.stream, **body}


def completion_request(
    model: str,
    messages: Iterable[MessageLike],
    temperature: float | None = 0.7,
    max_tokens: int | None = 4000,
    top_p: float | None = 1.0,
    stream: bool = False,
    user: str | None = None,
    system_prompt: str | None = None,
    *,
    session_id: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    organization_id: str | None = None,
    workflow: str | Mapping[str, Any] | None = None,
    variables: Mapping[str, Any] | None = None,
    allowed_tools: Sequence[str] | None = None,
    setting_sources: Sequence[Any] | None = None,
    mcp_servers: Any = None,
) -> ChatCompletionRequest:
    """Ask the agent `model`. `messages` are `Message`s, dictionaries or strings, which the user says.

    With `stream` the answer is a stream of pieces of text, with `metadata`; else a `ChatCompletionResponse`.
    `session_id` goes on with a session: with the new turn alone, or with all that was said. `user` is the end user.
    """
    extras = given(
        session_id=session_id,
        organization_id=organization_id,
        workflow=workflow,
        variables=None if variables is None else dict(variables),
        allowed_tools=None if allowed_tools is None else list(allowed_tools),
        setting_sources=None if setting_sources is None else list(setting_sources),
        mcp_servers=mcp_servers,
    )
    return ChatCompletionRequest(
        model=model,
        messages=as_dicts(messages),
        temperature=temperature,
        max_tokens=max_tokens,
        top_p=top_p,
        stream=stream,
        user=user,
        system_prompt=system_prompt,
        metadata={**(metadata or {}), **extras},
    )


def create(asked: ChatCompletionRequest, asking: Asking) -> Request[ChatCompletionResponse]:
    """The request, which outlives lost connections for as long as this client may come back."""
    body = asked.to_dict()
    if asking.retries.most:
        body["metadata"] = {**_endurance(asked.stream, asking), **body.get("metadata", {})}
    return Request("POST", "/v1/chat/completions", read_completion, body=body)


def _endurance(stream: bool, asking: Asking) -> dict[str, Any]:
    """A stream is resumed however late, and cancels its run where it is closed before its end.

    A whole answer is waited for anew after each time-out; who has left for good has no more to say to it.
    """
    if stream:
        return {"on_disconnect": "continue"}
    if asking.timeout is None:
        return {}
    return {"grace": min(_LONGEST_GRACE, asking.retries.longest(asking.timeout))}


def read_completion(raw: Any) -> ChatCompletionResponse:
    return decode(ChatCompletionResponse, _normalised(raw) if isinstance(raw, Mapping) else raw)


def _normalised(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Content is text and usage is there, whether or not the agent had any."""
    shown = {"object": "chat.completion", "created": 0, "model": "", **raw, "usage": usage_cells(raw.get("usage"))}
    if isinstance(choices := raw.get("choices"), list):
        shown["choices"] = [_choice(index, choice) for index, choice in enumerate(choices)]
    return shown


def _choice(index: int, raw: Any) -> Any:
    if not isinstance(raw, Mapping) or not isinstance(message := raw.get("message"), Mapping):
        return raw
    said = {"role": MessageRole.ASSISTANT, **message, "content": message.get("content") or ""}
    return {"index": index, **raw, "message": said}


def usage_cells(raw: Any) -> dict[str, Any]:
    """The fields of `UsageInfo`, in whichever words usage is told."""
    if not isinstance(raw, Mapping):
        return {"reported": False}
    asked = raw.get("prompt_tokens", raw.get("input_tokens")) or 0
    answered = raw.get("completion_tokens", raw.get("output_tokens")) or 0
    total = raw.get("total_tokens")
    if total is None:
        total = asked + answered if isinstance(asked, int) and isinstance(answered, int) else 0
    return {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": total, "reported": True}


def read_usage(raw: Any) -> UsageInfo:
    return decode(UsageInfo, usage_cells(raw))


W = TypeVar("W", covariant=True)
S = TypeVar("S", covariant=True)


class CreateCompletion(Protocol[W, S]):
    """`create_completion` of a client: a whole answer is a `W`, a streamed one an `S`. See `completion_request`."""

    @overload
    def __call__(
        self,
        model: str,
        messages: Iterable[MessageLike],
        temperature: float | None = ...,
        max_tokens: int | None = ...,
        top_p: float | None = ...,
        stream: Literal[False] = ...,
        user: str | None = ...,
        system_prompt: str | None = ...,
        *,
        session_id: str | None = ...,
        metadata: Mapping[str, Any] | None = ...,
        organization_id: str | None = ...,
        workflow: str | Mapping[str, Any] | None = ...,
        variables: Mapping[str, Any] | None = ...,
        allowed_tools: Sequence[str] | None = ...,
        setting_sources: Sequence[Any] | None = ...,
        mcp_servers: Any = ...,
    ) -> W: ...
    @overload
    def __call__(
        self,
        model: str,
        messages: Iterable[MessageLike],
        temperature: float | None = ...,
        max_tokens: int | None = ...,
        top_p: float | None = ...,
        *,
        stream: Literal[True],
        user: str | None = ...,
        system_prompt: str | None = ...,
        session_id: str | None = ...,
        metadata: Mapping[str, Any] | None = ...,
        organization_id: str | None = ...,
        workflow: str | Mapping[str, Any] | None = ...,
        variables: Mapping[str, Any] | None = ...,
        allowed_tools: Sequence[str] | None = ...,
        setting_sources: Sequence[Any] | None = ...,
        mcp_servers: Any = ...,
    ) -> S: ...
    @overload
    def __call__(
        self,
        model: str,
        messages: Iterable[MessageLike],
        temperature: float | None = ...,
        max_tokens: int | None = ...,
        top_p: float | None = ...,
        stream: bool = ...,
        user: str | None = ...,
        system_prompt: str | None = ...,
        *,
        session_id: str | None = ...,
        metadata: Mapping[str, Any] | None = ...,
        organization_id: str | None = ...,
        workflow: str | Mapping[str, Any] | None = ...,
        variables: Mapping[str, Any] | None = ...,
        allowed_tools: Sequence[str] | None = ...,
        setting_sources: Sequence[Any] | None = ...,
        mcp_servers: Any = ...,
    ) -> W | S: ...
