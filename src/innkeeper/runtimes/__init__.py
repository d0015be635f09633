"""Adapters from agent frameworks to `ports.agents.Runtime`. Frameworks are imported only when an agent needs them."""
