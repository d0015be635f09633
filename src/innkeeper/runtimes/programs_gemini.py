"""Gemini CLI's lines: `gemini --output-format stream-json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from innkeeper.core.errors import AgentFailed
from innkeeper.core.events import AgentEvent, UsageReported
from innkeeper.core.usage import Usage
from innkeeper.runtimes.programs_formats import Line, Paragraphs, Tools, count, wording


class GeminiLines:
    def __init__(self, prefix: str = "") -> None:
        self.is_over = False
        self.resumes: str | None = None
        self.complaint: str | None = None
        self._tools = Tools()
        self._paragraphs = Paragraphs()
        self._model: str | None = None

    def tell(self, line: Line) -> Iterator[AgentEvent]:
        match line.get("type"):
            case "init":
                self.resumes, self._model = str(line["session_id"]), line.get("model")
            case "message" if line.get("role") == "assistant":
                if not line.get("delta"):
                    self._paragraphs.begin()
                yield from self._paragraphs.say(line.get("content"))
            case "error":
                self.complaint = wording(line.get("message"), "error")
            case "tool_use":
                yield from self._tools.called(line["tool_id"], line["tool_name"], line.get("parameters"))
            case "tool_result":
                error = _reason(line) if line.get("status") == "error" else None
                yield from self._tools.returned(line["tool_id"], line.get("output"), error)
                self._paragraphs.begin()
            case "result":
                yield from self._ended(line)

    def _ended(self, line: Line) -> Iterator[AgentEvent]:
        self.is_over = True
        if isinstance(stats := line.get("stats"), Mapping):
            models = stats.get("models") or {self._model: stats}  # one chooses another where that is `auto`
            for model, used in models.items():
                given, made = count(used.get("input_tokens")), count(used.get("output_tokens"))
                if given or made:
                    yield UsageReported(Usage(given, made, model))
        if line.get("status") == "error":
            raise AgentFailed(f"says: {_reason(line)}")


def _reason(line: Line) -> str:
    error = line.get("error")
    told = error.get("message") if isinstance(error, Mapping) else line.get("output")
    return wording(told, "error")
