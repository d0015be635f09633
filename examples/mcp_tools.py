"""An agent with the tools of an MCP server, and itself a tool at http://127.0.0.1:8000/mcp.

    pip install 'innkeeper[mcp]'
    innkeeper serve examples/mcp_tools.py

This file is the MCP server as well, when it is run as a program. The model is the scripted one: tell it
`call clock_now {}`, and put a real one in its place.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

from innkeeper import Agent, register_agent


def serve_tools() -> None:
    from mcp.server.mcpserver import MCPServer

    server = MCPServer("clock")

    @server.tool()
    def now() -> str:
        """Tell what time it is, in UTC."""
        return f"{datetime.now(UTC):%H:%M}"

    server.run("stdio")


if __name__ == "__main__":
    serve_tools()
else:
    clock = {"name": "clock", "command": sys.executable, "args": [Path(__file__).resolve()]}
    register_agent("timekeeper", Agent("timekeeper", model="test", description="Knows the time.", mcp_servers=[clock]))
