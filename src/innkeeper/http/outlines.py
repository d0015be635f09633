"""Outlines: what the OpenAPI document says beside its routes: what each group is for, and where credentials stand.

The routes themselves are told by FastAPI, from what is declared beside each (`http.routes`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from innkeeper.http.gates import PUBLIC

TAGS: Mapping[str, str] = {
    "Chat": "Say something to an agent and get its answer, whole or as Server-Sent Events.",
    "Sessions": "Conversations and their messages, whichever protocol they were held on.",
    "Runs": "What agents did and are doing: their events, how to cancel a run, and how to steer one under way.",
    "Agents": "Who can be talked to.",
    "Files": "What clients upload, to name it in messages by its id.",
    "Workspaces": "The files of sessions and of agents, by path and version.",
    "OpenAI": "What clients of OpenAI's API speak: chat completions, with agents as models.",
    "Responses": "OpenAI's Responses and Conversations, on the same runs and sessions; also `WS /v1/responses`.",
    "MCP": "The agents as tools, for clients of the Model Context Protocol.",
    "Agents at the root": "Each agent as a base URL of its own for clients of OpenAI's API.",
    "Control: sessions": "Sessions as the control plane sees them, with a token that opens one of them alone.",
    "Control: commands": "Have work done by whoever handles its type, alone or in batches, and read what came of it.",
    "Control: events": (
        "A session's log, numbered without gaps; `WS /api/sessions/{session_id}/events/stream?after=` sends it live."
    ),
    "Control: engines": "Agents bound to a session, a model and a configuration. `DummyEngine` needs no agent.",
    "Control: tools": "Tools of a session as Python source, run in a sandbox only; see the setting `CODE_EXECUTION`.",
    "Control: handlers": "Handlers of a session's commands and events as Python source, run in the same sandbox.",
    "Control: observability": "Logs, figures, and the trace of each run.",
    "Control: system": "How the server is, what it is set to, and how to stop it.",
    "Platform": "Who administers the platform, what is counted of it, and the audit log.",
    "Tokens": "Who may come in: tokens, made, listed and revoked by administrators.",
    "Credits": "What is left to users and organizations, how that came about, and what their runs consumed.",
    "Management": "Agents made anew and looked at, and how the server is restarted or ended at once.",
    "Chat logs": "A row for each run that has ended, whatever became of it, and statistics of them.",
    "Health": "Whether the server is there, and its figures for Prometheus.",
}
"""The groups, in the order in which pages show them."""

_SCHEMES: Mapping[str, Mapping[str, str]] = {
    "Bearer": {"type": "http", "scheme": "bearer", "description": "A token of `innkeeper tokens create`."},
    "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same, in another header."},
    "SessionToken": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Session-Token",
        "description": "The `session_token` of the answer that made a session; it opens that session only.",
    },
}
_OF_A_SESSION = "/api/sessions/{session_id}"


def outline(document: dict[str, Any]) -> None:
    """Add to a document with our routes what they do not say by themselves. A user's own routes stay as they are."""
    used = {tag for _, operation in _operations(document) for tag in operation.get("tags", ())}
    named = {tag["name"] for tag in document.get("tags") or ()}
    ours = [{"name": name, "description": told} for name, told in TAGS.items() if name in used - named]
    document["tags"] = [*(document.get("tags") or ()), *ours]
    schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
    for name, scheme in _SCHEMES.items():
        schemes.setdefault(name, dict(scheme))
    for path, operation in _operations(document):
        if "x-permission" in operation:
            operation["security"] = [] if operation["x-permission"] == PUBLIC else _accepted(path)


def _accepted(path: str) -> list[dict[str, list[str]]]:
    """The credentials that a route takes, any of them."""
    is_of_a_session = path == _OF_A_SESSION or path.startswith(f"{_OF_A_SESSION}/")
    return [{name: []} for name in _SCHEMES if name != "SessionToken" or is_of_a_session]


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, operations in document["paths"].items():
        for operation in operations.values():
            yield path, operation
