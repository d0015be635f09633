"""Assembling: a run's events, as they pass, into the messages that its session keeps.

The same code serves a live run and one that is settled after a crash from its log.
"""

from __future__ import annotations

import json

from innkeeper.core.events import (
    Event,
    FinishNoted,
    FinishReason,
    MessageInjected,
    StepChanged,
    TextDelta,
    ToolCalled,
    ToolReturned,
    UsageReported,
)
from innkeeper.core.messages import Message, ToolUse
from innkeeper.core.usage import Usage

PARAGRAPH = "\n\n"
"""Set between text before a tool call and text after it, so that the joined output reads well."""


class Assembler:
    """Feed it every event of a run in order; `messages()` and `output` are right at any time."""

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.finish_reason: FinishReason | None = None
        self.steps = 0
        self.client_calls: list[ToolUse] = []
        self._said: list[str] = []
        self._text: list[str] = []
        self._calls: list[ToolUse] = []
        self._done: list[Message] = []
        self._names: dict[str, str] = {}
        self.is_paragraph_due = False

    @property
    def output(self) -> str:
        """All text of the run, as a reader of its stream has seen it."""
        return "".join(self._said)

    @property
    def has_open_calls(self) -> bool:
        return bool(self._calls)

    def feed_text(self, content: str) -> None:
        """The hot path of `feed`."""
        self._said.append(content)
        self._text.append(content)

    def feed(self, event: Event) -> None:
        match event:
            case TextDelta(content):
                if self._calls:
                    self.close_step()
                self.feed_text(content)
            case ToolCalled():
                self._call(event)
            case ToolReturned():
                self._return(event)
            case UsageReported(usage):
                self.usage = usage if self.usage is None else self.usage.plus(usage)
            case FinishNoted(reason):
                self.finish_reason = reason
            case StepChanged(number, _):
                self.steps = max(self.steps, number)
            case MessageInjected(content, _):
                self.close_step()
                self._done.append(Message("user", content))
            case _:
                pass

    def _call(self, event: ToolCalled) -> None:
        use = ToolUse(event.tool_call_id, event.tool_name, event.arguments)
        if event.is_client_side:
            self.client_calls.append(use)
            return
        self._calls.append(use)
        self.is_paragraph_due = bool(self._said)

    def _return(self, event: ToolReturned) -> None:
        self.close_step()
        told = event.error if event.error is not None else _text_of(event.result)
        self._done.append(Message("tool", told, tool_call_id=event.tool_call_id, is_internal=True))

    def close_step(self) -> None:
        """What has been said and called so far becomes one assistant's message."""
        if self._calls:
            text = "".join(self._text) or None
            self._done.append(Message("assistant", text, tuple(self._calls), is_internal=True))
            self._text, self._calls = [], []

    def messages(self) -> tuple[Message, ...]:
        """What the run adds to its session: tool traffic, then the answer, where there is one."""
        done = list(self._done)
        text, calls = "".join(self._text), tuple(self._calls)
        if calls:
            done.append(Message("assistant", text or None, calls, is_internal=True))
            text = ""
        if text or self.client_calls:
            done.append(Message("assistant", text or None, tuple(self.client_calls)))
        return tuple(done)

    @property
    def visible(self) -> Message:
        """The assistant's turn as its client saw it."""
        return Message("assistant", self.output, tuple(self.client_calls))


def _text_of(result: object) -> str:
    return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str)
