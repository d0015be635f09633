"""Declared agents: a name, a model, instructions and tools, in one call. They run on Pydantic AI.

`Agent` is data and importing it imports no framework; the Pydantic AI agent behind it is built at the first
run, in a thread, because that import takes about a second.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from innkeeper.core.agents import AgentDescription, Prompts, checked_name
from innkeeper.core.context import RunContext
from innkeeper.core.errors import AgentFailed, Invalid
from innkeeper.core.events import AgentEvent
from innkeeper.core.runs import Turn
from innkeeper.runtimes.functions import pricing_of
from innkeeper.runtimes.mcp_servers import mcp_servers as mcp_servers_of
from innkeeper.runtimes.settings import RuntimeSettings

if TYPE_CHECKING:
    from pydantic_ai.models import Model

    from innkeeper.runtimes.pydantic_ai import PydanticAIRuntime
    from innkeeper.runtimes.pydantic_ai_mcp import ServerTools

log = logging.getLogger(__name__)


class Agent:
    """An agent in one call: `Agent(name="assistant", model="openai:gpt-4o", instructions="Be brief.")`.

    `model` is a "provider:model" string of Pydantic AI, `local:NAME`, or `test`, or a model of Pydantic AI. `tools`
    are functions, sync or async, whose signature and docstring become the tool's description, or Pydantic AI tools.
    `max_steps` bounds the model calls of one run. `prompts` are texts by name, for people to read. An `isolated`
    agent has an event loop of its own, in a thread, which its tools may block. `requires_approval` names tools, also
    those of MCP servers: a call of one pauses the run until somebody has decided on it. `mcp_servers` are MCP servers
    whose tools it may call: a list of URLs and of mappings with `command` or `url`, or a mapping from names to those;
    `docs/mcp.md` has their keys.

    Raises: Invalid, which names the argument that is wrong.
    """

    def __init__(
        self,
        name: str,
        model: str | Model | None = None,
        instructions: str = "",
        tools: Sequence[Any] = (),
        max_steps: int = 10,
        description: str = "",
        temperature: float | None = None,
        max_tokens: int | None = None,
        output_type: Any = str,
        prompts: Mapping[str, str] | None = None,
        isolated: bool = False,
        requires_approval: Sequence[str] = (),
        mcp_servers: Sequence[Any] | Mapping[str, Any] = (),
    ) -> None:
        self.name = checked_name(name)
        self.model = _checked_model(name, model)
        self.instructions = instructions
        self.tools = tuple(tools)
        self.max_steps = _checked_steps(max_steps)
        self.description = description
        self.temperature = temperature
        self.max_tokens = max_tokens
        self.output_type = output_type
        self.prompts = dict(prompts or {})
        self.isolated = isolated
        self.mcp_servers = mcp_servers_of(mcp_servers)
        known = [_tool_name(tool) for tool in self.tools]
        self.requires_approval = _checked_approvals(requires_approval, None if self.mcp_servers else known)

    def __repr__(self) -> str:
        return f"Agent(name={self.name!r}, model={self.model!r})"


def _checked_model(name: str, model: Any) -> str | Model:
    if _is_model(model):
        built: Model = model
        return built
    if not isinstance(model, str) or not model.strip():
        raise Invalid(
            f'The agent {name!r} needs a model: Agent(name={name!r}, model="openai:gpt-4o"), or model="test".',
            param="model",
        )
    return model.strip()


def _is_model(model: object) -> bool:
    """Told by its classes, so that nothing is imported to find out."""
    return any(kind.__name__ == "Model" and kind.__module__ == "pydantic_ai.models" for kind in type(model).__mro__)


def _checked_steps(max_steps: object) -> int:
    if not isinstance(max_steps, int) or isinstance(max_steps, bool) or max_steps < 1:
        raise Invalid("max_steps is a whole number of at least 1.", param="max_steps")
    return max_steps


def _checked_approvals(names: object, tools: Sequence[str] | None) -> tuple[str, ...]:
    """`tools` is `None` where not all of them are known before a run."""
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise Invalid("requires_approval is a list of names of tools.", param="requires_approval")
    unknown = [name for name in names if tools is not None and name not in tools]
    if unknown:  # one that is misspelt would protect nothing
        raise Invalid(f"requires_approval names {unknown[0]!r}, which is none of tools.", param="requires_approval")
    return tuple(names)


def _tool_name(tool: Any) -> str:
    name = getattr(tool, "name", None) or getattr(tool, "__name__", None)
    if not isinstance(name, str) or not (callable(tool) or hasattr(tool, "function_schema")):
        raise Invalid(f"{tool!r} is not a tool: give a function or a Pydantic AI Tool.", param="tools")
    return name


class DeclaredRuntime:
    """Runs a declared `Agent`."""

    kind = "declared"

    def __init__(self, agent: Agent, name: str, settings: RuntimeSettings) -> None:
        self._agent = agent
        self._name = name
        self._settings = settings
        self._runtime: PydanticAIRuntime | None = None
        self._servers: ServerTools | None = None

    def describe(self) -> AgentDescription:
        agent = self._agent
        model = agent.model if isinstance(agent.model, str) else agent.model.model_id
        return AgentDescription(
            self._name,
            model=model,
            description=agent.description,
            tools=tuple(_tool_name(tool) for tool in agent.tools),
            max_steps=agent.max_steps,
            provider=model.partition(":")[0],
            has_model=True,
            accepts_client_tools=True,
            accepts_models=True,
            resumes=True,
            pricing=pricing_of(agent),
        )

    def prompts(self) -> Prompts:
        return Prompts(self._agent.instructions or None, self._agent.prompts)

    async def run(self, turn: Turn, context: RunContext) -> AsyncIterator[AgentEvent]:
        runtime = self._runtime
        if runtime is None:
            built, servers = await asyncio.to_thread(_build, self._agent, self._name, self._settings)
            if self._runtime is None:  # the first of two builders wins
                self._runtime, self._servers = built, servers
            runtime = self._runtime
        events = runtime.run(turn, context)
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()  # type: ignore[attr-defined]  # it is a generator: end it with its reader

    def with_model(self, model: Model) -> DeclaredRuntime:
        """The same agent with another model."""
        agent = copy.copy(self._agent)
        agent.model = model
        return DeclaredRuntime(agent, self._name, self._settings)

    async def close(self) -> None:
        """Close the connections of the running event loop, the model's and those of MCP servers."""
        if self._runtime is not None:
            await self._runtime.close()
        if self._servers is not None:
            await self._servers.close()


