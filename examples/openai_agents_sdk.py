"""Agents of the OpenAI Agents SDK, served as they are, with their tools and handoffs. They need OPENAI_API_KEY.

pip install 'innkeeper[openai-agents]'
innkeeper serve examples/openai_agents_sdk.py
"""

from agents import Agent, function_tool

from innkeeper import Server


@function_tool
def get_weather(city: str) -> str:
    """Get the current weather for a city."""
    return f"The weather in {city} is sunny and 22 °C."


weather_agent = Agent(
    name="weather-agent",
    instructions="You are a helpful weather assistant. Always respond in a friendly tone.",
    model="gpt-4o-mini",
    tools=[get_weather],
)

assistant_agent = Agent(
    name="assistant",
    instructions="You are a helpful general assistant. Always respond in haiku form.",
    model="gpt-4o-mini",
    handoffs=[weather_agent],
)

app = Server(agents=[weather_agent, assistant_agent])
