"""Hooks: a server's own code before and after each request to an agent.

A `before_request` hook may reject by raising an HTTP error; any other exception is logged and does not break
the request, unless the hook was declared `required=True`. `finalize_request` hooks run once a request, after
the last byte, whichever way it ended.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from innkeeper.core.errors import InnkeeperError

_logger = logging.getLogger(__name__)

Hook = Callable[..., Any]


class HookFailed(Exception):
    """A hook that the server cannot do without has raised."""


@dataclass(slots=True)
class Hooks:
    """The hooks of one app, in order of registration."""

    before: list[tuple[Hook, bool]] = field(default_factory=list)
    finalize: list[Hook] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not self.before and not self.finalize

    async def run_before(self, request: Any) -> None:
        """Raises: HTTPException or InnkeeperError of a hook that rejects; HookFailed where a required one fails."""
        for hook, is_required in self.before:
            try:
                await _call(hook, request)
            except (HTTPException, InnkeeperError):
                raise
            except (Exception, SystemExit) as error:
                if is_required:
                    raise HookFailed(f"The required hook {_name(hook)} failed.") from error
                _logger.error("before_request hook %s failed and was passed over", _name(hook), exc_info=error)

    async def run_finalize(self, request: Any, response: Any) -> None:
        """Every hook runs, whatever the others raise."""
        for hook in self.finalize:
            try:
                await _call(hook, request, response)
            except (Exception, SystemExit) as error:
                _logger.error("finalize_request hook %s failed", _name(hook), exc_info=error)


async def _call(hook: Hook, *arguments: Any) -> None:
    if inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(getattr(hook, "__call__", None)):  # noqa: B004
        await hook(*arguments)
        return
    result = await run_in_threadpool(hook, *arguments)
    if inspect.isawaitable(result):
        await result


def _name(hook: Hook) -> str:
    return getattr(hook, "__qualname__", repr(hook))
