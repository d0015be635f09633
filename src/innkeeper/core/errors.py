"""Everything that can go wrong and that a caller can do something about.

InnkeeperError
├── Invalid                 a field of the request is missing or wrong (`param` names it)
├── Unsupported             a well-formed request that this agent or server cannot honour
├── NotFound
│   ├── AgentNotFound       ├── SessionNotFound
│   ├── RunNotFound         ├── InjectionNotFound
│   ├── CommandNotFound     ├── EventNotFound
│   ├── EngineNotFound      ├── ToolNotFound
│   ├── HandlerNotFound     ├── TraceNotFound
│   ├── TokenNotFound       ├── AdminNotFound
│   ├── BalanceNotFound     ├── ActionNotFound
│   ├── FileMissing         no such file, or no such version of it
│   └── RouteNotFound
├── PreviousRunNotFound     there is nothing to go on after
├── NoDefaultAgent          no agent was named and none is the default
├── NoAgents                nothing is registered
├── MethodNotAllowed
├── Unauthorized            no usable credentials
├── QuotaExceeded           an organization keeps as many bytes of files as it may
├── PreconditionFailed      the thing is not as the request demands it to be
├── RangeNotSatisfiable     there is nothing in the part that was asked for
├── InsufficientCredits     what is left does not cover what the run may cost
├── Forbidden               credentials without the permission
├── ForeignHost             the Host header names another server
├── PayloadTooLarge         ├── UnsupportedMediaType
├── HeadersTooLarge         ├── AddressTooLong  ├── RequestTooSlow
├── RunConflict             another run holds the session
├── ToolConflict            ├── HandlerConflict   one of that name is registered already
├── AdminConflict           an administrator has that address or id already
├── LastAdmin               somebody must remain
├── AgentNotInitialized     an agent could not be made anew, and serves as before
├── ServerNotOurs           the process cannot be restarted or ended from inside
├── SourceRejected          source code that cannot be registered: where, and why
├── CodeExecutionDisabled   the server does not run clients' code
├── CommandFailed           a command handler or a tool raised, or exceeded a limit
├── TooBusy                 a queue or a limit is full; `retry_after` seconds
│   └── RateLimited         too many requests in a while
├── IdempotencyMismatch     the key was used with another request
├── AgentFailed             the agent or its model raised
│   └── AgentTimedOut       it did not end in time
├── ShuttingDown            the server is draining
├── StorageUnavailable      the store did not answer
│   └── StorageFull         it has no room left
└── SetupError              the server was told something impossible at start
    ├── TargetNotFound      nothing to serve where it was looked for
    ├── DuplicateAgent      ├── ReservedName
    ├── MissingDependency   └── StoreInUse

The tree does not know HTTP; `innkeeper.http.problems` maps it to statuses and codes. The message of an
error is the sentence that a user reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the sandbox is given this module without the others
    from innkeeper.core.identity import Owner


class InnkeeperError(Exception):
    """The root; `param` names the offending field and `details` carries facts for programs."""

    def __init__(self, message: str, *, param: str | None = None, details: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.details = dict(details or {})


class Invalid(InnkeeperError):
    """A field is missing, of the wrong type or out of range."""


class Unparsable(InnkeeperError):
    """The body is not JSON that this server accepts."""


class Unsupported(InnkeeperError):
    """The request asks for something that would be misleading to ignore."""


class NotFound(InnkeeperError):
    """Nothing of that name exists for this caller."""


class AgentNotFound(NotFound):
    """No agent has that name."""


class SessionNotFound(NotFound):
    """No session has that id."""


class RunNotFound(NotFound):
    """No run has that id."""


class PreviousRunNotFound(InnkeeperError):
    """What the request is to go on after does not exist."""


class InjectionNotFound(NotFound):
    """No injection has that id."""


class CommandNotFound(NotFound):
    """No command has that id."""


class EventNotFound(NotFound):
    """No event has that id."""


class ActionNotFound(NotFound):
    """The run has asked for no such action."""


class EngineNotFound(NotFound):
    """No engine has that id."""


class ToolNotFound(NotFound):
    """No tool of that name is registered."""


class HandlerNotFound(NotFound):
    """No handler is registered for that type."""


class TraceNotFound(NotFound):
    """No trace has that id."""


class TokenNotFound(NotFound):
    """No token has that id."""


class AdminNotFound(NotFound):
    """No administrator has that address."""


class BalanceNotFound(NotFound):
    """Neither that user nor that organization has a balance."""


class FileMissing(NotFound):
    """The file, or the version of it, does not exist, or is not the caller's."""


