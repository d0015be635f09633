"""The bus of a process that serves alone: there is nobody else to wake."""

from __future__ import annotations

from innkeeper.ports.bus import Receive


class MemoryBus:
    """Implements `ports.bus.Bus`."""

    is_connected = True

    async def open(self, receive: Receive) -> None:
        pass

    def publish(self, topic: str) -> None:
        pass

    async def close(self) -> None:
        pass
