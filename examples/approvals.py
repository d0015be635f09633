"""An agent whose tools wait for people, and a function that asks its user.

innkeeper serve examples/approvals.py
curl -s localhost:8000/chat -H 'content-type: application/json' \\
    -d '{"agent_name": "cleaner", "input": "call delete_file {\\"path\\": \\"a.txt\\"}"}'
curl -s localhost:8000/runs/RUN_ID/resume -H 'content-type: application/json' -d '{"decision": "approve"}'
"""

import json
from collections.abc import AsyncIterator
from typing import Any

from innkeeper import Agent, RunContext, register_agent, require_input, tool


@tool(requires_approval=True)
def delete_file(path: str) -> str:
    """Delete a file; here, only in words."""
    return f"{path} is gone"


@tool(requires_approval=lambda arguments: arguments["euros"] > 100)
def order(euros: int) -> str:
    """Order disks. Whatever costs more than 100 euros waits for somebody."""
    return f"ordered for {euros} euros"


async def guide(messages: list[dict[str, Any]], context: RunContext) -> AsyncIterator[object]:
    """Asks where to go, and is called again with the answer."""
    if context.continuation is None:
        yield require_input("destination", {"question": "Where to?"})
        return
    (answer,) = context.continuation.answers
    yield "Then not." if answer.decision == "deny" else f"To {json.loads(answer.value or 'null')}."


register_agent("cleaner", Agent(name="cleaner", model="test", tools=[delete_file, order]))
register_agent("guide", guide)
