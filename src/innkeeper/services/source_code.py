"""Source code: tools and handlers that clients registered, executed in the sandbox and nowhere else.

Where the server does not execute clients' code there is no sandbox: then nothing can be registered, and nothing that
had been is found.
"""

from __future__ import annotations

import ast
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from innkeeper.core.changes import Missing
from innkeeper.core.commands import Command
from innkeeper.core.context import SessionTool
from innkeeper.core.control_changes import AddHandler, AddTool, RemoveHandlers, RemoveTool, SetState
from innkeeper.core.errors import (
    CodeExecutionDisabled,
    CommandFailed,
    HandlerNotFound,
    Invalid,
    SessionNotFound,
    ToolNotFound,
)
from innkeeper.core.events import json_bytes
from innkeeper.core.identity import Caller, Owner, Role
from innkeeper.core.runs import Run
from innkeeper.core.sessions import Session
from innkeeper.core.sources import MAX_SOURCE, MAX_STATE_VALUE, HandlerKind, SourceHandler, SourceTool
from innkeeper.core.times import Instant
from innkeeper.core.tokens import CODE
from innkeeper.ports.journal import Journal
from innkeeper.ports.readers import SourceReader
from innkeeper.ports.sandbox import CodeFailed, HostFunction, LimitExceeded, Limits, Sandbox

_MAX_NESTED = 3
"""How deep tools may call tools: each level holds a place in the sandbox until the inner one has ended."""

SETTING = "code_execution"


class Publish(Protocol):
    """How code of a session publishes an event there; see `SessionLog`."""

    def __call__(
        self, where: Where, event_type: str, data: Mapping[str, object], metadata: Mapping[str, object]
    ) -> Awaitable[object]: ...


@dataclass(frozen=True, slots=True)
class Where:
    """For whom and in which session code is executed, and how deep it was called."""

    owner: Owner
    session_key: str
    session_id: str
    nested: int = 0


