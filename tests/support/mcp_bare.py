"""An MCP server of nothing but the standard library, which starts at once and does what servers should not.

`python mcp_bare.py [WHAT]` speaks over its standard streams. `WHAT` names what is wrong with it, if
something is.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

Json = dict[str, Any]

WRONG = sys.argv[1] if len(sys.argv) > 1 else ""
ANYTHING: Json = {"type": "object", "properties": {}}
CYCLIC: Json = {
    "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}},
    "type": "object",
    "properties": {"first": {"$ref": "#/$defs/node"}, "lost": {"$ref": "#/$defs/nowhere"}},
}
LIES: dict[str, Json] = {
    "cyclic": {"inputSchema": CYCLIC},
    "no-object": {"inputSchema": {"type": "string"}},
    "no-schema": {},
    "output": {"inputSchema": ANYTHING, "outputSchema": {"type": "object", "required": ["never"]}},
    "name": {"inputSchema": ANYTHING, "name": "pro cess\n\x1b[31m"},
    "description": {"inputSchema": ANYTHING, "description": "x" * 20_000_000},
}
calls = 0


def tools() -> list[Json]:
    lies = LIES.get(WRONG, {"inputSchema": ANYTHING})
    named = f"process{calls}" if WRONG == "changes" else "process"
    leave = {"name": "leave", "inputSchema": ANYTHING}
    return [{"name": named, "description": "Who answers.", **lies}, leave]


def answer(request: Json) -> Json | None:
    global calls
    params = request.get("params") or {}
    match request["method"]:
        case "initialize":
            server = {"name": "bare", "version": "1"}
            return {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": server}
        case "ping":
            return {}
        case "tools/list":
            more = {"nextCursor": "again"} if WRONG == "endless" else {}
            return {"tools": tools() * (10_000 if WRONG == "many" else 1), **more}
        case "tools/call":
            calls += 1
            if params["name"] == "leave":
                os._exit(3)
            text = f"pid {os.getpid()} call {calls}"
            if WRONG == "flood":
                text = "x" * 50_000_000
            if WRONG == "noise":
                print("what is no JSON\n{}\n[1]\n" + '{"jsonrpc": "2.0", "id": 99, "result": {}}')
            if WRONG == "logs":
                said = {"level": "emergency", "data": "Fire!\n\x1b[31mRUN"}
                print(json.dumps({"jsonrpc": "2.0", "method": "notifications/message", "params": said}))
            structured = {"structuredContent": {"other": 1}} if WRONG == "output" else {}
            return {"content": [{"type": "text", "text": text}], **structured}
    return None


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        if "id" not in request:
            continue
        told = answer(request)
        said: Json = {"result": told} if told is not None else {"error": {"code": -32601, "message": "unknown"}}
        print(json.dumps({"jsonrpc": "2.0", "id": request["id"], **said}), flush=True)
    if WRONG == "stubborn":  # as those are that do not heed the end of their input
        time.sleep(60)


if __name__ == "__main__":
    main()
