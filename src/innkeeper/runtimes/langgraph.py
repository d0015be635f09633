"""The runtime of LangGraph graphs: compiled ones, prebuilt agents and entrypoints; `astream` in, core events out.

The server's conversation is the memory: each run begins with all of it, and its checkpoints (`langgraph_checkpoints`)
last as long as the run, or while it is paused (`langgraph_pauses`). Only a graph with a durable checkpointer of its own
keeps its threads there, and is told what is new. A graph whose state has messages is held up between its supersteps, so
that what was injected joins them before the next model call, and that calls are on disk before their tools run.
What models and tools do is told by callbacks (`langchain_narration`). Importing this module imports `langgraph`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from functools import cached_property, partial
from hashlib import blake2b
from typing import Any, cast, get_type_hints

from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langgraph.channels import BinaryOperatorAggregate
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphRecursionError
from langgraph.pregel import Pregel
from langgraph.types import Command, StateSnapshot

from innkeeper.core.actions import Action
from innkeeper.core.agents import AgentDescription
from innkeeper.core.context import RunContext
from innkeeper.core.errors import AgentFailed, SetupError
from innkeeper.core.events import AgentEvent, Paused
from innkeeper.core.runs import Turn
from innkeeper.runtimes.chunks import ChunkReader
from innkeeper.runtimes.functions import pricing_of
from innkeeper.runtimes.langchain import config_of
from innkeeper.runtimes.langchain_inputs import answer_of, given, schema_of
from innkeeper.runtimes.langchain_messages import converse, json_text, open_calls, said
from innkeeper.runtimes.langchain_models import models_in, name_of
from innkeeper.runtimes.langchain_narration import Narrator
from innkeeper.runtimes.langgraph_checkpoints import RunSaver
from innkeeper.runtimes.langgraph_pauses import Progress, asked, is_denied, read, resumption
from innkeeper.runtimes.langgraph_threads import fitted
from innkeeper.runtimes.langgraph_tools import check_rules, narrowed, tools_of
from innkeeper.runtimes.outboxes import Outbox
from innkeeper.runtimes.relays import Emit, relayed
from innkeeper.runtimes.settings import RuntimeSettings
from innkeeper.runtimes.steering import Steering
from innkeeper.runtimes.threads import Threads

Graph = Pregel[Any, Any, Any, Any]

_MODES = ["updates", "values", "custom"]
_SUPERSTEPS = 10_000
"""How many a graph may take that sets no `recursion_limit`: LangGraph's own limit."""


