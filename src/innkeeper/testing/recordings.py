"""Recordings: a run that was exported with `innkeeper runs export`, for tests: what was asked, what happened, and both
as an agent that does the same again, or as a model that answers the same. `replays` compares another agent with it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from innkeeper.core.agents import AgentDescription
from innkeeper.core.context import RunContext
from innkeeper.core.errors import AgentFailed, SetupError
from innkeeper.core.events import (
    AgentEvent,
    Event,
    FinishNoted,
    ReasoningDelta,
    RunEnded,
    RunFailed,
    RunResumed,
    StepChanged,
    TextDelta,
    ToolCalled,
    ToolReturned,
    UsageReported,
    json_bytes,
    read,
)
from innkeeper.core.messages import Message, from_dict
from innkeeper.core.recordings import FORMAT, VERSION
from innkeeper.core.runs import Turn
from innkeeper.services.assembling import PARAGRAPH
from innkeeper.testing.scripts import Call, Outcome, Piece, Thought

if TYPE_CHECKING:
    from innkeeper.testing.replays import Replay
    from innkeeper.testing.scripted_models import ScriptedModel


def recorded(path: str | Path) -> Recording:
    """The recording in a file that `innkeeper runs export` wrote.

    Raises: SetupError for a file that is none, or that a later version wrote.
    """
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SetupError(f"{path}: cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise SetupError(f"{path}: is not JSON: {error}.") from error
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise SetupError(f"{path}: is no recording of a run; innkeeper runs export RUN_ID writes one.")
    if raw.get("version") != VERSION:
        raise SetupError(f"{path}: has the version {raw.get('version')!r} of recordings; this package reads {VERSION}.")
    return Recording(raw)


class Recording:
    """One run. `input` is the conversation that its agent was given, `events` its log, as native streams show it."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw
        self.run_id: str = raw["run_id"]
        self.agent_name: str = raw["agent_name"]
        self.status: str = raw["status"]
        self.input: list[dict[str, Any]] = raw["messages"]
        self.events: list[dict[str, Any]] = raw["events"]
        self.output: str | None = raw["output"]
        self.usage: dict[str, int] | None = raw["usage"]

    def __repr__(self) -> str:
        return f"Recording({self.run_id!r} of {self.agent_name!r}, {self.status})"

    @property
    def messages(self) -> tuple[Message, ...]:
        """`input`, as runtimes are given it."""
        return tuple(from_dict(one, is_internal=bool(one.get("internal"))) for one in self.input)

    @property
    def log(self) -> list[Event]:
        """`events`, without what an attempt had told whose process died and which another one began anew."""
        return _last_attempt([read(json_bytes(event)) for event in self.events])

    @property
    def script(self) -> list[list[Piece]]:
        """What the agent's model answered, step by step; empty where the agent told of no steps."""
        return script_of(self.log)

    def model(self) -> ScriptedModel:
        """A model that answers what the recorded agent's did.

        Raises: SetupError for an agent that told of no steps, as functions do not.
        """
        from innkeeper.testing.scripted_models import ScriptedModel

        script = self.script
        if not script:
            raise SetupError(f"The run {self.run_id} has no steps: its agent had no model that could be played again.")
        return ScriptedModel(script, name="recorded")

    def agent(self) -> RecordedAgent:
        """An agent that does the same again, whatever it is asked: for `register_agent`, or in a list of agents."""
        return RecordedAgent(self)

    def check(self, agent: object) -> Replay:
        """Run `agent` offline on the same input, with the recorded answers of its model; its tools are really called.

        Raises: RunDiffers, an AssertionError, that tells every difference in calls, their results, and the output.
        """
        from innkeeper.testing.replays import replay

        played = replay(self, agent)
        played.assert_same()
        return played


class RecordedAgent:
    """Tells a recorded run event by event, and fails where that one failed."""

    kind = "recorded"

    def __init__(self, recording: Recording) -> None:
        self.name = recording.agent_name
        self._recording = recording

    def describe(self) -> AgentDescription:
        tools = dict.fromkeys(one.tool_name for one in self._recording.log if isinstance(one, ToolCalled))
        description = f"Does again what {self.name} did in {self._recording.run_id}."
        return AgentDescription(self.name, description=description, tools=tuple(tools), provider="recorded")

    async def run(self, turn: Turn, context: RunContext) -> AsyncIterator[AgentEvent]:
        for event in self._recording.log:
            match event:
                case TextDelta() | ReasoningDelta() | ToolCalled() | ToolReturned() | StepChanged() | UsageReported():
                    yield event
                case RunFailed(_, message):
                    raise AgentFailed(message)
                case RunEnded(finish_reason=reason) if reason is not None:
                    yield FinishNoted(reason)


def _last_attempt(events: Iterable[Event]) -> list[Event]:
    """What an unfinished step of an attempt had told is void, or all of it, if the next one began anew."""
    kept: list[Event] = []
    for event in events:
        if isinstance(event, RunResumed):
            del kept[0 if event.is_restart else _end_of_last_step(kept) :]
        else:
            kept.append(event)
    return kept


def _end_of_last_step(events: Sequence[Event]) -> int:
    """Behind the last event that holds whatever happens to a process: a result, or the end of a step."""
    holds = [
        place
        for place, event in enumerate(events)
        if isinstance(event, ToolCalled | ToolReturned)
        or (isinstance(event, StepChanged) and event.status == "completed")
    ]
    return holds[-1] + 1 if holds else 0


def script_of(log: Iterable[Event]) -> list[list[Piece]]:
    """What a model must answer for an agent to do this, step by step. Text after the last one is its outcome."""
    steps: list[list[Piece]] = []
    is_in_step = False
    for event in log:
        match event:
            case StepChanged(status=status):
                is_in_step = status == "started"
                if is_in_step:
                    steps.append([])
            case TextDelta(content) if steps:
                _say(steps[-1], content if is_in_step else Outcome(content), is_first=len(steps) == 1)
            case ReasoningDelta(content) if steps:
                _think(steps[-1], content)
            case ToolCalled(name, call_id, arguments) if steps:
                steps[-1].append(Call(name, arguments, call_id))
            case _:
                pass
    return steps


def _say(step: list[Piece], said: str | Outcome, *, is_first: bool) -> None:
    """Neighbours are joined. The paragraph that the server sets between steps is not the model's."""
    if said == PARAGRAPH and not is_first and not any(isinstance(piece, str) for piece in step):
        return
    if isinstance(said, str) and step and isinstance(step[-1], str):
        step[-1] += said
    elif isinstance(said, Outcome) and said.text == PARAGRAPH:
        return
    else:
        step.append(said)


def _think(step: list[Piece], thought: str) -> None:
    if step and isinstance(step[-1], Thought):
        step[-1] = Thought(step[-1].text + thought)
    else:
        step.append(Thought(thought))
