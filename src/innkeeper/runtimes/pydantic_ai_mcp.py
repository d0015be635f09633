"""The tools of MCP servers for a declared agent, by Pydantic AI's own client.

A server is connected to when a run first asks for its tools, once for each event loop, and stays so for the runs that
follow: at the beginning of each it is asked whether it still answers, and is started anew if not. What a tool or its
server does wrong is told to the model as the call's result; only a server that cannot be reached at all fails the run.
Importing this module imports the client, which takes a second: it is imported when an agent that needs it is first run.
Invariant: a process that was started here gets the environment of its declaration and six harmless variables, and ends
with this one.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
import logging
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from fastmcp.client.transports import ClientTransport, StdioTransport, StreamableHttpTransport
from mcp.shared.exceptions import MCPError
from mcp.types import CONNECTION_CLOSED, REQUEST_TIMEOUT, LoggingMessageNotificationParams
from pydantic_ai import RunContext as AgentContext
from pydantic_ai.exceptions import ModelRetry, ToolFailed
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.toolsets import AbstractToolset, ApprovalRequiredToolset, PrefixedToolset, ToolsetTool

from innkeeper.core.errors import AgentFailed
from innkeeper.runtimes.loops import LoopBound
from innkeeper.runtimes.mcp_servers import McpServer

_logger = logging.getLogger(__name__)

_LEASH = str(Path(__file__).with_name("mcp_leash.py"))
_PING_SECONDS = 5.0
_CLOSE_SECONDS = 10.0
_MOST_TOLD = 2000
_GRAVE = frozenset({"warning", "error", "critical", "alert", "emergency"})


def _quieten() -> None:
    """The client writes its log to the terminal itself; ours is written in one way."""
    theirs = logging.getLogger("fastmcp")
    for handler in list(theirs.handlers):
        theirs.removeHandler(handler)
    theirs.propagate = True
    logging.getLogger("mcp.client.stdio").addFilter(_in_a_line)
    logging.getLogger("mcp.client.streamable_http").setLevel(logging.WARNING)  # it tells the ids of sessions


def _in_a_line(record: logging.LogRecord) -> bool:
    """What a server says that is no message is not worth a traceback, which may show any of it."""
    record.exc_info = record.exc_text = None
    return True


_quieten()


class ServerTools:
    """The servers of one agent."""

    def __init__(self, servers: Sequence[McpServer], agent_name: str, environment: Mapping[str, str]) -> None:
        self._links: LoopBound[Link] = LoopBound(Link.close)
        self.toolsets: list[AbstractToolset[Any]] = [
            self._toolset(server, partial(Link, server, agent_name, environment.get("PATH"))) for server in servers
        ]

    def _toolset(self, server: McpServer, build: partial[Link]) -> AbstractToolset[Any]:
        tools: AbstractToolset[Any] = _Tools(server, self._links, build)
        if server.approval:
            tools = ApprovalRequiredToolset(tools, lambda context, tool, arguments: server.needs_approval(tool.name))
        return PrefixedToolset(tools, server.name)

    async def close(self) -> None:
        """Close the connections of the running event loop."""
        await self._links.close()


class Link:
    """The connection to one server from one event loop."""

    def __init__(self, server: McpServer, agent_name: str, path: str | None) -> None:
        self._server = server
        self._agent_name = agent_name
        self._path = path
        self._lock = asyncio.Lock()
        self._toolset: MCPToolset[Any] | None = None
        self.is_suspect = False
        """Whether a call went wrong in a way that a lost connection would explain."""

    async def toolset(self, *, is_known: bool) -> MCPToolset[Any]:
        """The server's tools, over a connection that answers. `is_known` says that the run has just used it.

        Raises: AgentFailed.
        """
        async with self._lock:
            if self._toolset is not None and (self.is_suspect or not is_known) and not await self._answers():
                _logger.warning("The MCP server %r does not answer any more; connecting anew.", self._server.name)
                await self._close()
            self.is_suspect = False
            if self._toolset is None:
                self._toolset = await self._opened()
            return self._toolset

    async def close(self) -> None:
        async with self._lock:
            await self._close()

    async def _opened(self) -> MCPToolset[Any]:
        server = self._server
        try:
            toolset: MCPToolset[Any] = MCPToolset(
                self._transport(),
                id=server.name,
                init_timeout=server.start_timeout,
                read_timeout=server.timeout,
                tool_error_behavior="failed",
                log_handler=self._log,
            )
            async with asyncio.timeout(server.start_timeout + _PING_SECONDS):
                # In a context of its own: what serves the connection outlives the run that opened it.
                await asyncio.create_task(toolset.__aenter__(), context=contextvars.Context())
        except Exception as error:
            raise self.failed(error) from error
        return toolset

    async def _log(self, told: LoggingMessageNotificationParams) -> None:
        """What the server logs, in one line of ours: neither its levels nor its control characters are."""
        level = logging.WARNING if told.level in _GRAVE else logging.DEBUG
        if _logger.isEnabledFor(level):
            said = json.dumps(told.data, ensure_ascii=False, default=str)[:_MOST_TOLD]
            _logger.log(level, "The MCP server %r logs: %s", self._server.name, said)

    def failed(self, error: Exception) -> AgentFailed:
        """What the run fails with; the reason is for the log."""
        name = self._server.name
        _logger.error("The MCP server %r of the agent %r cannot be used: %s", name, self._agent_name, _told(error))
        return AgentFailed(f"The MCP server {name!r} cannot be used.")

    def _transport(self) -> ClientTransport:
        server = self._server
        if server.command is None:
            assert server.url is not None, "a server has a command or a URL"
            return StreamableHttpTransport(server.url, headers=dict(server.headers))
        path = server.env.get("PATH", self._path)
        if os.sep not in server.command and shutil.which(server.command, path=path) is None:
            raise FileNotFoundError(f"there is no program {server.command!r} on the PATH")
        command = [server.command, *server.args]
        if sys.platform == "linux":
            command = [sys.executable, "-I", "-S", _LEASH, str(os.getpid()), *command]
        return StdioTransport(command[0], command[1:], env=dict(server.env), cwd=server.cwd, keep_alive=False)

    async def _answers(self) -> bool:
        assert self._toolset is not None, "there is a connection to ask over"
        try:
            async with asyncio.timeout(_PING_SECONDS):
                await self._toolset.client.ping()
        except MCPError as error:  # a refusal is an answer
            return error.code not in (CONNECTION_CLOSED, REQUEST_TIMEOUT) and "Session" not in error.message
        except Exception:  # noqa: BLE001 - whatever it is, the connection is of no use
            return False
        return True

    async def _close(self) -> None:
        toolset, self._toolset = self._toolset, None
        if toolset is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await toolset.__aexit__(None, None, None)


def _told(error: BaseException) -> str:
    """What went wrong, for the log."""
    if isinstance(error, TimeoutError):
        return "it did not come up in time"
    cause = error.__cause__
    told = f"{error}" + (f" ({type(cause).__name__}: {cause})" if cause is not None else "")
    return told[:_MOST_TOLD]


@dataclass
class _Tools(AbstractToolset[Any]):
    """A server's tools in one run, whose first step finds out whether the connection is still good."""

    server: McpServer
    links: LoopBound[Link]
    build: partial[Link]
    is_known: bool = False

    @property
    def id(self) -> str:
        return f"mcp:{self.server.name}"

    async def for_run(self, ctx: AgentContext[Any]) -> Self:
        return replace(self, is_known=False)

    async def get_tools(self, ctx: AgentContext[Any]) -> dict[str, ToolsetTool[Any]]:
        link = await self._link()
        toolset = await link.toolset(is_known=self.is_known)
        self.is_known = True
        try:
            offered = await toolset.get_tools(ctx)
        except Exception as error:
            link.is_suspect = True
            raise link.failed(error) from error
        return {name: replace(tool, toolset=self) for name, tool in offered.items() if self.server.offers(name)}

    async def get_tool_for_tool_def(self, tool_def: ToolDefinition, ctx: AgentContext[Any]) -> ToolsetTool[Any]:
        toolset = await (await self._link()).toolset(is_known=True)
        return replace(toolset.tool_for_tool_def(tool_def, ctx=ctx), toolset=self)

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: AgentContext[Any], tool: ToolsetTool[Any]
    ) -> Any:
        link = await self._link()
        toolset = await link.toolset(is_known=True)
        try:
            return await toolset.call_tool(name, tool_args, ctx, tool)
        except ToolFailed:
            raise
        except ModelRetry as error:  # of the protocol: a model that is only asked to try again would fail the run
            link.is_suspect = True
            raise ToolFailed(str(error)) from error
        except Exception as error:
            link.is_suspect = True
            _logger.warning("The MCP server %r failed in a call of %s: %s", self.server.name, name, _told(error))
            raise ToolFailed(f"The MCP server {self.server.name!r} did not answer.") from error

    async def _link(self) -> Link:
        return await self.links.get(self.server.name, self.build)
