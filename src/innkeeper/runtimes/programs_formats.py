"""Formats: what a program prints, read as events of a run. Each reading is of one turn.

`text` is the answer as it is; `jsonl` is the small protocol of `Told`, a JSON object a line; those of known programs
stand in `programs_claude`, `programs_codex` and `programs_gemini`, and are told line by line, too.
Invariant: a tool's result is told only after its call, and a call once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from innkeeper.core.errors import AgentFailed
from innkeeper.core.events import (
    AgentEvent,
    FinishNoted,
    ReasoningDelta,
    TextDelta,
    ToolCalled,
    ToolReturned,
    UsageReported,
)
from innkeeper.core.usage import Usage

MAX_LINE = 1024 * 1024
Line = Mapping[str, Any]


class Reading(Protocol):
    """Reads what is printed in one turn. `is_over` once the program has said that the turn is; `resumes` is the name
    under which the program itself remembers the conversation, if it has told one.
    """

    @property
    def is_over(self) -> bool: ...

    @property
    def resumes(self) -> str | None: ...

    def read(self, text: str) -> Iterator[AgentEvent]:
        """Raises: AgentFailed where the program says that it has failed, or nothing that can be read."""

    def end(self) -> Iterator[AgentEvent]:
        """The output has ended. Raises: AgentFailed where that is too early."""


class Text:
    """The answer as it is printed, without the line breaks at its end. `mark` ends it where the program goes on."""

    resumes: str | None = None

    def __init__(self, mark: str | None = None) -> None:
        self.is_over = False
        self._mark = mark
        self._breaks: list[str] = []
        self._held = ""

    def read(self, text: str) -> Iterator[AgentEvent]:
        if self.is_over:
            return
        text, self._held = self._held + text, ""
        if self._mark is not None:
            text, found, _ = text.partition(self._mark)
            self.is_over = bool(found)
            if not found:
                place = _before_part_of(self._mark, text)
                text, self._held = text[:place], text[place:]
        said = text.rstrip("\r\n")
        if said:
            yield TextDelta("".join((*self._breaks, said)))
            self._breaks.clear()
        self._breaks.append(text[len(said) :])

    def end(self) -> Iterator[AgentEvent]:
        if self._mark is not None and not self.is_over:
            raise AgentFailed("ended before its answer did.")
        yield from ()


def _before_part_of(mark: str, text: str) -> int:
    """Where the longest end of `text` begins that may become `mark`."""
    for size in range(min(len(mark) - 1, len(text)), 0, -1):
        if mark.startswith(text[-size:]):
            return len(text) - size
    return len(text)


class Teller(Protocol):
    """Tells the events of each line of one turn."""

    is_over: bool
    resumes: str | None
    complaint: str | None
    """What it has said last of what goes wrong while it goes on."""

    def tell(self, line: Line) -> Iterator[AgentEvent]: ...


class Lines:
    """JSON objects, one a line, told by `teller`. Lines that are no JSON object are noise, as programs print it."""

    def __init__(self, teller: Teller) -> None:
        self.teller = teller
        self._rest: list[str] = []
        self._size = self._number = 0

    @property
    def is_over(self) -> bool:
        return self.teller.is_over

    @property
    def resumes(self) -> str | None:
        return self.teller.resumes

    def read(self, text: str) -> Iterator[AgentEvent]:
        *lines, rest = text.split("\n")
        for line in lines:
            whole = "".join((*self._rest, line))
            self._rest, self._size = [], 0
            yield from self._tell(whole)
        self._rest.append(rest)
        self._size += len(rest)
        if self._size > MAX_LINE:
            raise AgentFailed(f"printed a line of more than {MAX_LINE // 1024} KiB.")

    def end(self) -> Iterator[AgentEvent]:
        whole = "".join(self._rest)
        self._rest = []
        yield from self._tell(whole)
        if not self.is_over:
            raise AgentFailed("ended before its answer did.")

    def _tell(self, line: str) -> Iterator[AgentEvent]:
        self._number += 1
        if len(line) > MAX_LINE:
            raise AgentFailed(f"printed a line of more than {MAX_LINE // 1024} KiB.")
        line = line.strip()
        if self.is_over or not line.startswith("{"):
            return
        try:
            told = json.loads(line)
        except (ValueError, RecursionError):
            raise AgentFailed(f"printed a line that is not JSON, line {self._number}: {line[:80]}") from None
        try:
            yield from self.teller.tell(told)
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise AgentFailed(f"printed a line that cannot be read, line {self._number}: {error!r}") from error


class Tools:
    """The calls of one turn, so that each is told once and before its result."""

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self._open: dict[str, str] = {}
        self._known: set[str] = set()

    def called(self, call_id: object, name: object, arguments: object) -> Iterator[AgentEvent]:
        known = f"{self._prefix}{call_id}"
        if known not in self._known:
            self._known.add(known)
            self._open[known] = str(name)
            text = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
            yield ToolCalled(str(name), known, text)

    def returned(self, call_id: object, result: object, error: str | None = None) -> Iterator[AgentEvent]:
        known = f"{self._prefix}{call_id}"
        if (name := self._open.pop(known, None)) is not None:
            yield ToolReturned(name, known, None if error is not None else result, error)


class Paragraphs:
    """Texts of several messages in one answer, with an empty line between two."""

    def __init__(self) -> None:
        self._has_begun = self._has_said = False

    def begin(self) -> None:
        """Another message begins."""
        self._has_begun = True

    def say(self, text: object) -> Iterator[AgentEvent]:
        if not isinstance(text, str) or not text:
            return
        if self._has_begun and self._has_said:
            yield TextDelta("\n\n")
        self._has_begun, self._has_said = False, True
        yield TextDelta(text)


def count(value: object) -> int:
    return value if type(value) is int and value > 0 else 0


def wording(value: object, otherwise: str) -> str:
    return value[:2000] if isinstance(value, str) and value else otherwise


class Told:
    """`jsonl`: `{"type": "text"}` and the like. docs/programs.md has the table."""

    resumes: str | None = None
    complaint: str | None = None

    def __init__(self) -> None:
        self.is_over = False
        self._tools = Tools()

    def tell(self, line: Line) -> Iterator[AgentEvent]:
        match line.get("type"):
            case "text":
                yield TextDelta(_text(line, "text"))
            case "reasoning":
                yield ReasoningDelta(_text(line, "text"))
            case "tool_call":
                yield from self._tools.called(line["id"], line["name"], line.get("arguments"))
            case "tool_result":
                error = line.get("error")
                yield from self._tools.returned(line["id"], line.get("result"), None if error is None else str(error))
            case "usage":
                model = line.get("model")
                counts = count(line.get("input_tokens")), count(line.get("output_tokens"))
                yield UsageReported(Usage(*counts, model if isinstance(model, str) else None))
            case "error":
                raise AgentFailed(f"says: {wording(line.get('message'), 'error')}")
            case "done":
                self.is_over = True
                resumes = line.get("session_id")
                self.resumes = resumes if isinstance(resumes, str) else None
                if line.get("finish_reason") == "length":
                    yield FinishNoted("length")


def _text(line: Line, key: str) -> str:
    text = line[key]
    if not isinstance(text, str):
        raise TypeError(f"{key} is not text")
    return text


MakeTeller = Callable[[str], Teller]
"""Makes the teller of one turn; what it is given stands before the ids of calls, where the program's are not unique."""