class SourceCode:
    """The use cases of clients' code. `publish` is set once there is a log to publish to."""

    def __init__(
        self,
        *,
        journal: Journal,
        sources: SourceReader,
        sandbox: Sandbox | None,
        now: Callable[[], int],
        new_id: Callable[[], str],
        limits: Limits = Limits(),  # noqa: B008 - a frozen value
    ) -> None:
        self._journal = journal
        self._sources = sources
        self._sandbox = sandbox
        self._now = now
        self._new_id = new_id
        self._limits = limits
        self.publish: Publish | None = None

    @property
    def is_enabled(self) -> bool:
        return self._sandbox is not None

    def _sandbox_for(self, caller: Caller) -> Sandbox:
        if self._sandbox is None:
            raise CodeExecutionDisabled(
                f"This server does not execute source code; its operator can set {SETTING}.",
                details={"setting": SETTING},
            )
        if not (caller.role is Role.ADMIN or CODE in caller.scopes):
            raise CodeExecutionDisabled(
                f"Source code is for an admin's token or one with the scope code ({SETTING}).",
                details={"setting": SETTING, "scope": "code"},
            )
        return self._sandbox

    # tools

    async def add_tool(
        self,
        caller: Caller,
        session: Session,
        *,
        name: str,
        description: str,
        parameters: Mapping[str, Any],
        source: str,
    ) -> SourceTool:
        """Register a tool.

        Raises: CodeExecutionDisabled; SourceRejected, Invalid; ToolConflict; SessionNotFound.
        """
        sandbox = self._sandbox_for(caller)
        _check_size(source, "function_code")
        schema = as_schema(parameters)
        wanted = name if f"def {name}(" in source else None
        function = await sandbox.check_tool(source, wanted, tuple(schema["properties"]))
        schema.setdefault("required", _required(source, function))
        tool = SourceTool(session.key, name, description, schema, function, source, Instant(self._now()))
        if isinstance(await self._commit(AddTool(tool)), Missing):
            raise SessionNotFound(f"Session {session.id!r} does not exist.", param="session_id")
        return tool

    async def tools(self, session_key: str) -> Sequence[SourceTool]:
        return await self._sources.tools(session_key) if self._sandbox is not None else ()

    async def tools_of(self, run: Run) -> Sequence[SessionTool]:
        """What a run's agent may call beside its own tools."""
        where = Where(run.owner, run.session_key, run.session_id)
        return [
            SessionTool(tool.name, tool.description, tool.parameters, partial(self.call_tool, where, tool.name))
            for tool in await self._sources.tools(run.session_key)
        ]

    async def remove_tool(self, session: Session, name: str) -> None:
        """Raises: ToolNotFound."""
        if isinstance(await self._commit(RemoveTool(session.key, name)), Missing):
            raise _no_tool(name)

    async def call_tool(self, where: Where, name: str, arguments: Mapping[str, object]) -> object:
        """What a tool returns.

        Raises: ToolNotFound; Invalid for arguments that do not fit; CommandFailed.
        """
        tool = await self._sources.tool(where.session_key, name) if self._sandbox is not None else None
        if tool is None:
            raise _no_tool(name)
        check_arguments(tool, arguments)
        return await self._call(where, tool.source, tool.function, arguments)

    # handlers

    async def add_handler(
        self, caller: Caller, session: Session, kind: HandlerKind, type: str, source: str
    ) -> SourceHandler:
        """Register a handler.

        Raises: CodeExecutionDisabled; SourceRejected, Invalid; HandlerConflict; SessionNotFound.
        """
        sandbox = self._sandbox_for(caller)
        _check_size(source, "handler_function")
        function = await sandbox.check_handler(source, None)
        handler = SourceHandler(
            f"hdl_{self._new_id()}", session.key, kind, type, function, source, Instant(self._now())
        )
        if isinstance(await self._commit(AddHandler(handler)), Missing):
            raise SessionNotFound(f"Session {session.id!r} does not exist.", param="session_id")
        return handler

    async def remove_handlers(self, session: Session, kind: HandlerKind, type: str) -> None:
        """Raises: HandlerNotFound."""
        if isinstance(await self._commit(RemoveHandlers(session.key, kind, type)), Missing):
            raise HandlerNotFound(f"No {kind} handler is registered for {type} in this session.", param=f"{kind}_type")

    async def handlers(self, session_key: str, kind: HandlerKind, type: str) -> Sequence[SourceHandler]:
        return await self._sources.handlers(session_key, kind, type) if self._sandbox is not None else ()

    async def registered(self, session: Session, kind: HandlerKind) -> Sequence[SourceHandler]:
        """All of a session's, whether or not they are executed now."""
        return await self._sources.handlers(session.key, kind)

    async def handle(
        self, command: Command, kind: HandlerKind, type: str, handler_id: str | None, shown: Mapping[str, object]
    ) -> object:
        """What a handler returns for a command or an event.

        Raises: HandlerNotFound if it was unregistered meanwhile; CommandFailed.
        """
        found = await self.handlers(command.session_key, kind, type)
        handler = next((one for one in found if one.id == handler_id), None)
        if handler is None:
            raise HandlerNotFound(f"The handler for {type} was unregistered meanwhile.", param=f"{kind}_type")
        where = Where(command.owner, command.session_key, command.session_id)
        return await self._call(where, handler.source, handler.function, (shown,))

    # executing

    async def _call(
        self, where: Where, source: str, function: str, arguments: Mapping[str, object] | tuple[object, ...]
    ) -> object:
        assert self._sandbox is not None, "code is found only where it can be executed"
        try:
            hosts = self._hosts(where)
            outcome = await self._sandbox.call(source, function, arguments, hosts=hosts, limits=self._limits)
        except LimitExceeded as error:
            raise CommandFailed(
                f"The code exceeded its limit of {_LIMITS.get(error.limit, error.limit)} and was ended.",
                details={"limit": error.limit},
            ) from error
        except CodeFailed as error:
            raise CommandFailed(f"The code raised {error}", details={"reason": "exception"}) from error
        return outcome.value

    def _hosts(self, where: Where) -> Mapping[str, HostFunction]:
        """What code may do beyond computing: things of its own session."""

        async def publish_event(
            event_type: str, data: dict[str, object] | None = None, metadata: dict[str, object] | None = None
        ) -> object:
            assert self.publish is not None, "there is a log wherever code is executed"
            return await self.publish(where, event_type, data or {}, metadata or {})

        async def call_tool(name: str, arguments: dict[str, object] | None = None) -> object:
            if where.nested >= _MAX_NESTED:
                raise Invalid(f"Tools may call tools {_MAX_NESTED} deep.")
            inner = Where(where.owner, where.session_key, where.session_id, where.nested + 1)
            return await self.call_tool(inner, str(name), arguments or {})

        async def get_state(name: str) -> object:
            return await self._sources.state(where.session_key, checked_state_name(name))

        async def set_state(name: str, value: object) -> None:
            if len(json_bytes(value)) > MAX_STATE_VALUE:
                raise Invalid(f"A value may have at most {MAX_STATE_VALUE // 1024} KiB of JSON.", param="value")
            change = SetState(where.session_key, checked_state_name(name), value, Instant(self._now()))
            await self._commit(change)

        return {
            "publish_event": publish_event,
            "call_tool": call_tool,
            "get_state": get_state,
            "set_state": set_state,
        }

    async def _commit(self, change: AddTool | RemoveTool | AddHandler | RemoveHandlers | SetState) -> object:
        (outcome,) = await self._journal.commit((change,))
        return outcome


