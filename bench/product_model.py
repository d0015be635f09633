"""Innkeeper with an agent that a model framework runs: what loading Pydantic AI adds to start and memory."""

from __future__ import annotations

from innkeeper import Agent, create_app, register_agent

register_agent("assistant", Agent(name="assistant", model="test", instructions="You are a helpful assistant."))

app = create_app()
