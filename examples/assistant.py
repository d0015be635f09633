"""An agent on the bundled local model, and one that is a plain function. Both answer without an account.

innkeeper models pull smollm2
innkeeper serve examples/assistant.py
innkeeper chat
"""

from typing import Any

from innkeeper import Agent, register_agent

assistant = Agent(
    name="assistant",
    model="local:smollm2",
    instructions="You are a helpful assistant.",
    temperature=0,  # so small a model talks nonsense when it is left to chance
    description="A small language model that runs on this machine.",
)


def echo(messages: list[dict[str, Any]]) -> str:
    """Says what you said."""
    return f"You said: {messages[-1]['content']}"


register_agent("assistant", assistant)
register_agent("echo", echo)
