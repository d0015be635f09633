"""Events: a run's log as the events of a response. The same log gives the same events, wherever a reader begins.

A pause ends the response for now, with what it waits for in its output; what follows is told as a response anew, under
the same id, and goes on counting. The server's own tool traffic has no events: clients fail at what they do not know.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from innkeeper.core.actions import Action
from innkeeper.core.changes import Segment
from innkeeper.core.events import (
    ActionRequired,
    ActionsAnswered,
    Event,
    ReasoningDelta,
    RunEnded,
    RunFailed,
    RunResumed,
    RunStarted,
    TextDelta,
    ToolCalled,
    read,
)
from innkeeper.core.runs import Run, RunError
from innkeeper.core.usage import Usage
from innkeeper.http.problems import run_error_facts
from innkeeper.http.responses.objects import INCOMPLETE, Json, Status, response
from innkeeper.http.responses.shown import output_text

_CANCELLED = RunError("CANCELLED", "The run was cancelled.")


@dataclass(slots=True)
class _Open:
    """The item that is being told: a message or reasoning. `begins_at` is where in the run's text it begins."""

    kind: str
    id: str
    index: int
    begins_at: int = 0
    said: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.said)

    def item(self, status: str) -> Json:
        if self.kind == "reasoning":
            summary = [] if status == "in_progress" else [_summary(self.text)]
            return {"id": self.id, "type": "reasoning", "summary": summary}
        content = [] if status == "in_progress" else [output_text(self.text)]
        return {"id": self.id, "type": "message", "status": status, "role": "assistant", "content": content}


@dataclass(frozen=True, slots=True)
class _Told:
    """An item that is complete, and up to where in the run's text it reaches, if it has text."""

    item: Json
    text: str = ""
    ends_at: int = -1

    def held(self) -> _Told:
        """The item, though it was cut off, as all of what it says holds."""
        is_message = self.item["type"] == "message"
        return replace(self, item={**self.item, "status": "completed"}) if is_message else self


