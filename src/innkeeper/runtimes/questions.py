"""Questions: what an agent of plain Python asks people, and is called again with the answer to.

A function cannot be put aside in its middle, so it does not wait: it ends with its question and what it wants to know
afterwards, and its next call finds both in `context.continuation`, whatever process makes it.
"""

from __future__ import annotations

import json
from uuid import uuid4

from innkeeper.core.actions import Action
from innkeeper.core.errors import Invalid
from innkeeper.core.events import Paused


def require_input(name: str, about: object = None, *, state: str = "") -> Paused:
    """What an agent yields or returns, as its last word, to pause its run until somebody has answered.

    `about` is any JSON value and is shown to whoever answers. The agent is then called again: `context.continuation`
    has `state` and, in `answers`, what was decided, "answer" with a `value` (JSON text) or "deny" with a `message`.

    Raises: Invalid where `name` is empty, `about` is no JSON, or `state` is no text.
    """
    if not name:
        raise Invalid("A question needs a name: require_input('destination', ...).", param="name")
    if not isinstance(state, str):
        raise Invalid("state is text; json.dumps makes it of other values.", param="state")
    try:
        told = json.dumps({} if about is None else about, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise Invalid(f"What a question is about must be a JSON value: {error}", param="about") from error
    return Paused((Action(f"act_{uuid4().hex}", "input", name, told),), state)
