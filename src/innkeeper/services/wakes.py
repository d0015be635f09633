"""Wakes: what processes tell each other over the bus. Everything that is told here can also be found in the store, but
that an operator has an agent made anew.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from innkeeper.ports.bus import Bus

_LOG, _TURN, _WORKER, _QUEUE, _CAME = "log", "turn", "worker", "queue", "came"
_SESSION, _AGENT = "session", "agent"


class Wakes:
    """Tells, and hears. What is heard is handed to the functions that `listen` was given."""

    def __init__(self, bus: Bus, worker: str) -> None:
        self._bus = bus
        self._worker = worker
        self.is_alone = True
        """Whether no other process serves this store, as far as we know; then nothing is told."""
        self._on_session: Callable[[Collection[str] | None], None] = lambda _: None
        self._on_agent: Callable[[str], None] = lambda _: None

    @property
    def is_connected(self) -> bool:
        """Whether what is told here reaches other processes, if there are any, at once."""
        return self._bus.is_connected

    def log_grew(self, run_id: str) -> None:
        """A run's log has more, or its end."""
        if not self.is_alone:
            self._bus.publish(f"{_LOG}/{run_id}")

    def session_grew(self, session_key: str) -> None:
        """A session's log has more, or the session is gone."""
        if not self.is_alone:
            self._bus.publish(f"{_SESSION}/{session_key}")

    def on_session(self, look: Callable[[Collection[str] | None], None]) -> None:
        """Call `look` with the keys of sessions that others say have grown, or with `None` for any; before `listen`."""
        self._on_session = look

    def agent_changed(self, name: str) -> None:
        """This process has made an agent anew, and the others shall, too. Nobody finds that in the store."""
        self._bus.publish(f"{_AGENT}/{self._worker}/{name}")

    def on_agent(self, make: Callable[[str], None]) -> None:
        """Call `make` with each agent that another process has made anew; before `listen`."""
        self._on_agent = make

    def turn_came(self, run_id: str) -> None:
        """A waiting run is the next of its session."""
        self._bus.publish(f"{_TURN}/{run_id}")

    def work_came(self) -> None:
        """A run in the background waits to be taken."""
        self._bus.publish(f"{_QUEUE}/")

    def came(self) -> None:
        """This process serves the store from now on, and wants to be told."""
        self._bus.publish(f"{_CAME}/{self._worker}")

    def look(self, worker: str) -> None:
        """A run of this worker has been asked to end."""
        self._bus.publish(f"{_WORKER}/{worker}")

    async def listen(
        self,
        *,
        on_log: Callable[[Collection[str] | None], None],
        on_turn: Callable[[str], object],
        on_work: Callable[[], None],
        on_look: Callable[[], None],
    ) -> None:
        """Hear what other processes tell.

        Raises: SetupError if the bus cannot be reached.
        """

        def receive(topics: Collection[str]) -> None:
            if not topics:  # the connection was lost for a while: anything may have happened
                self.is_alone = False
                on_log(None)
                self._on_session(None)
                on_work()
                on_look()
                return
            told = [topic.partition("/") for topic in topics]
            if any(kind == _CAME and name != self._worker for kind, _, name in told):
                self.is_alone = False
            if logs := [name for kind, _, name in told if kind == _LOG]:
                on_log(logs)
            if sessions := [name for kind, _, name in told if kind == _SESSION]:
                self._on_session(sessions)
            for kind, _, name in told:
                if kind == _TURN:
                    on_turn(name)
                elif kind == _AGENT:
                    self._heard_of_agent(*name.partition("/")[::2])
            if any(kind in (_TURN, _QUEUE) for kind, _, _ in told):
                on_work()
            if any(kind == _WORKER and name == self._worker for kind, _, name in told):
                on_look()

        await self._bus.open(receive)

    def _heard_of_agent(self, worker: str, name: str) -> None:
        if worker != self._worker:
            self._on_agent(name)

    async def close(self) -> None:
        await self._bus.close()
