"""Events of responses whose runs were cut off and taken up again: what is void, what holds, and what comes back."""

from __future__ import annotations

from typing import Any

import pytest

from innkeeper.core.events import Event, ReasoningDelta, RunEnded, RunResumed, RunStarted, TextDelta, ToolCalled
from innkeeper.core.identity import Owner
from innkeeper.core.runs import Run, RunStatus
from innkeeper.core.times import Instant
from innkeeper.http.responses.events import ResponseEvents

RUN = Run(
    id="run_1",
    owner=Owner("org", "ann"),
    user_id="ann",
    session_key="key",
    session_id="s",
    agent_name="a",
    endpoint="/v1/responses",
    status=RunStatus.RUNNING,
    turn=1,
    created_at=Instant(0),
    background=True,
    request={},
)
ENDED = RunEnded("run_1", "s", "completed", "", None, "stop")


def told(*events: Event) -> list[dict[str, Any]]:
    """The events of a response whose log is this, which is told the same each time."""
    log = [RunStarted("run_1", "s", "a"), *events, ENDED]
    first, second = (
        [one for event in log for one in reading.feed(event)] for reading in (ResponseEvents(RUN), ResponseEvents(RUN))
    )
    assert first == second
    assert [event["sequence_number"] for event in first] == list(range(len(first)))
    return first


def output(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """What the response holds in the end: ids and texts or names."""
    return [
        (item["id"], item["name"] if item["type"] == "function_call" else _text(item))
        for item in events[-1]["response"]["output"]
    ]


def _text(item: dict[str, Any]) -> str:
    return "".join(part["text"] for part in item.get("content") or item.get("summary") or ())


def done(events: list[dict[str, Any]]) -> list[tuple[str, str | None, str]]:
    """The items as streams told them."""
    items = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    return [(item["id"], item.get("status"), _text(item)) for item in items]


def test_text_that_was_cut_off_is_void_and_what_holds_of_it_is_told_again_in_a_new_item() -> None:
    events = told(TextDelta("One "), TextDelta("tw"), RunResumed(2, 4), TextDelta("two."))
    assert done(events) == [("msg_1_0", "incomplete", "One tw"), ("msg_1_1", "completed", "One two.")]
    assert output(events) == [("msg_1_1", "One two.")]


def test_text_that_holds_whole_stays_in_its_item() -> None:
    events = told(TextDelta("One."), RunResumed(2, 4), TextDelta(" Two."))
    assert output(events) == [("msg_1_0", "One."), ("msg_1_1", " Two.")]
    assert [item["status"] for item in events[-1]["response"]["output"]] == ["completed", "completed"]


def test_restart_makes_everything_void() -> None:
    call = ToolCalled("look", "call-1", "{}", is_client_side=True)
    void = (ReasoningDelta("Hm."), TextDelta("One "), call, TextDelta("two "))
    events = told(*void, RunResumed(2, 8, is_restart=True), TextDelta("Anew."))
    assert output(events) == [("msg_1_4", "Anew.")]


def test_attempts_may_be_cut_off_one_after_the_other() -> None:
    events = told(
        TextDelta("One tw"), RunResumed(2, 4), TextDelta("two thr"), RunResumed(3, 8), RunResumed(4, 8), TextDelta("!")
    )
    assert "".join(text for _, text in output(events)) == "One two !"
    events = told(
        TextDelta("One"), RunResumed(2, 0, is_restart=True), TextDelta("Tw"), RunResumed(3, 1), TextDelta("2")
    )
    assert "".join(text for _, text in output(events)) == "T2"


@pytest.mark.parametrize("length", range(8))
def test_wherever_it_goes_on_the_text_is_that_of_the_run(length: int) -> None:
    pieces = (TextDelta("abc"), ReasoningDelta("?"), TextDelta("def"), ReasoningDelta("?"), TextDelta("g"))
    events = told(*pieces, RunResumed(2, length), TextDelta("XY"))
    messages = [item for item in events[-1]["response"]["output"] if item["type"] == "message"]
    assert "".join(map(_text, messages)) == "abcdefg"[:length] + "XY"
    assert {item["status"] for item in messages} == {"completed"}
    assert len({item["id"] for item in messages}) == len(messages)
    assert events[-1]["type"] == "response.completed"
