"""Views: what native clients see of sessions, messages, runs and agents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field

from innkeeper.core.actions import Action
from innkeeper.core.events import shown_action, shown_usage
from innkeeper.core.identity import Caller, Owner
from innkeeper.core.runs import Run
from innkeeper.core.sessions import Session, StoredMessage
from innkeeper.core.times import isoformat
from innkeeper.services.agents import ServedAgent


def is_absent(value: object) -> bool:
    return value is None


class TenantView(BaseModel):
    """Whose it is: told to those who see everybody's, to tell rows apart."""

    organization: str | None = Field(default=None, exclude_if=is_absent, description="Told to admins.")
    owner: str | None = Field(default=None, exclude_if=is_absent, description="Whose it is; told to admins.")


def tenant(owner: Owner, caller: Caller | None) -> dict[str, str]:
    """The fields of `TenantView`, if the caller is told them."""
    if caller is None or not caller.sees_all:
        return {}
    return {"organization": owner.organization, "owner": owner.user}


class UsageView(BaseModel):
    input_tokens: int
    output_tokens: int
    total_tokens: int


class AgentView(BaseModel):
    """An agent; its instructions are nobody's business."""

    name: str
    model: str | None
    description: str
    tools: list[str]
    is_default: bool
    max_steps: int | None
    provider: str
    streams: bool

    @classmethod
    def of(cls, agent: ServedAgent) -> AgentView:
        told = agent.describe()
        return cls(
            name=agent.name,
            model=told.model,
            description=told.description,
            tools=list(told.tools),
            is_default=agent.is_default,
            max_steps=told.max_steps,
            provider=told.provider,
            streams=told.streams,
        )


class MessageView(BaseModel):
    """A message of a session; `run_id` is null for one that no run brought."""

    role: str
    content: str | list[dict[str, Any]] | None
    position: int
    run_id: str | None
    created_at: str
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None

    @classmethod
    def of(cls, stored: StoredMessage) -> MessageView:
        shown: dict[str, Any] = stored.message.as_dict()
        return cls(**shown, position=stored.position, run_id=stored.run_id, created_at=isoformat(stored.created_at))


class SessionView(TenantView):
    """A session, without its messages."""

    id: str
    agent_name: str | None
    user_id: str
    title: str | None
    metadata: dict[str, Any]
    archived: bool
    message_count: int
    created_at: str
    updated_at: str
    last_message_at: str | None
    key: str | None = Field(default=None, exclude_if=is_absent, description="An id that no other has; for admins.")

    @classmethod
    def of(cls, session: Session, caller: Caller | None = None) -> SessionView:
        return cls(**_session_cells(session, caller))


class SessionWithMessages(SessionView):
    """A session with its current conversation, oldest first."""

    messages: list[MessageView]

    @classmethod
    def holding(
        cls, session: Session, messages: Sequence[StoredMessage], caller: Caller | None = None
    ) -> SessionWithMessages:
        return cls(**_session_cells(session, caller), messages=[MessageView.of(message) for message in messages])


def keyed(session: Session, caller: Caller | None) -> dict[str, str]:
    """As `tenant`; sessions of one id are told apart by their keys."""
    told = tenant(session.owner, caller)
    return {**told, "key": session.key} if told else told


def _session_cells(session: Session, caller: Caller | None) -> dict[str, Any]:
    last = session.last_message_at
    return {
        **keyed(session, caller),
        "id": session.id,
        "agent_name": session.agent_name,
        "user_id": session.user_id,
        "title": session.title,
        "metadata": dict(session.metadata),
        "archived": session.archived,
        "message_count": session.message_count,
        "created_at": isoformat(session.created_at),
        "updated_at": isoformat(session.updated_at),
        "last_message_at": None if last is None else isoformat(last),
    }


class ActionView(BaseModel):
    """What a run waits for: `kind` is `approval`, of a tool call, or `input`, of what an agent asks its user."""

    id: str
    kind: str
    name: str
    arguments: Any

    @classmethod
    def of(cls, action: Action) -> ActionView:
        return ActionView.model_validate(shown_action(action))


class RunErrorView(BaseModel):
    code: str
    message: str


class RunView(TenantView):
    """A run. `input` is what the client sent; `output` is null until there is some."""

    id: str
    agent_name: str
    session_id: str
    user_id: str
    status: str
    input: list[dict[str, Any]]
    output: str | None
    usage: UsageView | None
    error: RunErrorView | None
    finish_reason: str | None
    steps: int
    background: bool
    attempt: int
    metadata: dict[str, Any]
    trace_id: str
    created_at: str
    started_at: str | None
    ended_at: str | None
    actions: list[ActionView] | None = Field(
        default=None, exclude_if=is_absent, description="What it waits for, while its status is `requires_action`."
    )

    @classmethod
    def of(cls, run: Run, caller: Caller | None = None, actions: list[ActionView] | None = None) -> RunView:
        usage = shown_usage(run.usage)
        return cls(
            id=run.id,
            agent_name=run.agent_name,
            session_id=run.session_id,
            user_id=run.user_id,
            status=run.status.value,
            input=[message.as_dict() for message in run.input],
            output=run.output,
            usage=None if usage is None else UsageView(**usage),
            error=None if run.error is None else RunErrorView(code=run.error.code, message=run.error.message),
            finish_reason=run.finish_reason,
            steps=run.steps,
            background=run.background,
            attempt=run.attempt,
            metadata=dict(run.metadata),
            trace_id=run.trace_id,
            created_at=isoformat(run.created_at),
            started_at=None if run.started_at is None else isoformat(run.started_at),
            ended_at=None if run.ended_at is None else isoformat(run.ended_at),
            actions=actions,
            **tenant(run.owner, caller),
        )