_LIMITS = {
    "cpu_seconds": "CPU time (cpu_seconds)",
    "wall_seconds": "time (wall_seconds)",
    "memory": "memory",
    "output": "output",
    "recursion": "recursion",
    "calls": "calls of host functions",
}


def _required(source: str, function: str) -> list[str]:
    """The parameters of a function, which has been checked, that have no default."""
    for node in reversed(ast.parse(source).body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == function:
            told = node.args
            plain = [*told.posonlyargs, *told.args]
            needed = plain[: len(plain) - len(told.defaults)]
            named = [one for one, value in zip(told.kwonlyargs, told.kw_defaults, strict=True) if value is None]
            return [one.arg for one in (*needed, *named)]
    return []


def as_schema(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON schema of a tool's arguments, from one, or from its properties alone.

    Raises: Invalid.
    """
    is_whole = parameters.get("type") == "object" and isinstance(parameters.get("properties"), Mapping)
    properties = parameters["properties"] if is_whole else parameters
    for name, told in properties.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise Invalid(f"parameters.{name}: must be named as Python names a parameter.", param=f"parameters.{name}")
        if not isinstance(told, Mapping):
            raise Invalid(f"parameters.{name}: must be a JSON schema, an object.", param=f"parameters.{name}")
    if not is_whole:
        return {"type": "object", "properties": dict(properties), "additionalProperties": False}
    unknown = [name for name in parameters.get("required", ()) if name not in properties]
    if unknown:
        raise Invalid(f"parameters.required: {unknown[0]!r} is none of the properties.", param="parameters.required")
    return dict(parameters)


_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


def check_arguments(tool: SourceTool, arguments: Mapping[str, object]) -> None:
    """Raises: Invalid that names the first argument that does not fit the tool's schema."""
    properties: Mapping[str, Any] = tool.parameters.get("properties", {})  # type: ignore[assignment]
    required: Sequence[str] = tool.parameters.get("required", ())  # type: ignore[assignment]
    for name in required:
        if name not in arguments:
            raise Invalid(f"arguments.{name}: is required.", param=f"arguments.{name}")
    for name, value in arguments.items():
        if name not in properties:
            raise Invalid(f"arguments.{name}: {tool.name} has no such parameter.", param=f"arguments.{name}")
        wanted = properties[name].get("type")
        allowed = [wanted] if isinstance(wanted, str) else wanted or []
        if allowed and not any(_fits(value, str(kind)) for kind in allowed):
            told = " or ".join(map(str, allowed))
            raise Invalid(f"arguments.{name}: must be of type {told}.", param=f"arguments.{name}")


def _fits(value: object, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _TYPES.get(kind, (object,)))


def checked_state_name(name: object) -> str:
    """Raises: Invalid."""
    if not isinstance(name, str) or not 0 < len(name) <= 128:
        raise Invalid("The name of a state is a text of 1 to 128 characters.", param="name")
    return name


def _check_size(source: str, param: str) -> None:
    if len(source) > MAX_SOURCE:
        raise Invalid(f"{param}: may have at most {MAX_SOURCE // 1024} KiB.", param=param)


def _no_tool(name: str) -> ToolNotFound:
    return ToolNotFound(f"Tool {name!r} is not registered in this session.", param="tool_name")
