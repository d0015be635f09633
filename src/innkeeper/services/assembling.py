"""Assembling: a run's events, as they pass, into the messages that its session keeps.

The same code serves a live run and one that is settled after a crash from its log.
"""

from __future__ import annotations

from innkeeper.core.events import (
    Event,
    FinishNoted,
    FinishReason,
    MessageInjected,
    ReasoningDelta,
    RunResumed,
    StepChanged,
    TextDelta,
    ToolCalled,
    ToolReturned,
    UsageReported,
    json_bytes,
)
from innkeeper.core.messages import Message, ToolUse
from innkeeper.core.usage import Usage

PARAGRAPH = "\n\n"
"""Set between text before a tool call and text after it, so that the joined output reads well."""


_TOKEN_BYTES = 4
"""About what a token is of; models put out rather more tokens than that makes."""

UNKNOWN = "The outcome of this tool call is unknown: the run ended before it returned."
"""The result that history shows for a call that was never answered; models refuse a call without one."""


class Assembler:
    """Feed it every event of a run in order; `messages()` and `output` are right at any time."""

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.by_model: dict[str | None, Usage] = {}
        self.finish_reason: FinishReason | None = None
        self.steps = 0
        self.client_calls: list[ToolUse] = []
        self.said: list[str] = []
        self._thought: list[str] = []
        self._untold_from: tuple[int, int] | None = None
        self.needs_care = False
        self._text_from = 0
        self._calls: list[ToolUse] = []
        self._open: dict[str, ToolUse] = {}
        self._done: list[Message] = []
        self._held: list[Message] = []  # said while a call is open: between it and its result nothing may stand
        self._is_paragraph_due = False
        self.is_answered = False
        self._step_began_at = 0
        self._step_has_calls = False
        self._boundary = 0
        self._is_due_at_boundary = False

    @property
    def output(self) -> str:
        """All text of the run, as a reader of its stream has seen it."""
        return "".join(self.said)

    @property
    def reasoning(self) -> str:
        """What the model thought aloud; it is told to the caller and becomes no part of the conversation."""
        return "".join(self._thought)

    @property
    def untold_tokens(self) -> int:
        """About how many tokens the model call under way has put out, of which it has told none yet."""
        if self._untold_from is None:
            return 0
        said, thought = self._untold_from
        heard = (*self.said[said:], *self._thought[thought:])
        return sum(len(text.encode(errors="replace")) for text in heard) // _TOKEN_BYTES

    def separator(self, content: str) -> str:
        """What must stand between the text so far and `content`, which follows a tool call; often nothing."""
        is_due, self._is_paragraph_due = self._is_paragraph_due, False
        self.needs_care = bool(self._calls)
        if not is_due or content.startswith("\n") or self.said[-1].endswith("\n"):
            return ""
        return PARAGRAPH

    def feed(self, event: Event) -> None:
        match event:
            case TextDelta(content):
                self.close_step()
                self.said.append(content)
            case ReasoningDelta(content):
                self._thought.append(content)
            case ToolCalled():
                self._call(event)
            case ToolReturned():
                self._return(event)
            case UsageReported(usage):
                self.usage = usage if self.usage is None else self.usage.plus(usage)
                known = self.by_model.get(usage.model)
                self.by_model[usage.model] = usage if known is None else known.plus(usage)
                if self._untold_from is not None:
                    self._untold_from = len(self.said), len(self._thought)
            case FinishNoted(reason):
                self.finish_reason = reason
            case StepChanged(number, status):
                self.steps = max(self.steps, number)
                self._untold_from = (len(self.said), len(self._thought)) if status == "started" else None
                self._change_step(status == "completed")
            case MessageInjected(was_deferred=True):
                pass  # its session had it before the run began
            case MessageInjected(content):
                self.close_step()
                if text := self._take_text():
                    self._done.append(Message("assistant", text))
                (self._held if self._open else self._done).append(Message("user", content))
                self._mark()
            case RunResumed(is_restart=True):
                self._restart()
            case RunResumed():
                self._go_back()
            case _:
                pass

    def _call(self, event: ToolCalled) -> None:
        use = ToolUse(event.tool_call_id, event.tool_name, event.arguments)
        self._step_has_calls = True
        if event.is_client_side:
            self.client_calls.append(use)
            return
        self._calls.append(use)
        self._open[use.id] = use
        self._is_paragraph_due = bool(self.said)
        self.needs_care = True
        self._mark()

    def _return(self, event: ToolReturned) -> None:
        told = event.error if event.error is not None else _text_of(event.result)
        self.close_step()
        self._open.pop(event.tool_call_id, None)
        self._done.append(Message("tool", told, tool_call_id=event.tool_call_id, is_internal=True))
        if not self._open:
            self._done += self._held
            self._held = []
        self._mark()

    def _change_step(self, is_completed: bool) -> None:
        if is_completed:
            has_said = len(self.said) > self._step_began_at
            self.is_answered = bool(self.client_calls) or (has_said and not self._step_has_calls)
            self._mark()
        else:
            self.is_answered = self._step_has_calls = False
            self._step_began_at = len(self.said)

    # taking up again

    def _mark(self) -> None:
        """What has been told up to here holds, whatever happens to the process."""
        self._boundary, self._is_due_at_boundary = len(self.said), self._is_paragraph_due

    def _go_back(self) -> None:
        """Forget what an unfinished model call had said: it is made again."""
        del self.said[self._boundary :]
        self._is_paragraph_due = self._is_due_at_boundary
        self.needs_care = bool(self._calls) or self._is_paragraph_due

    def _restart(self) -> None:
        """Forget everything but what it cost, and what was injected, which is delivered once."""
        injected = [message for message in (*self._done, *self._held) if message.role == "user"]
        usage, by_model = self.usage, self.by_model
        self.__init__()  # type: ignore[misc]  # a fresh one, in the place of this
        self.usage, self.by_model, self._done = usage, by_model, injected

    def resumed(self, attempt: int, *, resumes: bool) -> RunResumed:
        """Go back to where another attempt begins, and return the event that tells it."""
        kept = sum(map(len, self.said[: self._boundary]))
        event = RunResumed(attempt, kept) if resumes else RunResumed(attempt, is_restart=True)
        self.feed(event)
        return event

    def progress(self) -> tuple[tuple[Message, ...], tuple[ToolUse, ...]]:
        """What the run has added to its conversation so far, and the calls in it that have no result."""
        done = list(self._done)
        if self._calls:
            done.append(Message("assistant", self._untaken_text or None, tuple(self._calls), is_internal=True))
        return (*done, *self._held), tuple(self._open.values())

    def close_step(self) -> None:
        """What has been said and called so far becomes one assistant's message."""
        if self._calls:
            calls, self._calls = tuple(self._calls), []
            self._done.append(Message("assistant", self._take_text() or None, calls, is_internal=True))
            self.needs_care = self._is_paragraph_due

    def _take_text(self) -> str:
        text, self._text_from = self._untaken_text, len(self.said)
        return text

    @property
    def _untaken_text(self) -> str:
        """What was said since the last step, without the paragraph that was begun for readers of the whole."""
        text = "".join(self.said[self._text_from :])
        return text.removeprefix(PARAGRAPH) if self._text_from else text

    def messages(self) -> tuple[Message, ...]:
        """What the run adds to its session: tool traffic, then the answer, where there is one."""
        done = list(self._done)
        text, calls = self._untaken_text, tuple(self._calls)
        if calls:
            done.append(Message("assistant", text or None, calls, is_internal=True))
            text = ""
        done += [Message("tool", UNKNOWN, tool_call_id=use.id, is_internal=True) for use in self._open.values()]
        done += self._held
        if text or self.client_calls:
            done.append(Message("assistant", text or None, tuple(self.client_calls)))
        return tuple(done)

    @property
    def visible(self) -> Message:
        """The assistant's turn as its client saw it."""
        return Message("assistant", self.output, tuple(self.client_calls))


def _text_of(result: object) -> str:
    return result if isinstance(result, str) else json_bytes(result).decode()
