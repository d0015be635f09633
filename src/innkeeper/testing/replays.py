"""Replays: an agent run offline on the input of a recorded run, and how what it does differs from what was recorded.

The agent's model is replaced by one that answers what was recorded, and its tools are really called. A run that was
paused goes on with the answers that people had given. An agent without a model, such as a function, is run as it is.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from innkeeper.core.actions import Answer, Continuation
from innkeeper.core.errors import InnkeeperError, SetupError
from innkeeper.core.events import ActionsAnswered, Event, Paused, RunFailed, TextDelta, ToolCalled, ToolReturned
from innkeeper.core.recordings import redacted
from innkeeper.core.runs import Parameters, Turn
from innkeeper.ports.agents import Runtime
from innkeeper.runtimes.detection import adapt
from innkeeper.runtimes.isolated import IsolatedRuntime
from innkeeper.runtimes.settings import RuntimeSettings
from innkeeper.services.assembling import PARAGRAPH, Assembler
from innkeeper.testing.recordings import Recording
from innkeeper.testing.runtimes import new_context
from innkeeper.wiring import Kernel

T = TypeVar("T")

_UNANSWERED = "(no result)"


class RunDiffers(AssertionError):
    """An agent did not do what was recorded."""


@dataclass(frozen=True, slots=True)
class CallSeen:
    """A call of a tool, with the result or the error that came of it."""

    tool_name: str
    arguments: Any
    outcome: Any

    def __str__(self) -> str:
        return f"{self.tool_name}({_json(self.arguments)}) -> {_json(self.outcome)}"


@dataclass(frozen=True, slots=True)
class Replay:
    """What an agent did, beside what was recorded. `failure` is what it raised."""

    recording: Recording
    events: Sequence[Event]
    failure: str | None = None

    @property
    def output(self) -> str:
        return _said(self.events)

    @property
    def calls(self) -> list[CallSeen]:
        return _calls(self.events)

    @property
    def differences(self) -> list[str]:
        """Each in a sentence; none if the agent did the same."""
        log = self.recording.log
        failed = next((f"{event.code}: {event.message}" for event in log if isinstance(event, RunFailed)), None)
        found = []
        if (failed is None) != (self.failure is None):
            found.append(f"failure: recorded {failed or 'none'}; now {self.failure or 'none'}")
        calls, output = _calls(log), _said(log)
        calls_now, output_now = self.calls, self.output
        if self.recording.status == "cancelled":
            calls_now, output_now = _as_far_as(calls, calls_now), output_now[: len(output)]
        found += _differing_calls(calls, calls_now)
        if output != output_now:
            found.append(f"output: recorded {output!r}; now {output_now!r}")
        return found

    def assert_same(self) -> None:
        """Raises: RunDiffers."""
        if differences := self.differences:
            raise RunDiffers("\n  ".join([f"{self.recording!r} differs:", *differences]))


def replay(recording: Recording, agent: object) -> Replay:
    """Run `agent`, anything that can be registered, on what the recorded one was given.

    Raises: SetupError where it cannot be run offline.
    """
    runtime = adapt(agent, recording.agent_name, RuntimeSettings())
    while isinstance(runtime, IsolatedRuntime):
        runtime = runtime.inner
    played: Replay = _in_thread(_play, recording, _offline(runtime, recording))
    return played


def agent_of(target: str | None, name: str) -> object:
    """The agent `name` of what `innkeeper serve TARGET` would serve, or, for `None`, of what it would serve here.

    Raises: SetupError, AgentNotFound.
    """
    return _in_thread(_kernel_of(target, Path.cwd()).agents.find, name).runtime


@cache
def _kernel_of(target: str | None, folder: Path) -> Kernel:
    """Loaded once, as a module registers its agents only when it is first imported."""
    from innkeeper.apps.loading import kernel_of, load_app
    from innkeeper.apps.targets import locate
    from innkeeper.config import load_settings

    targets = [target] if target is not None else load_settings().targets
    kernel = kernel_of(load_app(locate(targets, folder), folder))
    if kernel is None:
        raise SetupError(f"{target} is an app that has no agents of its own; hand over the agent itself.")
    return kernel


def _offline(runtime: Runtime, recording: Recording) -> Runtime:
    with_model = getattr(runtime, "with_model", None)
    if with_model is not None:
        replaced: Runtime = with_model(recording.model())
        return replaced
    if runtime.describe().has_model:
        raise SetupError(
            "The model of this agent cannot be replaced: only innkeeper.Agent and Pydantic AI's agents can be checked."
            " Recording.agent() plays a run of any agent again."
        )
    return runtime


async def _play(recording: Recording, runtime: Runtime) -> Replay:
    answers = [event.answers for event in recording.log if isinstance(event, ActionsAnswered)]
    turn = Turn(recording.messages, _parameters(recording), stream=_is_streamed(recording.log))
    assembler, told = Assembler(), list[Event]()
    until = _amount(recording.log) if recording.status == "cancelled" else None  # its agent might go on for long
    try:
        while True:
            paused = await _play_until_paused(runtime, turn, assembler, told, until)
            if paused is None or not answers:
                return Replay(recording, told)
            continuation = Continuation(paused.state, _for(paused, answers.pop(0)))
            done, _ = assembler.progress()
            turn = replace(turn, messages=(*recording.messages, *done), continuation=continuation)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - an agent is code of others
        said = error.message if isinstance(error, InnkeeperError) else str(error)
        return Replay(recording, told, f"{type(error).__name__}: {said}")


async def _play_until_paused(
    runtime: Runtime, turn: Turn, assembler: Assembler, told: list[Event], until: Counter[str] | None
) -> Paused | None:
    """What is asked of people, if anything is. It ends early where as much has been told as `until` says."""
    done = _amount(told)
    if until is not None and done >= until:
        return None
    async for event in runtime.run(turn, new_context()):
        seen = TextDelta(event) if isinstance(event, str) else event
        if isinstance(seen, Paused):
            return seen
        assembler.feed(seen)
        told.append(seen)
        done += _amount((seen,))
        if until is not None and done >= until:
            return None
    return None


def _amount(log: Iterable[Event]) -> Counter[str]:
    """How much was said, and how often tools were called and returned."""
    amount: Counter[str] = Counter()
    for event in log:
        if isinstance(event, TextDelta) and event.content != PARAGRAPH:
            amount["text"] += len(event.content)
        elif isinstance(event, ToolCalled | ToolReturned):
            amount[type(event).__name__] += 1
    return amount


def _for(paused: Paused, answers: Sequence[Answer]) -> tuple[Answer, ...]:
    """The recorded answers, which are to these actions in their order: an id may be another one by now."""
    return tuple(replace(answer, action_id=one.id) for one, answer in zip(paused.actions, answers, strict=False))


def _parameters(recording: Recording) -> Parameters:
    """Those that were recorded, with a tool for each that the client had offered and the agent called.

    The model that a client named is left out: the recorded one answers.
    """
    known = {name: _frozen(value) for name, value in (recording.raw["parameters"] or {}).items() if name != "model"}
    parameters = Parameters(**known)
    if parameters.tools:
        return parameters
    called = dict.fromkeys(
        event.tool_name for event in recording.log if isinstance(event, ToolCalled) and event.is_client_side
    )
    shape = {"type": "object", "additionalProperties": True}
    tools = tuple({"type": "function", "function": {"name": name, "parameters": shape}} for name in called)
    return replace(parameters, tools=tools)


def _is_streamed(log: Sequence[Event]) -> bool:
    """Whether the caller had read along, as far as the log shows: some objects answer in another way then."""
    return sum(isinstance(event, TextDelta) for event in log) > 1


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _said(log: Sequence[Event]) -> str:
    """All text, without the paragraphs that a server sets between steps, and without what looks like a credential."""
    text = "".join(event.content for event in log if isinstance(event, TextDelta) and event.content != PARAGRAPH)
    return str(redacted(text))


def _calls(log: Sequence[Event]) -> list[CallSeen]:
    returned = {event.tool_call_id: event for event in log if isinstance(event, ToolReturned)}
    return [
        CallSeen(event.tool_name, redacted(_parsed(event.arguments)), _outcome(returned.get(event.tool_call_id)))
        for event in log
        if isinstance(event, ToolCalled)
    ]


def _outcome(returned: ToolReturned | None) -> Any:
    if returned is None:
        return _UNANSWERED
    told = {"error": returned.error} if returned.error is not None else returned.result
    return redacted(json.loads(_json(told)))


def _as_far_as(before: Sequence[CallSeen], now: Sequence[CallSeen]) -> list[CallSeen]:
    """As many calls as were made before a run was cancelled, of which the last may have come to nothing yet."""
    return [
        replace(one, outcome=_UNANSWERED) if was.outcome == _UNANSWERED else one
        for was, one in zip(before, now, strict=False)
    ]


def _differing_calls(before: Sequence[CallSeen], now: Sequence[CallSeen]) -> list[str]:
    found = []
    for place in range(max(len(before), len(now))):
        was = before[place] if place < len(before) else None
        is_now = now[place] if place < len(now) else None
        if was != is_now:
            found.append(f"call {place + 1}: recorded {was or 'none'}; now {is_now or 'none'}")
    return found


def _parsed(arguments: str) -> Any:
    try:
        return json.loads(arguments) if arguments else {}
    except ValueError:
        return arguments


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def _in_thread(work: Any, *arguments: Any) -> Any:
    """What a coroutine comes to, on an event loop of its own, so that tests with a loop may ask as well."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.extend((asyncio.run(work(*arguments)), None))
        except BaseException as error:  # noqa: BLE001 - it is raised again where it was asked for
            outcome.extend((None, error))

    thread = threading.Thread(target=run, name="innkeeper-replay")
    thread.start()
    thread.join()
    result, error = outcome
    if error is not None:
        raise error
    return result
