"""Scripted models: a model of Pydantic AI that answers what a test wrote down, without a network.

Importing this module imports `pydantic_ai`; `innkeeper.testing` does so when `ScriptedModel` is first used.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any
from uuid import uuid4

from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ThinkingPart, ToolCallPart
from pydantic_ai.models.function import (
    AgentInfo,
    DeltaThinkingCalls,
    DeltaThinkingPart,
    DeltaToolCall,
    DeltaToolCalls,
    FunctionModel,
)

from innkeeper.testing.scripts import Call, Outcome, Piece, Reply, Thought, Wait, pieces_of, words

Delta = str | DeltaToolCalls | DeltaThinkingCalls


class ScriptedModel(FunctionModel):
    """A model that gives these `replies`, one each time it is asked, whoever asks.

    A reply is a text, which is streamed a word at a time, a `Call` of a tool, a `Thought`, a `Wait`, an exception,
    which is raised at that point, or a sequence of those. Where it is asked more often it fails, or, if it `repeats`,
    begins anew. It is the model of `innkeeper.Agent(model=…)` and of Pydantic AI's agents; a function asks it with
    `answer` or `stream`.

    `asked` is what it was given each time: messages of Pydantic AI, or those that a function handed over.
    """

    def __init__(self, replies: Iterable[Reply], *, name: str = "scripted", repeats: bool = False) -> None:
        super().__init__(self._whole, stream_function=self._streamed, model_name=name)
        self._replies = tuple(map(pieces_of, replies))
        self._repeats = repeats
        self._turn = threading.Lock()
        self.asked: list[Sequence[Any]] = []

    @property
    def system(self) -> str:
        return "test"

    @property
    def unsaid(self) -> int:
        """How many replies are left."""
        return max(0, len(self._replies) - len(self.asked))

    async def answer(self, messages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The next reply as an assistant's message, in OpenAI's form."""
        text, calls = "", []
        async for piece in self._played(messages):
            if isinstance(piece, Call):
                function = {"name": piece.name, "arguments": piece.text}
                calls.append({"id": piece.id or _new_id(), "type": "function", "function": function})
            elif isinstance(piece, str | Outcome):
                text += _text_of(piece)
        message: dict[str, Any] = {"role": "assistant", "content": text or None if calls else text}
        return {**message, "tool_calls": calls} if calls else message

    async def stream(self, messages: Sequence[Mapping[str, Any]]) -> AsyncIterator[str]:
        """The text of the next reply, a word at a time."""
        async for piece in self._played(messages):
            if isinstance(piece, str | Outcome):
                for word in words(_text_of(piece)):
                    yield word

    async def _played(self, messages: Sequence[Any]) -> AsyncIterator[str | Call | Thought | Outcome]:
        """What is said of the next reply, after the pauses in it. Raises what is to be raised."""
        for piece in self._next(messages):
            if isinstance(piece, Wait):
                await asyncio.sleep(piece.seconds)
            elif isinstance(piece, BaseException):
                raise piece
            else:
                yield piece

    def _next(self, messages: Sequence[Any]) -> Sequence[Piece]:
        with self._turn:
            place = len(self.asked)
            self.asked.append(list(messages))
        count = len(self._replies)
        if place >= count and not (self._repeats and count):
            raise RuntimeError(f"The script has {count} replies, and its model was asked once more.")
        return self._replies[place % count]

    async def _whole(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        parts: list[TextPart | ThinkingPart | ToolCallPart] = []
        async for piece in self._played(messages):
            match _meant(piece, info):
                case Call() as call:
                    parts.append(ToolCallPart(call.name, call.text, tool_call_id=call.id or _new_id()))
                case Thought(text):
                    parts.append(ThinkingPart(text))
                case str(text):
                    parts.append(TextPart(text))
        return ModelResponse(parts or [TextPart("")], model_name=self.model_name)

    async def _streamed(self, messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Delta]:
        yield ""  # a reply may be empty, and a stream may not
        index = 0
        async for piece in self._played(messages):
            index += 1
            match _meant(piece, info):
                case Call() as call:
                    # Names first and arguments after, as real models stream them.
                    call_id = call.id or _new_id()
                    yield {index: DeltaToolCall(call.name, "", tool_call_id=call_id)}
                    yield {index: DeltaToolCall(None, call.text, tool_call_id=call_id)}
                case Thought(text):
                    yield {index: DeltaThinkingPart(content=text)}
                case str(text):
                    for word in words(text):
                        yield word


def _meant(piece: str | Call | Thought | Outcome, info: AgentInfo) -> str | Call | Thought:
    if not isinstance(piece, Outcome):
        return piece
    return Call(info.output_tools[0].name, piece.text) if info.output_tools else piece.text


def _text_of(piece: str | Outcome) -> str:
    return piece if isinstance(piece, str) else piece.text


def _new_id() -> str:
    return f"call_{uuid4().hex}"
