"""The contract of runtimes, as tests. Whoever writes a runtime runs them over it:

    from innkeeper.testing import RuntimeContract

    class TestMyRuntime(RuntimeContract):
        def echo_runtime(self):
            return MyRuntime(...)

Every sentence of `innkeeper.ports.agents.Runtime` has its test. What a runtime cannot do (tools, say) its
author leaves out, and those tests are skipped. The tests are plain functions and bring their own loop.
"""

from __future__ import annotations

import asyncio
import builtins
import socket
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar
from unittest import SkipTest
from unittest.mock import patch
from uuid import uuid4

from innkeeper.core.actions import Answer, Continuation, Decision
from innkeeper.core.agents import AgentDescription, checked_name
from innkeeper.core.context import RunContext
from innkeeper.core.events import (
    AgentEvent,
    FinishNoted,
    MessageInjected,
    Paused,
    StepChanged,
    TextDelta,
    ToolCalled,
    ToolReturned,
    UsageReported,
)
from innkeeper.core.messages import Message, ToolUse
from innkeeper.core.runs import Resumption, Turn
from innkeeper.core.usage import Usage
from innkeeper.ports.agents import Runtime
from innkeeper.services.assembling import UNKNOWN
from innkeeper.testing.lines import RecordedRun

T = TypeVar("T")

LONGEST_BLOCK = 0.15  # seconds for which a runtime may keep the event loop


