"""Source code: tools and handlers that clients registered, executed in the sandbox and nowhere else.

Where the server does not execute clients' code there is no sandbox: then nothing can be registered or executed, and
what had been registered is shown, no more. Whoever may use a session may execute its tools; only an admin, or a token
with the scope `code`, may register and unregister.
Invariant: nothing here parses source; that is done in the sandbox, too.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NoReturn, Protocol

from innkeeper.core.administration import WriteAudit
from innkeeper.core.changes import KeepClaim
from innkeeper.core.claims import Claim, Claimed
from innkeeper.core.commands import Command
from innkeeper.core.context import SessionTool
from innkeeper.core.control_changes import AddHandler, AddTool, RemoveHandlers, RemoveTool, SetState
from innkeeper.core.errors import (
    CodeExecutionDisabled,
    CommandFailed,
    HandlerNotFound,
    Invalid,
    SessionNotFound,
    SetupError,
    SourceRejected,
    ToolNotFound,
)
from innkeeper.core.events import json_bytes
from innkeeper.core.identity import Caller, Owner, Role
from innkeeper.core.outcomes import Missing, Repeated
from innkeeper.core.runs import Run
from innkeeper.core.schemas import check, object_schema
from innkeeper.core.sessions import Session
from innkeeper.core.sources import (
    MAX_SOURCE,
    MAX_STATE_VALUE,
    HandlerDeclaration,
    HandlerKind,
    SourceHandler,
    SourceTool,
    ToolDeclaration,
)
from innkeeper.core.times import Instant
from innkeeper.core.tokens import CODE
from innkeeper.ports.journal import Journal
from innkeeper.ports.readers import SourceReader
from innkeeper.ports.sandbox import CodeFailed, HostFunction, LimitExceeded, Limits, Sandbox
from innkeeper.services.audit import Audit
from innkeeper.services.host_functions import guarded, members_of, state_name_of, text_of
from innkeeper.services.places import Places

_MAX_NESTED = 3
"""How deep tools may call tools: each level holds a place in the sandbox until the inner one has ended."""

MAX_CALLS, CALLS_OF_ONE = 512, 64
"""Calls of tools that may be under way or wait for the sandbox in one process, in all and of one owner."""
MAX_CHECKS, CHECKS_OF_ONE = 64, 8
"""The same of sources that are checked."""

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
    """The use cases of clients' code. `publish` and `check_free` are set once there are a log and Python's handlers."""

    def __init__(
        self,
        *,
        journal: Journal,
        sources: SourceReader,
        sandbox: Sandbox | None,
        audit: Audit,
        now: Callable[[], int],
        new_id: Callable[[], str],
        limits: Limits = Limits(),  # noqa: B008 - a frozen value
    ) -> None:
        self._journal = journal
        self._sources = sources
        self._sandbox = sandbox
        self._audit = audit
        self._now = now
        self._new_id = new_id
        self._limits = limits
        self._calls = Places(MAX_CALLS, CALLS_OF_ONE, "calls of tools")
        self._checks = Places(MAX_CHECKS, CHECKS_OF_ONE, "registrations")
        self._is_leaving = False
        self.publish: Publish | None = None
        self.check_free: Callable[[Where, str], None] = lambda where, command_type: None

    @property
    def is_enabled(self) -> bool:
        return self._sandbox is not None

    def _sandbox_for(self, caller: Caller) -> Sandbox:
        sandbox = self._sandbox or _disabled()
        _check_may_register(caller)
        return sandbox

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
        claim: Claim | None = None,
    ) -> tuple[SourceTool, bool]:
        """Register a tool; and whether the same request had registered it before.

        Raises: CodeExecutionDisabled; SourceRejected, Invalid; ToolConflict; SessionNotFound; IdempotencyMismatch.
        """
        sandbox = self._sandbox_for(caller)
        _check_size(source, "function_code")
        schema = object_schema(parameters)
        wanted = name if _defines(source, name) else None
        with _named("function_code"), self._checks.taken(caller.owner):
            function = await sandbox.check_tool(source, wanted, tuple(schema["properties"]))
        schema["required"] = list(dict.fromkeys((*schema.get("required", ()), *function.required)))
        now = Instant(self._now())
        tool = SourceTool(session.key, name, description, schema, now, function.name, source)
        known = await self._register(caller, session, AddTool(tool), claim, f"{session.key}/{name}", now)
        return (tool, False) if known is None else (replace(tool, created_at=known.created_at), True)

    async def tools(self, session: Session) -> Sequence[ToolDeclaration]:
        """All of a session's, whether or not they are executed now."""
        return await self._sources.tools(session.key)

    async def tools_of(self, run: Run) -> Sequence[SessionTool]:
        """What a run's agent may call beside its own tools."""
        where = Where(run.owner, run.session_key, run.session_id)
        return [
            SessionTool(tool.name, tool.description, tool.parameters, partial(self.call_tool, where, tool.name))
            for tool in await self._sources.tools(run.session_key)
        ]

    async def remove_tool(self, caller: Caller, session: Session, name: str) -> None:
        """Raises: ToolNotFound; CodeExecutionDisabled for a caller who may not."""
        if await self._sources.tool(session.key, name) is None:
            raise _no_tool(name)
        _check_may_register(caller)
        entry = self._audit.entry(caller.owner, "tool.remove", "tool", name, {"session_id": session.id})
        if isinstance(await self._commit(RemoveTool(session.key, name), entry), Missing):
            raise _no_tool(name)

    async def call_tool(self, where: Where, name: str, arguments: Mapping[str, object]) -> object:
        """What a tool returns.

        Raises: ToolNotFound; CodeExecutionDisabled; Invalid for arguments that do not fit; CommandFailed; TooBusy.
        """
        tool = await self._sources.tool(where.session_key, name)
        if tool is None:
            raise _no_tool(name)
        # A nested call is part of one that has a place.
        with nullcontext() if where.nested else self._calls.taken(where.owner):
            await asyncio.to_thread(check, arguments, tool.parameters, "arguments")  # a megabyte of them takes a second
            return await self._call(where, tool.source, tool.function, arguments)

    # handlers

    async def add_handler(
        self, caller: Caller, session: Session, kind: HandlerKind, type: str, source: str, claim: Claim | None = None
    ) -> tuple[SourceHandler, bool]:
        """Register a handler; and whether the same request had registered it before.

        Raises: CodeExecutionDisabled; SourceRejected, Invalid; HandlerConflict; SessionNotFound; IdempotencyMismatch.
        """
        sandbox = self._sandbox_for(caller)
        _check_size(source, "handler_function")
        if kind == "command":
            self.check_free(Where(session.owner, session.key, session.id), type)
        with _named("handler_function"), self._checks.taken(caller.owner):
            function = await sandbox.check_handler(source, None)
        now = Instant(self._now())
        handler = SourceHandler(f"hdl_{self._new_id()}", session.key, kind, type, now, function, source)
        known = await self._register(caller, session, AddHandler(handler), claim, handler.id, now)
        if known is None:
            return handler, False
        return replace(handler, id=known.subject, created_at=known.created_at), True

    async def _register(
        self,
        caller: Caller,
        session: Session,
        change: AddTool | AddHandler,
        claim: Claim | None,
        subject: str,
        now: Instant,
    ) -> Claimed | None:
        """What the same request had made before, if it had made it; nothing is written then."""
        keeping = () if claim is None else (KeepClaim(session.owner, claim, subject, now),)
        entry = self._registered(caller, session, change)
        *_, outcome, _ = await self._journal.commit((*keeping, change, entry))
        if isinstance(outcome, Missing):
            raise SessionNotFound(f"Session {session.id!r} does not exist.", param="session_id")
        return outcome.claimed if isinstance(outcome, Repeated) else None

    def _registered(self, caller: Caller, session: Session, change: AddTool | AddHandler) -> WriteAudit:
        """What the audit log is told of a registration: of its source only the digest, which proves what it was."""
        made = change.tool if isinstance(change, AddTool) else change.handler
        digest = hashlib.sha256(made.source.encode(errors="replace")).hexdigest()
        told = {"session_id": session.id, "source_sha256": digest}
        if isinstance(made, SourceTool):
            return self._audit.entry(caller.owner, "tool.register", "tool", made.name, told)
        about = {**told, "kind": made.kind, "type": made.type}
        return self._audit.entry(caller.owner, "handler.register", "handler", made.id, about)

    async def remove_handlers(self, caller: Caller, session: Session, kind: HandlerKind, type: str) -> None:
        """Raises: HandlerNotFound; CodeExecutionDisabled for a caller who may not."""
        if await self._sources.handlers(session.key, kind, type):
            _check_may_register(caller)
            about = {"kind": kind, "type": type, "session_id": session.id}
            entry = self._audit.entry(caller.owner, "handler.remove", "handler", type, about)
            if not isinstance(await self._commit(RemoveHandlers(session.key, kind, type), entry), Missing):
                return
        raise HandlerNotFound(f"No {kind} handler is registered for {type} in this session.", param=f"{kind}_type")

    async def handlers(self, session_key: str, kind: HandlerKind, type: str) -> Sequence[HandlerDeclaration]:
        """Those that would be called now."""
        return await self._sources.handlers(session_key, kind, type) if self._sandbox is not None else ()

    async def registered(self, session: Session, kind: HandlerKind) -> Sequence[HandlerDeclaration]:
        """All of a session's, whether or not they are executed now."""
        return await self._sources.handlers(session.key, kind)

    async def handle(
        self, command: Command, kind: HandlerKind, type: str, handler_id: str | None, shown: Mapping[str, object]
    ) -> object:
        """What a handler returns for a command or an event.

        Raises: HandlerNotFound if it was unregistered meanwhile; CommandFailed.
        """
        handler = None
        if self._sandbox is not None and handler_id is not None:
            handler = await self._sources.handler(command.session_key, kind, type, handler_id)
        if handler is None:
            raise HandlerNotFound(f"The handler for {type} was unregistered meanwhile.", param=f"{kind}_type")
        where = Where(command.owner, command.session_key, command.session_id)
        return await self._call(where, handler.source, handler.function, (shown,))

    # executing

    async def _call(
        self, where: Where, source: str, function: str, arguments: Mapping[str, object] | tuple[object, ...]
    ) -> object:
        sandbox = self._sandbox or _disabled()
        try:
            hosts = {name: guarded(name, function) for name, function in self._hosts(where).items()}
            outcome = await sandbox.call(source, function, arguments, hosts=hosts, limits=self._limits)
        except LimitExceeded as error:
            raise CommandFailed(
                f"The code exceeded its limit of {_LIMITS.get(error.limit, error.limit)} and was ended.",
                details={"limit": error.limit},
            ) from error
        except CodeFailed as error:
            if self._is_leaving:
                told = "The server stopped while this was executed; what it did is not known."
                raise CommandFailed(told, details={"reason": "interrupted"}) from error
            raise CommandFailed(f"The code raised {error}", details={"reason": "exception"}) from error
        except SetupError as error:  # its words are for who runs the server
            raise RuntimeError("the sandbox cannot be started again") from error
        return outcome.value

    def _hosts(self, where: Where) -> Mapping[str, HostFunction]:
        """What code may do beyond computing: things of its own session."""

        async def publish_event(event_type: str, data: Any = None, metadata: Any = None) -> object:
            assert self.publish is not None, "there is a log wherever code is executed"
            text_of(event_type, "event_type")
            return await self.publish(where, event_type, members_of(data, "data"), members_of(metadata, "metadata"))

        async def call_tool(name: str, arguments: Any = None) -> object:
            if where.nested >= _MAX_NESTED:
                raise Invalid(f"Tools may call tools {_MAX_NESTED} deep.")
            inner = Where(where.owner, where.session_key, where.session_id, where.nested + 1)
            return await self.call_tool(inner, text_of(name, "name"), members_of(arguments, "arguments"))

        async def get_state(name: str) -> object:
            return await self._sources.state(where.session_key, state_name_of(name))

        async def set_state(name: str, value: object) -> None:
            state_name_of(name)
            if len(json_bytes(value)) > MAX_STATE_VALUE:
                raise Invalid(f"A value may have at most {MAX_STATE_VALUE // 1024} KiB of JSON.", param="value")
            change = SetState(where.session_key, name, value, Instant(self._now()))
            if isinstance(await self._commit(change), Missing):
                raise SessionNotFound(f"Session {where.session_id!r} does not exist.", param="session_id")

        return {
            "publish_event": publish_event,
            "call_tool": call_tool,
            "get_state": get_state,
            "set_state": set_state,
        }

    async def drain(self, patience: float) -> None:
        """Calls under way may end within so many seconds, before their sandbox is closed."""
        await self._calls.emptied(patience)
        self._is_leaving = True

    async def _commit(self, change: RemoveTool | RemoveHandlers | SetState, *entries: WriteAudit) -> object:
        return (await self._journal.commit((change, *entries)))[0]


