"""Wiring: the composition root. It alone names concrete adapters, and gives every part what it needs.

A `Kernel` belongs to one app. What it starts belongs to one event loop: where an app is entered on another
loop (as test clients do), the parts of the old one are closed and made anew.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from innkeeper import runtimes
from innkeeper.buses.memory import MemoryBus
from innkeeper.config import Settings
from innkeeper.core.errors import MissingDependency, SetupError
from innkeeper.http.contexts import RequestState, new_id, now
from innkeeper.http.deps import House
from innkeeper.http.gates import Gate, GateSettings
from innkeeper.ports.bus import Bus
from innkeeper.ports.journal import Journal
from innkeeper.ports.readers import InjectionReader, RunReader, SessionReader, WorkerReader
from innkeeper.runtimes.settings import RuntimeSettings
from innkeeper.services import processes
from innkeeper.services.agents import AgentRegistry
from innkeeper.services.injections import Injections
from innkeeper.services.membership import Membership
from innkeeper.services.runs import RunLimits, Runs
from innkeeper.services.sessions import Sessions
from innkeeper.services.settlements import Settlements
from innkeeper.services.wakes import Wakes
from innkeeper.services.watchdogs import Watchdog
from innkeeper.services.webhooks import Deliveries, Webhooks
from innkeeper.version import __version__
from innkeeper.webhooks.senders import HttpSender

_logger = logging.getLogger(__name__)

FINALIZE_SECONDS = 3.0


class Store(Protocol):
    """What every storage adapter offers as a whole."""

    @property
    def journal(self) -> Journal: ...

    @property
    def sessions(self) -> SessionReader: ...

    @property
    def runs(self) -> RunReader: ...

    @property
    def injections(self) -> InjectionReader: ...

    @property
    def workers(self) -> WorkerReader: ...

    @property
    def is_shared(self) -> bool: ...

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def abandon(self) -> None: ...

    async def migrate(self) -> tuple[str | None, str]: ...


@dataclass(slots=True)
class Started:
    """The services of one event loop."""

    store: Store
    runs: Runs
    sessions: Sessions
    injections: Injections
    loop: asyncio.AbstractEventLoop


class Kernel:
    """Starts and stops what one app needs."""

    def __init__(self, settings: Settings, agents: AgentRegistry) -> None:
        self.settings = settings
        self.agents = agents
        self.house = House(
            agents=agents,
            gate=Gate(_gate_settings(settings)),
            start=self.start,
            new_context=RequestState,
            new_id=new_id,
            status=self.status,
            shows_errors=settings.debug,
            created=int(time.time()),
            modes=frozenset(settings.allowed_modes),
        )
        self._started: Started | None = None
        self._is_leaving = False
        self._watchdog = Watchdog()
        self._abandon: weakref.finalize[..., Any]
        self._starting: tuple[asyncio.AbstractEventLoop, asyncio.Task[Started]] | None = None
        self._began = time.monotonic()

    def keep_in(self, data_dir: Path) -> None:
        """Keep state in another folder from now on, whatever the settings say; for tests.

        Raises: SetupError if the app is being served.
        """
        if self._started is not None and self._started.loop.is_running():
            raise SetupError("The app is being served: its data folder cannot change now.")
        self.settings = self.settings.model_copy(update={"data_dir": data_dir, "database_url": None})

    async def start(self) -> Started:
        """The services of the running loop; concurrent first calls share one start.

        Raises: SetupError.
        """
        loop = asyncio.get_running_loop()
        started = self._started
        if started is not None and started.loop is loop:
            return started
        starting = self._starting
        if starting is None or starting[0] is not loop:
            starting = self._starting = (loop, loop.create_task(self._open()))
        try:
            return await asyncio.shield(starting[1])
        finally:
            if self._starting is starting and starting[1].done():
                self._starting = None

    async def _open(self) -> Started:
        before = self._started
        if before is not None:
            if before.loop.is_running():
                raise SetupError("The app is being served on another event loop of this process; make an app for each.")
            self._started = None
            self._abandon()
        self._is_leaving = False
        store = open_store(self.settings)
        await store.open()
        try:
            self._started = await _open_services(self.settings, self.agents, store)
        except BaseException:
            await store.close()
            raise
        self._abandon = weakref.finalize(self, store.abandon)
        self._abandon.atexit = False
        _prepare_process()
        self._watchdog.start()
        return self._started

    def leave(self) -> None:
        """The server is about to stop: from now on it says that it is not ready; what arrives yet is served."""
        self._is_leaving = True

    async def drain(self) -> None:
        """Take no new runs and let those under way end, then interrupt them; clients still hear how they ended."""
        self.leave()
        started = self._started
        if started is not None and started.loop is asyncio.get_running_loop():
            await started.runs.drain(self.settings.drain_seconds)

    async def stop(self) -> None:
        """Drain runs, then close the store; idempotent."""
        started, self._started = self._started, None
        self._watchdog.stop()
        self.house.services = None
        if started is None:
            return
        if started.loop is not asyncio.get_running_loop():
            self._abandon()
            return
        await started.runs.close(self.settings.drain_seconds)
        await self.house.finished(FINALIZE_SECONDS)
        self._abandon.detach()
        await started.store.close()
        await asyncio.to_thread(runtimes.shutdown)

    def status(self) -> dict[str, Any]:
        """What the health routes tell."""
        names = [agent.name for agent in self.agents]
        default = next((agent.name for agent in self.agents if agent.is_default), None)
        started = self._started
        return {
            "is_draining": self._is_leaving or (started is not None and started.runs.is_draining),
            "version": __version__,
            "uptime": round(time.monotonic() - self._began, 3),
            "agents": names,
            "agent": default,
            "active_requests": 0 if started is None else started.runs.active,
            "store": store_label(self.settings).partition(",")[0],
        }


async def _open_services(settings: Settings, agents: AgentRegistry, store: Store) -> Started:
    """The services over an open store, with what others had left in it taken over."""
    worker = new_id()
    settlements = Settlements(store.journal, now, new_id, shows_errors=settings.debug)
    wakes = Wakes(open_bus(settings) if store.is_shared else MemoryBus(), worker)
    limits = RunLimits(
        run_seconds=settings.run_seconds,
        in_background=settings.background_runs,
        max_attempts=settings.max_attempts,
    )
    membership = Membership(
        journal=store.journal,
        runs=store.runs,
        workers=store.workers,
        settlements=settlements,
        wakes=wakes,
        worker=worker,
        process=processes.own_name(),
        now=now,
        is_shared=store.is_shared,
        max_attempts=settings.max_attempts,
        is_gone=processes.is_gone,
    )
    runs = Runs(
        journal=store.journal,
        sessions=store.sessions,
        runs=store.runs,
        injections=store.injections,
        agents=agents,
        settlements=settlements,
        membership=membership,
        wakes=wakes,
        now=now,
        new_id=new_id,
        new_context=RequestState,
        worker=worker,
        limits=limits,
        webhooks=_webhooks(settings, store, worker),
    )
    injections = Injections(
        journal=store.journal,
        injections=store.injections,
        sessions=store.sessions,
        agents=agents,
        now=now,
        new_id=new_id,
    )
    try:
        await runs.open()
    except BaseException:
        await wakes.close()
        raise
    sessions = Sessions(journal=store.journal, sessions=store.sessions, now=now, new_id=new_id)
    return Started(store, runs, sessions, injections, asyncio.get_running_loop())


def _webhooks(settings: Settings, store: Store, worker: str) -> Webhooks:
    """Raises: SetupError for hosts that cannot be allowed, and where webhooks are on and nothing signs them."""
    sender = HttpSender(settings.webhook_allowed_hosts)
    if not settings.webhook_allowed_hosts:
        return Webhooks(sender)
    secret = None if settings.webhook_secret is None else settings.webhook_secret.get_secret_value()
    return Webhooks(sender, Deliveries(journal=store.journal, sender=sender, now=now, worker=worker, secret=secret))


def _prepare_process() -> None:
    """Make this process a good server.

    The garbage collector is spared what lives as long as the process. Threads change places quickly, because
    the one that commits would otherwise wait for up to 5 ms before it may begin.
    """
    if gc.get_freeze_count() == 0:
        gc.freeze()
        gc.set_threshold(max(gc.get_threshold()[0], 10_000), 20, 50)
    sys.setswitchinterval(min(sys.getswitchinterval(), 0.0001))


def _gate_settings(settings: Settings) -> GateSettings:
    return GateSettings(
        is_auth_enabled=settings.auth_enabled,
        is_auth_forced=settings.force_auth,
        allowed_hosts=frozenset(name.lower() for name in settings.allowed_hosts),
        allowed_origins=frozenset(settings.cors_origins),
    )


def runtime_settings(settings: Settings) -> RuntimeSettings:
    """What runtimes are told of the settings."""
    return RuntimeSettings(
        environment=settings.environment(),
        temperature=settings.temperature,
        max_tokens=settings.max_tokens,
        cache_dir=settings.cache_dir,
    )


def open_store(settings: Settings) -> Store:
    """The store that the settings name, not yet opened.

    Raises: SetupError for a URL that names no store that we know.
    """
    url = _database_url(settings)
    scheme = url.partition(":")[0].partition("+")[0]
    if scheme == "sqlite":
        from innkeeper.storage.sqlite.stores import SqliteStore

        return SqliteStore(_sqlite_path(url))
    if scheme in ("postgresql", "postgres"):
        try:
            from innkeeper.storage.postgres.stores import PostgresStore
        except ModuleNotFoundError as error:
            raise MissingDependency(
                f"PostgreSQL needs the package {error.name}: pip install 'innkeeper[postgres]'."
            ) from error
        return PostgresStore(url)
    raise SetupError(
        f"DATABASE_URL begins with {scheme!r}; use sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME."
    )


def open_bus(settings: Settings) -> Bus:
    """What wakes the processes that share the store of the settings, not yet opened.

    Raises: MissingDependency.
    """
    redis, database = _redis_url(settings), _database_url(settings)
    if redis is not None:
        try:
            from innkeeper.buses.redis import RedisBus
        except ModuleNotFoundError as error:
            raise MissingDependency(f"Redis needs the package {error.name}: pip install 'innkeeper[redis]'.") from error
        return RedisBus(redis)
    if database.startswith("postgres"):
        try:
            from innkeeper.buses.postgres import PostgresBus
        except ModuleNotFoundError as error:
            raise MissingDependency(
                f"PostgreSQL needs the package {error.name}: pip install 'innkeeper[postgres]'."
            ) from error
        return PostgresBus(database)
    return MemoryBus()


def store_label(settings: Settings) -> str:
    """How the store is called in what people read, without credentials."""
    url = _database_url(settings)
    if url.startswith("sqlite"):
        return f"SQLite, {_sqlite_path(url)}"
    return f"PostgreSQL, {url.rpartition('@')[2].partition('?')[0]}"


def _database_url(settings: Settings) -> str:
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    return f"sqlite:///{settings.data_dir.expanduser().absolute() / 'innkeeper.db'}"


def _redis_url(settings: Settings) -> str | None:
    if settings.redis_url is not None:
        return settings.redis_url.get_secret_value()
    if settings.redis_host:
        host = f"[{settings.redis_host}]" if ":" in settings.redis_host else settings.redis_host
        return f"redis://{host}:{settings.redis_port}"
    return None


def _sqlite_path(url: str) -> Path:
    """`sqlite:///relative.db` and `sqlite:////absolute.db`, as SQLAlchemy reads them."""
    path = url.partition("://")[2].removeprefix("/").partition("?")[0]
    if not path or path == ":memory:":
        raise SetupError("DATABASE_URL names an in-memory database, which would forget everything; use sqlite:///PATH.")
    return Path(path).expanduser().absolute()
