"""Events as the log and native clients have them: JSON, whatever a tool returned."""

from __future__ import annotations

import json
from typing import Any

import pytest

from innkeeper.core.events import TextDelta, ToolCalled, ToolReturned, json_bytes, payload, read, text_payloads
from innkeeper.services.assembling import Assembler


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


_LOOP: list[Any] = [1]
_LOOP.append(_LOOP)


class _Wordless:
    def __str__(self) -> str:
        raise LookupError("no text")


def _nested(levels: int) -> list[Any]:
    return [_nested(levels - 1)] if levels > 1 else []


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (float("nan"), None),
        ({"mean": float("inf"), "n": 2}, {"mean": None, "n": 2}),
        ([float("-inf"), (1, 2)], [None, [1, 2]]),
        ({(1, 2): "a"}, {"(1, 2)": "a"}),
        (_LOOP, [1, "…"]),
        ("lone \ud800", "lone \ud800"),
        ({"at": complex(1, 2)}, {"at": "(1+2j)"}),
        ([_Wordless(), 1], ["…", 1]),
        ({_Wordless(): 1}, {"…": 1}),
        ([10**5000, 10**4000], ["…", 10**4000]),
        (["[" * 100] * 50 + _nested(50), ["[" * 100] * 50 + _nested(50)),
    ],
)
def test_whatever_a_tool_returns_is_json_that_every_client_reads(result: object, told: object) -> None:
    data = payload(ToolReturned("statistics", "c1", result))
    assert b"\n" not in data
    assert json.loads(data, parse_constant=_refuse)["result"] == told
    assert read(data) == ToolReturned("statistics", "c1", told)


def test_what_is_nested_too_deep_for_others_is_cut_off() -> None:
    """Most parsers go on for some hundred levels, and Python for more."""
    told = json_bytes(_nested(300)).decode()
    assert told == "[" * 64 + '"\\u2026"' + "]" * 64


_DEEP: list[Any] = []
for _ in range(100_000):
    _DEEP = [_DEEP]


@pytest.mark.parametrize("result", [float("nan"), {(1, 2): 3}, _LOOP, _DEEP], ids=["nan", "keys", "loop", "deep"])
def test_an_odd_result_still_answers_its_call_in_the_history(result: object) -> None:
    assembler = Assembler()
    assembler.feed(ToolCalled("statistics", "c1", "{}"))
    assembler.feed(ToolReturned("statistics", "c1", result))
    assert [message.role for message in assembler.messages()] == ["assistant", "tool"]
    json.loads(str(assembler.messages()[1].content), parse_constant=_refuse)


def test_texts_encoded_in_a_row_are_the_bytes_of_their_events() -> None:
    texts = ["Hello", ' "you"\n', "é\u2028\t\\", "}\n{"]
    assert text_payloads(texts).split(b"\n") == [payload(TextDelta(text)) for text in texts]
