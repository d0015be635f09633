"""Codex's lines: `codex exec --json`. Messages come whole, as items; usage is that of the thread, so far."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from innkeeper.core.errors import AgentFailed
from innkeeper.core.events import AgentEvent, ReasoningDelta, UsageReported
from innkeeper.core.usage import Usage
from innkeeper.runtimes.programs_formats import Line, Paragraphs, Tools, count, wording

_FAILED = frozenset({"failed", "declined"})


class CodexLines:
    def __init__(self, prefix: str = "") -> None:
        self.is_over = False
        self.resumes: str | None = None
        self.total: Usage | None = None
        """What the thread has used, all turns together."""
        self.before = Usage()
        """What it had used before this turn."""
        self.complaint: str | None = None
        self._tools = Tools(prefix)
        self._paragraphs = Paragraphs()

    def tell(self, line: Line) -> Iterator[AgentEvent]:
        match line.get("type"):
            case "thread.started":
                self.resumes = str(line["thread_id"])
            case "item.started":
                yield from self._began(line["item"])
            case "item.completed":
                yield from self._completed(line["item"])
            case "turn.completed":
                self.is_over = True
                yield from self._used(line["usage"])
            case "error":  # it tries again, without an end where the network is away
                self.complaint = wording(line.get("message"), "error")
            case "turn.failed":
                raise AgentFailed(f"says: {wording(line['error'].get('message'), 'the turn failed')}")

    def _began(self, item: Line) -> Iterator[AgentEvent]:
        match item.get("type"):
            case "command_execution":
                yield from self._tools.called(item["id"], "shell", {"command": item["command"]})
            case "mcp_tool_call":
                yield from self._tools.called(item["id"], f"{item['server']}.{item['tool']}", item.get("arguments"))
            case "web_search":
                yield from self._tools.called(item["id"], "web_search", {"query": item.get("query")})
            case "file_change":
                yield from self._tools.called(item["id"], "apply_patch", {"changes": item.get("changes")})

    def _completed(self, item: Line) -> Iterator[AgentEvent]:
        match item.get("type"):
            case "agent_message":
                self._paragraphs.begin()
                yield from self._paragraphs.say(item["text"])
            case "reasoning":
                yield ReasoningDelta(f"{item['text']}\n\n")
            case "command_execution" | "mcp_tool_call" | "web_search" | "file_change":
                yield from self._began(item)
                yield from self._tools.returned(item["id"], _result(item), _error(item))

    def _used(self, usage: Line) -> Iterator[AgentEvent]:
        total = self.total = Usage(count(usage.get("input_tokens")), count(usage.get("output_tokens")))
        given, made = total.input_tokens - self.before.input_tokens, total.output_tokens - self.before.output_tokens
        is_sum = given >= 0 and made >= 0
        yield UsageReported(Usage(given, made) if is_sum else total)


def _result(item: Line) -> Any:
    match item["type"]:
        case "command_execution":
            return {"exit_code": item.get("exit_code"), "output": item.get("aggregated_output")}
        case "mcp_tool_call":
            return item.get("result")
        case _:
            return item.get("status") or "completed"


def _error(item: Line) -> str | None:
    if item["type"] == "mcp_tool_call" and item.get("error"):
        return wording(item["error"].get("message"), "failed")
    if item.get("status") in _FAILED and item["type"] != "command_execution":
        return str(item["status"])
    return "declined" if item.get("status") == "declined" else None
