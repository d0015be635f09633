"""The mark on tools."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from innkeeper import tool
from innkeeper.core.errors import SetupError
from innkeeper.runtimes.tools import is_idempotent


def test_a_marked_function_stays_the_function_that_it_was() -> None:
    def look(n: int) -> int:
        """Looks."""
        return n

    assert tool(look) is look
    assert not is_idempotent(look)
    assert tool(idempotent=True)(look) is look
    assert is_idempotent(look)
    assert (look(3), look.__doc__) == (3, "Looks.")


def test_what_wraps_a_marked_function_has_its_mark() -> None:
    @tool(idempotent=True)
    async def look() -> None: ...

    @functools.wraps(look)
    async def wrapper() -> None:
        await look()

    assert is_idempotent(wrapper)


def test_methods_may_be_marked_in_their_class_or_out_of_it() -> None:
    class Shop:
        @tool(idempotent=True)
        def look(self) -> None: ...

        def pay(self) -> None: ...

    shop = Shop()
    assert is_idempotent(shop.look)
    assert tool(idempotent=True)(shop.pay) == shop.pay
    assert is_idempotent(shop.pay)


@pytest.mark.parametrize("wrong", [print, 3, "look"])
def test_what_cannot_be_marked_is_refused(wrong: object) -> None:
    with pytest.raises(SetupError, match="@tool decorates a function"):
        tool(wrong)


@pytest.mark.parametrize("wrong", ["yes", 1, None])
def test_a_rule_that_is_neither_yes_nor_no_nor_a_function_is_refused(wrong: Any) -> None:
    with pytest.raises(SetupError, match="requires_approval is true, false, or a function"):
        tool(requires_approval=wrong)
