"""Runs that wait for people, played by hand: until they pause, and in another runtime afterwards."""

from __future__ import annotations

from typing import Any

from innkeeper.core.actions import Answer, Continuation
from innkeeper.core.events import AgentEvent, Paused, ToolReturned
from innkeeper.runtimes.tools import tool


@tool(requires_approval=True)
def delete(path: str) -> str:
    """Deletes a file."""
    return f"deleted {path}"


@tool(requires_approval=lambda arguments: arguments["euros"] > 100)
def pay(euros: int) -> str:
    """Pays."""
    return f"paid {euros}"


def look(n: int) -> str:
    """Looks."""
    return f"saw {n}"


def paused(events: list[AgentEvent]) -> Paused:
    """How a run has ended that waits."""
    last = events[-1]
    assert isinstance(last, Paused), f"the last event was {last!r}"
    return last


def approve(action_id: str, arguments: str | None = None) -> Answer:
    return Answer(action_id, "approve", arguments)


def deny(action_id: str, message: str | None = None) -> Answer:
    return Answer(action_id, "deny", message=message)


def going_on(pause: Paused, *answers: Answer) -> Continuation:
    """With those answers, or with everything approved."""
    return Continuation(pause.state, answers or tuple(approve(action.id) for action in pause.actions))


def returned(events: list[AgentEvent]) -> dict[str, Any]:
    """What came of each call, by its id: the result, or `("error", why)`."""
    told = [event for event in events if isinstance(event, ToolReturned)]
    return {event.tool_call_id: ("error", event.error) if event.error is not None else event.result for event in told}
