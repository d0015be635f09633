"""Text streams: a completion piece by piece, read to its end whatever becomes of connections.

It begins as the chunks of `/v1/chat/completions`. Where they break off, the log of the run goes on, which tells the
same text, so that what has been given already is known by its length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from innkeeper_client.actions import Action
from innkeeper_client.asking import Asking
from innkeeper_client.completions import UsageInfo, read_usage
from innkeeper_client.decoding import decode
from innkeeper_client.effects import Answer
from innkeeper_client.exceptions import ChatServerError, error_of_frame
from innkeeper_client.frames import Frame
from innkeeper_client.requests import Request, segment
from innkeeper_client.resuming import DONE, PASSING_CODES, Cut, Reading, parsed

_ENDS = {"cancelled": "The run was cancelled.", "interrupted": "The server stopped while the run was under way."}


class TextReading(Reading[str]):
    """`metadata` grows as the stream tells more."""

    def __init__(self, asking: Asking, answer: Answer) -> None:
        super().__init__(asking)
        self.source = answer.source
        self._headers = answer.headers
        self.metadata: dict[str, Any] = {
            "run_id": answer.headers.get("x-run-id"),
            "session_id": answer.headers.get("x-session-id"),
            "system_fingerprint": answer.headers.get("x-session-id"),
            "usage": UsageInfo(),
            "finish_reason": None,
            "actions": [],
        }
        self._given = 0
        self._heard = 0
        self._cursor: int | None = None

    def take(self, frame: Frame) -> Iterator[str]:
        if self._cursor is not None:
            return self._take_event(frame)
        return self._take_chunk(frame)

    def continuation(self) -> Request[Any] | None:
        run_id = self.metadata["run_id"]
        if run_id is None:
            return None
        if self._cursor is None:
            self._cursor = self._heard = 0
        path = f"/runs/{segment(run_id, 'run_id')}/events"
        return Request("GET", path, _unread, {"after": self._cursor or None})

    def farewell(self) -> Request[Any] | None:
        run_id = self.metadata["run_id"]
        if self.is_over or run_id is None:
            return None
        return Request("POST", f"/runs/{segment(run_id, 'run_id')}/cancel", _unread, body={})

    def _say(self, text: str) -> Iterator[str]:
        """`text` comes next in the run; what of it has been given is left out."""
        self._heard += len(text)
        new = self._heard - self._given
        if new > 0:
            self._given = self._heard
            self.progressed()
            yield text[-new:]

    # chunks

    def _take_chunk(self, frame: Frame) -> Iterator[str]:
        if frame.data == DONE:
            self.is_over = True
            return
        chunk = parsed(frame)
        if "error" in chunk:
            raise self._trouble(error_of_frame(chunk["error"], self._headers))
        self._note(chunk)
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            self.metadata["finish_reason"] = choice.get("finish_reason") or self.metadata["finish_reason"]
            if text := delta.get("content"):
                yield from self._say(text)

    def _note(self, chunk: Mapping[str, Any]) -> None:
        metadata = self.metadata
        for name in ("id", "created", "model", "system_fingerprint"):
            if chunk.get(name) is not None:
                metadata[name] = chunk[name]
        metadata["session_id"] = metadata["system_fingerprint"]
        if chunk.get("usage") is not None:
            metadata["usage"] = read_usage(chunk["usage"])
        self._note_actions(chunk)

    def _note_actions(self, told: Mapping[str, Any]) -> None:
        if told.get("actions"):
            self.metadata["actions"] = [decode(Action, action) for action in told["actions"]]

    def _trouble(self, error: ChatServerError) -> Exception:
        """What the server says of itself may be about this connection alone; of the run, its log says it again."""
        return Cut(error) if error.code in PASSING_CODES and self.metadata["run_id"] is not None else error

    # the run's log

    def _take_event(self, frame: Frame) -> Iterator[str]:
        if frame.id is None:
            raise Cut(_outside_of_the_log(frame, self._headers))
        seq = int(frame.id)
        assert self._cursor is not None, "it is being read"
        if seq <= self._cursor:
            return
        self._cursor = seq
        event = parsed(frame)
        kind = event.get("type")
        if kind == "text":
            yield from self._say(event["content"])
        elif kind == "requires_action":
            self._note_actions(event)
            self.metadata["finish_reason"] = "stop"
            self.is_over = True
        elif kind == "error":
            raise error_of_frame(event.get("error"), self._headers)
        elif kind == "done":
            self._end(event)

    def _end(self, event: Mapping[str, Any]) -> None:
        self.is_over = True
        session_id = event.get("session_id")
        usage = event.get("usage")
        self.metadata.update(session_id=session_id, system_fingerprint=session_id)
        self.metadata["finish_reason"] = event.get("finish_reason") or "stop"
        if usage is not None:
            self.metadata["usage"] = read_usage(usage)
        if event.get("status") != "completed":
            status = str(event.get("status"))
            facts = {"code": status.upper(), "message": _ENDS.get(status, "The run failed.")}
            raise error_of_frame(facts, self._headers)


def _outside_of_the_log(frame: Frame, headers: Mapping[str, str]) -> ChatServerError:
    """Why a stream of the log ends early."""
    told = {} if frame.data == DONE else parsed(frame)
    away = {"code": "SHUTTING_DOWN", "message": "The server is shutting down."}
    return error_of_frame(told.get("error", away), headers)


def _unread(_: Any) -> None:
    """What comes is a stream, or nothing that matters."""
