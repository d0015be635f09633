"""Tools: what a function that a model may call says of itself. `@tool` marks it and leaves it as it is.

This module knows no framework: `Agent`, Pydantic AI and the OpenAI Agents SDK make their own tools of the function.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast, overload

from innkeeper.core.errors import SetupError

log = logging.getLogger(__name__)

Function = TypeVar("Function")

Rule = bool | Callable[[Mapping[str, Any]], Any]
"""Whether a call requires approval, or a function, sync or async, that says so of the arguments of each."""

_MARK = "__innkeeper_tool__"


@overload
def tool(function: Function, /) -> Function: ...


@overload
def tool(*, idempotent: bool = False, requires_approval: Rule = False) -> Callable[[Function], Function]: ...


def tool(function: Any = None, /, *, idempotent: bool = False, requires_approval: Rule = False) -> Any:
    """Mark a function, sync or async, as a tool; a tool that the Agents SDK has made of one may be marked, too.

    `idempotent=True` says that calling it again with the same arguments does no harm. A call that a crash cut off
    is then made again, with the same key in `get_tool_call()`; of any other tool it is told as unknown.
    `requires_approval=True` pauses the run until somebody has approved the call or denied it. A function in its place
    is handed the arguments of each call and tells whether that one does; where it fails, the call does.

    Raises: SetupError if it decorates what cannot be marked, or `requires_approval` is neither.
    """
    if not isinstance(requires_approval, bool) and not callable(requires_approval):
        raise SetupError(
            "requires_approval is true, false, or a function of a call's arguments.", param="requires_approval"
        )

    def marked(one: Any) -> Any:
        mark = {"idempotent": idempotent, "requires_approval": requires_approval}
        try:
            setattr(getattr(one, "__func__", one), _MARK, mark)
        except (AttributeError, TypeError):
            raise SetupError(f"@tool decorates a function, not {one!r:.80}.", param="tools") from None
        return one

    return marked if function is None else marked(function)


def is_idempotent(function: object) -> bool:
    """Whether `@tool(idempotent=True)` stands above that function."""
    return _mark_of(function).get("idempotent") is True


def approval_rule(function: object) -> Rule:
    """What `@tool(requires_approval=...)` says above that function."""
    return cast("Rule", _mark_of(function).get("requires_approval", False))


def _mark_of(function: object) -> Mapping[str, object]:
    mark = getattr(function, _MARK, None)
    return mark if isinstance(mark, dict) else {}


async def requires_approval(rule: Rule, name: str, arguments: Mapping[str, Any]) -> bool:
    """Whether a call of the tool `name` does. A rule that fails has not said that it does not."""
    if isinstance(rule, bool):
        return rule
    try:
        verdict = rule(arguments) if inspect.iscoroutinefunction(rule) else await asyncio.to_thread(rule, arguments)
        return bool(await verdict if inspect.isawaitable(verdict) else verdict)
    except (Exception, SystemExit):  # whatever it raises, nobody has allowed the call
        log.exception("whether tool %s requires approval could not be told, so it does", name)
        return True
