"""Recordings: reads a run that has ended, with the conversation that its agent was given, for `core.recordings`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from innkeeper.core.errors import Invalid, RunNotFound
from innkeeper.core.identity import Caller
from innkeeper.core.messages import Message
from innkeeper.core.recordings import recording_of
from innkeeper.core.runs import Run
from innkeeper.core.sessions import StoredMessage
from innkeeper.ports.readers import RunReader, SessionReader


class Recordings:
    """Makes recordings out of what is stored; it writes nothing."""

    def __init__(self, *, runs: RunReader, sessions: SessionReader) -> None:
        self._runs = runs
        self._sessions = sessions

    async def of(self, caller: Caller, run_id: str) -> dict[str, Any]:
        """Raises: RunNotFound; Invalid for a run that goes on."""
        run = await self._runs.find(caller, run_id)
        if run is None:
            raise RunNotFound(f"Run {run_id!r} does not exist.", param="run_id")
        if not run.status.is_terminal:
            raise Invalid(f"Run {run_id!r} is {run.status.value}: it can be exported when it has ended.")
        messages = await self._conversation(caller, run)
        plan = await self._runs.plan(run.id)
        return recording_of(run, messages, None if plan is None else plan.parameters, await self._log(run.id))

    async def _log(self, run_id: str) -> Sequence[bytes]:
        payloads: list[bytes] = []
        while segments := await self._runs.segments(run_id, len(payloads)):
            for segment in segments:
                payloads += segment.beyond(len(payloads)).payloads()
        return payloads

    async def _conversation(self, caller: Caller, run: Run) -> Sequence[Message]:
        """What the agent was given; where its session does not have that any more, what its request brought."""
        session = await self._sessions.find(caller, run.session_key)
        if session is None or session.key != run.session_key:
            return run.input
        stored = await self._sessions.messages(session)
        began = next((place for place, one in enumerate(stored) if one.run_id == run.id), None)
        if began is None:
            return run.input
        own = takewhile(lambda one: one.run_id == run.id and _is_asked(one), stored[began:])
        instructions = [message for message in run.input if message.is_instruction]
        spoken = [one.message for one in (*stored[:began], *own) if not one.message.is_instruction]
        return [*instructions, *spoken]


def _is_asked(stored: StoredMessage) -> bool:
    """Whether it is the request's: what an agent did by itself begins with an assistant's message."""
    return stored.message.role != "assistant"