class LangGraphRuntime:
    """Runs a compiled graph.

    Raises: SetupError if the graph has a checkpointer that cannot be awaited, or a tool that requires approval.
    """

    kind = "langgraph"

    def __init__(self, graph: Graph, name: str, settings: RuntimeSettings) -> None:
        self._graph = graph
        self._name = name
        self._settings = settings
        self._threads = Threads(settings.max_threads, name)
        check_rules(graph, name)
        saver = graph.checkpointer
        self._has_own_threads = isinstance(saver, BaseCheckpointSaver) and not isinstance(saver, InMemorySaver)
        if isinstance(saver, BaseCheckpointSaver) and not _can_be_awaited(saver):
            raise SetupError(
                f"The graph {name!r} has a {type(saver).__qualname__}, which is not asynchronous. Compile it with the"
                " asynchronous one, such as AsyncSqliteSaver or AsyncPostgresSaver, or with none: the server keeps the"
                " conversation.",
                param="agent",
            )

    def describe(self) -> AgentDescription:
        return self._description

    @cached_property
    def _description(self) -> AgentDescription:
        models = (model for node in self._graph.nodes.values() for model in models_in(node.bound))
        return AgentDescription(
            self._name,
            model=next((name for model in models if (name := name_of(model))), None),
            tools=tools_of(self._graph),
            provider="langgraph",
            pricing=pricing_of(self._graph),
        )

    def run(self, turn: Turn, context: RunContext) -> AsyncIterator[AgentEvent]:
        return relayed(partial(self._produce, turn, context), context, self._threads)

    async def _produce(self, turn: Turn, context: RunContext, emit: Emit) -> None:
        progress = read(turn.continuation.state) if turn.continuation else None
        outbox, steering = Outbox(emit), Steering(context, emit)
        told = {"step": progress.step, "opened": progress.opened, "told": progress.told} if progress else {}
        narrator = Narrator(outbox, steering, speaks=True, **cast("Any", told))
        config = config_of(turn, context, narrator)
        config["configurable"]["thread_id"] = _thread_of(context)
        saver = None if self._has_own_threads else RunSaver.load(progress.checkpoint) if progress else RunSaver()
        graph = narrowed(self._graph, turn.parameters.allowed_tools)
        graph = graph if saver is None else graph.copy({"checkpointer": saver})
        journey = _Journey(graph, saver, config, narrator, outbox, steering)
        journey.context = _context(self._graph, turn, context)
        async with outbox.emptied():
            try:
                paused = await self._travel(journey, turn, progress)
            except GraphRecursionError as error:
                narrator.fail(error)
                raise AgentFailed(
                    f"The graph used all of its {journey.limit} supersteps without coming to an end."
                ) from error
            except Exception as error:
                narrator.fail(error)
                raise
            if paused is None:
                narrator.end()
        if paused is not None:
            await emit(paused)

    async def _travel(self, journey: _Journey, turn: Turn, progress: Progress | None) -> Paused | None:
        if progress is None or turn.continuation is None:
            messages = converse(turn.messages)
            begun = given(self._schema, messages, turn.parameters.variables, self._name)
            journey.narrator.know(messages)
            if self._has_own_threads and isinstance(begun, dict):
                begun = fitted(begun, await journey.snapshot())
            return await journey.go(begun)
        journey.supersteps = progress.supersteps
        await journey.check(progress)
        if (denial := is_denied(progress, turn.continuation)) is not None:
            journey.narrator.refuse(progress.opened, denial.message or "The call was denied.")
            return None
        answers = resumption(progress, turn.continuation)
        return await journey.go(Command(resume=answers) if answers else None)

    @cached_property
    def _schema(self) -> Mapping[str, Any]:
        schema = schema_of(self._graph)
        if schema.get("type") or (builder := getattr(self._graph, "builder", None)) is None:
            return schema
        # Before Python 3.12, pydantic knows no `typing.TypedDict`.
        hints = get_type_hints(builder.input_schema)
        fields = {key: {"type": "string"} if hint is str else {} for key, hint in hints.items()}
        return {"type": "object", "properties": fields}


def _can_be_awaited(saver: BaseCheckpointSaver[Any]) -> bool:
    """SqliteSaver's own methods that could be awaited only raise."""
    is_blocking = any(kind.__name__ == "SqliteSaver" for kind in type(saver).__mro__)
    return not is_blocking and type(saver).aget_tuple is not BaseCheckpointSaver.aget_tuple


