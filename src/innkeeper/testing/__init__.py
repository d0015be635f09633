"""What users need to test their agents and runtimes. Nothing here asks for pytest: any runner will do."""

from innkeeper.testing.agents import MockAgent
from innkeeper.testing.clients import create_test_client
from innkeeper.testing.runtimes import RuntimeContract

__all__ = ["MockAgent", "RuntimeContract", "create_test_client"]
