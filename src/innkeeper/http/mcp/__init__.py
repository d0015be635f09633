"""MCP: every registered agent as a tool, over streamable HTTP at `/mcp`.

`endpoint` is the route, which passes the gate like any other and hands what it let in to the official SDK; `tools` is
what the SDK asks of us; `names` are the agents' names as tools. The SDK is imported at the first request that needs it.
Invariant: nothing is kept between two requests, so that any process may answer any of them.
"""
