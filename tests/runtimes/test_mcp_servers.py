"""How MCP servers are written in an agent's declaration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from innkeeper import Agent
from innkeeper.core.errors import Invalid
from innkeeper.runtimes.mcp_servers import McpServer, mcp_servers


def test_a_server_is_a_url_or_a_mapping_in_a_list_or_under_its_name() -> None:
    command: dict[str, Any] = {
        "command": "npx",
        "args": ["-y", "files"],
        "env": {"TOKEN": "open-sesame"},
        "cwd": "/srv",
    }
    files = McpServer("npx", command="npx", args=("-y", "files"), env={"TOKEN": "open-sesame"}, cwd="/srv")
    assert mcp_servers([command]) == (files,)
    assert mcp_servers(["https://mcp.example.com/mcp"])[0] == McpServer(
        "mcp_example_com", url="https://mcp.example.com/mcp"
    )
    named = {
        "search": {"type": "http", "url": "http://127.0.0.1:9000/mcp", "headers": {"Authorization": "Bearer x"}},
        "files": {"type": "stdio", **command},
    }
    assert mcp_servers(named) == mcp_servers({"mcpServers": named})
    assert [server.name for server in mcp_servers(named)] == ["search", "files"]
    assert mcp_servers([{"command": Path("/opt/my-server.py"), "args": [Path("/srv")]}])[0] == McpServer(
        "my_server", command="/opt/my-server.py", args=("/srv",)
    )
    assert mcp_servers(mcp_servers(named)) == mcp_servers(named)
    assert mcp_servers([]) == mcp_servers({}) == ()


def test_options_narrow_and_bound() -> None:
    (server,) = mcp_servers(
        [{"url": "https://x/mcp", "allowed_tools": ["a", "b"], "approval": ["b"], "start_timeout": 2, "timeout": 0.5}]
    )
    assert [server.offers(tool) for tool in ("a", "b", "c")] == [True, True, False]
    assert [server.needs_approval(tool) for tool in ("a", "b")] == [False, True]
    assert (server.start_timeout, server.timeout) == (2.0, 0.5)
    (careful,) = mcp_servers([{"url": "https://x/mcp", "approval": True}])
    assert careful.needs_approval("anything")


def test_secrets_are_not_shown() -> None:
    servers = mcp_servers(
        [
            {"command": "npx", "env": {"TOKEN": "open-sesame"}},
            {"url": "https://x/mcp", "headers": {"Authorization": "open-sesame"}},
        ]
    )
    assert "open-sesame" not in repr(servers)


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        ("https://x/mcp", "mcp_servers: must be a list"),
        (5, "mcp_servers: must be a list"),
        ({"command": "npx"}, "mcp_servers: is one server"),
        ({"mcpServers": []}, "mcpServers: must map names to servers"),
        ([5], "mcp_servers[0]: must be a URL"),
        ([{}], "mcp_servers[0]: needs either command or url"),
        ([{"command": "x", "url": "https://x"}], "mcp_servers[0]: needs either command or url"),
        ([{"command": "x", "headers": {}}], "mcp_servers[0]: headers is not known here"),
        ([{"url": "https://x", "arguments": []}], "mcp_servers[0]: arguments is not known here"),
        ([{"command": " "}], "mcp_servers[0].command: must be text"),
        ([{"command": "x", "args": "-y"}], "mcp_servers[0].args: must be a list of texts"),
        ([{"command": "x", "args": [1]}], "mcp_servers[0].args: must be a list of texts"),
        ([{"command": "x", "env": {"A": 1}}], "mcp_servers[0].env: must map names to texts"),
        ([{"command": "x", "env": {"A=B": "open-sesame"}}], "mcp_servers[0].env: must map names to texts"),
        ([{"command": "x", "type": "http"}], "mcp_servers[0].type: of a command"),
        ([{"url": "https://x", "type": "sse"}], 'mcp_servers[0].type: of a url must be "http"'),
        ([{"url": "ftp://x/mcp"}], "mcp_servers[0].url: must begin with https://"),
        ([{"url": "https://"}], "mcp_servers[0].url: must begin with https://"),
        ([{"url": "http://[::1"}], "mcp_servers[0].url: must begin with https://"),
        ([{"url": "https://x", "headers": {"A": "a\r\nb"}}], "mcp_servers[0].headers: 'A' cannot be sent"),
        ([{"url": "https://x", "headers": {"A b": "c"}}], "mcp_servers[0].headers: 'A b' cannot be sent"),
        ([{"url": "https://x", "name": "a b"}], "mcp_servers[0]: needs a name"),
        ([{"command": "日本"}], "mcp_servers[0]: needs a name"),
        ({"a b": "https://x"}, "mcp_servers['a b']: needs a name"),
        (["https://x/1", "https://x/2"], "mcp_servers: has two servers named 'x'"),
        ([{"url": "https://x", "allowed_tools": "add"}], "mcp_servers[0].allowed_tools: must be a list"),
        ([{"url": "https://x", "approval": "add"}], "mcp_servers[0].approval: must be a list"),
        ([{"url": "https://x", "timeout": 0}], "mcp_servers[0].timeout: must be seconds"),
        ([{"url": "https://x", "timeout": True}], "mcp_servers[0].timeout: must be seconds"),
        ([{"url": "https://x", "start_timeout": float("nan")}], "mcp_servers[0].start_timeout: must be seconds"),
    ],
)
def test_what_is_wrong_is_named_where_the_agent_is_declared(declared: Any, told: str) -> None:
    with pytest.raises(Invalid) as refused:
        Agent("a", "test", mcp_servers=declared)
    assert refused.value.message.startswith(told)
    assert refused.value.param == "mcp_servers"
    assert "open-sesame" not in refused.value.message
