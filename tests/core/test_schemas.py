"""Schemas of tools' arguments: what the values of a list are compared with, however many there are of both."""

from __future__ import annotations

import time
from typing import Any

import pytest

from innkeeper.core.errors import Invalid
from innkeeper.core.schemas import check, object_schema

SCHEMA = object_schema({"many": {"type": "array", "items": {"enum": [*range(10_000), "last"]}}})


def test_many_items_of_many_choices_are_checked_at_once() -> None:
    began = time.perf_counter()
    check({"many": ["last"] * 10_000}, SCHEMA, "arguments")
    assert time.perf_counter() - began < 5, "each with each would be minutes"


@pytest.mark.parametrize("value", [0, 0.0, 9_999.0, "last"])
def test_a_value_is_one_of_the_choices_as_json_sees_it(value: object) -> None:
    check({"many": [value]}, SCHEMA, "arguments")


@pytest.mark.parametrize("value", [False, True, "0", 10_000, 0.5, None, [0], "LAST"])
def test_any_other_value_is_not(value: Any) -> None:
    with pytest.raises(Invalid, match=r"arguments\.many\.0: must be one of"):
        check({"many": [value]}, SCHEMA, "arguments")
