"""`/v1/conversations`: a conversation is a session, whichever surface made it.

Its items are its messages, of which one may be several; the server's own tool traffic is not among them. An item's id
is made of its session, its message's position and its place in it. Items are added and never removed one by one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import Query, Request, Response
from pydantic import BaseModel, Field

from innkeeper.core.errors import (
    Forbidden,
    IdempotencyMismatch,
    Invalid,
    NotFound,
    RunConflict,
    SessionNotFound,
    StorageUnavailable,
    Unauthorized,
    Unsupported,
)
from innkeeper.core.messages import Message
from innkeeper.core.sessions import Session, StoredMessage
from innkeeper.core.times import unix_seconds
from innkeeper.http.claims import REPLAYED, claim_of
from innkeeper.http.deps import MAX_CURSOR, CallerDep, Services, ServicesDep
from innkeeper.http.problems import problems
from innkeeper.http.responses.items import read_input
from innkeeper.http.responses.lists import ItemList, Order, PageLimit
from innkeeper.http.responses.shown import Json, items_of
from innkeeper.http.routes import needs, surface
from innkeeper.http.sessions import UserId, delete

router = surface(prefix="/v1/conversations", tags=["Responses"])

_READS = problems(Unauthorized, Forbidden, SessionNotFound, Invalid, StorageUnavailable)
_WRITES = problems(
    Unauthorized, Forbidden, SessionNotFound, Invalid, IdempotencyMismatch, RunConflict, StorageUnavailable
)
_MOST_ITEMS = 1000


class CreateConversationRequest(BaseModel):
    """A conversation to make; everything may be left out."""

    items: list[dict[str, Any]] | None = Field(default=None, max_length=_MOST_ITEMS)
    metadata: dict[str, Any] | None = None


class UpdateConversationRequest(BaseModel):
    metadata: dict[str, Any]


class CreateItemsRequest(BaseModel):
    items: list[dict[str, Any]] = Field(min_length=1, max_length=_MOST_ITEMS)


class Conversation(BaseModel):
    """A session, as OpenAI's clients see it."""

    id: str
    object: Literal["conversation"] = "conversation"
    created_at: int
    metadata: dict[str, Any]

    @classmethod
    def of(cls, session: Session) -> Conversation:
        return cls(id=session.id, created_at=unix_seconds(session.created_at), metadata=dict(session.metadata))


class DeletedConversation(BaseModel):
    id: str
    object: Literal["conversation.deleted"] = "conversation.deleted"
    deleted: bool = True


@router.post("", responses=_WRITES, openapi_extra=needs("sessions:write"))
async def create_conversation(
    body: CreateConversationRequest, request: Request, response: Response, caller: CallerDep, services: ServicesDep
) -> Conversation:
    """Make a conversation, which may begin with items."""
    messages = _messages(body.items or [])
    claim = claim_of(request, request.scope["innkeeper.body"])
    session, is_repeated, _ = await services.sessions.create(
        caller, metadata=body.metadata, claim=claim, prefix="conv_", messages=messages
    )
    if is_repeated:
        response.headers[REPLAYED] = "true"
    return Conversation.of(session)


@router.get("/{conversation_id}", responses=_READS, openapi_extra=needs("sessions:read"))
async def get_conversation(
    conversation_id: str, caller: CallerDep, services: ServicesDep, user_id: UserId = None
) -> Conversation:
    """A conversation, without its items."""
    return Conversation.of(await services.sessions.get(caller, conversation_id, user_id))


@router.post("/{conversation_id}", responses=_WRITES, openapi_extra=needs("sessions:write"))
async def update_conversation(
    conversation_id: str,
    body: UpdateConversationRequest,
    caller: CallerDep,
    services: ServicesDep,
    user_id: UserId = None,
) -> Conversation:
    """Replace a conversation's metadata."""
    changed = await services.sessions.update(caller, conversation_id, user_id=user_id, metadata=body.metadata)
    return Conversation.of(changed)


@router.delete("/{conversation_id}", responses=_READS, openapi_extra=needs("sessions:write"))
async def delete_conversation(
    conversation_id: str, caller: CallerDep, services: ServicesDep, user_id: UserId = None
) -> DeletedConversation:
    """Remove a conversation with everything that was said in it; what still runs in it is cancelled."""
    session = await services.sessions.get(caller, conversation_id, user_id)
    await delete(services, session)
    return DeletedConversation(id=session.id)