_LIMITS = {
    "cpu_seconds": "CPU time (cpu_seconds)",
    "wall_seconds": "time (wall_seconds)",
    "memory": "memory",
    "output": "output",
    "recursion": "recursion",
    "calls": "calls of host functions",
}


@contextmanager
def _named(param: str) -> Iterator[None]:
    """What is wrong with a source is told of the field that it came in."""
    try:
        yield
    except SourceRejected as error:
        error.param = param
        raise


def _defines(source: str, name: str) -> bool:
    """Whether a function of that name seems to stand at the top level; the sandbox looks closer."""
    return re.search(rf"^(?:async[ \t]+)?def[ \t]+{re.escape(name)}[ \t]*\(", source, re.MULTILINE) is not None


def _disabled() -> NoReturn:
    raise CodeExecutionDisabled(
        f"This server does not execute source code; its operator can set {SETTING}.", details={"setting": SETTING}
    )


def _check_may_register(caller: Caller) -> None:
    if not (caller.role is Role.ADMIN or CODE in caller.scopes):
        raise CodeExecutionDisabled(
            f"Source code is for an admin's token or one with the scope {CODE} ({SETTING}).",
            details={"setting": SETTING, "scope": CODE},
        )


def _check_size(source: str, param: str) -> None:
    if len(source) > MAX_SOURCE:
        raise Invalid(f"{param}: may have at most {MAX_SOURCE // 1024} KiB.", param=param)


def _no_tool(name: str) -> ToolNotFound:
    return ToolNotFound(f"Tool {name!r} is not registered in this session.", param="tool_name")
