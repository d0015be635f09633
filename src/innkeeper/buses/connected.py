"""What every bus over a network does, whatever it speaks: send what was published, and stay connected.

One task a bus sends over one line after another. It wakes when there is something to send, when its line says that
it has ended, and now and then by itself, to see whether the line still works; sending fails over a line that does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from innkeeper.buses.messages import is_topic, new_sender, packed, unpacked
from innkeeper.core.errors import SetupError
from innkeeper.ports.bus import Receive

_logger = logging.getLogger(__name__)

_FIRST_PAUSE, _LAST_PAUSE = 0.1, 2.0
_FAREWELL = 1.0
_MOST_PENDING = 10_000


class Line(Protocol):
    """What a bus hears and sends through; `send` without messages only sees whether it works."""

    async def send(self, messages: Sequence[str]) -> None: ...

    async def close(self) -> None: ...


class ConnectedBus(ABC):
    """Implements `ports.bus.Bus`. Whatever takes longer than `patience` seconds has failed."""

    def __init__(self, label: str, patience: float) -> None:
        self._label = label
        self._patience = patience
        self._sender = new_sender()
        self._pending: dict[str, None] = {}
        self._receive: Receive | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._is_connected = False

    @property
    def is_connected(self) -> bool:
        return self._is_connected

    @abstractmethod
    async def connect(self, hear: Callable[[str], None], wake: Callable[[], object]) -> Line:
        """A line that calls `hear` with each message that arrives, and `wake` when it ends.

        Raises: SetupError that names the cause and no secret.
        """

    async def open(self, receive: Receive) -> None:
        assert self._keeping is None, "the bus is open"
        self._wake = asyncio.Event()
        line = await self.connect(self._hear, self._wake.set)
        self._receive, self._is_connected = receive, True
        self._keeping = asyncio.get_running_loop().create_task(self._keep(line))

    def publish(self, topic: str) -> None:
        if self._receive is None or topic in self._pending:
            return
        if not is_topic(topic):
            _logger.error("a topic of %d characters cannot be sent and was dropped", len(topic))
        elif len(self._pending) < _MOST_PENDING:
            self._pending[topic] = None
            self._wake.set()

    async def close(self) -> None:
        """Sends what was published until now, unless that takes long."""
        keeping, self._keeping, self._receive = self._keeping, None, None
        if keeping is None:
            return
        if self._is_connected:
            self._wake.set()
            await asyncio.wait({keeping}, timeout=_FAREWELL)
        keeping.cancel()
        await asyncio.wait({keeping})
        self._pending.clear()

    async def _keep(self, line: Line) -> None:
        loop, pause = asyncio.get_running_loop(), _FIRST_PAUSE
        while True:
            began, self._is_connected = loop.time(), True
            try:
                await self._serve(line)
                return
            except Exception as error:  # noqa: BLE001 - drivers raise of every kind, and the remedy is one
                # Its text is not ours, and may hold anything.
                _logger.warning("the connection to %s was lost (%s)", self._label, type(error).__name__)
            finally:
                self._is_connected = False
                with contextlib.suppress(Exception):
                    await line.close()
            if self._receive is None:
                return
            lasted = loop.time() - began
            pause = _FIRST_PAUSE if lasted > _LAST_PAUSE else min(2 * pause, _LAST_PAUSE)
            line = await self._connect_again(pause)
            _logger.info("the connection to %s is back", self._label)
            self._tell(())

    async def _serve(self, line: Line) -> None:
        """Send until `close`, and what is left then; raises what the line does when it does not work any more."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2 * self._patience):
                    await self._wake.wait()
            self._wake.clear()
            topics, self._pending = self._pending, {}
            try:
                async with asyncio.timeout(self._patience):
                    await line.send(packed(self._sender, topics))
            except BaseException:
                self._pending = topics | self._pending
                raise
            if self._receive is None:
                return

    async def _connect_again(self, pause: float) -> Line:
        told = ""
        while True:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LAST_PAUSE)
            try:
                line = await self.connect(self._hear, self._wake.set)
            except SetupError as error:
                if error.message != told:
                    told = error.message
                    _logger.warning("%s", told)
            else:
                self._wake.set()
                return line

    def _hear(self, message: str) -> None:
        sender, topics = unpacked(message)
        if topics and sender != self._sender:
            self._tell(topics)

    def _tell(self, topics: Collection[str]) -> None:
        if self._receive is None:
            return
        try:
            self._receive(topics)
        except Exception:
            _logger.exception("what a bus told could not be acted on")
