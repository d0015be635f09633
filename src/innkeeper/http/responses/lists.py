"""Lists: pages of items as OpenAI's cursors have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import BaseModel

from innkeeper.core.errors import Invalid

PageLimit = Annotated[int, Query(ge=1, le=100, description="At most this many.")]
Order = Annotated[Literal["asc", "desc"], Query(description="Oldest first, or newest first.")]


class ItemList(BaseModel):
    """A page; `last_id` is the `after` that leads on. The ids of an empty page are empty."""

    object: Literal["list"] = "list"
    data: list[dict[str, Any]]
    first_id: str
    last_id: str
    has_more: bool

    @classmethod
    def of(cls, items: Sequence[dict[str, Any]], *, has_more: bool) -> ItemList:
        ends = (items[0]["id"], items[-1]["id"]) if items else ("", "")
        return cls(data=list(items), first_id=ends[0], last_id=ends[1], has_more=has_more)


def listed(items: Sequence[dict[str, Any]], limit: int, order: str, after: str | None) -> ItemList:
    """A page of items that are all at hand, oldest first. Raises: Invalid for a cursor that is none of them."""
    found = list(items) if order == "asc" else [*reversed(items)]
    start = 0
    if after is not None:
        places = [index for index, item in enumerate(found) if item["id"] == after]
        if not places:
            raise Invalid(f"after: there is no item {after[:100]!r}.", param="after")
        start = places[0] + 1
    return ItemList.of(found[start : start + limit], has_more=len(found) > start + limit)