class _Journey:
    """One run of a graph, from superstep to superstep."""

    def __init__(
        self,
        graph: Graph,
        saver: RunSaver | None,
        config: RunnableConfig,
        narrator: Narrator,
        outbox: Outbox,
        steering: Steering,
    ) -> None:
        self.narrator = narrator
        self.context: Any = None
        self.supersteps = 0
        self.limit = int((graph.config or {}).get("recursion_limit") or _SUPERSTEPS)
        self._graph = graph
        self._saver = saver
        self._config = config
        self._outbox = outbox
        self._steering = steering
        self._chunks = ChunkReader()
        self._ran: set[str] = set()
        self._output: Any = None
        # Elsewhere an update would replace what the state has, instead of joining it.
        self._holds_up = isinstance(graph.channels.get("messages"), BinaryOperatorAggregate)

    async def snapshot(self) -> StateSnapshot:
        state = await self._graph.aget_state(self._config)
        if isinstance(state.values, dict) and isinstance(held := state.values.get("messages"), list):
            self.narrator.know(held)
        return state

    async def check(self, progress: Progress) -> None:
        """Raises: AgentFailed where the graph's own checkpointer is not where the run was paused."""
        state = await self.snapshot()
        if state.config["configurable"].get("checkpoint_id") != progress.checkpoint_id:
            raise AgentFailed("The graph's checkpointer no longer has the place where the run was paused.")

    async def go(self, value: Any) -> Paused | None:
        """Go on until the graph's end, or until it asks."""
        while True:
            await self._stream(value)
            await self._outbox.drained()
            state = await self.snapshot()
            if state.interrupts:
                actions, questions = asked(state, self.narrator.open_calls)
                return self._paused(state, actions, questions=questions)
            if not state.next:
                self._tell_output()
                return None
            if (where := self._stop_at(state)) is not None:
                return self._stopped(state, where)
            value = await self._held_up(state)

    async def _stream(self, value: Any) -> None:
        config: RunnableConfig = {**self._config, "recursion_limit": max(1, self.limit - self.supersteps)}
        stream = self._graph.astream(
            value,
            config,
            context=self.context,
            stream_mode=cast("Any", _MODES),
            subgraphs=True,
            interrupt_before="*" if self._holds_up else None,
        )
        async with aclosing(cast("Any", stream)) as parts:
            async for namespace, mode, data in parts:
                self._tell(bool(namespace), mode, data)

    def _tell(self, is_inner: bool, mode: str, data: Any) -> None:
        if mode == "custom":
            self._tell_custom(data)
        elif mode == "values" and not is_inner:
            self._output = data
        elif mode == "updates":
            for node, update in data.items():
                if node != "__interrupt__":
                    self.narrator.tell_update(update)
                    if not is_inner:
                        self._ran.add(node)

    def _tell_custom(self, data: Any) -> None:
        """What a node has written to its stream is read as what a function yields; anything else is nobody's."""
        if isinstance(data, str):
            self.narrator.tell_text(data)
            return
        for event in self._chunks.read(data) or ():
            self.narrator.tell_event(event)

    def _stop_at(self, state: StateSnapshot) -> dict[str, list[str]] | None:
        """Where the graph was compiled to stop, if it is here. What else holds it up is ours."""
        before, after = self._graph.interrupt_before_nodes, self._graph.interrupt_after_nodes
        told = {
            "before": [node for node in state.next if before == "*" or node in before],
            "after": sorted(node for node in self._ran if after == "*" or node in after),
        }
        self._ran.clear()
        return {key: nodes for key, nodes in told.items() if nodes} or None

    async def _held_up(self, state: StateSnapshot) -> Command[Any] | None:
        """Between two supersteps: what was injected joins the messages where a model is to speak next."""
        self.supersteps += 1
        if self.supersteps > self.limit:
            raise GraphRecursionError
        if self.narrator.open_calls:
            await self._steering.saved()
        held = state.values.get("messages") if isinstance(state.values, dict) else None
        if not held or isinstance(held[-1], AIMessage) or open_calls(held):
            return None
        received = await self._steering.received()
        return Command(update={"messages": [said(message.content) for message in received]}) if received else None

    def _stopped(self, state: StateSnapshot, where: Mapping[str, list[str]]) -> Paused:
        checkpoint_id = str(state.config["configurable"]["checkpoint_id"])
        action = Action(checkpoint_id, "input", ",".join(state.next), json_text({**where, "next": list(state.next)}))
        return self._paused(state, [action], stop=checkpoint_id)

    def _paused(self, state: StateSnapshot, actions: list[Action], **asked: Any) -> Paused:
        progress = Progress(
            checkpoint="" if self._saver is None else self._saver.dump(),
            checkpoint_id=str(state.config["configurable"]["checkpoint_id"]),
            step=self.narrator.step,
            supersteps=self.supersteps,
            told=self.narrator.told_calls,
            opened=self.narrator.open_calls,
            **asked,
        )
        return Paused(tuple(actions), progress.dump())

    def _tell_output(self) -> None:
        """What the graph has come to, where nobody has said that already."""
        if not self.narrator.has_text and (answer := answer_of(self._output)):
            self.narrator.tell_text(answer)


def _thread_of(context: RunContext) -> str:
    """A name for the session that no other caller's choice of an id can be."""
    owner = context.owner
    names = (owner.organization, owner.user) if owner else ("", "")
    told = "\0".join((*names, context.user_id or "", context.session_id or context.run_id or ""))
    return blake2b(told.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def _context(graph: Graph, turn: Turn, context: RunContext) -> dict[str, Any] | None:
    """What the graph's `context_schema` asks for: the run's names, and variables of the request."""
    if graph.context_schema is None:
        return None
    fields = (graph.get_context_jsonschema() or {}).get("properties") or {}
    names = {key: getattr(context, key) for key in ("run_id", "session_id", "user_id", "agent_name")}
    return {key: value for key, value in {**(turn.parameters.variables or {}), **names}.items() if key in fields}
