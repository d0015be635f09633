"""Adapters of `ports.limits`: counts in this process, and in Redis."""
