"""Resumptions: what is left to do of a turn whose earlier attempt was cut off, whatever the framework.

A call that was open may have had its effect. It is made again where its tool is idempotent; of any other, model and
user are told that its outcome is unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from innkeeper.core.events import AgentEvent, StepChanged, ToolReturned
from innkeeper.core.messages import Message, ToolUse
from innkeeper.core.runs import Parameters, Turn
from innkeeper.services.assembling import UNKNOWN


@dataclass(frozen=True, slots=True)
class Remainder:
    """Where a run begins. `messages` ends with the calls in `again`, if there are any; all others have a result.

    `steps` were begun before; the outcome of the calls in `unknown` has yet to be told.
    """

    messages: tuple[Message, ...]
    parameters: Parameters
    steps: int = 0
    again: tuple[ToolUse, ...] = ()
    unknown: tuple[ToolUse, ...] = ()

    def told(self) -> Iterator[AgentEvent]:
        """What the run's log lacks of the earlier attempt."""
        for use in self.unknown:
            yield ToolReturned(use.name, use.id, error=UNKNOWN)
        if self.unknown and not self.again:
            yield StepChanged(self.steps, "completed")


def remainder_of(turn: Turn, idempotent: frozenset[str]) -> Remainder:
    """What is left of `turn`; `idempotent` names the tools that may be called again."""
    resumption = turn.resumption
    if resumption is None:
        return Remainder(turn.messages, turn.parameters)
    again = tuple(use for use in resumption.open_calls if use.name in idempotent)
    unknown = tuple(use for use in resumption.open_calls if use.name not in idempotent)
    return Remainder(
        _reopened(turn.messages, frozenset(again), frozenset(unknown)),
        _still_asked(turn),
        resumption.steps,
        again,
        unknown,
    )


def continued(turn: Turn, steps: int) -> Remainder:
    """What is left of a turn that was paused in its step `steps`: what it had made of its messages was put aside."""
    return Remainder(turn.messages, _unforced(turn.parameters), steps)


def _reopened(
    messages: tuple[Message, ...], again: frozenset[ToolUse], unknown: frozenset[ToolUse]
) -> tuple[Message, ...]:
    """The conversation with a result for each unknown call, and the calls to be made again in its last message."""
    latest = {use: place for place, message in enumerate(messages) for use in message.tool_calls}
    done: list[Message] = []
    last: Message | None = None
    for place, message in enumerate(messages):
        open_here = [use for use in message.tool_calls if latest[use] == place]
        reopened = tuple(use for use in open_here if use in again)
        kept = tuple(use for use in message.tool_calls if use not in reopened)
        if reopened:
            last = Message("assistant", None if kept else message.content, reopened, is_internal=True)
        if kept or not reopened:
            done.append(replace(message, tool_calls=kept) if reopened else message)
        lost = [use for use in open_here if use in unknown]
        done += [Message("tool", UNKNOWN, tool_call_id=use.id, is_internal=True) for use in lost]
    return (*done, last) if last else tuple(done)


def _still_asked(turn: Turn) -> Parameters:
    """A tool that is demanded is demanded of the first model call, which has been made where something follows it."""
    if turn.messages and turn.messages[-1].role == "user":
        return turn.parameters
    return _unforced(turn.parameters)


def _unforced(parameters: Parameters) -> Parameters:
    return parameters if parameters.tool_choice in (None, "none", "auto") else replace(parameters, tool_choice=None)
