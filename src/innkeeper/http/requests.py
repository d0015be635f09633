"""Requests of the native surface."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, StrictBool, StrictStr, field_validator

from innkeeper.core.messages import Message, normalise
from innkeeper.core.runs import StartRun

Named = Annotated[StrictStr, Field(min_length=1, max_length=256)]


def printable(value: str | None) -> str | None:
    """Names may not hold control characters."""
    if value is not None and not value.isprintable():
        raise ValueError("use printable characters only")
    return value


class ChatRequest(BaseModel):
    """A turn of a conversation. `input` (or `message`) is text or a list of content parts."""

    model_config = ConfigDict(
        populate_by_name=True,
        json_schema_extra={"examples": [{"input": "Hello!", "session_id": "session-123"}]},
    )

    agent_name: Named | None = Field(default=None, description="The default agent if omitted.")
    input: StrictStr | list[dict[str, Any]] = Field(validation_alias=AliasChoices("input", "message"))
    session_id: Named | None = Field(default=None, description="A new session is made if omitted.")
    user_id: Named | None = Field(default=None, description="The end user on whose behalf this is asked.")
    stream: StrictBool = Field(default=False, description="Answer with Server-Sent Events.")
    metadata: dict[str, Any] = Field(default_factory=dict)
    on_disconnect: Literal["continue", "cancel"] = "continue"
    grace: float = Field(default=0, ge=0, le=3600, allow_inf_nan=False, description="Seconds.")
    when_busy: Literal["queue", "reject"] = "queue"

    _checked_names = field_validator("agent_name", "session_id", "user_id")(printable)

    @field_validator("input")
    @classmethod
    def _not_blank(cls, value: str | list[dict[str, Any]]) -> str | list[dict[str, Any]]:
        content = value if isinstance(value, str) else _checked_parts(value)
        if isinstance(content, str) and not content.strip():
            raise ValueError("must not be blank")
        return value

    def start(self, endpoint: str, *, stream: bool) -> StartRun:
        """The run that this asks for."""
        return StartRun(
            agent_name=self.agent_name,
            messages=(Message("user", normalise(self.input)),),
            endpoint=endpoint,
            session_id=self.session_id,
            user_id=self.user_id,
            stream=stream,
            metadata=self.metadata,
            on_disconnect=self.on_disconnect,
            grace=self.grace,
            when_busy=self.when_busy,
        )

    @classmethod
    def of_query(cls, **fields: Any) -> Self:
        return cls.model_validate({name: value for name, value in fields.items() if value is not None})


def _checked_parts(parts: list[dict[str, Any]]) -> str | None:
    if not parts:
        raise ValueError("must not be empty")
    for part in parts:
        if not isinstance(part.get("type"), str):
            raise ValueError("each content part needs a type")
        if part["type"] in ("text", "input_text") and not isinstance(part.get("text"), str):
            raise ValueError("a text part needs text")
    content = normalise(parts)
    return content if isinstance(content, str) else None