class ResponseEvents:
    """Feed it a run's log in order; it yields the events, and afterwards knows the whole response."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.status: Status = "queued" if run.background else "in_progress"
        self.usage: Usage | None = None
        self.error: RunError | None = None
        self.finish_reason: str | None = None
        self.is_paused = False
        self._told: list[_Told] = []
        self._before: list[_Told] = []
        self._open: _Open | None = None
        self._sequence = 0
        self._items = 0
        self._index = 0
        self._length = 0
        self._is_announced = True

    def read(self, segment: Segment) -> Iterator[Json]:
        """The events that a segment of the log stands for."""
        for data in segment.payloads():
            yield from self.feed(read(data))

    def feed(self, event: Event) -> Iterator[Json]:
        """The events that an event of the log stands for, most often one."""
        if not self._is_announced and not isinstance(event, RunStarted):
            self._is_announced = True
            self.status = "in_progress"
            yield self._snapshot("response.in_progress")
        match event:
            case RunStarted():
                yield from self._begin(is_queued=self.run.background)
            case TextDelta(content):
                yield from self._say("message", content)
            case ReasoningDelta(content):
                yield from self._say("reasoning", content)
            case ToolCalled() if event.is_client_side:
                yield from self._call(event.tool_call_id, event.tool_name, event.arguments)
            case RunResumed(_, output_length, is_restart):
                yield from self._go_back(0 if is_restart else output_length, is_restart)
            case ActionRequired(_, actions, _):
                yield from self._pause(actions)
            case ActionsAnswered():
                self._before, self._told, self._index = [*self._before, *self._told], [], 0
                self.is_paused = False
                yield from self._begin()
            case RunFailed(code, message):
                self.error = RunError(code, message)
            case RunEnded():
                yield from self._end(event)
            case _:
                pass

    def response(self, *, completed_at: int | None = None, is_whole: bool = False) -> Json:
        """The response as it is now, since its last pause; or, where it `is_whole`, from the run's beginning."""
        told = [*self._before, *self._told] if is_whole else self._told
        output = [one.item for one in told]
        if self._open is not None:
            output.append(self._open.item("incomplete"))
        return response(
            self.run,
            self.status,
            output,
            usage=self.usage,
            error=self.error,
            finish_reason=self.finish_reason,
            completed_at=completed_at,
        )

    # the ladder

    def _event(self, kind: str, **fields: Any) -> Json:
        event = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return event

    def _snapshot(self, kind: str) -> Json:
        return self._event(kind, response=self.response())

    def _begin(self, *, is_queued: bool = False) -> Iterator[Json]:
        """A run in the background waits first; what it does next tells that it goes on."""
        self.status = "queued" if is_queued else "in_progress"
        yield self._snapshot("response.created")
        self._is_announced = not is_queued
        if not is_queued:
            yield self._snapshot("response.in_progress")

    def _new_id(self, prefix: str) -> str:
        self._items += 1
        return f"{prefix}_{self.run.id.removeprefix('run_')}_{self._items - 1}"

    def _say(self, kind: str, content: str) -> Iterator[Json]:
        if self._open is not None and self._open.kind != kind:
            yield from self._close("completed")
        if self._open is None:
            prefix = "msg" if kind == "message" else "rs"
            self._open = _Open(kind, self._new_id(prefix), self._index, self._length)
            self._index += 1
            yield self._event(
                "response.output_item.added", output_index=self._open.index, item=self._open.item("in_progress")
            )
            yield self._part("added", "")
        self._open.said.append(content)
        if kind == "message":
            self._length += len(content)
            yield self._event("response.output_text.delta", **self._place(), delta=content, logprobs=[])
        else:
            yield self._event("response.reasoning_summary_text.delta", **self._place(), delta=content)

    def _place(self) -> Json:
        assert self._open is not None, "an item is being told"
        which = "content_index" if self._open.kind == "message" else "summary_index"
        return {"item_id": self._open.id, "output_index": self._open.index, which: 0}

    def _part(self, verb: str, text: str) -> Json:
        assert self._open is not None, "an item is being told"
        if self._open.kind == "message":
            return self._event(f"response.content_part.{verb}", **self._place(), part=output_text(text))
        return self._event(f"response.reasoning_summary_part.{verb}", **self._place(), part=_summary(text))

    def _close(self, status: str) -> Iterator[Json]:
        """The item that is being told is complete, or will not be."""
        being_told = self._open
        if being_told is None:
            return
        text, item = being_told.text, being_told.item(status)
        if being_told.kind == "message":
            yield self._event("response.output_text.done", **self._place(), text=text, logprobs=[])
        else:
            yield self._event("response.reasoning_summary_text.done", **self._place(), text=text)
        yield self._part("done", text)
        yield self._event("response.output_item.done", output_index=being_told.index, item=item)
        is_text = being_told.kind == "message"
        self._told.append(_Told(item, text if is_text else "", self._length if is_text else -1))
        self._open = None

    def _call(self, call_id: str, name: str, arguments: str) -> Iterator[Json]:
        yield from self._close("completed")
        item_id, index = self._new_id("fc"), self._index
        self._index += 1
        item: Json = {"id": item_id, "type": "function_call", "status": "completed"}
        item |= {"call_id": call_id, "name": name, "arguments": arguments}
        begun = {**item, "status": "in_progress", "arguments": ""}
        place = {"item_id": item_id, "output_index": index}
        yield self._event("response.output_item.added", output_index=index, item=begun)
        yield self._event("response.function_call_arguments.delta", **place, delta=arguments)
        yield self._event("response.function_call_arguments.done", **place, name=name, arguments=arguments)
        yield self._event("response.output_item.done", output_index=index, item=item)
        self._told.append(_Told(item))

    def _go_back(self, length: int, is_restart: bool) -> Iterator[Json]:
        """Another attempt: what was told beyond `length` is void. What of an item holds is told again, in a new one."""
        yield from self._close("incomplete")
        kept = "" if is_restart else "".join(one.text for one in self._told)
        base = self._length - len(kept)
        valid = [one.held() for one in self._told if one.ends_at <= length] if not is_restart else []
        so_far = sum(len(one.text) for one in valid)
        rest = kept[so_far : max(length - base, so_far)]
        self._told, self._length = valid, base + so_far
        if is_restart:
            self._length = 0
        if rest:
            yield from self._say("message", rest)

    def _pause(self, actions: tuple[Action, ...]) -> Iterator[Json]:
        yield from self._close("completed")
        for action in actions:
            if action.kind == "input":
                yield from self._call(action.id, action.name, action.arguments)
                continue
            item = {"id": action.id, "type": "mcp_approval_request", "server_label": self.run.agent_name}
            item |= {"name": action.name, "arguments": action.arguments}
            for verb in ("added", "done"):
                yield self._event(f"response.output_item.{verb}", output_index=self._index, item=item)
            self._index += 1
            self._told.append(_Told(item))
        self.status, self.is_paused = "completed", True
        yield self._snapshot("response.completed")

    def _end(self, end: RunEnded) -> Iterator[Json]:
        self.usage, self.finish_reason = end.usage, end.finish_reason
        is_incomplete = end.finish_reason in INCOMPLETE
        is_completed = end.status == "completed"
        yield from self._close("completed" if is_completed and not is_incomplete else "incomplete")
        if is_completed:
            self.status = "incomplete" if is_incomplete else "completed"
            yield self._snapshot(f"response.{self.status}")
            return
        self.status = "cancelled" if end.status == "cancelled" else "failed"
        yield self._failure(_CANCELLED if self.status == "cancelled" else self.error or _CANCELLED)
        yield self._snapshot("response.failed")

    def _failure(self, error: RunError) -> Json:
        """The flat form that types know, and the nested one that SDKs look for."""
        told = run_error_facts(error)
        return self._event("error", code=told["code"], message=told["message"], param=None, error=told)


def _summary(text: str) -> Json:
    return {"type": "summary_text", "text": text}
