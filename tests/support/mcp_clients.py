"""Clients of `/mcp`: the official SDK's, of both generations of the protocol, and messages as they lie on the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

GENERATIONS = ("legacy", "auto")
ACCEPTED = {"accept": "application/json, text/event-stream", "content-type": "application/json"}


@asynccontextmanager
async def an_mcp_client(url: str, mode: str = "auto", token: str | None = None) -> AsyncIterator[Client]:
    """A client that is connected: by a handshake (`legacy`), or as servers of today are asked (`auto`)."""
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30, trust_env=False) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http), mode=mode) as client,
    ):
        yield client


def call(tool: str, arguments: dict[str, Any], call_id: int | str = 1) -> dict[str, Any]:
    """A `tools/call` as it lies on the wire."""
    return {"jsonrpc": "2.0", "id": call_id, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}


def cancelled(call_id: int | str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": call_id}}