class RouteNotFound(NotFound):
    """Nothing is served at that path."""


class MethodNotAllowed(InnkeeperError):
    """The path exists, but not with that method."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self.allowed = tuple(sorted(allowed))
        super().__init__(f"This path takes {', '.join(self.allowed)}.")


class NoDefaultAgent(InnkeeperError):
    """No agent was named and none is the default."""


class NoAgents(InnkeeperError):
    """No agent is registered."""


class Unauthorized(InnkeeperError):
    """The request carries no usable credentials."""


class Forbidden(InnkeeperError):
    """The caller lacks the permission."""

    owner: Owner | None = None
    """Who was refused, where that is known."""

    permission: str | None = None
    """What was refused, where it is not that of the route."""


class ForeignHost(InnkeeperError):
    """The request is addressed to a host that this server does not answer for."""


class PayloadTooLarge(InnkeeperError):
    """The body is larger than this route accepts."""


class UnsupportedMediaType(InnkeeperError):
    """The body is not of the type that this route accepts."""


class HeadersTooLarge(InnkeeperError):
    """The request has too many header fields, or too long ones."""


class RequestTooSlow(InnkeeperError):
    """The request did not arrive in time."""


class AddressTooLong(InnkeeperError):
    """The path and query are longer than this server accepts."""


class QuotaExceeded(InnkeeperError):
    """The organization keeps as many bytes of files as it may."""


class PreconditionFailed(InnkeeperError):
    """The thing is not as the request demands it to be."""


class RangeNotSatisfiable(InnkeeperError):
    """There is nothing in the part that was asked for; `details` has the size."""


class InsufficientCredits(InnkeeperError):
    """What is left of the balance does not cover what the run may cost."""


class AdminConflict(InnkeeperError):
    """An administrator has that address or id already."""


class LastAdmin(InnkeeperError):
    """The last administrator cannot be removed."""


class AgentNotInitialized(InnkeeperError):
    """The agent could not be made anew, and serves as it did."""


class ServerNotOurs(InnkeeperError):
    """The process is not the server's own, so that only whoever started it can do this."""


class RunConflict(InnkeeperError):
    """The session is busy with another run."""


class ToolConflict(InnkeeperError):
    """A tool of that name is registered in this session already."""


class HandlerConflict(InnkeeperError):
    """A handler for commands of that type is registered in this scope already."""


class SourceRejected(Invalid):
    """Source code that cannot be registered; `line` and `column` begin at 1."""

    def __init__(self, message: str, *, line: int = 1, column: int = 1, param: str | None = None) -> None:
        where = f"line {line}, column {column}: {message}"
        super().__init__(where, param=param, details={"line": line, "column": column, "reason": message})


class CodeExecutionDisabled(InnkeeperError):
    """The server does not run clients' code, or not for this caller."""


class CommandFailed(InnkeeperError):
    """A command handler or a tool raised, or exceeded a limit."""


class TooBusy(InnkeeperError):
    """A queue or a limit is full."""

    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RateLimited(TooBusy):
    """The caller has sent too many requests in a while."""


class IdempotencyMismatch(InnkeeperError):
    """The idempotency key belongs to a different request."""


class AgentFailed(InnkeeperError):
    """The agent, or the model behind it, raised."""


class AgentTimedOut(AgentFailed):
    """The agent did not end within its time limit."""


class ShuttingDown(InnkeeperError):
    """The server is draining and takes no new work."""


class StorageUnavailable(InnkeeperError):
    """The store did not answer in time."""


class StorageFull(StorageUnavailable):
    """The store has no room left."""


class SetupError(InnkeeperError):
    """The server was told something impossible at start."""


class TargetNotFound(SetupError):
    """There is nothing to serve where it was looked for."""


class DuplicateAgent(SetupError):
    """Two agents have one name."""


class ReservedName(SetupError):
    """The agent's name is a path that the server needs for itself."""


class MissingDependency(SetupError):
    """An optional package is needed and not installed."""


class StoreInUse(SetupError):
    """Another server holds the data folder."""
