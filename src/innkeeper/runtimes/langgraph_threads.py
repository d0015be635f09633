"""Threads of a graph that has a checkpointer of its own: what it is told where it remembers what was said.

A thread that knows the conversation is told what is new. One that knows another, because somebody edited a message or
spoke with another agent meanwhile, is told to forget it, and is told the whole; so is one that was left amid its calls
of tools, whose results it may have or not.
Importing this module imports `langgraph`.
"""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage, ToolMessage
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from langgraph.types import StateSnapshot

from innkeeper.runtimes.langchain_messages import open_calls, text_of


def fitted(begun: dict[str, Any], thread: StateSnapshot) -> dict[str, Any]:
    """The input of a turn for that thread."""
    held = thread.values.get("messages") if isinstance(thread.values, dict) else None
    messages = begun.get("messages")
    if not held or not messages:
        return begun
    last = max((place for place, one in enumerate(messages) if isinstance(one, AIMessage)), default=-1)
    new = messages[last + 1 :]
    is_amid_calls = bool(open_calls(held)) or any(isinstance(one, ToolMessage) for one in new)
    if last >= 0 and not is_amid_calls and _asked(held) == _asked(messages[: last + 1]):
        return {**begun, "messages": new}
    return {**begun, "messages": [RemoveMessage(REMOVE_ALL_MESSAGES), *messages]}


def _asked(messages: list[Any]) -> list[str]:
    return [text_of(one) for one in messages if isinstance(one, HumanMessage)]
