"""MCP servers in the YAML files of agents."""

from __future__ import annotations

from pathlib import Path

import pytest

from innkeeper import Agent
from innkeeper.apps.declarations import read_agent
from innkeeper.core.errors import SetupError

STANDARD = """
model: test
mcp_servers:
  mcpServers:
    files: {command: npx, args: [-y, files]}
    search: {url: https://x/mcp}
"""


def test_a_file_names_servers_in_a_list_or_as_other_programs_do(tmp_path: Path) -> None:
    file = tmp_path / "clerk.yaml"
    for text in (
        STANDARD,
        "model: test\nmcp_servers: [{command: npx, name: files}, {url: https://x/mcp, name: search}]\n",
    ):
        file.write_text(text)
        agent = read_agent(file)
        assert isinstance(agent, Agent)
        assert [server.name for server in agent.mcp_servers] == ["files", "search"]


def test_what_is_wrong_with_a_server_is_told_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "clerk.yaml"
    file.write_text("model: test\nmcp_servers: [{url: https://x/mcp, tools: [a]}]\n")
    with pytest.raises(SetupError, match=r"clerk\.yaml: mcp_servers\[0\]: tools is not known here"):
        read_agent(file)
