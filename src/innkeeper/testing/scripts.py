"""Scripts: what a model is to answer, reply by reply. They are data; `scripted_models` is the model that plays them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool. `arguments` are a mapping, or JSON text as a model would write it, well-formed or not."""

    name: str
    arguments: Mapping[str, object] | str = "{}"
    id: str | None = None

    @property
    def text(self) -> str:
        given = self.arguments
        return given if isinstance(given, str) else json.dumps(dict(given), ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Wait:
    """A pause of so many seconds before what comes next."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Thought:
    """Something that the model thinks aloud."""

    text: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of an agent whose output is no plain text: JSON for its output tool, where it has one."""

    text: str


Piece = str | Call | Wait | Thought | Outcome | BaseException
Reply = Piece | Sequence[Piece]


def pieces_of(reply: Reply) -> tuple[Piece, ...]:
    """Raises: TypeError for what no reply can consist of."""
    pieces = (reply,) if isinstance(reply, str) or not isinstance(reply, Sequence) else tuple(reply)
    for piece in pieces:
        if not isinstance(piece, Piece):
            raise TypeError(f"{piece!r} cannot be part of a reply: use text, Call, Thought, Wait or an exception.")
    return pieces


def words(text: str) -> list[str]:
    """The text a word at a time, as models stream it."""
    first, *rest = text.split(" ")
    return [first, *(f" {word}" for word in rest)]
