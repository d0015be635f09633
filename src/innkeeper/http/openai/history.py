"""History: sessions as clients of chat completions list and read them, page by page, each page with the total.

The same routes answer under `/atoms`, where clients in the field ask for them. What a native client sees of sessions is
in `http.sessions`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import Query
from pydantic import BaseModel, Field

from innkeeper.core.errors import Forbidden, Invalid, SessionNotFound, StorageUnavailable, Unauthorized
from innkeeper.core.sessions import Session, StoredMessage
from innkeeper.core.times import isoformat
from innkeeper.http.deps import MAX_PAGE, CallerDep, House, HouseDep, ServicesDep
from innkeeper.http.problems import problems
from innkeeper.http.routes import needs, surface
from innkeeper.services.agents import ServedAgent

router = surface(prefix="/v1/chat/sessions", tags=["OpenAI"])
field_router = surface(prefix="/atoms/chat/sessions", tags=["OpenAI"])

_LAST_PAGE = 2**31
_LISTS = problems(Unauthorized, Forbidden, Invalid, StorageUnavailable)
_READS = problems(Unauthorized, Forbidden, SessionNotFound, Invalid, StorageUnavailable)
_PERMISSION = needs("sessions:read")


class ChatSessionSummary(BaseModel):
    """A session. `model` is the agent's name, as a completion's is, and `agent_type` what hosts it."""

    id: str
    user_id: str
    organization_id: str | None
    title: str | None
    model: str | None
    agent_type: str | None = Field(description="The provider of the agent; null if it is not served any more.")
    created_at: str
    updated_at: str
    last_message_at: str | None
    message_count: int
    tokens_in: int
    tokens_out: int
    tokens_total: int
    metadata: dict[str, Any]
    archived: bool

    @classmethod
    def of(cls, session: Session, agents: Mapping[str, ServedAgent]) -> ChatSessionSummary:
        last, agent = session.last_message_at, agents.get(session.agent_name or "")
        return cls(
            id=session.id,
            user_id=session.user_id,
            organization_id=session.owner.organization,
            title=session.title,
            model=session.agent_name,
            agent_type=None if agent is None else agent.describe().provider,
            created_at=isoformat(session.created_at),
            updated_at=isoformat(session.updated_at),
            last_message_at=None if last is None else isoformat(last),
            message_count=session.message_count,
            tokens_in=session.input_tokens,
            tokens_out=session.output_tokens,
            tokens_total=session.input_tokens + session.output_tokens,
            metadata=dict(session.metadata),
            archived=session.archived,
        )


def _by_name(house: House) -> Mapping[str, ServedAgent]:
    """Those that are served by name; one that is made as it is asked for is not made for a list."""
    return {agent.name: agent for agent in house.agents}


_BESIDE_TEXT = ("name", "tool_calls", "tool_call_id")


class ChatMessageRecord(BaseModel):
    """A message. `content` is its text; `metadata` has the run that brought it, and what is no text."""

    id: str
    session_id: str
    message_index: int = Field(description="Its place in the conversation, from 0.")
    role: str
    content: str
    metadata: dict[str, Any]
    tokens: int | None = Field(description="What the run put out, if its agent told, beside its last message.")
    created_at: str
    updated_at: str | None

    @classmethod
    def of(cls, session: Session, index: int, stored: StoredMessage, tokens: int | None) -> ChatMessageRecord:
        said = stored.message
        shown = said.as_dict()
        extra: dict[str, Any] = {name: shown[name] for name in _BESIDE_TEXT if name in shown}
        if isinstance(shown["content"], list):
            extra["content"] = shown["content"]
        if stored.run_id is not None:
            extra["run_id"] = stored.run_id
        return cls(
            id=f"{session.key}-{stored.position}",
            session_id=session.id,
            message_index=index,
            role=said.role,
            content=said.text,
            metadata=extra,
            tokens=tokens,
            created_at=isoformat(stored.created_at),
            updated_at=None,
        )


class ChatSessionListResponse(BaseModel):
    """A page, newest first; `total` is how many there are in all."""

    sessions: list[ChatSessionSummary]
    total: int
    page: int
    page_size: int
    has_more: bool


class ChatSessionDetailResponse(BaseModel):
    """A session with its current conversation, oldest first."""

    session: ChatSessionSummary
    messages: list[ChatMessageRecord]


UserId = Annotated[
    str | None, Query(max_length=256, description="Whose sessions; your own if it is left out. An admin may name any.")
]


@router.get("", responses=_LISTS, openapi_extra=_PERMISSION)
@field_router.get("", responses=_LISTS, openapi_extra=_PERMISSION)
async def list_chat_sessions(
    caller: CallerDep,
    services: ServicesDep,
    house: HouseDep,
    user_id: UserId = None,
    page: Annotated[int, Query(ge=1, le=_LAST_PAGE, description="From 1.")] = 1,
    page_size: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 20,
) -> ChatSessionListResponse:
    """The sessions of one user, newest first, and how many there are."""
    offset = (page - 1) * page_size
    agents = _by_name(house)
    found, total = await services.sessions.numbered(caller, user_id, limit=page_size, offset=offset)
    return ChatSessionListResponse(
        sessions=[ChatSessionSummary.of(session, agents) for session in found],
        total=total,
        page=page,
        page_size=page_size,
        has_more=offset + len(found) < total and bool(found),
    )


@router.get("/{session_id}", responses=_READS, openapi_extra=_PERMISSION)
@field_router.get("/{session_id}", responses=_READS, openapi_extra=_PERMISSION)
async def get_chat_session(
    session_id: str, caller: CallerDep, services: ServicesDep, house: HouseDep, user_id: UserId = None
) -> ChatSessionDetailResponse:
    """A session and what was said in it, without the tool calls that the agent made on its own."""
    session, messages, outputs = await services.sessions.transcript(caller, session_id, user_id)
    return ChatSessionDetailResponse(
        session=ChatSessionSummary.of(session, _by_name(house)),
        messages=[
            ChatMessageRecord.of(session, index, stored, outputs.get(run_id) if run_id is not None else None)
            for (index, stored), run_id in zip(enumerate(messages), _spoken_last(messages), strict=True)
        ],
    )


def _spoken_last(messages: Sequence[StoredMessage]) -> list[str | None]:
    """For each message the run that it ends, if it is the last that this run's agent said."""
    last = {stored.run_id: index for index, stored in enumerate(messages) if stored.message.role == "assistant"}
    return [stored.run_id if last.get(stored.run_id) == index else None for index, stored in enumerate(messages)]
