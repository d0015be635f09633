"""Claude Code's lines: `claude -p --output-format stream-json --verbose --include-partial-messages`.

`system` begins, `stream_event` carries pieces of the Messages API's streams, `assistant` and `user` whole messages (the
results of tools among them), and `result` ends a turn. What subagents say (`parent_tool_use_id`) is their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from innkeeper.core.errors import AgentFailed
from innkeeper.core.events import AgentEvent, ReasoningDelta, UsageReported
from innkeeper.core.usage import Usage
from innkeeper.runtimes.programs_formats import Line, Paragraphs, Tools, count, wording

_ITSELF = "<synthetic>"
"""The model of what the program says itself: what went wrong, or what came of a command of its own."""
_REFUSED = (401, 403)
_INPUT = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


class ClaudeLines:
    def __init__(self, prefix: str = "") -> None:
        self.is_over = False
        self.resumes: str | None = None
        self._tools = Tools()
        self._paragraphs = Paragraphs()
        self._streamed: set[object] = set()
        self._model: str | None = None
        self._answered: list[str] = []
        self.complaint: str | None = None

    def tell(self, line: Line) -> Iterator[AgentEvent]:
        if isinstance(name := line.get("session_id"), str):
            self.resumes = name
        if line.get("parent_tool_use_id") is not None:
            return
        match line.get("type"):
            case "system" if line.get("subtype") == "api_retry":
                self._tried(line)
            case "system" if self._model is None and isinstance(line.get("model"), str):
                self._model = line["model"]
            case "stream_event":
                yield from self._piece(line["event"])
            case "assistant":
                yield from self._said(line["message"])
            case "user":
                yield from self._returned(line["message"])
            case "result":
                yield from self._ended(line)

    def _tried(self, line: Line) -> None:
        """It goes on trying for minutes. Raises: AgentFailed where that is in vain."""
        self.complaint = f"{wording(line.get('error'), 'error')} ({line.get('error_status') or 'no answer'})"
        if line.get("error_status") in _REFUSED and count(line.get("attempt")) > 1:
            raise AgentFailed(f"says: {self.complaint}")

    def _piece(self, event: Line) -> Iterator[AgentEvent]:
        if event.get("type") == "message_start":
            self._streamed.add(event["message"].get("id"))
            if isinstance(model := event["message"].get("model"), str):
                self._model = model  # that of `system` may have a suffix of the program's own
            self._paragraphs.begin()
        elif event.get("type") == "content_block_delta":
            delta = event["delta"]
            if delta.get("type") == "text_delta":
                yield from self._paragraphs.say(delta["text"])
            elif delta.get("type") == "thinking_delta" and delta["thinking"]:
                yield ReasoningDelta(str(delta["thinking"]))

    def _said(self, message: Line) -> Iterator[AgentEvent]:
        if message.get("model") == _ITSELF:
            self._answered += [str(block["text"]) for block in message["content"] if block.get("type") == "text"]
            return
        is_new = message.get("id") not in self._streamed
        if is_new:
            self._paragraphs.begin()
        for block in message["content"]:
            kind = block.get("type")
            if kind == "text" and is_new:
                yield from self._paragraphs.say(block["text"])
            elif kind == "thinking" and is_new and block["thinking"]:
                yield ReasoningDelta(str(block["thinking"]))
            elif kind in ("tool_use", "server_tool_use"):
                yield from self._tools.called(block["id"], block["name"], block.get("input"))

    def _returned(self, message: Line) -> Iterator[AgentEvent]:
        content = message.get("content")
        for block in content if isinstance(content, list) else ():
            if block.get("type") == "tool_result":
                result = _plain(block.get("content"))
                error = str(result) if block.get("is_error") else None
                yield from self._tools.returned(block["tool_use_id"], result, error)

    def _ended(self, line: Line) -> Iterator[AgentEvent]:
        self.is_over = True
        if isinstance(usage := line.get("usage"), Mapping):
            given, made = sum(count(usage.get(name)) for name in _INPUT), count(usage.get("output_tokens"))
            if given or made:
                yield UsageReported(Usage(given, made, self._model))
        if line.get("is_error"):
            reasons = [str(one) for one in line.get("errors") or ()]
            raise AgentFailed(f"says: {wording(line.get('result') or '; '.join(reasons), str(line.get('subtype')))}")
        for text in self._answered:
            self._paragraphs.begin()
            yield from self._paragraphs.say(text)


def _plain(content: Any) -> object:
    """Content that is all text, as text."""
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        return "\n".join(str(part.get("text", "")) for part in content)
    return content