def _build(agent: Agent, name: str, settings: RuntimeSettings) -> tuple[PydanticAIRuntime, ServerTools | None]:
    import pydantic_ai

    from innkeeper.runtimes.pydantic_ai import PydanticAIRuntime

    servers = _server_tools(agent, name, settings)
    own = {"temperature": agent.temperature, "max_tokens": agent.max_tokens}
    built: pydantic_ai.Agent[None, Any] = pydantic_ai.Agent(
        agent.model,
        name=name,
        instructions=agent.instructions or None,
        tools=[_guarded(tool) for tool in agent.tools],
        toolsets=servers.toolsets if servers else None,
        model_settings=pydantic_ai.ModelSettings(**{key: one for key, one in own.items() if one is not None}),  # type: ignore[typeddict-item]
        output_type=agent.output_type,
        defer_model_check=True,
    )
    runtime = PydanticAIRuntime(built, name, settings, max_steps=agent.max_steps, approvals=agent.requires_approval)
    return runtime, servers


def _server_tools(agent: Agent, name: str, settings: RuntimeSettings) -> ServerTools | None:
    """Raises: AgentFailed where the client is not installed."""
    if not agent.mcp_servers:
        return None
    try:
        from innkeeper.runtimes.pydantic_ai_mcp import ServerTools
    except ImportError as error:
        log.error("The agent %r has mcp_servers, whose client is not installed: pip install 'innkeeper[mcp]'", name)
        raise AgentFailed("mcp_servers need a package that is not installed: pip install 'innkeeper[mcp]'") from error
    return ServerTools(agent.mcp_servers, name, settings.environment)


def _guarded(tool: Any) -> Any:
    """A function whose failure is told to the model as the call's result, so that the run goes on.

    A `ValueError` is meant for the caller and its text is passed on; of other exceptions, only the kind.
    """
    if not inspect.isroutine(tool) and not isinstance(tool, functools.partial):
        return tool
    return _guarded_async(tool) if inspect.iscoroutinefunction(tool) else _guarded_sync(tool)


def _guarded_async(tool: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(tool)
    async def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return await tool(*args, **kwargs)
        except (Exception, SystemExit) as error:  # any failure of a tool is an answer to the model
            raise _told(tool, error) from error

    return guarded


def _guarded_sync(tool: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(tool)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return tool(*args, **kwargs)
        except (Exception, SystemExit) as error:  # any failure of a tool is an answer to the model
            raise _told(tool, error) from error

    return guarded


def _told(tool: Callable[..., Any], error: BaseException) -> Exception:
    from pydantic_ai.exceptions import ApprovalRequired, CallDeferred, ModelRetry, ToolFailed

    if isinstance(error, ModelRetry | ToolFailed | ApprovalRequired | CallDeferred):
        return error
    if isinstance(error, ValueError):
        return ToolFailed(str(error) or "The arguments were refused.")
    log.error("tool %s raised", getattr(tool, "__name__", tool), exc_info=error)
    return ToolFailed(f"The tool failed: {type(error).__name__}.")
