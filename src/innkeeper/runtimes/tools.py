"""Tools: what a function that a model may call says of itself. `@tool` marks it and leaves it as it is.

This module knows no framework: `Agent`, Pydantic AI and the OpenAI Agents SDK make their own tools of the function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, overload

from innkeeper.core.errors import SetupError

Function = TypeVar("Function")

_MARK = "__innkeeper_tool__"


@overload
def tool(function: Function, /) -> Function: ...


@overload
def tool(*, idempotent: bool = False) -> Callable[[Function], Function]: ...


def tool(function: Any = None, /, *, idempotent: bool = False) -> Any:
    """Mark a function, sync or async, as a tool; a tool that the Agents SDK has made of one may be marked, too.

    `idempotent=True` says that calling it again with the same arguments does no harm. A call that a crash cut off
    is then made again, with the same key in `get_tool_call()`; of any other tool it is told as unknown.

    Raises: SetupError if it decorates what cannot be marked.
    """

    def marked(one: Any) -> Any:
        try:
            setattr(getattr(one, "__func__", one), _MARK, {"idempotent": idempotent})
        except (AttributeError, TypeError):
            raise SetupError(f"@tool decorates a function, not {one!r:.80}.", param="tools") from None
        return one

    return marked if function is None else marked(function)


def is_idempotent(function: object) -> bool:
    """Whether `@tool(idempotent=True)` stands above that function."""
    mark = getattr(function, _MARK, None)
    return isinstance(mark, dict) and mark.get("idempotent") is True
