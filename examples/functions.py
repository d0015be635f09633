"""Agents that are functions: sync or async, with whatever of the documented parameters they want.

innkeeper serve examples/functions.py
innkeeper chat counter
"""

from typing import Any

from innkeeper import RunContext, register_agent


async def counter(messages: list[dict[str, Any]]) -> str:
    """Shows that the history of the session is given to the agent."""
    asked = sum(1 for message in messages if message["role"] == "user")
    return f"You have said {asked} thing{'' if asked == 1 else 's'} in this session."


def shout(messages: list[dict[str, Any]], context: RunContext) -> str:
    """A sync function runs in a thread. The context tells which run this is, and takes what it costs."""
    context.track_usage(credits=1, reason="shouting")
    return str(messages[-1]["content"]).upper()


register_agent("counter", counter)
register_agent("shout", shout)
