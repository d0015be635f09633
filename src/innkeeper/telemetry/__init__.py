"""Telemetry: adapters that measure and tell what the server does."""
