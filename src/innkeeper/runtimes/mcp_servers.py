"""MCP servers that an agent's declaration names: how each is written, and what it may be told to do.

Plain values: nothing here connects or imports a framework; `pydantic_ai_mcp` does. A server is a URL, or a mapping with
`command` (a process that speaks over its standard streams) or `url` (streamable HTTP). Several are a list of those, or
the mapping from names that other programs keep under `mcpServers`.
Invariant: what may be secret (`env`, `headers`) is in no `repr` and in no error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any
from urllib.parse import urlsplit

from innkeeper.core.errors import Invalid

START_SECONDS = 30.0
CALL_SECONDS = 300.0
_MOST_SECONDS = 3600.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_NO_NAME = re.compile(r"[^A-Za-z0-9]+")
_HTTP_TYPES = frozenset({"http", "streamable-http", "streamable_http", "streamableHttp"})
_SHARED = frozenset({"name", "type", "allowed_tools", "approval", "start_timeout", "timeout"})
_OF_COMMANDS = _SHARED | {"command", "args", "env", "cwd"}
_OF_URLS = _SHARED | {"url", "headers"}


@dataclass(frozen=True, slots=True)
class McpServer:
    """One server. `name` begins the names of its tools.

    `start_timeout` bounds how long it may take to come up, `timeout` one call of a tool, both in seconds. Of its tools
    only `allowed_tools` are offered, where those are given; `approval` is whether people approve each call before it is
    made, or the tools of which they do.
    """

    name: str
    command: str | None = None
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    cwd: str | None = None
    url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    allowed_tools: frozenset[str] | None = None
    approval: bool | frozenset[str] = False
    start_timeout: float = START_SECONDS
    timeout: float = CALL_SECONDS

    def needs_approval(self, tool: str) -> bool:
        """Whether people decide about calls of `tool`, which is its name on the server."""
        return self.approval if isinstance(self.approval, bool) else tool in self.approval

    def offers(self, tool: str) -> bool:
        return self.allowed_tools is None or tool in self.allowed_tools


def mcp_servers(declared: object) -> tuple[McpServer, ...]:
    """The servers that `mcp_servers=` names.

    Raises: Invalid, which names the entry and the key that is wrong.
    """
    if isinstance(declared, Mapping):
        if isinstance(declared.get("command", declared.get("url")), str):
            raise _wrong("mcp_servers", "is one server: put it into a list, or into a mapping from its name")
        named = declared.get("mcpServers", declared)
        if not isinstance(named, Mapping):
            raise _wrong("mcpServers", "must map names to servers")
        found = [_server(entry, f"mcp_servers[{name!r}]", name) for name, entry in named.items()]
    elif isinstance(declared, Sequence) and not isinstance(declared, str | bytes):
        found = [_server(entry, f"mcp_servers[{place}]") for place, entry in enumerate(declared)]
    else:
        raise _wrong("mcp_servers", "must be a list of servers, or a mapping from names to servers")
    _check_names(found)
    return tuple(found)


def _check_names(servers: Iterable[McpServer]) -> None:
    seen: set[str] = set()
    for server in servers:
        if server.name in seen:
            raise _wrong("mcp_servers", f"has two servers named {server.name!r}: give each a name of its own")
        seen.add(server.name)


def _wrong(where: str, told: str) -> Invalid:
    return Invalid(f"{where}: {told}.", param="mcp_servers")


def _server(entry: object, where: str, name: object = None) -> McpServer:
    if isinstance(entry, McpServer):
        return entry
    if isinstance(entry, str):
        entry = {"url": entry}
    if not isinstance(entry, Mapping):
        raise _wrong(where, 'must be a URL, {"url": …} or {"command": …}')
    if ("command" in entry) == ("url" in entry):
        raise _wrong(where, "needs either command or url")
    is_command = "command" in entry
    if unknown := sorted(str(key) for key in entry.keys() - (_OF_COMMANDS if is_command else _OF_URLS)):
        raise _wrong(where, f"{unknown[0]} is not known here; {', '.join(sorted(_OF_COMMANDS | _OF_URLS))} are")
    target = _command(entry, where) if is_command else _url(entry, where)
    return McpServer(
        name=_name(name if name is not None else entry.get("name"), entry, where),
        allowed_tools=_tools(entry, where),
        approval=_approval(entry, where),
        start_timeout=_seconds(entry, "start_timeout", START_SECONDS, where),
        timeout=_seconds(entry, "timeout", CALL_SECONDS, where),
        **target,
    )


def _command(entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    if entry.get("type", "stdio") != "stdio":
        raise _wrong(f"{where}.type", 'of a command must be "stdio"')
    return {
        "command": _text(entry["command"], f"{where}.command"),
        "args": _texts(entry.get("args", ()), f"{where}.args"),
        "env": _mapping(entry.get("env", {}), f"{where}.env"),
        "cwd": None if entry.get("cwd") is None else _text(entry["cwd"], f"{where}.cwd"),
    }


def _url(entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    kind = entry.get("type", "http")
    if kind not in _HTTP_TYPES:
        raise _wrong(f"{where}.type", 'of a url must be "http"; servers of type "sse" are not supported')
    url = _text(entry["url"], f"{where}.url")
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _wrong(f"{where}.url", "must begin with https:// or http://, and name a host")
    return {"url": url, "headers": _mapping(entry.get("headers", {}), f"{where}.headers", _check_header)}


def _check_header(name: str, value: str, where: str) -> None:
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or not value.isprintable():
        raise _wrong(where, f"{name[:64]!r} cannot be sent as a header")


def _name(name: object, entry: Mapping[str, Any], where: str) -> str:
    if name is None:
        said = PurePath(entry["command"]).stem if "command" in entry else urlsplit(entry["url"]).hostname or ""
        name = _NO_NAME.sub("_", said).strip("_")[:32]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _wrong(where, "needs a name of 1 to 32 letters, digits, _ and -, which begins its tools' names")
    return name


def _tools(entry: Mapping[str, Any], where: str) -> frozenset[str] | None:
    allowed = entry.get("allowed_tools")
    return None if allowed is None else frozenset(_texts(allowed, f"{where}.allowed_tools"))


def _approval(entry: Mapping[str, Any], where: str) -> bool | frozenset[str]:
    approval = entry.get("approval", False)
    return approval if isinstance(approval, bool) else frozenset(_texts(approval, f"{where}.approval"))


def _seconds(entry: Mapping[str, Any], key: str, default: float, where: str) -> float:
    value = entry.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _MOST_SECONDS:
        raise _wrong(f"{where}.{key}", f"must be seconds, above 0 and at most {_MOST_SECONDS:.0f}")
    return float(value)


def _text(value: object, where: str) -> str:
    if not isinstance(value, str | PurePath) or not str(value).strip() or "\0" in str(value):
        raise _wrong(where, "must be text, and not blank")
    return str(value)


def _texts(value: object, where: str) -> tuple[str, ...]:
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise _wrong(where, "must be a list of texts")
    found = tuple(str(one) if isinstance(one, PurePath) else one for one in value)
    if not all(isinstance(one, str) and "\0" not in one for one in found):
        raise _wrong(where, "must be a list of texts")
    return found


def _mapping(
    value: object, where: str, check: Callable[[str, str, str], None] = lambda name, value, where: None
) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise _wrong(where, "must map names to texts")
    for name, text in value.items():
        if not isinstance(name, str) or not isinstance(text, str) or not name or "\0" in name + text or "=" in name:
            raise _wrong(where, "must map names to texts")
        check(name, text, where)
    return dict(value)
