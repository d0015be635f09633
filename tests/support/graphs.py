"""Graphs and models of LangChain for tests: models that say what they are told to, without a provider."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import BaseTool, tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import interrupt

Reply = Callable[[list[BaseMessage]], AIMessage]


class Speaker(BaseChatModel):
    """Says what `reply` makes of the conversation, word by word; `heard` is each conversation that it was told."""

    reply: Reply
    heard: list[list[BaseMessage]] = []  # noqa: RUF012 - a field of pydantic's, which copies it
    wishes: list[dict[str, Any]] = []  # noqa: RUF012
    model_name: str = "speaker-1"
    temperature: float | None = None
    max_tokens: int | None = None

    @property
    def _llm_type(self) -> str:
        return "speaker"

    def bind_tools(self, tools: Sequence[Any], **wishes: Any) -> Any:
        return self.bind(tools=list(tools), **wishes)

    def _said(self, messages: list[BaseMessage], wishes: dict[str, Any]) -> AIMessage:
        self.heard.append(messages)
        self.wishes.append(wishes)
        said = self.reply(messages)
        return said.model_copy(update={"response_metadata": {"model_name": self.model_name, **said.response_metadata}})

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._said(messages, {**kwargs, "stop": stop}))])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in chunks_of(self._said(messages, {**kwargs, "stop": stop})):
            if run_manager:
                run_manager.on_llm_new_token(str(chunk.message.text), chunk=chunk)
            yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in chunks_of(self._said(messages, {**kwargs, "stop": stop})):
            if run_manager:
                await run_manager.on_llm_new_token(str(chunk.message.text), chunk=chunk)
            yield chunk


def chunks_of(said: AIMessage) -> Iterator[ChatGenerationChunk]:
    """A message as its provider would stream it: what it says in pieces, then its calls, its usage and its reason."""
    if isinstance(said.content, str):
        for place, word in enumerate(said.content.split(" ") if said.content else ()):
            yield ChatGenerationChunk(message=AIMessageChunk(content=(" " if place else "") + word))
    else:
        for block in said.content:
            yield ChatGenerationChunk(message=AIMessageChunk(content=[block]))
    calls = [
        {
            "name": call["name"],
            "args": json.dumps(call["args"]),
            "id": call["id"],
            "index": place,
            "type": "tool_call_chunk",
        }
        for place, call in enumerate(said.tool_calls)
    ]
    end = AIMessageChunk(
        content="",
        tool_call_chunks=calls,  # type: ignore[arg-type]  # dicts of that shape
        usage_metadata=said.usage_metadata,
        response_metadata=said.response_metadata,
        chunk_position="last",
    )
    yield ChatGenerationChunk(message=end)


def echo(messages: list[BaseMessage]) -> AIMessage:
    """What the user said last."""
    return AIMessage(last_said(messages))


def last_said(messages: Sequence[BaseMessage]) -> str:
    return next((str(one.text) for one in reversed(messages) if isinstance(one, HumanMessage)), "")


def usage(sent: int, said: int) -> Any:
    return {"input_tokens": sent, "output_tokens": said, "total_tokens": sent + said}


def calling(*names: str, then: Reply = echo, **arguments: Any) -> Reply:
    """Calls these tools first, and then says what `then` makes of it."""

    def reply(messages: list[BaseMessage]) -> AIMessage:
        answered = [place for place, one in enumerate(messages) if isinstance(one, ToolMessage)]
        asked = max((place for place, one in enumerate(messages) if isinstance(one, AIMessage)), default=-1)
        if answered and answered[-1] > asked:
            return then(messages)
        calls = [
            {"name": name, "args": arguments, "id": f"call-{len(messages)}-{place}", "type": "tool_call"}
            for place, name in enumerate(names)
        ]
        return AIMessage("", tool_calls=calls)

    return reply


@tool
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


def agent_graph(
    model: BaseChatModel, tools: Sequence[BaseTool] = (), *, handles_errors: bool = False, **compiled: Any
) -> Any:
    """A model that may call tools until it has an answer."""

    async def think(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("model", think)
    graph.add_edge(START, "model")
    if tools:
        graph.add_node("tools", ToolNode(tools, handle_tool_errors=handles_errors))
        graph.add_conditional_edges("model", tools_condition)
        graph.add_edge("tools", "model")
    return graph.compile(**compiled)


@tool
def speak(text: str) -> str:
    """Says that."""
    return text


class Reviewed(MessagesState):
    """What a graph with approvals works on."""


def approval_graph(
    model: BaseChatModel, tools: Sequence[BaseTool], allowed: Sequence[str] = ("approve", "edit", "reject")
) -> Any:
    """A model whose calls are reviewed as LangChain's middleware for approvals has it."""

    async def think(state: Reviewed) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    def review(state: Reviewed) -> dict[str, Any]:
        said = state["messages"][-1]
        if not isinstance(said, AIMessage) or not said.tool_calls:
            return {}
        answer = interrupt(
            {
                "action_requests": [{"name": call["name"], "args": call["args"]} for call in said.tool_calls],
                "review_configs": [
                    {"action_name": call["name"], "allowed_decisions": list(allowed)} for call in said.tool_calls
                ],
            }
        )
        kept, refused = [], []
        for call, decision in zip(said.tool_calls, answer["decisions"], strict=True):
            if decision["type"] == "reject":
                text = decision.get("message", "No.")
                refused.append(ToolMessage(text, tool_call_id=call["id"], name=call["name"], status="error"))
            elif decision["type"] == "edit":
                if "edit" not in allowed:
                    raise ValueError("Decision type 'edit' is not allowed.")
                call = {**call, "args": decision["edited_action"]["args"]}
            kept.append(call)
        return {"messages": [said.model_copy(update={"tool_calls": kept}), *refused]}

    def after_review(state: Reviewed) -> str:
        calls = [one for one in state["messages"] if isinstance(one, AIMessage)][-1].tool_calls
        answered = {one.tool_call_id for one in state["messages"] if isinstance(one, ToolMessage)}
        if not calls:
            return END
        return "tools" if any(call["id"] not in answered for call in calls) else "model"

    graph = StateGraph(Reviewed)
    graph.add_node("model", think)
    graph.add_node("review", review)
    graph.add_node("tools", ToolNode(tools))
    graph.add_edge(START, "model")
    graph.add_edge("model", "review")
    graph.add_conditional_edges("review", after_review, ["tools", "model", END])
    graph.add_edge("tools", "model")
    return graph.compile()


def asking(state: MessagesState) -> dict[str, Any]:
    """Asks its user."""
    answer = interrupt({"question": "How many?"})
    return {"messages": [AIMessage(f"You said {json.dumps(answer)}.")]}


def asking_graph() -> Any:
    return StateGraph(MessagesState).add_node("ask", asking).add_edge(START, "ask").compile()
