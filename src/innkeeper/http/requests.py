"""Requests of the native surface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, StrictBool, StrictStr, field_validator

from innkeeper.core.errors import Invalid
from innkeeper.core.messages import Message, normalise
from innkeeper.core.runs import StartRun, WhenBusy
from innkeeper.http.messages import content_parts

Named = Annotated[StrictStr, Field(min_length=1, max_length=256)]


def printable(value: str | None) -> str | None:
    """Names may not hold control characters."""
    if value is not None and not value.isprintable():
        raise ValueError("use printable characters only")
    return value


def addressable(value: str | None) -> str | None:
    """An id that a client chooses must be able to stand in a path, whose slashes no server tells from `%2F`."""
    if value is not None and ("/" in value or value in (".", "..")):
        raise ValueError("may not contain / and may not be . or ..")
    return value


def check_steers(when_busy: WhenBusy, said: Sequence[Message], field: str) -> None:
    """Raises: Invalid for a turn that wants to steer and ends with anything but a user's text."""
    if when_busy != "steer":
        return
    if not said or said[-1].role != "user" or not isinstance(said[-1].content, str) or not said[-1].content.strip():
        raise Invalid(f"{field}: only text can steer a run; send a user message of text.", param=field)


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
    grace: float = Field(default=0, strict=True, ge=0, le=3600, allow_inf_nan=False, description="Seconds.")
    when_busy: Literal["queue", "reject", "interrupt", "steer"] = "queue"
    background: StrictBool = Field(default=False, description="Answer 202 at once; the run survives the server.")
    webhook: Annotated[StrictStr, Field(max_length=2048)] | None = Field(
        default=None, description="Told when the run has ended; its host must be allowed by the operator."
    )

    _checked_names = field_validator("agent_name", "session_id", "user_id")(printable)
    _checked_id = field_validator("session_id")(addressable)

    @field_validator("input")
    @classmethod
    def _not_blank(cls, value: str | list[dict[str, Any]]) -> str | list[dict[str, Any]]:
        if not (value.strip() if isinstance(value, str) else any(map(_says_something, value))):
            raise ValueError("must not be blank")
        return value

    def start(self, endpoint: str, *, stream: bool) -> StartRun:
        """The run that this asks for.

        Raises: Invalid for a content part that cannot be understood, and for wishes that exclude each other.
        """
        if self.background and stream:
            raise Invalid(
                "A run in the background has no stream of its own: read GET /runs/{id}/events.", param="background"
            )
        if self.background and self.when_busy == "steer":
            raise Invalid("A run in the background cannot steer another; POST /inject can.", param="when_busy")
        said = self.input if isinstance(self.input, str) else normalise(content_parts(self.input, "input"))
        messages = (Message("user", said),)
        check_steers(self.when_busy, messages, "input")
        return StartRun(
            agent_name=self.agent_name,
            messages=messages,
            endpoint=endpoint,
            session_id=self.session_id,
            user_id=self.user_id,
            stream=stream,
            metadata=self.metadata,
            on_disconnect=self.on_disconnect,
            grace=self.grace,
            when_busy=self.when_busy,
            background=self.background,
            webhook=self.webhook,
        )

    @classmethod
    def of_query(cls, **fields: Any) -> Self:
        return cls.model_validate({name: value for name, value in fields.items() if value is not None})


class InjectRequest(BaseModel):
    """A message for a run under way: your newest of an agent (the default if omitted), of a session, or one by id."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"message": "Also consider the costs."}]})

    message: StrictStr = Field(max_length=1024 * 1024)
    agent_name: Named | None = None
    session_id: Named | None = None
    run_id: Named | None = None
    user_id: Named | None = Field(default=None, description="The end user whose run it is for.")

    _checked_names = field_validator("agent_name", "session_id", "run_id", "user_id")(printable)

    @field_validator("message")
    @classmethod
    def _not_blank(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("must not be blank")
        return value


def _says_something(part: dict[str, Any]) -> bool:
    text = part.get("text")
    return not isinstance(text, str) or bool(text.strip())
