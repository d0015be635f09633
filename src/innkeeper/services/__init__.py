"""The use cases, and the only door to the core. They know ports, never adapters."""
