"""Webhooks over HTTP: where they may go, and how they get there. When, and what they say, is the service's."""
