"""Session tools: what was registered in a run's session, offered to the agent's model beside its own tools.

This module knows no framework; each runtime makes tools of its own of them. None of them is idempotent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from innkeeper.core.context import SessionTool
from innkeeper.core.errors import InnkeeperError

_logger = logging.getLogger(__name__)


class ToolRefused(Exception):
    """A call that failed; the text is for the model."""


def beside(tools: Sequence[SessionTool], own: Collection[str], agent_name: str | None) -> list[SessionTool]:
    """Those whose name the agent does not use itself."""
    for tool in tools:
        if tool.name in own:
            _logger.warning(
                "The agent %r has a tool named %r of its own: that of the session is not offered to it.",
                agent_name,
                tool.name,
            )
    return [tool for tool in tools if tool.name not in own]


async def call(tool: SessionTool, arguments: object) -> object:
    """What the tool returns. Raises: ToolRefused."""
    if not isinstance(arguments, Mapping):
        raise ToolRefused("The arguments must be a JSON object.")
    try:
        return await tool.call(arguments)
    except InnkeeperError as error:
        raise ToolRefused(error.message) from error
    except Exception as error:
        _logger.exception("the tool %s of a session failed", tool.name)
        raise ToolRefused(f"The tool failed: {type(error).__name__}.") from error


def called_here(tools: Sequence[SessionTool]) -> list[SessionTool]:
    """The same tools for an agent on another event loop; they are called on this one."""
    home = asyncio.get_running_loop()

    def bridged(tool: SessionTool) -> SessionTool:
        async def at_home(arguments: Mapping[str, object]) -> object:
            return await tool.call(arguments)

        async def ask(arguments: Mapping[str, object]) -> object:
            if asyncio.get_running_loop() is home:
                return await tool.call(arguments)
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(at_home(arguments), home))

        return replace(tool, call=ask)

    return [bridged(tool) for tool in tools]
