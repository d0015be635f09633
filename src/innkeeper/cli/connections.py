"""Connections: uvicorn's HTTP protocol, kept within bounds.

uvicorn waits for ever for what a client has begun to send, and keeps whatever it sends as a header. Here nothing is
kept beyond the bounds, what is owed is owed for a while only, and who takes nothing is let go. What comes to an app is
the same; whether a head that is complete is within its bounds, the gate decides, which can answer better.
Invariant: a client that waits for an answer, however long, owes nothing.
"""

from __future__ import annotations

from typing import Any

import httptools
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from innkeeper.cli.patience import Debt, Taking, drop
from innkeeper.core.errors import AddressTooLong, InnkeeperError, RequestTooSlow, Unparsable
from innkeeper.http.bounds import GUARDED, Bounds
from innkeeper.http.contexts import new_id
from innkeeper.http.problems import answer

_LINGER_SECONDS = 2.0
"""How long a client that was answered before it has sent everything may go on, so that it can read the answer."""


_MOST_FRAMING, _FRAMING_A_BYTE = 512 * 1024, 16
"""What chunks may have beside their bytes, in extensions and trailers, which the parser may keep."""


_LONGEST_LINE = 8 * 1024 - 4
"""Of a WebSocket's header fields: its parser takes no longer lines, and would not say so."""


def bounds_in(config: Any) -> Bounds:
    """Those of uvicorn's configuration, which does not know of them."""
    found = getattr(config, "bounds", None)
    return found if isinstance(found, Bounds) else Bounds()