def new_context(request: Any = None) -> RunContext:
    """A context as the server makes it for each run."""
    return RunContext(request, clock=time.monotonic, new_id=lambda: uuid4().hex, now=lambda: time.time_ns() // 1000)


async def play(
    runtime: Runtime, *messages: str | Message, context: RunContext | None = None, **turn: Any
) -> list[AgentEvent]:
    """The events of one turn. A string is a user's message; further keywords are those of `Turn`."""
    said = tuple(Message("user", one) if isinstance(one, str) else one for one in messages)
    events = runtime.run(Turn(said, **turn), context or new_context())
    return [TextDelta(event) if isinstance(event, str) else event async for event in events]


def text_of(events: list[AgentEvent]) -> str:
    return "".join(event.content for event in events if isinstance(event, TextDelta))


class RuntimeContract:
    """Override what your runtime can do. Each method returns a fresh runtime."""

    secrets: tuple[str, ...] = ()
    """Strings in the agents' instructions or keys, which a description must not show."""

    reported_usage: Usage | None = None
    """The tokens that the framework reports for one run of `echo_runtime`; `None` where it reports none."""

    def echo_runtime(self) -> Runtime:
        """Answers with the text of the last user message, unchanged."""
        raise NotImplementedError("echo_runtime() is what every runtime must be able to show.")

    def failing_runtime(self) -> Runtime:
        """Its agent raises an exception."""
        raise SkipTest("no failing_runtime()")

    def slow_runtime(self) -> Runtime:
        """Its agent is at work for half a second or more before it answers, blocking if it is synchronous."""
        raise SkipTest("no slow_runtime()")

    def tool_runtime(self) -> Runtime:
        """Its agent uses at least one tool of its own, whatever is said to it, and none that is idempotent."""
        raise SkipTest("no tool_runtime()")

    def steered_runtime(self) -> Runtime:
        """Its agent uses a tool of its own, whatever is said to it, and then answers with the text of the last user
        message. It asks for injected messages before it begins and after its tool has returned.
        """
        raise SkipTest("no steered_runtime()")

    def client_tool_runtime(self) -> Runtime:
        """Its agent calls a tool of the client's, whatever is said to it."""
        raise SkipTest("no client_tool_runtime()")

    def approval_runtime(self) -> Runtime:
        """Its agent calls a tool of its own that requires approval, whatever is said to it, with `{"text": "one"}`. The
        tool returns that text; the agent then answers with the text of the last user message.
        """
        raise SkipTest("no approval_runtime()")

    def test_describe_names_the_agent_and_does_not_change(self) -> None:
        runtime = self.echo_runtime()
        described = runtime.describe()
        assert isinstance(described, AgentDescription), f"describe() returned {described!r}"
        assert checked_name(described.name) == described.name
        assert runtime.describe() == described

    def test_describe_does_no_io(self) -> None:
        runtime = self.echo_runtime()
        refused = AssertionError("describe() must not do I/O")
        with (
            patch.object(builtins, "open", side_effect=refused),
            patch.object(socket.socket, "connect", side_effect=refused),
        ):
            runtime.describe()

    def test_describe_shows_neither_instructions_nor_secrets(self) -> None:
        shown = repr(self.echo_runtime().describe())
        assert not [secret for secret in self.secrets if secret in shown]

    def test_the_texts_joined_together_are_the_output(self) -> None:
        said = "one, two,\n three ü 🦊"
        for stream in (False, True):
            events = _run(play(self.echo_runtime(), said, stream=stream))
            assert text_of(events) == said, f"with stream={stream}: {events!r}"

    def test_usage_is_what_the_framework_reported(self) -> None:
        events = _run(play(self.echo_runtime(), "hello"))
        reports = [event.usage for event in events if isinstance(event, UsageReported)]
        total = Usage() if reports else None
        for usage in reports:
            total = (total or Usage()).plus(usage)
        expected = self.reported_usage
        assert (total is None) == (expected is None), f"reported {reports!r}, expected {expected!r}"
        if total is not None and expected is not None:
            assert (total.input_tokens, total.output_tokens) == (expected.input_tokens, expected.output_tokens)

    def test_every_event_is_an_event_of_agents(self) -> None:
        for event in _run(play(self.echo_runtime(), "hello", stream=True)):
            assert isinstance(event, AgentEvent), f"{event!r} is none of {AgentEvent}"

    def test_a_runtime_keeps_nothing_between_runs(self) -> None:
        runtime = self.echo_runtime()

        async def twice() -> list[str]:
            return [text_of(await play(runtime, said)) for said in ("first", "second")]

        assert _run(twice()) == ["first", "second"]

    def test_concurrent_runs_do_not_disturb_each_other(self) -> None:
        runtime, said = self.echo_runtime(), [f"message {number}" for number in range(8)]

        async def together() -> list[list[AgentEvent]]:
            return await asyncio.gather(*(play(runtime, one, stream=True) for one in said))

        assert [text_of(events) for events in _run(together())] == said

    def test_a_run_can_be_left_early(self) -> None:
        async def left() -> AgentEvent | str:
            events = self.echo_runtime().run(Turn((Message("user", "a b c"),), stream=True), new_context())
            first = await anext(events)
            await _close(events)
            return first

        assert isinstance(_run(left()), AgentEvent | str)

    def test_a_runtime_fails_by_raising(self) -> None:
        try:
            events = _run(play(self.failing_runtime(), "hello"))
        except Exception:  # noqa: BLE001 (any exception is the runtime's way to fail)
            return
        raise AssertionError(f"The run ended as if nothing had happened: {events!r}")

    def test_a_failing_run_leaves_the_next_one_alone(self) -> None:
        runtime = self.failing_runtime()

        async def twice() -> list[object]:
            runs = (play(runtime, "hello"), play(runtime, "hello"))
            return list(await asyncio.gather(*runs, return_exceptions=True))

        assert all(isinstance(result, Exception) for result in _run(twice()))

    def test_cancellation_comes_through_at_once(self) -> None:
        async def cancelled() -> float:
            run = asyncio.ensure_future(play(self.slow_runtime(), "hello"))
            await asyncio.wait([run], timeout=0.1)
            assert not run.done(), "slow_runtime() must be at work for half a second or more"
            began = time.monotonic()
            run.cancel()
            await asyncio.wait([run])
            assert run.cancelled(), "CancelledError must be let through"
            return time.monotonic() - began

        assert _run(cancelled()) < LONGEST_BLOCK

    def test_a_run_never_blocks_the_event_loop(self) -> None:
        async def longest_pause() -> float:
            run = asyncio.ensure_future(play(self.slow_runtime(), "hello"))
            longest, last = 0.0, time.monotonic()
            while not run.done():
                await asyncio.wait([run], timeout=0.01)
                longest, last = max(longest, time.monotonic() - last), time.monotonic()
            await run
            return longest

        assert _run(longest_pause()) < LONGEST_BLOCK

    def test_a_tool_result_follows_its_call(self) -> None:
        called: dict[str, str] = {}
        returned = 0
        for event in _run(play(self.tool_runtime(), "hello")):
            if isinstance(event, ToolCalled):
                assert event.tool_call_id not in called, f"two calls have the id {event.tool_call_id!r}"
                called[event.tool_call_id] = event.tool_name
            elif isinstance(event, ToolReturned):
                assert called.get(event.tool_call_id) == event.tool_name, f"{event!r} answers none of {called!r}"
                returned += 1
        assert returned, "tool_runtime() must show at least one tool's result"

    def test_a_run_ends_after_a_call_that_is_the_clients(self) -> None:
        events = _run(play(self.client_tool_runtime(), "hello"))
        first = next(
            (place for place, event in enumerate(events) if isinstance(event, ToolCalled) and event.is_client_side),
            None,
        )
        assert first is not None, "client_tool_runtime() must call a tool of the client's"
        for event in events[first:]:
            assert isinstance(event, ToolCalled | UsageReported | FinishNoted | StepChanged), f"then came {event!r}"

    def test_a_run_pauses_for_a_call_that_requires_approval_and_ends_after_it(self) -> None:
        first = _run(play(self.approval_runtime(), "hello"))
        paused = first[-1]
        assert isinstance(paused, Paused), f"the last event was {paused!r}"
        called = {event.tool_call_id for event in first if isinstance(event, ToolCalled)}
        waiting = {action.id for action in paused.actions if action.kind == "approval"}
        assert waiting and waiting <= called, f"{waiting!r} wait, and {called!r} were told"
        assert not [event for event in first if isinstance(event, ToolReturned) and event.tool_call_id in waiting]

    def test_a_paused_run_goes_on_in_another_runtime_from_text_alone(self) -> None:
        first, resumed = self._decided("approve")
        (returned,) = [event for event in resumed if isinstance(event, ToolReturned)]
        assert (returned.result, returned.error) == ("one", None)
        assert not [event for event in resumed if isinstance(event, ToolCalled)], "the call was told before the pause"
        assert text_of(resumed) == "hello"
        begun = {event.step_number for event in first if isinstance(event, StepChanged) and event.status == "started"}
        again = [event for event in resumed if isinstance(event, StepChanged) and event.status == "started"]
        assert not [event for event in again if event.step_number in begun], f"{again!r} were begun before"

    def test_what_was_used_before_a_pause_is_not_reported_again(self) -> None:
        def spent(events: list[AgentEvent]) -> int:
            return len([event for event in events if isinstance(event, UsageReported)])

        def calls(events: list[AgentEvent]) -> int:
            return len([one for one in events if isinstance(one, StepChanged) and one.status == "started"])

        for part in self._decided("approve"):
            assert spent(part) <= calls(part), "a report is of a model call"

    def test_a_call_that_is_denied_is_not_made_and_its_error_is_the_reason(self) -> None:
        _, resumed = self._decided("deny", message="Not on my watch.")
        (returned,) = [event for event in resumed if isinstance(event, ToolReturned)]
        assert returned.result is None and returned.error is not None and "Not on my watch." in returned.error
        assert text_of(resumed) == "hello"

    def test_a_call_that_is_approved_with_other_arguments_is_made_with_those(self) -> None:
        _, resumed = self._decided("approve", arguments='{"text": "another"}')
        (returned,) = [event for event in resumed if isinstance(event, ToolReturned)]
        assert returned.result == "another"

    def test_what_is_injected_while_a_run_is_paused_is_delivered_when_it_goes_on(self) -> None:
        paused = _run(play(self.approval_runtime(), "hello"))[-1]
        assert isinstance(paused, Paused)
        run = RecordedRun(new_context())
        run.inject("instead")
        log = _run(run.play(self.approval_runtime(), "hello", continuation=_answered(paused, "approve")))
        assert [event.content for event in log if isinstance(event, MessageInjected)] == ["instead"]
        assert text_of(log) == "instead"

    def test_a_run_whose_state_cannot_be_read_fails(self) -> None:
        paused = _run(play(self.approval_runtime(), "hello"))[-1]
        assert isinstance(paused, Paused)
        for state in ("", "{}", "[]", '{"version": 0}', paused.state[:-1]):
            continuation = Continuation(state, _answered(paused, "approve").answers)

            async def gone_on(continuation: Continuation = continuation) -> object:
                run = play(self.approval_runtime(), "hello", continuation=continuation)
                (outcome,) = await asyncio.gather(run, return_exceptions=True)
                return outcome

            assert isinstance(outcome := _run(gone_on()), Exception), f"went on from {state[:40]!r}: {outcome!r}"

    def _decided(self, decision: Decision, **answer: Any) -> tuple[list[AgentEvent], list[AgentEvent]]:
        """A run until it pauses, and what another runtime tells of it afterwards."""
        first = _run(play(self.approval_runtime(), "hello"))
        paused = first[-1]
        assert isinstance(paused, Paused), f"the last event was {paused!r}"
        continuation = _answered(paused, decision, **answer)
        return first, _run(play(self.approval_runtime(), "hello", continuation=continuation))

    def test_injected_messages_are_delivered_once_in_order_when_tools_have_returned(self) -> None:
        run = RecordedRun(new_context())
        injections = iter([("first", "second")])

        def seen(event: AgentEvent) -> None:
            if isinstance(event, ToolCalled):
                run.inject(*next(injections, ()))

        log = _run(run.play(self.steered_runtime(), "hello", seen=seen))
        told = [event.content for event in log if isinstance(event, MessageInjected)]
        assert told == ["first", "second"], f"delivered {told!r}"
        before = log[: log.index(MessageInjected("first", "inj_1"))]
        called = {event.tool_call_id for event in before if isinstance(event, ToolCalled)}
        returned = {event.tool_call_id for event in before if isinstance(event, ToolReturned)}
        assert called == returned, "a message may not stand between a call and its result"
        assert text_of(log) == "second"

    def test_a_message_that_waits_is_delivered_before_anything_is_said(self) -> None:
        run = RecordedRun(new_context())
        runtime = self.steered_runtime()
        run.inject("instead")
        log = _run(run.play(runtime, "hello"))
        said = [event for event in log if isinstance(event, TextDelta | ToolCalled | MessageInjected)]
        assert said[0] == MessageInjected("instead", "inj_1"), f"first came {said[0]!r}"
        assert text_of(log) == "instead"

    def test_a_resumed_run_makes_no_call_again_that_has_returned(self) -> None:
        first, resumed = _run(self._cut_off(is_open=False))
        begun = {event.tool_call_id for event in first if isinstance(event, ToolCalled)}
        again = [event for event in resumed if isinstance(event, ToolCalled | ToolReturned)]
        assert not [event for event in again if event.tool_call_id in begun], f"again came {again!r}"
        assert text_of(resumed) == text_of(first)
        assert all(event.step_number > 1 for event in resumed if isinstance(event, StepChanged))

    def test_a_call_that_was_cut_off_is_told_as_unknown(self) -> None:
        first, resumed = _run(self._cut_off(is_open=True))
        begun = [event.tool_call_id for event in first if isinstance(event, ToolCalled)]
        told = {event.tool_call_id: event for event in resumed if isinstance(event, ToolReturned)}
        for call_id in begun:
            assert call_id in told and told[call_id].error == UNKNOWN, f"{call_id!r} was told as {told.get(call_id)!r}"
        assert not [event for event in resumed if isinstance(event, ToolCalled) and event.tool_call_id in begun]
        assert text_of(resumed) == text_of(first)

    async def _cut_off(self, *, is_open: bool) -> tuple[list[AgentEvent], list[AgentEvent]]:
        """A whole run, and what another attempt tells where that ended when its first calls were made, or done."""
        runtime = self.tool_runtime()
        if not runtime.describe().resumes:
            raise SkipTest("it does not resume")
        first = await play(runtime, "hello")
        end = next(place for place, event in enumerate(first) if isinstance(event, ToolReturned))
        calls = [event for event in first[:end] if isinstance(event, ToolCalled)]
        uses = tuple(ToolUse(call.tool_call_id, call.tool_name, call.arguments) for call in calls)
        messages = [Message("user", "hello"), Message("assistant", None, uses)]
        if not is_open:
            messages += [Message("tool", "done", tool_call_id=use.id) for use in uses]
        resumption = Resumption(2, 1, uses if is_open else ())
        return first, await play(runtime, *messages, resumption=resumption)


def _answered(paused: Paused, decision: Decision, **answer: Any) -> Continuation:
    return Continuation(paused.state, tuple(Answer(action.id, decision, **answer) for action in paused.actions))


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


async def _close(events: AsyncIterator[AgentEvent | str]) -> None:
    close = getattr(events, "aclose", None)
    if close is not None:
        await close()
