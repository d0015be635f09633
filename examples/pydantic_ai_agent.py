"""An agent of Pydantic AI, found by its variable. It needs OPENAI_API_KEY when it is asked, not to start.

innkeeper serve examples/pydantic_ai_agent.py
"""

from pydantic_ai import Agent

travel = Agent(
    "openai-chat:gpt-4o-mini",
    name="travel",
    instructions="You plan trips. Ask for the weather before you recommend a day.",
    defer_model_check=True,
)


@travel.tool_plain
def get_weather(city: str) -> str:
    """Get the current weather for a city."""
    return f"The weather in {city} is sunny and 22 °C."