@router.get("/{conversation_id}/items", responses=_READS, openapi_extra=needs("sessions:read"))
async def list_items(
    conversation_id: str,
    caller: CallerDep,
    services: ServicesDep,
    limit: PageLimit = 20,
    order: Order = "desc",
    after: Annotated[str | None, Query(description="The id of the last item of the page before.")] = None,
    user_id: UserId = None,
) -> ItemList:
    """A page of what was said."""
    session = await services.sessions.get(caller, conversation_id, user_id)
    cursor = None if after is None else _place(session, after, "after")
    found: list[Json] = []
    position = None if cursor is None else cursor[0] + (1 if order == "desc" else -1)
    has_more = True
    while len(found) <= limit and has_more:
        stored, has_more = await _read(services, session, order, position, limit + 1)
        for one in stored:
            items = _items(session, one)
            if cursor is not None and one.position == cursor[0]:
                items = [item for item in items if _is_beyond(_part(item["id"]), cursor[1], order)]
            found += items if order == "asc" else reversed(items)
            position = one.position
    return ItemList.of(found[:limit], has_more=len(found) > limit)


async def _read(
    services: Services, session: Session, order: str, position: int | None, limit: int
) -> tuple[Sequence[StoredMessage], bool]:
    if order == "asc":
        return await services.sessions.said_after(session, position or 0, limit)
    return await services.sessions.said_before(session, position, limit)


def _is_beyond(part: int, cursor: int, order: str) -> bool:
    return part > cursor if order == "asc" else part < cursor


@router.post("/{conversation_id}/items", responses=_WRITES, openapi_extra=needs("sessions:write"))
async def create_items(
    conversation_id: str,
    body: CreateItemsRequest,
    request: Request,
    response: Response,
    caller: CallerDep,
    services: ServicesDep,
    user_id: UserId = None,
) -> ItemList:
    """Add items at the end, without running anything."""
    session = await services.sessions.get(caller, conversation_id, user_id)
    messages = _messages(body.items)
    claim = claim_of(request, request.scope["innkeeper.body"])
    if not messages:
        return ItemList.of([], has_more=False)
    stored, is_repeated = await services.sessions.append(
        caller, conversation_id, messages, user_id=user_id, claim=claim
    )
    if is_repeated:
        response.headers[REPLAYED] = "true"
    return ItemList.of([item for one in stored for item in _items(session, one)], has_more=False)


@router.get("/{conversation_id}/items/{item_id}", responses=_READS, openapi_extra=needs("sessions:read"))
async def get_item(
    conversation_id: str, item_id: str, caller: CallerDep, services: ServicesDep, user_id: UserId = None
) -> dict[str, Any]:
    """One item."""
    session = await services.sessions.get(caller, conversation_id, user_id)
    position, _ = _place(session, item_id, "item_id")
    stored, _ = await services.sessions.said_after(session, position - 1, 1)
    for one in stored:
        for item in _items(session, one):
            if item["id"] == item_id:
                return item
    raise _no_item(item_id)


@router.delete(
    "/{conversation_id}/items/{item_id}",
    responses={**_READS, **problems(Unsupported)},
    openapi_extra=needs("sessions:write"),
)
async def delete_item(
    conversation_id: str, item_id: str, caller: CallerDep, services: ServicesDep, user_id: UserId = None
) -> Conversation:
    """Refused: a conversation only grows. Delete the conversation, or go on after an earlier response."""
    await services.sessions.get(caller, conversation_id, user_id)
    raise Unsupported(
        "Items are not removed one by one. Delete the conversation, or leave items behind by going on after an earlier"
        " response with previous_response_id.",
        param="item_id",
    )


def _messages(items: list[dict[str, Any]]) -> tuple[Message, ...]:
    """What of the items is kept. Raises: Invalid."""
    given = read_input(items, {}, "items")
    if given.approvals:
        raise Invalid(
            "items: an approval decides nothing here; send it as the input of a response, with previous_response_id or"
            " this conversation.",
            param="items",
        )
    return given.messages


def _mark(session: Session) -> str:
    return hashlib.blake2b(session.key.encode(), digest_size=8).hexdigest()


def _items(session: Session, stored: StoredMessage) -> list[Json]:
    mark = _mark(session)
    return items_of(stored.message, lambda prefix, part: f"{prefix}_{mark}_{stored.position}p{part}")


def _part(item_id: str) -> int:
    return int(item_id.rpartition("p")[2])


def _place(session: Session, item_id: str, field: str) -> tuple[int, int]:
    """The position and the part that an item's id tells. Raises: NotFound, or Invalid for a cursor."""
    _, _, told = item_id.partition(f"_{_mark(session)}_")
    position, _, part = told.partition("p")
    if position.isascii() and part.isascii() and position.isdigit() and part.isdigit() and len(told) < 32:
        place = int(position), int(part)
        if place[0] <= MAX_CURSOR:
            return place
    if field == "after":
        raise Invalid(f"after: there is no item {item_id[:100]!r}.", param="after")
    raise _no_item(item_id)


def _no_item(item_id: str) -> NotFound:
    return NotFound(f"Item {item_id[:100]!r} does not exist.", param="item_id")