_Base = HttpToolsProtocol
"""Called by name where every request passes, as `super` costs as much again."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._bounds = bounds_in(self.config)
        self._head_limit = self._bounds.line_bytes + self._bounds.header_bytes + 4 * self._bounds.header_fields
        self._is_in_head = False
        self._is_refused = False
        self._is_websocket = False
        self._requests = 0
        self._head_bytes = -1
        self._body_bytes = self._rest_bytes = 0
        self._debt = Debt()
        self._taking = Taking()

    # what the client sends

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        self._unset_keepalive_if_required()
        rest = self._parse(data)
        while rest is not None:
            rest = self._begin_anew(rest)
        cycle: Any = self.cycle
        if self._is_in_head or (cycle is not None and cycle.more_body):
            self._bound_buffers(len(data))

    def _parse(self, data: Any) -> memoryview | None:
        """What is left of `data` where the head before it asks for a protocol that we do not speak."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.send_400_response("")
        except httptools.HttpParserUpgrade as stop:
            if not self._is_websocket:
                return memoryview(data)[stop.args[0] :]
            self.handle_websocket_upgrade()
        return None

    def _begin_anew(self, rest: memoryview) -> memoryview | None:
        """Parse a request, and the `rest` behind its head, as if it had not asked for another protocol.

        The parser has taken it for one without a body, whose bytes would then be the next request.
        """
        fields = [field for field in self.headers if field[0] != b"upgrade"]
        if len(fields) == len(self.headers):  # it is CONNECT
            self.send_400_response("")
            return None
        start = b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
        again = self._parse(b"\r\n".join([start, *(b"%s: %s" % field for field in fields), b"", b""]))
        return self._parse(rest) if again is None and not self._is_refused else again

    def _bound_buffers(self, size: int) -> None:
        """Refuse what the parser would keep for longer than `size` more bytes."""
        if self._is_refused:
            return
        if self._is_in_head:
            # The head may have begun behind a body in the same piece, which is not counted therefore.
            self._head_bytes = 0 if self._head_bytes < 0 else self._head_bytes + size
            if self._head_bytes > self._head_limit:
                self._refuse(self._bounds.too_large_headers() if self.headers else _too_long(self._bounds))
        else:
            self._rest_bytes += size
            if self._rest_bytes > _MOST_FRAMING + _FRAMING_A_BYTE * self._body_bytes:
                self._refuse(Unparsable("The body is sent in chunks with too much beside them."))

    def on_message_begin(self) -> None:
        _Base.on_message_begin(self)
        self.scope[GUARDED] = True  # type: ignore[literal-required]  # a key of ours
        self._requests += 1
        self._is_in_head = True
        self._head_bytes = -1
        self._body_bytes = self._rest_bytes = 0

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            self._is_websocket = _Base._should_upgrade(self)
            if not self._is_websocket:
                return  # to begin anew
        self._is_in_head = False
        _Base.on_headers_complete(self)
        if not self._is_websocket:
            self.headers = []  # where trailers go: they would join the headers of a request that has passed the gate

    def _should_upgrade(self) -> bool:
        return self._is_websocket

    def on_message_complete(self) -> None:
        if not self._is_in_head:
            _Base.on_message_complete(self)

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        _Base.on_body(self, body)

    def handle_websocket_upgrade(self) -> None:
        cycle: Any = self.cycle
        try:
            if cycle is not None and not cycle.response_complete:  # two would write to one client
                raise Unparsable("A WebSocket cannot begin before the request ahead of it has been answered.")
            if self.scope["method"] != "GET" or any(map(_tells_of_body, self.headers)):  # its parser says nothing
                raise Unparsable("A WebSocket begins with a GET without a body.")
            self._bounds.check({**self.scope, "raw_path": self.url, "path": "", "query_string": b""})
            if any(len(name) + len(value) > _LONGEST_LINE for name, value in self.headers):
                raise self._bounds.too_large_headers()
        except InnkeeperError as error:
            self._refuse(error)
        else:
            super().handle_websocket_upgrade()

    # what is done about it

    def send_400_response(self, msg: str) -> None:
        """uvicorn's answer to what is no HTTP, in the one body of all errors."""
        self._refuse(Unparsable("This is not a valid HTTP request."))

    def _refuse(self, error: InnkeeperError) -> None:
        """Answer, if no other answer is under way, and close once that can have been read."""
        self._is_refused = True
        cycle: Any = self.cycle
        if cycle is not None and not cycle.response_complete:
            self.transport.close()
            return
        self.transport.write(_encoded(answer(error, new_id())))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(_LINGER_SECONDS, self.transport.abort)

    def look(self, seconds: float) -> None:
        """Let the client go if it owes something for too long; `seconds` have gone by since the last look."""
        if self._taking.has_stalled(self.transport, self._bounds, seconds):
            drop(self.transport)
        elif not self._is_refused and not self.transport.is_closing():
            self._look_for_debts(seconds)

    def _look_for_debts(self, seconds: float) -> None:
        bounds, debt = self._bounds, self._debt
        cycle: Any = self.cycle
        if self._is_in_head:
            if debt.is_overdue(("head", self._requests), 0, seconds, bounds.slow_seconds):
                self._refuse(RequestTooSlow("The request's head did not arrive in time."))
        elif cycle is None or (cycle.response_complete and not cycle.more_body):
            if debt.is_overdue(("idle", self._requests), 0, seconds, bounds.idle_seconds):
                self.transport.close()
        elif cycle.response_complete:
            if debt.is_overdue(("rest", self._requests), 0, seconds, _LINGER_SECONDS):
                self.transport.abort()
        elif cycle.more_body and not self.flow.read_paused and not cycle.waiting_for_100_continue:
            if debt.is_overdue(("body", self._requests), self._body_bytes, seconds, bounds.slow_seconds):
                self._give_up_body()
        else:
            debt.forget()

    def _give_up_body(self) -> None:
        """The app hears that the client has left; so does the client, unless it is being answered."""
        if self.cycle.response_started:
            self.transport.abort()
            return
        self.transport.write(_encoded(answer(RequestTooSlow("The body did not arrive in time."), new_id())))
        self._is_refused = True
        self.transport.close()


def _tells_of_body(field: tuple[bytes, bytes]) -> bool:
    name, value = field
    return name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0") != b"")


def _too_long(bounds: Bounds) -> AddressTooLong:
    return AddressTooLong(f"The request line has more than {bounds.line_bytes} bytes.")


def _encoded(response: Response) -> bytes:
    """An answer as bytes, for clients whose request never became one."""
    reason = _REASONS.get(response.status_code, b"")
    lines = [b"HTTP/1.1 %d %s" % (response.status_code, reason), b"connection: close"]
    lines += [b"%s: %s" % field for field in response.raw_headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + bytes(response.body)


_REASONS = {
    400: b"Bad Request",
    408: b"Request Timeout",
    414: b"URI Too Long",
    431: b"Request Header Fields Too Large",
}
