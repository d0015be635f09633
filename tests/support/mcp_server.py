"""An MCP server written with the official SDK, as people write them; run as a program, it speaks over stdio.

`python -m tests.support.mcp_server` over its standard streams, `… http PORT` as streamable HTTP. What it is told in
`MCP_JOURNAL`, a file, it writes its process id to when it starts, and the calls that were cancelled.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ImageContent, TextContent
from starlette.requests import Request
from starlette.responses import Response

PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n\xff\x00\xfe").decode()

server = MCPServer("tester")
_calls = 0


def journal(line: str) -> None:
    """A line for the test to read, where it asked for a journal."""
    if path := os.environ.get("MCP_JOURNAL"):
        with Path(path).open("a") as file:
            file.write(line + "\n")


@server.custom_route("/live", methods=["GET"])  # type: ignore[untyped-decorator]  # of the SDK
async def live(request: Request) -> Response:
    """Whether it answers, for the test to wait for."""
    return Response("ok")


@server.tool()
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@server.tool()
def environment() -> str:
    """Everything that the process has in its environment."""
    return "environment " + json.dumps(dict(os.environ))


@server.tool()
def process() -> str:
    """Who answers, and how often it has."""
    global _calls
    _calls += 1
    return f"pid {os.getpid()} call {_calls}"


@server.tool()
def forecast(city: str) -> dict[str, Any]:
    """Structured content."""
    return {"city": city, "degrees": 21}


@server.tool()
def picture() -> list[TextContent | ImageContent]:
    """An image with words to it."""
    return [
        TextContent(type="text", text="a pixel"),
        ImageContent(type="image", data=PIXEL, mime_type="image/png"),
    ]


@server.tool()
def refuse() -> str:
    """Fails."""
    raise ToolError("the shop is closed")


@server.tool()
def leave() -> str:
    """Ends the process in the middle of a call."""
    os._exit(3)


@server.tool()
async def hang() -> str:
    """Never answers."""
    journal("hanging")
    try:
        await asyncio.Event().wait()
    except BaseException:
        journal("cancelled")
        raise
    return "never"


def main() -> None:
    if sys.argv[1:] == ["slow"]:
        time.sleep(60)
    journal(f"pid {os.getpid()}")
    if sys.argv[1:2] == ["http"]:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[2]))
        return
    server.run("stdio")
    if sys.argv[1:] == ["stubborn"]:  # as those do that do not heed the end of their input
        time.sleep(60)


if __name__ == "__main__":
    main()
