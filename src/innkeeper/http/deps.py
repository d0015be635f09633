"""What routes ask for: the services of the app that they are part of, the caller, and paging."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol

from fastapi import Depends, Query
from starlette.requests import HTTPConnection
from starlette.types import Scope

from innkeeper.core.context import RunContext
from innkeeper.core.identity import Caller
from innkeeper.http.bounds import Bounds
from innkeeper.http.gates import Gate
from innkeeper.http.hooks import Hooks
from innkeeper.http.vigils import Vigils
from innkeeper.ports.accounts import AuditReader
from innkeeper.ports.meters import UNMETERED, TrafficMeter
from innkeeper.services.admins import Admins
from innkeeper.services.agents import AgentRegistry
from innkeeper.services.audit import Audit
from innkeeper.services.balances import Balances
from innkeeper.services.chat_logs import ChatLogs
from innkeeper.services.control import Control
from innkeeper.services.credentials import Credentials
from innkeeper.services.denials import Denials
from innkeeper.services.engines import Engines
from innkeeper.services.figures import Figures
from innkeeper.services.files import Files
from innkeeper.services.initializations import Initializations
from innkeeper.services.injections import Injections
from innkeeper.services.logs import Logs
from innkeeper.services.runs import Runs
from innkeeper.services.session_tails import SessionTails
from innkeeper.services.sessions import Sessions
from innkeeper.services.tokens import Tokens
from innkeeper.services.traces import Traces
from innkeeper.services.workspaces import Workspaces

_logger = logging.getLogger(__name__)

MAX_PAGE = 200
MAX_CURSOR = 2**53


class Services(Protocol):
    """What wiring has started for the running loop."""

    @property
    def runs(self) -> Runs: ...

    @property
    def sessions(self) -> Sessions: ...

    @property
    def injections(self) -> Injections: ...

    @property
    def figures(self) -> Figures | None: ...

    @property
    def engines(self) -> Engines: ...

    @property
    def logs(self) -> Logs: ...

    @property
    def chat_logs(self) -> ChatLogs: ...

    @property
    def control(self) -> Control: ...

    @property
    def traces(self) -> Traces: ...

    @property
    def session_tails(self) -> SessionTails: ...

    @property
    def files(self) -> Files: ...

    @property
    def workspaces(self) -> Workspaces: ...

    @property
    def tokens(self) -> Tokens: ...

    @property
    def credentials(self) -> Credentials: ...

    @property
    def audit(self) -> Audit: ...

    @property
    def balances(self) -> Balances: ...

    @property
    def audit_log(self) -> AuditReader: ...

    @property
    def admins(self) -> Admins: ...

    @property
    def initializations(self) -> Initializations: ...

    @property
    def denials(self) -> Denials: ...


@dataclass(slots=True)
class House:
    """One app's part of the server: what is known before anything has started, and how to start the rest.

    `start` is idempotent and returns the services of the running event loop. `configuration` tells the settings without
    their secrets. `stop` has whoever started the server end it, as SIGTERM does, and is set by them; so are `restart`,
    which begins it anew, and `kill`, which ends it at once. `env_headers` are the variables that requests may set for
    themselves, by their names in capitals.
    """

    agents: AgentRegistry
    gate: Gate
    start: Callable[[], Awaitable[Services]]
    new_context: Callable[[Any], RunContext]
    new_id: Callable[[], str]
    status: Callable[[], dict[str, Any]]
    configuration: Callable[[], Mapping[str, Mapping[str, Any]]] = dict
    stop: Callable[[], None] | None = None
    restart: Callable[[], None] | None = None
    kill: Callable[[], None] | None = None
    env_headers: Mapping[str, str] = field(default_factory=dict)
    hooks: Hooks = field(default_factory=Hooks)
    bounds: Bounds = field(default_factory=Bounds)
    meter: TrafficMeter = UNMETERED
    shows_errors: bool = False
    is_tracing: bool = True
    heartbeat_seconds: float = 15.0
    created: int = 0
    modes: frozenset[str] = frozenset()
    vigils: Vigils = field(init=False)
    services: Services | None = None
    loop: asyncio.AbstractEventLoop | None = None
    keep_alive: object = None
    kept: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.vigils = Vigils(self.ready)

    async def ready(self) -> Services:
        """The services, started if they are not."""
        if self.services is None or self.loop is not asyncio.get_running_loop():
            self.services = await self.start()
            self.loop = asyncio.get_running_loop()
        return self.services

    def keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Carry `work` out in a task that outlives its request and that a stop waits for."""
        task = asyncio.get_running_loop().create_task(work)
        self.kept.add(task)
        task.add_done_callback(self.kept.discard)
        return task

    async def finished(self, patience: float) -> None:
        """Wait until nothing is kept any more, at most `patience` seconds."""
        deadline = asyncio.get_running_loop().time() + patience
        while self.kept and (left := deadline - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(self.kept, timeout=left)
        if self.kept:
            _logger.warning("%d requests were still being finalized when the server stopped", len(self.kept))


def house_of(connection: HTTPConnection) -> House:
    """The house of the app that serves this request.

    Raises: RuntimeError that says how to put Innkeeper into an app.
    """
    return house_in(connection.scope)


def house_in(scope: Scope) -> House:
    """The house of the app that serves what `scope` is of. Raises: RuntimeError, as `house_of`."""
    house = getattr(scope["app"].state, "innkeeper", None)
    if house is None:
        raise RuntimeError(
            "This router belongs to an Innkeeper app. Call innkeeper.attach(app) on your FastAPI app, or use"
            " create_app()."
        )
    assert isinstance(house, House), "app.state.innkeeper is set by attach() alone"
    return house


async def _services(connection: HTTPConnection) -> Services:
    return await house_of(connection).ready()


def caller_of(connection: HTTPConnection) -> Caller:
    """Who the gate found behind this request."""
    caller = connection.scope["innkeeper.caller"]
    assert isinstance(caller, Caller), "a route that needs a caller is not public"
    return caller


HouseDep = Annotated[House, Depends(house_of)]
ServicesDep = Annotated[Services, Depends(_services)]
CallerDep = Annotated[Caller, Depends(caller_of)]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="At most this many.")]
