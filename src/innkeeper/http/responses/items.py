"""Items: what a client of Responses sends, as messages of a conversation.

Items of hosted tools, reasoning and whatever else no agent of ours can be told are passed over. An assistant's text and
the calls behind it are one message, as they are where chat completions send them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from innkeeper.core.errors import Invalid
from innkeeper.core.messages import Message, Part, ToolUse, normalise
from innkeeper.http.messages import ChatMessage, content_parts, message
from innkeeper.http.responses.compactions import Unpacking

MAX_ITEMS = 10_000
Item = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Approval:
    """What a person decided on an action; `value` is what a function's output says to a question of the agent."""

    action_id: str
    approves: bool
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Input:
    """A request's input: what joins the conversation, and what was decided on a run that waits."""

    messages: tuple[Message, ...]
    approvals: tuple[Approval, ...] = ()

    @property
    def unmatched(self) -> tuple[tuple[str, int], ...]:
        """The outputs of calls that are not in this input, with their places among the messages."""
        called = {use.id for said in self.messages for use in said.tool_calls}
        answered = [(said.tool_call_id, at) for at, said in enumerate(self.messages) if said.role == "tool"]
        return tuple((call_id, at) for call_id, at in answered if call_id is not None and call_id not in called)


def references(items: str | Sequence[Item]) -> list[str]:
    """The ids of items of earlier responses that stand for themselves."""
    if isinstance(items, str):
        return []
    found = [item.get("id") for item in items if item.get("type") == "item_reference" or _is_bare(item)]
    return [one for one in found if isinstance(one, str)]


def _is_bare(item: Item) -> bool:
    return item.get("type") is None and "role" not in item and isinstance(item.get("id"), str)


def read_input(items: str | Sequence[Item], known: Mapping[str, Item], where: str = "input") -> Input:
    """The messages of an input; `known` are the items that it refers to. `where` is its path in the body.

    Raises: Invalid, naming the field.
    """
    if isinstance(items, str):
        return Input((Message("user", items),))
    if len(items) > MAX_ITEMS:
        raise Invalid(f"{where}: at most {MAX_ITEMS} items are taken.", param=where)
    said: list[Message] = []
    approvals: list[Approval] = []
    compactions = Unpacking()
    for index, item in enumerate(items):
        at = f"{where}[{index}]"
        if item.get("type") == "item_reference" or _is_bare(item):
            item = _referred(item, known, at)
        if item.get("type") == "mcp_approval_response":
            approvals.append(_approval(item, at))
        elif item.get("type") == "compaction":
            _add(said, compactions.messages(item.get("encrypted_content"), f"{at}.encrypted_content"))
        else:
            _add(said, _messages(item, at))
    return Input(tuple(said), tuple(approvals))


def _referred(item: Item, known: Mapping[str, Item], at: str) -> Item:
    found = known.get(str(item.get("id")))
    if found is None:
        raise Invalid(f"{at}.id: Item with id {item.get('id')!r} not found.", param=f"{at}.id")
    return found


def _approval(item: Item, at: str) -> Approval:
    action_id, approves, reason = item.get("approval_request_id"), item.get("approve"), item.get("reason")
    if not isinstance(action_id, str) or not action_id:
        raise Invalid(f"{at}.approval_request_id: Field required", param=f"{at}.approval_request_id")
    if not isinstance(approves, bool):
        raise Invalid(f"{at}.approve: use true or false", param=f"{at}.approve")
    if reason is not None and not isinstance(reason, str):
        raise Invalid(f"{at}.reason: Input should be a valid string", param=f"{at}.reason")
    return Approval(action_id, approves, reason)


def _add(said: list[Message], more: Sequence[Message]) -> None:
    """Calls join the assistant's message before them."""
    for one in more:
        last = said[-1] if said else None
        if one.role == "assistant" and one.tool_calls and last is not None and last.role == "assistant":
            content = one.content if last.content is None else last.content
            said[-1] = replace(last, content=content, tool_calls=(*last.tool_calls, *one.tool_calls))
        else:
            said.append(one)


def _messages(item: Item, at: str) -> Sequence[Message]:
    match item.get("type"):
        case None | "message":
            return (_message(item, at),)
        case "function_call":
            return (Message("assistant", None, (_call(item, at),)),)
        case "function_call_output":
            return (_output(item, at),)
        case str():
            return ()
    raise Invalid(f"{at}.type: Input should be a valid string", param=f"{at}.type")


def _message(item: Item, at: str) -> Message:
    role, content = item.get("role"), item.get("content")
    if not isinstance(role, str):
        raise Invalid(f"{at}.role: Field required", param=f"{at}.role")
    if role == "tool":
        raise Invalid(f"{at}.role: send a tool's answer as function_call_output.", param=f"{at}.role")
    if content is not None and not isinstance(content, str) and not _are_parts(content):
        raise Invalid(f"{at}.content: use text or a list of content parts", param=f"{at}.content")
    return message(ChatMessage(role=role, content=content), at)


def _are_parts(content: object) -> bool:
    return isinstance(content, list) and all(isinstance(part, dict) for part in content)


def _call(item: Item, at: str) -> ToolUse:
    for name in ("call_id", "name"):
        if not isinstance(item.get(name), str) or not item[name]:
            raise Invalid(f"{at}.{name}: Field required", param=f"{at}.{name}")
    arguments = item.get("arguments", "")
    if not isinstance(arguments, str):
        raise Invalid(f"{at}.arguments: Input should be a valid string", param=f"{at}.arguments")
    return ToolUse(item["call_id"], item["name"], arguments)


def _output(item: Item, at: str) -> Message:
    call_id, output = item.get("call_id"), item.get("output")
    if not isinstance(call_id, str) or not call_id:
        raise Invalid(f"{at}.call_id: Field required", param=f"{at}.call_id")
    if isinstance(output, list) and _are_parts(output):
        parts: Sequence[Part] = content_parts(output, f"{at}.output")
        return Message("tool", normalise(parts), tool_call_id=call_id)
    if not isinstance(output, str):
        raise Invalid(f"{at}.output: use text or a list of content parts", param=f"{at}.output")
    return Message("tool", output, tool_call_id=call_id)
