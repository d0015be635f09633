"""Event streams: a run's log as it grows, and a session's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from innkeeper_client.asking import Asking
from innkeeper_client.effects import Answer, Item, Items, Sleep
from innkeeper_client.exceptions import error_of_frame
from innkeeper_client.frames import Frame
from innkeeper_client.requests import Request
from innkeeper_client.resuming import DONE, Cut, Reading, parsed
from innkeeper_client.runs import path_of
from innkeeper_client.session_events import SessionEvent, list_events

_AT_ONCE = 200
_AWAY = {"code": "SHUTTING_DOWN", "message": "The server is shutting down."}


@dataclass(frozen=True, slots=True)
class RunEvent:
    """An event of a run. `seq` is its place in the log; `data` is all that the server says, `type` included."""

    seq: int
    type: str
    data: Mapping[str, Any]

    @property
    def text(self) -> str:
        """What it adds to the run's text, mostly nothing."""
        return str(self.data["content"]) if self.type == "text" else ""


class RunReading(Reading[RunEvent]):
    """A run's log beyond `cursor`. A failure of the run is raised if `raises`, else it is an event like others."""

    def __init__(
        self, asking: Asking, *, run_id: str | None = None, after: int = 0, answer: Answer | None = None, raises: bool
    ) -> None:
        super().__init__(asking)
        self.run_id = run_id
        self.session_id: str | None = None
        self.cursor = after
        self._raises = raises
        self._headers: Mapping[str, str] = {}
        self._is_sent_away = False
        if answer is not None:
            begins_behind = answer.headers.get("x-run-cursor", "")
            self.cursor = int(begins_behind) if begins_behind.isdecimal() and len(begins_behind) < 20 else after
            self.opened(answer)

    def opened(self, answer: Answer) -> None:
        super().opened(answer)
        self._headers = answer.headers
        self._is_sent_away = False
        self.run_id = self.run_id or answer.headers.get("x-run-id")
        self.session_id = self.session_id or answer.headers.get("x-session-id")

    def take(self, frame: Frame) -> Iterator[RunEvent]:
        if frame.id is None:
            self._take_outside(frame)
            return
        seq = int(frame.id)
        if seq <= self.cursor:
            return
        data = parsed(frame)
        event = RunEvent(seq, str(data.get("type")), data)
        self.cursor = seq
        self.progressed()
        if event.type == "run":
            self.session_id = data.get("session_id")
        if event.type == "error" and self._raises:
            raise error_of_frame(data.get("error"), self._headers)
        yield event

    def continuation(self) -> Request[Any] | None:
        if self.run_id is None:
            return None
        return Request("GET", f"{path_of(self.run_id)}/events", dict, {"after": self.cursor or None})

    def _take_outside(self, frame: Frame) -> None:
        """What the server says of the stream itself."""
        if frame.data == DONE:
            if self._is_sent_away:
                raise Cut(error_of_frame(_AWAY, self._headers))
            self.is_over = True
            return
        told = parsed(frame)
        if "error" in told:
            raise Cut(error_of_frame(told["error"], self._headers))
        self._is_sent_away = told.get("type") == "shutdown"


class SessionReading:
    """The events of a session beyond `cursor`, without an end: looked for again and again."""

    def __init__(
        self, asking: Asking, session_id: str, *, after: int, event_type: str | None, poll_interval: float
    ) -> None:
        if not poll_interval > 0:
            raise ValueError("poll_interval: give seconds, more than 0")
        self.source = None
        self.is_over = False
        self.cursor = after
        self._asking = asking
        self._session_id = session_id
        self._event_type = event_type
        self._poll_interval = poll_interval

    def farewell(self) -> None:
        """Nobody needs to know."""

    def items(self) -> Items[SessionEvent]:
        retries = self._asking.retries
        while True:
            wanted = list_events(self._session_id, self._event_type, after=self.cursor, limit=_AT_ONCE)
            page = yield from self._asking.ask(wanted, retries)
            retries = self._asking.retries.lasting
            for event in page.events:
                self.cursor = event.sequence
                yield Item(event)
            if len(page.events) < _AT_ONCE:
                yield Sleep(self._poll_interval)
